"""What the tasks of a flow and those of a table have in common."""

from __future__ import annotations

import contextlib
import logging
from typing import TYPE_CHECKING

import luigi
from luigi.rpc import RPCError

from ..errors import PipelineError
from ..flow.output import Progress
from .forcing import force

if TYPE_CHECKING:
    from luigi import Task as Base
else:  # Luigi would take a subclass of its Task for one that can be run
    Base = object

logger = logging.getLogger("luigi-interface")


class PipelineTask(Base):
    """A task that can be forced, and that shows its progress and its errors on Luigi's page."""

    force_upstream: bool
    forced_at: float
    """Seconds since 1970; what was done before does not count. 0 if the task is not forced."""

    def deps(self) -> list[luigi.Task]:
        """Luigi's; with `force_upstream` they are forced, like this task."""
        required: list[luigi.Task] = super().deps()
        if self.force_upstream:
            force(required, self.forced_at)
        return required

    def on_failure(self, exception: BaseException) -> str:
        """What Luigi's page shows: a PipelineError's message, which has a flow's traceback."""
        if isinstance(exception, PipelineError):
            return str(exception)
        return str(super().on_failure(exception))

    def _log_wait(self, what: str, process_id: str) -> None:
        logger.info("%s waits for process %s, which is running %s", self.task_id, process_id, what)
        self._report_progress("", Progress(f"waits for process {process_id}"))

    def _report_progress(self, run: str, progress: Progress) -> None:
        self.trigger_event(luigi.Event.PROGRESS, self, progress)
        # Luigi sets both when a worker runs the task.
        if self.set_status_message and self.set_progress_percentage:
            with contextlib.suppress(RPCError):  # the scheduler does not answer for a while
                self.set_status_message(": ".join(filter(None, (run, progress.status))))
                self.set_progress_percentage(progress.percentage)
