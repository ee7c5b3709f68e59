"""`nox -s update` as its user calls it, in a repo that is set up; its cases are in tests/quick/."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from ..conftest import FIRST, HERE, SECOND, Repo, commit, copy, git, make_template

BRANCH = f"9_template-{SECOND.replace('.', '-')}"


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Repo:
    """A repo of a template that has a new version since, which needs another package."""
    root = tmp_path_factory.mktemp("update")
    template = make_template(root / "template")
    repo = Repo(root / "sales-pipelines", root / "home", python=sys.executable)
    repo.home.mkdir()
    copy(template, repo.folder, python_version=HERE)
    repo.nox("-s", "setup")
    git(repo.folder, "config", "user.name", "Tester")
    git(repo.folder, "config", "user.email", "t@example.org")
    project = template / "templates" / "{{ pipeline }}" / "pyproject.toml.jinja"
    text = project.read_text()
    assert '"rich>=13.9",' in text
    project.write_text(text.replace('"rich>=13.9",', '"rich>=13.8",'))
    commit(template, "Another package", tag=SECOND)
    return repo


@pytest.fixture
def repo(made: Repo) -> Iterator[Repo]:
    """The repo, as it was after its setup."""
    yield made
    git(made.folder, "switch", "--quiet", "--force", "main")
    git(made.folder, "reset", "--quiet", "--hard", first_commit(made.folder))
    subprocess.run(["git", "-C", made.folder, "branch", "-D", BRANCH], check=False)


def first_commit(folder: Path) -> str:
    return git(folder, "rev-list", "--max-parents=0", "HEAD")


@pytest.mark.thorough
def test_the_lock_file_follows_the_packages(repo: Repo) -> None:
    printed = repo.nox("-s", "update", "--", "--issue", "9")
    assert f"# Template {FIRST} → {SECOND}" in printed
    assert git(repo.folder, "branch", "--show-current") == BRANCH
    changed = git(repo.folder, "diff", "--name-only", "main", "HEAD").splitlines()
    assert changed == [".copier-answers.yml", "pyproject.toml", "uv.lock"]
    repo.nox("-s", "setup")
    assert not git(repo.folder, "status", "--porcelain"), "setup has nothing left to lock"


def commit_unchecked(folder: Path) -> None:
    """Commit everything on the protected branch, which the hooks would refuse."""
    git(folder, "add", "--all")
    git(folder, "commit", "--quiet", "--no-verify", "--message", "Mine")


@pytest.mark.thorough
def test_what_fails_the_check_changes_nothing(repo: Repo) -> None:
    test = repo.folder / "tests" / "test_mine.py"
    test.write_text('"""Mine."""\n\n\ndef test_mine() -> None:\n    assert not 1, "mine fails"\n')
    commit_unchecked(repo.folder)
    printed = repo.nox("-s", "update", "--", "--issue", "9", "--check", exit_code=1)
    assert "mine fails" in printed
    assert "update: the updated repo fails its lint or tests, so nothing has changed" in printed
    assert "it failed before the update, too" in printed
    assert git(repo.folder, "branch", "--show-current") == "main"
    assert BRANCH not in git(repo.folder, "branch", "--list")
    test.write_text(test.read_text().replace("not 1", "1"))
    commit_unchecked(repo.folder)
    repo.nox("-s", "update", "--", "--issue", "9", "--check")
    assert git(repo.folder, "branch", "--show-current") == BRANCH


@pytest.mark.thorough
def test_exit_codes_are_those_of_the_update(repo: Repo) -> None:
    (repo.folder / "README.md").write_text("mine\n")
    repo.nox("-s", "update", "--", "--issue", "9", exit_code=4)
    git(repo.folder, "checkout", "--quiet", "README.md")
    repo.nox("-s", "update", "--", "--issue", "x", exit_code=2)
    repo.nox("-s", "update", "--", "--issue", "9", "--to", "2020.1.0", exit_code=5)
    repo.nox("-s", "update", "--", "--issue", "9", "licence=MIT", exit_code=6)
    assert BRANCH not in git(repo.folder, "branch", "--list")
