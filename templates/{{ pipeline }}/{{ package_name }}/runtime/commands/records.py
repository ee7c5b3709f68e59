"""What tasks record: markers, attempts and locks; and how much disk files use.

Nothing here writes, and nothing but a datastore on S3 needs packages: `nox -s status` also works
in a repo without an environment.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import re
import stat
import subprocess
import time
from collections.abc import Collection, Iterator
from itertools import chain
from pathlib import Path
from typing import Any, NamedTuple

from .. import paths, store
from ..errors import PipelineError
from ..store import metaflow_files

RECENTLY = 3600.0
"""Seconds for which an unfinished run may be running, though no process names it."""

_RUN_ID = re.compile(rb"--run-id[\0 =]'?([\w.-]+)")


class Usage(NamedTuple):
    """Disk usage of a file or folder."""

    bytes: int
    """On the disk, as `du` counts."""
    changed: float
    """When something in it was last written, in seconds since 1970."""


class Record(NamedTuple):
    """A task's file below `luigi/`: its marker, or the attempts that have not led to one."""

    address: str
    """A path, or an `s3://` address."""
    written: float
    """In seconds since 1970."""

    @property
    def is_marker(self) -> bool:
        """True if the run has succeeded."""
        return self.address.endswith(".json")

    @property
    def task(self) -> str:
        """The address without its ending: a task's marker and attempts have the same."""
        return self.address.rpartition(".")[0]

    @property
    def task_id(self) -> str:
        """The task's id in Luigi."""
        return self.task.rpartition("/")[2]

    def read(self) -> dict[str, Any]:
        """The contents, whichever version of the template wrote them.

        Raises PipelineError if they cannot be read, or are no marker or attempts.
        """
        try:
            contents = json.loads(store.read(self.address))
        except OSError as error:
            raise PipelineError(f"{self.address}: {error.strerror}") from error
        except ValueError as error:
            raise PipelineError(f"{self.address} is not JSON: {error}") from error
        if not isinstance(contents, dict) or not isinstance(contents.get("flow"), str):
            raise PipelineError(f"{self.address} names no run")
        return contents

    def runs(self) -> set[str]:
        """The runs that it names, as `FLOW/RUN_ID`, with those that were resumed."""
        contents = self.read()
        attempts = [*dicts_in(contents.get("resumed")), *dicts_in(contents.get("runs")), contents]
        runs = {
            f"{contents['flow']}/{attempt['run_id']}" for attempt in attempts if "run_id" in attempt
        }
        if not runs and self.is_marker:  # attempts may have failed before there was a run
            raise PipelineError(f"{self.address} names no run")
        return runs


def dicts_in(value: Any) -> list[dict[str, Any]]:
    """The dicts in a list; anything else was not written by a task."""
    return [item for item in value if isinstance(item, dict)] if isinstance(value, list) else []


def datastore() -> tuple[str, Path]:
    """Metaflow's datastore, and its folder on this machine: the same, unless it is on S3.

    Raises PipelineError if the settings are wrong, and ImportError without the environment.
    """
    from ..metaflow_config import datastore_root, local_root

    root, local = datastore_root(), local_root().resolve()
    return root if store.is_on_s3(root) else str(local), local


def overlays() -> list[Path]:
    """The overlays: the installed packages of flows that have a requirements.txt."""
    folders = map(metaflow_files.folders_in, present_and_former(paths.overlays()))
    return [folder for folder in chain(*folders) if not folder.suffix]


def present_and_former(folder: Path) -> set[Path]:
    """The folder, and where it was in 2026.11.0: in the repo, wherever the datastore was."""
    return {*map(with_real_parent, (folder, paths.ROOT / ".metaflow" / folder.name))}


def with_real_parent(folder: Path) -> Path:
    """The folder below its resolved parent: only `.metaflow` itself may be a link."""
    return folder.parent.resolve() / folder.name


def records(datastore: str) -> list[Record]:
    """The markers and attempts of all tags in the datastore, the newest first.

    Raises PipelineError if S3 does not answer, and OSError if a folder cannot be read.
    """
    top = f"{datastore}/luigi"
    if store.is_on_s3(datastore):
        from ..store import s3

        files = s3.written_below(top)
    else:
        files = _written_below(top, set()) if os.path.lexists(top) else iter(())
    all_records = (Record(*file) for file in files if file[0].endswith((".json", ".attempts")))
    return sorted(all_records, key=lambda record: record.written, reverse=True)


