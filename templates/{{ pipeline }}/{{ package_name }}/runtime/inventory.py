"""What runs leave behind: what lies where, how much it takes, and who is at work on it.

It reads files and changes none, and takes nothing but Python itself: `nox -s status` has to say
something where there is no environment yet.
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
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

from . import paths
from .errors import PipelineError

NO_RUNS = {"_meta", "data"}
"""The folders of a flow's folder that are no runs."""

RECENTLY = 3600.0
"""Seconds for which a run that has not ended may be at work, though no process names it."""

_RUN_ID = re.compile(rb"--run-id[\0 =]'?([\w.-]+)")


class Run(NamedTuple):
    """A run in Metaflow's local datastore."""

    flow: str
    run_id: str
    folder: Path

    @property
    def pathspec(self) -> str:
        """The run as Metaflow names it, `FLOW/RUN_ID`."""
        return f"{self.flow}/{self.run_id}"


class Usage(NamedTuple):
    """What a file or folder takes."""

    bytes: int
    """On the disk, as `du` counts."""
    changed: float
    """When something in it was last written, in seconds since 1970."""


class Record(NamedTuple):
    """A marker, or the attempts that have not led to one: a task's file below `luigi/`."""

    file: Path
    written: float
    """In seconds since 1970."""

    @property
    def is_marker(self) -> bool:
        """Has the run succeeded?"""
        return self.file.suffix == ".json"

    @property
    def task_id(self) -> str:
        """The task as Luigi names it."""
        return self.file.stem

    def read(self) -> dict[str, Any]:
        """What it says, whatever version of the template has written it.

        Raises PipelineError where it cannot be read, or is nothing of ours.
        """
        try:
            told = json.loads(self.file.read_bytes())
        except OSError as error:
            raise PipelineError(f"{self.file}: {error.strerror}") from error
        except ValueError as error:
            raise PipelineError(f"{self.file} is not JSON: {error}") from error
        if not isinstance(told, dict) or not isinstance(told.get("flow"), str):
            raise PipelineError(f"{self.file} names no run")
        return told

    def named(self) -> set[tuple[str, str]]:
        """Flow and id of each run that it names, those among them that were resumed.

        Raises PipelineError as `read` does.
        """
        told = self.read()
        attempts = [*dicts(told.get("resumed")), *dicts(told.get("runs")), told]
        found = {(told["flow"], str(each["run_id"])) for each in attempts if "run_id" in each}
        if not found and self.is_marker:  # attempts may have come to none
            raise PipelineError(f"{self.file} names no run")
        return found


def dicts(value: Any) -> list[dict[str, Any]]:
    """The dicts of a list; what else there may be is nothing of ours."""
    return [each for each in value if isinstance(each, dict)] if isinstance(value, list) else []


def local() -> Path:
    """The folder for what is local in any case: overlays, and the client's cache."""
    return (paths.ROOT / ".metaflow").resolve()


def datastore() -> Path:
    """Metaflow's local datastore.

    Raises PipelineError where there is none or the settings are wrong, and ImportError without the
    repo's environment.
    """
    from .metaflow_config import datastore_root
    from .stored import is_on_s3

    place = datastore_root()
    if is_on_s3(place):
        raise PipelineError(f"Metaflow's datastore is {place}, and nothing of it is looked at here")
    return Path(place).resolve()


def folders(folder: Path) -> list[Path]:
    """The folders in a folder, by name; no links, for what they lead to is somebody else's."""
    try:
        with os.scandir(folder) as entries:
            return sorted(Path(each.path) for each in entries if each.is_dir(follow_symlinks=False))
    except OSError as error:
        if error.errno not in (errno.ENOENT, errno.ENOTDIR):
            raise
        return []


def flows(root: Path) -> list[Path]:
    """The folder of each flow in the datastore."""
    return [folder for folder in folders(root) if (folder / "_meta" / "_self.json").is_file()]


def runs(root: Path) -> list[Run]:
    """The runs in the datastore."""
    return [
        Run(flow.name, folder.name, folder)
        for flow in flows(root)
        for folder in folders(flow)
        if folder.name not in NO_RUNS
    ]


def cards(root: Path, flow: str, run_id: str) -> Path:
    """The folder for the cards of a run, which need not have any."""
    return root / "mf.cards" / flow / "runs" / run_id


def overlays() -> list[Path]:
    """The overlays of flows with packages of their own."""
    return [folder for folder in folders(local() / "overlays") if not folder.suffix]


