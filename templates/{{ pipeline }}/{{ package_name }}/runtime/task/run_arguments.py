"""The arguments of `nox -s run --` that run a task again."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Mapping
from typing import Any

import luigi
from luigi.freezing import recursively_freeze
from luigi.parameter import ParameterVisibility

from .. import paths
from ..settings import Settings, settings

SETTINGS = ("flow_tag", "runner", "timeout", "container_kwargs")
"""Parameters of a MetaflowTask that have the setting of this name unless they are given."""

_HOW = {"force", "force_upstream", "from_run", "timeout", "rebuild_flow", "rebuild_base"}
"""Parameters that say how a task runs, not which task it is."""


def run_arguments(task: luigi.Task, *, is_stored: bool = True) -> list[str]:
    """The arguments that name the task, and its parameters that differ from their defaults.

    The settings that differ from theirs are among them, for what the task requires. A value of the
    task's own is for none of that: if it is another, it has Luigi's option for one class.

    Empty if no command line can name the task: its class is in no module below `tasks/`, or a
    parameter is private or cannot be written as text. The arguments are stored and shown, so values
    of a container's variables, which may be secrets, make them empty too. Arguments that stay in
    this process, where the settings hold, are without those, and with what is private.
    """
    is_flow = type(task).__module__ == f"{__package__}.metaflow_task"
    words = [str(task.param_kwargs["flow_path"])] if is_flow else _class_words(type(task))
    if not words:
        return []
    of_run, weakest = _settings(settings()), _settings(Settings(flow_tag=settings().env))
    given: dict[str, tuple[luigi.Parameter[Any], Any]] = {
        name: (luigi.Parameter() if isinstance(value, str) else luigi.DictParameter(), value)
        for name, value in of_run.items()
        if is_stored and value != weakest[name]
    }
    for name, parameter in task.get_params():
        value = task.param_kwargs[name]
        if name in _HOW or (is_flow and name == "flow_path"):
            continue
        is_default = name not in given and _is_default(parameter, value)
        if not (is_default or (name in of_run and value == of_run[name])):
            own = name in of_run and not is_flow
            given[f"{task.get_task_family()}_{name}" if own else name] = (parameter, value)
    for name, (parameter, value) in given.items():
        env = value.get("env") if name.endswith("container_kwargs") else None
        has_values = isinstance(env, Mapping) and any(each is not None for each in env.values())
        is_private = has_values or parameter.visibility == ParameterVisibility.PRIVATE
        if is_private and is_stored:
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


def own_values(task: luigi.Task, inherited: Iterable[str]) -> dict[str, str]:
    """The text of each of the task's own parameters, those that are not `inherited`.

    Private and hidden ones are left out, because the texts are stored and shown, and so are those
    that do not distinguish tasks.
    """
    values = task.to_str_params(only_significant=True, only_public=True)
    return {name: value for name, value in values.items() if name not in inherited}


def named_values(name: str, values: Mapping[str, Any]) -> str:
    """The name, and then the values: `Clean day=2026-11-20`; at most 60 letters of each value."""
    return " ".join(
        [name, *(f"{key}={' '.join(str(value).split()):.60}" for key, value in values.items())]
    )


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


def _settings(values: Settings) -> dict[str, Any]:
    """Those that a task may have been given, as a task holds them."""
    names = [name for name in SETTINGS if name not in _HOW]
    return {name: recursively_freeze(getattr(values, name)) for name in names}


def _is_default(parameter: luigi.Parameter[Any], value: Any) -> bool:
    """True if the parameter has this value without being named, wherever the command is used."""
    # The declared default: luigi.cfg may say another thing where the command is used.
    default = parameter._default
    if default is value:
        return True
    try:
        return bool(parameter.serialize(parameter.normalize(default)) == parameter.serialize(value))
    except Exception:  # without a default, Luigi has an object there that is no value
        return False
