"""Runs a flow in a container of its own image, with `docker run`.

What the container needs of this machine it gets when it starts, and none of it is in the image:
Metaflow's folder, at the same path, because Metaflow writes down absolute paths; the caller's user
and group, so that files belong to the caller; Metaflow's configuration and AWS's. Variables are
passed by name, so that no value is on a command line.

The container's standard input is the lifeline of `process.run`: when the task is gone, for whatever
reason, a supervisor in the container reads the end of it and stops the flow there.
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
from typing import Any
from urllib.parse import urlsplit

from .. import paths, process
from ..errors import ImageError, ParameterError
from ..flow.command_line import options
from ..metaflow_config import configuration_file, local_root, metaflow_environment
from ..settings import PREFIX, dotenv_variables
from . import remove_container
from .engine import CHECKOUT, checkout, docker, engine_fault
from .kwargs import ContainerKwargs

REPO = "/repo"
"""The folder in an image that holds the package."""

PROGRAMS = "/opt/venv/bin"
"""The folder in an image with the programs of its Python environment."""

HOME = "/tmp"
"""The one folder of a container that can be written to, in memory; the datastore is outside."""

LONGEST = 128 * 1024
"""Bytes of a variable with its name, as Linux takes it."""

_SUPERVISOR = f"{REPO}/{paths.PACKAGE.name}/runtime/process/supervisor.py"

_PASSED = re.compile(
    rf"(AWS|METAFLOW)_.*|{PREFIX}.*|TZ|(http|https|no|all)_proxy|(HTTP|HTTPS|NO|ALL)_PROXY"
)

_FOR_BUILDS = re.compile(rf"PATH|(PIP|UV)_.*|{PREFIX}(CONTAINER|DATABASE)(_.*)?", re.IGNORECASE)
"""What no flow needs, e.g. an index with its password; `env` of container_kwargs adds it."""

# `docker run` itself reads these, so the flow's value is on the command line. None is secret, and
# what may be, such as DOCKER_PASSWORD, is not among them.
_DOCKERS_OWN = re.compile(
    "HOME|PATH|LD_.*|XDG_.*|SSH_AUTH_SOCK|DOCKER_(HOST|CONTEXT|CONFIG|CERT_PATH|TLS|TLS_VERIFY|"
    "API_VERSION|CONTENT_TRUST.*|DEFAULT_PLATFORM)"
)

_SERVERS = (
    *("AWS_ENDPOINT_URL", "AWS_ENDPOINT_URL_S3", "METAFLOW_S3_ENDPOINT_URL"),
    "METAFLOW_SERVICE_URL",
)
"""Variables with the address of a server that Metaflow tries for long."""

_FILES = (
    *("AWS_CA_BUNDLE", "AWS_CONFIG_FILE", "AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE"),
    *("AWS_SHARED_CREDENTIALS_FILE", "AWS_WEB_IDENTITY_TOKEN_FILE"),
    *("CURL_CA_BUNDLE", "REQUESTS_CA_BUNDLE", "SSL_CERT_FILE"),
)
"""Variables with the path of a file that the container gets, too."""

_HINTS = {
    "[[gpu]]": "leave gpus out of container_kwargs, or install the NVIDIA driver and the NVIDIA "
    "Container Toolkit: docker has no GPU",
    "No such image": "run the same command again, which builds the image that was removed",
    "": "change container_kwargs, or see `docker info` for the engine's state",
}
"""The way out, by what docker prints."""


class ContainerRunner:
    """Runs a flow in containers of its image, each command in a new one.

    `image` returns the image's name, and may build it; it is called last, after ParameterError
    was raised for whatever is wrong. `scratch` is a folder for what the flow leaves to be read: it
    has the same path in the container.
    """

    python = "python"

    def __init__(
        self, flow_path: str, image: Callable[[], str], kwargs: ContainerKwargs, scratch: Path
    ) -> None:
        self.file = f"{REPO}/{paths.PACKAGE.name}/flows/{flow_path}"
        self._flow_path = flow_path
        self._kwargs = kwargs
        self._scratch = scratch
        self._ran_out_of_memory = False
        self._environment = metaflow_environment()
        self._volumes = dict(_volumes(kwargs))
        self._env = dict(_env(kwargs, self._environment))
        _check_servers({**self._environment, **self._env}, kwargs.network or "")
        self.image = image()
        self.packages: list[str] = []

    def run(
        self,
        command: Sequence[str],
        *,
        variables: Mapping[str, str],
        on_line: Callable[[str], None],
        **more: Any,
    ) -> int:
        """Run the command in a container, which is gone when this returns.

        Raises ImageError if the engine does not start the container, or no flow can run in it.
        """
        slug = re.sub(r"[^a-z0-9]+", "-", f"{paths.PACKAGE.name}-{self._flow_path}".lower())
        name = f"{slug.strip('-')[-80:].lstrip('-')}-{uuid.uuid4().hex[:12]}"
        id_file = self._scratch / f"{name}.id"
        passed = self._variables(variables)
        with_value = {each for each in passed if _DOCKERS_OWN.fullmatch(each)}
        last: list[str] = []

        def remember(line: str) -> None:
            last[:] = [*last[-9:], line]
            on_line(line)

        exit_code = process.run(
            [
                *("docker", "run", "--rm", "--interactive", "--pull=never"),
                *(f"--name={name}", f"--cidfile={id_file}", f"--label={CHECKOUT}={checkout()}"),
                *("--log-driver=none", "--security-opt=no-new-privileges", "--read-only"),
                *(f"--user={os.geteuid()}:{os.getegid()}", f"--workdir={REPO}"),
                *self._limits(),
                *self._mounts(),
                *(f"--env={each}" for each in passed.keys() - with_value),
                *(f"--env={each}={passed[each]}" for each in with_value),
                self.image,
                *self._supervised(command),
            ],
            cwd=paths.ROOT,
            env={**os.environ, **{each: passed[each] for each in passed.keys() - with_value}},
            on_line=remember,
            **more,
            remove=[sys.executable, "-I", "-S", remove_container.__file__, name, str(id_file)],
        )
        refused = exit_code == remove_container.ENGINE_REFUSED
        errors = [line for line in last if line.startswith("docker: ")]
        if refused and not id_file.exists():
            errors += last[:1]  # of docker's own command line
        if errors and (refused or exit_code in (126, 127)):
            raise ImageError(self._not_started(errors[0], "\n".join(last)))
        if any(f"can't open file '{_SUPERVISOR}'" in line for line in last):
            default = paths.shown(paths.CONFIG / "metaflowtask" / "Dockerfile")
            raise ImageError(
                f"{self._flow_path}: {self.image} has no package in {REPO}, because the flow's own "
                f"Dockerfile does not copy it there\nhint: begin with a copy of {default}"
            )
        self._ran_out_of_memory = exit_code > 0 and not refused and _ran_out_of_memory(name)
        return exit_code

    def describe_exit(self, exit_code: int) -> str:
        """What the exit code of the last run means, and whether the container ran out of memory."""
        if exit_code == remove_container.ENGINE_REFUSED:  # with the container running
            return (
                "the Docker engine lost the container; `docker info` shows its state, and the same "
                "command resumes the run"
            )
        text = process.describe_exit(exit_code)
        if self._ran_out_of_memory:
            limit = self._kwargs.memory or "not limited"
            text += (
                f"; it ran out of memory, which includes /tmp: container_kwargs memory is {limit}, "
                "set it higher"
            )
        return text

    def _not_started(self, error: str, output: str) -> str:
        """The message for a container that was not started, from docker's error and output."""
        cause = re.sub("docker: (Error response from daemon: )?", "", error, count=1)
        hint = next(hint for part, hint in _HINTS.items() if part in cause)
        reason = engine_fault(output) or f"{cause}\nhint: {hint}"
        return f"{self._flow_path}: no container of {self.image} was started: {reason}"

    def _supervised(self, command: Sequence[str]) -> list[str]:
        """The command under a supervisor in the container, whose lifeline is the standard input.

        Errors join the output in the container: their order would be lost on the way.
        """
        lifeline = 3
        made = self._scratch / "mode"
        made.mkdir(exist_ok=True)
        umask = ~made.stat().st_mode & 0o777  # os.umask() would change it for a moment
        return [
            *("sh", "-c", f'umask {umask:03o} && exec "$@" {lifeline}<&0 </dev/null 2>&1', "sh"),
            *process.supervised(command, self.python, _SUPERVISOR, [lifeline]),
        ]

    def _limits(self) -> Iterator[str]:
        for name in ("memory", "cpus", "gpus", "network"):
            value = getattr(self._kwargs, name)
            if value is not None:
                yield f"--{name}={value}"
        # The name of this machine's own servers; in another container's network that one decides.
        if not (self._kwargs.network or "").startswith("container:"):
            yield "--add-host=host.docker.internal:host-gateway"

    def _mounts(self) -> Iterator[str]:
        """Volumes, the folders that Metaflow writes to, and the files with its configuration."""
        yield from self._volumes.values()
        if HOME not in self._volumes:
            yield f"--tmpfs={HOME}:rw,exec,mode=1777"
        for folder in {local_root(), self._client_cache(), self._scratch}:
            folder.mkdir(parents=True, exist_ok=True)
            yield _mount(folder, folder)
        # Metaflow writes cards to the first `.metaflow` above where the flow runs.
        yield _mount(local_root(), Path(REPO, ".metaflow"))
        aws = Path("~/.aws").expanduser()
        if aws.is_dir():
            yield _mount(aws, Path(HOME, ".aws"), "readonly")
        for file in {configuration_file().absolute(), *self._named_files().values()}:
            if file.is_file():
                yield _mount(file, file, "readonly")

    def _variables(self, more: Mapping[str, str]) -> dict[str, str]:
        """The container's variables."""
        names = {*filter(_PASSED.fullmatch, self._environment), *dotenv_variables(paths.ROOT)}
        needed = sorted(name for name in names if not _FOR_BUILDS.fullmatch(name))
        return {
            **{name: self._environment[name] for name in needed},
            **{name: str(file) for name, file in self._named_files().items()},
            "HOME": HOME,
            "METAFLOW_HOME": str(configuration_file().absolute().parent),
            # By default Metaflow keeps what it moves to and from S3 where the flow runs.
            "METAFLOW_ARTIFACT_LOCALROOT": HOME,
            "METAFLOW_TEMPDIR": HOME,
            "METAFLOW_DATASTORE_SYSROOT_LOCAL": str(local_root().parent),
            # Included files; by default they would lie beside `.metaflow`, which is read-only.
            "METAFLOW_DATATOOLS_LOCALROOT": str(local_root() / "data"),
            "METAFLOW_CLIENT_CACHE_PATH": str(self._client_cache()),
            **self._env,
            **more,
        }

    def _client_cache(self) -> Path:
        return paths.ROOT / self._environment["METAFLOW_CLIENT_CACHE_PATH"]

    def _named_files(self) -> dict[str, Path]:
        """The files that the variables in _FILES name, by variable."""
        values = {name: self._environment[name] for name in _FILES if self._environment.get(name)}
        files = {name: Path(value).expanduser().absolute() for name, value in values.items()}
        return {name: file for name, file in files.items() if file.is_file()}


