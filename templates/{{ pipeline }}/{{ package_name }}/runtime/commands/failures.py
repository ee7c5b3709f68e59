"""Why tasks failed, a line each for the end of a run, and the user's own lines in a traceback."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
import tempfile
import traceback
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import NamedTuple, NoReturn

import luigi

from .. import paths
from ..console import printable
from ..errors import FlowFailedError, PipelineError
from ..metaflow_config import local_root
from ..task.metaflow_task import MetaflowTask
from ..task.run_arguments import named_values, own_values
from .events import Events, send, shared

FAILED, BROKEN, STOPPED = "failed", "broken", "stopped"
"""Events of a task that failed, that cannot be run, and whose worker got a signal."""

_RUNTIME = Path(paths.__file__).parent


class Failure(NamedTuple):
    """A failed task: why, in a line, and whether the same command resumes it."""

    why: str
    is_resumed: bool


class WorkerStoppedError(BaseException):
    """A signal to a worker process; not KeyboardInterrupt, after which Luigi starts it again."""


@contextlib.contextmanager
def collected() -> Iterator[list[Failure]]:
    """Yield a list that holds, after the block, what failed in it, here and in workers."""
    failures: list[Failure] = []
    with shared(), Events() as events:
        try:
            yield failures
        finally:
            failures += [
                Failure(*details[:2])
                for kind, _, _, *details in events.new()
                if kind in (FAILED, BROKEN, STOPPED)
            ]


@luigi.Task.event_handler(luigi.Event.START)
def _stop_for_good(_: luigi.Task) -> None:
    if multiprocessing.parent_process() is None:
        return
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(number) != signal.SIG_IGN:
            signal.signal(number, _fail)


def _fail(number: int, frame: object) -> NoReturn:
    raise WorkerStoppedError(f"its worker was stopped by {signal.Signals(number).name}")


def _keep(kind: str, task: luigi.Task, error: BaseException | str) -> None:
    is_stopped = isinstance(error, WorkerStoppedError)
    if isinstance(error, str):
        failure = Failure(error, isinstance(task, MetaflowTask))
    else:
        why = f"{task.task_id}: {error}" if is_stopped else one_line(error)
        if not is_stopped and not isinstance(error, FlowFailedError):  # which names its flow
            own = own_values(task, dict(MetaflowTask.get_params()))
            name = named_values(type(task).__name__, own)
            why = why if type(task) is MetaflowTask else f"{name}: {why}"
        is_resumed = is_stopped and isinstance(task, MetaflowTask)
        failure = Failure(why, is_resumed or isinstance(error, FlowFailedError))
    send(STOPPED if is_stopped else kind, task.task_id, *failure, in_full(error))


for _event, _kind in {
    luigi.Event.FAILURE: FAILED,
    luigi.Event.PROCESS_FAILURE: FAILED,  # of a worker that was killed Luigi has text
    luigi.Event.TIMEOUT: FAILED,
    luigi.Event.BROKEN_TASK: BROKEN,
}.items():
    luigi.Task.event_handler(_event)(partial(_keep, _kind))


def of_disk() -> str:
    """Why runs cannot write to the disk, which may be full; empty if they can."""
    try:
        with tempfile.TemporaryFile(dir=local_root()) as file:
            file.write(os.urandom(1_000_000))
    except OSError as error:
        what = f"nothing more can be written to {paths.shown(local_root())}: {error.strerror}"
        return f"{what}; to delete what is old: nox -s clean"
    return ""


def in_full(error: BaseException | str) -> str:
    """The error with its traceback, which begins with the user's own code if that is in it."""
    if isinstance(error, (str, PipelineError, WorkerStoppedError)):  # with the flow's traceback
        return printable(str(error))
    shown = traceback.TracebackException.from_exception(error)
    frames = user_frames(error)
    if frames or isinstance(error, SyntaxError):
        shown.stack = traceback.StackSummary.from_list(frames)
    return printable("".join(shown.format())).rstrip()


def one_line(error: BaseException) -> str:
    """The error and its cause or hint; of another's error its kind and the user's line, too."""
    lines = [line.strip() for line in printable(str(error)).splitlines() if line.strip()]
    if isinstance(error, FlowFailedError):
        cause = printable(error.cause)
        return lines[0] if cause in lines[0] else f"{lines[0]}: {cause}"
    if isinstance(error, PipelineError):
        return "; ".join(dict.fromkeys(lines[:1] + lines[-1:]))
    if isinstance(error, SyntaxError) and error.filename and error.text:
        return f"{type(error).__name__}: {error.msg}, at {error.filename}, line {error.lineno}"
    what = ": ".join([type(error).__name__, *lines[:1]])
    own = [frame for frame in user_frames(error) if _is_users(frame)]
    return f"{what}, at {own[-1].filename}, line {own[-1].lineno}" if own else what


def user_frames(error: BaseException) -> list[traceback.FrameSummary]:
    """The traceback from the first line of the user's on; empty if there is none."""
    frames = traceback.extract_tb(error.__traceback__)
    return frames[next((i for i, frame in enumerate(frames) if _is_users(frame)), len(frames)) :]


def _is_users(frame: traceback.FrameSummary) -> bool:
    file = Path(frame.filename)
    return file.is_relative_to(paths.PACKAGE) and not file.is_relative_to(_RUNTIME)
