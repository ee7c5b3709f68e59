"""The parameters that a task gives its flow: names are checked, and values become JSON."""

from __future__ import annotations

import datetime
import json
import math
from collections.abc import Iterable, Mapping
from typing import Any

from ..errors import ParameterError

RUN_OPTIONS = {
    "max-log-size": "set METAFLOW_RUN_MAX_LOG_SIZE, e.g. in .env",
    "max-num-splits": "set METAFLOW_RUN_MAX_NUM_SPLITS, e.g. in .env",
    "max-workers": "set METAFLOW_RUN_MAX_WORKERS, e.g. in .env",
    "namespace": "set METAFLOW_RUN_USER_NAMESPACE, e.g. in .env",
    "run-id-file": "the task sets it",
    "runner-attribute-file": "the task sets it",
    "tag": "the task sets it from flow_tag",
    "with": "add it to preflow_kwargs",
}
"""The options of Metaflow's `run`, and how to set each: no parameter can have such a name."""

DEEPEST = 100
"""How deep lists and dicts may be nested."""


def json_values(values: Any, source: str) -> dict[str, Any]:
    """Return the parameters by name, as JSON values; the marker records the same.

    Dates and times become ISO 8601 text, tuples become lists. A number that JSON does not have, or
    that not every reader of JSON takes (infinite, not a number, beyond 64 bits), becomes the text
    that Metaflow accepts for it; inside a list or dict it is refused.

    Raises ParameterError for a name that no parameter can have, and for a value that would arrive
    as another one. `source` begins the message.
    """
    if not isinstance(values, Mapping):
        raise ParameterError(f"{source} must be a dict of names and values, not {values!r:.80}")
    converted = {}
    for name, value in values.items():
        _check_name(name, source)
        where = f"{source}: {name}"
        try:
            converted[name] = (
                json.dumps(value) if _is_odd_number(value) else _json_value(value, where)
            )
        except ValueError as error:  # Python writes out no number of more than 4,300 digits
            raise ParameterError(f"{where}: {error}") from None
    return converted


def offered_to(names: Iterable[str], values: Mapping[str, Any]) -> dict[str, Any]:
    """Those of the values that have one of the names; to Metaflow `-` is `_`.

    Raises a value that is a ParameterError.
    """
    found = {name: values[key] for name in names if (key := name.replace("-", "_")) in values}
    for value in found.values():
        if isinstance(value, ParameterError):
            raise value
    return found


def _check_name(name: Any, source: str) -> None:
    """Metaflow's rule: a name is an option on the command line."""
    if (
        not isinstance(name, str)
        or name.startswith("-")
        or not name.replace("-", "_").isidentifier()
    ):
        raise ParameterError(
            f"{source}: {name!r} is not a parameter name: use letters, digits, '_' and '-', and "
            "begin with a letter or '_'"
        )
    option = name.replace("_", "-")
    if option in RUN_OPTIONS:
        raise ParameterError(
            f"{source}: {name!r} is an option of Metaflow's `run`, not a parameter of the flow\n"
            f"hint: for the option, {RUN_OPTIONS[option]}; for a parameter, choose another name"
        )


def _is_odd_number(value: Any) -> bool:
    """True for a number that the marker's JSON cannot hold."""
    if isinstance(value, float):
        return not math.isfinite(value)
    return isinstance(value, int) and not -(2**63) <= value < 2**64


def _json_value(value: Any, where: str, depth: int = 0) -> Any:
    """The same value, made only of the types that JSON has."""
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, str):
        return _text(value, where)
    if _is_odd_number(value):
        raise ParameterError(f"{where} is {value}, which JSON cannot hold\nhint: pass it as text")
    if isinstance(value, int):
        return int(value)
    if isinstance(value, float):
        return float(value)
    if isinstance(value, (datetime.date, datetime.time)):
        return value.isoformat()
    if isinstance(value, (list, tuple, Mapping)) and depth == DEEPEST:
        raise ParameterError(f"{where:.60}… is nested more than {DEEPEST} deep")
    if isinstance(value, (list, tuple)):
        return [_json_value(item, f"{where}[{at}]", depth + 1) for at, item in enumerate(value)]
    if isinstance(value, Mapping):
        return {
            _key(key, where): _json_value(item, f"{where}[{key!r}]", depth + 1)
            for key, item in value.items()
        }
    raise ParameterError(
        f"{where} is a {type(value).__name__}; a parameter can be text, a number, True, False, "
        "None, a date or time, or a list or dict of them"
    )


def _key(key: Any, where: str) -> str:
    if not isinstance(key, str):
        raise ParameterError(f"{where} has the key {key!r}; in JSON a key is text: {str(key)!r}")
    return _text(key, where)


def _text(text: str, where: str) -> str:
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise ParameterError(
            f"{where} has half a character, {text[error.start]!a} at {error.start}\n"
            "hint: decode the bytes that it comes from with their own encoding"
        ) from None
    return str.__str__(text)  # of an Enum's member, too, the value
