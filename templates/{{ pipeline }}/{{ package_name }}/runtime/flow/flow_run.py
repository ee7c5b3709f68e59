"""One run of a flow: started, watched while it runs, and asked for its result."""

from __future__ import annotations

import contextlib
import json
import logging
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .. import paths, process, store
from ..console import show_line
from ..errors import FlowFailedError, PipelineError
from ..metaflow_config import datastore_root, local_root
from ..store import metaflow_files
from . import handover
from .command_line import check_length, options
from .declared_parameters import check_none, check_refused, declared_parameters
from .flow_file import flow_steps
from .output import FlowOutput

if TYPE_CHECKING:
    from .runner import Runner

logger = logging.getLogger("luigi-interface")

WATCH = 0.05
"""Seconds between two looks at a run whose id is not known yet."""

REPORT = 1.0
"""Seconds between two reports of how far a run is."""

ASK_S3 = 8.0
"""Seconds after which S3 is asked whether it still answers."""


class FlowRun:
    """A run of the flow at `flow_path`; its files lie in the folder `scratch` while it runs.

    `on_start` gets the flow's name and the run's id as soon as the run could be resumed,
    `on_progress` a line and a percentage when they have changed. Both are called from another
    thread. The file descriptors `held` stay open until nothing of the flow is left.
    """

    def __init__(
        self,
        flow_path: str,
        scratch: Path,
        *,
        runner: Runner,
        production: bool,
        timeout: float | None,
        held: Sequence[int],
        on_start: Callable[[str, str], None],
        on_progress: Callable[[str, int], None],
    ) -> None:
        self.flow = self.run_id = ""
        self._label = flow_path
        self._runner = runner
        self._on_start, self._on_progress = on_start, on_progress
        self._output = FlowOutput(flow_path, flow_steps(paths.FLOWS / flow_path))
        self._attributes = scratch / "attributes"
        self._result = scratch / "result"
        self._declared = scratch / "parameters"
        variables = {
            "PYTHONUNBUFFERED": "1",
            handover.PRODUCTION: str(production).lower(),
            handover.RESULT_FILE: str(self._result),
        }
        self._run = partial(runner.run, variables=variables, timeout=timeout, held=held)
        self._looking = threading.Lock()

    def start(
        self, command: Sequence[str], parameters: Mapping[str, Any], *, resumed: str = ""
    ) -> None:
        """Run the flow to its end.

        `command` is the flow's, up to the options of `run` or `resume`; `resumed` is the run that
        it resumes, with that one's parameters.

        Raises ParameterError if the flow cannot be started with the parameters, FlowFailedError if
        it does not succeed.
        """
        ask = partial(declared_parameters, self._label, command, self._declared, self._run)
        given = options(parameters, "parameters()")
        words = [*command, "--runner-attribute-file", str(self._attributes), *given]
        local_root().mkdir(parents=True, exist_ok=True)  # or Metaflow takes one further up
        when = ", before it had listed its parameters"
        try:
            if None in parameters.values():
                check_none(self._label, parameters, ask())
            when = f", having resumed run {resumed}" if resumed else ""
            with self._watched():
                exit_code = self._run(words, on_line=self._output.add)
        except process.TimeLimitError as error:
            raise self._failure(f"{error}{when}") from None
        except OSError as error:
            check_length(words, error, self._label)
            raise
        if exit_code == 2 and not self.run_id and not resumed:  # Metaflow's usage errors
            # A flow that cannot answer has another fault, e.g. a wrong option before `run`.
            with contextlib.suppress(FlowFailedError, process.TimeLimitError):
                check_refused(self._label, parameters, ask(), self._output.refusal())
        if exit_code:
            why = self._runner.describe_exit(exit_code) + when
            raise self._failure(why)
        if not self.run_id:
            raise self._failure("it ended well, but Metaflow ran no flow")

    def result(self) -> Any:
        """The result of the run; LookupError if it has left none on this machine."""
        return handover.read_result(self.run_id, self._result)

    @property
    def took_over_end(self) -> bool:
        """True if the step `end` was not run now: an earlier run had finished it."""
        return not self._output.was_run("end")

    def _failure(self, why: str) -> FlowFailedError:
        """The error, with the exception that the failed task has left in the datastore."""
        exception = None
        if task := self._output.raised_in:
            with contextlib.suppress(OSError, PipelineError):  # of S3 that does not answer
                exception = metaflow_files.exception_of(f"{datastore_root()}/{self.flow}/{task}")
        return self._output.failure(why, exception)

    @contextlib.contextmanager
    def _watched(self) -> Iterator[None]:
        over = threading.Event()

        def watch() -> None:
            status, percentage = "", 0
            looked = time.monotonic()
            while not over.wait(REPORT if self.run_id else WATCH):
                self._look()
                if time.monotonic() - looked > ASK_S3:
                    self._ask_s3()
                    looked = time.monotonic()
                if self.run_id:
                    before = status, percentage
                    status = self._output.status()
                    percentage = max(percentage, self._output.percentage())
                    if (status, percentage) != before:
                        run = f"{self.flow}/{self.run_id}"
                        self._on_progress(f"{run}: {status}" if status else run, percentage)

        watcher = threading.Thread(target=watch, daemon=True)
        watcher.start()
        try:
            yield
        finally:
            over.set()
            watcher.join(REPORT)  # a scheduler that does not answer is not waited for
            self._look()

    def _ask_s3(self) -> None:
        """Say so if the datastore on S3 does not answer: Metaflow waits for it without a word."""
        try:
            store.check(datastore_root())
        except PipelineError as error:
            show_line(self._label, str(error).splitlines()[0])

    def _look(self) -> None:
        """Find out whether the run has begun: then Metaflow writes what it is."""
        # The lock lets the last look wait for an `on_start` that is slow.
        with self._looking, contextlib.suppress(FileNotFoundError, json.JSONDecodeError):
            if self.run_id:
                return
            attributes = json.loads(self._attributes.read_bytes())
            self.flow, self.run_id = attributes["flow_name"], str(attributes["run_id"])
            try:
                self._on_start(self.flow, self.run_id)
            except (OSError, PipelineError) as error:  # a full disk: the run may yet succeed
                logger.warning("%s cannot be kept for a retry: %s", self.run_id, error)
