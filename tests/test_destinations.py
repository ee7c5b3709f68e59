"""Where a repo cannot be made: nothing is lost, nothing left half-made, and the reason told."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

from .conftest import output, unshare

pytestmark = pytest.mark.end_to_end

COPIER = [sys.executable, "-m", "copier", "copy", "--defaults", "--quiet"]
COOKIECUTTER = [sys.executable, "-m", "cookiecutter", "--no-input"]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Where the user works."""
    for name in ("home", "work"):
        (tmp_path / name).mkdir()
    return tmp_path / "work"


def fails(folder: Path, *command: object) -> str:
    """Run a command in the folder, without a terminal; it must fail. What it prints."""
    return output(command, folder, folder.parent / "home", exit_code=1)


def test_copier_asks_before_it_overwrites_and_without_a_terminal_it_stops(
    template: Path, folder: Path
) -> None:
    repo = folder / "sales"
    repo.mkdir()
    (repo / "README.md").write_text("mine\n")
    said = fails(folder, *COPIER, template, repo)
    assert "Consider using `--overwrite`" in said
    assert (repo / "README.md").read_text() == "mine\n"


def test_cookiecutter_takes_no_folder_that_is_there(template: Path, folder: Path) -> None:
    repo = folder / "sales"
    repo.mkdir()
    said = fails(folder, *COOKIECUTTER, template, "repo_name=sales")
    assert 'Error: "sales" directory already exists' in said
    assert list(repo.iterdir()) == []


@pytest.mark.parametrize("door", ["copier", "cookiecutter"])
def test_a_file_in_the_place_of_the_repo_is_named_and_kept(
    template: Path, folder: Path, door: str
) -> None:
    (folder / "sales").write_text("mine\n")
    if door == "copier":
        said = fails(folder, *COPIER, template, folder / "sales")
        assert "Not a directory" in said
    else:
        said = fails(folder, *COOKIECUTTER, template, "repo_name=sales")
        assert "already exists" in said
    assert "sales" in said
    assert (folder / "sales").read_text() == "mine\n"


@pytest.mark.parametrize("door", ["copier", "cookiecutter"])
def test_a_folder_without_write_permission_is_named(
    template: Path, folder: Path, door: str
) -> None:
    # Root may write anywhere, but not in a user namespace in which it is nobody.
    as_user = [] if os.geteuid() else unshare("--user")
    closed = folder / "closed"
    closed.mkdir(mode=0o555)
    if door == "copier":
        said = fails(folder, *as_user, *COPIER, template, closed / "sales")
    else:
        said = fails(
            folder, *as_user, *COOKIECUTTER, "--output-dir", closed, template, "repo_name=sales"
        )
    assert "Permission denied" in said or "Unable to create directory" in said
    assert f"{closed}/sales" in said
    assert list(closed.iterdir()) == []


@pytest.mark.parametrize("door", ["copier", "cookiecutter"])
def test_a_full_disk_is_told_and_leaves_nothing(template: Path, folder: Path, door: str) -> None:
    within = unshare("--map-root-user", "--mount")
    disk = folder / "disk"
    disk.mkdir()
    make = (
        [*COPIER, template, disk / "sales"]
        if door == "copier"
        else [*COOKIECUTTER, "--output-dir", disk, template, "repo_name=sales"]
    )
    script = 'mount -t tmpfs -o size=100k tmpfs "$0"; "$@"; code=$?; ls -A "$0"; exit $code'
    said = fails(folder, *within, "sh", "-c", script, disk, *make)
    assert "[Errno 28] No space left on device" in said
    assert said.splitlines()[-1] != "sales", "what was made is gone again"
    if door == "cookiecutter":
        assert 'copier/_main.py"' not in said, "a sentence, no traceback of Copier's"
