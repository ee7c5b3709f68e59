"""Generated repos with unusual names and Python versions."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from ..conftest import Repo, copy

THOROUGH = pytest.mark.thorough


@pytest.mark.parametrize(
    "python_version", ["3.11", *(pytest.param(f"3.{x}", marks=THOROUGH) for x in (12, 13, 14))]
)
@pytest.mark.parametrize("package_name", ["p", "p" * 40])
def test_ruff_passes_with_any_package_name_and_lowest_python(
    template: Path, tmp_path: Path, python_version: str, package_name: str
) -> None:
    repo = tmp_path / "repo"
    answers = {"python_version": python_version, "package_name": package_name}
    copy(template, repo, **answers, with_airflow=True)
    for command in (["check"], ["format", "--check"]):
        process = subprocess.run(
            [sys.executable, "-m", "ruff", *command, "."],
            cwd=repo,
            env={**os.environ, "RUFF_NO_CACHE": "true"},
            capture_output=True,
            text=True,
            check=False,
        )
        assert process.returncode == 0, process.stdout


@pytest.mark.thorough
def test_setup_names_the_python_that_is_needed_when_this_one_is_too_old(
    template: Path, tmp_path: Path
) -> None:
    repo = Repo(tmp_path / "repo", tmp_path / "home", sys.executable)
    repo.home.mkdir()
    copy(template, repo.folder, python_version="3.14")
    printed = repo.nox("-s", "setup", exit_code=1, UV_PYTHON_DOWNLOADS="never")
    assert "The repo needs Python 3.14 or newer, which is not on this machine" in printed
    assert "UV_PYTHON=/path/to/python" in printed