def records(root: Path) -> list[Record]:
    """The markers and attempts of all tags, the newest first.

    Links are followed here, unlike elsewhere: what a marker names is named wherever that lies.
    """

    def refuse(error: OSError) -> None:
        raise error

    found, seen = [], set()
    top = root / "luigi"
    walk = os.walk(top, onerror=refuse, followlinks=True) if top.is_dir() else iter(())
    for folder, below, names in walk:
        status = Path(folder).stat()
        if (status.st_dev, status.st_ino) in seen:
            below.clear()
            continue
        seen.add((status.st_dev, status.st_ino))
        for name in names:
            if name.endswith((".json", ".attempts")):
                file = Path(folder, name)
                with contextlib.suppress(FileNotFoundError):  # it has just succeeded
                    found.append(Record(file, file.stat().st_mtime))
    return sorted(found, key=lambda each: each.written, reverse=True)


def usage(*of: Path, until: float = float("inf")) -> Usage:
    """What files and folders take; raises TimeoutError at `until`, of `time.monotonic()`."""
    total, changed = 0, 0.0
    left: list[str] = []
    for path in of:
        with contextlib.suppress(OSError):
            status = path.lstat()
            total, changed = total + status.st_blocks * 512, max(changed, status.st_mtime)
            if stat.S_ISDIR(status.st_mode):
                left.append(str(path))
    while left:
        if time.monotonic() > until:
            raise TimeoutError
        with contextlib.suppress(OSError), os.scandir(left.pop()) as entries:
            for entry in entries:
                with contextlib.suppress(FileNotFoundError):
                    status = entry.stat(follow_symlinks=False)
                    total, changed = total + status.st_blocks * 512, max(changed, status.st_mtime)
                    if stat.S_ISDIR(status.st_mode):
                        left.append(entry.path)
    return Usage(total, changed)


def is_held(lock: Path) -> bool:
    """Does a process hold the lock that is the file? It is not made, and not kept."""
    try:
        descriptor = os.open(lock, os.O_RDONLY)
    except OSError:
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except OSError:
        return True
    finally:
        os.close(descriptor)
    return False


def tasks_at_work(root: Path) -> dict[str, float]:
    """The tasks that are at work, by the id that Luigi has for them, and since when."""
    found = {}
    for lock in (root / "luigi-locks").glob("*.lock"):
        with contextlib.suppress(FileNotFoundError):
            if is_held(lock):
                found[lock.stem] = lock.stat().st_mtime
    return found


def run_ids_at_work() -> set[str]:
    """The ids of the runs whose steps are processes of this machine, whoever has started them."""
    return {found.decode() for line in _command_lines() for found in _RUN_ID.findall(line)}


def _command_lines() -> Iterable[bytes]:
    if not Path("/proc/self/cmdline").exists():
        command = ["ps", "-A", "-ww", "-o", "args="]
        return subprocess.run(command, capture_output=True, check=True).stdout.splitlines()
    return _from_proc()


def _from_proc() -> Iterator[bytes]:
    for folder in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            yield (folder / "cmdline").read_bytes()


def step_at(run: Path) -> str:
    """The step at which the run has stopped: one that failed, else one that did not end."""
    unended = ""
    for step in sorted(folders(run), key=lambda each: each.stat().st_mtime):
        for task in folders(step):
            if step.name.startswith("_") or task.name == "_meta":
                continue
            told = sorted((task / "_meta").glob("sysmeta_attempt_ok_*.json"))
            if told and b'"False"' in told[-1].read_bytes():
                return step.name
            if not told and not list((task / "_meta").glob("sysmeta_origin-task-id_*.json")):
                unended = unended or step.name
    return unended


def may_be_at_work(run: Path) -> bool:
    """Has the run not ended, and done something a short while ago?"""
    if any((run / "end").glob("*/*.DONE.lock")):
        return False
    changed = max(each.stat().st_mtime for each in (run, *folders(run)))
    return changed > time.time() - RECENTLY


def origins(run: Path) -> set[str]:
    """The runs whose finished steps this one has taken over: its logs and cards are theirs."""
    found = set()
    for step in folders(run):
        for task in folders(step):
            told = list((task / "_meta").glob("sysmeta_origin-run-id_*.json"))
            if told:
                with contextlib.suppress(ValueError):
                    found.add(str(json.loads(told[0].read_bytes()).get("value")))
                break  # it is the same for all tasks
    return found - {"None"}


def in_units(size: float) -> str:
    """A number of bytes for people: `340 MB`."""
    for unit in ("B", "kB", "MB", "GB"):
        if size < 999.5:
            return f"{size:.0f} {unit}" if size >= 10 or unit == "B" else f"{size:.1f} {unit}"
        size /= 1000
    return f"{size:.1f} TB"


def in_time(seconds: float) -> str:
    """A number of seconds for people: `3 h`."""
    for unit, length in (("d", 86400), ("h", 3600), ("min", 60)):
        if seconds >= length:
            return f"{seconds // length:.0f} {unit}"
    return f"{max(seconds, 0):.0f} s"


def counted(number: int, noun: str) -> str:
    """A number and what it counts: `1 run`, `2 runs`."""
    plural = noun if noun.endswith("s") else noun + "s"
    return f"{number} {noun if number == 1 else plural}"
