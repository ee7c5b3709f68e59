"""Runs a flow in a container of its own image, with `docker run`.

The container gets at run time what it needs of this machine: Metaflow's folder, at the same path
as here, for Metaflow writes down absolute paths; the caller's user and group, so that files belong
to the caller; Metaflow's configuration and AWS's. Variables are handed over by name, so that no
value is on a command line. Nothing of that is in the image.

The container's standard input is the lifeline of `process.run`: when the task is gone, in whatever
way, a supervisor in the container reads its end, and stops the flow there.
"""

from __future__ import annotations

import contextlib
import os
import re
import sys
import time
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from urllib.parse import urlsplit

from .. import paths, process
from ..errors import ImageError, ParameterError
from ..flow.command_line import options
from ..metaflow_config import (
    configuration_file,
    local_root,
    metaflow_environment,
)
from ..settings import PREFIX, dotenv_variables
from . import remove_container
from .engine import (
    CHECKOUT,
    checkout,
    docker,
    fault_of_engine,
)
from .kwargs import ContainerKwargs

REPO = "/repo"
"""The folder in an image that holds the package."""

HOME = "/tmp"
"""The one folder of a container that can be written to, in memory; the datastore is outside."""

_PROXIES = ("http_proxy", "https_proxy", "no_proxy", "all_proxy")
_PASSED = {"TZ", *_PROXIES, *map(str.upper, _PROXIES)}

_SERVERS = (
    *("AWS_ENDPOINT_URL", "AWS_ENDPOINT_URL_S3", "METAFLOW_S3_ENDPOINT_URL"),
    "METAFLOW_SERVICE_URL",
)
"""Variables that name a server which Metaflow asks for long."""

_SUPERVISOR = f"{REPO}/{paths.PACKAGE.name}/runtime/process/supervisor.py"

_FILES = (
    *("AWS_CA_BUNDLE", "AWS_CONFIG_FILE", "AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE"),
    *("AWS_SHARED_CREDENTIALS_FILE", "AWS_WEB_IDENTITY_TOKEN_FILE"),
    *("CURL_CA_BUNDLE", "REQUESTS_CA_BUNDLE", "SSL_CERT_FILE"),
)
"""Variables that name a file here, which is in the container too."""

# What `docker run` itself goes by: the flow's value is on the command line. None of them is secret,
# and what may be, as DOCKER_PASSWORD, is none of them.
_DOCKERS_OWN = re.compile(
    "HOME|PATH|LD_.*|XDG_.*|SSH_AUTH_SOCK|DOCKER_(HOST|CONTEXT|CONFIG|CERT_PATH|TLS|TLS_VERIFY|"
    "API_VERSION|CONTENT_TRUST.*|DEFAULT_PLATFORM)"
)

_WAYS_OUT = {
    "[[gpu]]": "docker has no GPU here: leave gpus out of container_kwargs, or install the NVIDIA "
    "driver and the NVIDIA Container Toolkit",
    "No such image": "it has been removed meanwhile: the same command builds it again",
    "": "container_kwargs says what it is started with, and `docker info` how the engine is",
}
"""The way out, by what docker says."""

LONGEST = 128 * 1024
"""Bytes of a variable with its name, as Linux takes it."""