def _ran_out_of_memory(container: str) -> bool:
    """True if the engine, which remembers for a while, killed one of its processes for that."""
    with contextlib.suppress(ImageError):  # of no answer: the flow's exit code counts
        events = docker(
            *("events", "--since=1", f"--until={time.time():.6f}", "--filter=event=oom"),
            f"--filter=container={container}",
        )
        return bool(events.stdout.strip())
    return False


def _volumes(kwargs: ContainerKwargs) -> Iterator[tuple[str, str]]:
    """For each volume the folder in the container, and docker's option."""
    volumes: dict[str, str] = {}
    for volume in map(os.path.expanduser, kwargs.volumes):
        match = re.fullmatch(r"(?P<source>[^:]+):(?P<target>/[^:]*)(:[^:]*)?", volume)
        if not match:
            raise ParameterError(
                f"container_kwargs: volume {volume!r} must be FOLDER:FOLDER_IN_CONTAINER, the "
                "second an absolute path; add `:ro` to make it read-only"
            )
        source = match["source"]
        folder, is_folder = paths.ROOT / source, "/" in source
        if is_folder and not folder.exists():  # docker would create it, as root
            raise ParameterError(
                f"container_kwargs: volume {volume!r}: there is no {source}\n"
                f"hint: mkdir -p {folder}"
            )
        if not is_folder and folder.exists():
            raise ParameterError(
                f"container_kwargs: volume {volume!r} names one of Docker's own volumes\n"
                f"hint: write ./{volume} for the folder"
            )
        target = os.path.normpath(match["target"])
        if volumes.setdefault(target, volume) is not volume:
            raise ParameterError(
                f"container_kwargs: volumes {volumes[target]!r} and {volume!r} are both to be "
                f"{target} in the container\nhint: give one of them another folder there"
            )
        yield target, f"--volume={folder if is_folder else source}{volume.removeprefix(source)}"


