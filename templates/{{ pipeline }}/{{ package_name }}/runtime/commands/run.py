"""`python -m PACKAGE.runtime`: runs a flow or a pipeline and says what came of it."""

from __future__ import annotations

import contextlib
import io
import logging
import os
import sys
import traceback
from collections.abc import Iterable, Iterator
from importlib import import_module
from pathlib import Path
from typing import Any

import luigi
import yaml
from luigi.cmdline_parser import CmdlineParser
from luigi.parameter import MissingParameterException, ParameterException
from luigi.retcodes import retcode, run_with_retcodes
from luigi.rpc import RPCError
from luigi.task import flatten
from luigi.task_register import Register

from .. import paths, store
from ..errors import PipelineError, did_you_mean
from ..flow.flow_file import flow_files
from ..metaflow_config import datastore_root, local_root
from ..settings import settings
from ..task.metaflow_task import MetaflowTask
from . import failures

USAGE = """\
Usage: nox -s run -- [FILE [TASK]] [LUIGI'S OPTIONS]

  FILE   a flow below flows/, e.g. sales/clean/clean.py, or a module of tasks below tasks/, e.g.
         sales_tasks.py; may be left out where the repo has one module of tasks only
  TASK   the task of that module; default: RootTask

Options that a flow has when it is named by its file, or a task that runs one:

  --flow-kwargs '{"name": 1}'              the flow's parameters, as JSON
  --flow-tag production                    tag of the run; default: the environment's name
  --force, --force-upstream                run again: this flow, or all that it requires, too
  --from-run CleanFlow/123                 take this finished run instead of running
  --timeout 3600                           seconds after which the flow is stopped
  --runner container                       run it in a container of its own image
  --container-kwargs '{"memory": "4g"}'    what the container has: docs/containers.md
  --rebuild-flow, --rebuild-base           build its image anew, or its image and the base

Luigi's own are e.g. --workers 4; FILE --help shows them all.

"""

JSON = """'{"name": 1}'"""

REPORTED = 100
"""Tasks that are reported on when all are done."""


class UsageError(PipelineError):
    """The command line names nothing that can be run."""


def main(arguments: list[str]) -> int:
    """Run what the arguments name.

    Returns luigi.cfg's exit codes, and 2 for a user's mistake in a task.
    """
    if arguments[:1] in (["--help"], ["-h"]):
        print(USAGE + listing())
        return 0
    try:
        store.check(datastore_root())  # or each task would tell of it
        configure_luigi()
        module, name, options = to_luigi(arguments)
        luigi_arguments = ["--module", module, family(module, name), *options]
        return run(luigi_arguments, list(in_order(named_task(luigi_arguments))))
    except (PipelineError, OSError):
        raise  # a message without a traceback: see __main__.py
    except Exception as error:
        lines = failures.user_frames(error)
        if not lines and not isinstance(error, SyntaxError):
            raise  # none of the user's doing
        told = traceback.TracebackException.from_exception(error)
        told.stack = traceback.StackSummary.from_list(lines)
        print(*told.format(), f"run: {failures.one_line(error)}\n", sep="", end="", file=sys.stderr)
        return 2


def run(arguments: list[str], tasks: list[luigi.Task]) -> int:
    """Let Luigi run what its arguments name, the last of the tasks, and report on them."""
    there: list[str] = []
    luigi.Task.event_handler(luigi.Event.DEPENDENCY_PRESENT)(
        lambda task: there.append(task.task_id)
    )
    with failures.collected() as failed:
        try:
            run_with_retcodes(arguments)
        except SystemExit as stop:
            code = int(stop.code or 0)
    if code == 0 and not tasks[-1].complete():
        code = 1  # a luigi.cfg may make nothing of a failure; whoever waits for it does
    if code == 0:
        report(tasks)
    if code == 0 and tasks[-1].task_id in there:
        print(f"\nrun: nothing was to do; {how_to_run_again(tasks)}", file=sys.stderr)
    if code and code == retcode().already_running:
        print("run: this command is at work already; wait for it, or end it", file=sys.stderr)
    if any(failure.is_resumed for failure in failed):
        print("run: the same command resumes what failed; --force starts afresh", file=sys.stderr)
    for failure in failed:
        print(f"run: {failure.why}", file=sys.stderr)
    return code


