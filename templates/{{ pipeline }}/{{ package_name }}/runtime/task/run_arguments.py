"""What to write behind `nox -s run --` to run a task again."""

from __future__ import annotations

import sys
from typing import Any

import luigi
from luigi.parameter import ParameterVisibility

from .. import paths
from ..settings import settings

_HOW = {"force", "force_upstream", "from_run", "timeout", "rebuild_flow", "rebuild_base"}
"""Parameters that say how a task is run, and are no part of what it is."""


def run_arguments(task: luigi.Task) -> list[str]:
    """The arguments that name the task, and its parameters where they are not the defaults.

    Empty where no command line can name it: its class is in no module below `tasks/`, or a
    parameter is private or has a value without a text. So it is with the values of a container's
    variables, which may be secrets: what this gives is written down, and shown.
    """
    module, name = type(task).__module__, type(task).__name__
    if module == f"{__package__}.metaflow_task":
        words, said = [str(task.param_kwargs["flow_path"])], {"flow_path"}
    else:
        file = paths.PACKAGE.parent.joinpath(*module.split(".")).with_suffix(".py")
        known = vars(sys.modules[module]).get(name) is type(task)
        if not (known and file.is_file() and file.is_relative_to(paths.TASKS)):
            return []
        below = file.relative_to(paths.TASKS)
        # A flow of that name is what the name alone would mean.
        words = [str(file) if (paths.FLOWS / below).is_file() else below.as_posix()]
        words, said = [*words, *([name] if name != "RootTask" else [])], set()
    for option, parameter in task.get_params():
        value = task.param_kwargs[option]
        if option in said | _HOW or _is_default(option, parameter, value):
            continue
        if option == "container_kwargs" and any(
            each is not None for each in value.get("env", {}).values()
        ):
            return []
        text = parameter.serialize(value)
        flag = f"--{option.replace('_', '-')}"
        if parameter.visibility == ParameterVisibility.PRIVATE:
            return []
        if isinstance(parameter, luigi.BoolParameter) and parameter.parsing == "implicit":
            if value is not True:  # nothing says so where the default is True
                return []
            words.append(flag)
        elif text.startswith("-"):
            words.append(f"{flag}={text}")
        else:
            words += [flag, text]
    return words


def _is_default(name: str, parameter: luigi.Parameter[Any], value: Any) -> bool:
    """Has the parameter this value also where nobody names it, and nothing else is set?"""
    if name == "flow_tag":
        return bool(value == settings().flow_tag == settings().env)
    if name == "runner":
        return bool(value == settings().runner)
    # As declared: what luigi.cfg says may be another thing where the command is used.
    default = parameter._default
    if default is value:
        return True
    try:
        return bool(parameter.serialize(parameter.normalize(default)) == parameter.serialize(value))
    except Exception:  # a parameter without a default has something there that is no value
        return False
