"""With Metaflow's datastore on S3 a task does what it does with a local one.

S3 is moto's server.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any
from urllib.request import urlopen

import boto3
import pytest
from botocore.client import BaseClient
from sales_pipelines.runtime import FlowFailedError, MetaflowTask, PipelineError
from sales_pipelines.runtime.__main__ import main
from sales_pipelines.runtime.commands import status
from sales_pipelines.runtime.flow import flow_run
from sales_pipelines.runtime.metaflow_config import metaflow_environment
from sales_pipelines.runtime.settings import settings
from sales_pipelines.runtime.store import s3
from sales_pipelines.runtime.task.target import FlowTarget, Marker

from ..conftest import s3_server
from .conftest import Pipeline, Splitting, s3_address, start, wait_until

BUCKET, PREFIX = "pipelines", "team/metaflow"
SECRET = "not-to-be-printed"


class Store:
    """The bucket, seen without the runtime."""

    def __init__(self) -> None:
        session = boto3.session.Session("testing", SECRET, region_name="us-east-1")
        self.client = session.client("s3", endpoint_url=s3_address())

    def names(self) -> list[str]:
        """The keys in the bucket."""
        pages = self.client.get_paginator("list_objects_v2").paginate(Bucket=BUCKET)
        return [each["Key"] for page in pages for each in page.get("Contents", ())]

    def ending(self, suffix: str) -> list[str]:
        return [key for key in self.names() if key.endswith(suffix)]

    def read(self, key: str) -> Any:
        return json.loads(self.client.get_object(Bucket=BUCKET, Key=key)["Body"].read())

    def put(self, key: str, value: Any) -> None:
        self.client.put_object(Bucket=BUCKET, Key=key, Body=json.dumps(value).encode())


@pytest.fixture
def store(pipeline: Pipeline, monkeypatch: pytest.MonkeyPatch) -> Store:
    """An empty bucket, set up as Metaflow's datastore."""
    for name in [name for name in os.environ if name.startswith("AWS_")]:
        monkeypatch.delenv(name)
    urlopen(f"{s3_address()}/moto-api/reset", data=b"").close()
    for name, value in {
        "AWS_ACCESS_KEY_ID": "testing",
        "AWS_SECRET_ACCESS_KEY": SECRET,
        "AWS_EC2_METADATA_DISABLED": "true",
        "AWS_SHARED_CREDENTIALS_FILE": str(pipeline.root / "none"),
        "AWS_CONFIG_FILE": str(pipeline.root / "none"),
        "AWS_MAX_ATTEMPTS": "1",
        "METAFLOW_DEFAULT_DATASTORE": "s3",
        "METAFLOW_DATASTORE_SYSROOT_S3": f"s3://{BUCKET}/{PREFIX}",
        "METAFLOW_S3_ENDPOINT_URL": s3_address(),
        "METAFLOW_S3_WORKER_COUNT": "4",  # a process each
    }.items():
        monkeypatch.setenv(name, value)
    store = Store()
    store.client.create_bucket(Bucket=BUCKET)
    return store


@pytest.fixture
def splitting(pipeline: Pipeline, store: Store, monkeypatch: pytest.MonkeyPatch) -> Splitting:
    monkeypatch.chdir(pipeline.root)
    return Splitting(pipeline)


