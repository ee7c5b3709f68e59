"""Events of tasks, for the process of the run: a task may run in a worker, which shares no list."""

from __future__ import annotations

import contextlib
import json
import os
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ..metaflow_config import local_root

_FILE = "LUIGI_EVENTS"


@contextlib.contextmanager
def shared() -> Iterator[None]:
    """Collect the events of this process and of those that it starts in the block."""
    local_root().mkdir(parents=True, exist_ok=True)
    with tempfile.NamedTemporaryFile(prefix="metaflow.events-", dir=local_root()) as file:
        os.environ[_FILE] = file.name
        try:
            yield
        finally:
            del os.environ[_FILE]


def send(kind: str, task_id: str, *details: Any) -> None:
    """Add an event, whose details can be written as JSON."""
    if _FILE in os.environ:
        with (
            contextlib.suppress(OSError),
            open(os.environ[_FILE], "a", opener=_open_existing) as file,
        ):
            file.write(json.dumps([kind, task_id, time.time(), *details]) + "\n")


def _open_existing(path: str, flags: int) -> int:
    """Open the file unless it is gone: a worker may outlive the run for a moment."""
    return os.open(path, flags & ~os.O_CREAT)


class Events:
    """The events that have been sent in the block of `shared`."""

    def __init__(self) -> None:
        self._file = Path(os.environ[_FILE]).open()  # noqa: SIM115 - it is read again and again
        self._line = ""

    def __enter__(self) -> Events:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def new(self) -> Iterator[list[Any]]:
        """Kind, task, time and details of each event since the last call."""
        while part := self._file.readline():
            self._line += part
            if part.endswith("\n"):  # else the rest is still being written
                with contextlib.suppress(ValueError):  # on a full disk, the rest is missing
                    yield json.loads(self._line)
                self._line = ""
