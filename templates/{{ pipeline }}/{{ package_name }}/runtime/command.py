"""Values on a command line."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from .errors import ParameterError


def options(values: Mapping[str, Any], source: str, *, flags: bool) -> list[str]:
    """Values as options of a command line, `--name=text` each, so that text stays text.

    With `flags`, True is a bare `--name`, False is left out and a list repeats the option, as
    Metaflow's own options want it; without, booleans are `true` and `false`, and lists and
    mappings are JSON, as its parameters want it.

    Raises ParameterError for None, for text with a NUL and for what JSON does not know.
    """
    found = []
    for name, value in values.items():
        if value is None:
            raise ParameterError(
                f"{source}: {name} is None, which no command line can say; leave {name} out to "
                "have its default"
            )
        if flags and isinstance(value, bool):
            found += [f"--{name}"] if value else []
        elif flags:
            found += [f"--{name}={each}" for each in as_list(value)]
        elif isinstance(value, str) and "\0" in value:
            raise ParameterError(f"{source}: {name} has a NUL character, which no command can get")
        elif isinstance(value, str):
            found.append(f"--{name}={value}")
        else:
            try:
                found.append(f"--{name}={json.dumps(value)}")
            except TypeError as error:
                raise ParameterError(f"{source}: {name}: {error}") from error
    return found


def as_list(value: Any) -> Sequence[Any]:
    """The list itself, or a list of the one value."""
    return value if isinstance(value, (list, tuple)) else [value]
