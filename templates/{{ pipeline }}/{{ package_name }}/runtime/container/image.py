"""The image of a flow: named by what is in it, and built where there is none of that name.

It is made of two layers, each an image of its own: the base, `REPO/base:HASH`, and on it the
flow's, `REPO/FLOW:HASH`. The hash is over all that goes in, so what is unchanged is found, and
another branch or another user has another image.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
import shlex
import tempfile
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import IO, NamedTuple
from urllib.parse import unquote

from .. import console, paths, process
from ..errors import ImageError, PipelineError
from ..flow.flow_file import flow_file
from ..packages.requirements import (
    Requirements,
    installed_packages,
    normal,
)
from ..settings import ContainerSettings, settings
from ..store.files import exclusive_lock
from ..version import Code, code, project_value
from .context import Context, add_requirements, repo_files
from .engine import (
    CHECKOUT,
    IMAGE,
    checkout,
    docker,
    fault_of_engine,
    has_image,
    program,
    use_record,
)
from .layers import layers_of

VERSION, REVISION, BRANCH = (
    *("org.opencontainers.image.version", "org.opencontainers.image.revision"),
    "org.opencontainers.image.ref.name",
)

# `#7 [packages 2/3] RUN …` begins a step, `#7 0.123 …` is what it prints.
_STEP = re.compile(r"#\d+ (\[(?!internal|auth)[^\]]*\] .*)")
_MOUNT = re.compile(r"--mount=\S+\s+")  # what a step does stands behind these
_FAILED = re.compile(r"(?m)^[^\n:]*Dockerfile[^\n:]*:(\d+)\n-{10,}\n(.*?)^-{10,}$", re.DOTALL)
_PRINTED = re.compile(r"(?m)^------\n > [^\n]*\n(.*?)^------$", re.DOTALL)
_SHOWN_LINES, _SHOWN_OF_A_LINE = 15, 500
_WAYS_OUT = {
    "failed to do request|failed to resolve source metadata|pull access": (
        "the registry does not give this image: the setting container.registry names another one, "
        "`docker login` says who you are, and `docker pull` brings an image"
    ),
    "invalid reference format": (
        "the setting container.registry begins this name: HOST, HOST:PORT or HOST/PATH"
    ),
    "(?m)^ERROR: failed to .*cache key.*not found": (
        "paths begin in the repo's root, where what git ignores and .dockerignore names is left out"
    ),
    "(?i)/var/lib/(dpkg|apt)/.*permission denied": (
        "the base ends as user 1000: what installs goes below the line USER 0"
    ),
}
_LARGE = 100e6  # bytes of files, which are read at each start
# Who one is at an address; what has an `@` behind a `/` is taken for a password, too.
_USER = re.compile(r"^(?:[^:/@]+://)?(?P<user>.+)@")


class Image(NamedTuple):
    """An image as it is to be."""

    name: str
    of: str
    """What it is, as messages begin."""
    dockerfile: Path
    context: Context
    digest: str
    """That of the context, as the name has it."""
    build_args: Mapping[str, str]
    labels: Mapping[str, str]
    requirements: Requirements | None = None
    """The flow's own, where it has any."""


class _EditedError(Exception):
    """What goes into the image is not what it was when the image was named."""


def image_for(flow_path: str, *, rebuild_flow: bool = False, rebuild_base: bool = False) -> str:
    """The name of the image that runs the flow as it is on disk, built where there is none yet.

    `rebuild_flow` builds it anew without Docker's cache, `rebuild_base` what it is built on, too.

    Raises FlowNotFoundError where there is no such flow, RequirementsError where its
    requirements.txt cannot be read or installed, and ImageError where its files do not go
    together, where they cannot be built, or where there is no engine that could.
    """
    for _ in range(5):
        try:
            return _image_now(flow_path, rebuild_flow, rebuild_base)
        except _EditedError:  # while the base was built, say: the name must fit what is in it
            console.show_line(flow_path, "its files have been edited meanwhile: once more")
    raise ImageError(
        f"the image of {flow_path} cannot be built: the repo's files change all the time; name in "
        ".gitignore or .dockerignore what is written to by something that runs"
    )


def _image_now(flow_path: str, rebuild_flow: bool, rebuild_base: bool) -> str:
    try:
        base, image = images_for(flow_path)
    except FileNotFoundError:  # it was there a moment ago
        raise _EditedError from None
    if not (rebuild_flow or rebuild_base) and has_image(image.name):
        _note_use(base, image)
        return image.name
    show = partial(console.show_line, flow_path)
    if rebuild_base or not has_image(base.name):
        _build(base, show, anew=rebuild_base)
    _build(image, show, anew=rebuild_flow or rebuild_base)
    _note_use(base, image)
    return image.name


