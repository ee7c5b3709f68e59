"""The options of `nox -s run`: those of a whole run, and those of its task."""

from __future__ import annotations

import argparse
import datetime
import json
from collections.abc import Mapping
from typing import Any

import luigi
from luigi.freezing import recursively_unfreeze
from luigi.parameter import ParameterException
from luigi.task import flatten
from luigi.task_register import Register, TaskClassNotFoundException

from ..container.kwargs import container_kwargs
from ..errors import PipelineError, did_you_mean
from ..flow.flow_file import flow_file, flow_parameters
from ..settings import override
from ..task.forcing import force_run
from ..task.metaflow_task import DATES, MetaflowTask, check_flow_tag
from ..task.run_arguments import SETTINGS
from ..task.timeout import Timeout

OF_A_RUN = (*SETTINGS, "force_upstream")
"""Parameters whose options hold for each task of the run that has no value of its own."""

JSON = """'{"name": 1}'"""

EXAMPLES = {
    luigi.BoolParameter: "true|false",
    luigi.DateIntervalParameter: "2026-01-01-2026-01-31",
    luigi.DictParameter: "JSON",
    Timeout: "2h",
    luigi.FloatParameter: "0.5",
    luigi.IntParameter: "3",
    luigi.ListParameter: """'["a", "b"]'""",
    luigi.TimeDeltaParameter: "2h",
}

# What Luigi's parameters raise for text that they cannot read.
WRONG_VALUE = (ParameterException, ValueError, SyntaxError, TaskClassNotFoundException)


class UsageError(PipelineError):
    """The command line names nothing that can be run."""


def take(arguments: list[str]) -> tuple[dict[str, str], list[str]]:
    """Make settings of the options that hold for the run, and force it if it is to be.

    Returns the text of these options, by parameter, and the other arguments. Raises UsageError or
    SettingsError for a wrong value.
    """
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False, exit_on_error=False)
    for name in SETTINGS:
        parser.add_argument(option(name))
    parser.add_argument("--force-upstream", action="store_const", const="")
    try:
        known, others = parser.parse_known_args(arguments)
    except argparse.ArgumentError as error:
        raise UsageError(str(error)) from error
    given = {name: text for name, text in vars(known).items() if text is not None}
    force_run("force_upstream" in given)
    parameters = dict(MetaflowTask.get_params())
    for name in [each for each in SETTINGS if each in given]:
        value, text = check_value(name, parameters[name], given[name]), given[name]
        if isinstance(parameters[name], luigi.DictParameter):  # JSON that YAML reads alike
            value = recursively_unfreeze(value)
            text = json.dumps(value, ensure_ascii=False)
        override(name, text, f"{option(name)} {given[name]}")
        if name == "container_kwargs":
            container_kwargs(value)
        elif name == "flow_tag" and text:
            check_flow_tag(text)
    return given, others


def arguments_of(
    task: type[luigi.Task], of_run: Mapping[str, str], arguments: list[str]
) -> list[str]:
    """The arguments for Luigi: those of the run are also for a task that declares such itself.

    Luigi's option for the class of the task, `--FAMILY-flow-tag`, is stronger.
    """
    words = {word.partition("=")[0] for word in arguments}
    from_settings, own = dict(MetaflowTask.get_params()), []
    for name, parameter in task.get_params():
        is_given = name in of_run and option(f"{task.get_task_family()}_{name}") not in words
        if is_given and name == "force_upstream":
            own.append(option(name))
        elif is_given and parameter is not from_settings[name]:
            own.append(f"{option(name)}={of_run[name]}")
    return [*arguments, *own]


def check_options(task: type[luigi.Task], arguments: list[str]) -> None:
    """Raise UsageError for the first option that neither the task nor Luigi has.

    Luigi would take the beginning of an option's name for it, and then it would not be the run's.
    """
    every = list(Register.get_all_params())
    known = [option(name) for name, _ in task.get_params()]
    known += [option(name) for _, is_short, name, _ in every if is_short]
    of_classes = {option(f"{family}_{name}") for family, _, name, _ in every}
    for word in (argument.partition("=")[0] for argument in arguments):
        if word.startswith("--") and word not in known and word not in of_classes:
            known += map(option, OF_A_RUN)
            longer = [each for each in known if each.startswith(word)]
            close = did_you_mean(word, longer or known)
            raise UsageError(f"there is no option {word}{close}\n{options_of(task)}")


