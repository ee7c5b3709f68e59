"""Values as options of a command line."""

from __future__ import annotations

import errno
import json
import os
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from ..errors import ParameterError
from .declared_parameters import FlowParameter


def flags(values: Mapping[str, Any], source: str) -> list[str]:
    """Format the values for Metaflow's own options: each is one `--name=text`.

    True is a bare `--name`, False is left out, and a list repeats the option. A dict repeats it as
    `--name KEY VALUE`, which `--config` and `--config-value` take; a value that is no text becomes
    JSON.

    Raises ParameterError for None, and for text that a command line cannot carry.
    """
    words: list[str] = []
    for name, value in values.items():
        if value is None:
            raise ParameterError(
                f"{source}: {name} is None, which a command line cannot express\n"
                f"hint: leave {name} out to get its default"
            )
        if isinstance(value, bool):
            words += [f"--{name}"] if value else []
        elif isinstance(value, Mapping):
            for key, item in value.items():
                words += [f"--{name}", key, _checked(_as_text(item), f"{source}: {name}")]
        else:
            where = f"{source}: {name}"
            words += [f"--{name}={_checked(str(item), where)}" for item in as_list(value)]
    return words


def options(
    values: Mapping[str, Any], source: str, declared: Iterable[FlowParameter] = ()
) -> list[str]:
    """Format JSON values for a flow's parameters: each is one `--name=text`.

    Text stays as it is, the rest is JSON, and None is left out. A list for a `declared` parameter
    that is `multiple` repeats the option, and one for a parameter with a `separator` is joined.

    Raises ParameterError for text that a command line cannot carry, and for a value that would not
    arrive as it is.
    """
    by_name = {parameter.name: parameter for parameter in declared}
    words = []
    for name, value in values.items():
        texts, where = [] if value is None else [_as_text(value)], f"{source}: {name}"
        if value is not None and (parameter := by_name.get(name)):
            parameter.check_type(where)
            texts = parameter.texts(value, where) if isinstance(value, list) else texts
        words += [f"--{name}={_checked(text, where)}" for text in texts]
    return words


def _as_text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)


def _checked(text: str, where: str) -> str:
    """The text; ParameterError if a command line cannot carry it."""
    if "\0" in text:
        raise ParameterError(f"{where} has a NUL, which a command line cannot carry")
    try:
        os.fsencode(text)
    except UnicodeEncodeError as error:
        raise ParameterError(
            f"{where} has {text[error.start]!a}, which the locale's encoding, "
            f"{error.encoding}, does not have\nhint: export PYTHONUTF8=1"
        ) from None
    return text


def check_length(command: Sequence[str], error: OSError, label: str) -> None:
    """Raise ParameterError if the error says that the command is too long for the system.

    Linux takes 128 KiB in one option, macOS 1 MiB in all.
    """
    if error.errno == errno.E2BIG:
        longest = max(command, key=len)
        name, _, text = longest.partition("=")
        if not longest.startswith("--"):  # the value of a config, behind `--config-value` and name
            name, text = "a config of preflow_kwargs", longest
        raise ParameterError(
            f"{label}: {name.removeprefix('--')} is {len(os.fsencode(text)):,} bytes long, too long"
            " for a command line\nhint: write the value to a file, and pass the file's path"
        ) from error


def as_list(value: Any) -> Sequence[Any]:
    """The list itself, or a list of the one value."""
    return value if isinstance(value, (list, tuple)) else [value]
