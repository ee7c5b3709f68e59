"""Luigi's half of the seam: the task that runs a Metaflow flow."""

from __future__ import annotations

import datetime
import json
import multiprocessing
import os
import re
import sys
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import luigi
from luigi.freezing import recursively_unfreeze

from . import handover, paths, process
from .code import Code, code
from .command import as_list, options
from .errors import FlowFailedError, ParameterError
from .flow_file import check_flow, flow_file
from .metaflow_config import datastore_root, metaflow_environment
from .output import FlowOutput
from .settings import settings
from .target import FlowTarget, Marker


class MetaflowTask(luigi.Task):
    """A Luigi task that runs a Metaflow flow, once, in a process of its own.

    `MetaflowTask("examples/co2/clean.py")` runs the flow of that file below `flows/`. A chain of
    flows is written as Luigi means it, with subclasses that set `flow_path` and add `requires()`;
    `parameters()` is where one flow's result becomes the next one's parameter.

    Raises FlowNotFoundError where `flow_path` leads outside `flows/` or to no file, and
    ParameterError where `flow_tag` or `timeout` is nothing that they can be.
    """

    flow_path: str = luigi.Parameter(description="file of the flow, below flows/")  # type: ignore[assignment]
    flow_kwargs: Mapping[str, Any] = luigi.DictParameter(  # type: ignore[assignment]
        default={}, description="the flow's parameters, by name, as JSON"
    )
    preflow_kwargs: Mapping[str, Any] = luigi.DictParameter(  # type: ignore[assignment]
        default={}, description="Metaflow's options before `run`, e.g. with: [retry]"
    )
    flow_tag: str = luigi.Parameter(  # type: ignore[assignment]
        default="", description="tag of the run; default: the environment's name"
    )
    force: bool = luigi.BoolParameter(  # type: ignore[assignment]
        default=False, significant=False, description="run again what has succeeded before"
    )
    timeout: float | None = luigi.OptionalFloatParameter(  # type: ignore[assignment]
        default=None, significant=False, description="seconds after which the flow is stopped"
    )

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._forced_at = forced_at() if self.force else 0.0
        # What is wrong is told here, before anything runs.
        self._file = flow_file(self.flow_path)
        if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]*", self.flow_tag):
            raise ParameterError(
                f"flow_tag {self.flow_tag!r} must be letters, digits, '.', '_' or '-', and begin "
                "with a letter or digit: it names a folder and tags the run"
            )
        if self.timeout is not None and self.timeout <= 0:
            raise ParameterError(f"timeout must be more than 0 seconds, not {self.timeout:g}")

    @classmethod
    def get_param_values(cls, params: Any, args: Any, kwargs: Any) -> list[tuple[str, Any]]:
        """Luigi's, with the defaults that come from the settings."""
        values = dict(super().get_param_values(params, args, kwargs))
        for name in ("flow_tag", "timeout"):
            if name in values and values[name] in (None, ""):
                values[name] = getattr(settings(), name)
        return list(values.items())

    def parameters(self) -> Mapping[str, Any]:
        """The flow's parameters when it starts; override it to use what `self.input()` says."""
        return self.flow_kwargs

    def output(self) -> FlowTarget:
        """The marker: `.result` is the flow's result, `.run` the Metaflow run."""
        folder = datastore_root() / "luigi" / self.flow_tag / self.flow_path
        return FlowTarget(str(folder / f"{self.task_id}.json"))

    def complete(self) -> bool:
        """Has the run succeeded? With `force`, a marker from before this task does not count."""
        try:
            written = Path(self.output().path).stat().st_mtime
        except FileNotFoundError:
            return False
        return written >= self._forced_at

    def run(self) -> None:
        """Run the flow and write the marker.

        Raises FlowNotFoundError where the file has no flow, ParameterError where a value cannot be
        handed over, and FlowFailedError, with step and traceback, where the run does not succeed.
        """
        check_flow(self._file)
        parameters = recursively_unfreeze(self.parameters())
        now = code()
        started = time.monotonic()
        with tempfile.TemporaryDirectory(prefix="metaflowtask-") as name:
            scratch = Path(name)
            command = self._command(parameters, now, scratch)
            if self.force:  # should this run fail, nothing may speak for it
                Path(self.output().path).unlink(missing_ok=True)
            self._run_flow(command, scratch)
            run_id = (scratch / "run-id").read_text().strip()
            marker = Marker(
                flow=json.loads((scratch / "attributes").read_text())["flow_name"],
                path=self.flow_path,
                run_id=run_id,
                parameters=parameters,
                env=settings().env,
                flow_tag=self.flow_tag,
                version=now.version,
                branch=now.branch,
                commit=now.commit,
                finished=datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
                seconds=round(time.monotonic() - started, 3),
                result=handover.taken_over(run_id, scratch / "result"),
            )
        self.output().write(marker)

    def _run_flow(self, command: list[str], scratch: Path) -> None:
        """Run the command to its end; FlowFailedError says why it did not succeed."""
        datastore_root().mkdir(parents=True, exist_ok=True)  # or Metaflow takes one further up
        output = FlowOutput(self.flow_path)
        environment = metaflow_environment() | {
            "PYTHONUNBUFFERED": "1",
            handover.PRODUCTION: str(self.flow_tag == "production").lower(),
            handover.RESULT_FILE: str(scratch / "result"),
        }
        try:
            exit_code = process.run(
                command,
                cwd=paths.ROOT,
                env=environment,
                timeout=self.timeout,
                on_line=output.add,
            )
        except process.TimeLimitError:
            failure = output.failure(f"stopped after {self.timeout:g} seconds")
            raise FlowFailedError(failure) from None
        if exit_code:
            raise FlowFailedError(output.failure(f"exit code {exit_code}"))
        if not (scratch / "run-id").exists():
            raise FlowFailedError(output.failure("it ended well, but Metaflow ran no flow"))

    def _command(self, parameters: Mapping[str, Any], now: Code, scratch: Path) -> list[str]:
        preflow = {"no-pylint": True, **recursively_unfreeze(self.preflow_kwargs)}
        decorators = [*as_list(preflow.pop("with", [])), *settings().metaflow.with_]
        tags = [self.flow_tag, f"env:{settings().env}", f"version:{now.version}"]
        tags += [f"branch:{now.branch}"] if now.branch else []
        tags += [f"commit:{now.commit}"] if now.commit else []
        return [
            *(sys.executable, str(self._file)),
            *options(preflow, "preflow_kwargs", flags=True),
            *(f"--with={decorator}" for decorator in decorators),
            *("run", "--run-id-file", str(scratch / "run-id")),
            *("--runner-attribute-file", str(scratch / "attributes")),  # has the flow's name
            *(f"--tag={tag}" for tag in tags),
            *options(parameters, "flow_kwargs", flags=False),
        ]


def forced_at() -> float:
    """The time, as `time.time()` has it, before which markers do not count for a forced task.

    A worker process that makes its tasks anew, as on macOS, takes the time of the one it is from:
    a task that has been run again meanwhile is not to be run once more.
    """
    if multiprocessing.parent_process() is None:
        os.environ["LUIGI_FORCED_AT"] = repr(time.time())
    return float(os.environ.get("LUIGI_FORCED_AT") or time.time())
