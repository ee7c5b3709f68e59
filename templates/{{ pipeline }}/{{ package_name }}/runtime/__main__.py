"""`python -m PACKAGE.runtime`: runs a flow or a pipeline and says what came of it."""

from __future__ import annotations

import logging
import os
import signal
import sys
from collections.abc import Iterable, Iterator
from importlib import import_module
from pathlib import Path
from typing import Any

import luigi
import yaml
from luigi.cmdline_parser import CmdlineParser
from luigi.parameter import ParameterException
from luigi.retcodes import run_with_retcodes
from luigi.task import flatten
from luigi.task_register import Register

from . import paths, stored
from .errors import FlowFailedError, PipelineError
from .flow_file import flow_files
from .metaflow_config import datastore_root, local_root
from .settings import settings
from .task import MetaflowTask

USAGE = """\
Usage: nox -s run -- [FILE [TASK]] [LUIGI'S OPTIONS]

  FILE   a flow below flows/, e.g. sales/clean/clean.py, or a module of tasks below tasks/, e.g.
         sales_tasks.py; may be left out where the repo has one module of tasks only
  TASK   the task of that module; default: RootTask

Luigi's options are e.g. --workers 4, --flow-tag production, and --force, which runs a flow again. A
flow that is named by its file takes its parameters as --flow-kwargs '{"name": 1}'.

"""


REPORTED = 100
"""Tasks that are reported on when all are done."""


class UsageError(PipelineError):
    """The command line names nothing that can be run."""


def main(arguments: list[str]) -> int:
    """Run what the arguments name.

    Returns luigi.cfg's exit codes, 2 for a user's mistake, and 130 after an interrupt or SIGTERM.
    """
    if arguments[:1] in (["--help"], ["-h"]):
        print(USAGE + listing())
        return 0
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        stored.check(datastore_root())  # or each task would tell of it
        configure_luigi()
        module, name, options = to_luigi(arguments)
        luigi_arguments = ["--module", module, family(module, name), *options]
        return run(luigi_arguments, list(in_order(named_task(luigi_arguments), set())))
    except PipelineError as error:
        print(f"run: {error}", file=sys.stderr)
        return 2
    except OSError as error:
        print(f"run: {error.filename}: {error.strerror}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("run: stopped", file=sys.stderr)
        return 130


def run(arguments: list[str], tasks: list[luigi.Task]) -> int:
    """Let Luigi run what its arguments name, the last of the tasks, and report on them."""
    failures: list[BaseException] = []
    MetaflowTask.event_handler(luigi.Event.FAILURE)(lambda _, error: failures.append(error))
    try:
        run_with_retcodes(arguments)
    except SystemExit as stop:
        code = int(stop.code or 0)
    if code == 0 and not tasks[-1].complete():
        code = 1  # a luigi.cfg may make nothing of a failure; whoever waits for it does
    if code == 0:
        report(tasks)
    if any(isinstance(failure, FlowFailedError) for failure in failures):
        print("run: the same command resumes what failed; --force starts afresh", file=sys.stderr)
    for failure in failures:
        lines = str(failure).splitlines() or [type(failure).__name__]
        print("run:", ": ".join(dict.fromkeys([lines[0], lines[-1]])), file=sys.stderr)
    return code


def configure_luigi() -> None:
    """Find luigi.cfg from any folder, and give what it does not say the defaults of a repo.

    Luigi's own lock folder is in /tmp, and belongs to the first user of the machine.
    """
    file = paths.ROOT / "luigi.cfg"
    if "LUIGI_CONFIG_PATH" not in os.environ and file.is_file():
        luigi.configuration.add_config_path(str(file))
    locks = local_root() / "luigi-locks" / settings().env
    locks.mkdir(parents=True, exist_ok=True)
    defaults = {
        "core": {
            "autoload_range": "false",
            "local_scheduler": "true",
            "lock_pid_dir": str(locks),
            "log_level": "INFO",
        },
        # Luigi's own defaults are 0, whatever has failed.
        "retcode": {
            "already_running": "10",
            "missing_data": "20",
            "not_run": "25",
            "task_failed": "30",
            "scheduling_error": "35",
            "unhandled_exception": "40",
        },
    }
    config = luigi.configuration.get_config()
    for section, options in defaults.items():
        for name, value in options.items():
            if not config.has_option(section, name):
                config.set(section, name, value)
    logging.getLogger("luigi-interface").addFilter(without_traceback)


def without_traceback(record: logging.LogRecord) -> bool:
    """Log a PipelineError as its message: its traceback leads through the runtime alone."""
    error = record.exc_info[1] if record.exc_info else None
    if isinstance(error, PipelineError):
        record.msg, record.args = f"{record.getMessage()}\n{error}", ()
        record.exc_info = None
    return True


def to_luigi(arguments: list[str]) -> tuple[str, str, list[str]]:
    """The module, the task and the options that the arguments mean."""
    words: list[str] = []
    while arguments and not arguments[0].startswith("-") and len(words) < 2:
        words.append(arguments[0])
        arguments = arguments[1:]
    file = find(words[0]) if words else only_pipeline()
    if file.is_relative_to(paths.FLOWS):
        if words[1:]:
            raise UsageError(f"{words[1]!r}: behind a flow's file come options only")
        flow_path = file.relative_to(paths.FLOWS).as_posix()
        return MetaflowTask.__module__, "MetaflowTask", ["--flow-path", flow_path, *arguments]
    module = ".".join(file.relative_to(paths.PACKAGE.parent).with_suffix("").parts)
    return module, words[1] if words[1:] else "RootTask", arguments


def family(module: str, name: str) -> str:
    """The name under which Luigi knows the module's task; a UsageError says which there are."""
    members = vars(import_module(module)).items()
    tasks: dict[str, Any] = {key: task for key, task in members if isinstance(task, Register)}
    if name not in tasks:
        own = sorted(key for key, task in tasks.items() if task.__module__ == module)
        raise UsageError(f"{module} has no task {name}; it has: {', '.join(own) or 'none'}")
    return str(tasks[name].get_task_family())


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


def named_task(arguments: list[str]) -> luigi.Task:
    """The task that Luigi's arguments name; a UsageError says what is wrong with its options."""
    with CmdlineParser.global_instance(arguments) as parser:
        try:
            luigi.interface.core()  # its options too
            task: luigi.Task = parser.get_task_obj()
        except (ParameterException, ValueError) as error:
            raise UsageError(f"an option is not what it must be: {error}") from error
    return task


def report(tasks: list[luigi.Task]) -> None:
    """Print what each task has made: a flow's run and result, another task's files.

    Of more tasks than anybody reads, the last ones: each is a marker to be fetched.
    """
    if len(tasks) > REPORTED:
        print(f"\n{len(tasks) - REPORTED:,} more tasks are done, and then:")
    for task in tasks[-REPORTED:]:
        if isinstance(task, MetaflowTask) and task.output().exists():
            marker = task.output().marker
            print(f"\n{marker.path}: {marker.pathspec}, {marker.seconds:.1f} s, {marker.finished}")
            if marker.result is not None:
                text = yaml.safe_dump(marker.result, sort_keys=False, allow_unicode=True)
                print("  " + text.rstrip().replace("\n", "\n  "))
        elif not isinstance(task, (MetaflowTask, luigi.WrapperTask)):
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
