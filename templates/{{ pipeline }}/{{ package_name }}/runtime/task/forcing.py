"""Forced tasks: they run again, though they are done.

A task that can be forced has the attribute `forced_at`: what it has made before that time, in
seconds since 1970, does not count.
"""

from __future__ import annotations

import multiprocessing
import os
import time
import warnings
from collections.abc import Iterable, Sequence
from typing import Any

import luigi
from luigi.task import flatten

from ..errors import FlowNotFoundError, ParameterError, PipelineError

ENDLESS = 20_000
"""More tasks than that, all to run, are taken for a chain that never ends."""

MISTAKES = (FlowNotFoundError, ParameterError)


def force(tasks: Iterable[luigi.Task], at: float) -> None:
    """Force these tasks, and all that they require.

    Luigi keeps one object for each task, so everybody who asks a task gets the same answer. A task
    that is complete though it is forced, e.g. because it is of another kind, is not asked what it
    requires. Raises PipelineError if there seems to be no end.
    """
    waiting: list[Any] = [*tasks]
    seen, asked = set(), list[luigi.Task]()
    while waiting:
        task = waiting.pop()
        if not isinstance(task, luigi.Task) or task in seen:  # Luigi refuses what is no task
            continue
        seen.add(task)
        if hasattr(task, "forced_at"):
            if task.forced_at >= at:
                continue
            task.forced_at = at
        if is_asked(task):
            asked.append(task)
            check_end(asked)
            waiting += flatten(task.requires())


def is_asked(task: luigi.Task) -> bool:
    """True if Luigi asks the task what it requires: it is neither complete nor external.

    Raises FlowNotFoundError or ParameterError of a task that complete() cannot make.
    """
    if type(task).complete is luigi.WrapperTask.complete:
        return True  # complete() itself asks, and then all that is required, and so on
    try:
        with warnings.catch_warnings(action="ignore"):  # Luigi warns itself
            return getattr(task, "run", None) is not None and not task.complete()
    except MISTAKES:
        raise
    except Exception:  # Luigi reports it, and runs what does not need this task
        return False


def check_end(asked: Sequence[luigi.Task]) -> None:
    """Raise PipelineError if so many tasks were asked that there seems to be no end."""
    if len(asked) > ENDLESS:
        raise PipelineError(
            f"more than {ENDLESS:,} tasks are to run, so far down to {asked[-1]}\n"
            "hint: a task that requires itself for the day before needs a first day"
        )


def time_of_forcing() -> float:
    """The present time; in a worker process, the time that its parent has used.

    A worker process that makes its tasks anew, as on macOS, would else run again what has been run
    again meanwhile.
    """
    if multiprocessing.parent_process() is None:
        os.environ["LUIGI_FORCED_AT"] = repr(time.time())
    return float(os.environ.get("LUIGI_FORCED_AT") or time.time())


def force_run(is_forced: bool) -> None:
    """Force every task of this run that runs a flow, in worker processes too, or none."""
    os.environ["LUIGI_RUN_FORCED_AT"] = repr(time.time()) if is_forced else ""


def run_forced_at() -> float:
    """The time at which force_run has forced the run; 0 if it has not."""
    return float(os.environ.get("LUIGI_RUN_FORCED_AT") or 0)
