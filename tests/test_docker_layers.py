"""What a flow's image is made of, in a generated repo with a Docker engine."""

from __future__ import annotations

from collections.abc import Callable

import pytest

pytestmark = [pytest.mark.end_to_end, pytest.mark.docker, pytest.mark.usefixtures("needs_docker")]


def test_images_are_made_of_layers_and_named_by_what_is_in_them(
    seam: Callable[..., None],
) -> None:
    seam("test_layers.py")