class ContainerRunner:
    """Runs a flow in containers of its image, each of them new.

    `scratch` is a folder for what is read here when the flow has ended: it has the same path in
    the container. `image` builds the image where it is not there, and is asked for its name when
    all else is right: ParameterError says what is not.
    """

    python = "python"

    def __init__(
        self, flow_path: str, image: Callable[[], str], kwargs: ContainerKwargs, scratch: Path
    ) -> None:
        self.file = f"{REPO}/{paths.PACKAGE.name}/flows/{flow_path}"
        self._flow_path = flow_path
        self._kwargs = kwargs
        self._scratch = scratch
        self._without_memory = False
        self._volumes = dict(_volumes(kwargs))
        self._env = dict(_env(kwargs))
        _check_servers({**metaflow_environment(), **self._env}, kwargs.network or "")
        self.image = image()

    def run(
        self,
        command: Sequence[str],
        *,
        variables: Mapping[str, str],
        timeout: float | None,
        on_line: Callable[[str], None],
        held: Sequence[int] = (),
    ) -> int:
        """Run it in a container, of which nothing is left when this returns.

        Raises ImageError where the engine does not start the container, or no flow can run in it.
        """
        slug = re.sub(r"[^a-z0-9]+", "-", f"{paths.PACKAGE.name}-{self._flow_path}".lower())
        name = f"{slug.strip('-')[-80:].lstrip('-')}-{uuid.uuid4().hex[:12]}"
        id_file = self._scratch / f"{name}.id"
        handed_over = self._variables(variables)
        on_command_line = {each for each in handed_over if _DOCKERS_OWN.fullmatch(each)}
        last: list[str] = []

        def remember(line: str) -> None:
            last[:] = [*last[-9:], line]
            on_line(line)

        code = process.run(
            [
                *("docker", "run", "--rm", "--interactive", "--pull=never"),
                *(f"--name={name}", f"--cidfile={id_file}", f"--label={CHECKOUT}={checkout()}"),
                *("--log-driver=none", "--security-opt=no-new-privileges", "--read-only"),
                *(f"--user={os.geteuid()}:{os.getegid()}", f"--workdir={REPO}"),
                *self._limits(),
                *self._mounts(),
                *(
                    f"--env={each}={value}" if each in on_command_line else f"--env={each}"
                    for each, value in handed_over.items()
                ),
                self.image,
                *self._watched(command),
            ],
            cwd=paths.ROOT,
            env={
                **os.environ,
                **{each: handed_over[each] for each in {*handed_over} - on_command_line},
            },
            timeout=timeout,
            on_line=remember,
            held=held,
            remove=[
                *(sys.executable, "-I", "-S", remove_container.__file__, name, str(id_file)),
            ],
        )
        refused = [line for line in last if line.startswith("docker: ")]
        if code == remove_container.ENGINE_REFUSED and not id_file.exists():
            refused += last[:1]  # what docker's own command line cannot have
        if refused and code in (remove_container.ENGINE_REFUSED, 126, 127):
            raise ImageError(self._why_not_started(refused[0], "\n".join(last)))
        if any(f"can't open file '{_SUPERVISOR}'" in line for line in last):
            repos = paths.shown(paths.CONFIG / "metaflowtask" / "Dockerfile")
            raise ImageError(
                f"{self._flow_path}: {self.image} has no package in {REPO}: a Dockerfile of the "
                f"flow's own has to bring it there as {repos} does; begin with a copy of that"
            )
        answers = code > 0 and code != remove_container.ENGINE_REFUSED
        self._without_memory = answers and _was_without_memory(name)
        return code

    def describe_exit(self, exit_code: int) -> str:
        """What the exit code of the last run says, and whether its memory was out."""
        if exit_code == remove_container.ENGINE_REFUSED:  # with the container at work
            return (
                "the Docker engine has let go of the container; `docker info` says how it is, and "
                "the same command resumes the run"
            )
        if not self._without_memory:
            return process.describe_exit(exit_code)
        limit = self._kwargs.memory or "not limited"
        return (
            f"{process.describe_exit(exit_code)}; its memory was out, which /tmp is part of: "
            f"container_kwargs memory is {limit}, give it more"
        )

    def _why_not_started(self, line: str, said: str) -> str:
        """The message for what docker has said, of which this line says why."""
        why = re.sub("docker: (Error response from daemon: )?", "", line, count=1)
        known = (way_out for part, way_out in _WAYS_OUT.items() if part in why)
        way_out = fault_of_engine(said) or next(known)
        return f"{self._flow_path}: no container of {self.image} was started: {why}; {way_out}"

    def _watched(self, command: Sequence[str]) -> list[str]:
        """The command under a supervisor of its own, whose lifeline is the standard input.

        Errors join the output here, for else their order is lost on the way.
        """
        lifeline = 3
        made = self._scratch / "mode"
        made.mkdir(exist_ok=True)
        umask = ~made.stat().st_mode & 0o777  # to ask for it would be to change it for a moment
        return [
            *("sh", "-c", f'umask {umask:03o} && exec "$@" {lifeline}<&0 </dev/null 2>&1', "sh"),
            *process.supervised(command, self.python, _SUPERVISOR, [lifeline]),
        ]

    def _limits(self) -> Iterator[str]:
        for name in ("memory", "cpus", "gpus", "network"):
            value = getattr(self._kwargs, name)
            if value is not None:
                yield f"--{name}={value}"
        # A server on this machine is found by this name; what another container has, it has.
        if not (self._kwargs.network or "").startswith("container:"):
            yield "--add-host=host.docker.internal:host-gateway"

    def _mounts(self) -> Iterator[str]:
        """Volumes, the folders with what Metaflow writes, and the files with its configuration."""
        yield from self._volumes.values()
        if HOME not in self._volumes:
            yield f"--tmpfs={HOME}:rw,exec,mode=1777"
        for folder in {local_root(), _client_cache(), self._scratch}:
            folder.mkdir(parents=True, exist_ok=True)
            yield _mount(folder, folder)
        # Cards are in the first `.metaflow` above where the flow runs, and looked for in this one.
        yield _mount(local_root(), Path(REPO, ".metaflow"))
        aws = Path("~/.aws").expanduser()
        if aws.is_dir():
            yield _mount(aws, Path(HOME, ".aws"), "readonly")
        configuration = configuration_file().absolute()
        for file in {configuration, *_named_files().values()}:
            if file.is_file():
                yield _mount(file, file, "readonly")

    def _variables(self, more: Mapping[str, str]) -> dict[str, str]:
        """The variables of the container, by name."""
        here = metaflow_environment()
        wanted = {
            name
            for name in here
            if name.startswith(("AWS_", "METAFLOW_", PREFIX)) or name in _PASSED
        }
        return {
            **{name: here[name] for name in sorted(wanted | {*dotenv_variables(paths.ROOT)})},
            **{name: str(file) for name, file in _named_files().items()},
            "HOME": HOME,
            "METAFLOW_HOME": str(configuration_file().absolute().parent),
            # What is on its way from S3 and to it lies where the flow runs, unless these say so.
            "METAFLOW_ARTIFACT_LOCALROOT": HOME,
            "METAFLOW_TEMPDIR": HOME,
            "METAFLOW_DATASTORE_SYSROOT_LOCAL": str(local_root().parent),
            "METAFLOW_CLIENT_CACHE_PATH": str(_client_cache()),
            **self._env,
            **more,
        }


