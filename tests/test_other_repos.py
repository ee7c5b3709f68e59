"""Generated repos that differ from what most users have: other pieces, names and versions."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from .conftest import HERE, Repo, copy

pytestmark = pytest.mark.end_to_end


@pytest.mark.parametrize("python_version", ["3.11", "3.12", "3.13", "3.14"])
@pytest.mark.parametrize("package_name", ["p", "p" * 40])
def test_the_linter_is_content_whatever_the_names_and_the_lowest_python(
    template: Path, tmp_path: Path, python_version: str, package_name: str
) -> None:
    repo = tmp_path / "repo"
    copy(template, repo, python_version=python_version, package_name=package_name)
    for command in (["check"], ["format", "--check"]):
        done = subprocess.run(
            [sys.executable, "-m", "ruff", *command, "."],
            cwd=repo,
            env={**os.environ, "RUFF_NO_CACHE": "true"},
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stdout


def test_a_python_that_is_too_old_is_told_so(template: Path, tmp_path: Path) -> None:
    repo = Repo(tmp_path / "repo", tmp_path / "home", sys.executable)
    repo.home.mkdir()
    copy(template, repo.folder, python_version="3.14")
    said = repo.nox("-s", "setup", exit_code=1, UV_PYTHON_DOWNLOADS="never")
    assert f"The repo needs Python 3.14 or newer and this is {HERE}" in said
    assert "UV_PYTHON=/path/to/python names one" in said
