"""A template to copy from: this working tree, what is not committed included, as a tagged repo."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import copier
import pytest

ROOT = Path(__file__).resolve().parent.parent
FIRST, SECOND = "2026.11.0", "2026.11.1"
HERE = f"{sys.version_info[0]}.{sys.version_info[1]}"

Generate = Callable[..., Path]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """What takes longest begins first, so that two workers end together."""
    items.sort(key=lambda item: item.get_closest_marker("end_to_end") is None)


def git(folder: Path, *arguments: str) -> str:
    """Run git in the folder and return what it prints."""
    command = ["git", "-C", str(folder), "-c", "user.name=Tester", "-c", "user.email=t@example.org"]
    return subprocess.run(
        [*command, *arguments], check=True, capture_output=True, text=True
    ).stdout.strip()


def commit(folder: Path, message: str, tag: str | None = None) -> None:
    """Commit everything in the folder, and tag it."""
    git(folder, "add", "--all")
    git(folder, "commit", "--quiet", "--message", message)
    if tag:
        git(folder, "tag", tag)


def copy_working_tree(folder: Path) -> Path:
    """Copy what git tracks here, or would track, into the folder."""
    listed = git(ROOT, "ls-files", "--cached", "--others", "--exclude-standard", "-z")
    for name in filter(None, listed.split("\0")):
        if (ROOT / name).is_file():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, folder / name)
    return folder


def make_template(folder: Path) -> Path:
    """The working tree as a git repo with one commit, tagged FIRST."""
    copy_working_tree(folder)
    git(folder, "init", "--quiet", "--initial-branch=main")
    commit(folder, "The template", tag=FIRST)
    return folder


@pytest.fixture(scope="session")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The template as a tagged git repo; shared, so never changed by a test."""
    return make_template(tmp_path_factory.mktemp("template"))


@pytest.fixture(scope="session")
def plain_template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The template as a folder without git, from which copying is quicker."""
    return copy_working_tree(tmp_path_factory.mktemp("plain"))


@pytest.fixture
def generate(plain_template: Path, tmp_path: Path) -> Generate:
    """A function that copies the template with the given answers, and returns the repo's folder."""

    def generate(folder: str = "sales-pipelines", **answers: Any) -> Path:
        destination = tmp_path / folder
        copier.run_copy(
            str(plain_template),
            destination,
            data=answers,
            defaults=True,
            quiet=True,
            overwrite=True,
        )
        return destination

    return generate


def clean_environment(home: Path, **more: str) -> dict[str, str]:
    """This environment without what tells Python tools how to behave, and with an empty home."""
    kept = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("UV_", "NOX", "VIRTUAL_ENV", "METAFLOW", "PYTHON", "LUIGI"))
    }
    return {**kept, "HOME": str(home), "UV_CACHE_DIR": uv_cache(), **more}


def uv_cache() -> str:
    """uv's cache as it is here: what has been downloaded once serves every test."""
    return os.environ.get("UV_CACHE_DIR") or str(Path.home() / ".cache" / "uv")


def noxfile(
    folder: Path,
    home: Path,
    *arguments: str,
    python: str = sys.executable,
    exit_code: int = 0,
    **variables: str,
) -> str:
    """Run the folder's noxfile.py, which must exit so, and return what it prints."""
    done = subprocess.run(
        [python, "noxfile.py", *arguments],
        cwd=folder,
        env=clean_environment(home, **variables),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    assert done.returncode == exit_code, done.stdout
    return done.stdout


@dataclass
class Repo:
    """A generated repo that has been set up."""

    folder: Path
    home: Path
    python: str

    def nox(self, *arguments: str, exit_code: int = 0, **variables: str) -> str:
        """Run the noxfile with the repo's Python and return what it prints."""
        return noxfile(
            self.folder, self.home, *arguments, python=self.python, exit_code=exit_code, **variables
        )


SetUp = Callable[..., Repo]


@pytest.fixture(scope="module")
def set_up(template: Path, tmp_path_factory: pytest.TempPathFactory) -> SetUp:
    """A function that makes a repo and runs its `setup`."""

    def set_up(name: str, python: str = sys.executable, **answers: object) -> Repo:
        root = tmp_path_factory.mktemp("repo")
        repo = Repo(root / name, root / "home", python)
        repo.home.mkdir()
        copier.run_copy(str(template), repo.folder, data=answers, defaults=True, quiet=True)
        repo.nox("-s", "setup")
        return repo

    return set_up
