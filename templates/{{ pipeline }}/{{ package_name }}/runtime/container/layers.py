"""Which files make up the image of a flow: those of its folder, else those of the repo."""

from __future__ import annotations

import re
import shutil
import stat
import subprocess
from pathlib import Path
from typing import NamedTuple

from .. import paths
from ..errors import ImageError
from ..packages.requirements import Line, read

_FROM = re.compile(r"FROM\s+(?:--\S+\s+)*(?P<image>\S+)(?:\s+AS\s+(?P<name>\S+))?", re.IGNORECASE)
_BASE = re.compile(r"[\"']?\$(?:BASE\b|\{BASE[}:])")
_ARG_BASE = re.compile(r"ARG\s+(?:\S+\s+)*BASE\b", re.IGNORECASE)
_HEREDOC = re.compile(r"(?:RUN|COPY|ADD)\b.*?<<-?[\"']?(?P<end>[A-Za-z_]\w*)", re.IGNORECASE)
_EXEC = re.compile(r"(?m)^[^#\n]*\bexec\s.*\$.*[@*]")
_SHELLS = ("sh", "ash", "bash", "dash", "ksh", "zsh")


class Layers(NamedTuple):
    """The files of a flow's image."""

    dockerfile_base: Path
    """What the base is built by."""
    dockerfile: Path
    """What is built on the base."""
    launch: Path
    """The entry point."""
    requirements: list[Line]
    """The lines of the flow's own `requirements.txt`, and of the files it includes; may be none."""


def layers_of(flow_file: Path) -> Layers:
    """The files that make up the image of the flow in this file, checked.

    Raises ImageError where they do not go together: a Dockerfile-base without a Dockerfile beside
    it, a Dockerfile that does not build on its base, a launch.sh that cannot be run. Raises
    RequirementsError where the `requirements.txt` cannot be read.
    """
    own, default = flow_file.parent, paths.CONFIG / "metaflowtask"

    def chosen(name: str) -> Path:
        found = own / name
        if not found.is_file() and not (default / name).is_file():
            raise ImageError(
                f"there is no {paths.shown(default / name)}, of which every flow's image is made; bring "
                f"it back: git checkout HEAD -- {paths.shown(default / name)}"
            )
        return found if found.is_file() else default / name

    layers = Layers(chosen("Dockerfile-base"), chosen("Dockerfile"), chosen("launch.sh"), [])
    if layers.dockerfile_base.parent == own and layers.dockerfile.parent != own:
        raise ImageError(
            f"{paths.shown(layers.dockerfile_base)} has no Dockerfile beside it: a flow with a base of "
            f"its own says itself what is built on it. Copy {paths.shown(layers.dockerfile)} there, and "
            "change it where the base wants that"
        )
    _check_dockerfile(layers.dockerfile)
    _check_launch(layers.launch)
    requirements = own / "requirements.txt"
    return layers._replace(requirements=read(requirements) if requirements.is_file() else [])


def _check_dockerfile(file: Path) -> None:
    """Raise ImageError where what the Dockerfile makes is not built on the base."""
    try:
        text = file.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise ImageError(f"{paths.shown(file)} is not UTF-8: {error}") from error
    lines = _instructions(text)
    stages = list(filter(None, map(_FROM.match, lines)))
    images = {stage["name"].lower(): stage["image"] for stage in stages if stage["name"]}
    image = stages[-1]["image"] if stages else ""
    while image.lower() in images:
        image = images.pop(image.lower())
    if not _BASE.match(image):
        found = f"its last stage is built on {image!r}" if image else "it has no FROM"
        raise ImageError(
            f"{paths.shown(file)} does not build on its base: {found}. It must begin with `ARG BASE` and "
            "`FROM ${BASE}`; what else the image is to be built on goes into a Dockerfile-base "
            "beside it"
        )
    first = next(number for number, line in enumerate(lines) if _FROM.match(line))
    if not any(map(_ARG_BASE.match, lines[:first])):
        raise ImageError(
            f"{paths.shown(file)} has no `ARG BASE` above its first FROM, with which it begins; add it"
        )


def _instructions(text: str) -> list[str]:
    """The instructions of a Dockerfile, each in one line, without what is in heredocs."""
    code = "\n".join(line for line in text.splitlines() if not line.lstrip().startswith("#"))
    found, end = [], ""
    for line in re.sub(r"\\[ \t]*\n", " ", code).splitlines():
        if end:
            end = "" if line.lstrip("\t") == end else end
        else:
            found.append(line.strip())
            heredoc = _HEREDOC.match(found[-1])
            end = heredoc["end"] if heredoc else ""
    return found


def _check_launch(file: Path) -> None:
    """Raise ImageError where the script cannot be run, or does not parse."""
    if not file.stat().st_mode & stat.S_IXUSR:
        raise ImageError(
            f"{paths.shown(file)} is not executable, and it is what the container starts: "
            f"chmod +x {paths.shown(file)}"
        )
    first = file.read_bytes().partition(b"\n")[0].decode(errors="replace")
    words = first.removeprefix("#!").split()
    if not re.match("#! ?/", first) or first.endswith("\r"):
        raise ImageError(
            f"{paths.shown(file)} begins with {first!r}, and must with the program that runs it: "
            "#!/bin/sh, with the line ends of Unix"
        )
    shell = Path(words[1] if words[0].endswith("/env") and words[1:] else words[0]).name
    if shell not in _SHELLS or not (program := shutil.which(shell)):
        return
    tried = subprocess.run([program, "-n", str(file)], capture_output=True, text=True, check=False)
    if tried.returncode:
        said = tried.stderr.strip().replace(str(file), paths.shown(file))
        raise ImageError(f"{paths.shown(file)} does not parse: {said}\ncorrect the script")
    if not _EXEC.search(file.read_text(encoding="utf-8", errors="replace")):
        raise ImageError(
            f'{paths.shown(file)} has no `exec "$@"`, by which it becomes the command that it is given; '
            "end it with that line"
        )
