"""What runs leave behind: what lies where, how much it takes, and who is at work on it.

It reads and changes nothing. But for a datastore on S3 it takes nothing but Python itself:
`nox -s status` has to say something where there is no environment yet.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import json
import os
import re
import stat
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from .. import paths, store
from ..errors import PipelineError

NO_RUNS = {"_meta", "data"}
"""The folders of a flow's folder that are no runs."""

RECENTLY = 3600.0
"""Seconds for which a run that has not ended may be at work, though no process names it."""

_RUN_ID = re.compile(rb"--run-id[\0 =]'?([\w.-]+)")


class Usage(NamedTuple):
    """What a file or folder takes."""

    bytes: int
    """On the disk, as `du` counts."""
    changed: float
    """When something in it was last written, in seconds since 1970."""


class Record(NamedTuple):
    """A marker, or the attempts that have not led to one: a task's file below `luigi/`."""

    place: str
    """Its path, or its `s3://` address."""
    written: float
    """In seconds since 1970."""

    @property
    def is_marker(self) -> bool:
        """Has the run succeeded?"""
        return self.place.endswith(".json")

    @property
    def task(self) -> str:
        """The place without its ending: the same for the marker and the attempts of a task."""
        return self.place.rpartition(".")[0]

    @property
    def task_id(self) -> str:
        """The task as Luigi names it."""
        return self.task.rpartition("/")[2]

    def read(self) -> dict[str, Any]:
        """What it says, whatever version of the template has written it.

        Raises PipelineError where it cannot be read, or is nothing of ours.
        """
        try:
            told = json.loads(store.read(self.place))
        except OSError as error:
            raise PipelineError(f"{self.place}: {error.strerror}") from error
        except ValueError as error:
            raise PipelineError(f"{self.place} is not JSON: {error}") from error
        if not isinstance(told, dict) or not isinstance(told.get("flow"), str):
            raise PipelineError(f"{self.place} names no run")
        return told

    def named(self) -> set[str]:
        """Each run that it names, as `FLOW/RUN_ID`, those among them that were resumed.

        Raises PipelineError as `read` does.
        """
        told = self.read()
        attempts = [*dicts(told.get("resumed")), *dicts(told.get("runs")), told]
        found = {f"{told['flow']}/{each['run_id']}" for each in attempts if "run_id" in each}
        if not found and self.is_marker:  # attempts may have come to none
            raise PipelineError(f"{self.place} names no run")
        return found


def dicts(value: Any) -> list[dict[str, Any]]:
    """The dicts of a list; what else there may be is nothing of ours."""
    return [each for each in value if isinstance(each, dict)] if isinstance(value, list) else []


def datastore() -> tuple[str, Path]:
    """Metaflow's datastore, and its folder on this machine: the same, but for one on S3.

    Raises PipelineError where the settings are wrong, and ImportError without the repo's
    environment.
    """
    from ..metaflow_config import datastore_root, local_root

    place, here = datastore_root(), local_root().resolve()
    return place if store.is_on_s3(place) else str(here), here


def inside(folder: Path, *, files: bool = False) -> list[Path]:
    """The folders in a folder, or the files; no links, for what they lead to is somebody else's."""
    try:
        with os.scandir(folder) as entries:
            return sorted(
                Path(each.path)
                for each in entries
                if (each.is_file if files else each.is_dir)(follow_symlinks=False)
            )
    except OSError as error:
        if error.errno not in (errno.ENOENT, errno.ENOTDIR):
            raise
        return []


def flows(here: Path) -> list[Path]:
    """The folder of each flow that has run."""
    return [folder for folder in inside(here) if (folder / "_meta" / "_self.json").is_file()]


def runs(here: Path) -> list[Path]:
    """The folder of each run, FLOW/RUN_ID."""
    return [run for flow in flows(here) for run in inside(flow) if run.name not in NO_RUNS]


def overlays() -> list[Path]:
    """The overlays of flows with packages of their own."""
    return [folder for folder in inside(paths.overlays().resolve()) if not folder.suffix]


