"""However a task ends, no process of its flow is left, and no marker unless it succeeded."""

from __future__ import annotations

import itertools
import json
import os
import resource
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from sales_pipelines.runtime import process
from sales_pipelines.runtime.commands import events
from sales_pipelines.runtime.metaflow_config import local_root

from .conftest import START, Pipeline, Splitting, below, is_there, start, wait_until

WITHIN = 10  # seconds


def ancestors(process: int) -> list[int]:
    """The parent of the process, its parent, and so on."""
    parents = []
    while process > 1:
        process = int(Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[1])
        parents.append(process)
    return parents


def no_marker(splitting: Splitting) -> bool:
    return not [*(splitting.root / ".metaflow" / "luigi").rglob("*.json")]


COMMANDS = {
    "run": ("run", "split.py"),
    "run with workers": ("run", "split.py", "--workers", "4"),
    "luigi": ("luigi", "--flow-path", "split.py", "--local-scheduler"),
    "luigi with workers": (
        *("luigi", "--flow-path", "split.py", "--local-scheduler"),
        *("--workers", "4"),
    ),
}


SIGNALS = [signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGKILL]
# The first pair always, each command and signal once in the thorough session, all pairs at night.
FIRST, *OTHERS = zip(COMMANDS, SIGNALS, strict=True)
PAIRS = [
    pytest.param(*pair, marks=pytest.mark.thorough if pair in OTHERS else pytest.mark.nightly)
    for pair in itertools.product(COMMANDS, SIGNALS)
    if pair != FIRST
]


@pytest.mark.parametrize(("command", "number"), [FIRST, *PAIRS])
def test_a_signal_to_the_command_leaves_no_process(
    splitting: Splitting, command: str, number: signal.Signals
) -> None:
    splitting.tell("wait-work1")
    running = start(splitting.root, *COMMANDS[command])
    step = splitting.process_of("work1")
    flow = [step, *ancestors(step)[:2]]  # Metaflow's own process, and the supervisor
    running.send_signal(number)
    wait_until(lambda: not any(map(is_there, flow)), within=WITHIN)
    assert running.wait(WITHIN) != 0
    assert no_marker(splitting)
    if command == "run" and number != signal.SIGKILL:
        (attempts,) = (splitting.root / ".metaflow" / "luigi").rglob("*.attempts")
        assert json.loads(attempts.read_text())["ended"] == "stopped"
    # And its finished steps are not lost.
    splitting.ran()
    splitting.tell()
    splitting.task().run()
    assert "start" not in splitting.ran()


@pytest.mark.nightly
def test_under_nohup_a_command_outlives_its_terminal(splitting: Splitting) -> None:
    splitting.tell("wait-work1")
    command = ["nohup", sys.executable, "-c", START, "run", "split.py"]
    running = subprocess.Popen(command, cwd=splitting.root, stdout=-3, stderr=-3)
    splitting.process_of("work1")
    running.send_signal(signal.SIGHUP)
    splitting.tell()
    assert running.wait(60) == 0
    assert not no_marker(splitting)


@pytest.mark.thorough
def test_a_killed_worker_leaves_no_process(splitting: Splitting) -> None:
    splitting.tell("wait-work1")
    running = start(splitting.root, *COMMANDS["run with workers"])
    step = splitting.process_of("work1")
    flow_process, supervisor, worker, command = ancestors(step)[:4]
    assert command == running.pid
    os.kill(worker, signal.SIGKILL)
    wait_until(lambda: not any(map(is_there, (step, flow_process, supervisor))), within=WITHIN)
    assert running.wait(WITHIN) != 0
    assert no_marker(splitting)


@pytest.mark.parametrize(
    "number",
    [
        signal.SIGTERM,
        pytest.param(signal.SIGINT, marks=pytest.mark.thorough),
        pytest.param(signal.SIGHUP, marks=pytest.mark.thorough),
    ],
)
def test_a_signal_to_a_worker_stops_its_task_for_good(
    splitting: Splitting, number: signal.Signals
) -> None:
    splitting.tell("wait-work1")
    running = start(splitting.root, *COMMANDS["run with workers"])
    step = splitting.process_of("work1")
    flow_process, supervisor, worker, command = ancestors(step)[:4]
    assert command == running.pid
    os.kill(worker, number)
    output, _ = running.communicate(timeout=60)
    assert running.returncode == 30, output
    assert not any(map(is_there, (step, flow_process, supervisor)))
    assert splitting.ran().count("start") == 1, "Luigi has not started it again"
    assert no_marker(splitting)
    (attempts,) = (splitting.root / ".metaflow" / "luigi").rglob("*.attempts")
    assert json.loads(attempts.read_text())["ended"] == "stopped"
    *_, hint, cause = output.splitlines()
    assert hint == "run: the same command resumes what failed; --force starts afresh"
    assert cause.endswith(f": its worker was stopped by {number.name}")
    assert "Traceback" not in output, output


def test_the_end_of_nox_stops_the_command_even_if_nox_is_killed(
    splitting: Splitting, monkeypatch: pytest.MonkeyPatch
) -> None:
    """uv, which is between them, stays."""
    nox = subprocess.Popen(["sleep", "600"])
    monkeypatch.setenv("NOX_PROCESS", str(nox.pid))
    splitting.tell("wait-work1")
    running = start(splitting.root, *COMMANDS["run"])
    step = splitting.process_of("work1")
    nox.kill()
    if sys.platform != "linux":
        nox.wait()
    output, _ = running.communicate(timeout=60)
    nox.wait()
    assert running.returncode == 130
    assert "run: stopped; the same command resumes what was running" in output
    assert not is_there(step)
    assert no_marker(splitting)


