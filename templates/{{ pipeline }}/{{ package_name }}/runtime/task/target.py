"""The marker of a run: a small JSON file that exists if and only if the run succeeded."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Any

import luigi
import msgspec

from .. import store
from ..errors import PipelineError
from ..flow.metaflow_client import metaflow_run
from .attempts import Attempt, Caller

if TYPE_CHECKING:
    from metaflow import Run


class Marker(msgspec.Struct, frozen=True, kw_only=True):
    """The contents of a marker file.

    Other versions of the runtime may write fewer or more fields: a missing one gets its default,
    an unknown one is ignored.
    """

    flow: str
    """Name of the flow's class."""
    path: str
    """The flow's file, below `flows/`."""
    run_id: str
    resumed: list[Attempt] = []
    """The runs that failed before, the oldest first: this one took over their finished steps."""
    task: str = ""
    """The task's name and its own parameters, for `nox -s status`."""
    parameters: dict[str, Any] = {}
    env: str = ""
    caller: Caller | None = None
    """Which task of another scheduler has asked for it, if one has."""
    flow_tag: str = ""
    version: str = ""
    branch: str | None = None
    commit: str | None = None
    image: str | None = None
    packages: list[str] = []
    """What the flow's own requirements added, as `cowsay==6.1`; empty if it ran in an image."""
    finished: str = ""
    """When the run was finished: date and time in UTC, as ISO 8601."""
    written: float = 0.0
    """When the marker was written, in seconds since 1970; `from_run` writes it later."""
    seconds: float = 0.0
    result: Any = None

    @property
    def pathspec(self) -> str:
        """The run as Metaflow names it, `FLOW/RUN_ID`."""
        return f"{self.flow}/{self.run_id}"


class FlowTarget(luigi.Target):
    """The output of a MetaflowTask.

    All of it raises PipelineError if the marker cannot be looked up: then nobody knows whether the
    run has succeeded.
    """

    def __init__(self, path: str) -> None:
        self.path = path
        """The marker's file, or its `s3://` address."""

    def exists(self) -> bool:
        """True if there is a marker; a local file with other contents is none.

        On S3 the name is enough: an object is whole or missing, and a few requests answer for
        thousands of tasks. See store/s3.py.
        """
        if store.is_on_s3(self.path):
            from ..store import s3

            return s3.exists(self.path)
        return self.read() is not None

    def remove(self) -> None:
        """Delete the marker if it exists: the flow runs again."""
        store.remove(self.path)

    def read(self) -> Marker | None:
        """The marker; None if there is no file, or the file is no marker."""
        with contextlib.suppress(FileNotFoundError, ValueError):  # no JSON, or no UTF-8
            return msgspec.json.decode(self._contents(), type=Marker)
        return None

    def _contents(self) -> bytes:
        try:
            return store.read(self.path)
        except FileNotFoundError:
            raise
        except OSError as error:
            raise PipelineError(f"{self.path} cannot be read: {error.strerror}") from error

    def __repr__(self) -> str:
        return f"FlowTarget({self.path!r})"

    @property
    def marker(self) -> Marker:
        """The marker.

        Raises PipelineError if the run has not succeeded yet, or the file is no marker.
        """
        try:
            return msgspec.json.decode(self._contents(), type=Marker)
        except FileNotFoundError as error:
            raise PipelineError(f"there is no {self.path}: the flow has not succeeded") from error
        except ValueError as error:
            raise PipelineError(
                f"{self.path} is no marker: {error}\nhint: run the flow again with --force"
            ) from error

    @property
    def result(self) -> Any:
        """The value of the flow's `self.luigi_result`; PipelineError if that is None or not set."""
        marker = self.marker
        if marker.result is None:
            raise PipelineError(
                f"{marker.path} has no result: {marker.pathspec} has set no self.luigi_result\n"
                "hint: set it in the flow's last step, put @talk_to_luigi above the flow's class, "
                "and run the flow again with --force"
            )
        return marker.result

    @property
    def run(self) -> Run:
        """The Metaflow run, with its artifacts, cards and logs."""
        return metaflow_run(self.marker.pathspec)

    def write(self, marker: Marker) -> None:
        """Write the marker, whole or not at all; PipelineError if it cannot be written."""
        encoded = msgspec.json.format(msgspec.json.encode(marker), indent=2) + b"\n"
        try:
            store.write(self.path, encoded)
        except (OSError, PipelineError) as error:
            why = error.strerror if isinstance(error, OSError) else error
            raise PipelineError(
                f"{marker.pathspec} has succeeded, but its marker {self.path} cannot be written: "
                f"{why}\nhint: repair that, and the same command takes the run as it is"
            ) from error
