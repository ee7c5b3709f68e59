"""The attempts of a task, kept until one succeeds: the next one resumes the last."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import msgspec

from .. import store
from ..errors import FlowFailedError, ParameterError, PipelineError
from ..metaflow_config import datastore_root
from ..store import metaflow_files

BLOCK = 4096
"""Bytes of a disk that a file takes at least."""

STOPPED = "stopped"
"""Why an attempt ended that a signal or Ctrl-C has interrupted."""


class Caller(NamedTuple):
    """Who asks for a run: a task of another scheduler, such as Airflow, in one of its tries."""

    run: str
    """The run there, e.g. co2/manual__2026-11-26."""
    task: str
    attempt: int
    """The number of the try, from 1 on."""
    instance: str = ""
    """The scheduler's id of this try, because a run that was deleted can come again."""


class Attempt(msgspec.Struct, frozen=True, kw_only=True):
    """One run of the flow, and the code that it was started with."""

    run_id: str
    version: str
    branch: str | None
    commit: str | None
    started: str
    """Date and time in UTC, as ISO 8601."""


class Attempts(msgspec.Struct, frozen=True, kw_only=True):
    """The runs that a task has started since it last succeeded or started afresh."""

    flow: str = ""
    """Name of the flow's class, once a run has begun."""
    parameters: dict[str, Any]
    runs: list[Attempt] = []
    """The oldest first; each but the first has taken over what an earlier one had finished."""
    task: str = ""
    """The task's name and its own parameters, for `nox -s status`."""
    env: str = ""
    caller: Caller | None = None
    retry: list[str] = []
    """The arguments of `nox -s run --` that name the task; empty if none can."""
    written: float = 0.0
    """When the last run was added, in seconds since 1970."""
    ended: str = ""
    """Why the last run ended: a line, or STOPPED; empty if it was killed or is still running."""

    def origin(self) -> Attempt | None:
        """The run to resume: the last one that has all that the runs before it had finished.

        A run that was stopped while it took over the tasks of another has only some of them.
        """
        for attempt in reversed(self.runs):
            run = f"{datastore_root()}/{self.flow}/{attempt.run_id}"
            if metaflow_files.can_be_resumed(run, is_resumed=attempt is not self.runs[0]):
                return attempt
        return None


class AttemptsFile:
    """The file that keeps a task's attempts until one succeeds."""

    def __init__(self, path: str, attempts: Attempts) -> None:
        self._path = path
        self._attempts = attempts
        write_attempts(path, attempts)  # if that fails, nothing is started

    def add(self, flow: str, attempt: Attempt, parameters: dict[str, Any]) -> None:
        """Add a run of the flow, and what parameters it has got."""
        runs = [*self._attempts.runs, attempt]
        self._attempts = msgspec.structs.replace(
            self._attempts, flow=flow, runs=runs, parameters=parameters, written=time.time()
        )
        write_attempts(self._path, self._attempts)

    def start_afresh(self, parameters: dict[str, Any]) -> None:
        """Forget the runs: the next one gets these parameters."""
        self._attempts = msgspec.structs.replace(self._attempts, runs=[], parameters=parameters)
        write_attempts(self._path, self._attempts)

    @contextlib.contextmanager
    def noting_errors(self) -> Iterator[None]:
        """Note, for `nox -s status`, why the last attempt ended, if an error leaves the block."""
        try:
            yield
        except BaseException as error:
            with contextlib.suppress(OSError, PipelineError):  # the first error counts
                self.note(error)
            raise

    def note(self, error: BaseException) -> None:
        """Note that the last attempt ended with the error."""
        if isinstance(error, ParameterError) and not self._attempts.runs:
            store.remove(self._path)  # retrying the same cannot succeed
            return
        if isinstance(error, FlowFailedError):
            ended = error.cause
        elif isinstance(error, PipelineError):
            ended = str(error).strip().splitlines()[0].strip()
        elif isinstance(error, Exception):
            ended = f"{type(error).__name__}: {error}".splitlines()[0]
        elif store.is_on_s3(self._path):  # a task that is being stopped waits for no server
            return
        else:
            ended = STOPPED
        attempts = msgspec.structs.replace(self._attempts, ended=ended)
        try:
            write_attempts(self._path, attempts)
        except OSError:  # a full disk, on which the file's own last block may have room
            before, after = _encoded(self._attempts), _encoded(attempts)
            if len(before) // BLOCK == len(after) // BLOCK:
                with Path(self._path).open("r+b") as file:
                    file.write(after)


def read_attempts(path: str) -> Attempts | None:
    """The attempts in the file; None if there is no file, or it holds something else."""
    with contextlib.suppress(FileNotFoundError, ValueError):  # no JSON, or no UTF-8
        return msgspec.json.decode(store.read(path), type=Attempts)
    return None


def write_attempts(path: str, attempts: Attempts) -> None:
    """Keep the attempts in the file."""
    store.write(path, _encoded(attempts))


def _encoded(attempts: Attempts) -> bytes:
    return msgspec.json.format(msgspec.json.encode(attempts), indent=2) + b"\n"
