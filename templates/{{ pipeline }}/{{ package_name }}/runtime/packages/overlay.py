"""The overlay of a flow: the packages of its own `requirements.txt`, over the repo's environment.

It is a folder with what the environment lacks, which the flow and its steps have on `PYTHONPATH`,
made once for each content, Python and environment. The environment itself stays as it is.
"""

from __future__ import annotations

import contextlib
import datetime
import hashlib
import json
import os
import re
import shutil
import sys
import sysconfig
import tempfile
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

from .. import console, paths, process
from ..errors import RequirementsError
from ..metaflow_config import metaflow_environment
from ..store.files import exclusive_lock
from .requirements import (
    EDITABLE,
    Requirements,
    installed_packages,
    normal,
    read,
)

MADE_FROM = "overlay.json"
"""File in an overlay: what it was made from and when. Its time is that of the last use."""

# ` + cowsay==6.1`, and from an address ` + cowsay @ URL` or ` + cowsay==6.1 (from URL)`
_PLANNED = re.compile(r" \+ (?P<name>[^\s=]+)(?:==(?P<version>\S+))?(?: @ | \(from )?(?P<url>\S+)?")


def environment_for(flow_file: Path) -> dict[str, str]:
    """`PYTHONPATH` as the flow's environment must have it; nothing for a flow without an overlay.

    Raises RequirementsError as `overlay` does.
    """
    folder = overlay(flow_file)
    if not folder:
        return {}
    there = metaflow_environment().get("PYTHONPATH")
    return {"PYTHONPATH": f"{folder}{os.pathsep}{there}" if there else str(folder)}


def overlay(flow_file: Path) -> Path | None:
    """The folder with the packages of the `requirements.txt` beside a flow's file, made if need be.

    None where there is no such file, or nothing in it.

    Raises RequirementsError where the packages cannot be had, above all where they need another
    version than the environment has: that one is the repo's locked version, and stays.
    """
    file = flow_file.with_name("requirements.txt")
    try:
        lines = read(file) if file.is_file() else []
        if not lines:
            return None
        wanted = Requirements(file, lines, installed_packages())
        folder = paths.overlays() / _key(wanted)
        if not _used(folder):
            _make(folder, wanted, flow_file)
        return folder
    except OSError as error:
        raise RequirementsError(f"{paths.shown(file)} cannot be installed: {error}") from error


def _key(wanted: Requirements) -> str:
    """A name for what these lines give with this Python and its packages."""
    # An option may name a folder, and mean the one beside its file.
    lines = [
        (line.text, line.is_constraint, str(line.file.parent) if line.text.startswith("-") else "")
        for line in wanted.lines
    ]
    soabi = sysconfig.get_config_var("SOABI")
    python = [*sys.version_info, sys.implementation.name, sysconfig.get_platform(), soabi]
    told = json.dumps([lines, python, sorted(wanted.installed.items())])
    return hashlib.sha256(told.encode()).hexdigest()[:20]


def _used(folder: Path) -> bool:
    """Is the overlay there? Then its time becomes now: one that is long unused may be deleted."""
    try:
        os.utime(folder / MADE_FROM)
    except FileNotFoundError:
        return False
    except OSError:  # it is there, in an image or a repo that is read-only
        return True
    return True


def _make(folder: Path, wanted: Requirements, flow_file: Path) -> None:
    """Make the overlay beside its place and rename it; what others left half-made goes away."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    for left in folder.parent.glob("*.making"):
        lock = left.with_name(left.name.partition(".")[0] + ".lock")
        with contextlib.suppress(_AtWorkError), exclusive_lock(lock, _leave_it):
            shutil.rmtree(left, ignore_errors=True)
    flow = Path(os.path.relpath(flow_file, paths.FLOWS)).as_posix()
    show = partial(console.show_line, flow)

    def tell_who_is_waited_for(process_id: str) -> None:
        show(f"waits for process {process_id}, which is making its environment")

    with exclusive_lock(folder.with_suffix(".lock"), tell_who_is_waited_for):
        if _used(folder):  # another process was faster
            return
        show(f"making the environment of {paths.shown(wanted.file)}, once")
        with tempfile.TemporaryDirectory(
            dir=folder.parent, prefix=f"{folder.name}.", suffix=".making"
        ) as scratch:
            made = Path(scratch, "packages")
            made.mkdir()
            made_from = {
                "flow": flow,
                "packages": _install(made, wanted, show),
                "python": sys.version.split()[0],
                "made": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
            }
            (made / MADE_FROM).write_text(json.dumps(made_from, indent=2) + "\n")
            shutil.rmtree(folder, ignore_errors=True)  # one that somebody has deleted in part
            made.rename(folder)


class _AtWorkError(Exception):
    """Another process is making the overlay."""


def _leave_it(process_id: str) -> None:
    raise _AtWorkError


def _install(made: Path, wanted: Requirements, show: Callable[[str], None]) -> list[str]:
    """Install into the folder what the environment lacks, and return what that is."""
    installed = wanted.installed
    constraints, overrides = made.with_name("constraints.txt"), made.with_name("overrides.txt")
    constraints.write_text(
        "".join(f"{name}=={at}\n" for name, at in installed.items() if at != EDITABLE)
    )
    command = [
        *(_uv(wanted), "pip", "install", f"--project={paths.ROOT}", f"--python={sys.executable}"),
        *("--color=never", "--no-progress"),
        *(f"--requirements={wanted.file}", f"--constraints={constraints}"),
    ]
    # As if into the environment, so that uv sees what is there already. A system's Python forbids
    # that, even where nothing is changed.
    plan = _run([*command, "--dry-run", "--break-system-packages"], wanted)
    packages, pins = [], []
    for found in filter(None, map(_PLANNED.fullmatch, plan)):
        name, package = normal(found["name"]), found[0].removeprefix(" + ")
        if (found["url"] or "").startswith("file:"):
            raise RequirementsError(
                f"{paths.shown(wanted.file)}: {package} is a path, and what lies there may change while "
                "the file stays as it is; name a package and its version, which may lie in a "
                "folder (`--find-links FOLDER`), or put the code into the repo's own package"
            )
        if name not in installed:
            packages.append(package)
            pins += [] if found["url"] else [f"{name}=={found['version']}"]
        elif found["version"] != installed[name]:
            raise wanted.conflict([name], [name], f"it would become {package}")
    if packages:
        # What the environment has is left out, by a condition that never holds.
        overrides.write_text("".join(f"{name}; python_version < '0'\n" for name in installed))
        into = [f"--target={made}", f"--overrides={overrides}"]
        _run([*command, *into, *pins], wanted, show)
    return packages


def _uv(wanted: Requirements) -> str:
    """uv's program: the one that runs us, else the one on PATH."""
    for name in (os.environ.get("UV"), "uv"):
        found = shutil.which(name) if name else None
        if found:
            return found
    raise RequirementsError(
        f"{paths.shown(wanted.file)} takes uv to install, and there is none on PATH: `pipx install uv`, "
        "or `python3 noxfile.py -s run`, which brings one"
    )


def _run(
    command: Sequence[str], wanted: Requirements, show: Callable[[str], None] | None = None
) -> list[str]:
    """The lines that uv prints, also shown; a RequirementsError says why it failed."""
    printed: list[str] = []

    def on_line(line: str) -> None:
        printed.append(line)
        if show:
            show(line)

    folder = wanted.file.parent
    environment = metaflow_environment()  # .env may have the password of an index
    if process.run(command, cwd=folder, env=environment, timeout=None, on_line=on_line):
        raise wanted.failure(printed)
    return printed
