"""What a flow prints: passed on as it comes, and remembered for the case that it fails."""

from __future__ import annotations

import re
import sys
from collections import deque

# 2026-11-20 10:57:42.053 [1795172261775996/end/2 (pid 5039)] Task is starting.
_TASK_LINE = re.compile(
    r"^\S+ \S+ \[(?P<pathspec>[^/\]]+/(?P<step>[^/\]]+)/[^/\] ]+) \(pid \d+\)\] ?(?P<text>.*)"
)
_METAFLOW_FRAME = re.compile(r'^File ".*/metaflow/.*\.py", line \d+, in ')
REMEMBERED = 200


class FlowOutput:
    """The lines of one run of a flow."""

    def __init__(self, label: str) -> None:
        self.label = label
        self._lines: deque[str] = deque(maxlen=REMEMBERED)
        self._tasks: dict[str, deque[str]] = {}
        """The lines of each task that is at work or has failed, by its pathspec."""
        self._failed: dict[str, str] = {}
        """The step of each task that has failed, and has not been retried since."""

    def add(self, line: str) -> None:
        """Print the line behind the flow's path, at once, and remember it."""
        encoding = sys.stdout.encoding or "utf-8"
        shown = f"{self.label} | {line}".encode(encoding, "replace").decode(encoding)
        print(shown, flush=True)
        found = _TASK_LINE.match(line)
        if not found:
            self._lines.append(line)
            return
        pathspec, text = found["pathspec"], found["text"]
        if text.startswith("Task is starting"):  # for the first time, or in a retry
            self._tasks[pathspec] = deque(maxlen=REMEMBERED)
            self._failed.pop(pathspec, None)
        elif text == "Task finished successfully.":
            self._tasks.pop(pathspec, None)
            self._failed.pop(pathspec, None)
        elif text == "Task failed." or text.startswith("Task failed with "):
            self._failed[pathspec] = found["step"]
        else:
            self._tasks.setdefault(pathspec, deque(maxlen=REMEMBERED)).append(text)

    def failure(self, what: str) -> str:
        """A message with the step that failed and its traceback, or the last lines there were."""
        for pathspec, step in self._failed.items():
            lines = list(self._tasks.get(pathspec, ()))
            starts = [at for at, line in enumerate(lines) if line.startswith("Traceback ")]
            lines = without_metaflow(lines[starts[0] :] if starts else lines)
            told = f"{self.label} failed in step `{step}` (task {pathspec}): {what}"
            return "\n".join([told, *lines])
        return "\n".join([f"{self.label} failed: {what}", *list(self._lines)[-20:]])


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
