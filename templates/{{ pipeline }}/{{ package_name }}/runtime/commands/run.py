"""`nox -s run`: runs a flow or a pipeline and reports what came of it."""

from __future__ import annotations

import configparser
import contextlib
import io
import logging
import os
import re
import sys
import warnings
from collections.abc import Iterator
from graphlib import CycleError, TopologicalSorter
from importlib import import_module
from pathlib import Path
from typing import Any, NamedTuple

import luigi
import yaml
from luigi import lock
from luigi.cmdline_parser import CmdlineParser
from luigi.parameter import MissingParameterException
from luigi.retcodes import retcode, run_with_retcodes
from luigi.rpc import RPCError
from luigi.task import flatten
from luigi.task_register import Register
from luigi.tools.range import RangeBase

from .. import paths, store
from ..console import as_called, can_redraw, printable, reader_may_leave
from ..errors import PipelineError, did_you_mean
from ..flow.flow_file import flow_paths
from ..metaflow_config import datastore_root, local_root
from ..settings import settings
from ..task.forcing import check_end, is_asked
from ..task.metaflow_task import MetaflowTask
from . import failures
from .run_options import (
    WRONG_VALUE,
    UsageError,
    arguments_of,
    check_options,
    check_that_none_is_done,
    check_value,
    help_of,
    options_of,
    take,
)

USAGE = """\
Usage: nox -s run -- [FILE [TASK]] [OPTIONS]

  FILE   a flow below flows/, e.g. sales/clean/clean.py, or a module of tasks below tasks/, e.g.
         sales_tasks.py; not needed if the repo has only one module of tasks
  TASK   the task of that module; default: RootTask

Options of a run, for every flow in it whose task sets no value of its own:

  --runner container                       run in containers, each flow in one of its own image
  --container-kwargs '{"memory": "4g"}'    what a container has: docs/containers.md
  --timeout 2h                             time after which a flow is stopped
  --flow-tag production                    tag of the runs; default: the environment's name
  --force-upstream                         run again: the task and all that it requires

Options of a flow that is named by its file, and of a task that runs one:

  --flow-kwargs '{"name": 1}'              the flow's parameters, as JSON
  --force                                  run again: this flow alone
  --from-run CleanFlow/123                 take this finished run instead of running
  --rebuild-flow, --rebuild-base           build its image anew, or its image and the base

Luigi's own are e.g. --workers 4. FILE --help shows all options of that task, FILE --help-all also
Luigi's. On a terminal, a line shows how each task gets on; --verbose prints every line instead.

"""

REPORTED = 100
"""The number of tasks that are reported on when all are done: each is a marker to fetch."""

TO_DO = "correct that, and the same command runs what is not done yet"

# Of an error in complete() or deps() Luigi logs the traceback as text.
_TRACEBACK = re.compile(
    rf"\nTraceback \(most recent call last\):\n.*\n{re.escape(PipelineError.__module__)}\.\w+: ",
    re.DOTALL,
)


def main(arguments: list[str]) -> int:
    """Run what the arguments name.

    Returns the exit codes of luigi.cfg. Raises PipelineError for a mistake of the user's.
    """
    if arguments[:1] in (["--help"], ["-h"]):
        print(as_called(USAGE + listing()))
        return 0
    is_verbose = "--verbose" in arguments
    arguments = [argument for argument in arguments if argument != "--verbose"]
    with mistakes_shown(f"run: {TO_DO}"):
        asked = read(arguments)
        check_config()
        if {"--help", "-h"} & {*asked.options}:
            print(as_called(help_of(asked.task_class, asked.options)), end="")
            return 0
        luigi_arguments = asked.luigi_arguments()
        store.check(datastore_root())  # else each task would report it
        if is_verbose and "verbose" in dict(asked.task_class.get_params()):
            luigi_arguments.append("--verbose")  # an option of the task's own
        tasks = in_order(named_task(luigi_arguments))
        if "force_upstream" in asked.of_run:
            check_that_none_is_done(tasks)
        return run(luigi_arguments, tasks, is_verbose)


class UserCodeError(PipelineError):
    """The code of a user's tasks has raised an exception."""


class Asked(NamedTuple):
    """What the arguments of a command ask for: a class of tasks, and the options for it."""

    module: str
    task_class: Any
    options: list[str]
    of_run: dict[str, str]
    """The options that hold for each task of the run, as texts, by parameter."""

    def luigi_arguments(self) -> list[str]:
        """Luigi's arguments for it. Raises UsageError for an option that there is not."""
        check_options(self.task_class, self.options)
        options = arguments_of(self.task_class, self.of_run, self.options)
        return ["--module", self.module, self.task_class.get_task_family(), *options]


