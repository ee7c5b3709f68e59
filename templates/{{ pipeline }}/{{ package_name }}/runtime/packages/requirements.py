"""A flow's `requirements.txt`: what it says, what it is laid over, and what is wrong with it."""

from __future__ import annotations

import contextlib
import json
import os
import re
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

from .. import paths
from ..errors import RequirementsError

_COMMENT = re.compile(r"(^|\s)#.*")
_INCLUDE = re.compile(r"(-r|-c|--requirement\b|--constraint\b)\s*=?\s*(.+)")
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
_DIST_INFO = re.compile(r"([A-Za-z0-9][^-]*)-([^-]+)\.dist-info")
# How uv begins what it says of an error; older versions draw it as a tree.
_LEAD = re.compile(r"\s*(?:(?P<error>error:|\u00d7)|cause:|[├╰]─▶)?\s*")
_NO_NETWORK = re.compile(r"[Ff]ailed to fetch|error sending request|network was disabled")

_NETWORK = "pyproject.toml, or from variables such as UV_DEFAULT_INDEX and HTTPS_PROXY"

EDITABLE = "editable"
"""In place of the version of what is worked on: it says nothing, and is no constraint."""


class Line(NamedTuple):
    """A line of a requirements file, without comments, its continuations joined."""

    file: Path
    number: int
    text: str
    is_constraint: bool

    @property
    def name(self) -> str:
        """The package that the line is about, "" for an option."""
        found = _NAME.match(self.text)
        return normal(found[0]) if found else ""

    def __str__(self) -> str:
        """As messages name it; an address stays out, for it may hold a password."""
        text = re.split(r"\s*(?:@|\s--hash|\w+\+?\w*://)", self.text)[0]
        return f"{paths.shown(self.file)}, line {self.number}" + (f": `{text}`" if text else "")


class Requirements(NamedTuple):
    """A flow's own requirements, and the packages that they are laid over."""

    file: Path
    lines: Sequence[Line]
    installed: dict[str, str]

    def conflict(self, names: Iterable[str], with_: Iterable[str], said: str) -> RequirementsError:
        """The error of requirements that do not go with these packages of the repo."""
        held = ", ".join(f"{name}=={self.installed[name]}" for name in with_)
        return RequirementsError(
            f"{self._blamed(names)} conflicts with the repo's {held}\n{said}\n"
            "change the requirement, or the repo's own dependency in pyproject.toml and "
            "`nox -s setup`"
        )

    def failure(self, printed: Sequence[str], network: str = _NETWORK) -> RequirementsError:
        """The error of what uv has printed when it failed; `network` says how it was told of it."""
        leads = [_LEAD.match(line) for line in printed]
        begins = [at for at, lead in enumerate(leads) if lead and lead["error"]]
        told = [_LEAD.sub("", line, count=1) for line in printed[begins[0] if begins else 0 :]]
        said = "\n".join(filter(None, told))
        names = {normal(name) for name in _NAME.findall(said)}
        held = [
            name
            for name, version in self.installed.items()
            if re.search(rf"(?<![\w.-]){re.escape(f'{name}=={version}')}(?!\.?\w)", said)
        ]
        if held and "No solution found" in said:
            return self.conflict(names, held, said)
        way_out = "correct the file"
        if _NO_NETWORK.search(said):
            way_out = (
                "is the address right, and can it be reached? uv takes index and proxy from "
                f"{network}"
            )
        return RequirementsError(f"{self._blamed(names)} cannot be installed\n{said}\n{way_out}")

    def _blamed(self, names: Iterable[str]) -> str:
        wanted = set(names)
        lines = [str(line) for line in self.lines if line.name in wanted]
        return "; ".join(lines) or paths.shown(self.file)


def read(file: Path) -> list[Line]:
    """The lines of a requirements file, with those of the files that it includes in their place.

    Raises RequirementsError where a file is not there or no text, OSError where it cannot be read.
    """
    return _read(file, is_constraint=False, seen=set())


def _read(file: Path, *, is_constraint: bool, seen: set[Path]) -> list[Line]:
    if file.resolve() in seen:
        return []
    seen.add(file.resolve())
    try:
        text = file.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise RequirementsError(f"{paths.shown(file)} is not UTF-8: {error}") from error
    found: list[Line] = []
    joined, first = "", 1
    for number, raw in enumerate([*text.splitlines(), ""], start=1):
        first = first if joined else number
        joined += _COMMENT.sub("", raw).strip()
        if joined.endswith("\\"):
            joined = joined[:-1] + " "
            continue
        line, joined = Line(file, first, joined.strip(), is_constraint), ""
        include = _INCLUDE.fullmatch(line.text)
        if include:
            other = file.parent / include[2]
            if not other.is_file():
                raise RequirementsError(f"{line}: there is no {paths.shown(other)}")
            constrains = is_constraint or include[1] in ("-c", "--constraint")
            found += _read(other, is_constraint=constrains, seen=seen)
        elif line.text:
            found.append(line)
    return found


def installed_packages() -> dict[str, str]:
    """The packages that this Python has, name to version; `editable` for one that is worked on.

    The names of their folders say it, which takes a millisecond; few have the file that tells
    whether they are installed as editable, as the repo's own is in a checkout.
    """
    found: dict[str, str] = {}
    for folder in sys.path:
        with contextlib.suppress(OSError):  # an archive, or not there
            for name in os.listdir(folder or "."):  # noqa: PTH208 - only the names, and fast
                match = _DIST_INFO.fullmatch(name)
                if match and normal(match[1]) not in found:
                    editable = _is_editable(Path(folder, name, "direct_url.json"))
                    found[normal(match[1])] = EDITABLE if editable else match[2]
    return found


def _is_editable(direct_url: Path) -> bool:
    try:
        told = json.loads(direct_url.read_bytes())
    except FileNotFoundError:
        return False
    return bool(told.get("dir_info", {}).get("editable"))


def normal(name: str) -> str:
    """A package's name as indexes compare it."""
    return re.sub(r"[-_.]+", "-", name).lower()
