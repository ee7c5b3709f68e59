"""The Docker engine: what it says, what is wrong with it, and the images that it has of ours."""

from __future__ import annotations

import calendar
import contextlib
import hashlib
import json
import os
import re
import shutil
import subprocess
import time
from pathlib import Path
from typing import Any, NamedTuple

from .. import paths
from ..errors import ImageError

CHECKOUT = "metaflowtask.checkout"
"""Label of all that this checkout has made, images and containers: its value is `checkout()`."""

IMAGE = "metaflowtask.image"
"""Label of an image with the name that it was given: names can be given to others, too."""

ANSWERS = 60.0
"""Seconds after which an engine that does not answer is left alone."""

_NO_ENGINE = [
    (
        "permission denied while trying to connect|permission denied.*docker\\.sock",
        "you have no right to Docker's socket: `sudo usermod -aG docker $USER`, and log in anew",
    ),
    (
        "Cannot connect to the Docker daemon|error during connect|Is the docker daemon running",
        "the Docker engine does not answer: start it, with `sudo systemctl start docker` or Docker "
        "Desktop, or set DOCKER_HOST to where it is",
    ),
    (
        "no space left on device",
        "the engine's disk is full: `nox -s clean` frees what this repo has made, `docker system "
        "df` shows who has the rest, and `docker builder prune` empties the cache of builds",
    ),
    (
        "BuildKit is enabled but the buildx component is missing|requires BuildKit|"
        "unknown flag: --(?:secret|progress)",
        "docker has no BuildKit: install its buildx plugin, docker-buildx-plugin or docker-buildx",
    ),
]


class Resource(NamedTuple):
    """An image or a container that this checkout has made."""

    name: str
    """Its name; for an image its id where a newer one has taken the name."""
    bytes: int
    """What an image takes beside the image of ours that it is built on."""
    used: float
    """When it was last asked for, in seconds since 1970."""


def program() -> str:
    """The docker command. Raises ImageError where there is none."""
    found = shutil.which("docker")
    if not found:
        raise ImageError(
            "there is no docker command on PATH, which builds and runs images: install Docker "
            "(https://docs.docker.com/engine/install), or run flows as processes"
        )
    return found


def docker(*arguments: str) -> subprocess.CompletedProcess[str]:
    """What the docker command says.

    Raises ImageError where there is none, or no answer within ANSWERS seconds.
    """
    command = [program(), *arguments]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=False, timeout=ANSWERS)
    except subprocess.TimeoutExpired:
        raise ImageError(
            f"the Docker engine has not answered within {ANSWERS:g} seconds; `docker info` says "
            "how it is"
        ) from None


def fault_of_engine(said: str) -> str:
    """The way out where the engine is at fault for what docker has said; else empty."""
    return next((way_out for pattern, way_out in _NO_ENGINE if re.search(pattern, said)), "")


def has_image(name: str) -> bool:
    """Does the engine have the image that was given this name?

    Raises ImageError where it does not answer.
    """
    asked = docker("image", "inspect", name)
    if asked.returncode and not re.search("(?i)no such (image|object)", asked.stderr):
        raise ImageError(_why(asked.stderr))
    images = json.loads(asked.stdout or "[]")
    return any((each["Config"]["Labels"] or {}).get(IMAGE) == name for each in images)


def images() -> list[Resource]:
    """The images that this checkout has made, by the names that it gave them.

    Raises ImageError where there is no engine, or it does not answer.
    """
    images = _ours("image", "ls")
    found = []
    for each in images:
        given = each["Config"]["Labels"].get(IMAGE)
        names = each["RepoTags"] or [each["Id"]]
        size = each["Size"] - max(
            (other["Size"] for other in images if _is_below(_layers(other), _layers(each))),
            default=0,
        )
        for name in names:
            if name in (given, each["Id"]):  # another is somebody's who wants to keep it
                used = _created(each)
                with contextlib.suppress(OSError):
                    used = max(used, use_record(name).stat().st_mtime)
                found.append(Resource(name, size if len(names) == 1 else 0, used))
    return found


def unstarted_containers() -> list[Resource]:
    """The containers of this checkout's tasks that were made and never started.

    A task that is killed while the engine makes its container may leave one. Raises ImageError
    where there is no engine, or it does not answer.
    """
    return [
        Resource(each["Name"].lstrip("/"), 0, _created(each))
        for each in _ours("container", "ls", "--all", "--filter=status=created")
        if each["HostConfig"]["AutoRemove"]  # one made by hand has the image's labels, too
    ]


def _ours(kind: str, *listing: str) -> list[Any]:
    """What docker says of all images or containers that have this checkout's label."""
    ours = ("--quiet", "--no-trunc", f"--filter=label={CHECKOUT}={checkout()}")
    listed = docker(kind, *listing, *ours)
    if listed.returncode:
        raise ImageError(_why(listed.stderr))
    ids = sorted(set(listed.stdout.split()))
    told: list[Any] = json.loads((docker(kind, "inspect", *ids).stdout if ids else "") or "[]")
    return told


def _created(what: dict[str, Any]) -> float:
    return calendar.timegm(time.strptime(what["Created"][:19], "%Y-%m-%dT%H:%M:%S"))


def _layers(image: dict[str, Any]) -> list[str]:
    return list(image["RootFS"].get("Layers") or [])


def _is_below(these: list[str], others: list[str]) -> bool:
    return len(these) < len(others) and others[: len(these)] == these


def _why(said: str) -> str:
    return fault_of_engine(said) or f"docker failed: {said.strip()}"


def remove(name: str) -> str:
    """Remove the image, unless a container is made of it; what docker has against it, or empty."""
    removed = docker("image", "rm", name)
    if removed.returncode and "No such image" not in removed.stderr:
        return removed.stderr.strip()
    use_record(name).unlink(missing_ok=True)
    return ""


def remove_container(name: str) -> str:
    """Remove the container, unless it runs by now; what docker has against it, or empty."""
    removed = docker("container", "rm", "--volumes", name)
    is_gone = removed.returncode == 0 or "No such container" in removed.stderr
    return "" if is_gone else removed.stderr.strip()


def checkout() -> str:
    """What tells this checkout's images from those of others, without saying where it is."""
    return hashlib.sha256(os.fsencode(paths.ROOT.resolve())).hexdigest()[:16]


def use_record(name: str) -> Path:
    """The file whose time is that of the image's last use."""
    return paths.images() / name.replace("/", "_").replace(":", "_")