def read(arguments: list[str]) -> Asked:
    """What `FILE TASK OPTIONS` ask for; its options that hold for a run are made settings."""
    of_run, arguments = take(arguments)
    configure_luigi()
    module, name, options = to_luigi(arguments)
    return Asked(module, Register.get_task_cls(family(module, name)), options, of_run)


@contextlib.contextmanager
def mistakes_shown(what_to_do: str = "") -> Iterator[None]:
    """Of an exception in the user's code, show the traceback from there, and raise UserCodeError.

    What is not the user's is raised as it is.
    """
    try:
        yield
    except PipelineError:
        raise
    except Exception as error:
        frames = failures.user_frames(error)
        if not frames and not isinstance(error, SyntaxError):
            raise  # the user did not cause it
        print(failures.in_full(error), file=sys.stderr)
        where = [*getattr(error, "__notes__", ()), failures.one_line(error)]
        raise UserCodeError("\n".join(filter(None, [": ".join(where), what_to_do]))) from None


def run(
    arguments: list[str], tasks: list[luigi.Task], is_verbose: bool = False, *, hints: bool = True
) -> int:
    """Let Luigi run what its arguments name, the last of the tasks, and report on them.

    The hints are for whoever types the command: what the same command does next.
    """
    view: contextlib.AbstractContextManager[None] = contextlib.nullcontext()
    done_before: list[str] = []
    luigi.Task.event_handler(luigi.Event.DEPENDENCY_PRESENT)(
        lambda task: done_before.append(task.task_id)
    )
    is_watched = can_redraw() and not is_verbose
    if is_watched:
        from .view import shown  # without a terminal nobody waits for the import of rich

        view = shown(tasks, done_before)
    with failures.collected() as failed, view:
        try:
            run_with_retcodes(arguments)
        except SystemExit as stop:
            exit_code = int(stop.code or 0)
        finally:
            remove_pid_file()
    if exit_code == 0 and not tasks[-1].complete():
        exit_code = 1  # luigi.cfg may set 0 for a failure
    lines = [failure.why for failure in failed if not is_watched]
    is_unplanned = exit_code == retcode().scheduling_error
    if is_unplanned and not is_watched:
        lines += errors_in_complete(tasks)
    if hints and any(failure.is_resumed for failure in failed):
        force = "--force" if isinstance(tasks[-1], MetaflowTask) else "--force-upstream"
        lines.insert(0, f"the same command resumes what failed; {force} starts afresh")
    elif hints and (failed or is_unplanned):
        lines.insert(0, TO_DO)
    if exit_code and (reason := failures.of_disk()):
        lines.append(reason)
    if exit_code == 0:
        with reader_may_leave():
            report(tasks)
        if hints and tasks[-1].task_id in done_before:
            lines.insert(0, f"nothing to do; {how_to_run_again(tasks)}")
    elif exit_code == retcode().already_running:
        lines.insert(0, "this command is already running; wait for it, or stop it")
    for line in lines:
        print(as_called(f"run: {line}"), file=sys.stderr)
    return exit_code


def errors_in_complete(tasks: list[luigi.Task]) -> Iterator[str]:
    """Why Luigi did not plan a task: its complete() raises an exception."""
    for task in tasks:
        try:
            with warnings.catch_warnings(action="ignore"):  # Luigi has warned
                task.complete()
        except Exception as error:
            yield f"{task}.complete(): {failures.one_line(error)}"


def how_to_run_again(tasks: list[luigi.Task]) -> str:
    """How to run tasks again that have all succeeded before."""
    if isinstance(tasks[-1], MetaflowTask):
        return "--force runs it again, --force-upstream also what it requires"
    names = [
        name
        for name, task in vars(sys.modules[type(tasks[-1]).__module__]).items()
        if isinstance(task, Register)
        and (isinstance(getattr(task, "flow_path", None), str) or is_curate_task(task))
    ]
    which = f", with TASK {' or '.join(names)}" if names else ""
    one = f"nox -s run -- FILE TASK --force runs one again{which}"
    return f"--force-upstream runs all flows again; {one}"


def is_curate_task(task: Register) -> bool:
    """True for a subclass of CurateTask, which a repo may not have."""
    return hasattr(task, "model") and hasattr(task, "on_conflict")