def _written_below(folder: str, seen: set[str]) -> Iterator[tuple[str, float]]:
    # Unlike elsewhere, links are followed: a marker counts wherever it is.
    if (real := os.path.realpath(folder)) in seen:
        return
    seen.add(real)
    with os.scandir(folder) as entries:
        for entry in entries:
            try:
                status = entry.stat()
            except FileNotFoundError:
                if entry.is_symlink():  # e.g. to a disk that is not mounted
                    raise
                continue  # attempts that have just succeeded
            if stat.S_ISDIR(status.st_mode):
                yield from _written_below(entry.path, seen)
            else:
                yield entry.path, status.st_mtime


def usage(*files: Path) -> Usage:
    """Disk usage of files and folders, with all that is in them."""
    total, changed = 0, 0.0
    remaining = [str(file) for file in files]
    while remaining:
        path = remaining.pop()
        with contextlib.suppress(OSError):
            status = os.lstat(path)
            total, changed = total + status.st_blocks * 512, max(changed, status.st_mtime)
            if stat.S_ISDIR(status.st_mode):
                remaining += [f"{path}/{name}" for name in os.listdir(path)]  # noqa: PTH208 - faster
    return Usage(total, changed)


def running_tasks(local: Path) -> dict[str, float]:
    """The tasks that run on this machine, by their id in Luigi, and since when."""
    running = {}
    for file in filter(is_held, (local / paths.LOCKS).glob("*.lock")):
        with contextlib.suppress(FileNotFoundError):
            running[file.stem] = file.stat().st_mtime
    return running


def is_held(lock: Path) -> bool:
    """True if a process holds the lock that is this file."""
    with contextlib.suppress(FileNotFoundError), lock.open("rb") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except OSError:
            return True
    return False


def left_by_kills(local: Path) -> Iterator[Path]:
    """What processes that were killed have left: temporary files and folders, and locks."""
    pid_files = [*(local / paths.LOCKS).glob("*/*.pid")]  # Luigi's, of one command each
    over = [file for file in pid_files if not any(map(_is_process, file.read_text().split()))]
    yield from over
    if over == pid_files and not running_tasks(local):  # else they may be of what is running
        yield from local.glob("metaflow.*")  # of a run or a task, or on its way to or from S3
    yield from (local / "luigi").rglob("*.tmp")  # a marker that was not yet whole
    for folder in (paths.LOCKS, "overlays", "images"):
        yield from (lock for lock in (local / folder).glob("*.lock") if not is_held(lock))
    for overlay in (local / "overlays").glob("*.making"):
        if not is_held(overlay.with_name(f"{overlay.name.partition('.')[0]}.lock")):
            yield overlay


def _is_process(text: str) -> bool:
    try:
        os.kill(int(text), 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass
    return True


def running_flows(local: Path, over: Collection[str]) -> set[str]:
    """The flows that may be running, however they were started.

    That is, a process of this machine names one of their runs, or one has not ended and did
    something a short while ago. Those that are `over` are known to have ended, as `FLOW/RUN_ID`.
    """
    run_ids = _run_ids_of_processes()
    since = time.time() - RECENTLY
    return {
        run.parent.name
        for run in metaflow_files.runs(local)
        if run.name in run_ids
        or (
            f"{run.parent.name}/{run.name}" not in over
            and metaflow_files.last_change(run) > since
            and not metaflow_files.has_succeeded(run)
        )
    }


def _run_ids_of_processes() -> set[str]:
    command_lines = []
    if Path("/proc/self/cmdline").exists():
        for file in Path("/proc").glob("[0-9]*/cmdline"):
            with contextlib.suppress(OSError):
                command_lines.append(file.read_bytes())
    else:
        command = ["ps", "-A", "-ww", "-o", "args="]
        command_lines.append(subprocess.run(command, capture_output=True, check=True).stdout)
    return {run_id.decode() for line in command_lines for run_id in _RUN_ID.findall(line)}
