"""A flow in a container: as in a process, with what the run needs, and nothing of it left."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import boto3
import pytest
from sales_pipelines.runtime import (
    FlowFailedError,
    MetaflowTask,
    ParameterError,
    PipelineError,
    paths,
    process,
    temporary_root,
)
from sales_pipelines.runtime.container import image, remove_container
from sales_pipelines.runtime.container import runner as container
from sales_pipelines.runtime.container.engine import CHECKOUT, checkout
from sales_pipelines.runtime.container.kwargs import ContainerKwargs
from sales_pipelines.runtime.container.runner import ContainerRunner
from sales_pipelines.runtime.errors import ImageError
from sales_pipelines.runtime.flow import flow_run
from sales_pipelines.runtime.metaflow_config import (
    datastore_root,
    local_root,
    metaflow_environment,
)
from sales_pipelines.runtime.settings import PREFIX, settings
from sales_pipelines.runtime.task.run_arguments import run_arguments

from .conftest import below, is_there, s3_address, wait_until

pytestmark = pytest.mark.docker

WITHIN = 10  # seconds
PATH = "contained/small.py"

# It says what it sees, notes that a step ran, and waits or fails where a file says so.
FLOW = """
import hashlib, os, subprocess, time
from pathlib import Path

from metaflow import FlowSpec, JSONType, Parameter, current, metaflow_config, step

from sales_pipelines.runtime import talk_to_luigi

ORDERS = Path(os.environ["METAFLOW_DATASTORE_SYSROOT_LOCAL"], ".metaflow", "orders")


def note(what):
    with (ORDERS / "ran").open("a") as file:
        file.write(what + "\\n")
    if (ORDERS / f"fail-{what}").exists():
        raise ValueError(f"fail-{what} is there")
    if (ORDERS / f"grow-{what}").exists():
        print(len(os.urandom(1024) * 1024 * 1024))
    if (ORDERS / f"leave-{what}").exists():
        nobodys = "setsid sleep 0.1 & setsid sh -c 'trap : TERM; while :; do sleep 1; done' &"
        subprocess.run(["sh", "-c", nobodys], stdout=-3, stderr=-3)
        time.sleep(0.5)
    while (ORDERS / f"wait-{what}").exists():
        time.sleep(0.02)


def writable(folder):
    try:
        Path(folder).mkdir(parents=True, exist_ok=True)
        Path(folder, "x").write_text("")
    except OSError:
        return False
    return True


def limit(name):
    file = Path("/sys/fs/cgroup", name)
    return file.read_text().strip() if file.exists() else ""


def stat(process):
    try:
        return Path("/proc", process, "stat").read_text()
    except OSError:
        return ""


@talk_to_luigi
class ContainedFlow(FlowSpec):
    number = Parameter("number", default=1)
    share = Parameter("share", default=0.5)
    text = Parameter("text", default="")
    swift = Parameter("swift", default=False)
    rows = Parameter("rows", type=JSONType, default="[]")

    @step
    def start(self):
        note("start")
        print("it is running")
        self.given = [self.number, self.share, self.text, self.swift, self.rows, self.production]
        self.next(self.end)

    @step
    def end(self):
        note("end")
        folders = ["/", "/repo", "/repo/sales_pipelines", "/tmp", os.environ["HOME"]]
        self.luigi_result = {
            "given": self.given,
            "writable": {folder: writable(folder) for folder in folders},
            "metaflow": {
                name: writable(getattr(metaflow_config, name))
                for name in ("ARTIFACT_LOCALROOT", "CLIENT_CACHE_PATH", "DATATOOLS_LOCALROOT")
            },
            "tempdir": writable(current.tempdir),
            "user": [os.getuid(), os.getgid()],
            "memory": limit("memory.max"),
            "cpus": limit("cpu.max"),
            "network": sorted(os.listdir("/sys/class/net")),
            "hosts": Path("/etc/hosts").read_text(),
            "volume": Path("/more").is_dir() and sorted(os.listdir("/more")),
            "zombies": sum(") Z " in stat(pid) for pid in filter(str.isdigit, os.listdir("/proc"))),
            "env": {
                name: hashlib.sha256(value.encode()).hexdigest()
                for name, value in os.environ.items()
            },
            "gains": "NoNewPrivs:\\t1" not in Path("/proc/self/status").read_text(),
            "aws": [
                Path("~/.aws/credentials").expanduser().is_file(),
                Path(os.environ.get("AWS_WEB_IDENTITY_TOKEN_FILE", "/none")).is_file(),
            ],
        }