def images_for(flow_path: str) -> tuple[Image, Image]:
    """The base and the image of the flow as they are to be, whether they are there or not.

    Raises as `image_for` does; nothing is built, and no engine is asked.
    """
    file = flow_file(flow_path)
    if not paths.IN_CHECKOUT:
        raise ImageError(
            f"{paths.PACKAGE} is installed, and images are built from a checkout of the repo"
        )
    layers = layers_of(file)
    names = repo_files()
    base = _base(flow_path, layers.dockerfile_base, names)
    here = code()
    context = Context()
    for name in names:
        context.add_file(name, paths.ROOT / name)
    # Not as links, whose targets lie elsewhere there.
    context.add_file(".layer/Dockerfile", layers.dockerfile.resolve())
    context.add_file(".layer/launch.sh", layers.launch.resolve())
    add_requirements(context, layers.requirements, file, ".layer/requirements")
    if layers.requirements:  # with uv's settings, as where the flow runs as a process
        context.add_text(".layer/requirements/pyproject.toml", _dependencies(_pyproject()))
    project = _project()
    folder = f"{project.replace('-', '_')}-{here.version}.dist-info"
    told = f"Metadata-Version: 2.1\nName: {project}\nVersion: {here.version}\n"
    context.add_text(f".layer/version/{folder}/METADATA", told)
    digest = context.digest()
    said = _hash(base.name, digest, [here.version, here.branch, here.commit])
    flow = _as_name(flow_path.removesuffix(".py"))
    return base, Image(
        f"{_as_name(project)}/{flow}:{said}",
        f"the image of {flow_path}",
        layers.dockerfile,
        context,
        digest,
        {"BASE": base.name, "PACKAGE": paths.PACKAGE.name},
        {CHECKOUT: checkout(), **_labels(here)},
        Requirements(file.with_name("requirements.txt"), layers.requirements, installed_packages())
        if layers.requirements
        else None,
    )


def push(name: str, registry: str, show: Callable[[str], None]) -> str:
    """Push the image to the registry, e.g. `registry.example.org/team`, and return its name there.

    What docker says of it is shown line by line.

    Raises ImageError where the registry does not take it.
    """
    there = f"{registry.rstrip('/')}/{name}"
    tagged = docker("image", "tag", name, there)
    if tagged.returncode:
        raise ImageError(
            f"{there!r} is no name of an image: {tagged.stderr.strip()}; a registry is HOST, "
            "HOST:PORT or HOST/PATH, in small letters"
        )
    try:
        lines: list[str] = []

        def on_line(line: str) -> None:
            lines.append(line)
            show(line)

        command = [program(), "image", "push", there]
        failed = process.run(command, cwd=paths.ROOT, env=os.environ, timeout=None, on_line=on_line)
        if failed:
            said = "\n".join(lines[-3:])
            host = registry.partition("/")[0]
            login = (
                f"docker login {host}" if re.search("[.:]|^localhost$", host) else "docker login"
            )
            raise ImageError(
                f"{registry} does not take the image: {said}\nis it a registry that you may push "
                f"to? `{login}`"
            )
    finally:
        docker("image", "rm", there)  # this name alone: the image has another
    return there


def _note_use(*images: Image) -> None:
    with contextlib.suppress(OSError):  # a read-only repo
        for image in images:
            file = use_record(image.name)
            file.parent.mkdir(parents=True, exist_ok=True)
            file.touch()


def _base(flow_path: str, dockerfile: Path, names: Sequence[str]) -> Image:
    """The base: without the repo's code and version, so that neither builds it anew."""
    lock = paths.ROOT / "uv.lock"
    if not lock.is_file():
        raise ImageError(f"there is no {lock}, whose packages an image gets: nox -s setup")
    context = Context()
    context.add_text("pyproject.toml", _dependencies(_pyproject()))
    locked = re.sub(
        r'(\nversion = )"[^"\n]*"(\nsource = \{ (?:editable|virtual) = "\." \})',
        r'\1"0"\2',
        lock.read_text(encoding="utf-8"),
    )
    context.add_text("uv.lock", locked)
    context.add_file(".layer/Dockerfile", dockerfile.resolve())
    own = f"{dockerfile.with_name('base').relative_to(paths.ROOT).as_posix()}/"
    context.add_folder("base")
    for name in names:
        if name.startswith(own):
            file = paths.ROOT / name
            place = f"base/{name.removeprefix(own)}"
            context.add_file(place, file.resolve() if file.is_file() else file)
    where = settings().container
    registry = f"{where.registry.rstrip('/')}/" if where.registry else ""
    digest = context.digest()
    # The engine has images of one platform by default, and this variable is docker's for another.
    platform = os.environ.get("DOCKER_DEFAULT_PLATFORM", "")
    said = _hash(digest, registry, platform)
    return Image(
        f"{_as_name(_project())}/base:{said}",
        f"the base of {flow_path}",
        dockerfile,
        context,
        digest,
        {"REGISTRY": registry},
        {CHECKOUT: checkout()},
    )


