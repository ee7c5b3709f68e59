"""`remove_container.py NAME CIDFILE EXIT_CODE`: removes what a `docker run` may have left.

Run as a script, as supervisor.py is. EXIT_CODE is what `docker run` ended with, negative for the
signal that has killed it.
"""
# pathlib takes longer to import than all the rest.
# ruff: noqa: PTH202

from __future__ import annotations

import os
import subprocess
import sys
import time

STILL_MADE = 5.0
"""Seconds in which the engine may finish making a container that nobody waits for any more."""

ENGINE_REFUSED = 125
"""Exit code of `docker run` where the engine has made or started no container."""


def main(name: str, id_file: str, exit_code: str) -> None:
    """Remove the container, running or not; where it may be in the making, wait for it."""
    deadline = time.monotonic() + STILL_MADE
    while True:
        command = ("docker", "rm", "--force", "--volumes", name)
        done = subprocess.run(command, capture_output=True, check=False)
        removed = bool(done.stdout.strip())
        # The file is written when the container has been made.
        if removed or int(exit_code) == ENGINE_REFUSED or _has_content(id_file):
            return
        if time.monotonic() > deadline:
            return
        time.sleep(0.2)


def _has_content(file: str) -> bool:
    try:
        return os.path.getsize(file) > 0
    except OSError:
        return False


if __name__ == "__main__":
    main(*sys.argv[1:])
