"""Forced tasks: they run again, though they are done.

A task that can be forced has the attribute `forced_at`: what it has made before that time, in
seconds since 1970, does not count.
"""

from __future__ import annotations

import multiprocessing
import os
import time
from collections.abc import Iterable

import luigi
from luigi.task import flatten


def force(tasks: Iterable[luigi.Task], at: float) -> None:
    """Force these tasks, and all that they require.

    Luigi keeps one object for each task, so everybody who asks a task gets the same answer. A task
    of another kind that is done is not asked what it requires: delete its output.
    """
    waiting, seen = [*tasks], set()
    while waiting:
        task = waiting.pop()
        if task.task_id in seen:
            continue
        seen.add(task.task_id)
        if hasattr(task, "forced_at"):
            if task.forced_at >= at:
                continue
            task.forced_at = at
        waiting += flatten(task.requires())


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