def how_to_run_again(tasks: list[luigi.Task]) -> str:
    """What to say where the last of the tasks, and so all, had succeeded before."""
    if isinstance(tasks[-1], MetaflowTask):
        return "--force runs it again, --force-upstream what it requires as well"
    again = [type(task).__name__ for task in tasks if isinstance(task, MetaflowTask)]
    named = f", TASK being {' or '.join(dict.fromkeys(again))}" if again else ""
    return f"a flow is run again by: nox -s run -- FILE TASK --force{named}"


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
    """Log a PipelineError as its message: its traceback leads through the runtime alone.

    So it is with a scheduler that does not answer, of which the way out is told as well.
    """
    error = record.exc_info[1] if record.exc_info else None
    if str(record.msg).startswith("Failed connecting to remote scheduler"):
        record.msg += "; start it: luigid, or set local_scheduler = true in luigi.cfg"
        record.exc_info = None
    if isinstance(error, (PipelineError, RPCError)):
        record.msg, record.args = f"{record.getMessage()}\n{error}", ()
        record.exc_info = None
    elif record.levelno >= logging.WARNING:  # of complete() and deps() Luigi writes it as text
        what, _, traceback = record.getMessage().partition("\nTraceback (most recent call last):\n")
        raised = traceback.rpartition(f"\n{PipelineError.__module__}.")[2]
        if raised != traceback:
            record.msg, record.args = f"{what}\n{raised.partition(': ')[2].rstrip()}", ()
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
    for folder in (paths.FLOWS, paths.TASKS, paths.PACKAGE, Path.cwd()):
        file = (folder / name).resolve()
        if file.is_file() and any(map(file.is_relative_to, (paths.FLOWS, paths.TASKS))):
            return file
    meant = did_you_mean(name, [*_tasks(), *_flows()])
    if name.endswith(".py"):
        raise UsageError(f"there is no {name!r} below flows/ or tasks/{meant}\n{listing()}")
    raise UsageError(f"{name!r} is no file of a flow or of tasks{meant}\n{listing()}")


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
    return (
        f"Modules of tasks: {', '.join(_tasks()) or 'none yet'}\n"
        f"Flows: {', '.join(_flows()) or 'none yet'}"
    )


def _tasks() -> list[str]:
    return _relative(pipelines(), paths.TASKS)


def _flows() -> list[str]:
    return _relative(flow_files(), paths.FLOWS)


def _relative(files: Iterable[Path], folder: Path) -> list[str]:
    return [file.relative_to(folder).as_posix() for file in files]


def named_task(arguments: list[str]) -> luigi.Task:
    """The task that Luigi's arguments name; a UsageError says what is wrong with its options."""
    said = io.StringIO()
    try:
        with contextlib.redirect_stderr(said):
            CmdlineParser(arguments)
    except SystemExit as stop:
        if not stop.code:  # --help
            raise
        _, _, wrong = said.getvalue().strip().rpartition("error: ")
        raise UsageError(f"{wrong}\n{options_of(arguments[2])}") from None
    with CmdlineParser.global_instance(arguments) as parser:
        try:
            luigi.interface.core()  # its options too
            task: luigi.Task = parser.get_task_obj()
        except MissingParameterException as error:
            raise UsageError(f"{error}, by an option or in the task's class") from error
        except (ParameterException, ValueError) as error:
            wrong = wrong_option(parser) or f"an option is not what it must be: {error}"
            raise UsageError(wrong) from error
    return task


def wrong_option(parser: CmdlineParser) -> str:
    """The first of the task's options that cannot be read, and why; empty where all can."""
    for name, parameter in Register.get_task_cls(parser.known_args.root_task).get_params():
        given = getattr(parser.known_args, name)
        try:
            if given:
                parameter.parse(given)
        except ValueError as error:
            option = f"--{name.replace('_', '-')}"
            if isinstance(parameter, luigi.DictParameter):
                return f"{option} {given!r} must be JSON, e.g. {JSON}: {error}"
            return f"{option} {given!r}: {error}"
    return ""


def options_of(family: str) -> str:
    """What may stand behind the task of this name, and where more is told."""
    task = Register.get_task_cls(family)
    own = [f"--{name.replace('_', '-')}" for name, _ in task.get_params()]
    name = family.rpartition(".")[2]
    lines = [f"{name} has: {', '.join(own) or 'no options of its own'}; Luigi's: --help-all"]
    if task is MetaflowTask:
        lines.append(f"A flow's own parameters go as --flow-kwargs {JSON}")
    elif not issubclass(task, MetaflowTask):
        lines.append("--force and the like are for the task of a flow: nox -s run -- FILE TASK")
    return "\n".join(lines)


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


def in_order(task: luigi.Task) -> Iterator[luigi.Task]:
    """The task behind all that it requires, each once; Python's stack is too short for a chain."""
    seen = {task.task_id}
    path = [(task, iter(flatten(task.requires())))]
    while path:
        last, required = path[-1]
        for each in required:
            if each.task_id not in seen:
                seen.add(each.task_id)
                path.append((each, iter(flatten(each.requires()))))
                break
        else:
            path.pop()
            yield last
