"""`python -m PACKAGE.runtime.flow.show_parameters ANSWER COMMAND`: list a flow's parameters.

COMMAND is `FLOW.py … run`. It is run up to the point where Metaflow reads the options behind `run`:
then everything that adds parameters to the flow has done so, and there is no run yet. The options
of `run`, which include the flow's parameters, and the attributes in which the flow has its
parameters and configs are written to the file ANSWER, as JSON.

Metaflow has no public way to do this. `run --help` comes close, but hides some defaults, and those
that METAFLOW_RUN_… variables set. So this uses the copy of click that Metaflow ships.
"""

from __future__ import annotations

import json
import reprlib
import runpy
import sys
from importlib import metadata
from pathlib import Path
from typing import Any

TYPES = {"FilePath": "file", "boolean": "bool", "integer": "int", "text": "str"}


def main(answer: str, file: str, *arguments: str) -> None:
    """Run the flow's file, which ends this process."""
    try:
        from metaflow._vendor import click
    except ImportError:
        sys.exit(not_listed())
    parse = click.Command.parse_args

    def show(command: Any, context: Any, words: list[str]) -> Any:
        if command.name != "run":
            return parse(command, context, words)
        inputs = dict(context.obj.flow._get_parameters())
        separators = {each.name: each.separator for each in inputs.values()}
        described = [
            describe(option, context) | {"separator": separators.get(option.opts[0][2:])}
            for option in command.params
        ]
        answered = json.dumps({"parameters": described, "attributes": [*inputs]})
        Path(answer).write_text(answered, encoding="utf-8")
        context.exit()

    click.Command.parse_args = show
    # With --help no Metaflow, whatever it makes of `show`, starts a run.
    sys.argv = [file, *arguments, "--help"]
    sys.path[0] = str(Path(file).parent)
    try:
        runpy.run_path(file, run_name="__main__")
    except AttributeError as error:
        sys.exit(f"{error}\n{not_listed()}")
    except SystemExit as stop:
        if not stop.code and not Path(answer).exists():
            sys.exit(not_listed())
        raise


def describe(option: Any, context: Any) -> dict[str, Any]:
    """The option's type, and what its value is if it is not given."""
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
        "multiple": option.multiple,
    }


def not_listed() -> str:
    """The message for a Metaflow whose `run` is not a command of its own click."""
    return (
        f"Metaflow {metadata.version('metaflow')} has not listed the flow's parameters: it lacks a "
        "private part of 2.19\nhint: install metaflow 2.19, or pass no None to the flow"
    )


if __name__ == "__main__":
    main(*sys.argv[1:])
