"""A repo's pipelines as DAGs of a real Airflow, which `nox -s airflow` serves."""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.error import HTTPError
from urllib.request import Request, urlopen

import pytest

from ..conftest import HERE, Repo, SetUp, clean_environment, wait_until
from ..processes import below, is_there

pytestmark = pytest.mark.thorough

FLOW = '''
"""Notes what it does, and fails or waits where a file says so."""

import os
import time

from metaflow import FlowSpec, Parameter, step
from sales_pipelines.runtime import repo_root, talk_to_luigi


@talk_to_luigi
class NoteFlow(FlowSpec):
    """Two steps."""

    label = Parameter("label", default="")
    day = Parameter("day", default="")

    @step
    def start(self):
        """Note that."""
        self.note("start")
        self.next(self.end)

    @step
    def end(self):
        """Fail once, or wait, or end."""
        self.note("end")
        fail = repo_root() / f"fail-{self.label}"
        if fail.exists():
            fail.unlink()
            raise ValueError("the file says so")
        while (repo_root() / f"wait-{self.label}").exists():
            time.sleep(0.1)
        secrets = [name for name in os.environ if name.startswith("AIRFLOW__")]
        self.luigi_result = {"label": self.label, "day": self.day, "secrets": secrets}

    def note(self, step):
        with (repo_root() / f"notes-{self.label}").open("a") as file:
            file.write(f"{step} {os.getpid()}\\n")


if __name__ == "__main__":
    NoteFlow()
'''

TASKS = """
import luigi
from sales_pipelines.runtime import MetaflowTask


class First(MetaflowTask):
    flow_path = "notes/note.py"
    label = luigi.Parameter("first")


class Second(MetaflowTask):
    flow_path = "notes/note.py"
    label = luigi.Parameter("second")

    def requires(self):
        return First(flow_tag=self.flow_tag)


RootTask = Second
"""

DAILY = """
import datetime

import luigi
from sales_pipelines.runtime import MetaflowTask


class Extract(MetaflowTask):
    flow_path = "notes/note.py"
    label = luigi.Parameter()
    day = luigi.DateParameter()


class RootTask(luigi.WrapperTask):
    day = luigi.DateParameter()

    def requires(self):
        before = self.day - datetime.timedelta(days=1)
        return [Extract(label="north", day=before), Extract(label="south", day=before)]
"""

SLEEP = """
import time
from pathlib import Path

from metaflow import FlowSpec, Parameter, step
from sales_pipelines.runtime import talk_to_luigi


@talk_to_luigi
class SleepFlow(FlowSpec):
    seconds = Parameter("seconds", default=0)

    @step
    def start(self):
        self.luigi_result = {"is_contained": Path("/.dockerenv").exists()}
        print("sleeping")
        time.sleep(self.seconds)
        self.next(self.end)

    @step
    def end(self):
        pass


if __name__ == "__main__":
    SleepFlow()
"""

CONTAINED = """
import luigi
from sales_pipelines.runtime import MetaflowTask, paths


class Sleep(MetaflowTask):
    flow_path = "notes/sleep.py"
    seconds = luigi.IntParameter(0)


class RootTask(luigi.Task):
    seconds = luigi.IntParameter(0)

    def requires(self):
        return Sleep(seconds=self.seconds)

    def output(self):
        return luigi.LocalTarget(str(paths.ROOT / "plain"))

    def run(self):
        with self.output().open("w") as file:
            file.write("")
"""

