"""A MetaflowTask with Metaflow's datastore on S3, in a generated repo."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from .conftest import s3_server

pytestmark = pytest.mark.end_to_end


def test_on_s3_a_task_does_what_it_does_locally(seam: Callable[..., None], tmp_path: Path) -> None:
    with s3_server(tmp_path / "moto.log") as address:
        seam("test_s3.py", S3_SERVER=address)
