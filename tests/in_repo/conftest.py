"""A generated repo to import from, and pipelines below a folder of each test's own.

Each test process has a repo of its own: `sales_pipelines` is what the working tree generates.
"""
# ruff: noqa: E402 - the repo is made before its package is imported

from __future__ import annotations

import atexit
import contextlib
import functools
import logging
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from textwrap import dedent
from typing import IO, TYPE_CHECKING, Any

import pytest

from ..conftest import HERE, TELLING, commit, copy, copy_working_tree, git, s3_server, uv_cache
from ..conftest import wait_until as wait_until
from ..databases import PASSWORD, Server, mariadb, postgresql
from ..processes import below as below
from ..processes import is_there as is_there


def make_repo() -> Path:
    """Generate a repo, with one commit, that goes when this process ends."""
    root = Path(tempfile.mkdtemp(prefix="in-repo-", dir=os.environ["PYTEST_DEBUG_TEMPROOT"]))
    atexit.register(shutil.rmtree, root, ignore_errors=True)
    answers = {"python_version": HERE, "with_airflow": True}
    repo = copy(copy_working_tree(root / "template"), root / "sales-pipelines", **answers)
    subprocess.run(["uv", "lock", "--quiet", "--python", sys.executable], cwd=repo, check=True)
    git(repo, "init", "--quiet", "--initial-branch=main")
    commit(repo, "The repo")
    return repo


@functools.cache
def s3_address() -> str:
    """The address of an S3 server, which is started once for this process."""
    server = contextlib.ExitStack()
    atexit.register(server.close)
    return server.enter_context(s3_server(REPO.parent / "moto.log"))


REPO = make_repo()
sys.path.insert(0, str(REPO))
os.environ["LUIGI_CONFIG_PATH"] = str(REPO / "luigi.cfg")  # read when luigi is imported
# Read when metaflow is imported, which is once for all tests of this process.
os.environ["METAFLOW_HOME"] = str(REPO.parent / "home")
os.environ["METAFLOW_S3_ENDPOINT_URL"] = s3_address()
# By default that is below /tmp, in a folder that belongs to the first user of the machine.
os.environ["METAFLOW_CLIENT_CACHE_PATH"] = str(REPO.parent / "client-cache")

import metaflow  # noqa: F401

del os.environ["METAFLOW_S3_ENDPOINT_URL"], os.environ["METAFLOW_CLIENT_CACHE_PATH"]

import luigi
from luigi.task_register import Register
from sales_pipelines.runtime import MetaflowTask, temporary_root
from sales_pipelines.runtime.settings import settings
from sales_pipelines.runtime.task.target import Marker

if TYPE_CHECKING:
    from .tables import Database

TWO_STEPS = """
from metaflow import Config, FlowSpec, IncludeFile, JSONType, Parameter, step

from sales_pipelines.runtime import talk_to_luigi


{decorator}
class SmallFlow(FlowSpec):
    {parameters}

    @step
    def start(self):
        {start}
        self.next(self.end)

    @step
    def end(self):
        {end}


if __name__ == "__main__":
    SmallFlow()
"""


@pytest.fixture(autouse=True)
def environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """An empty home, and no variable of this machine that tells tools how to behave."""
    home = REPO.parent / "home"
    home.mkdir(exist_ok=True)
    monkeypatch.setenv("UV_CACHE_DIR", uv_cache())
    for name in os.environ:
        if name.startswith(TELLING) and name != "UV_CACHE_DIR":
            monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.setenv("PYTHONPATH", str(REPO))  # flows import the package too
    monkeypatch.chdir(REPO)
    logging.getLogger("luigi-interface").setLevel(
        logging.INFO
    )  # an earlier test may have changed it


