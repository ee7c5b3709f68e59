"""Flows in containers, in a generated repo."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from .conftest import s3_server

pytestmark = [
    pytest.mark.end_to_end,
    pytest.mark.docker,
    pytest.mark.usefixtures("needs_docker"),
]


def test_a_flow_runs_in_a_container_as_in_a_process(
    seam: Callable[..., None], tmp_path: Path
) -> None:
    with s3_server(tmp_path / "s3.log") as address:
        seam("test_container.py", S3_SERVER=address)
