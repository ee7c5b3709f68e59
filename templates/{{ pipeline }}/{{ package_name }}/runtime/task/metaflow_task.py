"""Luigi's half of the seam: the task that runs a Metaflow flow."""

from __future__ import annotations

import contextlib
import datetime
import json
import logging
import multiprocessing
import os
import re
import tempfile
import time
from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import luigi
import msgspec
from luigi.freezing import recursively_unfreeze
from luigi.parameter import ParameterVisibility
from luigi.rpc import RPCError
from luigi.task import flatten

from .. import paths, store
from ..container.kwargs import container_kwargs
from ..errors import ParameterError, PipelineError
from ..flow import handover
from ..flow.command_line import as_list, flags, options
from ..flow.flow_file import (
    check_flow,
    flow_file,
    flow_names,
    flow_parameters,
)
from ..flow.flow_run import FlowRun
from ..flow.parameters import FlowKwargs, json_values
from ..flow.runner import RUNNERS, ProcessRunner, Runner
from ..metaflow_config import datastore_root, local_root
from ..settings import settings
from ..store.files import exclusive_lock, shared_lock
from ..version import Code, code
from .attempts import (
    STOPPED,
    Attempt,
    Attempts,
    read_attempts,
    write_attempts,
)
from .run_arguments import run_arguments
from .target import (
    FlowTarget,
    Marker,
    artifacts_of,
    metaflow_run,
    parameters_of,
)

logger = logging.getLogger("luigi-interface")


