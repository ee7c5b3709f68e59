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
from .declared_parameters import (
    OF_A_DEFAULT,
    Declared,
    FlowParameter,
    check_none,
    check_refused,
    declared_parameters,
)
from .flow_file import flow_parameters, flow_steps
from .output import FlowOutput, Progress
from .parameter_values import offered_to

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
    `on_progress` the run, as FLOW/RUN_ID, and its progress when that has changed. Both are called
    from another thread. The file descriptors `held` stay open until nothing of the flow is left.
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
        on_progress: Callable[[str, Progress], None],
    ) -> None:
        self.flow = self.run_id = ""
        self.parameters: dict[str, Any] = {}
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
        self,
        command: Sequence[str],
        parameters: dict[str, Any],
        offered: Mapping[str, Any],
        *,
        resumed: str = "",
    ) -> None:
        """Run the flow to its end.

        `command` is the flow's, up to the options of `run` or `resume`. The flow gets the
        parameters, and of those `offered` the ones that it has; `resumed` is the run that it
        resumes, which has its parameters already.

        Raises ParameterError if the flow cannot be started with the parameters, FlowFailedError if
        it does not succeed.
        """
        words = [*command, "--runner-attribute-file", str(self._attributes)]
        local_root().mkdir(parents=True, exist_ok=True)  # or Metaflow takes one further up
        when = ", before it had listed its parameters"
        try:
            if resumed:
                self.parameters = parameters
            else:
                words += self._options(parameters, offered, command)
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
                declared = self._ask(command).parameters
                check_refused(self._label, self.parameters, declared, self._output.refusal())
        if exit_code:
            why = self._runner.describe_exit(exit_code) + when
            raise self._failure(why)
        if not self.run_id:
            raise self._failure("it ended well, but Metaflow ran no flow")

    def added_since(self, run: str, command: Sequence[str]) -> list[str]:
        """The flow's parameters and configs that the run at this address does not have, sorted.

        `command` is the flow's, up to the options of `run`. Empty if the flow or the run cannot
        say: then Metaflow says why it cannot be resumed.
        """
        with contextlib.suppress(OSError, PipelineError, process.TimeLimitError):
            if (had := metaflow_files.parameters_of(run)) is not None:
                return sorted({*self._ask(command).attributes} - had)
        return []

    def _ask(self, command: Sequence[str]) -> Declared:
        return declared_parameters(self._label, command, self._declared, self._run)

    def _options(
        self, given: dict[str, Any], offered: Mapping[str, Any], command: Sequence[str]
    ) -> list[str]:
        """The options for the flow's parameters, which `parameters` has from now on.

        The flow is asked for them where its file does not tell: whether it has one that it may
        inherit, whether None arrives as None, and what it makes of a list.
        """
        in_file = flow_parameters(paths.FLOWS / self._label)
        self.parameters = offered_to(in_file, offered) | given
        declared: Sequence[FlowParameter] = ()
        is_missing = any(
            each.required and self.parameters.get(name) is None for name, each in in_file.items()
        )
        types = {name: each.type for name, each in in_file.items()}
        if (
            is_missing
            or len(self.parameters.keys() - given.keys()) < len(offered.keys() - given.keys())
            or None in self.parameters.values()
            or any(
                types.get(name) in OF_A_DEFAULT
                or (isinstance(value, list) and types.get(name) != "JSONType")
                for name, value in self.parameters.items()
            )
        ):
            declared = self._ask(command).parameters
            self.parameters = offered_to([each.name for each in declared], offered) | given
        if is_missing or None in self.parameters.values():
            check_none(self._label, self.parameters, declared)
        return options(self.parameters, "parameters()", declared)

    def result(self) -> Any:
        """The result of the run; LookupError if it has left none on this machine."""
        return handover.read_result(self.run_id, self._result)

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
            progress, is_over = Progress(""), False
            looked = time.monotonic()
            while not is_over:
                is_over = over.wait(REPORT if self.run_id else WATCH)
                self._look()
                if time.monotonic() - looked > ASK_S3:
                    self._ask_s3()
                    looked = time.monotonic()
                if self.run_id:
                    before, progress = progress, self._output.progress()
                    percentage = max(before.percentage, progress.percentage)
                    progress = progress._replace(percentage=percentage)
                    if progress != before:
                        self._on_progress(f"{self.flow}/{self.run_id}", progress)

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