def records(place: str) -> list[Record]:
    """The markers and attempts of all tags in the datastore, the newest first.

    Raises PipelineError where S3 does not answer, and OSError where a folder cannot be read.
    """
    if store.is_on_s3(place):
        from ..store import s3

        found = s3.written_below(f"{place}/luigi")
    else:
        found = _written_below(Path(place, "luigi"))
    its = (Record(*each) for each in found if each[0].endswith((".json", ".attempts")))
    return sorted(its, key=lambda each: each.written, reverse=True)


def _written_below(top: Path) -> Iterator[tuple[str, float]]:
    # Links are followed, unlike elsewhere: what a marker names is named wherever that lies.
    folders, seen = [str(top)] if os.path.lexists(top) else [], set()
    while folders:
        folder = folders.pop()
        if (real := os.path.realpath(folder)) in seen:
            continue
        seen.add(real)
        with os.scandir(folder) as entries:
            for entry in entries:
                try:
                    status = entry.stat()
                except FileNotFoundError:
                    if entry.is_symlink():  # to a disk that is not there now, say
                        raise
                    continue  # attempts that have just succeeded
                if stat.S_ISDIR(status.st_mode):
                    folders.append(entry.path)
                else:
                    yield entry.path, status.st_mtime


def usage(*of: Path) -> Usage:
    """What files and folders take, with all that is in them."""
    total, changed = 0, 0.0
    left = [str(path) for path in of]
    while left:
        path = left.pop()
        with contextlib.suppress(OSError):
            status = os.lstat(path)
            total, changed = total + status.st_blocks * 512, max(changed, status.st_mtime)
            if stat.S_ISDIR(status.st_mode):
                left += [f"{path}/{name}" for name in os.listdir(path)]  # noqa: PTH208 - faster
    return Usage(total, changed)


def tasks_at_work(here: Path) -> dict[str, float]:
    """The tasks of this machine that are at work, by Luigi's id for them, and since when.

    Their locks are neither made nor kept.
    """
    found = {}
    for lock in (here / "luigi-locks").glob("*.lock"):
        with contextlib.suppress(FileNotFoundError), lock.open("rb") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
            except OSError:
                found[lock.stem] = lock.stat().st_mtime
    return found


def run_ids_at_work() -> set[str]:
    """The ids of the runs whose steps are processes of this machine, whoever has started them."""
    lines = []
    if Path("/proc/self/cmdline").exists():
        for file in Path("/proc").glob("[0-9]*/cmdline"):
            with contextlib.suppress(OSError):
                lines.append(file.read_bytes())
    else:
        command = ["ps", "-A", "-ww", "-o", "args="]
        lines.append(subprocess.run(command, capture_output=True, check=True).stdout)
    return {found.decode() for line in lines for found in _RUN_ID.findall(line)}


def may_be_at_work(run: Path) -> bool:
    """Has the run not ended, and done something a short while ago?"""
    if any((run / "end").glob("*/*.DONE.lock")):
        return False
    changed = max(each.stat().st_mtime for each in (run, *inside(run)))
    return changed > time.time() - RECENTLY


def step_at(run: Path) -> str:
    """The step at which the run has stopped: one that failed, else one that did not end."""
    unended = ""
    for step in sorted(inside(run), key=lambda each: each.stat().st_mtime):
        for task in inside(step) if not step.name.startswith("_") else ():
            told = sorted((task / "_meta").glob("sysmeta_attempt_ok_*.json"))
            if told and b'"False"' in told[-1].read_bytes():
                return step.name
            if not told and not list((task / "_meta").glob("sysmeta_origin-task-id_*.json")):
                unended = unended or step.name
    return unended


def origins(run: Path) -> set[str]:
    """The ids of the runs whose finished steps this one has: their logs and cards are there."""
    found = set()
    for step in inside(run):
        for told in step.glob("*/_meta/sysmeta_origin-run-id_*.json"):
            with contextlib.suppress(ValueError):
                found.add(str(json.loads(told.read_bytes()).get("value")))
            break  # it is the same for all tasks
    return found