if __name__ == "__main__":
    ContainedFlow()
"""


class Contained:
    """The flow in the repo, with a datastore of its own."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.orders = root / ".metaflow" / "orders"
        self.orders.mkdir(parents=True)

    @staticmethod
    def task(**more: Any) -> MetaflowTask:
        """The task that runs it in a container, anew: Luigi keeps one for the same parameters."""
        MetaflowTask.clear_instance_cache()
        return MetaflowTask(PATH, **{"runner": "container", **more})

    def order(self, *whats: str) -> None:
        """Let steps do so, e.g. fail-end or wait-start, until told otherwise."""
        for file in self.orders.glob("*-*"):
            file.unlink()
        for what in whats:
            (self.orders / what).touch()

    def ran(self) -> list[str]:
        """What has run since this was last asked."""
        file = self.orders / "ran"
        lines = file.read_text().splitlines() if file.exists() else []
        file.unlink(missing_ok=True)
        return lines

    def wait_for(self, what: str) -> None:
        """Wait until the step runs."""
        file = self.orders / "ran"
        wait_until(lambda: file.exists() and what in file.read_text().splitlines())

    def start(self, *arguments: str, **variables: str) -> subprocess.Popen[str]:
        """Start `nox -s run -- …`, as that does."""
        return subprocess.Popen(
            [sys.executable, "-m", "sales_pipelines.runtime", "run", *arguments],
            cwd=paths.ROOT,
            env={**os.environ, f"{PREFIX}RUNNER": "container", **variables},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )

    def has_no_marker(self) -> bool:
        return not [*(self.root / ".metaflow" / "luigi").rglob("*.json")]


def containers() -> list[str]:
    """The containers of this repo, running or not."""
    command = ["docker", "ps", "--all", "--quiet", f"--filter=label={CHECKOUT}={checkout()}"]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()


@pytest.fixture(scope="module")
def _flow() -> Iterator[None]:
    file = paths.FLOWS / PATH
    file.parent.mkdir(exist_ok=True)
    file.write_text(FLOW)
    yield
    shutil.rmtree(file.parent)


@pytest.fixture
def contained(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, _flow: None) -> Iterator[Contained]:
    monkeypatch.setenv("METAFLOW_DATASTORE_SYSROOT_LOCAL", str(tmp_path))
    forget()
    yield Contained(tmp_path)
    forget()
    wait_until(lambda: not containers())


def forget() -> None:
    """Let settings and places be looked up anew."""
    for cached in (settings, datastore_root, local_root):
        cached.cache_clear()


GIVEN = {"number": 3, "share": 0.25, "text": "ä b", "swift": True, "rows": [{"a": None}]}


