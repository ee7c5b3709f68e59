"""What a flow runs in: a process of its own here, or a container in `container/runner.py`."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol, get_args, get_type_hints

from .. import paths, process
from ..metaflow_config import metaflow_environment
from ..settings import Settings
from .flow_file import flow_file

RUNNERS = get_args(get_type_hints(Settings)["runner"])


class Runner(Protocol):
    """Runs commands where the flow is to run."""

    python: str
    """The Python to run the flow with."""

    file: str
    """The path of the flow's file, as the flow sees it."""

    @property
    def image(self) -> str | None:
        """The name of the image, if it is a container."""

    @property
    def packages(self) -> list[str]:
        """What the flow's own requirements added; empty for an image, whose name stands for it."""

    def run(
        self,
        command: Sequence[str],
        *,
        variables: Mapping[str, str],
        timeout: float | None,
        on_line: Callable[[str], None],
        held: Sequence[int] = (),
    ) -> int:
        """Run the command as `process.run` does, with these variables added; its exit code."""

    def describe_exit(self, exit_code: int) -> str:
        """What the exit code of the last run means."""


class ProcessRunner:
    """Runs a flow with the repo's Python, in the repo's root.

    `show` gets what is printed while the flow's own packages are installed.
    """

    python = sys.executable
    image = None

    def __init__(self, flow_path: str, show: Callable[[str], None]) -> None:
        self.file = str(flow_file(flow_path))
        self._show = show

    def run(self, command: Sequence[str], *, variables: Mapping[str, str], **options: Any) -> int:
        """Run it; RequirementsError if the flow's own requirements cannot be installed."""
        environment = metaflow_environment() | self._overlay | dict(variables)
        return process.run(command, cwd=paths.ROOT, env=environment, **options)

    def describe_exit(self, exit_code: int) -> str:
        return process.describe_exit(exit_code)

    @property
    def packages(self) -> list[str]:
        if not self._overlay:
            return []
        from ..packages import overlay

        return overlay.packages_for(Path(self.file))

    @cached_property
    def _overlay(self) -> dict[str, str]:
        """The variables with which the flow finds the packages of its own requirements."""
        file = Path(self.file)
        if not file.with_name("requirements.txt").is_file():
            return {}
        from ..packages import overlay  # few flows need it

        return overlay.environment_for(file, self._show)