DAGS = """
import datetime

import pendulum
from airflow.sdk import DAG, Asset, task
from sales_pipelines_airflow import asset, flow_tasks, params

start = {"start_date": datetime.datetime(2026, 11, 1, tzinfo=datetime.UTC), "catchup": False}
again = {"retries": 1, "retry_delay": datetime.timedelta(0)}

with DAG("notes", schedule=None, params=params("notes"), default_args=again, **start):
    flow_tasks("notes")

with DAG("once", schedule=None, **start):
    flow_tasks("notes")

with DAG("limited", schedule=None, **start):
    flow_tasks("notes", execution_timeout=datetime.timedelta(seconds=15))

with DAG("daily", schedule="@daily", params=params("daily"), **start):
    flow_tasks("daily")

tokyo = {"start_date": pendulum.datetime(2026, 11, 1, tz="Asia/Tokyo"), "catchup": False}
with DAG("tokyo", schedule=None, params=params("east"), **tokyo):
    flow_tasks("east")

with DAG("contained", schedule=None, params=params("contained"), **start):
    flow_tasks("contained", env={"SALES_PIPELINES__RUNNER": "container"})

with DAG("many", schedule=None, params=params("east"), **start):
    flow_tasks("east")

with DAG("theirs", schedule=None, **start):

    @task(outlets=[Asset("theirs")])
    def collect() -> None:
        pass

    collect()

with DAG("ours", schedule=[Asset("theirs")], **start):
    flow_tasks("notes")

with DAG("after_ours", schedule=[asset("notes", "Second")], **start):

    @task
    def look(triggering_asset_events=None):
        return [each.extra for events in triggering_asset_events.values() for each in events]

    look()
"""


class Airflow:
    """An Airflow that serves a repo."""

    def __init__(self, repo: Repo, address: str, user: str, password: str) -> None:
        self.repo = repo
        self.address = address
        login = {"username": user, "password": password}
        self.process = 0
        self.token = ""
        self.token = self.call("POST", "/auth/token", login)["access_token"]

    def call(self, method: str, path: str, body: object = None) -> Any:
        data = None if body is None else json.dumps(body).encode()
        headers = {"Content-Type": "application/json", "Authorization": f"Bearer {self.token}"}
        request = Request(self.address + path, method=method, data=data, headers=headers)
        for _ in range(30):
            try:
                with urlopen(request, timeout=60) as answer:
                    return json.loads(answer.read() or b"null")
            except HTTPError as error:
                reason = error.read().decode()
            if "Database" not in reason:  # with SQLite Airflow does not wait for long
                break
            time.sleep(1)
        raise AssertionError(f"{method} {path}: {reason}")

    def api(self, method: str, path: str, body: object = None) -> Any:
        return self.call(method, f"/api/v2{path}", body)

    def trigger(self, dag: str, **more: object) -> str:
        """Start a run, and return its id."""
        run: str = self.api("POST", f"/dags/{dag}/dagRuns", {"logical_date": None, **more})[
            "dag_run_id"
        ]
        return run

    def wait(self, dag: str, run: str, state: str = "success") -> None:
        """Wait until the run has ended, in this state."""
        path = f"/dags/{dag}/dagRuns/{run}"
        wait_until(lambda: self.api("GET", path)["state"] in ("success", "failed"), 180)
        assert self.api("GET", path)["state"] == state, self.log(dag, run)

    def task(self, dag: str, run: str, task: str) -> Any:
        return self.api("GET", f"/dags/{dag}/dagRuns/{run}/taskInstances/{task}")

    def result(self, dag: str, run: str, task: str) -> Any:
        """What the task has returned, its XCom."""
        path = f"/dags/{dag}/dagRuns/{run}/taskInstances/{task}/xcomEntries/return_value"
        return self.api("GET", path)["value"]

    def log(self, dag: str, run: str) -> str:
        """The log of the tasks that have run."""
        tasks = self.api("GET", f"/dags/{dag}/dagRuns/{run}/taskInstances")["task_instances"]
        path = f"/dags/{dag}/dagRuns/{run}/taskInstances"
        lines = []
        for each in tasks:
            if each["try_number"]:
                printed = self.api("GET", f"{path}/{each['task_id']}/logs/{each['try_number']}")
                for line in printed["content"]:
                    errors = line.get("error_detail") or []
                    lines.append(str(line.get("event")))
                    lines += [f"{each['exc_type']}: {each['exc_value']}" for each in errors]
        return "\n".join(lines)

    def clear(self, dag: str, run: str, *tasks: str) -> None:
        body = {"dry_run": False, "dag_run_id": run, "task_ids": [*tasks], "only_failed": False}
        self.api("POST", f"/dags/{dag}/clearTaskInstances", {**body, "reset_dag_runs": True})

    def notes(self, name: str) -> list[str]:
        """The steps that have run since the last call."""
        file = self.repo.folder / f"notes-{name}"
        lines = file.read_text().splitlines() if file.exists() else []
        file.unlink(missing_ok=True)
        return [line.split()[0] for line in lines]

    def process_of(self, name: str) -> int:
        """Wait until the last step runs, and return its process."""
        file = self.repo.folder / f"notes-{name}"
        wait_until(lambda: file.exists() and "end " in file.read_text(), 120)
        return int(file.read_text().split()[-1])

    def tell(self, *whats: str) -> None:
        """Make flows fail or wait, e.g. fail-first, until the next call."""
        for pattern in ("fail-*", "wait-*"):
            for file in self.repo.folder.glob(pattern):
                file.unlink()
        for what in whats:
            (self.repo.folder / what).touch()


