"""Values on a command line."""

from __future__ import annotations

import errno
import json
import os
from collections.abc import Mapping, Sequence
from typing import Any

from ..errors import ParameterError


def flags(values: Mapping[str, Any], source: str) -> list[str]:
    """Values as Metaflow's own options want them: `--name=text` each, so that text stays text.

    True is a bare `--name`, False is left out and a list repeats the option.

    Raises ParameterError for None, and for text that no command line can have.
    """
    found = []
    for name, value in values.items():
        if value is None:
            raise ParameterError(
                f"{source}: {name} is None, which no command line can say; leave {name} out to "
                "have its default"
            )
        if isinstance(value, bool):
            found += [f"--{name}"] if value else []
        else:
            found += [_option(name, str(each), source) for each in as_list(value)]
    return found


def options(values: Mapping[str, Any], source: str) -> list[str]:
    """JSON values as a flow's parameters want them: `--name=text` each, so that text stays text.

    All but text is JSON; None is left out.

    Raises ParameterError for text that no command line can have.
    """
    return [
        _option(name, value if isinstance(value, str) else json.dumps(value), source)
        for name, value in values.items()
        if value is not None
    ]


def _option(name: str, text: str, source: str) -> str:
    if "\0" in text:
        raise ParameterError(f"{source}: {name} has a NUL character, which no command can get")
    try:
        os.fsencode(text)
    except UnicodeEncodeError as error:
        raise ParameterError(
            f"{source}: {name} has {text[error.start]!a}, and the locale here, whose encoding is "
            f"{error.encoding}, has no such character; set PYTHONUTF8=1"
        ) from None
    return f"--{name}={text}"


def check_length(command: Sequence[str], error: OSError, label: str) -> None:
    """Raise ParameterError where the error says that the command is longer than the system takes.

    Linux takes 128 KiB in one option, macOS 1 MiB in all.
    """
    if error.errno == errno.E2BIG:
        name, _, text = max(command, key=len).partition("=")
        size = len(os.fsencode(text))
        raise ParameterError(
            f"{label}: {name[2:]} is {size:,} bytes long, and a command so long is more than the "
            "system takes; write the value to a file and hand over the file's path"
        ) from error


def as_list(value: Any) -> Sequence[Any]:
    """The list itself, or a list of the one value."""
    return value if isinstance(value, (list, tuple)) else [value]