@pytest.mark.thorough
def test_a_killed_supervisor_leaves_no_process(splitting: Splitting) -> None:
    splitting.tell("wait-work1")
    running = start(splitting.root, *COMMANDS["luigi"])
    step = splitting.process_of("work1")
    flow_process, supervisor = ancestors(step)[:2]
    os.kill(supervisor, signal.SIGKILL)
    wait_until(lambda: not any(map(is_there, (step, flow_process))), within=WITHIN)
    output, _ = running.communicate(timeout=WITHIN)
    assert "killed by SIGKILL" in output
    assert no_marker(splitting)


def test_a_task_with_many_files_open_runs_its_flow(pipeline: Pipeline) -> None:
    """The descriptors that the supervisor gets are then above 1,023."""
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (2048, limits[1]))
    files = [os.open(os.devnull, os.O_RDONLY) for _ in range(1100)]
    lines: list[str] = []
    try:
        command = [sys.executable, "-c", "import os; os.write(1, b'\\xff\\n')"]
        code = process.run(
            command, cwd=pipeline.root, env=os.environ, timeout=60, on_line=lines.append
        )
    finally:
        for file in files:
            os.close(file)
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)
    assert (code, lines) == (0, ["\ufffd"])


def test_the_signal_that_ended_a_command_is_named(pipeline: Pipeline) -> None:
    command = ["sh", "-c", "kill -TERM $$"]
    code = process.run(command, cwd=pipeline.root, env=os.environ, timeout=60, on_line=print)
    assert process.describe_exit(code) == "killed by SIGTERM"


STUBBORN = """
        import signal, subprocess, sys
        stubborn = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print(1);"
        stubborn += "import os; open('stubborn.pid', 'w').write(str(os.getpid())); time.sleep(99)"
        subprocess.run([sys.executable, "-c", stubborn], start_new_session={own_session})
"""


@pytest.mark.thorough
@pytest.mark.parametrize("own_session", [pytest.param(False, marks=pytest.mark.nightly), True])
def test_a_process_that_ignores_sigterm_is_killed_also_in_its_own_session(
    pipeline: Pipeline, own_session: bool
) -> None:
    path = pipeline.add_flow(start=STUBBORN.format(own_session=own_session))
    running = start(pipeline.root, "run", path)
    file = pipeline.root / "stubborn.pid"
    wait_until(lambda: file.exists() and file.read_text())
    stubborn = int(file.read_text())
    running.kill()
    wait_until(lambda: not is_there(stubborn), within=WITHIN)


@pytest.mark.nightly
def test_the_next_process_waits_until_the_flow_of_a_killed_one_is_gone(
    splitting: Splitting, caplog: pytest.LogCaptureFixture
) -> None:
    """The killed process's flow takes two seconds to end; the next one must not overlap it."""
    text = splitting.flow.read_text()
    slow = "import signal; signal.signal(signal.SIGTERM, lambda *_: (time.sleep(2), os._exit(1)))"
    splitting.flow.write_text(text.replace("def note(", f"{slow}\n\n\ndef note("))
    splitting.tell("wait-work1")
    running = start(splitting.root, "run", "split.py")
    step = splitting.process_of("work1")
    running.kill()
    running.wait()
    assert is_there(step)
    splitting.ran()
    splitting.tell()
    splitting.task().run()
    assert not is_there(step)
    assert f"waits for process {running.pid}" in caplog.text
    assert "start" not in splitting.ran()


@pytest.mark.parametrize("command", [["sleep", "60"], ["sh", "-c", "exec >&- 2>&-; sleep 60"]])
def test_a_signal_that_another_thread_takes_stops_the_command(
    pipeline: Pipeline, command: list[str]
) -> None:
    code = """
import os, signal, sys, threading, pathlib
from sales_pipelines.runtime import process
from sales_pipelines.runtime.commands import events
from sales_pipelines.runtime.metaflow_config import local_root

signal.signal(signal.SIGTERM, lambda *_: sys.exit(9))
threading.Thread(target=signal.pause, daemon=True).start()
signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTERM])
print("on", flush=True)
process.run(
    sys.argv[1:], cwd=pathlib.Path.cwd(), env=os.environ, timeout=None, on_line=print
)
"""
    running = subprocess.Popen(
        [sys.executable, "-c", code, *command], stdout=subprocess.PIPE, text=True
    )
    assert running.stdout is not None
    assert running.stdout.readline() == "on\n"
    wait_until(
        lambda: "sleep" in [words[0] for words in below(running.pid).values()], within=WITHIN
    )
    running.terminate()
    assert running.wait(WITHIN) == 9


def test_a_worker_that_outlives_its_run_leaves_no_file_of_events(pipeline: Pipeline) -> None:
    with events.shared():
        (file,) = local_root().glob("metaflow.events-*")
        events.send("start", "a")
        assert json.loads(file.read_text())[:2] == ["start", "a"]
        file.rename(file.with_name("gone"))
        events.send("end", "a")
        assert not [*local_root().glob("metaflow.events-*")]
        file.with_name("gone").rename(file)
