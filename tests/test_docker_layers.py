"""What a flow's image is made of, in a generated repo with a Docker engine."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from .conftest import s3_server

pytestmark = pytest.mark.end_to_end


@pytest.mark.docker
@pytest.mark.usefixtures("needs_docker")
def test_images_are_made_of_layers_and_named_by_what_is_in_them(
    seam: Callable[..., None],
) -> None:
    seam("test_layers.py")


@pytest.mark.nightly
def test_metaflow_takes_an_image_for_steps_that_run_elsewhere(
    seam: Callable[..., None], tmp_path: Path
) -> None:
    with s3_server(tmp_path / "moto.log") as address:
        seam("test_elsewhere.py", S3_SERVER=address)
