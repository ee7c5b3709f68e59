"""The markers of MetaflowTasks, in a generated repo."""

from __future__ import annotations

from collections.abc import Callable

import pytest

pytestmark = pytest.mark.end_to_end


def test_a_marker_is_there_if_and_only_if_the_run_succeeded(seam: Callable[..., None]) -> None:
    seam("test_marker.py")
