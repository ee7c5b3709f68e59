"""Runs a command to its end, line by line, and leaves nothing of it behind."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path

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
) -> int:
    """Run the command in a session of its own and return its exit code.

    `on_line` gets each line of its output and errors, without the line end, while it runs; it is
    called from another thread. When the command has ended, after `timeout` seconds, or on any
    exception here (an interrupt), what is left of the session is stopped: a flow's steps are
    processes too.

    Raises TimeLimitError after `timeout` seconds.
    """
    process = subprocess.Popen(
        command,
        cwd=cwd,
        env=dict(env),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        encoding="utf-8",
        errors="replace",
        start_new_session=True,
    )
    assert process.stdout is not None
    reader = threading.Thread(target=_read, args=(process.stdout, on_line), daemon=True)
    reader.start()
    try:
        return process.wait(timeout)
    except subprocess.TimeoutExpired:
        raise TimeLimitError from None
    finally:
        stop(process)
        reader.join(GRACE)  # what a session of its own was started by may hold the pipe for ever
        if not reader.is_alive():
            process.stdout.close()


def _read(lines: Iterable[str], on_line: Callable[[str], None]) -> None:
    for line in lines:
        on_line(line.rstrip("\r\n"))


def stop(process: subprocess.Popen[str]) -> None:
    """End every process of the command's group: ask first, kill what is left after GRACE."""
    deadline = time.monotonic() + GRACE
    there = _signal(process, signal.SIGTERM)
    while there and time.monotonic() < deadline:
        process.poll()  # or it stays there as a zombie
        time.sleep(0.02)
        there = _signal(process, 0)
    if there:
        _signal(process, signal.SIGKILL)
    process.wait()


def _signal(process: subprocess.Popen[str], number: int) -> bool:
    """Signal the group, whose number is its leader's; False where there is nobody left in it."""
    with contextlib.suppress(ProcessLookupError, PermissionError):  # the latter: macOS, zombies
        os.killpg(process.pid, number)
        return True
    return False