class Pipeline:
    """Flows and settings below a folder, as the runtime sees them during a test."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.config = root / "config"
        self.flows = root / "flows"

    def add_flow(
        self,
        path: str = "small.py",
        *,
        parameters: str = "",
        start: str = "pass",
        end: str = "pass",
        talks: bool = False,
    ) -> str:
        """Write a flow of two steps, and return its path below flows/."""
        text = TWO_STEPS.format(
            decorator="@talk_to_luigi" if talks else "",
            parameters=parameters or "pass",
            start=dedent(start).strip().replace("\n", "\n        "),
            end=dedent(end).strip().replace("\n", "\n        "),
        )
        return self.add_file(path, text)

    def add_file(self, path: str, text: str) -> str:
        """Write a file below flows/, and return its path there."""
        file = self.flows / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
        return path


def mark_done(task: MetaflowTask, **fields: Any) -> None:
    """Write the task's marker, as if a run with the id 1 had succeeded."""
    task.output().write(Marker(flow="SmallFlow", path=task.flow_path, run_id="1", **fields))


def ends(pid: int, within: float) -> bool:
    """Is the process gone, and reaped, after so many seconds?"""
    deadline = time.monotonic() + within
    while time.monotonic() < deadline:
        try:
            os.kill(pid, 0)
        except ProcessLookupError:
            return True
        time.sleep(0.05)
    return False


@pytest.fixture
def pipeline(tmp_path: Path) -> Iterator[Pipeline]:
    """An empty pipeline, with none of the settings that this machine may have."""
    made = Pipeline(tmp_path)
    for folder in (made.config, made.flows):
        folder.mkdir()
    handled = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
    signals = {number: signal.getsignal(number) for number in handled}
    Register.clear_instance_cache()  # Luigi keeps one task for the same parameters
    luigi.configuration.get_config().remove_option("core", "lock_pid_dir")  # main() sets it once
    with temporary_root(tmp_path):
        yield made
    for number, handler in signals.items():
        signal.signal(number, handler)


# Each task notes that it ran, and the flow fails or waits where a file says so.
FLOW = """
import os, time
from pathlib import Path

from metaflow import FlowSpec, Parameter, current, step

from sales_pipelines.runtime import talk_to_luigi


def note(what):
    with open("ran.txt", "a") as file:
        file.write(f"{what} {os.getpid()}\\n")
    if Path(f"fail-{what}").exists():
        raise ValueError(f"fail-{what} is there")
    while Path(f"wait-{what}").exists():
        time.sleep(0.02)


@talk_to_luigi
class SplitFlow(FlowSpec):
    n = Parameter("n", default=3)

    @step
    def start(self):
        note("start")
        self.numbers = list(range(self.n))
        self.next(self.work, foreach="numbers")

    @step
    def work(self):
        note(f"work{self.input}")
        self.square = self.input**2
        self.next(self.join)

    @step
    def join(self, inputs):
        note("join")
        self.total = sum(each.square for each in inputs)
        self.next(self.end)

    @step
    def end(self):
        note("end")
        self.luigi_result = {"total": self.total}


if __name__ == "__main__":
    SplitFlow()
"""


ALL = ["end", "join", "start", "work0", "work1", "work2"]


class Splitting:
    """A pipeline with one flow that splits; its tasks note that they ran, and fail or wait."""

    def __init__(self, pipeline: Pipeline) -> None:
        self.root = pipeline.root
        self.flow = pipeline.flows / "split.py"
        self.flow.write_text(FLOW)

    @staticmethod
    def task(**more: object) -> MetaflowTask:
        """A new task that runs the flow: Luigi keeps one for the same parameters."""
        MetaflowTask.clear_instance_cache()
        return MetaflowTask("split.py", **more)

    def tell(self, *whats: str) -> None:
        """Make tasks fail or wait, e.g. fail-join or wait-work1, until the next call."""
        for file in [*self.root.glob("fail-*"), *self.root.glob("wait-*")]:
            file.unlink()
        for what in whats:
            (self.root / what).touch()

    def ran(self) -> list[str]:
        """The tasks that have run since the last call, sorted: a foreach has no order."""
        file = self.root / "ran.txt"
        lines = file.read_text().splitlines() if file.exists() else []
        file.unlink(missing_ok=True)
        return sorted(line.split()[0] for line in lines)

    def process_of(self, what: str) -> int:
        """Wait until the task runs, and return the id of its process."""
        file = self.root / "ran.txt"
        wait_until(lambda: file.exists() and f"{what} " in file.read_text())
        (line,) = (line for line in file.read_text().splitlines() if line.startswith(f"{what} "))
        return int(line.split()[1])


