"""Flows in containers, in a generated repo."""

from __future__ import annotations

from collections.abc import Callable

import pytest

pytestmark = [
    pytest.mark.end_to_end,
    pytest.mark.docker,
    pytest.mark.usefixtures("needs_docker"),
]


def test_a_flow_runs_in_a_container_as_in_a_process(seam: Callable[..., None]) -> None:
    seam("test_container.py")
