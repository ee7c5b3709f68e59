"""A flow's own list of parameters, which the flow is asked for where something is wrong."""

from __future__ import annotations

import json
from collections import deque
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from .. import process
from ..errors import FlowFailedError, ParameterError, did_you_mean
from .parameters import RUN_OPTIONS

if TYPE_CHECKING:
    from .runner import Runner


class FlowParameter(NamedTuple):
    """A parameter, as the flow has it."""

    name: str
    type: str
    required: bool
    default: str | None
    """As it is shown to people; None where the parameter is None when it is not given."""

    def __str__(self) -> str:
        default = "" if self.default is None else f", default {self.default}"
        return f"{self.name} ({self.type}{', required' if self.required else default})"


class AskedFlow:
    """A flow that can be asked for its parameters, which takes a process and half a second.

    `command` is the one that runs the flow, with these variables, in `runner`; `scratch` is a
    folder for the answer, and `timeout` is in seconds.
    """

    def __init__(
        self,
        label: str,
        command: Sequence[str],
        variables: Mapping[str, str],
        scratch: Path,
        timeout: float | None,
        runner: Runner,
    ) -> None:
        self.label = label
        self._command = command
        self._variables = variables
        self._answer = scratch / "parameters"
        self._timeout = timeout
        self._runner = runner

    def parameters(self) -> list[FlowParameter]:
        """What the flow has.

        Raises FlowFailedError where it does not come as far as that, or not in time.
        """
        python, *rest = self._command
        lines: deque[str] = deque(maxlen=20)
        try:
            exit_code = self._runner.run(
                [python, "-m", f"{__package__}.show_parameters", str(self._answer), *rest],
                variables=self._variables,
                timeout=self._timeout,
                on_line=lines.append,
            )
        except process.TimeLimitError:
            what = f"its parameters were not known after {self._timeout:g} seconds"
            raise FlowFailedError(f"{self.label} failed: {what}") from None
        if not self._answer.exists():
            what = f"asked for its parameters, it ended with exit code {exit_code}"
            raise FlowFailedError("\n".join([f"{self.label} failed: {what}", *lines]))
        found = [FlowParameter(**each) for each in json.loads(self._answer.read_text("utf-8"))]
        return [each for each in found if each.name not in RUN_OPTIONS]

    def check_none(self, parameters: Mapping[str, Any]) -> None:
        """Raise ParameterError unless what is None is so where the flow is not given it.

        There is no other way to hand over None. The flow is asked only where there is one.
        """
        nothing = [name for name, value in parameters.items() if value is None]
        if not nothing:
            return
        known = self.parameters()
        self._check_names(parameters, known)
        for each in known:
            if each.name in nothing and each.default is not None:
                raise ParameterError(
                    f"{self.label}: {each.name} is None, and Metaflow hands over None by leaving "
                    f"the parameter out, which makes it its default, {each.default}; leave it out, "
                    "or have the flow take another value for nothing"
                )

    def check_refused(self, parameters: Mapping[str, Any], reason: str) -> None:
        """Raise ParameterError with what is wrong, for a flow that Metaflow refused to start.

        `reason` is Metaflow's own; where it gave none, and nothing is found, nothing is raised.
        """
        try:
            known = self.parameters()
        except FlowFailedError:  # no matter of parameters, e.g. an option before `run`
            return
        self._check_names(parameters, known)
        if reason:
            said = [f"{self.label}: {reason:.1000}"]
            if any(each.type == "JSON" and _is_text(parameters, each.name) for each in known):
                said.append("""A JSON parameter takes a text as JSON: '"text"', quotes and all""")
            raise ParameterError("\n".join([*said, self._has(known)]))

    def _check_names(self, parameters: Mapping[str, Any], known: list[FlowParameter]) -> None:
        names = [each.name for each in known]
        wrong = []
        for name in parameters:
            if name not in names:
                wrong.append(f"{self.label} has no parameter {name!r}{did_you_mean(name, names)}")
        for each in known:
            if each.required and parameters.get(each.name) is None:
                wrong.append(f"{self.label} requires the parameter {each.name!r}")
        if wrong:
            raise ParameterError("\n".join([*wrong, self._has(known)]))

    def _has(self, known: list[FlowParameter]) -> str:
        return f"{self.label} has: {', '.join(map(str, known)) or 'no parameters'}"


def _is_text(parameters: Mapping[str, Any], name: str) -> bool:
    return isinstance(parameters.get(name), str)
