"""What a MetaflowTask gives its flow to start with, in a generated repo."""

from __future__ import annotations

from collections.abc import Callable

import pytest

pytestmark = pytest.mark.end_to_end


@pytest.mark.parametrize(
    "file",
    [
        *("test_parameters.py", "test_overlay.py"),
        pytest.param("test_odd_flows.py", marks=pytest.mark.nightly),
    ],
)
def test_a_flow_has_what_it_is_given(seam: Callable[..., None], file: str) -> None:
    seam(file)
