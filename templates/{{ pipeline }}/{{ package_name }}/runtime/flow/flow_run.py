"""One run of a flow: watched while it runs, and asked how it went."""

from __future__ import annotations

import contextlib
import json
import logging
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .. import paths, process
from ..errors import FlowFailedError, PipelineError
from ..metaflow_config import local_root
from . import handover
from .command_line import check_length
from .flow_file import flow_steps
from .output import FlowOutput

if TYPE_CHECKING:
    from .declared_parameters import AskedFlow
    from .runner import Runner

logger = logging.getLogger("luigi-interface")

WATCH = 0.05
"""Seconds between two looks at a run that has yet to say its id."""

REPORT = 1.0
"""Seconds between two reports of how far a run is."""


class FlowRun:
    """A run of the flow at `flow_path`, whose files lie in the folder `scratch` until it is over.

    `runner` says what it runs in.
    `on_start` is called with the flow's name and the run's id as soon as the run could be resumed,
    `on_progress` with a line and a percentage when they have changed; both from another thread.
    """

    def __init__(
        self,
        flow_path: str,
        scratch: Path,
        *,
        runner: Runner,
        on_start: Callable[[str, str], None],
        on_progress: Callable[[str, int], None],
    ) -> None:
        self.flow = self.run_id = ""
        self._label = flow_path
        self._scratch = scratch
        self._runner = runner
        self._output = FlowOutput(flow_path, flow_steps(paths.FLOWS / flow_path))
        self._attributes = scratch / "attributes"
        self._result = scratch / "result"
        self._on_start, self._on_progress = on_start, on_progress
        self._reported = ("", 0, 0.0)
        self._looking = threading.Lock()

    @property
    def options(self) -> list[str]:
        """The options of Metaflow's `run` and `resume` by which the run says what it is."""
        return ["--runner-attribute-file", str(self._attributes)]

    def start(
        self,
        command: Sequence[str],
        parameters: Mapping[str, Any],
        *,
        production: bool,
        timeout: float | None,
        held: Sequence[int],
        resumed: str = "",
    ) -> None:
        """Run the command, which hands over the parameters or resumes a run, to its end.

        FlowFailedError says why it did not succeed, ParameterError why it did not start.
        """
        local_root().mkdir(parents=True, exist_ok=True)  # or Metaflow takes one further up
        variables = {
            "PYTHONUNBUFFERED": "1",
            handover.PRODUCTION: str(production).lower(),
            handover.RESULT_FILE: str(self._result),
        }
        before = f", having resumed run {resumed}" if resumed else ""

        def asked() -> AskedFlow:
            from .declared_parameters import AskedFlow  # for few runs, and every worker would wait

            return AskedFlow(self._label, command, variables, self._scratch, timeout, self._runner)

        try:
            if None in parameters.values():
                asked().check_none(parameters)
            with self._watched():
                exit_code = self._runner.run(
                    command,
                    variables=variables,
                    timeout=timeout,
                    on_line=self._output.add,
                    held=held,
                )
        except process.TimeLimitError:
            what = f"stopped after {timeout:g} seconds{before}"
            raise FlowFailedError(self._output.failure(what)) from None
        except OSError as error:
            check_length(command, error, self._label)
            raise
        if exit_code == 2 and not self.run_id and not resumed:  # Metaflow's usage errors
            asked().check_refused(parameters, self._output.refusal())
        if exit_code:
            raise FlowFailedError(
                self._output.failure(self._runner.describe_exit(exit_code) + before)
            )
        if not self.run_id:
            raise FlowFailedError(self._output.failure("it ended well, but Metaflow ran no flow"))

    def result(self) -> Any:
        """What the run has handed over; LookupError where it has left nothing here."""
        return handover.read_result(self.run_id, self._result)

    @property
    def end_was_run(self) -> bool:
        """Was the step `end` run now, or taken over from another run?"""
        return self._output.was_run("end")

    @contextlib.contextmanager
    def _watched(self) -> Iterator[None]:
        over = threading.Event()

        def watch() -> None:
            while not over.wait(WATCH if not self.run_id else REPORT / 4):
                self._look()
                self._report()

        watcher = threading.Thread(target=watch, daemon=True)
        watcher.start()
        try:
            yield
        finally:
            over.set()
            watcher.join(REPORT)  # a scheduler that does not answer is not waited for
            self._look()

    def _look(self) -> None:
        """See whether the run has begun: Metaflow then writes what it is."""
        # Whoever looks at the end waits until `on_start`, which may be slow, is through.
        with self._looking, contextlib.suppress(FileNotFoundError, json.JSONDecodeError):
            if self.run_id:
                return
            attributes = json.loads(self._attributes.read_bytes())
            self.flow, self.run_id = attributes["flow_name"], str(attributes["run_id"])
            try:
                self._on_start(self.flow, self.run_id)
            except (OSError, PipelineError) as error:  # a full disk: the run may yet succeed
                logger.warning("%s cannot be kept for a retry: %s", self.run_id, error)

    def _report(self) -> None:
        status, percentage, when = self._reported
        now = time.monotonic()
        if not self.run_id or now - when < REPORT:
            return
        found = self._output.status(), max(percentage, self._output.percentage())
        if found != (status, percentage):
            self._reported = (*found, now)
            run = f"{self.flow}/{self.run_id}"
            self._on_progress(": ".join(filter(None, [run, found[0]])), found[1])
