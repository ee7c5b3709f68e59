"""What a flow runs in: a process of its own; `container/runner.py` has the container."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Protocol, get_args, get_type_hints

from .. import paths, process
from ..metaflow_config import metaflow_environment
from ..settings import Settings
from .flow_file import flow_file

RUNNERS = get_args(get_type_hints(Settings)["runner"])


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

    def describe_exit(self, exit_code: int) -> str:
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

    def describe_exit(self, exit_code: int) -> str:
        return process.describe_exit(exit_code)

    def _own_requirements(self) -> dict[str, str]:
        """What the environment must have for the flow's own requirements, where it has any."""
        if self._overlay is None:
            self._overlay = {}
            if self._file.with_name("requirements.txt").is_file():
                from ..packages import overlay

                self._overlay = overlay.environment_for(self._file)
        return self._overlay
