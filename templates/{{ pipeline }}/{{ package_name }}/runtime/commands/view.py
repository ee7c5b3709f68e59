"""What people watch on a terminal: a line for each task, while all output goes to a log file.

The file takes the place of the standard streams, so workers and child processes write to it, too.
What happens to tasks comes as events, from workers as well. A thread of its own reads them, and
nothing else writes to the terminal.
"""

from __future__ import annotations

import contextlib
import logging
import os
import sys
import threading
import time
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import luigi
from luigi.freezing import recursively_unfreeze
from rich.cells import cell_len
from rich.console import Console, ConsoleDimensions, Group
from rich.live import Live
from rich.text import Text

from .. import paths
from ..console import counted, printable
from ..flow.output import Progress
from ..task.metaflow_task import NEWS, MetaflowTask
from ..task.run_arguments import named_values, own_values
from .events import Events, send
from .failures import FAILED, STOPPED

START, PROGRESS, DONE, WARNING = "start", "progress", "done", "warning"
"""Events, in addition to those of a failure and a stop."""

RUNNING = "running"

_STYLES = {
    **{RUNNING: "cyan", DONE: "green", FAILED: "bold red", STOPPED: "yellow"},
    **{"WARNING": "yellow", "ERROR": "red", "CRITICAL": "red"},
}

_STATUS = 17
"""Columns that a line has for what a task does, where the terminal is not narrow."""

INTERVAL = 0.2
"""Seconds between two looks at the events."""


@contextlib.contextmanager
def shown(tasks: Sequence[luigi.Task], present: Collection[str]) -> Iterator[None]:
    """Show how the tasks get on; what they and Luigi print goes to a log file instead.

    `present` has, as soon as a task starts, the ids of those that were complete before.
    """
    log = paths.logs() / f"{time.strftime('%Y-%m-%d-%H%M%S')}-{os.getpid()}.log"
    log.parent.mkdir(parents=True, exist_ok=True)
    logger = logging.getLogger("luigi-interface")
    over = threading.Event()
    with _output_to(log) as terminal, Events() as events:
        logger.addFilter(_send_warning)
        view = _View(terminal, paths.shown(log), tasks, present)
        thread = threading.Thread(target=view.follow, args=(events, over), daemon=True)
        thread.start()
        try:
            yield
        finally:
            over.set()
            thread.join()
            logger.removeFilter(_send_warning)


@contextlib.contextmanager
def _output_to(log: Path) -> Iterator[IO[str]]:
    """Send the output and errors of this process and its children to the file.

    Yields a stream to the terminal.
    """
    streams = (sys.stdout, sys.stderr)
    descriptors = [os.dup(stream.fileno()) for stream in streams]
    terminal = open(  # noqa: SIM115 - closed below
        descriptors[0], "w", encoding=sys.stdout.encoding, errors="replace", closefd=False
    )
    with log.open("ab") as file:
        for stream in streams:
            stream.flush()
            os.dup2(file.fileno(), stream.fileno())
    try:
        yield terminal
    finally:
        for stream, descriptor in zip(streams, descriptors, strict=True):
            with contextlib.suppress(OSError):  # the disk is full
                stream.flush()
            os.dup2(descriptor, stream.fileno())
        with contextlib.suppress(OSError):  # the terminal is gone
            terminal.close()
        for descriptor in descriptors:
            os.close(descriptor)


@luigi.Task.event_handler(luigi.Event.START)
def _send_start(task: luigi.Task) -> None:
    if not isinstance(task, luigi.WrapperTask):  # which does nothing itself
        send(START, task.task_id, label(task))


@luigi.Task.event_handler(luigi.Event.PROGRESS)
def _send_progress(task: luigi.Task, *details: Any) -> None:
    if details and isinstance(details[0], Progress):  # a user's task may send anything
        status = printable(details[0].status)
        send(PROGRESS, task.task_id, details[0]._replace(status=status))


@luigi.Task.event_handler(NEWS)
def _send_news(task: luigi.Task, news: str) -> None:
    send(NEWS, task.task_id, printable(news))


@luigi.Task.event_handler(luigi.Event.SUCCESS)
def _send_success(task: luigi.Task) -> None:
    send(DONE, task.task_id)


def _send_warning(record: logging.LogRecord) -> bool:
    text = logging.Formatter().format(record)
    # Luigi also logs the failure of a task, which has an event.
    if record.levelno >= logging.WARNING and not text.startswith("[pid "):
        send(WARNING, "", record.levelname, printable(text))
    return True


def label(task: luigi.Task) -> str:
    """The task's name for people: its flow's path or its class, and its own values."""
    values = own_values(task, dict(MetaflowTask.get_params()))
    name = type(task).__name__
    if isinstance(task, MetaflowTask):
        name, values = task.flow_path, recursively_unfreeze(task.flow_kwargs) | values
    return printable(named_values(name, values))


def in_seconds(seconds: float, digits: int = 0) -> str:
    """The seconds for people: `1,200 s`."""
    return f"{seconds:,.{digits}f} s"


def fitted(label: str, width: int) -> str:
    """The label with so many cells; of one that is longer, the end."""
    if cell_len(label) > width:
        while cell_len(label) > width - 1:
            label = label[1:]
        label = f"…{label}"
    return label + " " * (width - cell_len(label))


class _Console(Console):
    """One with the cursor: whatever kills the run could not give it back."""

    def show_cursor(self, show: bool = True) -> bool:
        return False