class MetaflowTask(luigi.Task):
    """A Luigi task that runs a Metaflow flow, once, in a process or a container of its own.

    `MetaflowTask("examples/co2/clean.py")` runs the flow of that file below `flows/`. A chain of
    flows is written as Luigi means it, with subclasses that set `flow_path` and add `requires()`;
    `parameters()` is where one flow's result becomes the next one's parameter.

    A run that failed or was stopped is resumed by the next one with the same parameters: the steps
    it had finished are not run again, whatever has been edited meanwhile. `force` starts afresh.

    Raises FlowNotFoundError where `flow_path` leads outside `flows/` or to no file, and
    ParameterError where `flow_kwargs`, `flow_tag`, `timeout`, `from_run`, `runner` or
    `container_kwargs` is nothing that they can be.
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
    force: bool = luigi.BoolParameter(  # type: ignore[assignment]
        default=False, significant=False, description="run again, from the first step"
    )
    force_upstream: bool = luigi.BoolParameter(  # type: ignore[assignment]
        default=False, significant=False, description="force this task and all that it requires"
    )
    from_run: str = luigi.Parameter(  # type: ignore[assignment]
        default="", significant=False, description="take this finished run, e.g. CleanFlow/123"
    )
    timeout: float | None = luigi.OptionalFloatParameter(  # type: ignore[assignment]
        default=None, significant=False, description="seconds after which the flow is stopped"
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
    rebuild_flow: bool = luigi.BoolParameter(  # type: ignore[assignment]
        default=False, significant=False, description="build the flow's image anew"
    )
    rebuild_base: bool = luigi.BoolParameter(  # type: ignore[assignment]
        default=False, significant=False, description="build the flow's image and its base anew"
    )

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._forced_at = forced_at() if self.force or self.force_upstream else 0.0
        # What is wrong is told here, before anything runs.
        self._file = flow_file(self.flow_path)
        if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]*", self.flow_tag):
            raise ParameterError(
                f"flow_tag {self.flow_tag!r} must be letters, digits, '.', '_' or '-', and begin "
                "with a letter or digit: it names a folder and tags the run"
            )
        if self.timeout is not None and not self.timeout > 0:  # nor not a number
            raise ParameterError(f"timeout must be more than 0 seconds, not {self.timeout:g}")
        if self.from_run and not re.fullmatch(r"\w+/[\w.-]+", self.from_run):
            raise ParameterError(
                f"from_run {self.from_run!r} must be a flow's class and a run, e.g. CleanFlow/123"
            )
        if self.from_run and self._forced_at:
            raise ParameterError("from_run takes a run that is there, and force makes a new one")
        if self.runner not in RUNNERS:
            raise ParameterError(f"runner {self.runner!r} must be one of: {', '.join(RUNNERS)}")
        self._container = container_kwargs(recursively_unfreeze(self.container_kwargs))

    @classmethod
    def get_param_values(cls, params: Any, args: Any, kwargs: Any) -> list[tuple[str, Any]]:
        """Luigi's, with the defaults that come from the settings."""
        values = dict(super().get_param_values(params, args, kwargs))
        for name in ("flow_tag", "timeout", "runner"):
            if name in values and values[name] in (None, ""):
                values[name] = getattr(settings(), name)
        return list(values.items())

    def parameters(self) -> Mapping[str, Any]:
        """The flow's parameters when it starts; override it to use what `self.input()` says.

        Text, numbers, True and False arrive as they are, lists and dicts as JSON, dates and times
        as ISO 8601 text. None is what the flow has where it is not given the parameter; where it
        has a default, None is refused.
        """
        return self.flow_kwargs

    def output(self) -> FlowTarget:
        """The marker: `.result` is the flow's result, `.run` the Metaflow run."""
        folder = f"{datastore_root()}/luigi/{self.flow_tag}/{self.flow_path}"
        return FlowTarget(f"{folder}/{self.task_id}.json")

    def complete(self) -> bool:
        """Has the run succeeded?

        With `force` a marker from before this task does not count, with `from_run` none of another
        run. Raises PipelineError where that cannot be looked up.
        """
        if not self.from_run and not self._forced_at:
            return self.output().exists()
        marker = self.output().read()
        if marker is None:
            return False
        if self.from_run:
            return marker.pathspec == self.from_run
        # A clock may have been set back meanwhile, or have been wrong when an old one was written.
        return marker.written == self._forced_at or self._forced_at < marker.written <= time.time()

    def deps(self) -> list[luigi.Task]:
        """Luigi's; with `force_upstream` they are forced as this one is."""
        required: list[luigi.Task] = super().deps()
        if self.force_upstream:
            force(required, self._forced_at)
        return required

    def on_failure(self, exception: BaseException) -> str:
        """What Luigi's page shows: a PipelineError's message, which has the flow's traceback."""
        if isinstance(exception, PipelineError):
            return str(exception)
        return str(super().on_failure(exception))

    def run(self) -> None:
        """Run the flow, or resume the run that failed, and write the marker.

        Raises FlowNotFoundError where the file has no flow, ParameterError where a value cannot be
        handed over or the flow has no such parameter, before anything runs, FlowFailedError, with
        step and traceback, where the run does not succeed, and PipelineError where `from_run`
        cannot be taken or a file cannot be written.

        Of several processes on this machine one runs it, and the others wait for that. Between
        machines that share a datastore on S3 there is no lock: both run it, each in a run of its
        own, both succeed, and the marker that was written last stays.
        """
        check_flow(self._file)
        parameters = json_values(self.parameters(), "parameters()")
        lock = local_root() / paths.LOCKS / f"{self.task_id}.lock"
        no_clean = local_root() / paths.TASKS_LOCK
        try:
            with (
                shared_lock(no_clean, self._tell_clean_is_waited_for) as shared,
                exclusive_lock(lock, self._tell_who_is_waited_for) as own,
            ):
                if self.complete():  # another process has run it meanwhile
                    return
                if self.from_run:
                    marker = self._take(parameters)
                else:
                    marker = self._make(parameters, [own, shared])
                self.output().write(marker)
                store.remove(self._kept)
        except OSError as error:
            raise PipelineError(f"{error.filename or self._kept}: {error.strerror}") from error

    @property
    def _kept(self) -> str:
        """The file that keeps the attempts until one succeeds, beside the marker."""
        return self.output().path.removesuffix(".json") + ".attempts"

    def _tell_who_is_waited_for(self, process_id: str) -> None:
        logger.info("%s waits for process %s, which is running it", self.task_id, process_id)

    def _tell_clean_is_waited_for(self, process_id: str) -> None:
        logger.info("%s waits for process %s, which is running clean", self.task_id, process_id)

    def _take(self, parameters: Mapping[str, Any]) -> Marker:
        """The marker of the run `from_run`, which is there already."""
        run = metaflow_run(self.from_run)
        flow, _, run_id = self.from_run.partition("/")
        if flow not in flow_names(self._file):
            raise PipelineError(f"from_run {self.from_run} is of no flow in {self.flow_path}")
        if not run.successful:
            raise PipelineError(
                f"from_run {self.from_run} has not succeeded; take one that has, or leave it out"
            )
        taken = artifacts_of(run, parameters_of)
        other = [
            name
            for name, value in parameters.items()
            if name not in taken or parsed(taken[name]) != parsed(value)
        ]
        if other:
            differ = [
                f"{name} {taken.get(name)!r:.99}, not {parameters[name]!r:.99}" for name in other
            ]
            raise PipelineError(f"from_run {self.from_run} ran with {'; with '.join(differ)}")
        tags = dict(tag.split(":", 1) for tag in run.user_tags if ":" in tag)
        return self._marker(
            flow=flow,
            run_id=run_id,
            parameters=taken,
            code=Code(tags.get("version", ""), tags.get("branch"), tags.get("commit")),
            finished=run.finished_at.timestamp(),
            seconds=(run.finished_at - run.created_at).total_seconds(),
            result=artifacts_of(run, handover.result_from_artifacts),
        )

    def _make(self, parameters: dict[str, Any], held: Sequence[int]) -> Marker:
        """Run the flow until it has succeeded, and return the marker of the run."""
        if self._forced_at:  # should this run fail, nothing may speak for it
            self.output().remove()
        earlier = self._earlier_attempts(parameters)
        origin = earlier.origin() if earlier else None
        attempts = Attempts(
            flow=earlier.flow if earlier and origin else "",
            parameters=parameters,
            declared=flow_parameters(self._file),
            runs=earlier.runs if earlier and origin else [],
            env=settings().env,
            retry=run_arguments(self),
            written=time.time(),
        )
        now = code()
        write_attempts(self._kept, attempts)  # where that cannot be, nothing is to run
        grown = attempts

        def keep(flow: str, run_id: str) -> None:
            nonlocal grown
            attempt = Attempt(run_id=run_id, started=iso(started), **now._asdict())
            runs = [*attempts.runs, attempt]
            grown = msgspec.structs.replace(attempts, flow=flow, runs=runs, written=time.time())
            write_attempts(self._kept, grown)

        with tempfile.TemporaryDirectory(prefix="metaflowtask-") as scratch:
            try:
                runner = self._runner(Path(scratch))
            except BaseException as error:
                self._keep_why(grown, error)
                raise
            started = time.time()
            run = FlowRun(
                self.flow_path,
                Path(scratch),
                runner=runner,
                on_start=keep,
                on_progress=self._tell_progress,
            )
            if origin:
                logger.info("%s resumes run %s, of %s", self.task_id, origin.run_id, origin.started)
                words = ["resume", f"--origin-run-id={origin.run_id}"]
                given: dict[str, Any] = {}  # a resumed run has those of its origin
            else:
                words, given = ["run"], parameters
            command = [*self._preflow(runner), *words, *run.options, *self._tags(now)]
            try:
                run.start(
                    [*command, *options(given, "parameters()")],
                    given,
                    production=self.flow_tag == "production",
                    timeout=self.timeout,
                    held=held,
                    resumed=origin.run_id if origin else "",
                )
            except BaseException as error:
                self._keep_why(grown, error)
                raise
            finished = time.time()
            result = self._result_of(run, resumed=origin is not None)
        return self._marker(
            flow=run.flow,
            run_id=run.run_id,
            resumed=attempts.runs,
            parameters=parameters,
            code=now,
            finished=finished,
            seconds=finished - started,
            result=result,
            image=runner.image,
        )

    def _runner(self, scratch: Path) -> Runner:
        """What the flow runs in; the image of a container is built where it is not there."""
        if self.runner == "process":
            return ProcessRunner(self.flow_path)
        from ..container.image import image_for
        from ..container.runner import ContainerRunner  # for few tasks, and every worker would wait

        image = partial(
            image_for,
            self.flow_path,
            rebuild_flow=self.rebuild_flow,
            rebuild_base=self.rebuild_base,
        )
        return ContainerRunner(self.flow_path, image, self._container, scratch)

    def _keep_why(self, attempts: Attempts, error: BaseException) -> None:
        """Let `nox -s status` say why the last attempt has ended; it is the error that counts."""
        with contextlib.suppress(OSError, PipelineError):
            if isinstance(error, ParameterError) and not attempts.runs:
                store.remove(self._kept)  # there is nothing to retry as it stands
            elif isinstance(error, PipelineError):
                why = str(error).strip().splitlines()[-1].strip()
                write_attempts(self._kept, msgspec.structs.replace(attempts, ended=why))
            elif not store.is_on_s3(self._kept):  # who is being stopped waits for no server
                write_attempts(self._kept, msgspec.structs.replace(attempts, ended=STOPPED))

    def _result_of(self, run: FlowRun, *, resumed: bool) -> Any:
        """The result that the run has left here, or elsewhere."""
        try:
            return run.result()
        except LookupError:
            # Where another run had done the step `end`, that one has handed it over. With a
            # datastore on S3 the step may have run on another machine.
            if (resumed and not run.end_was_run) or store.is_on_s3(datastore_root()):
                return artifacts_of(
                    metaflow_run(f"{run.flow}/{run.run_id}"), handover.result_from_artifacts
                )
            return None

    def _earlier_attempts(self, parameters: Mapping[str, Any]) -> Attempts | None:
        """The attempts that this run can go on from; None where there are none."""
        earlier = read_attempts(self._kept)
        if earlier is None:
            return None
        if self._forced_at > earlier.written:
            return None
        if earlier.parameters != parameters:
            logger.info("%s starts afresh, with other parameters", self.task_id)
            return None
        # Metaflow could not resume it: it looks below the flow's name, and a resumed run has the
        # parameters of the first, and no others.
        names = flow_names(self._file)
        if earlier.flow and names and earlier.flow not in names:
            logger.info("%s starts afresh: %s is now %s", self.task_id, earlier.flow, names[0])
            return None
        new = {*flow_parameters(self._file)}.difference(earlier.declared or ())
        if earlier.declared is not None and new:
            new_ones = ", ".join(sorted(new))
            logger.info("%s starts afresh: the flow has now %s too", self.task_id, new_ones)
            return None
        return earlier

    def _marker(
        self,
        *,
        code: Code,
        finished: float,
        seconds: float,
        resumed: Sequence[Attempt] = (),
        **more: Any,
    ) -> Marker:
        return Marker(
            path=self.flow_path,
            resumed=[*resumed],
            env=settings().env,
            flow_tag=self.flow_tag,
            version=code.version,
            branch=code.branch,
            commit=code.commit,
            finished=iso(finished),
            written=max(time.time(), self._forced_at),
            seconds=round(seconds, 3),
            **more,
        )

    def _tell_progress(self, status: str, percentage: int) -> None:
        # Luigi sets both where a worker runs the task.
        if self.set_status_message and self.set_progress_percentage:
            with contextlib.suppress(RPCError):  # a scheduler that is gone for a while
                self.set_status_message(status)
                self.set_progress_percentage(percentage)

    def _preflow(self, runner: Runner) -> list[str]:
        """The command up to Metaflow's own `run` or `resume`."""
        preflow = {"no-pylint": True, **recursively_unfreeze(self.preflow_kwargs)}
        decorators = [*as_list(preflow.pop("with", [])), *settings().metaflow.with_]
        return [
            *(runner.python, runner.file),
            *flags(preflow, "preflow_kwargs"),
            *(f"--with={decorator}" for decorator in decorators),
        ]

    def _tags(self, now: Code) -> list[str]:
        tags = [self.flow_tag, f"env:{settings().env}", f"version:{now.version}"]
        tags += [f"branch:{now.branch}"] if now.branch else []
        tags += [f"commit:{now.commit}"] if now.commit else []
        return [f"--tag={tag}" for tag in tags]