def _env(kwargs: ContainerKwargs, environment: Mapping[str, str]) -> Iterator[tuple[str, str]]:
    """The variables that `env` names, with their values."""
    label = "container_kwargs: env"
    for name, value in kwargs.env.items():
        if not name or "=" in name:
            raise ParameterError(f"{label}: {name!r} is no name of a variable")
        if value is None and name not in environment:
            raise ParameterError(
                f"{label}: {name} is to keep the value it has outside the container, and has none\n"
                f"hint: set {name}, or leave it out"
            )
        text = environment[name] if value is None else str(value)
        if name == "PATH":  # the environment's programs come first, as in a process
            text = f"{PROGRAMS}:{text}"
        (option,) = options({name: text}, label)  # refuses what no command can get
        if len(os.fsencode(option)) > LONGEST:
            raise ParameterError(
                f"{label}: {name} is longer than the {LONGEST:,} bytes that the system takes\n"
                "hint: write the value to a file, and mount it with volumes"
            )
        yield name, text


def _check_servers(variables: Mapping[str, str], network: str) -> None:
    """Raise ParameterError if Metaflow would wait long for a server that it cannot reach."""
    for name in _SERVERS:
        host = urlsplit(variables.get(name, "")).hostname or ""
        if re.fullmatch(r"localhost|127\..*|::1", host) and network in ("", "bridge", "none"):
            raise ParameterError(
                f"{name} is on this machine's loopback, {host}, which a container cannot reach\n"
                'hint: set container_kwargs to {"network": "host"}'
            )


def _mount(source: Path, target: Path, *more: str) -> str:
    # Unlike `--volume`, this fails if the source does not exist, and takes any name.
    fields = ["type=bind", f"source={source}", f"target={target}", *more]
    return "--mount=" + ",".join('"' + field.replace('"', '""') + '"' for field in fields)
