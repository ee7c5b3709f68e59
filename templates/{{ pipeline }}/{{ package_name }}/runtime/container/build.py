"""Builds an image with `docker build`, and explains a build that fails."""

from __future__ import annotations

import os
import re
import shlex
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple
from urllib.parse import unquote

from .. import paths, process
from ..console import in_units
from ..errors import ImageError, PipelineError
from ..packages.requirements import Requirements
from ..settings import settings
from ..store.files import locked
from .context import Context
from .engine import IMAGE, engine_fault, has_image, remove, stands_on, use_record
from .layers import FIRST_LINES

# `#7 [packages 2/3] RUN …` begins a step, `#7 0.123 …` is what it prints.
_STEP = re.compile(r"#\d+ (\[(?!internal|auth)[^\]]*\] .*)")
_MOUNT = re.compile(r"--mount=\S+\s+")  # the step's command follows
_NAMED = re.compile(r"RUN : ([^&;]+?) *(?:&&|;).*")  # its first command does nothing but name it
_FAILED = re.compile(r"(?m)^[^\n:]*Dockerfile[^\n:]*:(\d+)\n-{10,}\n(.*?)^-{10,}$", re.DOTALL)
_PRINTED = re.compile(r"(?m)^------\n > [^\n]*\n(.*?)^------$", re.DOTALL)
_SHOWN_LINES, _SHOWN_OF_A_LINE = 15, 500
_ON_ITS_BASE = (
    f"begin it with {FIRST_LINES}; what else it builds on goes into a Dockerfile-base beside it"
)
_HINTS = {
    "base name .* should not be blank": _ON_ITS_BASE,
    "failed to do request|failed to resolve source metadata|pull access": (
        "set container.registry to a registry that has the image, log in with `docker login`, or "
        "bring the image with `docker pull`"
    ),
    "invalid reference format": (
        "correct the name; in a Dockerfile-base container.registry begins it: HOST, HOST:PORT or "
        "HOST/PATH"
    ),
    "(?m)^ERROR: failed to .*cache key.*not found": (
        "paths begin in the repo's root; what git ignores or .dockerignore names is not there"
    ),
    "(?i)/var/lib/(dpkg|apt)/.*permission denied": (
        "the base ends as user 1000; install system packages below the line USER 0"
    ),
}
"""The way out, by what docker prints."""

_LARGE = 100e6
"""Bytes of a context to warn of: they are read each time a flow starts."""

# User and password in an address; a `/` before the `@` may be part of a password, too.
_USER = re.compile(r"^(?:[^:/@]+://)?(?P<user>.+)@")


class Image(NamedTuple):
    """An image, built or to be built."""

    name: str
    title: str
    """What it is, as the first words of a message."""
    dockerfile: Path
    context: Context
    build_args: Mapping[str, str]
    labels: Mapping[str, str]
    base: str = ""
    """The name of the image that it is to stand on; empty for a base."""
    requirements: Requirements | None = None
    """The flow's own, if it has any."""


def build(image: Image, show: Callable[[str], None], *, anew: bool) -> None:
    """Build the image; if another process is building it, wait for that one instead.

    `show` gets a line for each step, and `anew` means without Docker's cache.

    Raises RequirementsError if the flow's own requirements cannot be installed, and ImageError if
    anything else fails.
    """

    def show_wait(process_id: str) -> None:
        show(f"waits for process {process_id}, which is building {image.name}")

    with locked(use_record(image.name).with_suffix(".lock"), show_wait):
        if not anew and has_image(image.name):  # the other process built it
            return
        command = _command(image, anew=anew)
        show(f"building {image.name}")
        size = image.context.archive.seek(0, os.SEEK_END)
        if size > _LARGE:
            show(
                f"{in_units(size)} of files, the largest is {image.context.largest}; name what no "
                "image needs in .gitignore or .dockerignore"
            )
        _run(image, command, show)
        if not has_image(image.name):
            raise ImageError(
                f"the image {image.name} is not among the engine's images after its build: the "
                "builder in use keeps what it builds\nhint: docker buildx use default"
            )
        if image.base and not stands_on(image.name, image.base):
            remove(image.name)
            raise ImageError(
                f"{paths.shown(image.dockerfile)} does not build on its base\nhint: {_ON_ITS_BASE}"
            )


