"""No git command takes a repo from the environment, where git puts one for its hooks."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from ..conftest import ROOT, clean_environment, commit, git

Run = Callable[..., str]


class Victim:
    """Somebody's repo that no command is meant for, and the variables that name it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        git(folder.parent, "init", "--quiet", "--initial-branch=main", str(folder))
        (folder / "mine.txt").write_text("mine\n")
        commit(folder, "Mine", tag="2020.1.0")
        (folder / "mine.txt").write_text("edited\n")
        self.before = self.state()

    @property
    def variables(self) -> dict[str, str]:
        """As `git rebase --exec` in a linked work tree sets them, and as hooks have them."""
        folder = str(self.folder / ".git")
        return {
            "GIT_DIR": folder,
            "GIT_WORK_TREE": str(self.folder),
            "GIT_COMMON_DIR": folder,
            "GIT_INDEX_FILE": f"{folder}/index",
            "GIT_OBJECT_DIRECTORY": f"{folder}/objects",
            "GIT_PREFIX": "",
        }

    def state(self) -> list[str]:
        """Everything that a git command could change."""
        asked = (("for-each-ref",), ("config", "--local", "--list"), ("status", "--porcelain"))
        hooks = sorted(path.name for path in (self.folder / ".git" / "hooks").iterdir())
        return [*(git(self.folder, *command) for command in asked), *hooks]


@pytest.fixture
def victim(tmp_path: Path) -> Victim:
    return Victim(tmp_path / "victim")


@pytest.fixture
def run(victim: Victim, tmp_path: Path) -> Iterator[Run]:
    """A function that runs a command where the variables name the victim."""
    (tmp_path / "home").mkdir()

    def run(folder: Path, *command: object, **variables: str) -> str:
        done = subprocess.run(
            list(map(str, command)),
            cwd=folder,
            env=clean_environment(tmp_path / "home", **victim.variables, **variables),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stdout
        return done.stdout

    yield run
    assert victim.state() == victim.before


@pytest.mark.thorough
def test_the_tests_themselves_leave_another_repo_alone(run: Run, victim: Victim) -> None:
    tests = ("tests/quick/test_calver.py", "tests/quick/test_release.py")
    some = "the_first_commit or a_release_makes"
    arguments = ("-m", "pytest", "-q", "-p", "no:cacheprovider", "-n", "0", "-k", some, *tests)
    temporary = str(victim.folder.parent / "temporary")
    Path(temporary).mkdir()
    assert "2 passed" in run(ROOT, sys.executable, *arguments, PYTEST_DEBUG_TEMPROOT=temporary)


def test_hooks_are_installed_in_the_repo_of_the_script(run: Run, repo: Path) -> None:
    run(repo, "hooks/install")
    assert "git-hook" in (repo / ".git" / "hooks" / "pre-commit").read_text()


def test_a_release_is_made_in_the_current_folder(run: Run, repo: Path) -> None:
    git(repo, "config", "user.name", "Tester")
    git(repo, "config", "user.email", "t@example.org")
    changelog = repo / "CHANGELOG.md"
    changelog.write_text(changelog.read_text().replace("Unreleased\n", "Unreleased\n\n- A.\n", 1))
    (repo / "uv.lock").write_text("")
    pyproject = repo / "pyproject.toml"
    pyproject.write_text(pyproject.read_text().replace('filename = "uv.lock"', 'filename = "no"'))
    commit(repo, "News")
    assert "Released" in run(repo, sys.executable, "hooks/release.py", "--local")
    assert git(repo, "describe", "--exact-match")


def test_the_version_has_the_commit_of_the_package(run: Run, repo: Path) -> None:
    code = "import sales_pipelines; print(sales_pipelines.__version__)"
    printed = run(repo.parent, sys.executable, "-c", code, PYTHONPATH=str(repo))
    assert git(repo, "rev-parse", "--short=7", "HEAD") in printed


def test_status_reports_on_the_repo_of_its_package(run: Run, repo: Path) -> None:
    module = ("-m", "sales_pipelines.runtime", "status")
    printed = run(repo, sys.executable, *module, PYTHONPATH=str(repo))
    assert git(repo, "rev-parse", "--short=7", "HEAD") in printed
    assert "not committed" not in printed


@pytest.mark.parametrize("whose", ["the template's", "the repo's"])
def test_sessions_of_nox_start_without_the_variables(
    run: Run, plain_template: Path, repo: Path, victim: Victim, whose: str
) -> None:
    folder = plain_template if whose == "the template's" else repo
    code = "import os, sys, unittest.mock\n"
    code += "sys.modules['nox'] = sys.modules['nox.command'] = unittest.mock.MagicMock()\n"
    code += "import noxfile; print([name for name in os.environ if name.startswith('GIT_')])"
    settings = {"GIT_CONFIG_COUNT": "1", "GIT_CONFIG_KEY_0": "a.b", "GIT_CONFIG_VALUE_0": "c"}
    printed = run(folder, sys.executable, "-c", code, PYTHONPATH=str(folder), **settings)
    assert sorted(ast.literal_eval(printed)) == sorted(settings)
