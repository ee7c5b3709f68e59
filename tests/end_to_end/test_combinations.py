"""Every combination of the choices is parsed, linted, typed, tested and built as a wheel."""

from __future__ import annotations

import itertools
import re
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

import pytest

from ..conftest import (
    HERE,
    QUESTIONS,
    Repo,
    answers_of,
    clean_environment,
    copy,
    git,
    parses,
    project_of,
    pythons,
)

CHOICES = {
    name: question.get("choices", [True, False])
    for name, question in QUESTIONS.items()
    if "choices" in question or question["type"] == "bool"
}
COMBINATIONS = [
    dict(zip(CHOICES, combination, strict=True))
    for combination in itertools.product(*CHOICES.values())
]


def pairs(combination: dict[str, Any]) -> set[Any]:
    """All pairs of the answers."""
    return set(itertools.combinations(combination.items(), 2))


def pairwise() -> list[dict[str, Any]]:
    """A few combinations that have every pair of answers."""
    missing = set().union(*map(pairs, COMBINATIONS))
    chosen = []
    while missing:
        chosen.append(max(COMBINATIONS, key=lambda each: len(pairs(each) & missing)))
        missing -= pairs(chosen[-1])
    return chosen


def name(combination: dict[str, Any]) -> str:
    return "-".join(map(str, combination.values()))


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """At night every combination; else one for each Python that no other test uses.

    test_generated_repo.py and test_other_pythons.py use the current Python, the oldest and the
    newest.
    """
    if not {"installed", "missing"} & {*metafunc.fixturenames}:
        return
    by_age = sorted(pythons(), key=lambda version: int(version[2:]))
    tested = {HERE, by_age[0], by_age[-1]}
    by_day = {
        each["python_version"]: each for each in pairwise() if each["python_version"] not in tested
    }
    for argument, is_installed in (("installed", True), ("missing", False)):
        if argument in metafunc.fixturenames:
            thorough = pytest.mark.thorough if is_installed else ()
            selected = [
                pytest.param(
                    each,
                    marks=thorough if each in by_day.values() else pytest.mark.nightly,
                    id=name(each),
                )
                for each in COMBINATIONS
                if (each["python_version"] in pythons()) is is_installed
            ]
            metafunc.parametrize(argument, selected)


def test_the_pairwise_set_is_small_and_has_every_pair() -> None:
    chosen = pairwise()
    assert set().union(*map(pairs, chosen)) == set().union(*map(pairs, COMBINATIONS))
    assert len(chosen) <= 20, "16 is the least, for 4 Pythons and 4 licenses"


@pytest.mark.parametrize(
    "combination",
    [
        pytest.param(each, id=name(each), marks=() if each in pairwise() else pytest.mark.nightly)
        for each in COMBINATIONS
    ],
)
def test_every_combination_parses_and_has_the_answers(
    rendered_only: Path, tmp_path: Path, combination: dict[str, Any]
) -> None:
    number = COMBINATIONS.index(combination)
    repo_url = ["", "https://example.org/sales"][number % 2]
    author_email = ["", "sales@example.org"][number // 2 % 2]
    more = {"repo_url": repo_url, "author_email": author_email}
    repo = copy(rendered_only, tmp_path / "sales-pipelines", **combination, **more)
    parses(repo)
    answers = answers_of(repo)
    assert {question: answers[question] for question in combination} == combination
    project = project_of(repo)
    assert project["requires-python"] == f">={combination['python_version']}", "no upper bound"
    assert project["license"].removeprefix("LicenseRef-") == combination["license"]
    assert project.get("urls", {}) == ({"Repository": repo_url} if repo_url else {})
    assert project["authors"][0].get("email", "") == author_email
    assert (repo / ".github" / "workflows" / "ci.yml").exists() is (combination["ci"] == "github")
    assert any("numpy" in each for each in project["dependencies"]) is combination["with_examples"]
    assert (repo / "tests" / "examples").exists() is combination["with_examples"]
    needs_sqlalchemy = any("sqlalchemy" in each for each in project["dependencies"])
    assert needs_sqlalchemy is combination["with_tables"]
    assert (repo / "docs" / "airflow.md").exists() is combination["with_airflow"]


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder for environments that repos of the same Python share, and one home."""
    folder = tmp_path_factory.mktemp("shared")
    (folder / "home").mkdir()
    return folder


def test_a_repo_passes_its_own_lint_types_and_tests_and_builds(
    template: Path,
    tmp_path: Path,
    shared: Path,
    installed: dict[str, Any],
) -> None:
    version = installed["python_version"]
    repo = Repo(tmp_path / "sales-pipelines", shared / "home", sys.executable)
    copy(template, repo.folder, **installed)
    git(repo.folder, "init", "--quiet")  # lint checks the files that git would add
    printed = repo.nox(
        *("-s", "lint", "test"),
        UV_PROJECT_ENVIRONMENT=str(shared / version),
        MYPY_CACHE_DIR=str(shared / f"mypy-{version}"),
        UV_PYTHON=pythons()[version],
    )
    assert re.search(r"mypy\.+Passed\n", printed)
    assert "Failed" not in printed
    assert re.search(r"\d+ passed", printed)
    assert "skipped" not in printed
    builds(repo.folder, shared / "home", pythons()[version])


def test_a_repo_for_a_python_that_is_not_installed_passes_ruff_and_builds(
    template: Path, tmp_path: Path, shared: Path, missing: dict[str, Any]
) -> None:
    repo = copy(template, tmp_path / "sales-pipelines", **missing)
    for command in (["check"], ["format", "--check"]):
        process = subprocess.run(
            [sys.executable, "-m", "ruff", *command, "--no-cache", "."],
            cwd=repo,
            capture_output=True,
            text=True,
            check=False,
        )
        assert process.returncode == 0, process.stdout
    builds(repo, shared / "home", sys.executable)


def builds(repo: Path, home: Path, python: str) -> None:
    """Check that the repo's wheel builds, with the package, the license and the answers."""
    uv = shutil.which("uv")
    assert uv, "the session has uv on PATH"
    subprocess.run(
        [uv, "build", "--quiet", "--wheel", "--python", python, "--out-dir", repo / "dist", repo],
        env=clean_environment(home),
        check=True,
    )
    (wheel,) = (repo / "dist").glob("sales_pipelines-*.whl")
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
        (metadata,) = (name for name in names if name.endswith(".dist-info/METADATA"))
        text = archive.read(metadata).decode()
        (licence,) = (name for name in names if name.endswith("/licenses/LICENSE"))
        assert archive.read(licence) == (repo / "LICENSE").read_bytes()
    assert "sales_pipelines/runtime/task/metaflow_task.py" in names
    answers = answers_of(repo)
    assert f"\nRequires-Python: >={answers['python_version']}\n" in text
    assert f"\nSummary: {answers['description']}\n" in text
