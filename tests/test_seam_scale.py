"""Many MetaflowTasks at once, in a generated repo; 200 of them in the nightly session."""

from __future__ import annotations

from collections.abc import Callable

import pytest

pytestmark = pytest.mark.end_to_end


def test_many_tasks_run_once_each(
    seam: Callable[..., None], request: pytest.FixtureRequest
) -> None:
    seam("test_scale.py", TASKS="200" if request.config.getoption("nightly") else "12")
