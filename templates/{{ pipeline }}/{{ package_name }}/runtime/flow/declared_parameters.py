"""The parameters that a flow declares, and what is wrong with those that it is given.

Only the flow itself knows them all, and asking takes a process and half a second. So a flow is
asked only where its file does not say what becomes of a value, when Metaflow has refused it, and
before a run is resumed.
"""

from __future__ import annotations

import json
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from ..errors import FlowFailedError, ParameterError, did_you_mean
from .parameter_values import RUN_OPTIONS

OF_A_DEFAULT = {"dict", "frozenset", "list", "set", "tuple"}


class FlowParameter(NamedTuple):
    """A parameter, as the flow declares it."""

    name: str
    type: str
    required: bool
    default: str | None
    """As shown to people; None if the parameter is None unless it is given."""
    multiple: bool = False
    """True if the option may be repeated: the parameter is a tuple."""
    separator: str | None = None
    """What Metaflow splits the text at: the parameter is a list of text."""

    def __str__(self) -> str:
        default = "" if self.default is None else f", default {self.default}"
        return f"{self.name} ({self.type}{', required' if self.required else default})"

    def check_type(self, where: str) -> None:
        """Raise ParameterError if Metaflow makes no value of the parameter from text.

        `where` begins the message.
        """
        if self.type in OF_A_DEFAULT:
            types = "the type of its items, e.g. type=str"
            types = types if self.multiple else "type=JSONType, and the default as JSON text"
            raise ParameterError(
                f"{where} would not arrive: without a type, the parameter has that of its default, "
                f"and Metaflow reads no {self.type} from text\nhint: declare it with {types}"
            )

    def texts(self, items: list[Any], where: str) -> list[str]:
        """The texts of the options that make the parameter a list of the items.

        Raises ParameterError if there are none. `where` begins the message.
        """
        if self.multiple and (items or self.default is None):
            is_text = self.type != "JSON"
            return [
                item if is_text and isinstance(item, str) else json.dumps(item) for item in items
            ]
        if self.multiple:
            raise ParameterError(
                f"{where} is an empty list, and would get its default, {self.default}"
            )
        if self.separator is None:
            return [json.dumps(items)]
        wrong = [each for each in items if not isinstance(each, str) or self.separator in each]
        if wrong or items in ([], [""]):
            raise ParameterError(
                f"{where} is {items!r:.99}, but Metaflow splits a text at {self.separator!r}, "
                f"which cannot give {wrong[0] if wrong else items!r:.99}\n"
                "hint: give it a list of texts without the separator, or make it a JSONType"
            )
        return [self.separator.join(items)]


class Declared(NamedTuple):
    """What a flow declares."""

    parameters: list[FlowParameter]
    attributes: list[str]
    """Those in which the flow has its parameters and configs."""


def declared_parameters(
    label: str,
    command: Sequence[str],
    answer: Path,
    run: Callable[..., int],
) -> Declared:
    """Ask the flow that the command runs; it answers in the file `answer`.

    `run` runs a command where the flow runs, as a Runner does.

    Raises FlowFailedError if the flow fails before it can answer.
    """
    python, *flow = command
    lines: deque[str] = deque(maxlen=20)
    ask = [python, "-m", f"{__package__}.show_parameters", str(answer), *flow]
    exit_code = run(ask, on_line=lines.append)
    if not answer.exists():
        why = f"exit code {exit_code} when asked for its parameters"
        raise FlowFailedError("\n".join([f"{label} failed: {why}", *lines]))
    answered = json.loads(answer.read_text("utf-8"))
    options = [FlowParameter(**fields) for fields in answered["parameters"]]
    parameters = [parameter for parameter in options if parameter.name not in RUN_OPTIONS]
    return Declared(parameters, answered["attributes"])


def check_none(label: str, given: Mapping[str, Any], declared: Sequence[FlowParameter]) -> None:
    """Raise ParameterError for a None that would not arrive as None, or a wrong name.

    The only way to pass None is to leave the parameter out, and then it gets its default.
    """
    _check_names(label, given, declared)
    for parameter in declared:
        if given.get(parameter.name, ...) is None and parameter.default is not None:
            raise ParameterError(
                f"{label}: {parameter.name} is None, but would get its default, "
                f"{parameter.default}: Metaflow passes None by leaving the parameter out\n"
                "hint: leave it out, or choose another value that stands for nothing"
            )


def check_refused(
    label: str, given: Mapping[str, Any], declared: Sequence[FlowParameter], reason: str
) -> None:
    """Raise ParameterError with what is wrong, for a flow that Metaflow refused to start.

    `reason` is Metaflow's; if it gave none, and the names are right, nothing is raised.
    """
    _check_names(label, given, declared)
    if reason:
        lines = [f"{label}: {reason:.1000}"]
        if any(each.type == "JSON" and isinstance(given.get(each.name), str) for each in declared):
            lines.append("""a JSON parameter takes text as JSON, with its quotes: '"text"'""")
        raise ParameterError("\n".join([*lines, _listing(declared)]))


def _check_names(label: str, given: Mapping[str, Any], declared: Sequence[FlowParameter]) -> None:
    """Raise ParameterError for unknown parameters, and for required ones that are missing."""
    names = [parameter.name for parameter in declared]
    wrong = [
        f"{label} has no parameter {name!r}{did_you_mean(name, names)}"
        for name in given
        if name not in names
    ]
    missing = [
        parameter.name
        for parameter in declared
        if parameter.required and given.get(parameter.name) is None
    ]
    wrong += [f"{label} requires the parameter {name!r}" for name in missing]
    if wrong:
        lines = [*wrong, _listing(declared)]
        if missing:
            kwargs = json.dumps(dict.fromkeys(missing, "…"), ensure_ascii=False)
            lines.append(
                f"hint: give it with --flow-kwargs '{kwargs}', or as a parameter of the task, "
                f"{missing[0].replace('-', '_')} = luigi.Parameter()"
            )
        raise ParameterError("\n".join(lines))


def _listing(declared: Sequence[FlowParameter]) -> str:
    return f"hint: its parameters are {', '.join(map(str, declared)) or 'none'}"
