"""What a flow runs in: a process of its own here, or a container; see container.py for that."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Annotated, Any, Protocol, get_args, get_type_hints

import msgspec

from . import paths, process
from .errors import ParameterError
from .flow_file import flow_file
from .metaflow_config import metaflow_environment
from .settings import Settings

RUNNERS = get_args(get_type_hints(Settings)["runner"])


class ContainerKwargs(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What a container may have: `container_kwargs` of a MetaflowTask."""

    memory: str | Annotated[int, msgspec.Meta(gt=0)] | None = None
    """Bytes, or with a unit, `4g`; a flow that wants more is killed. None: no limit."""

    cpus: Annotated[float, msgspec.Meta(gt=0)] | None = None
    """How many, e.g. 1.5. None: no limit."""

    gpus: str | Annotated[int, msgspec.Meta(gt=0)] | None = None
    """How many, `all`, or which, `device=0`. None: none."""

    network: str | None = None
    """Docker's `bridge`, `host`, `none`, or a network's name. None: Docker's own default."""

    volumes: tuple[str, ...] = ()
    """`FOLDER:FOLDER_IN_CONTAINER`, with `:ro` behind it where it is to be read only."""

    env: dict[str, str | int | float | None] = {}
    """Variables and their values; None for the value that a variable has here."""


def container_kwargs(values: Any) -> ContainerKwargs:
    """Check the values; ParameterError says which one cannot be."""
    try:
        return msgspec.convert(values, ContainerKwargs)
    except msgspec.ValidationError as error:
        known = ", ".join(ContainerKwargs.__struct_fields__)
        raise ParameterError(f"container_kwargs: {error}; it may have: {known}") from error


class Runner(Protocol):
    """Runs commands where a flow is to run."""

    @property
    def python(self) -> str:
        """The Python that there is."""

    @property
    def file(self) -> str:
        """The path that the flow's file has there."""

    @property
    def image(self) -> str | None:
        """The name of the image, where it is one."""

    def run(
        self,
        command: Sequence[str],
        *,
        variables: Mapping[str, str],
        timeout: float | None,
        on_line: Callable[[str], None],
        held: Sequence[int] = (),
    ) -> int:
        """Run the command, with these variables too, as `process.run` does; its exit code."""

    def said(self, exit_code: int) -> str:
        """What the exit code of the last run says."""


class ProcessRunner:
    """Runs a flow with the repo's Python, in the repo's root."""

    python = sys.executable
    image = None

    def __init__(self, flow_path: str) -> None:
        self._file = flow_file(flow_path)
        self._overlay: dict[str, str] | None = None

    @property
    def file(self) -> str:
        return str(self._file)

    def run(
        self,
        command: Sequence[str],
        *,
        variables: Mapping[str, str],
        timeout: float | None,
        on_line: Callable[[str], None],
        held: Sequence[int] = (),
    ) -> int:
        """Run it. Raises RequirementsError where the flow's own requirements cannot be had."""
        return process.run(
            command,
            cwd=paths.ROOT,
            env=metaflow_environment() | self._own_requirements() | dict(variables),
            timeout=timeout,
            on_line=on_line,
            held=held,
        )

    def said(self, exit_code: int) -> str:
        return process.said(exit_code)

    def _own_requirements(self) -> dict[str, str]:
        """What the environment must have for the flow's own requirements, where it has any."""
        if self._overlay is None:
            self._overlay = {}
            if self._file.with_name("requirements.txt").is_file():
                from . import overlay

                self._overlay = overlay.variables(self._file)
        return self._overlay