def parsed(value: Any) -> Any:
    """The value that a flow has made of it, whose parameter may be text, a number or JSON."""
    try:
        return json.loads(value) if isinstance(value, str) else value
    except ValueError:
        return value


def iso(seconds: float) -> str:
    """A time, in seconds since 1970, as date and time in UTC."""
    moment = datetime.datetime.fromtimestamp(seconds, datetime.UTC)
    return moment.isoformat(timespec="seconds")


def force(tasks: Iterable[luigi.Task], at: float) -> None:
    """Let no marker from before `at` count for these tasks, and for all that they require.

    Luigi keeps one object for each task, so whoever else asks one of them is told the same. A task
    of another kind that is done is asked for nothing it requires: delete what it has made.
    """
    waiting, seen = [*tasks], set()
    while waiting:
        task = waiting.pop()
        if task.task_id in seen:
            continue
        seen.add(task.task_id)
        if isinstance(task, MetaflowTask):
            if task._forced_at >= at:
                continue
            task._forced_at = at
        waiting += flatten(task.requires())


def forced_at() -> float:
    """The time, as `time.time()` has it, before which markers do not count for a forced task.

    A worker process that makes its tasks anew, as on macOS, takes the time of the one it is from:
    a task that has been run again meanwhile is not to be run once more.
    """
    if multiprocessing.parent_process() is None:
        os.environ["LUIGI_FORCED_AT"] = repr(time.time())
    return float(os.environ.get("LUIGI_FORCED_AT") or time.time())
