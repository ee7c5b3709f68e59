"""The arguments of `nox -s run --` that run a task again."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from typing import Any

import luigi
from luigi.parameter import ParameterVisibility

from .. import paths
from ..settings import settings

_HOW = {"force", "force_upstream", "from_run", "timeout", "rebuild_flow", "rebuild_base"}
"""Parameters that say how a task runs, not which task it is."""


def run_arguments(task: luigi.Task) -> list[str]:
    """The arguments that name the task, and its parameters that differ from their defaults.

    Empty if no command line can name the task: its class is in no module below `tasks/`, or a
    parameter is private or cannot be written as text. The arguments are stored and shown, so values
    of a container's variables, which may be secrets, make them empty too.
    """
    if type(task).__module__ == f"{__package__}.metaflow_task":
        words, passed_over = [str(task.param_kwargs["flow_path"])], _HOW | {"flow_path"}
    else:
        words, passed_over = _class_words(type(task)), _HOW
    if not words:
        return []
    for name, parameter in task.get_params():
        value = task.param_kwargs[name]
        if name in passed_over or _is_default(name, parameter, value):
            continue
        variables = value.get("env", {}).values() if name == "container_kwargs" else ()
        is_secret = parameter.visibility == ParameterVisibility.PRIVATE
        if is_secret or any(variable is not None for variable in variables):
            return []
        text = parameter.serialize(value)
        flag = f"--{name.replace('_', '-')}"
        if isinstance(parameter, luigi.BoolParameter) and parameter.parsing == "implicit":
            if value is not True:  # no option makes it False if the default is True
                return []
            words.append(flag)
        elif text.startswith("-"):
            words.append(f"{flag}={text}")
        else:
            words += [flag, text]
    return words


def task_and_values(task: luigi.Task, inherited: Iterable[str]) -> str:
    """The task's name, and its parameters that are its own: `Clean day=2026-11-20`.

    At most 60 letters of each value. Private and hidden ones are left out, because the text is
    stored and shown, and so are those that do not distinguish tasks.
    """
    values = task.to_str_params(only_significant=True, only_public=True)
    own = [f"{name}={value:.60}" for name, value in values.items() if name not in inherited]
    return " ".join([type(task).__name__, *own])


def _class_words(task_class: type[luigi.Task]) -> list[str]:
    """The file of the class, and its name unless it is RootTask; empty if they do not find it."""
    module, name = task_class.__module__, task_class.__name__
    file = paths.PACKAGE.parent.joinpath(*module.split(".")).with_suffix(".py")
    is_global = vars(sys.modules[module]).get(name) is task_class
    if not (is_global and file.is_file() and file.is_relative_to(paths.TASKS)):
        return []
    below = file.relative_to(paths.TASKS)
    # If there is a flow of that name, the name alone means the flow.
    words = [str(file) if (paths.FLOWS / below).is_file() else below.as_posix()]
    return words if name == "RootTask" else [*words, name]


def _is_default(name: str, parameter: luigi.Parameter[Any], value: Any) -> bool:
    """True if the parameter has this value without being named, wherever the command is used."""
    if name == "flow_tag":
        return bool(value == settings().flow_tag == settings().env)
    if name == "runner":
        return bool(value == settings().runner)
    # The declared default: luigi.cfg may say another thing where the command is used.
    default = parameter._default
    if default is value:
        return True
    try:
        return bool(parameter.serialize(parameter.normalize(default)) == parameter.serialize(value))
    except Exception:  # without a default, Luigi has an object there that is no value
        return False
