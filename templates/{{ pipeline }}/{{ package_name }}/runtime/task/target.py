"""The marker of a run: a small JSON file that exists if and only if the run succeeded."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVar

import luigi
import msgspec

from .. import store
from ..errors import PipelineError
from ..metaflow_config import datastore_root, export_environment, metadata
from .attempts import Attempt

if TYPE_CHECKING:
    from metaflow import Run

Read = TypeVar("Read")


class Marker(msgspec.Struct, frozen=True, kw_only=True):
    """What the marker file says about the run.

    Other versions of this file may say less or more: what is missing has a default, what is unknown
    is passed over.
    """

    flow: str
    """Name of the flow's class."""
    path: str
    """The flow's file, below `flows/`."""
    run_id: str
    resumed: list[Attempt] = []
    """The runs that failed before, the oldest first: this one took over what they had finished."""
    parameters: dict[str, Any] = {}
    env: str = ""
    flow_tag: str = ""
    version: str = ""
    branch: str | None = None
    commit: str | None = None
    image: str | None = None
    finished: str = ""
    """When the run was finished: date and time in UTC, as ISO 8601."""
    written: float = 0.0
    """When the marker was written, in seconds since 1970; later, where a finished run was taken."""
    seconds: float = 0.0
    result: Any = None

    @property
    def pathspec(self) -> str:
        """The run as Metaflow names it, `FLOW/RUN_ID`."""
        return f"{self.flow}/{self.run_id}"


class FlowTarget(luigi.Target):
    """The output of a MetaflowTask.

    Whatever is asked of it raises PipelineError where it cannot be looked up: a marker that nobody
    could read is neither there nor not there.
    """

    def __init__(self, path: str) -> None:
        self.path = path
        """The marker's file, or its `s3://` address."""

    def exists(self) -> bool:
        """Is there a marker? A local file that cannot be read as one is none.

        On S3 the name is enough: half an object cannot be there, and thousands of tasks can be
        answered with a few requests. See s3.py.
        """
        if store.is_on_s3(self.path):
            from ..store import s3

            return s3.exists(self.path)
        return self.read() is not None

    def remove(self) -> None:
        """Delete the marker, where there is one: the flow runs again."""
        store.remove(self.path)

    def read(self) -> Marker | None:
        """What the marker says; None where there is none, or what is there is none."""
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

    @property
    def marker(self) -> Marker:
        """What the marker says.

        Raises PipelineError where the run has not succeeded yet, or the file is no marker.
        """
        try:
            return msgspec.json.decode(self._contents(), type=Marker)
        except FileNotFoundError as error:
            raise PipelineError(f"there is no {self.path}: the flow has yet to succeed") from error
        except ValueError as error:
            raise PipelineError(
                f"{self.path} is no marker: {error}; the flow has to run again, with --force"
            ) from error

    @property
    def result(self) -> Any:
        """What the flow put in `self.luigi_result`, None where it put nothing there."""
        return self.marker.result

    @property
    def run(self) -> Run:
        """The Metaflow run, with its artifacts, cards and logs."""
        return metaflow_run(self.marker.pathspec)

    def write(self, marker: Marker) -> None:
        """Write the marker at once and whole.

        Raises PipelineError where it cannot be written.
        """
        encoded = msgspec.json.format(msgspec.json.encode(marker), indent=2) + b"\n"
        try:
            store.write(self.path, encoded)
        except (OSError, PipelineError) as error:
            why = error.strerror if isinstance(error, OSError) else error
            raise PipelineError(
                f"{marker.pathspec} has succeeded, but its marker {self.path} cannot be written: "
                f"{why}; mend that, and the same command takes the run as it is"
            ) from error


def metaflow_run(pathspec: str) -> Run:
    """The run of that name, `FLOW/RUN_ID`, whoever made it.

    Raises PipelineError where there is none, or the metadata of runs cannot be read.
    """
    export_environment()
    import metaflow

    metaflow.metadata(metadata())
    metaflow.namespace(None)
    try:
        return metaflow.Run(pathspec)
    except metaflow.exception.MetaflowNotFound as error:
        raise PipelineError(
            f"there is no run {pathspec} in Metaflow's metadata, {metadata()}; "
            "nox -s status lists what has run here"
        ) from error
    except metaflow.exception.MetaflowException as error:
        raise PipelineError(
            f"{pathspec} cannot be looked up in Metaflow's metadata, {metadata()}: {error}"
        ) from error


def artifacts_of(run: Run, read: Callable[[Run], Read]) -> Read:
    """What `read` makes of the run; PipelineError where its artifacts cannot be read."""
    try:
        return read(run)
    except Exception as error:  # Metaflow's client has no error of its own for what is not there
        raise PipelineError(
            f"the artifacts of {run.pathspec} cannot be read from {datastore_root()}: "
            f"{type(error).__name__}: {error}"
        ) from error


def parameters_of(run: Run) -> dict[str, Any]:
    """The parameters that the run was started with, by name, as JSON can say them."""
    names = [each["name"] for each in run["_parameters"].task["_graph_info"].data["parameters"]]
    values = {name: getattr(run.data, name) for name in names}
    told: dict[str, Any] = msgspec.to_builtins(values, enc_hook=str)
    return told
