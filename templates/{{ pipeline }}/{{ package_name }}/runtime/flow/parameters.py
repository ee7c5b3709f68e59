"""What a flow is handed: the names and values of its parameters, as JSON can say them."""

from __future__ import annotations

import datetime
import json
import math
from collections.abc import Mapping
from typing import Any

import luigi
from luigi.freezing import FrozenOrderedDict

from ..errors import ParameterError

RUN_OPTIONS = {
    "max-log-size": "set METAFLOW_RUN_MAX_LOG_SIZE, e.g. in .env",
    "max-num-splits": "set METAFLOW_RUN_MAX_NUM_SPLITS, e.g. in .env",
    "max-workers": "set METAFLOW_RUN_MAX_WORKERS, e.g. in .env",
    "namespace": "set METAFLOW_RUN_USER_NAMESPACE, e.g. in .env",
    "run-id-file": "the task sets it",
    "runner-attribute-file": "the task sets it",
    "tag": "the task sets it, and flow_tag is yours",
    "with": "it goes into preflow_kwargs",
}
"""The options of Metaflow's `run`, which no flow's parameter can be named, and how each is set."""

DEEPEST = 100
"""How deep lists and dicts may be nested."""


class FlowKwargs(luigi.DictParameter):
    """A Luigi parameter of what a flow is handed, in whatever order: that makes no other task.

    Raises ParameterError for what it cannot be.
    """

    def normalize(self, x: Any) -> FrozenOrderedDict:
        """Luigi's, after `json_values`."""
        in_order = dict(sorted(json_values(x, "flow_kwargs").items()))
        return _Kwargs(super().normalize(in_order).items())


class _Kwargs(FrozenOrderedDict):
    """Equal where the JSON is: to Luigi, 1 and True would be one and the same task."""

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Kwargs) and self._json() == other._json()

    def __hash__(self) -> int:
        return hash(self._json())

    def _json(self) -> str:
        return json.dumps(self.get_wrapped(), default=dict)


def json_values(values: Any, source: str) -> dict[str, Any]:
    """The values by name, as JSON can say them, which is what the marker records.

    Dates and times become ISO 8601 text, tuples lists. A number that JSON has not, or not every
    reader of it (infinite, not a number, beyond 64 bits), becomes the text that Metaflow takes for
    it, and is refused within a list or dict.

    Raises ParameterError for what is no parameter's name, or one of RUN_OPTIONS, and for a value
    that would not arrive as it is.
    """
    if not isinstance(values, Mapping):
        raise ParameterError(f"{source} must be a dict of names and values, not {values!r:.80}")
    found = {}
    for name, value in values.items():
        _check_name(name, source)
        where = f"{source}: {name}"
        try:
            found[name] = json.dumps(value) if _is_odd_number(value) else _as_json(value, where)
        except ValueError as error:  # Python writes out no number of more than 4,300 digits
            raise ParameterError(f"{where}: {error}") from None
    return found


def _check_name(name: Any, source: str) -> None:
    """Metaflow's rule for names, which are options of a command line."""
    if (
        not isinstance(name, str)
        or name.startswith("-")
        or not name.replace("-", "_").isidentifier()
    ):
        raise ParameterError(
            f"{source}: {name!r} is no parameter's name: letters, digits, '_' and '-', and no "
            "digit or '-' at the front"
        )
    option = name.replace("_", "-")
    if option in RUN_OPTIONS:
        raise ParameterError(
            f"{source}: {name!r} is an option of Metaflow's `run`, and so no flow's parameter; for "
            f"the option: {RUN_OPTIONS[option]}; for a parameter: give it another name"
        )


def _is_odd_number(value: Any) -> bool:
    """Is it a number that the marker's JSON cannot hold?"""
    if isinstance(value, float):
        return not math.isfinite(value)
    return isinstance(value, int) and not -(2**63) <= value < 2**64


def _as_json(value: Any, where: str, depth: int = 0) -> Any:
    """The same value, made of nothing but the types that JSON has."""
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, str):
        return _text(str.__str__(value), where)  # an Enum's member too
    if _is_odd_number(value):
        raise ParameterError(f"{where} is {value}, which JSON cannot hold; hand it over as text")
    if isinstance(value, int):
        return int(value)
    if isinstance(value, float):
        return float(value)
    if isinstance(value, (datetime.date, datetime.time)):
        return value.isoformat()
    if isinstance(value, (list, tuple, Mapping)) and depth == DEEPEST:
        raise ParameterError(f"{where:.60}… is nested more than {DEEPEST} deep")
    if isinstance(value, (list, tuple)):
        return [_as_json(each, f"{where}[{at}]", depth + 1) for at, each in enumerate(value)]
    if isinstance(value, Mapping):
        return {
            _key(key, where): _as_json(each, f"{where}[{key!r}]", depth + 1)
            for key, each in value.items()
        }
    raise ParameterError(
        f"{where} is a {type(value).__name__}; what can be handed over is text, numbers, True, "
        "False, None, dates, and lists and dicts of them"
    )


def _key(key: Any, where: str) -> str:
    if not isinstance(key, str):
        raise ParameterError(f"{where} has the key {key!r}, and JSON's are text: {str(key)!r}")
    return _text(str.__str__(key), where)


def _text(text: str, where: str) -> str:
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise ParameterError(
            f"{where} has half a character, {text[error.start]!a} at {error.start}, which is no "
            "Unicode text; decode the bytes that it comes from by their own encoding"
        ) from None
    return text
