"""These tests are run inside a generated repo, with its Python: see the fixture `seam`."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import IO

import pytest
from sales_pipelines.runtime import MetaflowTask

from tests.runtime.conftest import Pipeline, pipeline

__all__ = ["Pipeline", "pipeline"]

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
    """A pipeline of one flow that splits, whose tasks note that they ran, fail and wait as told."""

    def __init__(self, pipeline: Pipeline) -> None:
        self.root = pipeline.root
        self.flow = pipeline.flows / "split.py"
        self.flow.write_text(FLOW)

    @staticmethod
    def task(**more: object) -> MetaflowTask:
        """The task that runs it, anew: Luigi keeps one for the same parameters."""
        MetaflowTask.clear_instance_cache()
        return MetaflowTask("split.py", **more)

    def tell(self, *whats: str) -> None:
        """Let tasks do so, e.g. fail-join or wait-work1, until they are told otherwise."""
        for file in [*self.root.glob("fail-*"), *self.root.glob("wait-*")]:
            file.unlink()
        for what in whats:
            (self.root / what).touch()

    def ran(self) -> list[str]:
        """What has run since this was last asked, sorted: a foreach has no order."""
        file = self.root / "ran.txt"
        lines = file.read_text().splitlines() if file.exists() else []
        file.unlink(missing_ok=True)
        return sorted(line.split()[0] for line in lines)

    def process_of(self, what: str) -> int:
        """The id of the process in which the task runs, once it does."""
        file = self.root / "ran.txt"
        wait_until(lambda: file.exists() and f"{what} " in file.read_text())
        (line,) = (line for line in file.read_text().splitlines() if line.startswith(f"{what} "))
        return int(line.split()[1])


@pytest.fixture
def splitting(pipeline: Pipeline, monkeypatch: pytest.MonkeyPatch) -> Splitting:
    monkeypatch.chdir(pipeline.root)
    return Splitting(pipeline)


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "docker: builds and runs images in a Docker engine")
    config.addinivalue_line("markers", "nightly: left to the nightly session, for it takes long")


def wait_until(holds: Callable[[], object], within: float = 60) -> None:
    """Wait until it holds, for at most so many seconds."""
    deadline = time.monotonic() + within
    while not holds():
        assert time.monotonic() < deadline, "it never came to hold"
        time.sleep(0.02)


def is_there(process: int) -> bool:
    """Is the process alive? One that has ended and that nobody has asked after is not."""
    try:
        os.kill(process, 0)
        state = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0]
    except (ProcessLookupError, FileNotFoundError):
        return False
    return state != "Z"


# What `nox -s run` starts, with the pipeline of a test; `luigi` is its own bare command.
START = """
import pathlib, sys
from sales_pipelines.runtime import paths
paths.ROOT = pathlib.Path.cwd()
paths.CONFIG, paths.FLOWS = paths.ROOT / "config", paths.ROOT / "flows"
if sys.argv[1] == "luigi":
    from luigi.cmdline import luigi_run
    luigi_run(["--module", "sales_pipelines.runtime.task.metaflow_task", "MetaflowTask", *sys.argv[2:]])
else:
    from sales_pipelines.runtime.__main__ import main
    sys.exit(main(sys.argv[1:]))
"""


def start(
    root: Path, *arguments: str, stdout: IO[str] | int = subprocess.PIPE
) -> subprocess.Popen[str]:
    """Start `luigi …` or `run …` in the pipeline's folder, in a session of its own."""
    return subprocess.Popen(
        [sys.executable, "-c", START, *arguments],
        cwd=root,
        stdout=stdout,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler) and None,
    )
