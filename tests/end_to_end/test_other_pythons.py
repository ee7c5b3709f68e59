"""Generated repos on the oldest and the newest Python of this machine."""

from __future__ import annotations

import re

import pytest

from ..conftest import HERE, QUESTIONS, Repo, SetUp, pythons

OLDEST = QUESTIONS["python_version"]["choices"][0]

if HERE != OLDEST:  # else all other tests run on it

    @pytest.mark.thorough
    def test_a_repo_passes_on_the_oldest_python(set_up: SetUp) -> None:
        if OLDEST not in pythons():
            pytest.skip(f"there is no Python {OLDEST} on this machine")
        passes(set_up("oldest-python", python=pythons()[OLDEST], python_version=OLDEST))


@pytest.mark.thorough
def test_a_repo_without_examples_passes_on_the_newest_python_and_run_names_what_is_missing(
    set_up: SetUp,
) -> None:
    newest = max(pythons(), key=minor)
    repo = set_up(
        "p" * 40,  # the longest package name
        python=pythons()[newest],
        python_version=newest,
        with_examples=False,
        ci="none",
        license="Proprietary",
        description="d" * 200,
        repo_url="https://example.org/p",
    )
    passes(repo)
    printed = repo.nox("-s", "run", exit_code=1)
    assert "say what to run: python3 noxfile.py -s run -- FILE" in printed
    assert "Flows: none yet" in printed


def passes(repo: Repo) -> None:
    """Check that the repo passes its own lint, types and tests."""
    printed = repo.nox("-s", "lint") + repo.nox("-s", "test")
    assert re.search(r"mypy\.+Passed\n", printed)
    assert re.search(r"\d+ passed", printed)
    assert "skipped" not in printed


def minor(version: str) -> int:
    return int(version.partition(".")[2])
