"""The image of a flow: named by its content, and built if the engine has none of that name.

It consists of two layers, each an image of its own: the base, `REPO/base:HASH`, and on it the
flow's, `REPO/FLOW:HASH`. The hash covers all that goes in, so nothing unchanged is built again, and
another branch or another user has another image.

The modules in order: layers.py lists the files, context.py packs them, engine.py knows whether the
image exists, and build.py builds it.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
from collections.abc import Callable, Iterator
from functools import partial
from tempfile import TemporaryFile

from .. import console, paths, process
from ..errors import ImageError
from ..flow.flow_file import flow_file
from ..packages.requirements import normal
from ..settings import settings
from ..version import code, project_value
from .build import Image, build
from .context import base_files, flow_files, pack
from .engine import CHECKOUT, checkout, docker, has_image, note_use
from .layers import layers_of, repo_files

VERSION = "org.opencontainers.image.version"
REVISION = "org.opencontainers.image.revision"
BRANCH = "org.opencontainers.image.ref.name"


def image_for(
    flow_path: str,
    *,
    rebuild_flow: bool = False,
    rebuild_base: bool = False,
    show: Callable[[str], None] | None = None,
) -> str:
    """The name of the image that runs the flow as it is on disk, built if there is none yet.

    `rebuild_flow` builds it without Docker's cache, `rebuild_base` the base, too. `show` gets a
    line for each step of a build; by default it is printed.

    Raises FlowNotFoundError if there is no such flow, RequirementsError if its requirements.txt
    cannot be read or installed, and ImageError if its files do not fit together or cannot be
    built, or if there is no engine to do so.
    """
    show = show or partial(console.show_line, flow_path)
    with images_for(flow_path) as (base, image):
        if rebuild_flow or rebuild_base or not has_image(image.name):
            if rebuild_base or not has_image(base.name):
                build(base, show, anew=rebuild_base)
            build(image, show, anew=rebuild_flow or rebuild_base)
        note_use(base.name, image.name)
        return image.name


@contextlib.contextmanager
def images_for(flow_path: str) -> Iterator[tuple[Image, Image]]:
    """The base and the image of the flow, packed and named, whether the engine has them or not."""
    file = flow_file(flow_path)
    if not paths.IN_CHECKOUT:
        raise ImageError(
            f"{paths.PACKAGE} is installed as a package\n"
            "hint: build images in a checkout of the repo"
        )
    layers, names, now = layers_of(file), repo_files(), code()
    project = normal(project_value("name") or paths.PACKAGE.name)
    registry = settings().container.registry
    registry = registry and f"{registry.rstrip('/')}/"
    # Docker's own variable: an engine has images of one platform, unless this names another.
    platform = os.environ.get("DOCKER_DEFAULT_PLATFORM", "")
    with TemporaryFile() as base_archive, TemporaryFile() as archive:
        context = pack(base_files(layers, names), base_archive)
        base = Image(
            name=f"{_as_name(project)}/base:{_hash(context.digest, registry, platform)}",
            title=f"the base of {flow_path}",
            dockerfile=layers.dockerfile_base,
            context=context,
            build_args={"REGISTRY": registry},
            labels={CHECKOUT: checkout()},
        )
        context = pack(flow_files(layers, names, project, now.version), archive)
        labels = {VERSION: now.version, REVISION: now.commit, BRANCH: now.branch}
        flow = _as_name(flow_path.removesuffix(".py"))
        image = Image(
            name=f"{_as_name(project)}/{flow}:{_hash(base.name, context.digest, now)}",
            title=f"the image of {flow_path}",
            dockerfile=layers.dockerfile,
            context=context,
            build_args={"BASE": base.name, "PACKAGE": paths.PACKAGE.name},
            labels={CHECKOUT: checkout()} | {name: text for name, text in labels.items() if text},
            base=base.name,
            requirements=layers.requirements,
        )
        yield base, image


def push(name: str, registry: str, show: Callable[[str], None]) -> str:
    """Push the image to the registry, e.g. `registry.example.org/team`, and return its name there.

    `show` gets each line that docker prints. Raises ImageError if the registry refuses the image.
    """
    pushed = f"{registry.rstrip('/')}/{name}"
    tagged = docker("image", "tag", name, pushed)
    if tagged.returncode:
        raise ImageError(
            f"{pushed!r} is no name of an image: {tagged.stderr.strip()}\n"
            "hint: write REGISTRY as HOST, HOST:PORT or HOST/PATH, in small letters"
        )
    lines: list[str] = []

    def on_line(line: str) -> None:
        lines.append(line)
        show(line)

    command = ["docker", "image", "push", pushed]
    try:
        failed = process.run(command, cwd=paths.ROOT, env=os.environ, timeout=None, on_line=on_line)
    finally:
        docker("image", "rm", pushed)  # this name alone: the image has another
    if failed:
        output = "\n".join(lines[-3:])
        host = registry.partition("/")[0]
        login = ["docker login", *([host] if re.search("[.:]|^localhost$", host) else [])]
        raise ImageError(
            f"{registry} refuses the image: {output}\n"
            f"hint: `{' '.join(login)}`, as a user who may push there"
        )
    return pushed


def _as_name(text: str) -> str:
    """The text as part of an image's name, which has at most 255 characters in all."""
    return re.sub(r"[^a-z0-9]+", "-", text.lower())[:100].strip("-") or "x"


def _hash(*parts: object) -> str:
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:16]
