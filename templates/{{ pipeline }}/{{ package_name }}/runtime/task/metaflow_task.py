"""Luigi's half of the runtime: the task that runs a Metaflow flow."""

from __future__ import annotations

import contextlib
import datetime
import json
import logging
import re
import tempfile
import time
from collections.abc import Iterable, Mapping, Sequence
from enum import Enum
from functools import partial
from operator import attrgetter
from pathlib import Path
from typing import Any

import luigi
import msgspec
from luigi.freezing import recursively_freeze, recursively_unfreeze
from luigi.parameter import ParameterVisibility

from .. import paths, store
from ..console import show_line
from ..container.kwargs import container_kwargs
from ..errors import ParameterError, PipelineError
from ..flow import handover
from ..flow.command_line import as_list, flags
from ..flow.flow_file import check_flow, flow_file, flow_names, flow_parameters
from ..flow.flow_run import FlowRun
from ..flow.metaflow_client import artifacts_of, metaflow_run, parameters_of, sha256
from ..flow.output import Progress
from ..flow.parameter_values import RUN_OPTIONS, json_values, offered_to
from ..flow.runner import RUNNERS, ProcessRunner, Runner
from ..metaflow_config import datastore_root, local_root
from ..settings import settings
from ..store.files import locked
from ..version import Code, code
from .attempts import Attempt, Attempts, AttemptsFile, Caller, read_attempts
from .flow_kwargs import FlowKwargs
from .forcing import run_forced_at, time_of_forcing
from .pipeline_task import PipelineTask
from .run_arguments import SETTINGS, named_values, own_values, run_arguments
from .target import FlowTarget, Marker
from .timeout import Timeout

logger = logging.getLogger("luigi-interface")

NEWS = "event.headwater.news"
"""An event of a task, in addition to Luigi's own: a text, which follows the task's name."""

DATES = (
    *(luigi.DateParameter, luigi.DateHourParameter, luigi.DateMinuteParameter),
    luigi.DateSecondParameter,
)
_THIS_RUN = {"force", "force_upstream", "from_run", "rebuild_flow", "rebuild_base"}
_THIS_FLOW = {"flow_path", "flow_kwargs", "preflow_kwargs"}
_OF_DAPS_UTILS = {
    "requires_task": "return the other task from requires()",
    "requires_task_kwargs": "return the other task from requires(), with its parameters",
    "stale_breadcrumb": "from_run takes a finished run, e.g. CleanFlow/123",
}
"""Parameters of the MetaflowTask of daps_utils, and what to do instead."""


def _switch(description: str) -> Any:
    """A parameter that is False by default, and makes no other task."""
    return luigi.BoolParameter(default=False, significant=False, description=description)


