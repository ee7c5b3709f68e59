"""The attempts of a task, kept until one succeeds: the next one resumes the last."""

from __future__ import annotations

import contextlib
from typing import Any

import msgspec

from .. import store
from ..metaflow_config import datastore_root
from ..store import metaflow_files

STOPPED = "stopped"
"""Why an attempt ended that was interrupted, by a signal or Ctrl-C."""


class Attempt(msgspec.Struct, frozen=True, kw_only=True):
    """One run of the flow, and the code that it was started with."""

    run_id: str
    version: str
    branch: str | None
    commit: str | None
    started: str
    """Date and time in UTC, as ISO 8601."""


class Attempts(msgspec.Struct, frozen=True, kw_only=True):
    """The runs that a task has started since it last succeeded or was started afresh."""

    flow: str = ""
    """Name of the flow's class, once a run has begun."""
    parameters: dict[str, Any]
    declared: list[str] | None = None
    """The names of the parameters in the flow's file when the last run was started."""
    runs: list[Attempt] = []
    """The oldest first; each but the first has taken over what an earlier one had finished."""
    env: str = ""
    retry: list[str] = []
    """What names the task behind `nox -s run --`, in this environment; empty where nothing does."""
    written: float = 0.0
    """When the last one was added, in seconds since 1970."""
    ended: str = ""
    """Why the last one ended: a line, or STOPPED; empty where it was killed, or is at work."""

    def origin(self) -> Attempt | None:
        """The run to resume: the last one that has all that the runs before it had finished.

        A run that was stopped while it took over the tasks of another has only some of them.
        """
        for attempt in reversed(self.runs):
            run = f"{datastore_root()}/{self.flow}/{attempt.run_id}"
            if metaflow_files.can_be_resumed(run, is_resumed=attempt is not self.runs[0]):
                return attempt
        return None


def read_attempts(place: str) -> Attempts | None:
    """What the file tells; None where there is none, or what it holds is nothing of ours."""
    with contextlib.suppress(FileNotFoundError, ValueError):  # no JSON, or no UTF-8
        return msgspec.json.decode(store.read(place), type=Attempts)
    return None


def write_attempts(place: str, attempts: Attempts) -> None:
    """Keep the attempts in the file."""
    store.write(place, msgspec.json.format(msgspec.json.encode(attempts), indent=2) + b"\n")