@pytest.fixture
def splitting(pipeline: Pipeline, monkeypatch: pytest.MonkeyPatch) -> Splitting:
    monkeypatch.chdir(pipeline.root)
    return Splitting(pipeline)


# `nox -s run`, with the pipeline of a test as the repo; `luigi` is Luigi's own command.
START = """
import pathlib, sys
from sales_pipelines.runtime import paths
paths.ROOT = pathlib.Path.cwd()
paths.CONFIG, paths.FLOWS = paths.ROOT / "config", paths.ROOT / "flows"
if sys.argv[1] == "luigi":
    from luigi.cmdline import luigi_run
    module = "sales_pipelines.runtime.task.metaflow_task"
    own = ["--lock-pid-dir", "locks"]  # else tests of the same command refuse each other
    luigi_run(["--module", module, "MetaflowTask", *own, *sys.argv[2:]])
else:
    from sales_pipelines.runtime.__main__ import command_line
    command_line()
"""


def start(
    root: Path, *arguments: str, stdout: IO[str] | int = subprocess.PIPE
) -> subprocess.Popen[str]:
    """Start `run …` or `luigi …` in the pipeline's folder, in a session of its own."""
    return subprocess.Popen(
        [sys.executable, "-c", START, *arguments],
        cwd=root,
        stdout=stdout,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )


@pytest.fixture(scope="session")
def servers() -> Iterator[Callable[[str], Server]]:
    """A function that starts a server, once for this process."""
    running: dict[str, Server] = {}
    with contextlib.ExitStack() as stack:

        def server(kind: str) -> Server:
            if kind not in running:
                start = {"postgresql": postgresql, "mariadb": mariadb}[kind]
                running[kind] = stack.enter_context(start())
            return running[kind]

        yield server


@pytest.fixture(
    params=["sqlite", "postgresql", pytest.param("mariadb", marks=pytest.mark.thorough)]
)
def database(
    request: pytest.FixtureRequest,
    pipeline: Pipeline,
    servers: Callable[[str], Server],
    monkeypatch: pytest.MonkeyPatch,
) -> Database:
    """An empty database, which the settings name, and a run to load from."""
    # Few tests need them, and every process would wait for their import.
    import sqlalchemy as sa

    from .tables import NUMBERS, PREFIX, Database, Source

    kind: str = request.param
    pipeline.add_flow()
    mark_done(Source())
    monkeypatch.setattr("sales_pipelines.runtime.task.target.FlowTarget.run", None)
    if kind != "sqlite":
        server = servers(kind)
        scheme = {"postgresql": "postgresql+psycopg", "mariadb": "mariadb+pymysql"}[kind]
        admin = f"{scheme}://{server.address.replace('@', f':{PASSWORD}@')}"
        name = f"test_{next(NUMBERS)}"
        engine = sa.create_engine(
            f"{admin}/{'postgres' if kind == 'postgresql' else ''}", isolation_level="AUTOCOMMIT"
        )
        deadline = time.monotonic() + 60
        while True:
            try:
                with engine.connect() as connection:
                    connection.execute(sa.text(f"CREATE DATABASE {name}"))
                break
            except sa.exc.OperationalError:  # it looks what it has, after a crash in a test
                assert time.monotonic() < deadline
                time.sleep(0.1)
        engine.dispose()
        monkeypatch.setenv(f"{PREFIX}URL", f"{kind}://{server.address}/{name}")
        monkeypatch.setenv(f"{PREFIX}PASSWORD", PASSWORD)
        settings.cache_clear()
    return Database(kind)
