"""The parameter `timeout` of a task."""

from __future__ import annotations

from typing import Any

import luigi

from ..console import seconds


class Timeout(luigi.OptionalFloatParameter):
    """Luigi's parameter for a number or None, which also reads `15m` or `2h` from text."""

    def parse(self, x: str) -> float | None:
        """The seconds; None for empty text. Raises ValueError for text that is no time."""
        return seconds(x) if x else None

    def normalize(self, x: Any) -> Any:
        """The same for a value from code; Luigi warns of an int."""
        if isinstance(x, str):
            return self.parse(x)
        return float(x) if isinstance(x, int) else x
