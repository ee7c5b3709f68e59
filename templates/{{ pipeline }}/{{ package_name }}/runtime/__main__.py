"""`python -m PACKAGE.runtime`: runs a flow or a pipeline and says what came of it."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator
from pathlib import Path

import luigi
import yaml
from luigi.cmdline_parser import CmdlineParser
from luigi.parameter import ParameterException
from luigi.retcodes import run_with_retcodes
from luigi.task import flatten
from luigi.task_register import TaskClassException

from . import paths
from .errors import PipelineError
from .flow_file import flow_files
from .metaflow_config import datastore_root
from .task import MetaflowTask

USAGE = """\
Usage: nox -s run -- [FILE [TASK]] [LUIGI'S OPTIONS]

  FILE   a flow below flows/, e.g. examples/co2/clean.py, or a module of tasks below tasks/, e.g.
         examples/co2_tasks.py; may be left out where the repo has one module of tasks only
  TASK   the task of that module; default: RootTask

Luigi's options are e.g. --workers 4, --flow-tag production, --help. A flow takes its parameters as
--flow-kwargs '{"name": value}'.
"""


class UsageError(PipelineError):
    """The command line names nothing that can be run."""


def main(arguments: list[str]) -> int:
    """Run what the arguments name; exit codes are luigi.cfg's, and 2 for a user's mistake."""
    if arguments[:1] in (["--help"], ["-h"]):
        print(USAGE)
        return 0
    try:
        luigi_arguments = to_luigi(arguments)
        datastore_root()  # what is wrong with it is told here, not by each task
        with CmdlineParser.global_instance(luigi_arguments) as parser:
            tasks = list(in_order(parser.get_task_obj(), set()))
    except (PipelineError, ParameterException, TaskClassException) as error:
        print(f"run: {error}", file=sys.stderr)
        return 2
    code = 0
    try:
        run_with_retcodes(luigi_arguments)
    except SystemExit as stop:
        code = int(stop.code or 0)
    if code == 0:
        report(tasks)
    return code


def to_luigi(arguments: list[str]) -> list[str]:
    """The arguments as Luigi takes them: module, task, options."""
    words: list[str] = []
    while arguments and not arguments[0].startswith("-") and len(words) < 2:
        words.append(arguments[0])
        arguments = arguments[1:]
    file = find(words[0]) if words else only_pipeline()
    if file.is_relative_to(paths.FLOWS):
        if words[1:]:
            raise UsageError(f"{words[1]!r}: behind a flow's file come options only")
        flow_path = file.relative_to(paths.FLOWS).as_posix()
        target = [MetaflowTask.__module__, "MetaflowTask", "--flow-path", flow_path]
    else:
        module = ".".join(file.relative_to(paths.PACKAGE.parent).with_suffix("").parts)
        target = [module, *(words[1:] or ["RootTask"])]
    return ["--module", *target, *arguments]


def find(name: str) -> Path:
    """The file that a name means: below flows/, below tasks/, or from the folder one is in."""
    for folder in (paths.FLOWS, paths.TASKS, Path.cwd()):
        file = (folder / name).resolve()
        if file.is_file() and any(map(file.is_relative_to, (paths.FLOWS, paths.TASKS))):
            return file
    if name.endswith(".py"):
        raise UsageError(f"there is no {name!r} below flows/ or tasks/\n{listing()}")
    raise UsageError(f"{name!r} is no file of a flow or of tasks\n{listing()}")


def pipelines() -> list[Path]:
    """The modules of tasks."""
    return [file for file in sorted(paths.TASKS.rglob("*.py")) if not file.name.startswith("_")]


def only_pipeline() -> Path:
    """The repo's one module of tasks; a UsageError says which there are, where it is not one."""
    found = pipelines()
    if len(found) != 1:
        raise UsageError(f"say what to run: nox -s run -- FILE\n{listing()}")
    return found[0]


def listing() -> str:
    """What there is to run."""
    tasks = _relative(pipelines(), paths.TASKS)
    flows = _relative(flow_files(), paths.FLOWS)
    return (
        f"Modules of tasks: {', '.join(tasks) or 'none yet'}\n"
        f"Flows: {', '.join(flows) or 'none yet'}"
    )


def _relative(files: Iterable[Path], folder: Path) -> list[str]:
    return [file.relative_to(folder).as_posix() for file in files]


def report(tasks: list[luigi.Task]) -> None:
    """Print what each task has made: a flow's run and result, another task's files."""
    for task in tasks:
        if isinstance(task, MetaflowTask):
            marker = task.output().marker
            print(f"\n{marker.path}: {marker.pathspec}, {marker.seconds:.1f} s, {marker.finished}")
            if marker.result is not None:
                text = yaml.safe_dump(marker.result, sort_keys=False, allow_unicode=True)
                print("  " + text.rstrip().replace("\n", "\n  "))
        elif not isinstance(task, luigi.WrapperTask):
            files = [getattr(target, "path", target) for target in flatten(task.output())]
            print(f"\n{task.task_family}:", *files)


def in_order(task: luigi.Task, seen: set[str]) -> Iterator[luigi.Task]:
    """The task behind all that it requires, each once."""
    if task.task_id not in seen:
        seen.add(task.task_id)
        for required in flatten(task.requires()):
            yield from in_order(required, seen)
        yield task


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