def _pyproject() -> str:
    return (paths.ROOT / "pyproject.toml").read_text(encoding="utf-8")


def _project() -> str:
    """The name of the repo's distribution, as indexes compare it."""
    return normal(project_value("name") or paths.PACKAGE.name)


def _dependencies(text: str) -> str:
    """What of pyproject.toml says which packages there are, without the version."""
    kept, keeps = [], False
    for line in text.splitlines(keepends=True):
        if header := re.match(r"\[+\s*([\w.\"'-]+)\s*\]+\s*(?:#.*)?$", line):
            keeps = bool(re.match(r"project\b|dependency-groups$|tool\.uv\b", header[1]))
            in_project = header[1] == "project"
        if keeps:
            if in_project and re.match(r"version\s*=", line):
                line = 'version = "0"\n'
            kept.append(line)
    return "".join(kept)


def _labels(here: Code) -> dict[str, str]:
    """What the image says of the code in it."""
    labels = {VERSION: here.version, REVISION: here.commit, BRANCH: here.branch}
    return {name: value for name, value in labels.items() if value}


def _as_name(text: str) -> str:
    """The text as part of an image's name, which has at most 255 characters in all."""
    return re.sub(r"[^a-z0-9]+", "-", text.lower())[:100].strip("-") or "x"


def _hash(*told: object) -> str:
    return hashlib.sha256(json.dumps(told).encode()).hexdigest()[:16]


def _build(image: Image, show: Callable[[str], None], *, anew: bool) -> None:
    """Build the image; two processes that want the same one do so once."""

    def tell_who_is_waited_for(process_id: str) -> None:
        show(f"waits for process {process_id}, which is building {image.name}")

    lock = use_record(image.name).with_suffix(".lock")
    with exclusive_lock(lock, tell_who_is_waited_for):
        if not anew and has_image(image.name):  # another process was faster
            return
        where = settings().container
        command = _command(image, where, anew=anew)
        show(f"building {image.name}")
        with tempfile.NamedTemporaryFile(prefix="image-", suffix=".tar", delete=False) as packed:
            try:
                _pack(image, packed)
                if packed.tell() > _LARGE:
                    show(
                        f"{packed.tell() / 1e6:.0f} MB of files, {image.context.largest()} the "
                        "largest; what no image needs is named in .gitignore or .dockerignore"
                    )
                _run(image, command, packed.name, where, show)
            finally:
                Path(packed.name).unlink(missing_ok=True)
        if not has_image(image.name):
            raise ImageError(
                f"the image {image.name} is not among the engine's images after its build: the "
                "builder in use keeps what it builds; choose another: docker buildx use default"
            )


def _pack(image: Image, to: IO[bytes]) -> None:
    """Write the context to the file, as it was when the image was named."""
    try:
        image.context.write(to)
        to.flush()
        as_named = image.context.digest() == image.digest
    except FileNotFoundError:
        as_named = False
    except OSError as error:
        if error.errno is not None:
            raise
        as_named = False  # a file has become shorter
    if not as_named:
        raise _EditedError


def _command(image: Image, where: ContainerSettings, *, anew: bool) -> list[str]:
    certificates = paths.ROOT / Path(where.certificates).expanduser()
    if where.certificates and not certificates.is_file():
        raise ImageError(
            f"container.certificates is {where.certificates!r}, and there is no {certificates}"
        )
    if where.index_url and not re.match(r"https?://", where.index_url):
        raise ImageError("container.index_url has to begin with https:// or http://")
    source = '"' + f"src={certificates}".replace('"', '""') + '"'  # as in a CSV file
    return [
        *(program(), "build", "--progress=plain", "--file=.layer/Dockerfile"),
        *(f"--tag={image.name}", "--secret=id=network,env=METAFLOWTASK_NETWORK"),
        *([f"--secret=id=certificates,{source}"] if where.certificates else []),
        *(f"--build-arg={name}={value}" for name, value in image.build_args.items()),
        *(f"--label={name}={value}" for name, value in {IMAGE: image.name, **image.labels}.items()),
        *(["--no-cache"] if anew else []),
        "-",
    ]


