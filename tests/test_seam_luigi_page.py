"""MetaflowTasks on Luigi's page, in a generated repo."""

from __future__ import annotations

from collections.abc import Callable

import pytest

pytestmark = pytest.mark.end_to_end


def test_luigis_page_shows_how_a_run_goes(seam: Callable[..., None]) -> None:
    seam("test_luigi_page.py")
