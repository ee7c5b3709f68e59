"""Runs a command, passes on its output line by line, and leaves no process of it behind."""

from __future__ import annotations

import contextlib
import fcntl
import math
import multiprocessing
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import IO

from . import supervisor

GRACE = 5.0
"""Seconds between asking processes to stop and killing them."""

_SLICE = 0.2
"""Seconds at most between a signal and its effect."""


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

    `on_line` gets each line of its output and errors, without the line end, while it runs, from
    another thread. All processes of the command are stopped when it has ended, after `timeout`
    seconds, on any exception here such as an interrupt, and when this process is killed: see
    supervisor.py. The file descriptors `held` stay open until the last of them is gone.

    `remove` is for a command whose processes run elsewhere, in a container: a command that ends
    them, called with the exit code (negative for a signal) unless that is 0. The standard input of
    such a command is empty, and ends when this process does; other commands read `stdin`.

    Raises TimeLimitError after `timeout` seconds.
    """
    lifeline, own_end = _pipe()
    descriptors = [lifeline, *held]
    try:
        process = subprocess.Popen(
            supervised(command, sys.executable, supervisor.__file__, descriptors, remove),
            cwd=cwd,
            env=dict(env),
            stdin=lifeline if remove else stdin,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            encoding="utf-8",
            errors="replace",
            start_new_session=True,
            pass_fds=descriptors,
        )
    except BaseException:
        os.close(own_end)
        raise
    finally:
        os.close(lifeline)
    assert process.stdout is not None
    # Not the thread's join(): after a signal in it, Python 3.11 can take the thread for ended.
    read = threading.Event()
    threading.Thread(target=_read, args=(process.stdout, on_line, read), daemon=True).start()
    ended = threading.Event()
    threading.Thread(target=_exit_with_parent, args=(ended,), daemon=True).start()
    try:
        return _wait(process, read, timeout)
    finally:
        os.close(own_end)
        if process.wait() < 0 and supervisor.LINUX:  # the supervisor itself was killed
            supervisor.kill_session(process.pid)
            if remove:
                subprocess.run(
                    [*remove, "-9"], env=dict(env), stdin=subprocess.DEVNULL, check=False
                )
        ended.set()
        if read.wait(GRACE):  # on macOS a process outside the group may hold the pipe for ever
            process.stdout.close()


def _wait(process: subprocess.Popen[str], read: threading.Event, timeout: float | None) -> int:
    """The exit code of the process, whose output has been read to its end when `read` is set.

    It looks up again and again, because a signal may come to any thread: Python handles it in this
    one, whose wait it does not interrupt then.
    """
    deadline = math.inf if timeout is None else time.monotonic() + timeout
    while (exit_code := process.poll()) is None:
        left = min(deadline - time.monotonic(), _SLICE)
        if left <= 0:
            raise TimeLimitError(f"stopped after {timeout:g} seconds")
        if not read.is_set():
            read.wait(left)
        else:
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(left)
    return exit_code


def _pipe() -> tuple[int, int]:
    """A pipe whose ends are no standard streams, which a command replaces by its own.

    A pipe's end is one where this process's own stream is closed.
    """
    ends = os.pipe()
    try:
        read, write = (fcntl.fcntl(end, fcntl.F_DUPFD_CLOEXEC, 3) for end in ends)
    finally:
        for end in ends:
            os.close(end)
    return read, write


def supervised(
    command: Sequence[str],
    python: str,
    file: str,
    descriptors: Sequence[int],
    remove: Sequence[str] = (),
) -> list[str]:
    """The command under a supervisor, whose lifeline is the first descriptor."""
    # Isolated and without site, so that the supervisor starts fast, whatever the environment.
    start = (python, "-I", "-S", file, ",".join(map(str, descriptors)), str(GRACE))
    return [*start, str(len(remove)), *remove, *command]


def describe_exit(exit_code: int) -> str:
    """What an exit code means: `exit code 2`, or the signal that ended the process."""
    number = -exit_code if exit_code < 0 else exit_code - 128
    if number not in {*signal.Signals}:
        return f"exit code {exit_code}"
    name = signal.Signals(number).name
    return f"killed by {name}" + (", perhaps for lack of memory" if name == "SIGKILL" else "")


def _exit_with_parent(ended: threading.Event) -> None:
    """Exit when this process is a worker and its parent is killed before the command has ended.

    Nobody would take the result, and a plain `luigi` exits in this case too.
    """
    parent = multiprocessing.parent_process()
    if parent is None:
        return
    started_by = os.getppid()
    while not ended.wait(0.5):
        # Both are needed: other workers may hold the parent's sentinel open, and a fork server
        # may be this process's parent in place of the one that started it.
        if os.getppid() != started_by or not parent.is_alive():
            os._exit(1)


def _read(lines: Iterable[str], on_line: Callable[[str], None], read: threading.Event) -> None:
    try:
        for line in lines:
            on_line(line.rstrip("\r\n"))
    finally:
        for _ in lines:  # after an error of on_line, too: the command would wait for a reader
            pass
        read.set()