@dataclass
class _Row:
    """The line of a task that has started."""

    label: str
    started: float
    state: str = RUNNING
    progress: Progress = Progress("")  # noqa: RUF009 - it is immutable
    ended: float = 0.0

    def text(self, longest: int, width: int) -> Text:
        """The line on a terminal of this width, where the longest label has so many cells."""
        done, steps = self.progress.done, self.progress.steps
        digits = 0 if self.state == RUNNING else 1
        seconds = in_seconds((self.ended or time.time()) - self.started, digits)
        of_steps = f"{done} of {counted(steps, 'step')}" if steps else ""
        columns = f"  {of_steps:>13}  {seconds:>9}"
        if longest + 9 + len(columns) + _STATUS > width:
            of_steps = f"{done}/{steps}" if steps else ""
            columns = f"  {of_steps:>5}  {seconds:>7}"
        room = width - 9 - len(columns)  # for the label, and for the status beside it
        cells = min(longest, max(8, room - (_STATUS if width >= 80 else 0)))
        is_shown = self.state in (RUNNING, STOPPED) and room - cells >= 10
        return Text.assemble(
            (f"{self.state:<7}", _STYLES[self.state]),
            f"  {fitted(self.label, cells)}{columns}",
            (f"  {self.progress.status}" if is_shown else "", "dim"),
            no_wrap=True,
            overflow="ellipsis",
        )


class _View:
    """The lines on the terminal: those of tasks that have ended stay, and below are the others."""

    def __init__(
        self, terminal: IO[str], log: str, tasks: Sequence[luigi.Task], present: Collection[str]
    ) -> None:
        self._terminal = terminal
        self._console = _Console(file=terminal, highlight=False)
        self._live = Live(
            console=self._console,
            auto_refresh=False,
            transient=True,
            redirect_stdout=False,
            redirect_stderr=False,
        )
        self._log = log
        self._tasks = {each.task_id for each in tasks if not isinstance(each, luigi.WrapperTask)}
        self._present = present
        self._longest = max(cell_len(label(task)) for task in tasks[-100:])
        self._started = time.time()
        self._running: dict[str, _Row] = {}
        self._done = 0
        self._failed: dict[str, str] = {}
        self._lines: list[Text] = []

    def follow(self, events: Events, over: threading.Event) -> None:
        """Show what happens until it is over."""
        with contextlib.suppress(OSError):  # the terminal is gone
            try:
                self._follow(events, over)
            except Exception as error:
                why = f"{type(error).__name__}: {error}"
                print(f"\nnothing more is shown: {why}; log: {self._log}", file=self._terminal)
                raise  # to the log

    def _follow(self, events: Events, over: threading.Event) -> None:
        with self._live:
            is_over = False
            while not is_over:
                is_over = over.wait(INTERVAL)
                for event in events.new():
                    self._take(*event)
                self._draw()
            for task_id in [*self._running]:
                self._end(task_id, STOPPED, time.time())
        if self._done or self._failed:
            self._print(self._summary())
        self._print(f"log: {self._log}")

    def _take(self, kind: str, task_id: str, moment: float, *details: Any) -> None:
        if kind == START and task_id not in self._running:
            self._running[task_id] = _Row(details[0], moment)
            self._longest = max(self._longest, cell_len(details[0]))  # run() can require more
        elif kind == PROGRESS and task_id in self._running:
            self._running[task_id].progress = Progress(*details[0])
        elif kind == NEWS and task_id in self._running:
            self._print(f"{self._running[task_id].label} {details[0]}")
        elif kind == DONE and task_id in self._running:
            self._end(task_id, DONE, moment)
            self._done += 1
            self._failed.pop(task_id, None)
        elif kind == FAILED:
            self._failed[task_id] = self._end(task_id, FAILED, moment)
            self._print(details[2])
        elif kind == STOPPED and task_id in self._running:
            row = self._running[task_id]
            row.progress = row.progress._replace(status=details[2])
            self._end(task_id, STOPPED, moment)
        elif kind == WARNING:
            level, text = details
            self._print((f"{level}: ", _STYLES.get(level, "")), text)

    def _end(self, task_id: str, state: str, moment: float) -> str:
        """Print the last line of the task, and return its label."""
        row = self._running.pop(task_id, None)
        if not row:  # it could not start
            return task_id
        row.state, row.ended = state, moment
        self._draw()  # or it would still be there, below what is printed
        text = row.text(self._longest, self._console.width)
        self._console.print(text, no_wrap=True, overflow="ellipsis")
        return row.label

    def _print(self, *parts: str | tuple[str, str]) -> None:
        self._console.print(Text.assemble(*parts), soft_wrap=True)

    def _draw(self) -> None:
        """Draw the lines of what is running, if they have changed."""
        size = os.get_terminal_size(self._terminal.fileno())
        self._console.size = ConsoleDimensions(size.columns or 80, size.lines or 24)
        fitting = [*self._running.values()][: max(1, self._console.height - 2)]
        lines = [row.text(self._longest, self._console.width) for row in fitting]
        if lines or self._done:
            text = f"{self._summary()}; log: {self._log}"
            lines.append(Text(text, "dim", no_wrap=True, overflow="ellipsis"))
        if lines != self._lines:
            self._lines = lines
            self._live.update(Group(*lines), refresh=True)

    def _summary(self) -> str:
        tasks = max(len(self._tasks.difference(self._present)), self._done + len(self._running))
        failed = f", failed: {', '.join(self._failed.values())}" if self._failed else ""
        seconds = in_seconds(time.time() - self._started)
        return f"{self._done} of {counted(tasks, 'task')} done{failed}, {seconds}"
