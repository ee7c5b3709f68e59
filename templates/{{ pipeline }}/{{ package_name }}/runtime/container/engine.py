"""The Docker engine: what it prints, its faults, and the images and containers in it.

Whatever asks the engine raises ImageError if there is none, or it does not answer.
"""

from __future__ import annotations

import calendar
import contextlib
import hashlib
import itertools
import json
import os
import re
import subprocess
import time
from collections.abc import Collection, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

from .. import paths
from ..errors import ImageError

CHECKOUT = "metaflowtask.checkout"
"""Label of the images and containers that this checkout made: its value is `checkout()`."""

IMAGE = "metaflowtask.image"
"""Label with the name that an image was built under: anybody may give it other names."""

ANSWERS = 60.0
"""Seconds to wait for an answer of the engine."""

_FAULTS = {
    "permission denied while trying to connect|permission denied.*docker\\.sock": (
        "you have no permission to use Docker's socket\n"
        "hint: `sudo usermod -aG docker $USER`, then log in again"
    ),
    "Cannot connect to the Docker daemon|error during connect|Is the docker daemon running": (
        "the Docker engine does not answer\nhint: start it, with `sudo systemctl start docker` or "
        "Docker Desktop, or set DOCKER_HOST to its address"
    ),
    "no space left on device": (
        "the engine's disk is full\nhint: `nox -s clean` deletes what this repo made, `docker "
        "builder prune` the build cache, and `docker system df` shows what takes the rest"
    ),
}


class Resource(NamedTuple):
    """An image or a container that this checkout made."""

    name: str
    """Its name; the id of an image whose name a newer one took."""
    used: float
    """Time of its last use, in seconds since 1970."""
    layers: Mapping[str, int]
    """The bytes of each layer of an image, by an id that stands for all layers up to it."""


def docker(*arguments: str) -> subprocess.CompletedProcess[str]:
    """Run the docker command and return what it printed."""
    command = ["docker", *arguments]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=False, timeout=ANSWERS)
    except FileNotFoundError:
        raise ImageError(
            "there is no docker command on PATH to build and run images\nhint: install Docker "
            "(https://docs.docker.com/engine/install), or run flows as processes"
        ) from None
    except subprocess.TimeoutExpired:
        raise ImageError(
            f"the Docker engine has not answered within {ANSWERS:g} seconds\n"
            "hint: `docker info` shows its state"
        ) from None


def engine_fault(output: str) -> str:
    """The cause and a hint if the output of docker says that the engine is at fault; else empty."""
    return next((fault for pattern, fault in _FAULTS.items() if re.search(pattern, output)), "")


def has_image(name: str) -> bool:
    """True if the engine has the image that was built under this name."""
    return any(_label(image, IMAGE) == name for image in _inspect("image", name))


def stands_on(name: str, base: str) -> bool:
    """True if the image begins with all layers of its base."""
    layers = [_layers(image) for image in _inspect("image", name, base)]
    return _begins_with(layers[0], layers[-1])


def images() -> list[Resource]:
    """The images that this checkout made, by the names that it gave them."""
    made = _of_this_checkout("image", "ls")
    resources = []
    with ThreadPoolExecutor() as pool:
        for image, layers in zip(made, pool.map(_sizes, made), strict=True):
            for name in _names(image):
                # People gave it the other names, to keep it.
                if name in (_label(image, IMAGE), image["Id"]):
                    used = _created(image)
                    with contextlib.suppress(OSError):
                        used = max(used, use_record(name).stat().st_mtime)
                    resources.append(Resource(name, used, layers))
    return resources


def size(images: Iterable[Resource], without: Iterable[str] = ()) -> int:
    """The bytes that the images take as Docker counts: each layer once, none of those `without`."""
    layers = {layer: size for image in images for layer, size in image.layers.items()}
    return sum(layers[layer] for layer in layers.keys() - {*without})


def layers_of_all(but: Collection[str] = ()) -> set[str]:
    """The layers of all images that the engine has, without those that have but these names."""
    ids = docker("image", "ls", "--all", "--quiet", "--no-trunc").stdout.split()
    images = _inspect("image", *sorted({*ids})) if ids else []
    return {layer for image in images if {*_names(image)} - {*but} for layer in _chain(image)}


