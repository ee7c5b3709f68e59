"""Which files make the image of a flow: its own or the default layers, and the repo's files."""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Callable, Iterator
from pathlib import Path, PurePosixPath
from typing import NamedTuple

from .. import paths
from ..errors import ImageError
from ..packages.requirements import Requirements, own_requirements
from ..version import git, refusal

FIRST_LINES = "ARG BASE and FROM ${BASE}"
"""What a Dockerfile begins with."""

_EXEC = re.compile(r"(?m)^[^#\n]*\bexec\s.*\$.*[@*]")
_SHELL = re.compile(r"#! ?/\S*/(env +)?(ba|da|a|k|z)?sh\b")


class Layers(NamedTuple):
    """The files that describe the image of a flow."""

    dockerfile_base: Path
    """What the base is built by."""
    dockerfile: Path
    """What is built on the base."""
    launch: Path
    """The entry point."""
    requirements: Requirements | None
    """The flow's own, if it has any."""


def layers_of(flow_file: Path) -> Layers:
    """The files that describe the image of the flow in this file, checked.

    Raises ImageError if they do not fit together, and RequirementsError if the `requirements.txt`
    cannot be read.
    """
    own, defaults = flow_file.parent, paths.CONFIG / "metaflowtask"

    def own_or_default(name: str) -> Path:
        if (own / name).is_file():
            return own / name
        if not (defaults / name).is_file():
            shown = paths.shown(defaults / name)
            raise ImageError(
                f"there is no {shown}, which every flow's image needs\n"
                f"hint: git checkout HEAD -- {shown}"
            )
        return defaults / name

    base, dockerfile = own_or_default("Dockerfile-base"), own_or_default("Dockerfile")
    if base.parent == own and dockerfile.parent != own:
        raise ImageError(
            f"{paths.shown(base)} has no Dockerfile beside it, which says what is built on it\n"
            f"hint: cp {paths.shown(dockerfile)} {paths.shown(own)}/, and adapt it to the base"
        )
    # Docker's engine has crashed on a file without it (BuildKit in 26.1).
    for file, begin in ((base, "FROM and an image"), (dockerfile, FIRST_LINES)):
        if not re.search(rb"(?im)^(\xef\xbb\xbf)?\s*FROM\s", file.read_bytes()):
            raise ImageError(f"{paths.shown(file)} has no FROM\nhint: begin it with {begin}")
    launch = own_or_default("launch.sh")
    _check_launch(launch)
    return Layers(base, dockerfile, launch, own_requirements(flow_file))


def _check_launch(file: Path) -> None:
    """Raise ImageError if the script cannot be run, or would keep signals from the flow."""
    name = paths.shown(file)
    if not file.stat().st_mode & stat.S_IXUSR:
        raise ImageError(
            f"{name} is not executable, and the container starts it\nhint: chmod +x {name}"
        )
    text = file.read_bytes().decode(errors="replace")
    first_line = text.partition("\n")[0]
    if not re.match("#! ?/", first_line) or first_line.endswith("\r"):
        raise ImageError(
            f"{name} begins with {first_line!r}, which names no program to run it\n"
            "hint: begin it with #!/bin/sh, and use the line ends of Unix"
        )
    if _SHELL.match(first_line) and not _EXEC.search(text):
        raise ImageError(
            f'{name} has no `exec "$@"`, so no signal reaches the flow\nhint: end it with exec "$@"'
        )


def repo_files() -> list[str]:
    """The repo's files that go into images: their paths from its root, sorted.

    They are the files that git tracks or would track, also in repos within the repo, without those
    that the repo's `.dockerignore` names; without git, the files of the package.

    Raises ImageError if git fails, or `.dockerignore` has a wrong pattern.
    """
    names = set(_files_of_git())
    if not any(name.startswith(f"{paths.PACKAGE.name}/") for name in names):
        if reason := refusal():
            raise ImageError(
                f"git does not say which files it tracks, and images contain no others: {reason}\n"
                f"hint: git -C {paths.ROOT} status"
            )
        names = {path.relative_to(paths.ROOT).as_posix() for path in paths.PACKAGE.rglob("*")}
    links = {name for name in names if (paths.ROOT / name).is_symlink()}
    is_ignored = _dockerignore()
    return sorted(
        name
        for name in names
        if not is_ignored(name)
        and PurePosixPath(name).name != ".env"
        and (name in links or (paths.ROOT / name).is_file())
        and not any(str(folder) in links for folder in PurePosixPath(name).parents)
    )


def _files_of_git(folder: str = "") -> Iterator[str]:
    command = ("ls-files", "-z", "--cached", "--others", "--exclude-standard")
    for name in git("-C", folder or ".", *command).split("\0"):
        file = paths.ROOT / folder / name
        if name and file.is_dir() and not file.is_symlink():  # a submodule, say
            yield from _files_of_git(f"{folder}{name.rstrip('/')}/")
        elif name:
            yield folder + name


def _dockerignore() -> Callable[[str], bool]:
    """A function that says whether the repo's `.dockerignore` leaves out a path.

    The last rule that matches counts. Docker's rules are neither git's nor those of `glob`: a
    pattern begins in the root, `**` stands for any number of folders, and `!` brings back a file
    from a folder that is left out.
    """
    file = paths.ROOT / ".dockerignore"
    rules: list[tuple[re.Pattern[str], bool]] = []
    text = ""
    if file.is_file():
        text = file.read_text(encoding="utf-8-sig", errors="surrogateescape")
    for line in text.splitlines():
        pattern = line.strip()
        if pattern and not line.startswith("#"):
            keeps = pattern.startswith("!")
            pattern = os.path.normpath(pattern.removeprefix("!").strip()).strip("/")
            try:
                rules.append((re.compile(_as_regex(pattern), re.DOTALL), keeps))
            except re.error as error:
                raise ImageError(
                    f"{paths.shown(file)}: {line.strip()!r} is no pattern: {error}"
                ) from error

    def is_ignored(name: str) -> bool:
        matching = [keeps for rule, keeps in rules if rule.fullmatch(name)]
        return bool(matching) and not matching[-1]

    return is_ignored


def _as_regex(pattern: str) -> str:
    """A pattern of `.dockerignore`, for what it names and all below that."""
    pattern = re.sub(r"\*\*$", "*", pattern)  # the same, at the end
    parts = re.findall(r"\*\*/?|\*|\?|\[[^\]]+\]|\\.|.", pattern, re.DOTALL)
    folders = "(?:.*/)?"
    is_suffix = re.fullmatch(r"\*\*[^*?[\\]+", pattern)  # `**.csv` is any name that ends so
    wildcards = {
        "**/": folders,
        "**": ".*" if is_suffix else folders,
        "*": "[^/]*",
        "?": "[^/]",
    }
    regex = "".join(
        wildcards.get(part) or (part if re.match(r"\[.", part) else re.escape(part[-1]))
        for part in parts
    )
    return f"{regex}(?:/.*)?"