class MetaflowTask(PipelineTask, luigi.Task):
    """A Luigi task that runs a Metaflow flow, once, in a process or container of its own.

    `MetaflowTask("examples/co2/clean.py")` runs the flow in that file below `flows/`. For a chain
    of flows, write subclasses that set `flow_path` and add `requires()`, as always in Luigi;
    override `parameters()` to pass the result of one flow to the next.

    If a run fails or is stopped, the next run with the same parameters resumes it: the steps that
    it had finished do not run again, even if you have edited the flow. `force` starts afresh.

    Raises FlowNotFoundError if `flow_path` leads outside `flows/` or to no file, and ParameterError
    for a wrong value of another parameter.
    """

    flow_path: str = luigi.Parameter(description="file of the flow, below flows/")  # type: ignore[assignment]
    flow_kwargs: Mapping[str, Any] = FlowKwargs(  # type: ignore[assignment]
        default={}, description="the flow's parameters, by name, as JSON"
    )
    preflow_kwargs: Mapping[str, Any] = luigi.DictParameter(  # type: ignore[assignment]
        default={}, description="Metaflow's options before `run`, e.g. with: [retry]"
    )
    flow_tag: str = luigi.Parameter(  # type: ignore[assignment]
        default="", description="tag of the run; default: the environment's name"
    )
    force: bool = _switch("run again, from the first step")
    force_upstream: bool = _switch("force this task and all that it requires")
    from_run: str = luigi.Parameter(  # type: ignore[assignment]
        default="", significant=False, description="take this finished run, e.g. CleanFlow/123"
    )
    timeout: float | None = Timeout(  # type: ignore[assignment]
        default=None, significant=False, description="time after which the flow is stopped, e.g. 2h"
    )
    runner: str = luigi.Parameter(  # type: ignore[assignment]
        default="", significant=False, description="process or container; default: the settings'"
    )
    # Luigi's page does not show it: it may have values of variables.
    container_kwargs: Mapping[str, Any] = luigi.DictParameter(  # type: ignore[assignment]
        default={},
        significant=False,
        visibility=ParameterVisibility.HIDDEN,
        description="memory, cpus, gpus, network, volumes and env of the container, as JSON",
    )
    rebuild_flow: bool = _switch("build the flow's image anew")
    rebuild_base: bool = _switch("build the flow's image and its base anew")

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        of_run = 0.0 if self.from_run else run_forced_at()
        self.forced_at = time_of_forcing() if self.force or self.force_upstream else of_run
        self._caller: Caller | None = None
        self.made: Marker | None = None
        self._takes_runs_of_others = True
        # Whatever is wrong is reported here, before anything runs.
        for name in ("flow_path", "flow_tag", "from_run", "runner"):
            if not isinstance(value := getattr(self, name), str):
                raise ParameterError(f"{name} must be text, not {value!r}")
        preflow: Any = recursively_unfreeze(self.preflow_kwargs)
        if not isinstance(preflow, Mapping):
            raise ParameterError(
                f"preflow_kwargs must be Metaflow's options, e.g. with: [retry], not {preflow!r}"
            )
        self._file = flow_file(self.flow_path)
        check_flow_tag(self.flow_tag)
        if self.timeout is not None and not self.timeout > 0:  # nor not a number
            raise ParameterError(f"timeout must be more than 0 seconds, not {self.timeout:g}")
        if self.from_run and not re.fullmatch(r"\w+/[\w.-]+", self.from_run):
            raise ParameterError(
                f"from_run {self.from_run!r} must be a flow's class and a run, e.g. CleanFlow/123"
            )
        if self.from_run and self.forced_at:
            raise ParameterError("from_run takes an existing run, and force makes a new one")
        if self.runner not in RUNNERS:
            raise ParameterError(f"runner {self.runner!r} must be one of: {', '.join(RUNNERS)}")
        self._container = container_kwargs(recursively_unfreeze(self.container_kwargs))
        for name, value in offered_to(self.flow_kwargs, self._own_parameters()).items():
            if json.dumps(value) != json.dumps(recursively_unfreeze(self.flow_kwargs[name])):
                raise ParameterError(
                    f"{name} is {value!r:.99} as the task's own parameter, and "
                    f"{self.flow_kwargs[name]!r:.99} in flow_kwargs\nhint: leave one of them out"
                )

    @classmethod
    def get_params(cls) -> list[tuple[str, luigi.Parameter[Any]]]:
        """Luigi's, with a subclass's own before those of every MetaflowTask.

        So `Daily(date)` and Luigi's range tools, which go by position, mean the subclass's own.
        """
        of_every_task = vars(MetaflowTask).keys() - {"flow_path"}
        return sorted(super().get_params(), key=lambda each: each[0] in of_every_task)

    @classmethod
    def get_param_values(cls, params: Any, args: Any, kwargs: Any) -> list[tuple[str, Any]]:
        """Luigi's, with the defaults that come from the settings."""
        for name in sorted(kwargs.keys() & _OF_DAPS_UTILS.keys() - dict(params).keys()):
            raise ParameterError(f"MetaflowTask has no {name}\nhint: {_OF_DAPS_UTILS[name]}")
        values = dict(super().get_param_values(params, args, kwargs))
        for name in SETTINGS:
            if name in values and values[name] in (None, "", {}):
                values[name] = recursively_freeze(getattr(settings(), name))
        return list(values.items())

    @classmethod
    def bulk_complete(cls, parameter_tuples: Iterable[Any]) -> list[Any]:
        """Those values with which the task is complete, for Luigi's range tools.

        A value is the date or time of a RangeDaily or the like, which gives other parameters by
        calling this with a functools.partial of the class; or a tuple or dict of parameters.
        """
        task, fixed = getattr(cls, "func", cls), getattr(cls, "keywords", {})
        rest = [(name, each) for name, each in task.get_params() if name not in fixed]
        dates = [name for name, each in rest if isinstance(each, DATES)]
        by_date = dates[0] if dates else rest[0][0]

        def is_complete(value: Any) -> bool:
            if isinstance(value, Mapping):
                return bool(cls(**value).complete())
            if isinstance(value, (list, tuple)):
                return bool(cls(*value).complete())
            return bool(cls(**{by_date: value}).complete())

        return [value for value in parameter_tuples if is_complete(value)]

    def clone(self, cls: Any = None, **kwargs: Any) -> Any:
        """Luigi's, which `luigi.util.requires` uses; what is for this one task stays with it."""
        target = cls or type(self)
        stays = _THIS_RUN if target is type(self) else _THIS_RUN | _THIS_FLOW
        shared = {
            name: getattr(self, name)
            for name, _ in target.get_params()
            if name not in stays and hasattr(self, name)
        }
        return target(**shared | kwargs)

    def _own_parameters(self) -> dict[str, Any]:
        """The values of the parameters that a subclass has, as the flow gets them.

        They are JSON values; dates and other types are text, as Luigi writes them: an Enum's member
        by its name. A value that a flow cannot get is a ParameterError, for `offered_to` to raise.
        """
        values: dict[str, Any] = {}
        for name, parameter in self.get_params():
            option = name.replace("_", "-")
            if name in vars(MetaflowTask) or option in RUN_OPTIONS:
                continue
            value = recursively_unfreeze(getattr(self, name))
            if isinstance(value, (list, tuple)):
                value = [each.name if isinstance(each, Enum) else each for each in value]
            is_json = value is None or isinstance(value, (str, int, float, list, dict))
            try:
                if isinstance(value, Enum) or not is_json:
                    value = parameter.serialize(value)
                values |= json_values({name: value}, "parameters")
            except ParameterError as error:
                values[name] = error
        return values

    def parameters(self) -> Mapping[str, Any]:
        """The flow's parameters when it starts; override it to use `self.input()`.

        The task's own Luigi parameters, such as `day = luigi.DateParameter()`, reach the flow's
        parameters of the same name without it.

        Text, numbers, True and False arrive as they are, lists and dicts as JSON, dates and times
        as ISO 8601 text. None means that the flow does not get the parameter: if that has a
        default, None is refused.
        """
        return self.flow_kwargs

    def output(self) -> FlowTarget:
        """The marker: `.result` is the flow's result, `.run` the Metaflow run."""
        folder = f"{datastore_root()}/luigi/{self.flow_tag}/{self.flow_path}"
        return FlowTarget(f"{folder}/{self.task_id}.json")

    def complete(self) -> bool:
        """True if the run has succeeded.

        With `force`, a marker from before this task does not count; with `from_run`, only one of
        that run does. Raises PipelineError if the marker cannot be looked up.
        """
        if not self.from_run and not self.forced_at and not self._caller:
            return self.output().exists()
        if self._caller and self.made:  # whatever others have made meanwhile
            return True
        marker = self.output().read()
        if marker is None:
            return False
        if self._caller:
            return self._counts_for_caller(marker.caller)
        if self.from_run:
            return marker.pathspec == self.from_run
        # The clock may have been set back since, or have been wrong when an old one was written.
        return marker.written == self.forced_at or self.forced_at < marker.written <= time.time()

    def call_from(self, caller: Caller, *, takes_runs_of_others: bool) -> None:
        """Run for a task of another scheduler, which knows itself what it has run.

        A success of an earlier try does not count: that task was cleared, to run anew. What other
        runs of that scheduler, or people, have run or begun counts if `takes_runs_of_others`.
        """
        self._caller, self._takes_runs_of_others = caller, takes_runs_of_others

    def _counts_for_caller(self, other: Caller | None) -> bool:
        """True if a run that `other` has asked for is one that this task may take."""
        if self._is_of_same_task(other):
            return other == self._caller
        return self._takes_runs_of_others

    def _is_of_same_task(self, other: Caller | None) -> bool:
        return bool(self._caller and other and other[:2] == self._caller[:2])

    def run(self) -> None:
        """Run the flow, or resume the run that failed, and write the marker.

        Before anything runs, raises FlowNotFoundError if the file has no flow, and ParameterError
        if the flow does not take the parameters. Raises FlowFailedError, with step and traceback,
        if the run does not succeed, and PipelineError if `from_run` cannot be taken or a file
        cannot be written.

        Of several processes on this machine one runs the flow, and the others wait for it. Between
        machines that share a datastore on S3 there is no lock: each runs the flow, in a run of its
        own, all of them succeed, and the marker that was written last stays.
        """
        check_flow(self._file)
        try:
            parameters = json_values(self.parameters(), "parameters()")
        except Exception as error:
            self._keep_error(error)
            raise
        lock = local_root() / paths.LOCKS / f"{self.task_id}.lock"
        no_clean = local_root() / paths.TASKS_LOCK
        try:
            with (
                locked(no_clean, partial(self._log_wait, "clean"), shared=True) as shared,
                locked(lock, partial(self._log_wait, "it")) as own,
            ):
                if self.complete():  # another process has run it meanwhile
                    return
                if self.from_run:
                    marker = self._take_run(parameters)
                else:
                    marker = self._run_flow(parameters, [own, shared])
                self.output().write(marker)
                self.made = marker
                store.remove(self._attempts_path)
        except OSError as error:
            raise PipelineError(
                f"{error.filename or self._attempts_path}: {error.strerror}"
            ) from error

    @property
    def _attempts_path(self) -> str:
        """The file of the attempts, beside the marker."""
        return self.output().path.removesuffix(".json") + ".attempts"

    @property
    def _name_and_values(self) -> str:
        if type(self) is MetaflowTask:  # of which the flow's path and parameters say all
            return ""
        own = own_values(self, dict(MetaflowTask.get_params()))
        return named_values(type(self).__name__, own)

    def _tell(self, news: str) -> None:
        """Log what people may not expect, and tell those who watch the run."""
        logger.info("%s %s", self.task_id, news)
        self.trigger_event(NEWS, self, news)

    def _keep_error(self, error: Exception) -> None:
        """Note, for `nox -s status`, why the flow was not started."""
        with contextlib.suppress(OSError, PipelineError):  # the first error counts
            earlier = read_attempts(self._attempts_path)
            attempts = earlier or self._described(Attempts(parameters={}))
            AttemptsFile(self._attempts_path, attempts).note(error)

    def _described(self, attempts: Attempts) -> Attempts:
        """The attempts with what `nox -s status` shows of the task."""
        return msgspec.structs.replace(
            attempts,
            task=self._name_and_values,
            env=settings().env,
            caller=self._caller,
            retry=run_arguments(self),
            written=time.time(),
            ended="",
        )

    def _take_run(self, parameters: dict[str, Any]) -> Marker:
        """Return the marker of the existing run `from_run`."""
        run = metaflow_run(self.from_run)
        flow, _, run_id = self.from_run.partition("/")
        names = flow_names(self._file)
        if flow not in (names or [flow]):
            raise PipelineError(f"from_run {self.from_run} is of no flow in {self.flow_path}")
        if not artifacts_of(run, attrgetter("successful")):  # which is an artifact, too
            raise PipelineError(
                f"from_run {self.from_run} has not succeeded\nhint: take a run that has"
            )
        taken, files = artifacts_of(run, parameters_of)
        differences = []
        for name, value in (offered_to(taken, self._own_parameters()) | parameters).items():
            variable = name.replace("-", "_")
            wanted = value
            if variable in files:
                file = paths.ROOT / str(value)
                wanted = sha256(file.read_bytes()) if file.is_file() else "a file that is not there"
            if variable not in taken or not _is_same(taken[variable], wanted):
                differences.append(f"{name} {taken.get(variable)!r:.99}, not {wanted!r:.99}")
            elif variable in files:
                taken[variable] = value  # its path, as in the marker of a run
        if differences:
            raise PipelineError(f"from_run {self.from_run} ran with {'; with '.join(differences)}")
        tags = dict(tag.split(":", 1) for tag in run.user_tags if ":" in tag)
        return self._marker(
            Code(tags.get("version", ""), tags.get("branch"), tags.get("commit")),
            flow=flow,
            run_id=run_id,
            parameters=taken,
            finished=iso(run.finished_at.timestamp()),
            seconds=(run.finished_at - run.created_at).total_seconds(),
            result=artifacts_of(run, handover.result_from_artifacts),
        )

    def _run_flow(self, parameters: dict[str, Any], held: Sequence[int]) -> Marker:
        """Run the flow, or resume its last run, and return the marker.

        The file descriptors `held` stay open until nothing of the flow is left.
        """
        # If this run fails, the marker of an earlier one must not remain.
        before = self.output().read() if self._caller else None
        if self.forced_at or (before and self._is_of_same_task(before.caller)):
            self.output().remove()
        offered = self._own_parameters()
        earlier = self._earlier_attempts(parameters, offered)
        origin = earlier.origin()
        begun = self._described(earlier if origin else Attempts(parameters=parameters))
        attempts = AttemptsFile(self._attempts_path, begun)
        checkout = code()
        resumed, words = "", ["run"]

        def keep(flow: str, run_id: str) -> None:
            attempt = Attempt(run_id=run_id, started=iso(started), **checkout._asdict())
            attempts.add(flow, attempt, run.parameters)

        # Left there by a kill, `clean` finds it, as what Metaflow calls so.
        with tempfile.TemporaryDirectory(prefix="metaflow.task-", dir=local_root()) as folder:
            scratch = Path(folder)
            with attempts.noting_errors():
                runner = self._runner(scratch)
                started = time.time()
                run = FlowRun(
                    self.flow_path,
                    scratch,
                    runner=runner,
                    production=self.flow_tag == "production",
                    timeout=self.timeout,
                    held=held,
                    on_start=keep,
                    on_progress=self._report_progress,
                )
                if origin:
                    address = f"{datastore_root()}/{earlier.flow}/{origin.run_id}"
                    new = run.added_since(address, self._command(runner, words, checkout))
                    if new:  # a resumed run would not have them
                        self._tell(f"starts afresh: the flow has new parameters, {', '.join(new)}")
                        attempts.start_afresh(parameters)
                    else:
                        self._tell(f"resumes run {origin.run_id}, of {origin.started}")
                        resumed = origin.run_id
                        words = ["resume", f"--origin-run-id={resumed}"]
                command = self._command(runner, words, checkout)
                given = earlier.parameters if resumed else parameters
                run.start(command, given, offered, resumed=resumed)
            finished = time.time()
            result = self._result_of(run, is_resumed=bool(resumed))
        return self._marker(
            checkout,
            flow=run.flow,
            run_id=run.run_id,
            resumed=begun.runs if resumed else [],
            parameters=run.parameters,
            finished=iso(finished),
            seconds=finished - started,
            result=result,
            image=runner.image,
            packages=runner.packages,
        )

    def _earlier_attempts(self, parameters: dict[str, Any], offered: Mapping[str, Any]) -> Attempts:
        """The attempts to go on from; without any run if this one starts afresh."""
        afresh = Attempts(parameters=parameters)
        earlier = read_attempts(self._attempts_path)
        if earlier is None or not earlier.runs or self.forced_at > earlier.written:
            return afresh
        # Metaflow could not resume these: it looks below the flow's name, and a resumed run has the
        # parameters of the first run, and no others.
        names = flow_names(self._file)
        # Also a parameter of the task's own that it did not have then.
        known = [*earlier.parameters, *flow_parameters(self._file)]
        if earlier.parameters != offered_to(known, offered) | parameters:
            reason = "its parameters have changed"
        elif earlier.flow and names and earlier.flow not in names:
            reason = f"{earlier.flow} is now {names[0]}"
        elif not self._takes_runs_of_others and not self._is_of_same_run(earlier.caller):
            reason = "what has failed was for another run of the scheduler"
        else:
            return earlier
        self._tell(f"starts afresh: {reason}")
        return afresh

    def _is_of_same_run(self, other: Caller | None) -> bool:
        return bool(self._caller and other and other.run == self._caller.run)

    def _runner(self, scratch: Path) -> Runner:
        """What the flow runs in; a container's image is built if there is none."""
        if self.runner == "process":
            return ProcessRunner(self.flow_path, self._show)
        # Few tasks need them, and every worker would wait for their import.
        from ..container.image import image_for
        from ..container.runner import ContainerRunner

        image = partial(
            image_for,
            self.flow_path,
            rebuild_flow=self.rebuild_flow,
            rebuild_base=self.rebuild_base,
            show=self._show,
        )
        return ContainerRunner(self.flow_path, image, self._container, scratch)

    def _command(self, runner: Runner, words: Sequence[str], checkout: Code) -> list[str]:
        """The command with Metaflow's own options and the run's tags; `words` say what it does."""
        preflow = {"no-pylint": True, **recursively_unfreeze(self.preflow_kwargs)}
        decorators = [*as_list(preflow.pop("with", [])), *settings().metaflow.with_]
        tags = [self.flow_tag, f"env:{settings().env}", f"version:{checkout.version}"]
        tags += [f"branch:{checkout.branch}"] if checkout.branch else []
        tags += [f"commit:{checkout.commit}"] if checkout.commit else []
        return [
            *(runner.python, runner.file),
            *flags(preflow, "preflow_kwargs"),
            *(f"--with={decorator}" for decorator in decorators),
            *words,
            *(f"--tag={tag}" for tag in tags),
        ]

    def _show(self, line: str) -> None:
        """Print and report what is done before there is a run, such as the build of an image."""
        show_line(self.flow_path, line)
        self._report_progress("", Progress(line))

    def _result_of(self, run: FlowRun, *, is_resumed: bool) -> Any:
        """The result of the run, which it may have left elsewhere."""
        try:
            return run.result()
        except LookupError:
            # An earlier run may have finished the last step. With a datastore on S3 that step may
            # have run on another machine.
            if is_resumed or store.is_on_s3(datastore_root()):
                finished = metaflow_run(f"{run.flow}/{run.run_id}")
                return artifacts_of(finished, handover.result_from_artifacts)
            return None

    def _marker(self, checkout: Code, *, seconds: float, **fields: Any) -> Marker:
        """A marker with what it says of the task itself, and these fields."""
        return Marker(
            path=self.flow_path,
            task=self._name_and_values,
            env=settings().env,
            caller=self._caller,
            flow_tag=self.flow_tag,
            written=max(time.time(), self.forced_at),
            seconds=round(seconds, 3),
            **checkout._asdict(),
            **fields,
        )


def check_flow_tag(tag: str) -> None:
    """Raise ParameterError unless the tag can name a folder."""
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]*", tag):
        raise ParameterError(
            f"flow_tag {tag!r} must be letters, digits, '.', '_' or '-', and begin with a letter "
            "or digit: it names a folder and tags the run"
        )


def _is_same(taken: Any, wanted: Any) -> bool:
    """True if a flow whose parameter is `taken` may have read it from what is wanted.

    Text is a number or JSON only for a flow that has read it so: `1.10` is not `1.1`.
    """
    taken = [*taken] if isinstance(taken, tuple) else taken  # of a parameter with `multiple`
    if isinstance(taken, str) == isinstance(wanted, str):
        return bool(taken == wanted)
    return bool(_parsed(taken) == _parsed(wanted))


def _parsed(value: Any) -> Any:
    """The value as a flow may read it, whose parameter is text, a number or JSON."""
    try:
        return json.loads(value) if isinstance(value, str) else value
    except ValueError:
        return value


def iso(seconds: float) -> str:
    """A time, in seconds since 1970, as date and time in UTC."""
    moment = datetime.datetime.fromtimestamp(seconds, datetime.UTC)
    return moment.isoformat(timespec="seconds")
