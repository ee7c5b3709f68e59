"""What a flow prints: shown line by line, and remembered for the case that it fails."""

from __future__ import annotations

import itertools
import re
from collections import Counter, defaultdict, deque
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

from ..console import show_line
from ..errors import FlowFailedError
from ..store.metaflow_files import StepException

# 2026-11-20 10:57:42.053 [1795172261775996/end/2 (pid 5039)] Task is starting.
_TASK_LINE = re.compile(
    r"^\S+ \S+ \[(?P<pathspec>[^/\]]+/(?P<step>[^/\]]+)/[^/\] ]+) \(pid \d+\)\] ?(?P<text>.*)"
)
# [1795172261775997/end/2] Cloning previously run task 1795172261775996/end/2. Threads write this
# at the same time, and the brackets by themselves, so that other lines can come in between.
_CLONED_TASK = re.compile(r"Cloning previously run task [^/\s]+/(?P<step>[^/\s]+)/")
_SPLITS = re.compile(r"Foreach yields (\d+) child steps")
_METAFLOW_FRAME = re.compile(
    r'^ *File ".*/metaflow/.*\.py", line \d+, in .*\n(.*\n)?([\^~ ]+\n)*', re.MULTILINE
)
_EXCEPTION = re.compile(r"[A-Za-z_][\w.]*(: .*)?")
_LOGGED = re.compile(r"\d{4}-\d\d-\d\d \d\d:\d\d")
REMEMBERED = 200
"""Lines that are remembered of each task, and of what comes from no task."""


class Progress(NamedTuple):
    """How far a flow is."""

    status: str
    """What it is doing, e.g. which steps are running."""
    done: int = 0
    """The number of its steps that are done."""
    steps: int = 0
    """The number of its steps; 0 if there is no run yet."""
    percentage: int = 0


