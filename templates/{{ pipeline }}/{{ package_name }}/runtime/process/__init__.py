"""Runs a command to its end, line by line, and leaves nothing of it behind."""

from __future__ import annotations

import multiprocessing
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import IO

from . import supervisor

GRACE = 5.0
"""Seconds between asking processes to stop and killing them."""


class TimeLimitError(Exception):
    """The command was stopped because its time was up."""


def run(
    command: Sequence[str],
    *,
    cwd: Path,
    env: Mapping[str, str],
    timeout: float | None,
    on_line: Callable[[str], None],
    held: Sequence[int] = (),
    remove: Sequence[str] = (),
    stdin: IO[bytes] | int = subprocess.DEVNULL,
) -> int:
    """Run the command in a session of its own and return its exit code.

    `on_line` gets each line of its output and errors, without the line end, while it runs; it is
    called from another thread. When the command has ended, after `timeout` seconds, on any
    exception here (an interrupt) and when this process is killed, what is left of the command is
    stopped: see supervisor.py. The file descriptors `held` stay open until nothing is left.

    `remove` is for a command whose processes run elsewhere, in a container: the command that ends
    them, which gets the exit code, negative for a signal, where that is not 0. Such a command has
    a standard input without a byte in it, which ends when this process does; any other reads
    `stdin`.

    Raises TimeLimitError after `timeout` seconds.
    """
    lifeline, ours = os.pipe()
    passed = [lifeline, *held]
    try:
        process = subprocess.Popen(
            supervised(command, sys.executable, supervisor.__file__, passed, remove),
            cwd=cwd,
            env=dict(env),
            stdin=lifeline if remove else stdin,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            encoding="utf-8",
            errors="replace",
            start_new_session=True,
            pass_fds=passed,
        )
    except BaseException:
        os.close(ours)
        raise
    finally:
        os.close(lifeline)
    assert process.stdout is not None
    reader = threading.Thread(target=_read, args=(process.stdout, on_line), daemon=True)
    reader.start()
    over = threading.Event()
    threading.Thread(target=_end_with_parent, args=(over,), daemon=True).start()
    try:
        return process.wait(timeout)
    except subprocess.TimeoutExpired:
        raise TimeLimitError from None
    finally:
        os.close(ours)
        if process.wait() < 0 and supervisor.LINUX:  # it was killed itself, with the flow running
            supervisor.kill_session(process.pid)
            if remove:
                subprocess.run(
                    [*remove, "-9"], env=dict(env), stdin=subprocess.DEVNULL, check=False
                )
        over.set()
        reader.join(GRACE)  # who has left the flow's group may hold the pipe for ever on macOS
        if not reader.is_alive():
            process.stdout.close()


def supervised(
    command: Sequence[str],
    python: str,
    file: str,
    descriptors: Sequence[int],
    remove: Sequence[str] = (),
) -> list[str]:
    """The command under a supervisor, whose lifeline is the first descriptor."""
    # Isolated, and without site: the supervisor takes nothing from the environment.
    start = (python, "-I", "-S", file, ",".join(map(str, descriptors)), str(GRACE))
    return [*start, str(len(remove)), *remove, *command]


def describe_exit(exit_code: int) -> str:
    """What an exit code says."""
    number = -exit_code if exit_code < 0 else exit_code - 128
    if number not in {*signal.Signals}:
        return f"exit code {exit_code}"
    name = signal.Signals(number).name
    return f"killed by {name}" + (", for lack of memory perhaps" if name == "SIGKILL" else "")


def _end_with_parent(over: threading.Event) -> None:
    """End this process, where it is another's worker and that one has been killed.

    Nobody would be told of what the command comes to, and `luigi` would have ended long ago.
    """
    parent = multiprocessing.parent_process()
    if parent is None:
        return
    started_by = os.getppid()
    while not over.wait(0.5):
        # Either may be all that there is to see: a sentinel that other workers hold open too, or a
        # parent that has left the starting of workers to a server.
        if os.getppid() != started_by or not parent.is_alive():
            os._exit(1)


def _read(lines: Iterable[str], on_line: Callable[[str], None]) -> None:
    for line in lines:
        on_line(line.rstrip("\r\n"))
