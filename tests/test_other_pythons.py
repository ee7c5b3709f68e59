"""Generated repos on the oldest and the newest Python of this machine."""

from __future__ import annotations

import re

import pytest

from .conftest import HERE, Repo, SetUp, pythons

pytestmark = pytest.mark.end_to_end

# By day: Luigi and Metaflow are the slowest part of a repo's tests.
QUICK = ("tests/runtime/test_run_command.py", "tests/runtime/test_settings.py")


def test_the_oldest_python_passes_too(set_up: SetUp, pytestconfig: pytest.Config) -> None:
    if HERE == "3.10":
        pytest.skip("3.10 is the Python that the other tests use")
    if "3.10" not in pythons():
        pytest.skip("no Python 3.10 on this machine")
    repo = set_up("oldest-python", python=pythons()["3.10"], python_version="3.10")
    passes(repo, *(() if pytestconfig.getoption("nightly") else QUICK))


def test_a_repo_without_examples_passes_on_the_newest_python_and_says_what_is_missing(
    set_up: SetUp, pytestconfig: pytest.Config
) -> None:
    newest = max(pythons().items(), key=lambda item: minor(item[0]))
    repo = set_up(
        "p" * 40,  # the longest name of a package
        python=newest[1],
        python_version=newest[0],
        with_examples=False,
        ci="none",
        license="Proprietary",
        description="d" * 200,
        repo_url="https://example.org/p",
    )
    passes(repo, *(() if pytestconfig.getoption("nightly") else QUICK))
    said = repo.nox("-s", "run", exit_code=1)
    assert "say what to run: nox -s run -- FILE" in said
    assert "Flows: none yet" in said


def passes(repo: Repo, *only: str) -> None:
    """The repo passes its own lint, types and tests, or only these of them."""
    said = repo.nox("-s", "lint") + repo.nox("-s", "test", "--", *only)
    assert re.search(r"mypy\.+Passed\n", said)
    assert re.search(r"\d\d passed", said)
    assert "skipped" not in said


def minor(version: str) -> int:
    return int(version.partition(".")[2])
