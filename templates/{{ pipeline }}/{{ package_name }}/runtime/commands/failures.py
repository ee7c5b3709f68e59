"""What has failed, in a line each for the end of a run, and the lines of the user's code in it."""

from __future__ import annotations

import contextlib
import json
import os
import re
import tempfile
import traceback
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import luigi

from .. import paths
from ..errors import FlowFailedError, PipelineError
from ..task.metaflow_task import MetaflowTask

# A task may fail in a worker process, which shares with this one a file at most.
_FILE = "LUIGI_FAILURES"
_LOGGED = re.compile(r"\d{4}-\d\d-\d\d \d\d:\d\d")


class Failure(NamedTuple):
    """A task that has failed: why, in a line, and whether the same command resumes it."""

    why: str
    is_resumed: bool


@contextlib.contextmanager
def collected() -> Iterator[list[Failure]]:
    """A list that has, once this is left, what has failed meanwhile here and in workers."""
    found: list[Failure] = []
    with tempfile.TemporaryDirectory(prefix="luigi-failures-") as folder:
        file = Path(folder) / "failures"
        file.touch()
        os.environ[_FILE] = str(file)
        try:
            yield found
        finally:
            del os.environ[_FILE]
            found += [Failure(*json.loads(line)) for line in file.read_text("utf-8").splitlines()]


@luigi.Task.event_handler(luigi.Event.FAILURE)
@luigi.Task.event_handler(luigi.Event.BROKEN_TASK)
@luigi.Task.event_handler(luigi.Event.PROCESS_FAILURE)  # a worker was killed: all there is is text
@luigi.Task.event_handler(luigi.Event.TIMEOUT)
def _keep(task: luigi.Task, error: BaseException | str) -> None:
    if _FILE in os.environ:
        if isinstance(error, str):
            failure = Failure(error, isinstance(task, MetaflowTask))
        else:
            failure = Failure(one_line(error), isinstance(error, FlowFailedError))
        line = json.dumps(failure) + "\n"
        with (
            contextlib.suppress(OSError),
            Path(os.environ[_FILE]).open("a", encoding="utf-8") as file,
        ):
            file.write(line)


def one_line(error: BaseException) -> str:
    """The error and its cause; of one that is not ours, its kind and the user's line, too."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    if isinstance(error, PipelineError):
        # What a flow has logged last is no cause where its time was up.
        told = [line for line in lines[:1] + lines[-1:] if not _LOGGED.match(line)]
        return (": " if isinstance(error, FlowFailedError) else "; ").join(dict.fromkeys(told))
    told = [": ".join([type(error).__name__, *lines[:1]])]
    if isinstance(error, SyntaxError) and error.filename and error.text:
        told = [f"{type(error).__name__}: {error.msg}", f"at {error.filename}, line {error.lineno}"]
    elif found := user_frames(error):
        own = [frame for frame in found if _is_users(frame.filename)][-1]
        told.append(f"at {own.filename}, line {own.lineno}")
    return ", ".join(told)


def user_frames(error: BaseException) -> list[traceback.FrameSummary]:
    """The traceback from the first line on that is the user's; empty where none is."""
    frames = traceback.extract_tb(error.__traceback__)
    first = [at for at, frame in enumerate(frames) if _is_users(frame.filename)][:1]
    return frames[first[0] :] if first else []


def _is_users(file: str) -> bool:
    return Path(file).is_relative_to(paths.PACKAGE) and not Path(file).is_relative_to(
        Path(__file__).parent
    )