def test_a_flow_gives_what_it_gives_in_a_process(
    contained: Contained, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(flow_run, "REPORT", 0.05)  # its steps take less than a second
    task = contained.task(flow_kwargs=GIVEN, flow_tag="production")
    statuses: list[str] = []
    task.set_status_message, task.set_progress_percentage = statuses.append, lambda _: None
    task.run()
    marker, run = task.output().marker, task.output().run
    assert marker.result["given"] == [3, 0.25, "ä b", True, [{"a": None}], True]
    assert marker.image
    assert marker.image.startswith("sales-pipelines/contained-small:")
    assert {"production", f"version:{marker.version}"} <= set(run.user_tags)
    assert run.data.given == marker.result["given"]
    assert any("step " in line for line in statuses)
    assert any(line.endswith("] it is running") for line in capfd.readouterr().out.splitlines())
    assert not containers()
    # Root and code are as they were built; what is written below /tmp goes with the container.
    assert marker.result["writable"] == {
        **{"/": False, "/repo": False, "/repo/sales_pipelines": False, "/tmp": True}
    }
    assert marker.result["tempdir"]
    assert {*marker.result["metaflow"].values()} == {True}, marker.result["metaflow"]
    assert marker.result["user"] == [os.geteuid(), os.getegid()]
    assert not marker.result["gains"]
    assert "host.docker.internal" in marker.result["hosts"]
    written = [file.stat() for file in (contained.root / ".metaflow").rglob("*")]
    assert {(file.st_uid, file.st_gid) for file in written} == {(os.geteuid(), os.getegid())}
    in_process = contained.task(
        flow_kwargs=GIVEN, flow_tag="production", runner="process", force=True
    )
    in_process.run()
    again = in_process.output().marker
    assert again.image is None
    assert again.result["given"] == marker.result["given"]


@pytest.mark.skipif(os.geteuid() != 0, reason="root alone can run as somebody else")
def test_files_belong_to_whoever_runs_the_task(
    contained: Contained, monkeypatch: pytest.MonkeyPatch
) -> None:
    somebody = 4321

    def given_away(*arguments: Any, **more: Any) -> str:
        folder: str = make(*arguments, **more)
        os.chown(folder, somebody, somebody)
        return folder

    make = tempfile.mkdtemp
    before = [contained.root / ".metaflow", *(contained.root / ".metaflow").rglob("*")]
    for each in before:
        os.chown(each, somebody, somebody)
    monkeypatch.setattr(tempfile, "mkdtemp", given_away)
    monkeypatch.setattr(os, "geteuid", lambda: somebody)
    monkeypatch.setattr(os, "getegid", lambda: somebody)
    before_that = os.umask(0o026)
    try:
        contained.task().run()
    finally:
        os.umask(before_that)
    result = contained.task().output().result
    assert result["user"] == [somebody, somebody]
    assert result["writable"]["/tmp"]
    written = [*(contained.root / ".metaflow" / "ContainedFlow").rglob("*")]
    assert written
    assert {(file.stat().st_uid, file.stat().st_gid) for file in written} == {(somebody, somebody)}
    assert {file.stat().st_mode & 0o777 for file in written if file.is_dir()} == {0o751}


def test_a_failed_run_is_resumed_in_a_new_container(contained: Contained) -> None:
    contained.order("fail-end")
    with pytest.raises(PipelineError, match=r"failed in step `end`.*\n(.*\n)*.*fail-end is there"):
        contained.task().run()
    assert contained.ran() == ["start", "end"]
    assert contained.has_no_marker()
    contained.order()
    contained.task().run()
    assert contained.ran() == ["end"]
    assert len(contained.task().output().marker.resumed) == 1


def test_a_time_limit_ends_the_container(contained: Contained) -> None:
    contained.order("wait-start")
    with pytest.raises(PipelineError, match="stopped after 3 seconds"):
        contained.task(timeout=3).run()
    assert not containers()
    assert contained.has_no_marker()


# Who is killed, from the command downwards.
COMMAND, WORKER, SUPERVISOR, DOCKER = range(4)


def killed(running: subprocess.Popen[str], who: int) -> int:
    """The process of the running command that this is."""
    commands = below(running.pid)
    docker = next(pid for pid, words in commands.items() if words[:2] == ["docker", "run"])
    supervisor = next(
        pid for pid, words in commands.items() if words[3:4] == [process.supervisor.__file__]
    )
    if who == WORKER:
        return int(Path(f"/proc/{supervisor}/stat").read_text().rpartition(")")[2].split()[1])
    return {COMMAND: running.pid, SUPERVISOR: supervisor, DOCKER: docker}[who]


@pytest.mark.nightly
@pytest.mark.parametrize(
    ("who", "number"),
    [
        (COMMAND, signal.SIGKILL),
        (COMMAND, signal.SIGTERM),
        (COMMAND, signal.SIGINT),
        (COMMAND, signal.SIGHUP),
        (WORKER, signal.SIGKILL),
        (SUPERVISOR, signal.SIGKILL),
        (DOCKER, signal.SIGKILL),
    ],
)
def test_whoever_is_killed_leaves_nothing(
    contained: Contained, who: int, number: signal.Signals
) -> None:
    contained.order("wait-end")
    running = contained.start(PATH, "--workers", "2")
    contained.wait_for("end")
    everything = [*below(running.pid)]
    os.kill(killed(running, who), number)
    wait_until(lambda: not containers() and not any(map(is_there, everything)), within=WITHIN)
    assert running.wait(WITHIN) != 0
    assert contained.has_no_marker()
    contained.order()
    contained.ran()
    contained.task().run()
    assert contained.ran() == ["end"]


DOCKERFILE = (paths.CONFIG / "metaflowtask" / "Dockerfile").read_text()


@pytest.fixture
def own(contained: Contained, tmp_path: Path) -> Iterator[Path]:
    """The same flow in a folder that only this test's has, and that may have layers of its own."""
    folder = paths.FLOWS / "contained" / tmp_path.name
    folder.mkdir()
    (folder / "small.py").write_text(FLOW)
    yield folder
    shutil.rmtree(folder)


def path_of(own: Path) -> str:
    """The path of the flow in the folder, as a task takes it."""
    return f"contained/{own.name}/small.py"


@pytest.mark.nightly
@pytest.mark.parametrize("init", [True, False])
def test_processes_that_a_flow_leaves_behind_are_ended(
    contained: Contained, own: Path, init: bool
) -> None:
    # As a flow's own Dockerfile may have it.
    text = DOCKERFILE if init else DOCKERFILE.replace('"dumb-init", "--", ', "")
    (own / "Dockerfile").write_text(text)
    contained.order("leave-start")
    MetaflowTask(path_of(own), runner="container").run()
    assert MetaflowTask(path_of(own)).output().result["zombies"] == 0
    contained.order("leave-start", "wait-end")
    contained.ran()
    running = contained.start(path_of(own), "--force")
    contained.wait_for("end")
    running.kill()
    wait_until(lambda: not containers(), within=WITHIN)


@pytest.mark.nightly
def test_a_container_that_ignores_signals_is_removed(own: Path) -> None:
    (own / "Dockerfile").write_text(DOCKERFILE.replace('"dumb-init", "--", ', ""))
    launch = own / "launch.sh"
    launch.write_text('#!/bin/sh\nsleep 120\nexec "$@"\n')  # without a handler, as process 1
    launch.chmod(0o755)
    with pytest.raises(PipelineError, match="stopped after 2 seconds"):
        MetaflowTask(path_of(own), runner="container", timeout=2.0).run()
    assert not containers()


@pytest.mark.thorough
def test_all_of_them_killed_at_once_leave_nothing(contained: Contained) -> None:
    contained.order("wait-end")
    running = contained.start(PATH)
    contained.wait_for("end")
    for each in [running.pid, *below(running.pid)]:
        with contextlib.suppress(ProcessLookupError):
            os.kill(each, signal.SIGKILL)
    wait_until(lambda: not containers(), within=WITHIN)
    assert contained.has_no_marker()


@pytest.mark.nightly
def test_the_next_task_waits_until_the_container_of_a_killed_one_is_gone(
    contained: Contained, caplog: pytest.LogCaptureFixture
) -> None:
    contained.order("leave-end", "wait-end")  # what it leaves ends seconds later
    running = contained.start(PATH)
    contained.wait_for("end")
    time.sleep(1)
    running.kill()
    running.wait()
    contained.order()
    contained.task().run()
    assert f"waits for process {running.pid}" in caplog.text
    assert not containers()


@pytest.mark.parametrize(
    "after",
    [0.0, *(pytest.param(each / 50, marks=pytest.mark.nightly) for each in range(1, 40, 2))],
)
def test_a_command_that_is_killed_at_the_start_leaves_nothing(
    contained: Contained, after: float
) -> None:
    running = contained.start(PATH)
    docker: list[int] = []

    def is_started() -> bool:
        docker[:] = [
            pid for pid, words in below(running.pid).items() if words[:2] == ["docker", "run"]
        ]
        return bool(docker)

    wait_until(is_started)
    time.sleep(after)
    running.kill()
    wait_until(lambda: not any(map(is_there, docker)), within=WITHIN)
    time.sleep(1)
    wait_until(lambda: not containers(), within=WITHIN)
    assert contained.has_no_marker()


@pytest.mark.parametrize(
    ("exit_code", "made", "asked"), [("-15", False, 3), ("-15", True, 1), ("125", False, 1)]
)
def test_a_container_that_the_engine_may_be_creating_is_waited_for(
    tmp_path: Path, exit_code: str, made: bool, asked: int
) -> None:
    engine = tmp_path / "docker"  # which has it, and removes it, when asked for the third time
    engine.write_text(
        f'#!/bin/sh\ncd {tmp_path} && echo "$@" >>asked\n'
        '[ "$(grep -c "rm --force --volumes name" asked)" -lt 3 ] || echo name\n'
    )
    engine.chmod(0o755)
    (tmp_path / "id").write_text("0123" if made else "")
    subprocess.run(
        [sys.executable, remove_container.__file__, "name", str(tmp_path / "id"), exit_code],
        env={**os.environ, "PATH": f"{tmp_path}:{os.environ['PATH']}"},
        check=True,
    )
    assert len((tmp_path / "asked").read_text().splitlines()) == asked


def test_an_engine_that_does_not_answer_is_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(process.supervisor, "REMOVING", 0.1)
    began = time.monotonic()
    process.supervisor.run_briefly(["sleep", "20"])
    assert time.monotonic() - began < WITHIN


@pytest.mark.nightly
def test_a_command_that_is_killed_while_it_builds_leaves_nothing(
    contained: Contained, own: Path
) -> None:
    asleep = f"sleep {60 + time.time() % 60:.6f}"  # as nobody else on the machine sleeps
    slow = DOCKERFILE.replace("ARG PACKAGE\n", f"RUN {asleep}\nARG PACKAGE\n")
    (own / "Dockerfile").write_text(slow)
    running = contained.start(path_of(own))
    assert running.stdout
    assert any(asleep in line for line in running.stdout)
    everything = [*below(running.pid)]
    assert any("build" in words for words in below(running.pid).values())

    def sleeps() -> bool:
        find = ["pgrep", "--full", "--exact", asleep]
        return not subprocess.run(find, stdout=subprocess.DEVNULL, check=False).returncode

    wait_until(sleeps)  # the engine passes over an end that comes before it
    running.kill()
    wait_until(lambda: not any(map(is_there, everything)), within=WITHIN)
    # That is the engine's own process, which takes longer while other builds run.
    wait_until(lambda: not sleeps(), within=6 * WITHIN)
    assert contained.has_no_marker()


@pytest.mark.thorough
def test_two_at_once_do_not_disturb_each_other(contained: Contained) -> None:
    tasks = [contained.task(flow_kwargs={"number": number}) for number in (1, 2)]
    threads = [threading.Thread(target=task.run) for task in tasks]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    markers = [task.output().marker for task in tasks]
    assert [marker.result["given"][0] for marker in markers] == [1, 2]
    assert markers[0].image == markers[1].image


def test_a_container_gets_what_container_kwargs_name(
    contained: Contained, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # A folder may begin in the repo's root, which is another place in the container.
    monkeypatch.setenv(
        "METAFLOW_DATASTORE_SYSROOT_LOCAL", os.path.relpath(contained.root, paths.ROOT)
    )
    forget()
    more = tmp_path / "more"
    more.mkdir()
    (more / "file").touch()
    relative = os.path.relpath(more, paths.ROOT)
    large = tmp_path / "large"
    large.mkdir()
    task = contained.task(
        container_kwargs={
            **{"memory": "700m", "cpus": 0.5, "network": "none"},
            **{
                "volumes": [f"{relative}:/more:ro", f"{large}:/tmp/"],
                "env": {"HUE": "green", "DEPTH": 3},
            },
        }
    )
    task.run()
    seen = task.output().result
    assert seen["memory"] in (str(700 * 2**20), "")  # cgroups may be of the first version
    assert seen["cpus"] in ("50000 100000", "")
    assert seen["network"] == ["lo"]
    assert seen["volume"] == ["file"]
    assert (large / "x").is_file()  # the flow has tried to write it
    assert (seen["env"]["HUE"], seen["env"]["DEPTH"]) == (digest("green"), digest("3"))


REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "unknown": (
        {"ram": 1},
        r"unknown field `ram`.*\nhint: .*memory, cpus, gpus, network, volumes, env",
    ),
    "wrong type": ({"cpus": "many"}, "cpus"),
}


@pytest.mark.parametrize(("kwargs", "message"), REFUSED.values(), ids=REFUSED)
def test_wrong_container_kwargs_are_refused_before_anything_runs(
    contained: Contained, kwargs: dict[str, Any], message: str
) -> None:
    with pytest.raises(ParameterError, match=f"container_kwargs: .*{message}"):
        contained.task(container_kwargs=kwargs)
    with pytest.raises(ParameterError, match="runner 'rocket' must be one of: process, container"):
        contained.task(runner="rocket")


NOT_BUILT: dict[str, tuple[dict[str, Any], str]] = {
    "no such volume": (
        {"volumes": ["/no/such:/more"]},
        r"there is no /no/such\nhint: mkdir -p /no/such",
    ),
    "no volume": ({"volumes": ["/tmp"]}, "must be FOLDER:FOLDER_IN_CONTAINER"),
    "a folder": ({"volumes": ["tests:/more"]}, r"Docker's own.*\nhint: write \./tests:/more"),
    "one target": (
        {"volumes": ["/tmp:/more", "/var:/tmp", "/usr:/more//:ro"]},
        r"'/tmp:/more' and '/usr:/more//:ro' are both to be /more in .*\nhint: ",
    ),
    "the same twice": ({"volumes": ["a:/more/../x", "a:/x"]}, "are both to be /x"),
    "no such variable": (
        {"env": {"NO_SUCH": None}},
        "NO_SUCH is to keep the value it has outside.*, and has none",
    ),
    "no variable": ({"env": {"A=B": "x"}}, "env: 'A=B' is no name of a variable"),
    "no text": ({"env": {"A": "x\0y"}}, "env: A has a NUL"),
    "too long": ({"env": {"A": "x" * 200_000}}, "env: A is longer than the 131,072 bytes"),
    "out of reach": (
        {"env": {"METAFLOW_S3_ENDPOINT_URL": "http://localhost:9000"}},
        r"METAFLOW_S3_ENDPOINT_URL is on .* loopback, localhost, .*\n"
        r"hint: .*\{\"network\": \"host\"\}",
    ),
}


@pytest.mark.parametrize(("kwargs", "message"), NOT_BUILT.values(), ids=NOT_BUILT)
def test_wrong_values_are_refused_before_an_image_is_built(
    contained: Contained, monkeypatch: pytest.MonkeyPatch, kwargs: dict[str, Any], message: str
) -> None:
    monkeypatch.setattr(image, "image_for", lambda *_, **__: pytest.fail("it is built"))
    with pytest.raises(ParameterError, match=message):
        contained.task(container_kwargs=kwargs).run()


NOT_STARTED: dict[str, tuple[dict[str, Any], str]] = {
    "no such network": ({"network": "no-such"}, "network no-such not found"),
    "no such container": ({"network": "container:no-such"}, "No such container: no-such"),
    "no such memory": ({"memory": "much"}, "no container of .*invalid size: 'much'"),
    "no GPU": (
        {"gpus": "all"},
        r"hint: leave gpus out of container_kwargs, or .*: docker has no GPU",
    ),
}


@pytest.mark.parametrize(("kwargs", "message"), NOT_STARTED.values(), ids=NOT_STARTED)
def test_a_container_that_cannot_be_started_says_why(
    contained: Contained, kwargs: dict[str, Any], message: str
) -> None:
    with pytest.raises(PipelineError, match=message):
        contained.task(container_kwargs=kwargs).run()
    assert contained.has_no_marker()


def test_the_message_for_an_image_without_the_package_has_a_hint(own: Path) -> None:
    (own / "Dockerfile").write_text("ARG BASE\nFROM ${BASE}\n")
    with pytest.raises(
        ImageError, match=r"has no package in /repo, .*\nhint: .*metaflowtask/Dockerfile"
    ):
        MetaflowTask(path_of(own), runner="container").run()


def test_an_image_is_built_anew_where_the_task_says_so(
    contained: Contained, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[Any] = []

    def image_for(*flow: str, show: Callable[[str], None], **anew: bool) -> str:
        asked.append((*flow, anew))
        raise ImageError("no image")

    monkeypatch.setattr(image, "image_for", image_for)
    for anew in ({"rebuild_flow": True}, {"rebuild_base": True}):
        with pytest.raises(ImageError):
            contained.task(**anew).run()
    neither = {"rebuild_flow": False, "rebuild_base": False}
    assert asked == [
        (PATH, neither | {"rebuild_flow": True}),
        (PATH, neither | {"rebuild_base": True}),
    ]


def test_the_message_for_an_image_that_is_gone_has_a_hint(
    contained: Contained, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(image, "image_for", lambda *_, **__: "sales-pipelines/gone:1")
    with pytest.raises(
        ImageError, match=r"No such image.*\nhint: run the same command again, which builds"
    ):
        contained.task().run()


@pytest.mark.nightly
def test_an_engine_that_goes_away_ends_the_flow_and_is_named(
    contained: Contained, tmp_path: Path
) -> None:
    address = tmp_path / "engine"
    host = os.environ.get("DOCKER_HOST", "unix:///var/run/docker.sock").removeprefix("unix://")
    forwarder = subprocess.Popen([sys.executable, "-c", FORWARDER, str(address), host])
    try:
        wait_until(address.exists)
        contained.order("wait-start")
        running = contained.start(PATH, DOCKER_HOST=f"unix://{address}")
        contained.wait_for("start")
    finally:
        forwarder.kill()
        forwarder.wait()
    output, _ = running.communicate(timeout=60)
    assert "the Docker engine lost the container; `docker info` shows its state" in output
    wait_until(lambda: not containers(), within=WITHIN)
    assert contained.has_no_marker()


FORWARDER = """
import socket, sys, threading


def pass_on(source, target):
    while data := source.recv(65536):
        target.sendall(data)
    target.shutdown(socket.SHUT_WR)


listening = socket.socket(socket.AF_UNIX)
listening.bind(sys.argv[1])
listening.listen()
while True:
    client, engine = listening.accept()[0], socket.socket(socket.AF_UNIX)
    engine.connect(sys.argv[2])
    for ends in ((client, engine), (engine, client)):
        threading.Thread(target=pass_on, args=ends, daemon=True).start()
"""


# In the first the flow itself has too little, and in the second one of its steps.
@pytest.mark.parametrize("memory", ["12m", pytest.param("200m", marks=pytest.mark.nightly)])
def test_a_flow_that_runs_out_of_memory_says_so(contained: Contained, memory: str) -> None:
    contained.order("grow-start")
    message = f"ran out of memory.*container_kwargs memory is {memory}, set it higher"
    with pytest.raises(PipelineError, match=message):
        contained.task(container_kwargs={"memory": memory}).run()


@pytest.mark.nightly
def test_an_engine_that_stops_answering_does_not_hide_why_a_flow_failed(
    contained: Contained, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_answer(*_: str) -> Any:
        raise ImageError("no answer")

    monkeypatch.setattr(container, "docker", no_answer)
    contained.order("fail-end")
    with pytest.raises(FlowFailedError, match="fail-end is there"):
        contained.task().run()


def digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


SECRETS = {
    "AWS_SECRET_ACCESS_KEY": "planted-in-the-environment",
    "SHOP_PASSWORD": "planted-in-dotenv",
    "SHOP_TOKEN": "planted-and-named",
    "DOCKER_PASSWORD": "planted-in-dotenv-too",
}

FOR_BUILDS = ("PIP_EXTRA_INDEX_URL", "UV_INDEX_TEAM_PASSWORD", "uv_http_proxy")


def test_secrets_reach_the_run_and_nothing_else(
    contained: Contained, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", SECRETS["AWS_SECRET_ACCESS_KEY"])
    monkeypatch.setenv("SHOP_TOKEN", SECRETS["SHOP_TOKEN"])
    monkeypatch.setenv("SHOP_OTHER", "of no concern to the flow")
    monkeypatch.setenv("no_proxy", "here.example.org")
    home = tmp_path / 'a "home", say'
    (home / ".aws").mkdir(parents=True)
    (home / ".aws" / "credentials").write_text(
        "[default]\naws_secret_access_key = planted-in-home\n"
    )
    (tmp_path / "token").write_text("planted-in-a-file")
    monkeypatch.setenv("AWS_WEB_IDENTITY_TOKEN_FILE", str(tmp_path / "token"))
    (home / ".metaflowconfig").mkdir()
    configuration = {"METAFLOW_SERVICE_AUTH_KEY": "planted-in-a-profile"}
    (home / ".metaflowconfig" / "config_team.json").write_text(json.dumps(configuration))
    dotenv = paths.ROOT / ".env"
    planted = [f"{name}={SECRETS[name]}\n" for name in ("SHOP_PASSWORD", "DOCKER_PASSWORD")]
    planted += [f"{name}=planted-for-the-build\n" for name in FOR_BUILDS]
    dotenv.write_text("".join([*planted, "METAFLOW_PROFILE=team\nPATH=/usr/bin:/bin\n"]))
    contained.order("wait-end")
    try:
        kwargs = json.dumps({"env": {"SHOP_TOKEN": None}})
        running = contained.start(
            *(PATH, "--container-kwargs", kwargs), HOME=str(home), DOCKER_CONFIG=docker_config()
        )
        contained.wait_for("end")
        words = str(below(running.pid))
        contained.order()
        output, _ = running.communicate(timeout=60)
    finally:
        dotenv.unlink()
    assert running.returncode == 0, output
    marker = contained.task().output().marker
    seen = marker.result["env"]
    assert {name: digest(value) for name, value in SECRETS.items()} == {
        name: seen[name] for name in SECRETS
    }
    assert marker.result["aws"] == [True, True]
    assert seen["METAFLOW_PROFILE"] == digest("team")
    assert {f"{PREFIX}RUNNER", "no_proxy"} <= {*seen}
    assert not {"SHOP_OTHER", *FOR_BUILDS} & {*seen}
    assert marker.image
    history = ["docker", "history", "--no-trunc", "--format={{json .}}", marker.image]
    visible = {
        "log": output.encode(),
        "command lines": words.encode(),
        "history": printed(history),
        "labels and all": printed(["docker", "image", "inspect", marker.image]),
        "layers": printed(["docker", "save", marker.image]),
        "marker": (contained.root / contained.task().output().path).read_bytes(),
    }
    # The test itself looks where a secret would be, and it would find one.
    assert b"ContainedFlow" in visible["layers"]
    assert [where for where, text in visible.items() if b"planted-" in text] == []


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("CONTAINER__INDEX_URL", "https://me:planted@index.example.org"),
        ("container__index_url", "https://me:planted@index.example.org"),
        ("CONTAINER", "{proxy: 'http://me:planted@proxy.example.org'}"),
        ("CONTAINER_KWARGS", "{env: {TOKEN: planted}}"),
        ("DATABASE__PASSWORD", "planted"),
        ("DATABASE", "{url: 'postgresql://etl:planted@db.example.org/sales'}"),
    ],
)
@pytest.mark.parametrize("is_in_dotenv", [True, False])
def test_a_container_has_no_password_that_no_flow_needs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, value: str, is_in_dotenv: bool
) -> None:
    with temporary_root(tmp_path):
        if is_in_dotenv:
            (tmp_path / ".env").write_text(f'{PREFIX}{name}="{value}"\nSHOP_TOKEN=s3cret\n')
        else:
            monkeypatch.setenv(PREFIX + name, value)
        monkeypatch.setenv(f"{PREFIX}ENV", "dev")
        runner = ContainerRunner(PATH, lambda: "image", ContainerKwargs(), tmp_path)
        variables = runner._variables({})
        assert variables[f"{PREFIX}ENV"] == "dev"
        assert ("SHOP_TOKEN" in variables) is is_in_dotenv
        assert "planted" not in str(variables)


@pytest.mark.parametrize(
    "path", ["/opt/oracle/bin:/usr/bin:/bin", pytest.param(None, marks=pytest.mark.thorough)]
)
def test_a_path_for_a_container_comes_after_the_environments_programs(
    contained: Contained, path: str | None
) -> None:
    task = contained.task(container_kwargs={"env": {"PATH": path}})
    task.run()
    after = path if path else metaflow_environment()["PATH"]
    assert task.output().result["env"]["PATH"] == digest(f"/opt/venv/bin:{after}")


def test_the_command_of_a_retry_has_no_values_of_variables(contained: Contained) -> None:
    named = contained.task(container_kwargs={"env": {"SHOP_TOKEN": None}})
    assert '"SHOP_TOKEN": null' in " ".join(run_arguments(named))
    with_value = contained.task(container_kwargs={"env": {"SHOP_TOKEN": "planted"}})
    assert not run_arguments(with_value)


def docker_config() -> str:
    return os.environ.get("DOCKER_CONFIG") or str(Path("~/.docker").expanduser())


def printed(command: list[str]) -> bytes:
    return subprocess.run(command, capture_output=True, check=True).stdout


@pytest.mark.nightly
def test_a_datastore_on_s3_is_reached(
    contained: Contained, monkeypatch: pytest.MonkeyPatch
) -> None:
    variables = {
        **{"METAFLOW_DEFAULT_DATASTORE": "s3", "METAFLOW_DATASTORE_SYSROOT_S3": "s3://flows/runs"},
        **{"METAFLOW_S3_ENDPOINT_URL": s3_address(), "AWS_DEFAULT_REGION": "us-east-1"},
        **{"AWS_ACCESS_KEY_ID": "planted", "AWS_SECRET_ACCESS_KEY": "planted"},
    }
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    forget()
    boto3.client("s3", endpoint_url=s3_address()).create_bucket(Bucket="flows")
    task = contained.task(flow_kwargs={"number": 5}, container_kwargs={"network": "host"})
    task.run()
    assert task.output().path.startswith("s3://flows/runs/luigi/")
    marker = task.output().marker
    assert marker.result["given"][0] == 5
    # Metaflow reads its configuration once, and may have done so in an earlier test.
    code = f"import metaflow; print(metaflow.Run({marker.pathspec!r}).data.given[0])"
    command = [sys.executable, "-c", code]
    assert subprocess.check_output(command, env=metaflow_environment(), text=True) == "5\n"
