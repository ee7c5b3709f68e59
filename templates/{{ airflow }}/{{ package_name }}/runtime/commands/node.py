"""Runs one task of a pipeline for another scheduler, which has the order from `nox -s graph`."""

from __future__ import annotations

import argparse
import json
import sys
import time
from pathlib import Path
from typing import Any

import luigi
from luigi.retcodes import retcode

from ..errors import PipelineError
from ..metaflow_config import configured, datastore_root
from ..store.metaflow_files import cards_of
from ..task.attempts import Caller
from ..task.metaflow_task import MetaflowTask
from ..task.run_arguments import run_arguments
from .graph import is_moment, named_tasks, required, root_task, sum_of
from .run import UserCodeError, mistakes_shown, named_task, read, run


def main(arguments: list[str]) -> int:
    """Run the task that `--node` names, of the pipeline that the arguments after `--` name.

    Returns the exit codes of `nox -s run`; missing_data if the task requires what has not run.
    """
    parser = argparse.ArgumentParser(prog="node", allow_abbrev=False)
    parser.add_argument("--node", required=True, metavar="NAME", help="its name in the graph")
    parser.add_argument("--graph", required=True, metavar="SUM", help="of all names in the graph")
    parser.add_argument("--by", required=True, metavar="RUN", help="the scheduler's run")
    parser.add_argument("--task", required=True, help="the scheduler's task")
    parser.add_argument("--try", required=True, type=int, dest="attempt", help="which try it is")
    parser.add_argument("--instance", required=True, metavar="ID", help="the scheduler's, of it")
    parser.add_argument("--result", type=Path, required=True, help="the file for what it has made")
    end = arguments.index("--") if "--" in arguments else len(arguments)
    own = parser.parse_args(arguments[:end])
    try:
        with mistakes_shown():
            return run_node(own, arguments[end + 1 :])
    except UserCodeError as error:  # which may be of the moment, so that a retry helps
        print(f"node: {error}", file=sys.stderr)
        return 1


def run_node(own: argparse.Namespace, arguments: list[str]) -> int:
    """Run the task that its own arguments name, of the pipeline that the others name."""
    nodes = named_tasks(root_task(arguments))
    if own.node not in nodes:
        raise PipelineError(
            f"{' '.join(arguments[:1])} has no task {own.node} any more; it has {', '.join(nodes)}"
            "\nhint: nox -s graph"
        )
    if sum_of(nodes) != own.graph:
        raise PipelineError(
            "this run has other tasks than the graph, from which Airflow knows which to run; "
            f"it has {', '.join(nodes)}\nhint: nox -s graph, if the tasks have changed; if they "
            "are others for each date, let one flow do their work"
        )
    task = nodes[own.node]
    names = {each: name for name, each in nodes.items()}
    if missing := [names[each] for each in dict.fromkeys(required(task)) if not each.complete()]:
        requires = f"{own.node} requires {', '.join(missing)}"
        print(f"node: {requires}, not done: run or clear that first", file=sys.stderr)
        return int(retcode().missing_data)
    if isinstance(task, luigi.ExternalTask) and not task.complete():
        print(f"node: {own.node} is made elsewhere, and is not there yet", file=sys.stderr)
        return int(retcode().missing_data)
    words = as_called_alone(task)
    is_dated = any(is_moment(parameter) for _, parameter in task.get_params())
    if isinstance(task, MetaflowTask):
        caller = Caller(own.by, own.task, own.attempt, own.instance)
        # Another try may be one that was cleared although its success was another run's.
        task.call_from(caller, takes_runs_of_others=is_dated and own.attempt == 1)
    elif hasattr(task, "forced_at") and (own.attempt > 1 or not is_dated):
        task.forced_at = time.time()  # a CurateTask, whose rows can be loaded twice
    # Luigi's messages tell of an order that is not its own.
    exit_code = run([*words, "--log-level=WARNING", "--workers=1"], [task], True, hints=False)
    if exit_code == 0:
        own.result.write_text(json.dumps(summary(task)), encoding="utf-8")
    return exit_code


def as_called_alone(task: luigi.Task) -> list[str]:
    """Luigi's arguments that name the task. Raises PipelineError if none can."""
    if words := run_arguments(task, is_stored=False):
        luigi_arguments = read(words).luigi_arguments()
        if named_task(luigi_arguments) is task:  # Luigi has one object for each task
            return luigi_arguments
    raise PipelineError(
        f"no command line names the task of {type(task).__name__}\n"
        "hint: define its class in a module below tasks/, with parameters that have a text"
    )


def summary(task: luigi.Task) -> dict[str, Any]:
    """What the task has made, for the scheduler."""
    output: Any = task.output()
    if isinstance(task, MetaflowTask):
        marker = task.made or output.marker
        resumed = [attempt.run_id for attempt in marker.resumed]
        pages = configured("METAFLOW_UI_URL")
        return {
            "run": marker.pathspec,
            "page": f"{pages.rstrip('/')}/{marker.pathspec}" if pages else "",
            "marker": output.path,
            "cards": cards_of(datastore_root(), marker.pathspec, *resumed),
            "seconds": marker.seconds,
            "resumed": resumed,
            "version": marker.version,
            "commit": marker.commit,
            "result": marker.result,
        }
    if hasattr(output, "load"):
        return dict(output.load._asdict())
    outputs = luigi.task.flatten(output)
    return {"outputs": [str(getattr(each, "path", each)) for each in outputs]}