def _command(image: Image, *, anew: bool) -> list[str]:
    container = settings().container
    certificates = paths.ROOT / Path(container.certificates).expanduser()
    if container.certificates and not certificates.is_file():
        raise ImageError(
            f"container.certificates is {container.certificates!r}, and there is no {certificates}"
        )
    if container.index_url and not re.match(r"https?://", container.index_url):
        raise ImageError("container.index_url has to begin with https:// or http://")
    source = '"' + f"src={certificates}".replace('"', '""') + '"'  # as in a CSV file
    labels = {IMAGE: image.name, **image.labels}
    return [
        *("docker", "build", "--progress=plain", "--file=.layer/Dockerfile"),
        *(f"--tag={image.name}", "--secret=id=network,env=METAFLOWTASK_NETWORK"),
        *([f"--secret=id=certificates,{source}"] if container.certificates else []),
        *(f"--build-arg={name}={value}" for name, value in image.build_args.items()),
        *(f"--label={name}={value}" for name, value in labels.items()),
        *(["--no-cache"] if anew else []),
        "-",
    ]


def _run(image: Image, command: Sequence[str], show: Callable[[str], None]) -> None:
    printed: deque[str] = deque(maxlen=2000)

    def on_line(line: str) -> None:
        line = _without_passwords(line)
        printed.append(line)
        if step := _STEP.match(line):
            show(_NAMED.sub(r"\1", _MOUNT.sub("", step[1]))[:100])

    environment = {
        **{name: value for name, value in os.environ.items() if name != "BUILDX_BUILDER"},
        "DOCKER_BUILDKIT": "1",
        "DOCKER_CLI_HINTS": "false",
        "METAFLOWTASK_NETWORK": _network(),
    }
    image.context.archive.seek(0)
    failed = process.run(
        command,
        cwd=paths.ROOT,
        env=environment,
        timeout=None,
        on_line=on_line,
        stdin=image.context.archive,
    )
    if failed:
        raise _failure(image, "\n".join(printed))


def _network() -> str:
    """A script that a build's shell reads for pip and uv: index, proxy and certificates."""
    container = settings().container
    variables: dict[str, str] = {}
    if container.index_url:
        variables |= dict.fromkeys(("UV_DEFAULT_INDEX", "PIP_INDEX_URL"), container.index_url)
        if host := re.match(r"http://(?:.*@)?([^/]+)", container.index_url):
            variables["PIP_TRUSTED_HOST"] = host[1]  # else pip takes nothing that is not by https
    if container.proxy:
        proxies = ("HTTP_PROXY", "HTTPS_PROXY", "http_proxy", "https_proxy")
        variables |= dict.fromkeys(proxies, container.proxy)
    if container.certificates:
        files = ("SSL_CERT_FILE", "PIP_CERT", "REQUESTS_CA_BUNDLE")
        variables |= dict.fromkeys(files, "/run/secrets/certificates")
    lines = (f"export {name}={shlex.quote(value)}\n" for name, value in variables.items())
    return "# From the settings.\n" + "".join(lines)


def _failure(image: Image, output: str) -> PipelineError:
    """The error of a failed build, from what it printed."""
    title = f"{image.title} cannot be built"
    if fault := engine_fault(output):
        return ImageError(f"{title}: {fault}")
    failed = _FAILED.search(output)
    if failed:
        instruction = re.findall(r"(?m)^ *\d+ \| >>> (.*)$", failed[2])
        printed = "".join(_PRINTED.findall(output)[-1:]).splitlines()
        printed = [re.sub(r"^\d+\.\d+ ", "", line) for line in printed]
        if image.requirements and any("/opt/requirements/" in line for line in instruction):
            network = "the settings container.index_url and .proxy"
            return image.requirements.failure(printed, network)
        if len(instruction) > 5:
            instruction[2:-2] = ["    …"]
        printed = printed or re.findall(r"(?m)^ERROR: (?:failed to solve: )?(.*)", output)[-1:]
        lines = [*instruction, *printed[-_SHOWN_LINES:]]
        at_line = f", line {failed[1]}"
    else:
        lines, at_line = output.splitlines()[-_SHOWN_LINES:], ""
    lines = [
        line if len(line) <= _SHOWN_OF_A_LINE else f"{line[:_SHOWN_OF_A_LINE]} …" for line in lines
    ]
    hints = [f"hint: {hint}" for pattern, hint in _HINTS.items() if re.search(pattern, output)]
    first_line = f"{title}: {paths.shown(image.dockerfile)}{at_line}"
    return ImageError("\n".join([first_line, *lines, *hints[:1]]))


def _without_passwords(line: str) -> str:
    """The line without the users and passwords of the index and the proxy."""
    container = settings().container
    for address in (container.index_url, container.proxy):
        if match := _USER.match(address):
            password = match["user"].partition(":")[2]
            for secret in (match["user"], unquote(match["user"]), password, unquote(password)):
                if len(secret) > 3 or secret is match["user"]:
                    line = line.replace(secret, "***")
    return line
