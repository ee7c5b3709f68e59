"""What a flow prints: passed on as it comes, and remembered for the case that it fails."""

from __future__ import annotations

import re
from collections import deque

# 2026-11-20 10:57:42.053 [1795172261775996/end/2 (pid 5039)] Task is starting.
_TASK_LINE = re.compile(
    r"^\S+ \S+ \[(?P<run>[^/\]]+)/(?P<step>[^/\]]+)/(?P<task>[^/\] ]+) \(pid \d+\)\] ?(?P<text>.*)"
)
_METAFLOW_FRAME = re.compile(r'^File ".*/metaflow/.*\.py", line \d+, in ')
REMEMBERED = 200


class FlowOutput:
    """The lines of one run of a flow."""

    def __init__(self, label: str) -> None:
        self.label = label
        self._lines: deque[str] = deque(maxlen=REMEMBERED)
        self._step_lines: dict[str, deque[str]] = {}
        self._failed: str | None = None

    def add(self, line: str) -> None:
        """Print the line behind the flow's path, at once, and remember it."""
        print(f"{self.label} | {line}", flush=True)
        found = _TASK_LINE.match(line)
        if not found:
            self._lines.append(line)
            return
        pathspec = f"{found['run']}/{found['step']}/{found['task']}"
        if found["text"].startswith("Task failed"):
            self._failed = self._failed or pathspec
        self._step_lines.setdefault(pathspec, deque(maxlen=REMEMBERED)).append(found["text"])
        if found["text"] == "Task finished successfully.":
            del self._step_lines[pathspec]

    def failure(self, what: str) -> str:
        """A message with the step that failed and its traceback, or the last lines there were."""
        if self._failed is None:
            lines = list(self._lines)[-20:]
            return "\n".join([f"{self.label} failed: {what}", *lines])
        step = self._failed.split("/")[1]
        lines = list(self._step_lines[self._failed])
        starts = [i for i, line in enumerate(lines) if line.startswith("Traceback ")]
        lines = without_metaflow(lines[starts[-1] :]) if starts else lines
        return "\n".join(
            [f"{self.label} failed in step `{step}` (task {self._failed}): {what}", *lines]
        )


def without_metaflow(lines: list[str]) -> list[str]:
    """A traceback, as Metaflow logs it, from the first frame that is not Metaflow's own."""
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
    return [line for line in kept if line and not line.startswith("Task failed")]
