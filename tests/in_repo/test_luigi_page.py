"""What Luigi's page shows of a flow: how far it is, at what, in which run, and why it failed."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
import urllib.parse
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from sales_pipelines.runtime.flow.output import FlowOutput

from .conftest import Splitting, start, wait_until


class Scheduler:
    """A `luigid` for this test, asked as its page asks it."""

    def __init__(self, root: Path) -> None:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        (root / "luigi.cfg").write_text(
            "[core]\nlocal_scheduler = false\n"
            f"scheduler_host = 127.0.0.1\nscheduler_port = {self.port}\n"
        )
        command = [str(Path(sys.executable).with_name("luigid")), "--address", "127.0.0.1"]
        log = (root / "luigid.log").open("w")
        self.process = subprocess.Popen(
            [*command, "--port", str(self.port), "--state-path", str(root / "luigid.pickle")],
            cwd=root,
            stdout=log,
            stderr=log,
        )
        wait_until(self.answers)

    def answers(self) -> bool:
        try:
            return isinstance(self.ask("task_list", status="RUNNING", upstream_status=""), dict)
        except OSError:
            return False

    def ask(self, what: str, **data: str) -> Any:
        query = urllib.parse.urlencode({"data": json.dumps(data)})
        address = f"http://127.0.0.1:{self.port}/api/{what}?{query}"
        with urllib.request.urlopen(address, timeout=10) as answer:
            return json.load(answer)["response"]

    def shows(self, message: str, percentage: int) -> bool:
        """True if the one running task shows a message that ends so, and the percentage."""
        running = self.ask("task_list", status="RUNNING", upstream_status="")
        task: dict[str, Any] = next(iter(running.values()), {})
        status = task.get("status_message") or ""
        return status.endswith(message) and task["progress_percentage"] == percentage


@pytest.fixture
def scheduler(splitting: Splitting) -> Iterator[Scheduler]:
    made = Scheduler(splitting.root)
    yield made
    made.process.terminate()
    made.process.wait(10)


@pytest.mark.thorough
@pytest.mark.parametrize("workers", ["1", pytest.param("2", marks=pytest.mark.nightly)])
def test_a_run_shows_how_far_it_is_at_what_and_its_id(
    splitting: Splitting, scheduler: Scheduler, workers: str
) -> None:
    splitting.tell("wait-work1")
    running = start(splitting.root, "run", "split.py", "--workers", workers)
    splitting.process_of("work1")
    run_id = next((splitting.root / ".metaflow" / "SplitFlow").glob("[0-9]*")).name
    # One of four steps is done, and two thirds of the second.
    wait_until(lambda: scheduler.shows(f"SplitFlow/{run_id}: step work, 2 of 3 done", 41))
    splitting.tell("fail-join")
    printed, _ = running.communicate(timeout=60)
    assert running.returncode == 30, printed
    failed = next(iter(scheduler.ask("task_list", status="FAILED", upstream_status="")))
    error = json.loads(scheduler.ask("fetch_error", task_id=failed)["error"])
    assert error.startswith("split.py failed in step `join`")
    assert "Traceback (most recent call last)" in error
    assert error.endswith("ValueError: fail-join is there")
    assert "run: the same command resumes what failed" in printed

    splitting.tell("wait-join")
    splitting.ran()
    running = start(splitting.root, "run", "split.py", "--workers", workers)
    splitting.process_of("join")
    wait_until(lambda: scheduler.shows(": step join", 50))  # what was taken over is done
    splitting.tell()
    printed, _ = running.communicate(timeout=60)
    assert running.returncode == 0, printed


def test_what_was_taken_over_is_done_however_its_lines_are_mixed() -> None:
    output = FlowOutput("split.py", {"start": "work", "work": None, "join": None, "end": None})
    output.add("[2/start/1] Cloning previously run task 1/start/1")
    output.add("[2/work/2] [2/work/3] Cloning previously run task 1/work/2")
    output.add(
        "Cloning previously run task 1/work/3[2/join/4] Cloning previously run task 1/join/4"
    )
    assert output.percentage() == 75
    assert output._done == {"start": 1, "work": 2, "join": 1}


@pytest.mark.nightly
def test_a_scheduler_that_is_gone_does_not_stop_the_flow(
    splitting: Splitting, scheduler: Scheduler
) -> None:
    splitting.tell("wait-work1")
    running = start(splitting.root, "run", "split.py")
    splitting.process_of("work1")
    scheduler.process.terminate()
    scheduler.process.wait(10)
    splitting.tell("wait-end")
    splitting.process_of("end")
    splitting.tell()
    wait_until(lambda: list(splitting.root.rglob("luigi/**/*.json")))
    running.kill()
    running.wait()
    assert splitting.task().output().result == {"total": 5}
