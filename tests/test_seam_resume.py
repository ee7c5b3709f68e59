"""Retries of a MetaflowTask, in a generated repo."""

from __future__ import annotations

from collections.abc import Callable

import pytest

pytestmark = pytest.mark.end_to_end


def test_a_retry_resumes_what_failed(seam: Callable[..., None]) -> None:
    seam("test_resume.py")
