"""The Luigi parameter for what a task gives its flow."""

from __future__ import annotations

import json
from typing import Any

import luigi
from luigi.freezing import FrozenOrderedDict

from ..flow.parameter_values import json_values


class FlowKwargs(luigi.DictParameter):
    """A dict of a flow's parameters, whose order does not matter.

    Raises ParameterError for what `json_values` refuses.
    """

    def normalize(self, x: Any) -> FrozenOrderedDict:
        """Luigi's, of JSON values sorted by name."""
        in_order = dict(sorted(json_values(x, "flow_kwargs").items()))
        return _Kwargs(super().normalize(in_order).items())


class _Kwargs(FrozenOrderedDict):
    """Equal if the JSON is: to Luigi, 1 and True would be the same task."""

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Kwargs) and self._json() == other._json()

    def __hash__(self) -> int:
        return hash(self._json())

    def _json(self) -> str:
        return json.dumps(self.get_wrapped(), default=dict)
