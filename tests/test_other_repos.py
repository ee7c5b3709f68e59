"""Generated repos that differ: other Pythons, other pieces, other names."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import copier
import pytest

from .conftest import HERE, Repo, SetUp

pytestmark = pytest.mark.end_to_end


def test_a_repo_without_examples_passes_too_and_says_what_is_missing(set_up: SetUp) -> None:
    repo = set_up(
        "p" * 40,  # the longest name of a package
        python_version=HERE,
        with_examples=False,
        ci="none",
        license="Proprietary",
        description="d" * 200,
        repo_url="https://example.org/p",
    )
    said = repo.nox("-s", "lint", "test")
    assert "Success: no issues found" in said
    said = repo.nox("-s", "run", exit_code=1)
    assert "say what to run: nox -s run -- FILE" in said
    assert "Flows: none yet" in said


def pythons() -> dict[str, str]:
    """The other Pythons of this machine that the template supports, by version."""
    pyenv = Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv"), "versions")
    found: dict[str, str] = {}
    for version in ("3.10", "3.11", "3.12", "3.13", "3.14"):
        installed = sorted(pyenv.glob(f"{version}.*/bin/python"))
        candidates = [shutil.which(f"python{version}"), *map(str, reversed(installed))]
        for python in filter(None, candidates):
            asked = subprocess.run([python, "-c", ""], capture_output=True, check=False)
            if asked.returncode == 0 and version != HERE:
                found.setdefault(version, python)
    return found


@pytest.mark.parametrize("version", ["3.10", "3.13"])
def test_the_oldest_and_the_newest_python_pass_too(set_up: SetUp, version: str) -> None:
    if version == HERE:
        pytest.skip(f"{version} is the Python that all the other tests use")
    if version not in pythons():
        pytest.skip(f"no Python {version} on this machine")
    repo = set_up("other-python", python=pythons()[version], python_version=version)
    said = repo.nox("-s", "lint", "test")
    assert "Success: no issues found" in said
    assert re.search(r"\d\d passed", said)


@pytest.mark.parametrize("python_version", ["3.10", "3.12", "3.13", "3.14"])
@pytest.mark.parametrize("package_name", ["p", "p" * 40])
def test_the_linter_is_content_whatever_the_names_and_the_lowest_python(
    template: Path, tmp_path: Path, python_version: str, package_name: str
) -> None:
    answers = {"python_version": python_version, "package_name": package_name}
    repo = tmp_path / "repo"
    copier.run_copy(str(template), repo, data=answers, defaults=True, quiet=True)
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
    copier.run_copy(
        str(template), repo.folder, data={"python_version": "3.14"}, defaults=True, quiet=True
    )
    said = repo.nox("-s", "setup", exit_code=1)
    assert f"The repo needs Python 3.14 or newer and this is {HERE}" in said
    assert "UV_PYTHON=/path/to/python names one" in said
