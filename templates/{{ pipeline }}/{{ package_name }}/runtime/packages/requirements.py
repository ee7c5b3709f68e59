"""A flow's `requirements.txt`: its lines, the packages it builds on, and why uv refuses it."""

from __future__ import annotations

import contextlib
import json
import os
import re
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from .. import paths
from ..errors import RequirementsError

_COMMENT = re.compile(r"(^|[ \t])#.*", re.MULTILINE)
_CONTINUATION = re.compile(r"[ \t]*\\[ \t]*(?:\n[ \t]*|\Z)")
_INCLUDE = re.compile(r"(-r|-c|--requirement\b|--constraint\b)\s*=?\s*(.+)")
_DIST_INFO = re.compile(r"([A-Za-z0-9][^-]*)-([^-]+)\.dist-info")
# uv prints progress, then its error and the causes of it; older versions draw them as a tree. In
# the log of an image's build the beginning of a line may be missing.
_ERROR = re.compile(r"^\s*(?:error:|\u00d7) *|(?=No solution found)", re.MULTILINE)
_CAUSE = re.compile(r"\n\s*(?:cause:|[├╰]─▶) *")
_NO_NETWORK = re.compile(r"[Ff]ailed to fetch|error sending request|network was disabled")

_NETWORK = "pyproject.toml, or from variables such as UV_DEFAULT_INDEX and HTTPS_PROXY"

EDITABLE = "editable"
"""Stands for the version of an editable package, which is no constraint."""

CHANGE_ONE = "change the requirement, or the repo's dependency in pyproject.toml and `nox -s setup`"
"""The way out of a conflict between a flow's requirements and the repo's packages."""


class Line(NamedTuple):
    """A line of a requirements file, without comments, its continuations joined."""

    file: Path
    text: str
    is_constraint: bool


class Requirements(NamedTuple):
    """A flow's own requirements, and the packages of the repo that they build on."""

    file: Path
    lines: Sequence[Line]
    installed: dict[str, str]

    def error(self, reason: str, hint: str) -> RequirementsError:
        """The error that names the file, the reason and the way out."""
        return RequirementsError(
            f"{paths.shown(self.file)} cannot be installed: {reason}\nhint: {hint}"
        )

    def failure(self, printed: Sequence[str], network: str = _NETWORK) -> RequirementsError:
        """The error with the reason that uv printed; `network` names where its index is set."""
        text = "\n".join(line.rstrip() for line in printed if line.strip())
        if match := _ERROR.search(text):
            text = text[match.end() :]
        hint = "correct the file"
        if _NO_NETWORK.search(text):
            hint = f"check the address and the network; uv takes index and proxy from {network}"
        elif "No solution found" in text:
            hint = CHANGE_ONE
        # Causes go into the first line, because a run's summary shows only first and last line.
        return self.error(_CAUSE.sub(": ", text), hint)


def own_requirements(flow_file: Path) -> Requirements | None:
    """The `requirements.txt` beside a flow's file; None if it is missing or has no requirements."""
    file = flow_file.with_name("requirements.txt")
    lines = read(file) if file.is_file() else []
    return Requirements(file, lines, installed_packages()) if lines else None


def read(file: Path) -> list[Line]:
    """The lines of a requirements file, with those of included files in their place.

    Raises RequirementsError where a file is missing or not text, OSError where it is unreadable.
    """
    return [*_read(file, is_constraint=False, seen=set())]


def _read(file: Path, *, is_constraint: bool, seen: set[Path]) -> Iterator[Line]:
    if file.resolve() in seen:
        return
    seen.add(file.resolve())
    try:
        text = file.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise RequirementsError(f"{paths.shown(file)} is not UTF-8: {error}") from error
    text = _CONTINUATION.sub(" ", _COMMENT.sub("", text))
    for line in filter(None, map(str.strip, text.splitlines())):
        include = _INCLUDE.fullmatch(line)
        if not include:
            yield Line(file, line, is_constraint)
            continue
        other = file.parent / include[2]
        if not other.is_file():
            raise RequirementsError(
                f"{paths.shown(file)}: there is no {paths.shown(other)}\n"
                f"hint: correct `{line}`; paths start from the folder of {file.name}"
            )
        constrains = is_constraint or include[1] in ("-c", "--constraint")
        yield from _read(other, is_constraint=constrains, seen=seen)


def installed_packages() -> dict[str, str]:
    """The packages that this Python has, name to version; EDITABLE for an editable one.

    They are read from the names of folders, which takes a millisecond. Only the few packages that
    have a direct_url.json can be editable, as the repo's own is in a checkout.
    """
    packages: dict[str, str] = {}
    for folder in sys.path:
        with contextlib.suppress(OSError):  # an archive, or missing
            for name in os.listdir(folder or "."):  # noqa: PTH208 - only the names, and fast
                match = _DIST_INFO.fullmatch(name)
                if match and normal(match[1]) not in packages:
                    editable = _is_editable(Path(folder, name, "direct_url.json"))
                    packages[normal(match[1])] = EDITABLE if editable else match[2]
    return packages


def _is_editable(direct_url: Path) -> bool:
    try:
        origin = json.loads(direct_url.read_bytes())
    except FileNotFoundError:
        return False
    return bool(origin.get("dir_info", {}).get("editable"))


def normal(name: str) -> str:
    """A package's name as indexes compare it."""
    return re.sub(r"[-_.]+", "-", name).lower()
