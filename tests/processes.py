"""What processes there are, for tests that end some of them."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path


def is_there(process: int) -> bool:
    """Is the process alive? One that has ended and that nobody has asked after is not."""
    try:
        os.kill(process, 0)
        state = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0]
    except (ProcessLookupError, FileNotFoundError):
        return False
    return state != "Z"


def below(parent: int) -> dict[int, list[str]]:
    """The processes below this one, with their commands."""
    commands: dict[int, list[str]] = {}
    parents = [parent]
    for each in parents:
        for children in Path(f"/proc/{each}/task").glob("*/children"):
            with contextlib.suppress(OSError):
                for child in map(int, children.read_text().split()):
                    words = Path(f"/proc/{child}/cmdline").read_bytes().split(b"\0")
                    commands[child] = [word.decode() for word in words]
                    parents.append(child)
    return commands
