"""Values as options of a command line."""

from __future__ import annotations

import errno
import json
import os
from collections.abc import Mapping, Sequence
from typing import Any

from ..errors import ParameterError


def flags(values: Mapping[str, Any], source: str) -> list[str]:
    """Format the values for Metaflow's own options: each is one `--name=text`.

    True is a bare `--name`, False is left out, and a list repeats the option.

    Raises ParameterError for None, and for text that a command line cannot carry.
    """
    words = []
    for name, value in values.items():
        if value is None:
            raise ParameterError(
                f"{source}: {name} is None, which a command line cannot express\n"
                f"hint: leave {name} out to get its default"
            )
        if isinstance(value, bool):
            words += [f"--{name}"] if value else []
        else:
            words += [_option(name, str(item), source) for item in as_list(value)]
    return words


def options(values: Mapping[str, Any], source: str) -> list[str]:
    """Format JSON values for a flow's parameters: each is one `--name=text`.

    Text stays as it is, the rest is JSON, and None is left out.

    Raises ParameterError for text that a command line cannot carry.
    """
    return [
        _option(name, value if isinstance(value, str) else json.dumps(value), source)
        for name, value in values.items()
        if value is not None
    ]


def _option(name: str, text: str, source: str) -> str:
    if "\0" in text:
        raise ParameterError(f"{source}: {name} has a NUL, which a command line cannot carry")
    try:
        os.fsencode(text)
    except UnicodeEncodeError as error:
        raise ParameterError(
            f"{source}: {name} has {text[error.start]!a}, which the locale's encoding, "
            f"{error.encoding}, does not have\nhint: export PYTHONUTF8=1"
        ) from None
    return f"--{name}={text}"


def check_length(command: Sequence[str], error: OSError, label: str) -> None:
    """Raise ParameterError if the error says that the command is too long for the system.

    Linux takes 128 KiB in one option, macOS 1 MiB in all.
    """
    if error.errno == errno.E2BIG:
        name, _, text = max(command, key=len).partition("=")
        raise ParameterError(
            f"{label}: {name[2:]} is {len(os.fsencode(text)):,} bytes long, too long for a "
            "command line\nhint: write the value to a file, and pass the file's path"
        ) from error


def as_list(value: Any) -> Sequence[Any]:
    """The list itself, or a list of the one value."""
    return value if isinstance(value, (list, tuple)) else [value]