def check_that_none_is_done(tasks: list[luigi.Task]) -> None:
    """Raise UsageError if a task that is done would keep Luigi from a flow that is forced."""
    for task in tasks:
        is_done = not isinstance(task, MetaflowTask) and task.complete()
        if is_done and not all(each.complete() for each in flatten(task.requires())):
            outputs = [str(getattr(each, "path", each)) for each in flatten(task.output())]
            raise UsageError(
                f"{task} is done and runs no flow, so what it requires would not run again\n"
                f"hint: delete its output first: {' '.join(outputs)}"
            )


def check_value(name: str, parameter: luigi.Parameter[Any], text: str) -> Any:
    """What the text of an option means. Raises UsageError if it cannot be read."""
    try:
        return parameter.parse(text)
    except TaskClassNotFoundException as error:
        names = [name for name in Register.task_names() if name.endswith(f".{text}")]
        close = f"; did you mean {names[0]}?" if names else ""
        raise UsageError(f"{option(name)} {text!r}: there is no such task{close}") from error
    except WRONG_VALUE as error:
        is_json = isinstance(parameter, luigi.DictParameter)
        rule = f" must be JSON, e.g. {JSON}" if is_json else ""
        raise UsageError(f"{option(name)} {text!r}{rule}: {error}") from error


def option(name: str) -> str:
    """The option of a task's parameter."""
    return f"--{name.replace('_', '-')}"


def options_of(task: type[luigi.Task]) -> str:
    """Which options a task has, and where to read more."""
    own = ", ".join(map(option, own_names(task))) or "no options of its own"
    of_run = ", ".join(map(option, OF_A_RUN))
    lines = [f"{task.__name__} has: {own}; every run: {of_run}; Luigi's: --help-all"]
    if task is MetaflowTask:
        lines.append(f"hint: set the flow's own parameters with --flow-kwargs {JSON}")
    elif not issubclass(task, MetaflowTask):
        lines.append("hint: only a flow's task has --force and the like: nox -s run -- FILE TASK")
    return "\n".join(lines)


def own_names(task: type[luigi.Task]) -> list[str]:
    """The parameters of a task that are not a run's; a MetaflowTask's flow is no option of run."""
    passed_over = {*OF_A_RUN} | ({"flow_path"} if task is MetaflowTask else set())
    return [name for name, _ in task.get_params() if name not in passed_over]


def help_of(task: type[luigi.Task], options: list[str]) -> str:
    """What `--help` prints of a task that is named with these options, and of its flow."""
    epilog = "Luigi's own are e.g. --workers 4; --help-all shows them all."
    flow_path = options[1] if task is MetaflowTask else getattr(task, "flow_path", None)
    if isinstance(flow_path, str):
        in_file = [*flow_parameters(flow_file(flow_path))]
        own = [name.replace("_", "-") for name, _ in task.get_params()]
        others = [name for name in in_file if name.replace("_", "-") not in own]
        if others or not in_file:
            listed = ", ".join(others) or "none"
            epilog = f"Parameters of {flow_path}, for --flow-kwargs: {listed}\n\n{epilog}"
    what = "the flow" if task is MetaflowTask else task.__name__
    parser = argparse.ArgumentParser(
        usage="nox -s run -- [FILE [TASK]] [OPTIONS]",
        description=(task.__doc__ or "").partition("\n")[0],
        epilog=epilog,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        add_help=False,
    )
    for title, owner, names in (
        (f"options of {what}, with examples of values", task, own_names(task)),
        ("options of the run, for every flow whose task sets no value", MetaflowTask, OF_A_RUN),
    ):
        group, parameters = parser.add_argument_group(title), dict(owner.get_params())
        for name in names:
            add_to(group, name, parameters[name], owner.get_task_family())
    return parser.format_help()


def example(parameter: luigi.Parameter[Any]) -> str:
    """A value of the parameter as its option takes it; VALUE if any text is one."""
    if isinstance(parameter, DATES):
        return str(parameter.serialize(datetime.datetime(2026, 1, 31, 8, 30)))
    if isinstance(parameter, luigi.EnumParameter):
        return "|".join(each.name for each in getattr(parameter, "_enum", ())) or "VALUE"
    return next((text for kind, text in EXAMPLES.items() if isinstance(parameter, kind)), "VALUE")


def add_to(group: Any, name: str, parameter: luigi.Parameter[Any], family: str) -> None:
    """Add a parameter's option to what `--help` prints."""
    is_switch = isinstance(parameter, luigi.BoolParameter) and parameter.parsing == "implicit"
    form = {"action": "store_true"} if is_switch else {"metavar": example(parameter)}
    text = [parameter.description] if parameter.description else []
    if not parameter.has_task_value(family, name):
        text.append("required")
    elif (value := parameter.task_value(family, name)) or type(value) in (int, float):
        text.append(f"default: {parameter.serialize(value)}")
    group.add_argument(option(name), **form, help="; ".join(text).replace("%", "%%"))
