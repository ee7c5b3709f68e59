"""If a repo cannot be made, nothing is lost or left half-made, and the message says why."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

from ..conftest import output, unshare

COPIER = [sys.executable, "-m", "copier", "copy", "--defaults", "--quiet"]
COOKIECUTTER = [sys.executable, "-m", "cookiecutter", "--no-input"]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """The user's working folder."""
    for name in ("home", "work"):
        (tmp_path / name).mkdir()
    return tmp_path / "work"


def fails(folder: Path, *command: object) -> str:
    """Run a command in the folder, without a terminal; it must fail. Returns its output."""
    return output(command, folder, folder.parent / "home", exit_code=1)


def test_copier_stops_before_it_overwrites_a_file_without_a_terminal(
    template: Path, folder: Path
) -> None:
    repo = folder / "sales"
    repo.mkdir()
    (repo / "README.md").write_text("mine\n")
    printed = fails(folder, *COPIER, "--data", "kept=", template, repo)
    assert "Consider using `--overwrite`" in printed
    assert (repo / "README.md").read_text() == "mine\n"


def test_cookiecutter_refuses_an_existing_folder(template: Path, folder: Path) -> None:
    repo = folder / "sales"
    repo.mkdir()
    printed = fails(folder, *COOKIECUTTER, template, "repo_name=sales")
    assert 'Error: "sales" directory already exists' in printed
    assert list(repo.iterdir()) == []


@pytest.mark.parametrize("door", ["copier", "cookiecutter"])
def test_a_file_with_the_repo_s_name_is_named_and_kept(
    template: Path, folder: Path, door: str
) -> None:
    (folder / "sales").write_text("mine\n")
    if door == "copier":
        printed = fails(folder, *COPIER, template, folder / "sales")
        assert "Not a directory" in printed
    else:
        printed = fails(folder, *COOKIECUTTER, template, "repo_name=sales")
        assert "already exists" in printed
    assert "sales" in printed
    assert (folder / "sales").read_text() == "mine\n"


@pytest.mark.parametrize("door", ["copier", "cookiecutter"])
def test_a_folder_without_write_permission_is_named(
    template: Path, folder: Path, door: str
) -> None:
    # Root can write anywhere, except in a user namespace where it is nobody.
    as_user = [] if os.geteuid() else unshare("--user")
    closed = folder / "closed"
    closed.mkdir(mode=0o555)
    if door == "copier":
        printed = fails(folder, *as_user, *COPIER, template, closed / "sales")
    else:
        printed = fails(
            folder, *as_user, *COOKIECUTTER, "--output-dir", closed, template, "repo_name=sales"
        )
    assert "Permission denied" in printed or "Unable to create directory" in printed
    assert f"{closed}/sales" in printed
    assert list(closed.iterdir()) == []


@pytest.mark.thorough
@pytest.mark.parametrize("door", ["copier", "cookiecutter"])
def test_a_full_disk_is_named_and_leaves_nothing(template: Path, folder: Path, door: str) -> None:
    command = unshare("--map-root-user", "--mount")
    disk = folder / "disk"
    disk.mkdir()
    make = (
        [*COPIER, template, disk / "sales"]
        if door == "copier"
        else [*COOKIECUTTER, "--output-dir", disk, template, "repo_name=sales"]
    )
    script = 'mount -t tmpfs -o size=100k tmpfs "$0"; "$@"; code=$?; ls -A "$0"; exit $code'
    printed = fails(folder, *command, "sh", "-c", script, disk, *make)
    assert "[Errno 28] No space left on device" in printed
    assert printed.splitlines()[-1] != "sales", "the half-made repo is removed"
    if door == "cookiecutter":
        assert 'copier/_main.py"' not in printed, "Copier's traceback is not shown"