@pytest.fixture
def requests(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names of the requests that this process makes from now on."""
    operations: list[str] = []
    call = BaseClient._make_api_call

    def noted(self: Any, operation: str, options: Any) -> Any:
        operations.append(operation)
        return call(self, operation, options)

    monkeypatch.setattr(BaseClient, "_make_api_call", noted)
    return operations


def marker(run_id: str = "1") -> Marker:
    return Marker(flow="SmallFlow", path="small.py", run_id=run_id)


def the_task(splitting: Splitting, **more: object) -> MetaflowTask:
    """The task with one split only, because a step on S3 takes some seconds."""
    return splitting.task(flow_kwargs={"n": 1}, **more)


def fails(splitting: Splitting) -> None:
    with pytest.raises(FlowFailedError):
        the_task(splitting).run()


def test_a_run_writes_its_results_to_the_bucket_and_its_marker_last(
    pipeline: Pipeline, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(pipeline.root)
    flow = pipeline.add_flow(
        start="self.rows = [1, 2]", end="self.luigi_result = {'rows': 2}", talks=True
    )
    task = MetaflowTask(flow)
    assert not task.complete()
    before: list[str] = []
    call = BaseClient._make_api_call

    def watched(self: Any, operation: str, options: Any) -> Any:
        if operation == "PutObject" and options["Key"].endswith(f"{task.task_id}.json"):
            before.extend(store.names())
        return call(self, operation, options)

    monkeypatch.setattr(BaseClient, "_make_api_call", watched)
    task.run()
    (written,) = store.ending(f"{task.task_id}.json")
    assert written == f"{PREFIX}/luigi/dev/small.py/{task.task_id}.json"
    assert task.output().path == f"s3://{BUCKET}/{written}"
    assert store.read(written)["result"] == task.output().result == {"rows": 2}
    # It was written last: everything else existed already, and what a retry would resume.
    (attempts,) = [name for name in before if name.endswith(".attempts")]
    assert {*before} - {attempts} == {*store.names()} - {written}
    assert not store.ending(".attempts")
    assert task.complete()
    assert task.output().run.data.rows == [1, 2]
    assert any(key.startswith(f"{PREFIX}/SmallFlow/data/") for key in store.names())
    # The local folder has Metaflow's metadata and its cache, no marker, and no lock any more.
    local = pipeline.root / ".metaflow"
    assert {path.name for path in local.iterdir()} <= {"SmallFlow", "client-cache", "luigi-locks"}
    files = [path for path in (local / "SmallFlow").rglob("*") if path.is_file()]
    assert {path.suffix for path in files if path.name != "latest_run"} == {".json"}
    assert not (local / "SmallFlow" / "data").exists()
    assert not list(local.rglob("*.lock"))


@pytest.mark.nightly
def test_over_a_chain_of_failures_no_finished_step_runs_again(
    splitting: Splitting, store: Store, capfd: pytest.CaptureFixture[str]
) -> None:
    splitting.tell("fail-join")
    fails(splitting)
    assert splitting.ran() == ["join", "start", "work0"]
    splitting.tell("fail-end")
    retry = """run it alone: nox -s run -- split.py --flow-kwargs '{"n": 1}'"""
    failed = rf"failed at join .* split.py n=1  dev .*\n.* fail-join is there\n.* {retry}"
    assert re.search(failed, status_report(capfd))
    # Another machine has the bucket and nothing of the local folder.
    (splitting.root / ".metaflow").rename(splitting.root / "elsewhere")
    unfinished = rf"unfinished .* split.py .*\n.* unless another machine is running it, {retry}"
    assert re.search(unfinished, status_report(capfd))
    fails(splitting)
    assert splitting.ran() == ["end", "join"]
    (attempts,) = store.ending(".attempts")
    first, second = store.read(attempts)["runs"]
    # A third run was stopped right after Metaflow had made it.
    store.put(f"{PREFIX}/SplitFlow/1/_parameters/1/0.DONE.lock", {})
    store.put(attempts, {**store.read(attempts), "runs": [first, second, {**first, "run_id": "1"}]})
    splitting.tell()
    task = the_task(splitting)
    task.run()
    assert splitting.ran() == ["end"]
    assert task.output().result == {"total": 0}
    resumed = [attempt.run_id for attempt in task.output().marker.resumed]
    assert resumed == [first["run_id"], second["run_id"], "1"]
    assert task.complete()
    assert not store.ending(".attempts")


@pytest.mark.nightly
def test_after_a_kill_of_everything_the_finished_steps_are_still_done(
    splitting: Splitting, store: Store
) -> None:
    splitting.tell("wait-join")
    running = start(splitting.root, "run", "split.py", '--flow-kwargs={"n": 1}')
    step = splitting.process_of("join")
    os.killpg(os.getpgid(step), signal.SIGKILL)
    os.killpg(running.pid, signal.SIGKILL)
    running.communicate()
    splitting.ran()
    splitting.tell()
    task = the_task(splitting)
    assert not task.complete()
    task.run()
    assert splitting.ran() == ["end", "join"]
    assert task.output().result == {"total": 0}


@pytest.mark.nightly
def test_force_runs_again_and_its_failure_leaves_no_marker(
    splitting: Splitting, store: Store
) -> None:
    the_task(splitting).run()
    first = the_task(splitting).output().marker
    assert the_task(splitting).complete()
    splitting.tell("fail-end")
    forced = the_task(splitting, force=True)
    assert not forced.complete()
    splitting.ran()
    with pytest.raises(FlowFailedError):
        forced.run()
    assert "start" in splitting.ran()
    assert not the_task(splitting).complete()
    splitting.tell()
    forced.run()
    assert splitting.ran() == ["end"]
    assert forced.complete()
    assert the_task(splitting).output().marker.run_id != first.run_id


@pytest.mark.nightly
def test_a_finished_run_is_taken_instead_of_running(splitting: Splitting) -> None:
    the_task(splitting).run()
    first = the_task(splitting).output().marker
    splitting.ran()
    task = splitting.task(from_run=first.pathspec, flow_tag="production")
    assert not task.complete()
    task.run()
    assert splitting.ran() == []
    marker = splitting.task(flow_tag="production").output().marker
    assert (marker.pathspec, marker.result) == (first.pathspec, {"total": 0})
    assert task.complete()
    assert not splitting.task(from_run="SplitFlow/1", flow_tag="production").complete()


@pytest.mark.thorough
def test_a_result_without_a_local_file_is_read_from_the_artifacts(
    pipeline: Pipeline, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As when the last step ran on another machine, which cannot write that file."""
    monkeypatch.chdir(pipeline.root)
    end = "import os; del os.environ['LUIGI_RESULT_FILE']; self.luigi_result = {'rows': 3}"
    task = MetaflowTask(pipeline.add_flow(end=end, talks=True))
    task.run()
    assert task.output().result == {"rows": 3}


def closed_port() -> int:
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        return int(bound.getsockname()[1])


# The variables that are wrong, the cause that is printed, and the hint.
WRONG: dict[str, tuple[dict[str, str | None], str, str]] = {
    "no bucket": (
        {"METAFLOW_DATASTORE_SYSROOT_S3": "s3://elsewhere/x"},
        r"there is no bucket 'elsewhere'$",
        r"create it, or name another in METAFLOW_DATASTORE_SYSROOT_S3",
    ),
    "no credentials": (
        {"AWS_ACCESS_KEY_ID": None, "AWS_SECRET_ACCESS_KEY": None},
        r"Unable to locate credentials$",
        r"set AWS_PROFILE, or AWS_ACCESS_KEY_ID and",
    ),
    "half the credentials": (
        {"AWS_SECRET_ACCESS_KEY": None},
        r"Partial credentials",
        r"set AWS_PROFILE, or .*in \.env",
    ),
    "no such profile": (
        {"AWS_PROFILE": "team"},
        r"profile \(team\) could not be found",
        r"set AWS_PROFILE, or .*in \.env",
    ),
    "no connection": (
        {"METAFLOW_S3_ENDPOINT_URL": f"http://127.0.0.1:{closed_port()}"},
        r"S3 cannot be reached: .*127\.0\.0\.1",
        r"check the network, and METAFLOW_S3_ENDPOINT_URL",
    ),
    "no address": (
        {"METAFLOW_S3_ENDPOINT_URL": "here"},
        r"here$",
        r"correct METAFLOW_S3_ENDPOINT_URL",
    ),
    "no name of a bucket": (
        {"METAFLOW_DATASTORE_SYSROOT_S3": "s3://a b/x"},
        r"METAFLOW_DATASTORE_SYSROOT_S3 is 's3://a b/x'",
        r"set it to a bucket",
    ),
    "no URL of a bucket": (
        {"METAFLOW_DATASTORE_SYSROOT_S3": "pipelines/x"},
        r"METAFLOW_DATASTORE_SYSROOT_S3 is 'pipelines/x'",
        r"set it to .* s3://my-bucket/metaflow",
    ),
    "no bucket named": (
        {"METAFLOW_DATASTORE_SYSROOT_S3": None},
        r"METAFLOW_DATASTORE_SYSROOT_S3 is not set$",
        r"set it to a bucket",
    ),
    "neither local nor s3": (
        {"METAFLOW_DEFAULT_DATASTORE": "gs"},
        r"METAFLOW_DEFAULT_DATASTORE is 'gs'",
        r"set METAFLOW_DEFAULT_DATASTORE to local or s3",
    ),
}


@pytest.mark.parametrize(("variables", "cause", "hint"), WRONG.values(), ids=WRONG)
def test_a_marker_that_cannot_be_looked_up_is_an_error_and_not_an_unfinished_task(
    pipeline: Pipeline,
    store: Store,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
    variables: dict[str, str | None],
    cause: str,
    hint: str,
) -> None:
    for name, value in variables.items():
        monkeypatch.delenv(name) if value is None else monkeypatch.setenv(name, value)
    message = rf"(?m){cause}.*\nhint: {hint}"
    flow = pipeline.add_flow()
    for task in (MetaflowTask(flow), MetaflowTask(flow, force=True)):
        with pytest.raises(PipelineError, match=message):
            task.complete()
        with pytest.raises(PipelineError, match=message):
            task.run()
    assert main(["run", flow]) == 2
    out, err = capfd.readouterr()
    assert re.search(message, err)
    assert len(err.splitlines()) == 2
    assert SECRET not in err + out
    assert "small.py |" not in out


@pytest.mark.parametrize("attempts", ["1", "3"])
def test_an_s3_that_never_answers_is_waited_for_as_long_as_the_setting_says_and_not_in_silence(
    pipeline: Pipeline,
    store: Store,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    attempts: str,
) -> None:
    (pipeline.config / "base.yaml").write_text("s3_timeout: 0.6\n")
    settings.cache_clear()
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", attempts)
    monkeypatch.setattr(s3, "SILENT", 0.01)
    task = MetaflowTask(pipeline.add_flow())
    with socket.create_server(("127.0.0.1", 0)) as silent:
        address = f"http://127.0.0.1:{silent.getsockname()[1]}"
        monkeypatch.setenv("METAFLOW_S3_ENDPOINT_URL", address)
        s3._client_of.cache_clear()
        for look in (task.complete, lambda: s3.write(task.output().path, b"{}")):
            caplog.clear()
            with pytest.raises(PipelineError, match=r"S3 cannot be reached: Read timeout"):
                look()
            assert f"{task.output().path}: waiting for S3, up to 0.6 s" in caplog.text
        with pytest.raises(PipelineError, match="cannot be reached"):
            s3.check(f"s3://{BUCKET}/{PREFIX}")
        client = s3._client()
        each = client.meta.config.read_timeout
        assert each * int(attempts) < 0.6
        assert client.meta.config.connect_timeout == each
    s3._client_of.cache_clear()


@pytest.mark.parametrize("limit", [1, 7, 60, 600, 3600])
def test_metaflow_waits_for_s3_no_longer_than_the_setting_says(
    pipeline: Pipeline, store: Store, monkeypatch: pytest.MonkeyPatch, limit: int
) -> None:
    (pipeline.config / "base.yaml").write_text(f"s3_timeout: {limit}\n")
    settings.cache_clear()
    code = "from metaflow.metaflow_config import *; import json; print(json.dumps([S3_RETRY_COUNT,"
    code += " S3_TRANSIENT_RETRY_COUNT, S3_CLIENT_RETRY_CONFIG]))"
    command = [sys.executable, "-c", code]
    seen = json.loads(subprocess.check_output(command, env=metaflow_environment()))
    retries, transient, client = seen
    assert retries == transient
    assert client == {"max_attempts": 0}
    pauses = sum(2**attempt for attempt in range(retries + 1))
    assert limit / 4 <= pauses <= max(limit / 2, 1)
    monkeypatch.setenv("METAFLOW_S3_RETRY_COUNT", "9")
    assert metaflow_environment()["METAFLOW_S3_RETRY_COUNT"] == "9"
    monkeypatch.setenv("METAFLOW_DEFAULT_DATASTORE", "local")
    assert "METAFLOW_S3_TRANSIENT_RETRY_COUNT" not in metaflow_environment()


@pytest.mark.thorough
def test_an_s3_that_goes_away_during_a_run_is_named_and_ends_it(
    splitting: Splitting, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (splitting.root / "config" / "base.yaml").write_text("s3_timeout: 6\n")
    settings.cache_clear()
    monkeypatch.setattr(flow_run, "ASK_S3", 0.2)
    lines: list[str] = []
    monkeypatch.setattr(flow_run, "show_line", lambda _, line: lines.append(line))
    splitting.tell("wait-join")
    serving = ExitStack()
    address = serving.enter_context(s3_server(tmp_path / "moto.log"))
    monkeypatch.setenv("METAFLOW_S3_ENDPOINT_URL", address)
    s3._client_of.cache_clear()
    s3._client().create_bucket(Bucket=BUCKET)

    def go_away() -> None:
        splitting.process_of("join")
        serving.close()
        wait_until(lambda: any("S3 cannot be reached" in line for line in lines))
        splitting.tell()  # the step goes on, and has artifacts to write

    thread = Thread(target=go_away)
    thread.start()
    with pytest.raises(FlowFailedError, match=r"failed in step .?join") as error:
        the_task(splitting).run()
    thread.join()
    assert "S3 operation failed" in str(error.value)
    s3._client_of.cache_clear()


class Refusing(BaseHTTPRequestHandler):
    """An S3 that refuses every request."""

    code = "AccessDenied"

    def do_GET(self) -> None:
        body = f"<Error><Code>{self.code}</Code><Message>No</Message></Error>".encode()
        self.send_response(403)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    do_PUT = do_DELETE = do_GET  # noqa: N815

    def log_message(self, *_: Any) -> None:
        pass


@contextmanager
def serving(handler: type[BaseHTTPRequestHandler]) -> Iterator[str]:
    """The address of a server on loopback."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


@pytest.mark.parametrize(
    ("code", "hint"),
    [
        ("AccessDenied", "give these credentials s3:ListBucket on 'pipelines'"),
        ("ExpiredToken", "renew the credentials that boto3 finds"),
    ],
)
def test_a_refusal_names_the_rights_or_the_credentials(
    pipeline: Pipeline, store: Store, monkeypatch: pytest.MonkeyPatch, code: str, hint: str
) -> None:
    monkeypatch.setattr(Refusing, "code", code)
    task = MetaflowTask(pipeline.add_flow())
    with serving(Refusing) as address:
        monkeypatch.setenv("METAFLOW_S3_ENDPOINT_URL", address)
        with pytest.raises(PipelineError, match=f"S3 says {code}: No\nhint: {hint}"):
            task.complete()
        unwritten = f"(?s)1 has succeeded, but its marker .*{code}.*{hint}.* as it is"
        with pytest.raises(PipelineError, match=unwritten):
            task.output().write(marker())


@pytest.mark.thorough
def test_thousands_of_finished_tasks_take_few_requests(store: Store, requests: list[str]) -> None:
    names = [f"s3://{BUCKET}/{PREFIX}/luigi/dev/small.py/T_{n:04}.json" for n in range(1050)]
    for name in names:
        store.put(name.removeprefix(f"s3://{BUCKET}/"), {})
    del requests[:]
    assert all(FlowTarget(name).exists() for name in reversed(names))
    assert len(requests) <= 8
    del requests[:]
    for _ in range(2):  # a missing object is asked for each time
        assert not FlowTarget(names[0].replace("0000", "none")).exists()
    assert requests.count("GetObject") == 2


def test_one_task_takes_one_request_and_each_of_a_few_at_most_two(
    pipeline: Pipeline, store: Store, requests: list[str]
) -> None:
    flow = pipeline.add_flow()
    assert not MetaflowTask(flow).complete()
    assert requests == ["GetObject"]
    for number in range(4):
        assert not MetaflowTask(flow, flow_kwargs={"n": number}).complete()
    assert len(requests) <= 10


def status_report(capfd: pytest.CaptureFixture[str]) -> str:
    """The output of `nox -s status`."""
    capfd.readouterr()
    assert status.main([]) == 0
    return capfd.readouterr().out


def test_status_takes_one_listing_and_one_request_for_each_run_that_it_shows(
    store: Store, requests: list[str], capfd: pytest.CaptureFixture[str]
) -> None:
    folder = f"{PREFIX}/luigi/dev/small.py"
    for number in range(20):
        store.put(f"{folder}/T_{number}.json", {"flow": "SmallFlow", "run_id": str(number)})
    time.sleep(1.1)  # S3 has whole seconds
    tried = {"flow": "SmallFlow", "runs": [{"run_id": "7"}], "retry": ["small.py"]}
    store.put(f"{folder}/Last.attempts", tried)
    del requests[:]
    report = status_report(capfd)
    first, retry, *_ = report.partition("last runs")[2].splitlines()
    assert re.search(r"unfinished +\d s ago  small.py  dev  SmallFlow/7$", first)
    assert retry.endswith(
        "unless another machine is running it, run it alone: nox -s run -- small.py"
    )
    assert report.count(" succeeded ") == 9
    assert "and 11 more: nox -s status -- --runs 21" in report
    assert requests == ["ListObjectsV2"] + ["GetObject"] * 10


def test_status_names_in_one_line_an_s3_that_does_not_answer(
    store: Store, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv("AWS_MAX_ATTEMPTS")
    monkeypatch.setenv("METAFLOW_S3_ENDPOINT_URL", f"http://127.0.0.1:{closed_port()}")
    last = status_report(capfd).splitlines()[-1]
    unreachable = (
        r"last runs +unknown: s3://pipelines/team/metaflow/luigi: S3 cannot be reached: .*"
    )
    assert re.fullmatch(unreachable, last)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        monkeypatch.setenv(
            "METAFLOW_S3_ENDPOINT_URL", f"http://127.0.0.1:{silent.getsockname()[1]}"
        )
        s3._client_of.cache_clear()
        monkeypatch.setattr(status, "S3_LIMIT", 0.5)
        last = status_report(capfd).splitlines()[-1]
    assert last.endswith("unknown: no answer within 0.5 s from s3://pipelines/team/metaflow")


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Callable[[float], None]:
    """A function that moves the clock forward by so many seconds."""
    offset = 0.0
    monotonic = time.monotonic

    def forward(seconds: float) -> None:
        nonlocal offset
        offset += seconds

    monkeypatch.setattr(time, "monotonic", lambda: monotonic() + offset)
    return forward


def test_a_marker_that_another_process_writes_is_seen_at_once(
    pipeline: Pipeline, store: Store
) -> None:
    task = MetaflowTask(pipeline.add_flow())
    for _ in range(3):  # by then its folder is listed
        assert not task.complete()
    store.put(task.output().path.removeprefix(f"s3://{BUCKET}/"), {})
    assert task.complete()


def test_deletions_are_seen_at_once_in_this_process_and_within_a_minute_from_others(
    pipeline: Pipeline, store: Store, clock: Callable[[float], None]
) -> None:
    task = MetaflowTask(pipeline.add_flow())

    def list_it() -> None:
        clock(61)
        task.output().write(marker())
        assert task.complete()
        assert task.complete()

    list_it()
    task.output().remove()
    assert not task.complete()
    list_it()
    store.client.delete_object(
        Bucket=BUCKET, Key=task.output().path.removeprefix(f"s3://{BUCKET}/")
    )
    assert task.complete()
    MetaflowTask.clear_instance_cache()  # these two do not use the listing
    assert not MetaflowTask("small.py", force=True).complete()
    assert not MetaflowTask("small.py", from_run="SmallFlow/1").complete()
    clock(61)
    assert not task.complete()


class Keeping(Refusing):
    """An S3 that keeps connections open, as Amazon's does, and records them."""

    protocol_version = "HTTP/1.1"
    connections: list[int] = []  # noqa: RUF012

    def do_GET(self) -> None:
        self.connections.append(self.client_address[1])
        super().do_GET()


def test_a_forked_process_has_a_connection_of_its_own(
    pipeline: Pipeline, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two processes on one connection would read each other's answers."""
    task = MetaflowTask(pipeline.add_flow())

    def ask() -> None:
        with pytest.raises(PipelineError):
            task.complete()

    with serving(Keeping) as address:
        monkeypatch.setenv("METAFLOW_S3_ENDPOINT_URL", address)
        for _ in range(2):
            ask()
        forked = multiprocessing.get_context("fork").Process(target=ask)
        forked.start()
        forked.join(60)
        ask()
    first, second, in_fork, third = Keeping.connections
    assert forked.exitcode == 0
    assert first == second == third != in_fork


@pytest.mark.thorough
def test_dotenv_alone_sets_up_datastore_and_credentials(pipeline: Pipeline, store: Store) -> None:
    """For the flow as well as for the commands and the workers that look up its marker."""
    prefixes = ("AWS_ACCESS", "AWS_SECRET", "METAFLOW_D", "METAFLOW_S3")
    variables = {name: os.environ[name] for name in os.environ if name.startswith(prefixes)}
    (pipeline.root / ".env").write_text("".join(f"{n}={v}\n" for n, v in variables.items()))
    flow = pipeline.add_flow(end="self.luigi_result = 1", talks=True)
    for name in variables:
        del os.environ[name]
    try:
        running = start(pipeline.root, "run", flow, "--workers=2")
        output, _ = running.communicate(timeout=120)
    finally:
        os.environ.update(variables)
    assert running.returncode == 0, output
    assert SECRET not in output
    (written,) = (key for key in store.names() if key.startswith(f"{PREFIX}/luigi/dev/small.py/"))
    assert store.read(written)["result"] == 1


def test_runs_are_looked_up_in_the_metadata_service_if_one_is_set(
    pipeline: Pipeline, monkeypatch: pytest.MonkeyPatch
) -> None:
    requested: list[str] = []

    class Service(Refusing):
        def do_GET(self) -> None:
            requested.append(self.path)
            self.send_response(200 if self.path.endswith("/ping") else 404)
            self.send_header("Content-Length", "2")
            self.end_headers()
            self.wfile.write(b"{}")

    monkeypatch.setenv("METAFLOW_DEFAULT_METADATA", "service")
    with serving(Service) as address:
        monkeypatch.setenv("METAFLOW_SERVICE_URL", address)
        with pytest.raises(PipelineError, match=rf"there is no run SmallFlow/7 in .*{address}"):
            MetaflowTask(pipeline.add_flow(), from_run="SmallFlow/7").run()
    assert any("/flows/SmallFlow/runs/7" in path for path in requested)
