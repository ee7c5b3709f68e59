"""The marker of a run: a small JSON file that exists if and only if the run succeeded."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import luigi
import msgspec

from .errors import PipelineError
from .metaflow_config import client_cache, datastore_root

if TYPE_CHECKING:
    from metaflow import Run


class Marker(msgspec.Struct, frozen=True, kw_only=True):
    """What the marker file says about the run."""

    flow: str
    """Name of the flow's class."""
    path: str
    """The flow's file, below `flows/`."""
    run_id: str
    resumed: list[str] = []
    """Ids of the failed runs whose finished steps this run took over, oldest first."""
    parameters: dict[str, Any]
    env: str
    flow_tag: str
    version: str
    branch: str | None
    commit: str | None
    image: str | None = None
    finished: str
    """Date and time in UTC, as ISO 8601."""
    seconds: float
    result: Any = None

    @property
    def pathspec(self) -> str:
        """The run as Metaflow names it, `FLOW/RUN_ID`."""
        return f"{self.flow}/{self.run_id}"


class FlowTarget(luigi.LocalTarget):
    """The output of a MetaflowTask."""

    @property
    def marker(self) -> Marker:
        """What the marker says.

        Raises PipelineError where the run has not succeeded yet, or the file is no marker.
        """
        try:
            return msgspec.json.decode(Path(self.path).read_bytes(), type=Marker)
        except FileNotFoundError as error:
            raise PipelineError(f"there is no {self.path}: the flow has yet to succeed") from error
        except msgspec.DecodeError as error:
            raise PipelineError(
                f"{self.path} is no marker: {error}; delete it to run the flow again"
            ) from error

    @property
    def result(self) -> Any:
        """What the flow put in `self.luigi_result`, None where it put nothing there."""
        return self.marker.result

    @property
    def run(self) -> Run:
        """The Metaflow run, with its artifacts, cards and logs."""
        os.environ.setdefault(*client_cache())
        import metaflow

        metaflow.metadata(f"local@{datastore_root().parent}")
        metaflow.namespace(None)  # the marker names the run, whoever made it
        return metaflow.Run(self.marker.pathspec)

    def write(self, marker: Marker) -> None:
        """Write the marker at once and whole, by a rename."""
        with self.temporary_path() as path:
            Path(path).write_bytes(
                msgspec.json.format(msgspec.json.encode(marker), indent=2) + b"\n"
            )
