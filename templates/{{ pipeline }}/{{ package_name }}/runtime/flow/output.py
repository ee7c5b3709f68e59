"""What a flow prints: shown line by line, and remembered for the case that it fails."""

from __future__ import annotations

import itertools
import re
from collections import Counter, defaultdict, deque
from collections.abc import Iterable, Mapping

from ..console import show_line

# 2026-11-20 10:57:42.053 [1795172261775996/end/2 (pid 5039)] Task is starting.
_TASK_LINE = re.compile(
    r"^\S+ \S+ \[(?P<pathspec>[^/\]]+/(?P<step>[^/\]]+)/[^/\] ]+) \(pid \d+\)\] ?(?P<text>.*)"
)
# [1795172261775997/end/2] Cloning previously run task 1795172261775996/end/2. Threads write this
# at the same time, and the brackets by themselves, so that other lines can come in between.
_CLONED_TASK = re.compile(r"Cloning previously run task [^/\s]+/(?P<step>[^/\s]+)/")
_SPLITS = re.compile(r"Foreach yields (\d+) child steps")
_METAFLOW_FRAME = re.compile(
    r'^File ".*/metaflow/.*\.py", line \d+, in .*\n(.*\n)?([\^~ ]+\n)*', re.MULTILINE
)
REMEMBERED = 200
"""Lines that are remembered of each task, and of what comes from no task."""


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
            self._lines.pop(pathspec, None)
            self._failed.pop(pathspec, None)
            if starts:
                self._started.add(step)
                self._running[pathspec] = step
            else:
                self._running.pop(pathspec, None)
                self._done[step] += 1
        elif text == "Task failed." or text.startswith("Task failed with "):
            self._failed[pathspec] = step
        else:
            self._lines[pathspec].append(text)
            splits, child = _SPLITS.match(text), self._steps.get(step)
            if splits and child:
                self._expected[child] += int(splits[1])

    def was_run(self, step: str) -> bool:
        """True if a task of the step was started, and not only taken over from another run."""
        return step in self._started

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
        steps = {*self._steps, *self._started, *self._done}
        done = sum(self._done[step] / self._tasks_of(step) for step in steps)
        return int(100 * done / len(steps)) if steps else 0

    def _tasks_of(self, step: str) -> int:
        running = [*self._running.values()].count(step)
        return max(1, self._expected[step], self._done[step] + running)

    def failure(self, why: str) -> str:
        """A message with the step that failed and its traceback, or with the last lines."""
        if not self._failed:
            return "\n".join([f"{self.label} failed: {why}", *list(self._other_lines)[-20:]])
        pathspec, step = next(iter(self._failed.items()))
        logged = self._lines[pathspec]
        lines = without_metaflow(_from_first(logged, "Traceback ") or logged)
        return "\n".join([f"{self.label} failed in step `{step}` (task {pathspec}): {why}", *lines])

    def refusal(self) -> str:
        """Metaflow's reason for refusing its command line; empty if it does not."""
        return "\n".join(_from_first(self._other_lines, "Error: ")).removeprefix("Error: ")


def without_metaflow(traceback: Iterable[str]) -> list[str]:
    """A traceback, as Metaflow logs it, without the frames of Metaflow's own code."""
    text = _METAFLOW_FRAME.sub("", "".join(f"{line}\n" for line in traceback))
    return [line for line in text.split("\n") if line]


def _from_first(lines: Iterable[str], beginning: str) -> list[str]:
    """The lines from the first one on that begins so; none if none does."""
    return [*itertools.dropwhile(lambda line: not line.startswith(beginning), lines)]
