"""Runs a command to its end, line by line, and leaves nothing of it behind."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import threading
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

GRACE = 5.0
"""Seconds between asking a command to stop and killing it."""


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

    `on_line` gets each line of its output and errors, without the line end, while it runs. After
    `timeout` seconds, and on any exception (an interrupt, an error in `on_line`), the whole session
    is stopped: a flow's steps are processes too.

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
    expired = threading.Event()

    def expire() -> None:
        expired.set()
        stop(process)

    timer = threading.Timer(timeout, expire) if timeout is not None else None
    try:
        if timer:
            timer.start()
        assert process.stdout is not None
        for line in process.stdout:
            on_line(line.rstrip("\r\n"))
        code = process.wait()
    except BaseException:
        stop(process)
        raise
    finally:
        if timer:
            timer.cancel()
    if expired.is_set():
        raise TimeLimitError
    return code


def stop(process: subprocess.Popen[str]) -> None:
    """End every process of the command's session: ask first, kill what is left after GRACE."""
    _signal(process, signal.SIGTERM)
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(GRACE)
    _signal(process, signal.SIGKILL)
    process.wait()


def _signal(process: subprocess.Popen[str], number: signal.Signals) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, number)  # the session's leader gave the group its number
