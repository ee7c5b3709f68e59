"""The end of a MetaflowTask by force, in a generated repo."""

from __future__ import annotations

from collections.abc import Callable

import pytest

pytestmark = pytest.mark.end_to_end


def test_nothing_outlives_a_task(seam: Callable[..., None]) -> None:
    seam("test_stop.py")
