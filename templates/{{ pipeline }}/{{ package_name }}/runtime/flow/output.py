"""What a flow prints: passed on as it comes, and remembered for the case that it fails."""

from __future__ import annotations

import re
from collections import Counter, deque
from collections.abc import Mapping

from ..console import show_line

# 2026-11-20 10:57:42.053 [1795172261775996/end/2 (pid 5039)] Task is starting.
_TASK_LINE = re.compile(
    r"^\S+ \S+ \[(?P<pathspec>[^/\]]+/(?P<step>[^/\]]+)/[^/\] ]+) \(pid \d+\)\] ?(?P<text>.*)"
)
# [1795172261775997/end/2] Cloning previously run task 1795172261775996/end/2. Threads write at
# once, and what is in brackets by itself, so that other lines may come in between.
_CLONED_TASK = re.compile(r"Cloning previously run task [^/\s]+/(?P<step>[^/\s]+)/")
_SPLITS = re.compile(r"Foreach yields (\d+) child steps")
_METAFLOW_FRAME = re.compile(r'^File ".*/metaflow/.*\.py", line \d+, in ')
REMEMBERED = 200


class FlowOutput:
    """The lines of one run of a flow.

    `steps` names its steps, and for each the step that it splits into, None where it does not.
    """

    def __init__(self, label: str, steps: Mapping[str, str | None]) -> None:
        self.label = label
        self._steps = steps
        self._lines: deque[str] = deque(maxlen=REMEMBERED)
        self._tasks: dict[str, deque[str]] = {}
        """The lines of each task that is at work or has failed, by its pathspec."""
        self._failed: dict[str, str] = {}
        """The step of each task that has failed, and has not been retried since."""
        self._at_work: Counter[str] = Counter()
        self._done: Counter[str] = Counter()
        self._expected: Counter[str] = Counter()
        """Tasks of each step, by its name; expected are those that a foreach has announced."""
        self._run: set[str] = set()

    def add(self, line: str) -> None:
        """Print the line behind the flow's path, at once, and remember it."""
        show_line(self.label, line)
        found = _TASK_LINE.match(line)
        if not found:
            self._lines.append(line)
            self._done.update(cloned["step"] for cloned in _CLONED_TASK.finditer(line))
            return
        pathspec, step, text = found["pathspec"], found["step"], found["text"]
        if text.startswith("Task is starting"):  # for the first time, or in a retry
            if pathspec not in self._tasks:
                self._at_work[step] += 1
            self._run.add(step)
            self._tasks[pathspec] = deque(maxlen=REMEMBERED)
            self._failed.pop(pathspec, None)
        elif text == "Task finished successfully.":
            self._at_work[step] -= 1
            self._done[step] += 1
            self._tasks.pop(pathspec, None)
            self._failed.pop(pathspec, None)
        elif text == "Task failed." or text.startswith("Task failed with "):
            self._failed[pathspec] = step
        else:
            self._tasks.setdefault(pathspec, deque(maxlen=REMEMBERED)).append(text)
            splits, child = _SPLITS.match(text), self._steps.get(step)
            if splits and child:
                self._expected[child] += int(splits[1])

    def was_run(self, step: str) -> bool:
        """Has a task of the step been started, and not only been taken over from another run?"""
        return step in self._run

    def status(self) -> str:
        """The steps at work, and how many of their tasks are done."""
        at_work = [step for step, count in [*self._at_work.items()] if count > 0]
        return ", ".join(
            f"step {step}"
            + (
                f", {self._done[step]} of {self._tasks_of(step)} done"
                if self._is_split(step)
                else ""
            )
            for step in at_work
        )

    def percentage(self) -> int:
        """How much of the flow is done: each step is as much, and so is each task of a step."""
        steps = {*self._steps, *self._run, *self._done}
        done = sum(self._done[step] / self._tasks_of(step) for step in steps)
        return int(100 * done / len(steps)) if steps else 0

    def _tasks_of(self, step: str) -> int:
        return max(1, self._expected[step], self._done[step] + self._at_work[step])

    def _is_split(self, step: str) -> bool:
        return self._tasks_of(step) > 1

    def failure(self, what: str) -> str:
        """A message with the step that failed and its traceback, or the last lines there were."""
        for pathspec, step in self._failed.items():
            lines = list(self._tasks.get(pathspec, ()))
            starts = [at for at, line in enumerate(lines) if line.startswith("Traceback ")]
            lines = without_metaflow(lines[starts[0] :] if starts else lines)
            told = f"{self.label} failed in step `{step}` (task {pathspec}): {what}"
            return "\n".join([told, *lines])
        return "\n".join([f"{self.label} failed: {what}", *list(self._lines)[-20:]])

    def refusal(self) -> str:
        """Metaflow's reason where it refuses its command line; empty where it does not."""
        lines = list(self._lines)
        starts = [at for at, line in enumerate(lines) if line.startswith("Error: ")]
        return "\n".join(lines[starts[0] :]).removeprefix("Error: ") if starts else ""


def without_metaflow(lines: list[str]) -> list[str]:
    """A traceback, as Metaflow logs it, without the frames that are Metaflow's own."""
    kept: list[str] = []
    at = 0
    while at < len(lines):
        if _METAFLOW_FRAME.match(lines[at]):
            at += 2  # the frame and its line of code
            while at < len(lines) and lines[at] and not lines[at].strip("^~ "):
                at += 1
        else:
            kept.append(lines[at])
            at += 1
    return [line for line in kept if line]
