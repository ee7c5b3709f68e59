"""`python -m PACKAGE.runtime.show_parameters RESULT COMMAND`: the parameters of a flow.

COMMAND is `FLOW.py … run …`. It is run up to where Metaflow would read what is behind `run`: by
then all that adds parameters to the flow has done so, and there is no run yet. The options that
`run` has, the flow's parameters among them, are written to the file RESULT, as JSON.
"""

from __future__ import annotations

import json
import reprlib
import runpy
import sys
from pathlib import Path
from typing import Any

from metaflow._vendor import click

TYPES = {"FilePath": "file", "boolean": "bool", "integer": "int", "text": "str"}


def main(result: str, file: str, *arguments: str) -> None:
    """Run the flow's file, which ends this process."""
    parse = click.Command.parse_args

    def show(command: Any, context: Any, behind: list[str]) -> Any:
        if command.name != "run":
            return parse(command, context, behind)
        shown = [describe(each, context) for each in command.params]
        Path(result).write_text(json.dumps(shown), encoding="utf-8")
        context.exit()

    click.Command.parse_args = show
    sys.argv = [file, *arguments]
    sys.path[0] = str(Path(file).parent)
    runpy.run_path(file, run_name="__main__")


def describe(option: Any, context: Any) -> dict[str, Any]:
    """What is known of the option when it is not given."""
    default: str | None
    variable = option.resolve_envvar_value(context)
    if variable is not None:
        default = f"{reprlib.repr(variable)} by METAFLOW_RUN_{option.name.upper()}"
    elif callable(option.default):
        default = "worked out by the flow"
    else:
        default = None if option.default is None else reprlib.repr(option.default)
    return {
        "name": option.opts[0][2:],
        "type": TYPES.get(option.type.name, option.type.name),
        "required": option.required and default is None,
        "default": default,
    }


if __name__ == "__main__":
    main(*sys.argv[1:])