def unstarted_containers() -> list[Resource]:
    """The containers of this checkout's tasks that were created and never started.

    A task that is killed while the engine creates its container may leave one.
    """
    return [
        Resource(container["Name"].lstrip("/"), _created(container), {})
        for container in _of_this_checkout("container", "ls", "--all", "--filter=status=created")
        if container["HostConfig"]["AutoRemove"]  # one made by hand has the image's labels, too
    ]


def remove(name: str) -> str:
    """Remove the image unless a container is made of it; return docker's objection, or empty."""
    removed = docker("image", "rm", name)
    if removed.returncode and "No such image" not in removed.stderr:
        return removed.stderr.strip()
    use_record(name).unlink(missing_ok=True)
    return ""


def remove_container(name: str) -> str:
    """Remove the container unless it runs; return docker's objection, or empty."""
    removed = docker("container", "rm", "--volumes", name)
    is_gone = removed.returncode == 0 or "No such container" in removed.stderr
    return "" if is_gone else removed.stderr.strip()


def checkout() -> str:
    """An id of this checkout that does not say where it is, for the label of what it makes."""
    return hashlib.sha256(os.fsencode(paths.ROOT.resolve())).hexdigest()[:16]


def use_record(name: str) -> Path:
    """The file whose time is that of the image's last use."""
    return paths.images() / name.replace("/", "_").replace(":", "_")


def note_use(*names: str) -> None:
    """Record that the images are used now, for `clean`."""
    with contextlib.suppress(OSError):  # a read-only repo
        for name in names:
            use_record(name).parent.mkdir(parents=True, exist_ok=True)
            use_record(name).touch()


def _of_this_checkout(kind: str, *listing: str) -> list[Any]:
    """What docker knows of all images or containers with this checkout's label."""
    label = f"--filter=label={CHECKOUT}={checkout()}"
    listed = docker(kind, *listing, "--quiet", "--no-trunc", label)
    if listed.returncode:
        raise ImageError(_reason(listed.stderr))
    ids = sorted(set(listed.stdout.split()))
    return _inspect(kind, *ids) if ids else []


def _inspect(kind: str, *names: str) -> list[Any]:
    """What docker knows of these images or containers, without those that do not exist."""
    inspected = docker(kind, "inspect", *names)
    if inspected.returncode and not re.search("(?i)no such", inspected.stderr):
        raise ImageError(_reason(inspected.stderr))
    known: list[Any] = json.loads(inspected.stdout or "[]")
    return known


def _reason(stderr: str) -> str:
    return engine_fault(stderr) or f"docker failed: {stderr.strip()}"


def _label(image: dict[str, Any], name: str) -> str | None:
    return (image["Config"]["Labels"] or {}).get(name)


def _created(resource: dict[str, Any]) -> float:
    return calendar.timegm(time.strptime(resource["Created"][:19], "%Y-%m-%dT%H:%M:%S"))


def _names(image: dict[str, Any]) -> list[str]:
    return list(image["RepoTags"] or [image["Id"]])


def _sizes(image: dict[str, Any]) -> dict[str, int]:
    """The size of each layer, from the history, which has lines of no layer, too."""
    how = ("--no-trunc", "--human=false", "--format=json")
    history = docker("history", *how, image["Id"]).stdout
    sizes: list[int] = []
    with contextlib.suppress(ValueError):  # an old docker command knows no JSON
        sizes = [
            int(line["Size"])
            for line in map(json.loads, reversed(history.splitlines()))
            if line["Size"] != "0" or re.match("RUN|COPY|ADD|WORKDIR", line["CreatedBy"])
        ]
    chain = _chain(image)
    if len(sizes) != len(chain):  # of an engine that counts in another way: as if it shared none
        return {chain[-1]: image["Size"]} if chain else {}
    return dict(zip(chain, sizes, strict=True))


def _chain(image: dict[str, Any]) -> list[str]:
    """An id for each layer, which tells it from the same layer on other ones."""

    def on(below: str, layer: str) -> str:
        return hashlib.sha256(f"{below} {layer}".encode()).hexdigest()

    return list(itertools.accumulate(_layers(image), on))


def _layers(image: dict[str, Any]) -> list[str]:
    return list(image["RootFS"].get("Layers") or [])


def _begins_with(layers: list[str], others: list[str]) -> bool:
    return layers[: len(others)] == others