def configure_luigi() -> None:
    """Find luigi.cfg from any folder, and set what it does not set."""
    file = paths.ROOT / "luigi.cfg"
    if "LUIGI_CONFIG_PATH" not in os.environ and file.is_file():
        luigi.configuration.add_config_path(str(file))
    # Luigi's own folder is in /tmp, and belongs to the first user of the machine.
    locks = local_root() / paths.LOCKS / settings().env
    locks.mkdir(parents=True, exist_ok=True)
    defaults = {
        "core": {
            "autoload_range": "false",
            "local_scheduler": "true",
            "lock_pid_dir": str(locks),
            "log_level": "INFO",
        },
        # Luigi's own are all 0.
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


def check_config() -> None:
    """Raise UsageError for the first wrong value in luigi.cfg, or name that none of our tasks has.

    Luigi passes over names that it does not know. Its own sections may have such that are no
    parameters.
    """
    config = luigi.configuration.get_config()
    for section in {*config.sections()} & {*Register.task_names()}:
        owner = Register.get_task_cls(section)
        parameters = dict(owner.get_params())
        for name in config.options(section):
            parameter = parameters.get(name.replace("-", "_"))
            where = f"{os.environ.get('LUIGI_CONFIG_PATH', 'luigi.cfg')}: [{section}] {name}"
            if parameter:
                try:
                    parameter.parse(config.get(section, name))
                except (*WRONG_VALUE, configparser.Error) as error:
                    raise UsageError(f"{where}: {error}") from error
            elif name not in config.defaults() and not owner.__module__.startswith("luigi."):
                raise UsageError(
                    f"{where}: {owner.__name__} has no such parameter"
                    f"{did_you_mean(name, parameters)}"
                )


def remove_pid_file() -> None:
    """Remove the file by which Luigi refuses a second run of this command; it never does so."""
    pid, _, file = lock.get_info(luigi.interface.core().lock_pid_dir)
    with contextlib.suppress(OSError):
        if Path(file).read_text().split() == [str(pid)]:
            Path(file).unlink()


def without_traceback(record: logging.LogRecord) -> bool:
    """Log a PipelineError, or a scheduler that does not answer, as a message without traceback."""
    record.msg, record.args = printable(record.getMessage()), ()
    if record.levelno < logging.WARNING:
        return True
    message = record.msg
    error = record.exc_info[1] if record.exc_info else None
    if message.startswith("Failed connecting to remote scheduler"):
        message += "; start it: luigid, or set local_scheduler = true in luigi.cfg"
        record.exc_info = None
    elif isinstance(error, (PipelineError, RPCError, failures.WorkerStoppedError)):
        message += f"\n{error}"
        record.exc_info = None
    elif _TRACEBACK.search(message):
        message = _TRACEBACK.sub("\n", message).rstrip()
    record.msg, record.args = printable(message), ()
    return True


def to_luigi(arguments: list[str]) -> tuple[str, str, list[str]]:
    """The module, the task and the options that the arguments mean."""
    words: list[str] = []
    if "--module" in (argument.partition("=")[0] for argument in arguments):
        raise UsageError("--module is for the bare `luigi` command\nhint: nox -s run -- FILE TASK")
    while arguments and not arguments[0].startswith("-") and len(words) < 2:
        words.append(arguments[0])
        arguments = arguments[1:]
    file = find(words[0]) if words else only_pipeline()
    if file.is_relative_to(paths.FLOWS):
        if words[1:]:
            raise UsageError(f"{words[1]!r}: only options can follow the file of a flow")
        flow_path = file.relative_to(paths.FLOWS).as_posix()
        return MetaflowTask.__module__, "MetaflowTask", ["--flow-path", flow_path, *arguments]
    module = ".".join(file.relative_to(paths.PACKAGE.parent).with_suffix("").parts)
    return module, words[1] if words[1:] else "RootTask", arguments


def family(module: str, name: str) -> str:
    """The name in Luigi of the module's task. Raises UsageError if the module has no such task."""
    members = vars(import_module(module)).items()
    tasks: dict[str, Any] = {key: task for key, task in members if isinstance(task, Register)}
    if name not in tasks:
        own = sorted(key for key, task in tasks.items() if task.__module__ == module)
        raise UsageError(
            f"{module} has no task {name}{did_you_mean(name, own)}\n"
            f"hint: it has {', '.join(own) or 'none'}"
        )
    return str(tasks[name].get_task_family())


def find(name: str) -> Path:
    """The file that a name means: below flows/, below tasks/, or from the current folder."""
    for folder in (paths.FLOWS, paths.TASKS, paths.PACKAGE, Path.cwd()):
        # As written first: a link below flows/ may lead out of it.
        for file in (Path(os.path.normpath(folder / name)), (folder / name).resolve()):
            if file.is_file() and any(map(file.is_relative_to, (paths.FLOWS, paths.TASKS))):
                return file
    known = [*task_files(), *flow_paths()]
    raise UsageError(
        f"there is no {name!r} below flows/ or tasks/{did_you_mean(name, known)}\n{listing()}"
    )


def only_pipeline() -> Path:
    """The repo's one module of tasks. Raises UsageError if there are more or none."""
    names = task_files()
    if len(names) != 1:
        raise UsageError(f"say what to run: nox -s run -- FILE\n{listing()}")
    return paths.TASKS / names[0]


def listing() -> str:
    """What there is to run."""
    return (
        f"Modules of tasks: {', '.join(task_files()) or 'none yet'}\n"
        f"Flows: {', '.join(flow_paths()) or 'none yet'}"
    )


def task_files() -> list[str]:
    """The modules of tasks, below tasks/."""
    files = sorted(file for file in paths.TASKS.rglob("*.py") if not file.name.startswith("_"))
    return [file.relative_to(paths.TASKS).as_posix() for file in files]


def named_task(arguments: list[str]) -> luigi.Task:
    """The task that Luigi's arguments name. Raises UsageError if an option is wrong."""
    stderr = io.StringIO()
    try:
        with contextlib.redirect_stderr(stderr):
            CmdlineParser(arguments)
    except SystemExit as stop:
        if not stop.code:  # --help
            raise
        cause = stderr.getvalue().strip().rpartition("error: ")[2]
        raise UsageError(f"{cause}\n{options_of(Register.get_task_cls(arguments[2]))}") from None
    with CmdlineParser.global_instance(arguments) as parser:
        check_values(parser)
        try:
            luigi.interface.core()  # reads Luigi's own options
            task: luigi.Task = parser.get_task_obj()
        except MissingParameterException as error:
            raise UsageError(f"{error}, by an option or in the task's class") from error
        except WRONG_VALUE as error:
            raise UsageError(f"an option has a wrong value: {error}") from error
    return task


def check_values(parser: CmdlineParser) -> None:
    """Raise UsageError with the first option of the task or Luigi that cannot be read, and why."""
    task = Register.get_task_cls(parser.known_args.root_task)
    for prefix, owner in (("", task), ("core_", luigi.interface.core)):
        for name, parameter in owner.get_params():
            if value := getattr(parser.known_args, prefix + name, None):
                check_value(name, parameter, value)


def report(tasks: list[luigi.Task]) -> None:
    """Print what each of the last tasks made: a flow's run and result, another task's files."""
    if len(tasks) > REPORTED:
        print(f"\n{len(tasks) - REPORTED:,} more tasks are done, and these:")
    for task in tasks[-REPORTED:]:
        if isinstance(task, MetaflowTask) and task.output().exists():
            marker = task.output().marker
            what = printable(f"{marker.path} {marker.task.partition(' ')[2]}").strip()
            print(f"\n{what}: {marker.pathspec}, {marker.seconds:.1f} s, {marker.finished}")
            show_result(marker.result)
        elif not isinstance(task, (MetaflowTask, luigi.WrapperTask)):
            targets = flatten(task.output())
            print(f"\n{task.task_family}:", *(getattr(each, "path", each) for each in targets))
            for target in targets:
                show_result(getattr(target, "result", None))


def show_result(result: Any) -> None:
    """Print what a flow or a load has left for Luigi, if anything."""
    if result is not None:
        text = yaml.safe_dump(result, sort_keys=False, allow_unicode=True)
        print("  " + text.rstrip().replace("\n", "\n  "))


def in_order(task: luigi.Task, *, also_done: bool = False) -> list[luigi.Task]:
    """All that the task requires, and then the task, each once. UsageError if it is a circle.

    As by Luigi, a task that is complete is not asked what it requires, except with `also_done`.
    """
    try:
        return list(TopologicalSorter(requirements(task, also_done)).static_order())
    except CycleError as error:
        circle = ", ".join(str(each) for each in error.args[1])
        raise UsageError(f"these tasks require each other: {circle}") from None
    except MissingParameterException as error:
        if failures.user_frames(error):
            raise
        hint = "give it a value in requires(), or a default"
        if isinstance(task, RangeBase):
            hint = "--param-name NAME if the date is not the first parameter; "
            hint += """--of-params '{"NAME": "VALUE"}' for the others"""
        raise UsageError(f"{error}\nhint: {hint}") from error


def requirements(task: luigi.Task, also_done: bool) -> dict[luigi.Task, list[luigi.Task]]:
    """What each task of the pipeline requires itself."""
    requires: dict[luigi.Task, list[luigi.Task]] = {}
    waiting, asked = [task], list[luigi.Task]()
    for each in waiting:  # not recursive, because Python's stack is too short for a long chain
        if each not in requires:
            requires[each] = []
            if also_done or is_asked(each):
                asked.append(each)
                check_end(asked)
                try:
                    requires[each] = each.deps()
                except Exception as error:
                    error.add_note(f"{each}.requires()")
                    raise
            waiting += requires[each]
            for required in requires[each]:
                if not isinstance(required, luigi.Task):
                    raise UsageError(
                        f"{type(each).__name__}.requires() returns {required!r}, which is no task\n"
                        "hint: return a task, e.g. Clean() with its parentheses"
                    )
    return requires
