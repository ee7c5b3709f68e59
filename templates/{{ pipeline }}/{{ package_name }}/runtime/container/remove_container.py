"""`remove_container.py NAME CIDFILE EXIT_CODE`: removes what a `docker run` may have left.

Run as a script, as supervisor.py is. EXIT_CODE is that of `docker run`, negative if a signal
killed it.
"""
# pathlib takes longer to import than all the rest.
# ruff: noqa: PTH202

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import time

STILL_MADE = 5.0
"""Seconds in which the engine may finish creating a container that nobody waits for any more."""

ENGINE_REFUSED = 125
"""Exit code of `docker run` if the engine created or started no container."""


def main(name: str, id_file: str, exit_code: str) -> None:
    """Remove the container, running or not; wait for it if the engine may be creating it."""
    deadline = time.monotonic() + STILL_MADE
    while True:
        command = ("docker", "rm", "--force", "--volumes", name)
        done = subprocess.run(command, capture_output=True, check=False)
        was_created = done.stdout.strip() or _has_content(id_file)  # written after creation
        if was_created or int(exit_code) == ENGINE_REFUSED or time.monotonic() > deadline:
            return
        time.sleep(0.2)


def _has_content(file: str) -> bool:
    with contextlib.suppress(OSError):
        return os.path.getsize(file) > 0
    return False


if __name__ == "__main__":
    main(*sys.argv[1:])