class FlowOutput:
    """The lines of one run of a flow.

    `steps` has its steps by name, and for each the step that it splits into, or None.
    """

    def __init__(self, label: str, steps: Mapping[str, str | None]) -> None:
        self.label = label
        self._steps = steps
        self._other_lines: deque[str] = deque(maxlen=REMEMBERED)
        # The lines of each task that has not finished, by its pathspec.
        self._lines: dict[str, deque[str]] = defaultdict(lambda: deque(maxlen=REMEMBERED))
        # The last traceback of each of them, which no later line pushes out: Metaflow passes on a
        # step's errors first, and the rest of its output after them.
        self._tracebacks: dict[str, deque[str]] = {}
        # Those that Metaflow has reported an exception of: `<flow SmallFlow step end> failed:`.
        self._raised: dict[str, bool] = {}
        # The step of each task that has not finished, and of each that has failed since.
        self._running: dict[str, str] = {}
        self._failed: dict[str, str] = {}
        self._started: set[str] = set()
        # The number of each step's tasks; a foreach says how many to expect.
        self._done: Counter[str] = Counter()
        self._expected: Counter[str] = Counter()

    def add(self, line: str) -> None:
        """Print the line behind the flow's path, at once, and remember it."""
        show_line(self.label, line)
        match = _TASK_LINE.match(line)
        if not match:
            self._other_lines.append(line)
            self._done.update(cloned["step"] for cloned in _CLONED_TASK.finditer(line))
            return
        pathspec, step, text = match["pathspec"], match["step"], match["text"]
        starts = text.startswith("Task is starting")  # for the first time, or in a retry
        if starts or text == "Task finished successfully.":
            for by_task in (self._lines, self._tracebacks, self._raised, self._failed):
                by_task.pop(pathspec, None)
            if starts:
                self._started.add(step)
                self._running[pathspec] = step
            else:
                self._running.pop(pathspec, None)
                self._done[step] += 1
        elif text == "Task failed." or text.startswith("Task failed with "):
            self._failed[pathspec] = step
        else:
            self._remember(pathspec, text)
            splits, child = _SPLITS.match(text), self._steps.get(step)
            if splits and child:
                self._expected[child] += int(splits[1])

    def _remember(self, pathspec: str, text: str) -> None:
        self._lines[pathspec].append(text)
        if text.endswith("> failed:"):
            self._raised[pathspec] = True
        if text.startswith("Traceback "):
            self._tracebacks[pathspec] = deque(maxlen=REMEMBERED)
        traceback = self._tracebacks.get(pathspec)
        if traceback is not None and "" not in traceback:  # an empty line ends it
            traceback.append(text)

    def progress(self) -> Progress:
        """How far the flow is."""
        steps = self._all_steps()
        done = sum(0 < self._done[step] == self._tasks_of(step) for step in steps)
        return Progress(self.status(), done, len(steps), self.percentage())

    def status(self) -> str:
        """The steps that are running, and how many of their tasks are done."""
        parts = []
        for step in dict.fromkeys([*self._running.values()]):
            tasks = self._tasks_of(step)
            done = f", {self._done[step]} of {tasks} done" if tasks > 1 else ""
            parts.append(f"step {step}{done}")
        return ", ".join(parts)

    def percentage(self) -> int:
        """How much of the flow is done: all steps count the same, and so do all tasks of a step."""
        steps = self._all_steps()
        done = sum(self._done[step] / self._tasks_of(step) for step in steps)
        return int(100 * done / len(steps)) if steps else 0

    def _all_steps(self) -> set[str]:
        return {*self._steps, *self._started, *self._done}

    def _tasks_of(self, step: str) -> int:
        running = [*self._running.values()].count(step)
        return max(1, self._expected[step], self._done[step] + running)

    @property
    def raised_in(self) -> str:
        """The task that failed, as RUN_ID/STEP/TASK_ID; empty if its step raised no exception."""
        failed = next(iter(self._failed), "")
        return failed if failed in self._raised else ""

    def failure(self, why: str, exception: StepException | None = None) -> FlowFailedError:
        """An error with the step that failed and its traceback, or with the last lines.

        `exception` is what the failed task has left in the datastore. Without it the traceback is
        taken from the output, where lines of other threads may be mixed into it.
        """
        if not self._failed:
            lines = [*self._other_lines][-20:]
            causes = [line.strip() for line in lines[-1:] if not _LOGGED.match(line)]
            cause = causes[0] if causes and why.startswith("exit code") else why
            at = f" in {self.status()}" if self._running else ""
            return FlowFailedError("\n".join([f"{self.label} failed{at}: {why}", *lines]), cause)
        pathspec, step = next(iter(self._failed.items()))
        lines = [*self._tracebacks.get(pathspec, ())]
        cause = _exception_in(lines)
        if exception:
            lines, cause = exception.traceback.splitlines(), exception.summary
        elif not lines:
            lines = [*self._lines[pathspec]]
            cause = f"{why}; last line: {lines[-1]}" if lines else why
        first = f"{self.label} failed in step `{step}` (task {pathspec}): {why}"
        return FlowFailedError("\n".join([first, *without_metaflow(lines)]), cause)

    def refusal(self) -> str:
        """Metaflow's reason for refusing its command line; empty if it does not."""
        return "\n".join(_from_first(self._other_lines, "Error: ")).removeprefix("Error: ")


def without_metaflow(traceback: Iterable[str]) -> list[str]:
    """A traceback, as Metaflow logs it, without the frames of Metaflow's own code."""
    text = _METAFLOW_FRAME.sub("", "".join(f"{line}\n" for line in traceback))
    return [line for line in text.split("\n") if line]


def _exception_in(traceback: Sequence[str]) -> str:
    """The line with the exception in a traceback whose lines have lost their indentation."""
    frames = [i for i, line in enumerate(traceback) if line.startswith('File "')]
    after = traceback[frames[-1] + 2 :] if frames else traceback  # the first is the frame's code
    return next(filter(_EXCEPTION.fullmatch, after), "") or "".join(after[-1:])


def _from_first(lines: Iterable[str], beginning: str) -> list[str]:
    """The lines from the first one on that begins so; none if none does."""
    return [*itertools.dropwhile(lambda line: not line.startswith(beginning), lines)]
