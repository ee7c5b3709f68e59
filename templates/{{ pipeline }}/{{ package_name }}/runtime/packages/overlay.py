"""The overlay of a flow: the packages of its own `requirements.txt`, on top of the repo's.

An overlay is a folder with the packages that the repo's environment lacks. The flow and its steps
have it on `PYTHONPATH`, and its programs on `PATH`. It is made once for each combination of
requirements, Python and environment; the environment itself does not change.
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
from ..store.files import locked
from .requirements import CHANGE_ONE, EDITABLE, Requirements, normal, own_requirements

MADE_FROM = "overlay.json"
"""File in an overlay: what it was made from and when. Its time is that of the last use."""

# ` + cowsay==6.1`, and from an address ` + cowsay @ URL` or ` + cowsay==6.1 (from URL)`
_PLANNED = re.compile(r" \+ (?P<name>[^\s=]+)(?:==(?P<version>\S+))?(?: @ | \(from )?(?P<url>\S+)?")


def environment_for(flow_file: Path, show: Callable[[str], None] | None = None) -> dict[str, str]:
    """The flow's `PYTHONPATH` and `PATH`, with its overlay first; empty if it has none.

    `show` gets the lines of what is done to make the overlay, which are printed by default.
    """
    folder = overlay(flow_file, show)
    if not folder:
        return {}
    environment = metaflow_environment()
    search_path = [str(folder), environment.get("PYTHONPATH")]
    return {
        "PYTHONPATH": os.pathsep.join(filter(None, search_path)),
        "PATH": os.pathsep.join([str(folder / "bin"), environment["PATH"]]),
    }


def packages_for(flow_file: Path) -> list[str]:
    """What the flow's overlay has, e.g. `cowsay==6.1`: the versions of its first run."""
    folder = overlay(flow_file)
    if not folder:
        return []
    packages: list[str] = json.loads((folder / MADE_FROM).read_text())["packages"]
    return packages


def overlay(flow_file: Path, show: Callable[[str], None] | None = None) -> Path | None:
    """The folder with the packages of the `requirements.txt` beside a flow's file.

    It is made if there is none yet. None where the file is missing or has no requirements.

    Raises RequirementsError where the packages cannot be installed, above all where they need
    another version than the repo's locked one, which stays.
    """
    try:
        wanted = own_requirements(flow_file)
        if not wanted:
            return None
        folder = paths.overlays() / _key(wanted)
        if not _mark_used(folder):
            flow = Path(os.path.relpath(flow_file, paths.FLOWS)).as_posix()
            _make(folder, wanted, flow, show or partial(console.show_line, flow))
        return folder
    except OSError as error:
        file = paths.shown(flow_file.with_name("requirements.txt"))
        raise RequirementsError(f"{file} cannot be installed: {error}") from error


def _key(wanted: Requirements) -> str:
    """A hash of the requirements, Python and its packages: the overlay's name."""
    # An option may name a folder, which is relative to the option's file.
    lines = [
        (line.text, line.is_constraint, str(line.file.parent) if line.text.startswith("-") else "")
        for line in wanted.lines
    ]
    soabi = sysconfig.get_config_var("SOABI")
    # Scripts start with the path of this Python; checkouts may share a folder of overlays.
    python = [
        sys.executable,
        *sys.version_info,
        sys.implementation.name,
        sysconfig.get_platform(),
        soabi,
    ]
    made_from = json.dumps([lines, python, sorted(wanted.installed.items())])
    return hashlib.sha256(made_from.encode()).hexdigest()[:20]


def _mark_used(folder: Path) -> bool:
    """Set the overlay's time to now, because `clean` deletes unused ones; False without one."""
    with contextlib.suppress(OSError):  # a read-only image or repo, or no overlay
        os.utime(folder / MADE_FROM)
    return (folder / MADE_FROM).is_file()


def _make(folder: Path, wanted: Requirements, flow: str, show: Callable[[str], None]) -> None:
    """Make the overlay in a temporary folder and rename it; delete what killed processes left."""

    def skip(_: str) -> None:
        raise BlockingIOError

    folder.parent.mkdir(parents=True, exist_ok=True)
    for unfinished in folder.parent.glob("*.making"):
        lock = folder.with_name(unfinished.name.partition(".")[0] + ".lock")
        with contextlib.suppress(BlockingIOError), locked(lock, skip):
            shutil.rmtree(unfinished, ignore_errors=True)

    def on_wait(process_id: str) -> None:
        show(f"waiting for process {process_id}, which is making its environment")

    with locked(folder.with_suffix(".lock"), on_wait):
        if _mark_used(folder):  # another process was faster
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
            shutil.rmtree(folder, ignore_errors=True)  # an overlay that was partly deleted
            made.rename(folder)


def _install(folder: Path, wanted: Requirements, show: Callable[[str], None]) -> list[str]:
    """Install the packages that the environment lacks into the folder, and return their names."""
    installed = wanted.installed
    constraints, overrides = folder.with_name("constraints.txt"), folder.with_name("overrides.txt")
    constraints.write_text(
        "".join(f"{name}=={at}\n" for name, at in installed.items() if at != EDITABLE)
    )
    command = [
        *(_uv(wanted), "pip", "install", f"--project={paths.ROOT}", f"--python={sys.executable}"),
        *("--color=never", "--no-progress"),
        *(f"--requirements={wanted.file}", f"--constraints={constraints}"),
    ]
    # As if into the environment, so that uv sees which packages it has. A system's Python forbids
    # that, even when nothing is changed.
    plan = _run([*command, "--dry-run", "--break-system-packages"], wanted)
    packages, pins = [], []
    for planned in filter(None, map(_PLANNED.fullmatch, plan)):
        name, package = normal(planned["name"]), planned[0].removeprefix(" + ")
        if (planned["url"] or "").startswith("file:"):
            raise wanted.error(
                f"{package} is a path, and the code there may change while this file does not",
                "require a package and its version, from a folder with `--find-links FOLDER`, or "
                "move the code into the repo's own package",
            )
        if name not in installed:
            packages.append(package)
            pins += [] if planned["url"] else [f"{name}=={planned['version']}"]
        elif planned["version"] != installed[name]:
            reason = f"it would change the repo's {name} ({installed[name]}) to {package}"
            raise wanted.error(reason, CHANGE_ONE)
    if packages:
        # A condition that never holds leaves out the packages that the environment has.
        overrides.write_text("".join(f"{name}; python_version < '0'\n" for name in installed))
        into = [f"--target={folder}", f"--overrides={overrides}"]
        _run([*command, *into, *pins], wanted, show)
    return packages


def _uv(wanted: Requirements) -> str:
    """The program uv: the one that `uv run` names in UV, or else the one on PATH."""
    for name in (os.environ.get("UV"), "uv"):
        if name and (program := shutil.which(name)):
            return program
    raise wanted.error(
        "there is no uv on PATH", "pipx install uv  # or python3 noxfile.py -s run, which brings it"
    )


def _run(
    command: Sequence[str], wanted: Requirements, show: Callable[[str], None] | None = None
) -> list[str]:
    """The lines that uv prints, shown as well; a RequirementsError where it fails."""
    printed: list[str] = []

    def on_line(line: str) -> None:
        printed.append(line)
        if show:
            show(line)

    folder = wanted.file.parent
    # .env may have the password of an index. A message is not wrapped: its first line is the error.
    environment = metaflow_environment() | {"UV_NO_WRAP": "1"}
    if process.run(command, cwd=folder, env=environment, timeout=None, on_line=on_line):
        raise wanted.failure(printed)
    return printed
