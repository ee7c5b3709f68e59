"""Generated repos on the oldest and the newest Python that are tested."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from .conftest import HERE, SetUp

pytestmark = pytest.mark.end_to_end


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