@pytest.fixture(scope="module")
def repo(set_up: SetUp) -> Repo:
    made = set_up("sales-pipelines", python_version=HERE, with_airflow=True)
    package = made.folder / "sales_pipelines"
    for name, text in (
        ("flows/notes/note.py", FLOW),
        ("tasks/notes_tasks.py", TASKS),
        ("tasks/daily_tasks.py", DAILY),
        ("flows/notes/sleep.py", SLEEP),
        ("tasks/contained_tasks.py", CONTAINED),
        ("../dags/notes.py", DAGS),
    ):
        file = package / name
        file.parent.mkdir(exist_ok=True)
        file.write_text(text.lstrip())
    for words in (
        ["notes_tasks.py"],
        ["daily_tasks.py"],
        ["contained_tasks.py"],
        ["--name", "east", "daily_tasks.py", "Extract", "--label", "east"],
    ):
        assert ".json: " in made.nox("-s", "graph", "--", *words)
    return made


def free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port: int = free.getsockname()[1]
        return port


@contextlib.contextmanager
def serving(repo: Repo) -> Iterator[tuple[subprocess.Popen[bytes], re.Match[str]]]:
    """`nox -s airflow`, once it has said where Airflow is."""
    printed = repo.folder.parent / "airflow.txt"
    command = [repo.python, "noxfile.py", "-s", "airflow", "--", "--port", str(free_port())]
    with printed.open("wb") as file:
        process = subprocess.Popen(
            command,
            cwd=repo.folder,
            env=clean_environment(repo.home),
            stdout=file,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    where = re.compile(r"Airflow is at (\S+), user (\S+), password (\S+)")
    try:
        wait_until(lambda: process.poll() is not None or where.search(printed.read_text()), 300)
        address = where.search(printed.read_text())
        assert address, printed.read_text()
        yield process, address
    finally:
        with contextlib.suppress(ProcessLookupError):
            process.send_signal(signal.SIGTERM)
        process.wait()


@pytest.fixture(scope="module")
def airflow(repo: Repo) -> Iterator[Airflow]:
    with serving(repo) as (process, address):
        made = Airflow(repo, *address.groups())
        made.process = process.pid
        names = {"co2", "notes", "once", "limited", "daily", "contained"}
        names |= {"forecast", "many", "tokyo", "theirs", "ours", "after_ours"}
        wait_until(
            lambda: names <= {each["dag_id"] for each in made.api("GET", "/dags")["dags"]}, 120
        )
        assert made.api("GET", "/importErrors")["import_errors"] == []
        for name in names - {"co2", "daily", "forecast"}:
            made.api("PATCH", f"/dags/{name}", {"is_paused": False})
        yield made


@pytest.fixture(autouse=True)
def fresh(repo: Repo) -> None:
    for pattern in ("fail-*", "wait-*", "notes-*"):
        for file in repo.folder.glob(pattern):
            file.unlink()


def test_each_task_says_what_it_has_made_and_its_asset_starts_another_dag(airflow: Airflow) -> None:
    before = airflow.api("GET", "/dags/after_ours/dagRuns")["total_entries"]
    run = airflow.trigger("notes", conf={"label": "second"})
    airflow.wait("notes", run)
    made = airflow.result("notes", run, "Second")
    marker = json.loads(Path(made["marker"]).read_text())
    assert made["run"] == f"NoteFlow/{marker['run_id']}"
    assert made["result"] == {"label": "second", "day": "", "secrets": []}
    assert marker["caller"][:3] == [f"notes/{run}", "Second", 1]
    runs = "/dags/after_ours/dagRuns"
    wait_until(lambda: airflow.api("GET", runs)["total_entries"] > before, 60)
    after = airflow.api("GET", f"{runs}?order_by=-run_after&limit=1")["dag_runs"][0]["dag_run_id"]
    airflow.wait("after_ours", after)
    events = airflow.result("after_ours", after, "look")
    assert {"run": made["run"], "marker": made["marker"]} in events


def test_an_asset_of_another_team_starts_a_dag_of_the_repo(airflow: Airflow) -> None:
    before = airflow.api("GET", "/dags/ours/dagRuns")["total_entries"]
    airflow.wait("theirs", airflow.trigger("theirs"))
    wait_until(lambda: airflow.api("GET", "/dags/ours/dagRuns")["total_entries"] > before, 60)
    path = "/dags/ours/dagRuns?order_by=-run_after&limit=1"
    airflow.wait("ours", airflow.api("GET", path)["dag_runs"][0]["dag_run_id"])


def test_the_example_of_a_forecast_is_chained_by_assets(airflow: Airflow) -> None:
    for name in ("deliver_record", "forecast", "use_forecast"):
        airflow.api("PATCH", f"/dags/{name}", {"is_paused": False})
    airflow.wait("deliver_record", airflow.trigger("deliver_record"))
    used = "/dags/use_forecast/dagRuns"
    wait_until(lambda: airflow.api("GET", used)["total_entries"] > 0, 180)
    (run,) = [each["dag_run_id"] for each in airflow.api("GET", used)["dag_runs"]]
    airflow.wait("use_forecast", run)
    (event,) = airflow.result("use_forecast", run, "use")
    marker = json.loads(Path(event["marker"]).read_text())
    assert event["run"] == f"PredictFlow/{marker['run_id']}"
    assert marker["result"]["rms_ppm"] < marker["result"]["naive_rms_ppm"] / 2


def test_a_retry_resumes_the_run_that_has_failed(airflow: Airflow) -> None:
    airflow.tell("fail-first")
    run = airflow.trigger("notes")
    airflow.wait("notes", run)
    assert airflow.notes("first") == ["start", "end", "end"]
    assert len(airflow.result("notes", run, "First")["resumed"]) == 1
    assert airflow.task("notes", run, "First")["try_number"] == 2


def test_without_a_date_each_run_runs_anew(airflow: Airflow) -> None:
    for _ in range(2):
        airflow.wait("once", airflow.trigger("once"))
        assert airflow.notes("first") == ["start", "end"]


def test_what_is_cleared_resumes_after_a_failure_and_runs_anew_after_a_success(
    airflow: Airflow,
) -> None:
    airflow.tell("fail-first")
    run = airflow.trigger("once")
    airflow.wait("once", run, "failed")
    assert airflow.notes("first") == ["start", "end"]
    assert "ValueError: the file says so" in airflow.log("once", run)
    airflow.clear("once", run, "First", "Second")
    airflow.wait("once", run)
    assert airflow.notes("first") == ["end"]
    assert airflow.notes("second") == ["start", "end"]
    airflow.clear("once", run, "Second")
    wait_until(lambda: "end" in airflow.notes("second"))
    airflow.wait("once", run)
    assert airflow.notes("first") == []


def test_a_failure_of_another_run_is_not_resumed(airflow: Airflow) -> None:
    airflow.tell("fail-first")
    airflow.wait("once", airflow.trigger("once"), "failed")
    airflow.notes("first")
    airflow.wait("once", airflow.trigger("once"))
    assert airflow.notes("first") == ["start", "end"]


def test_a_task_that_is_marked_as_failed_leaves_no_process(airflow: Airflow) -> None:
    airflow.tell("wait-first")
    run = airflow.trigger("once")
    process = airflow.process_of("first")
    path = f"/dags/once/dagRuns/{run}/taskInstances/First"
    airflow.api("PATCH", path, {"new_state": "failed"})
    wait_until(lambda: not is_there(process), 30)


def test_after_the_time_limit_no_process_is_left(airflow: Airflow) -> None:
    airflow.tell("wait-first")
    run = airflow.trigger("limited")
    process = airflow.process_of("first")
    airflow.wait("limited", run, "failed")
    wait_until(lambda: not is_there(process), 30)


def test_a_kill_of_airflow_s_process_leaves_none_and_the_retry_resumes(airflow: Airflow) -> None:
    airflow.tell("wait-first")
    run = airflow.trigger("notes")
    process = airflow.process_of("first")
    os.kill(parent_of_supervisor(process), signal.SIGKILL)
    wait_until(lambda: not is_there(process), 30)
    airflow.tell()
    airflow.wait("notes", run)
    assert airflow.notes("first") == ["start", "end", "end"]


def parent_of_supervisor(process: int) -> int:
    """Airflow's process, above the outermost supervisor of a flow's process."""
    parent = 0
    while process > 1:
        command = Path(f"/proc/{process}/cmdline").read_bytes()
        status = Path(f"/proc/{process}/stat").read_text()
        process = int(status.rpartition(")")[2].split()[1])
        if b"process/supervisor.py" in command:
            parent = process
            if b"runtime\0node" in command:
                break
    return parent


def test_a_backfill_runs_each_day_once_with_its_date(airflow: Airflow) -> None:
    days = {"from_date": "2026-11-10T00:00:00Z", "to_date": "2026-11-12T00:00:00Z"}
    airflow.api("PATCH", "/dags/daily", {"is_paused": False})
    airflow.api("POST", "/backfills", {"dag_id": "daily", "run_backwards": False, **days})
    path = "/dags/daily/dagRuns?run_type=backfill"

    def runs() -> list[Any]:
        found: list[Any] = airflow.api("GET", path)["dag_runs"]
        return found

    wait_until(lambda: [each["state"] for each in runs()].count("success") == 3, 240)
    for each in runs():
        made = airflow.result("daily", each["dag_run_id"], "Extract.north")
        date = each["logical_date"][:10]
        assert made["result"]["day"] == f"2026-11-{int(date[-2:]) - 1:02}"
    airflow.api("PATCH", "/dags/daily", {"is_paused": True})


def test_many_runs_at_once_succeed_each_with_its_own_date(airflow: Airflow) -> None:
    days = [f"2026-10-{day:02}" for day in range(1, 21)]
    runs = [airflow.trigger("many", conf={"day": day}) for day in days]
    for day, run in zip(days, runs, strict=True):
        airflow.wait("many", run)
        assert airflow.result("many", run, "Extract")["result"]["day"] == day


def test_a_date_is_that_of_the_dag_s_time_zone(airflow: Airflow) -> None:
    run = airflow.trigger("tokyo", logical_date="2026-11-25T15:30:00Z")
    airflow.wait("tokyo", run)
    assert airflow.result("tokyo", run, "Extract")["result"]["day"] == "2026-11-26"


def test_runs_at_once_that_have_no_date_run_one_after_the_other(airflow: Airflow) -> None:
    runs = [airflow.trigger("once") for _ in range(3)]
    for run in runs:
        airflow.wait("once", run)
    assert airflow.notes("first") == ["start", "end"] * 3
    assert len({airflow.result("once", run, "First")["run"] for run in runs}) == 3


@pytest.mark.docker
def test_a_dag_can_run_its_flows_in_containers(airflow: Airflow) -> None:
    run = airflow.trigger("contained")
    airflow.wait("contained", run)
    assert airflow.result("contained", run, "Sleep")["result"] == {"is_contained": True}


@pytest.mark.docker
@pytest.mark.parametrize("way", ["kill", "mark as failed"])
def test_whatever_ends_the_task_ends_the_container(airflow: Airflow, way: str) -> None:
    run = airflow.trigger("contained", conf={"seconds": 600})
    wait_until(lambda: "sleeping" in airflow.log("contained", run), 180)
    assert containers_of_the_flow()
    if way == "kill":
        os.kill(process_of_task(run), signal.SIGKILL)
    else:
        path = f"/dags/contained/dagRuns/{run}/taskInstances/Sleep"
        airflow.api("PATCH", path, {"new_state": "failed"})
    wait_until(lambda: containers_of_the_flow() == [], 30)
    airflow.wait("contained", run, "failed")


def containers_of_the_flow() -> list[str]:
    """The image of each container of the flow that sleeps, running or not."""
    command = ["docker", "ps", "--all", "--format={{.Image}}"]
    listed = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    return [image for image in listed.split() if "notes-sleep" in image]


def process_of_task(run: str) -> int:
    """Airflow's process of a task of the run, above the supervisor."""
    for folder in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            command = (folder / "cmdline").read_bytes()
            if b"process/supervisor.py" in command and run.encode() in command:
                status = (folder / "stat").read_text()
                return int(status.rpartition(")")[2].split()[1])
    raise AssertionError(f"no process is of {run}")


def test_a_card_and_a_marker_open_from_the_task_s_page_for_who_is_logged_in(
    airflow: Airflow,
) -> None:
    airflow.api("PATCH", "/dags/co2", {"is_paused": False})
    run = airflow.trigger("co2")
    airflow.wait("co2", run)
    links = airflow.api("GET", f"/dags/co2/dagRuns/{run}/taskInstances/ReportCo2/links")
    card, marker = links["extra_links"]["Card"], links["extra_links"]["Marker"]
    assert airflow.call("GET", marker)["path"] == "examples/co2/report.py"
    bearer = {"Authorization": f"Bearer {airflow.token}"}
    with urlopen(Request(airflow.address + card, headers=bearer), timeout=60) as page:
        assert b"window.metaflow_card_update" in page.read()
        assert page.headers["Content-Security-Policy"].startswith("sandbox")
    for path, headers, code in (
        (card, {}, 401),
        (marker, {}, 401),
        ("/files/../README.md", bearer, 404),
        ("/files/%2e%2e/.env.json", bearer, 404),
        ("/files/%2Fetc/passwd", bearer, 404),
        (f"/files/{made_by('CleanFlow', airflow.repo)}", bearer, 404),
    ):
        with pytest.raises(HTTPError) as refused:
            urlopen(Request(airflow.address + path, headers=headers), timeout=60)
        assert refused.value.code == code, path
    log = airflow.log("co2", run)
    assert "Task finished successfully." in log
    assert "Luigi" not in log, "the order is Airflow's"


def made_by(flow: str, repo: Repo) -> str:
    """A file of the flow's artifacts, below .metaflow."""
    folder = repo.folder / ".metaflow"
    artifacts = (each for each in (folder / flow / "data").rglob("*") if not each.suffix)
    return next(each.relative_to(folder).as_posix() for each in artifacts if each.is_file())


def test_what_no_longer_is_in_the_tasks_is_named_in_the_log(airflow: Airflow) -> None:
    graph = airflow.repo.folder / "dags" / "graphs" / "notes.json"
    text = graph.read_text()
    graph.write_text(text.replace('"First"', '"Zeroth"'))
    try:
        run = airflow.trigger("once")
        airflow.wait("once", run, "failed")
        log = airflow.log("once", run)
        assert "notes_tasks.py has no task Zeroth any more; it has First, Second" in log
        assert "-s graph" in log
    finally:
        graph.write_text(text)


def test_a_parameter_that_the_dag_does_not_have_is_named(airflow: Airflow) -> None:
    run = airflow.trigger("many", conf={"dya": "2026-01-01"})
    airflow.wait("many", run, "failed")
    log = airflow.log("many", run)
    assert "the DAG has no parameter dya; it has day" in log
    run = airflow.trigger("once", conf={"label": "x"})
    airflow.wait("once", run)
    with pytest.raises(AssertionError, match="param day: 'tomorrow' is not a 'date'"):
        airflow.trigger("many", conf={"day": "tomorrow"})


def test_airflow_listens_on_this_machine_alone(airflow: Airflow) -> None:
    """All addresses on which a process of this Airflow listens are loopback's."""
    sockets = set()
    for process in below(airflow.process):
        with contextlib.suppress(OSError):
            sockets |= {str(each.readlink()) for each in Path(f"/proc/{process}/fd").iterdir()}
    listening = []
    for table in ("tcp", "tcp6"):
        for line in Path("/proc/net", table).read_text().splitlines()[1:]:
            fields = line.split()
            if fields[3] == "0A" and f"socket:[{fields[9]}]" in sockets:
                listening.append(fields[1].partition(":")[0])
    assert set(listening) == {"0100007F"}


def test_what_is_wrong_with_a_file_is_among_the_import_errors(airflow: Airflow) -> None:
    """Each file gets the words of its own mistake."""
    dags = airflow.repo.folder / "dags"
    head = "from airflow.sdk import DAG\nfrom sales_pipelines_airflow import flow_tasks\n"
    head += 'with DAG("{0}"):\n    flow_tasks("{0}")\n'
    (dags / "graphs" / "broken.json").write_text("<<<<<<< HEAD\n")
    (dags / "typo.py").write_text(
        "from sales_pipelines_airflow import asset\nasset('notes', 'Last')\n"
        "from airflow.sdk import DAG\n"
    )
    for name in ("broken", "absent"):
        (dags / f"{name}.py").write_text(head.format(name))
    try:
        errors = "/importErrors"
        wait_until(lambda: airflow.api("GET", errors)["total_entries"] == 3, 90)
        traces = {
            each["filename"]: each["stack_trace"]
            for each in airflow.api("GET", errors)["import_errors"]
        }
        hint = "nox -s graph -- {}_tasks.py writes it"
        assert (
            "ValueError: notes has no flow's task 'Last'; it has First, Second" in traces["typo.py"]
        )
        assert "broken.json: Expecting value: line 1" in traces["broken.py"]
        assert hint.format("broken") in traces["broken.py"]
        assert "absent.json: No such file or directory" in traces["absent.py"]
    finally:
        for name in ("broken.py", "absent.py", "typo.py", "graphs/broken.json"):
            (dags / name).unlink()


def test_one_dag_runs_in_the_terminal(repo: Repo) -> None:
    printed = repo.nox("-s", "airflow", "--", "test", "once")
    assert re.search(r"^First\n    .*^Second\n    .*^once: success$", printed, re.M | re.S)
    assert "[DAG TEST]" not in printed
    printed = repo.nox("-s", "airflow", "--", "test", "once", "2020-01-01", exit_code=1)
    assert "once: no task has run\nhint: the date is before its start_date" in printed
    printed = repo.nox("-s", "airflow", "--", "test", "none", exit_code=1)
    assert "Dag 'none' could not be found" in printed
    assert "Traceback" not in printed
    (repo.folder / "fail-first").touch()
    printed = repo.nox("-s", "airflow", "--", "test", "notes")
    assert "ValueError: the file says so" in printed, "and the retry succeeds"
    assert (repo.folder / "notes-second").exists()


def test_dags_that_lie_elsewhere_find_the_repo_by_a_variable(repo: Repo, tmp_path: Path) -> None:
    shutil.copytree(repo.folder / "dags", tmp_path / "dags")
    program = repo.folder / "airflow" / ".venv" / "bin" / "airflow"
    variables = {
        "AIRFLOW_HOME": str(tmp_path),
        "AIRFLOW__CORE__DAGS_FOLDER": str(tmp_path / "dags"),
        "AIRFLOW__CORE__LOAD_EXAMPLES": "False",
        "SALES_PIPELINES_ROOT": str(repo.folder),
    }
    for words in (["db", "migrate"], ["dags", "test", "once"]):
        command = [str(program), *words]
        environment = clean_environment(repo.home, **variables)
        subprocess.run(command, cwd=tmp_path, env=environment, check=True)
    assert (repo.folder / "notes-second").exists()


def test_a_repo_with_airflow_passes_its_own_lint_and_tests(set_up: SetUp) -> None:
    made = set_up("linted-pipelines", python_version=HERE, with_airflow=True)
    assert "Failed" not in made.nox("-s", "lint")
    tests = ("tests/test_graphs.py", "tests/examples/test_forecast.py")
    assert "5 passed" in made.nox("-s", "test", "--", *tests)


@pytest.fixture(scope="module")
def bare(set_up: SetUp) -> Repo:
    return set_up("bare-pipelines", python_version=HERE, with_airflow=True, with_examples=False)


def test_a_port_that_is_taken_is_named(bare: Repo) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        printed = bare.nox("-s", "airflow", "--", "--port", str(port), exit_code=1)
    assert f"airflow: port {port}: Address already in use\nhint: --port" in printed


def test_a_second_one_is_refused_and_says_where_the_first_is(airflow: Airflow) -> None:
    command = ("-s", "airflow", "--", "--port", str(free_port()))
    printed = airflow.repo.nox(*command, exit_code=1)
    assert f"airflow: it runs already: {airflow.address}" in printed


def test_its_end_leaves_no_process_of_airflow(bare: Repo) -> None:
    with serving(bare) as (process, _):
        children = [*below(process.pid)]
        assert len(children) > 5
        process.kill()
    wait_until(lambda: not any(map(is_there, children)), 30)