def _network(where: ContainerSettings) -> str:
    """What a build's shell reads, for pip and uv: index, proxy and certificates."""
    variables: dict[str, str] = {}
    if where.index_url:
        variables |= {"UV_DEFAULT_INDEX": where.index_url, "PIP_INDEX_URL": where.index_url}
        if found := re.match(r"http://(?:.*@)?([^/]+)", where.index_url):
            variables["PIP_TRUSTED_HOST"] = found[1]  # else pip takes nothing that is not by https
    if where.proxy:
        proxies = ("HTTP_PROXY", "HTTPS_PROXY", "http_proxy", "https_proxy")
        variables |= dict.fromkeys(proxies, where.proxy)
    if where.certificates:
        files = ("SSL_CERT_FILE", "PIP_CERT", "REQUESTS_CA_BUNDLE")
        variables |= dict.fromkeys(files, "/run/secrets/certificates")
    said = "".join(f"export {name}={shlex.quote(value)}\n" for name, value in variables.items())
    return f"# From the settings.\n{said}"


def _run(
    image: Image,
    command: Sequence[str],
    packed: str,
    where: ContainerSettings,
    show: Callable[[str], None],
) -> None:
    printed: deque[str] = deque(maxlen=2000)

    def on_line(line: str) -> None:
        shown_line = _without_passwords(line, where)
        printed.append(shown_line)
        if found := _STEP.match(shown_line):
            show(f"{_MOUNT.sub('', found[1]):.100}")

    environment = {
        **{name: value for name, value in os.environ.items() if name != "BUILDX_BUILDER"},
        "DOCKER_BUILDKIT": "1",
        "DOCKER_CLI_HINTS": "false",
        "METAFLOWTASK_NETWORK": _network(where),
    }
    read = ("sh", "-c", 'exec <"$0" && rm -f "$0" && exec "$@"', packed)  # gone after any end
    failed = process.run(
        [*read, *command], cwd=paths.ROOT, env=environment, timeout=None, on_line=on_line
    )
    if failed:
        raise _failure(image, "\n".join(printed))


def _failure(image: Image, said: str) -> PipelineError:
    """The error of a build that has failed, from all that it has printed."""
    if way_out := fault_of_engine(said):
        return ImageError(f"{image.of} cannot be built: {way_out}")
    at, printed = _FAILED.search(said), _PRINTED.findall(said)
    if not at:
        last = _cut(said.splitlines()[-_SHOWN_LINES:])
        return ImageError("\n".join([f"{paths.shown(image.dockerfile)} cannot be built:", *last]))
    lines = re.findall(r"(?m)^ *\d+ \| >>> (.*)$", at[2])
    told = [re.sub(r"^\d+\.\d+ ", "", each) for each in (printed or [""])[-1].splitlines()]
    if image.requirements and any("--requirements=/opt/requirements/" in line for line in lines):
        return image.requirements.failure(told, "the settings container.index_url and .proxy")
    lines = lines if len(lines) <= 5 else [*lines[:2], "    …", *lines[-2:]]
    told = told or re.findall(r"(?m)^ERROR: (?:failed to solve: )?(.*)", said)[-1:]
    told = _cut([*lines, *told[-_SHOWN_LINES:]])
    for pattern, way_out in _WAYS_OUT.items():
        if re.search(pattern, said):
            told[-1] += f"; {way_out}"  # in one line with the cause, as a run ends with it
    where = f"{paths.shown(image.dockerfile)}, line {at[1]}:"
    return ImageError("\n".join([f"{image.of} cannot be built: {where}", *told]))


def _cut(lines: Sequence[str]) -> list[str]:
    return [
        line if len(line) <= _SHOWN_OF_A_LINE else f"{line[:_SHOWN_OF_A_LINE]} …" for line in lines
    ]


def _without_passwords(line: str, where: ContainerSettings) -> str:
    """The line without who one is at the index and the proxy, or without the password alone."""
    for address in (where.index_url, where.proxy):
        if found := _USER.match(address):
            password = found["user"].partition(":")[2]
            for secret in (found["user"], unquote(found["user"]), password, unquote(password)):
                if len(secret) > 3 or secret is found["user"]:
                    line = line.replace(secret, "***")
    return line