def _was_without_memory(name: str) -> bool:
    """Has the container ended a process for want of memory? The engine knows it for a while."""
    with contextlib.suppress(ImageError):  # it answers no more: what the flow ended with counts
        asked = docker(
            *("events", "--since=1", f"--until={time.time():.6f}", "--filter=event=oom"),
            f"--filter=container={name}",
        )
        return bool(asked.stdout.strip())
    return False


def _volumes(kwargs: ContainerKwargs) -> Iterator[tuple[str, str]]:
    """Folders in the container, and docker's option that lets them be there."""
    for volume in map(os.path.expanduser, kwargs.volumes):
        source, target = _parts_of(volume)
        place = paths.ROOT / source
        # Docker would make it, for root; what has no slash is a volume of Docker's own.
        if "/" in source and not place.exists():
            raise ParameterError(
                f"container_kwargs: volume {volume!r}: there is no {source} here; make it"
            )
        if "/" not in source and place.exists():
            raise ParameterError(
                f"container_kwargs: volume {volume!r} is one of Docker's own, by that name; the "
                f"folder here is ./{volume}"
            )
        yield target, f"--volume={place if '/' in source else source}{volume.removeprefix(source)}"


def _env(kwargs: ContainerKwargs) -> Iterator[tuple[str, str]]:
    """The variables that `env` wants, and their values."""
    here = metaflow_environment()
    for name, value in kwargs.env.items():
        if value is None and name not in here:
            raise ParameterError(
                f"container_kwargs: env wants the value that {name} has here, and it has none; "
                "set it, or leave it out"
            )
        handed_over = here[name] if value is None else str(value)
        _check(name, handed_over)
        yield name, handed_over


def _check_servers(variables: Mapping[str, str], network: str) -> None:
    """Raise ParameterError where Metaflow would wait long for a server that cannot be reached."""
    for name in _SERVERS:
        host = urlsplit(variables.get(name, "")).hostname or ""
        if re.fullmatch(r"localhost|127\..*|::1", host) and network in ("", "bridge", "none"):
            raise ParameterError(
                f"{name} is on this machine's loopback, {host}, which a container does not see: "
                'container_kwargs {"network": "host"} lets it'
            )


def _check(name: str, value: str) -> None:
    """Raise ParameterError unless a command can get this variable."""
    (said,) = options({name: value}, "container_kwargs: env")
    if not name or "=" in name:
        raise ParameterError(f"container_kwargs: env: {name!r} is no variable's name")
    if len(os.fsencode(said)) > LONGEST:
        raise ParameterError(
            f"container_kwargs: env: {name} is longer than the {LONGEST:,} bytes that the system "
            "takes; write the value to a file, and let a volume have it there"
        )


def _client_cache() -> Path:
    """The folder of the cache of Metaflow's client."""
    return paths.ROOT / metaflow_environment()["METAFLOW_CLIENT_CACHE_PATH"]


def _named_files() -> dict[str, Path]:
    """The files that variables of _FILES name here, by the variable."""
    here = metaflow_environment()
    named = {name: Path(here[name]).expanduser().absolute() for name in _FILES if here.get(name)}
    return {name: file for name, file in named.items() if file.is_file()}


def _parts_of(volume: str) -> tuple[str, str]:
    """A volume's folder here, and the one in the container."""
    parts = volume.split(":")
    if len(parts) not in (2, 3) or not parts[0] or not parts[1].startswith("/"):
        raise ParameterError(
            f"container_kwargs: volume {volume!r} must be FOLDER:FOLDER_IN_CONTAINER, the second "
            "an absolute path; `:ro` behind it makes it read only"
        )
    return parts[0], parts[1].rstrip("/") or "/"


def _mount(source: Path, target: Path, *more: str) -> str:
    # Unlike `--volume`, this says so where the source is not there, and takes any name.
    fields = ["type=bind", f"source={source}", f"target={target}", *more]
    return "--mount=" + ",".join('"' + field.replace('"', '""') + '"' for field in fields)
