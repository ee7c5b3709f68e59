"""The version rule: which versions can be committed, and on which branches."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from ..conftest import ROOT, commit, git, output
from .test_release import SETTINGS, set_user_settings

SCRIPT = ROOT / "hooks" / "calver"
NOVEMBER = "2026-11-20T12:00:00+00:00"


@pytest.fixture
def repo(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A repo of November 2026 with version 2026.11.2; the clock is in that month too."""
    folder, programs = tmp_path / "repo", tmp_path / "bin"
    folder.mkdir()
    monkeypatch.setenv("GIT_COMMITTER_DATE", NOVEMBER)
    monkeypatch.setenv("PATH", f"{programs}:{os.environ['PATH']}")
    set_clock(folder, "2026-11-20")
    git(folder, "init", "--quiet", "--initial-branch=main")
    write(folder, "2026.11.2")
    commit(folder, "A version")
    return folder


def set_clock(repo: Path, date: str) -> None:
    """Make `date` print this date."""
    fake = repo.parent / "bin" / "date"
    fake.parent.mkdir(exist_ok=True)
    fake.write_text(f'#!/bin/sh\nPATH=/usr/bin:/bin exec date --date={date} "$@"\n')
    fake.chmod(0o755)


def write(repo: Path, version: str) -> None:
    """Stage a pyproject.toml with this version."""
    text = f'[tool.x]\nversion = "1"\n\n[project]\nname = "sales"\nversion = "{version}"\n'
    (repo / "pyproject.toml").write_text(text)
    git(repo, "add", "pyproject.toml")


def check(repo: Path, exit_code: int = 0, *arguments: str) -> str:
    """Run the script, which must exit with this code, and return its output."""
    return output([SCRIPT, *arguments], repo, repo.parent, exit_code)


@pytest.mark.parametrize("version", ["2026.11.2", "2026.11.3", "2026.11.10"])
def test_a_later_version_of_the_month_is_valid(repo: Path, version: str) -> None:
    write(repo, version)
    assert check(repo) == ""


@pytest.mark.parametrize(
    "version",
    [
        *("1.2.3", "2026.11", "2026.11.3.1", "2026.13.0", "2026.0.1", "20261120", "2026-11-20"),
        *("2026.11.03", "2026.01.0", "2026.11.3rc1", "2026.11.3+local", "v2026.11.3", "2026.11.x"),
        *("0", "26.11.0", "2026.11.3 ", "${VERSION}", "2026.11.9999999999"),
    ],
)
def test_a_version_that_is_no_calver_fails_with_the_rule_and_an_example(
    repo: Path, version: str
) -> None:
    write(repo, version)
    failure = check(repo, 1)
    assert f"version '{version}' is not YYYY.M.N" in failure
    assert "\nhint: use a version without leading zeros, e.g. 2026.11.0\n" in failure


@pytest.mark.parametrize("version", ["2026.11.1", "2026.10.9", "2025.12.9"])
def test_a_version_must_not_be_lower_than_the_last_commit_s(repo: Path, version: str) -> None:
    write(repo, version)
    failure = check(repo, 1)
    assert f"version {version} is lower than 2026.11.2, which came before" in failure
    assert '\nhint: put back version = "2026.11.2"' in failure


def test_a_version_must_not_be_lower_than_the_last_tag(repo: Path) -> None:
    git(repo, "tag", "2026.10.9")
    git(repo, "tag", "2026.11.9")
    git(repo, "tag", "2026.11.10")
    git(repo, "tag", "20261231")  # not a CalVer
    write(repo, "2026.11.9")
    assert "is lower than 2026.11.10, which came before" in check(repo, 1)
    write(repo, "2026.11.10")
    assert check(repo) == ""


@pytest.mark.parametrize("kind", SETTINGS)
def test_no_setting_of_the_user_s_changes_what_is_compared(repo: Path, kind: str) -> None:
    set_user_settings(repo.parent, kind)  # the user's home
    for tag in ("2026.9.9", "2026.11.9", "2026.11.10", "2026.10.1"):
        git(repo, "tag", tag)
    write(repo, "2026.11.9")
    assert "is lower than 2026.11.10, which came before" in check(repo, 1)
    set_clock(repo, "2026-10-20")
    write(repo, "2026.11.11")
    assert check(repo) == "", "the last commit is of November"


def test_the_tag_of_another_branch_does_not_count(repo: Path) -> None:
    git(repo, "switch", "--quiet", "--create", "6_other")
    (repo / "a.txt").write_text("a\n")
    commit(repo, "A file", tag="2026.11.8")
    git(repo, "switch", "--quiet", "main")
    write(repo, "2026.11.3")
    assert check(repo) == ""


@pytest.mark.parametrize("version", ["2026.12.0", "2027.1.0", "2027.11.2"])
def test_a_version_of_a_future_month_is_refused(repo: Path, version: str) -> None:
    write(repo, version)
    assert f"version {version} is of a future month; now is 2026.11" in check(repo, 1)


@pytest.mark.parametrize(
    ("date", "version"),
    [("2026-12-01", "2026.12.0"), ("2027-01-01", "2027.1.0"), ("2027-08-31", "2027.8.0")],
)
def test_a_version_of_a_new_month_is_valid_when_the_month_begins(
    repo: Path, date: str, version: str
) -> None:
    set_clock(repo, date)
    write(repo, version)
    assert check(repo) == ""


def test_when_the_clock_is_behind_the_last_commit_and_tag_count(
    repo: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    set_clock(repo, "2026-10-20")
    write(repo, "2026.11.3")
    assert check(repo) == ""  # the last commit is of November
    write(repo, "2026.12.0")
    check(repo, 1)
    git(repo, "tag", "2026.12.0")
    write(repo, "2026.12.1")
    assert check(repo) == ""


def test_a_branch_for_an_issue_cannot_change_the_version(repo: Path) -> None:
    git(repo, "switch", "--quiet", "--create", "6_readme")
    write(repo, "2026.11.3")
    failure = check(repo, 1)
    assert "version 2026.11.3 on branch 6_readme" in failure
    assert 'version = "2026.11.2"' in failure
    write(repo, "2026.11.2")
    assert check(repo) == ""


def test_a_branch_behind_the_main_branch_can_change_other_lines(repo: Path) -> None:
    git(repo, "branch", "6_readme")
    write(repo, "2026.11.3")
    commit(repo, "Release 2026.11.3", tag="2026.11.3")
    git(repo, "switch", "--quiet", "6_readme")
    with (repo / "pyproject.toml").open("a") as opened:
        opened.write('dependencies = ["numpy"]\n')
    git(repo, "add", "--all")
    assert check(repo) == ""


@pytest.mark.parametrize("main", ["local", "remote", "another branch"])
def test_a_merge_can_bring_the_main_branch_s_version(repo: Path, tmp_path: Path, main: str) -> None:
    git(repo, "branch", "6_readme")
    write(repo, "2026.11.3")
    commit(repo, "Release 2026.11.3")
    work, source = repo, "main"
    if main == "remote":  # there is no local main
        work, source = tmp_path / "clone", "origin/main"
        git(repo, "clone", "--quiet", "--branch=6_readme", str(repo), str(work))
    else:
        git(repo, "switch", "--quiet", "6_readme")
    if main == "another branch":
        git(repo, "branch", "7_other", "main")
        source = "7_other"
    (work / "a.txt").write_text("a\n")
    commit(work, "A file")
    git(work, "merge", "--quiet", "--no-ff", "--no-commit", source)
    assert check(work) == ""
    write(work, "2026.11.4")
    check(work, 1)
    assert check(work, 0, "--merge") == ""
    write(work, "2026.11.1")
    check(work, 1, "--merge")


def test_a_squash_of_the_remote_s_main_branch_can_bring_its_version(
    repo: Path, tmp_path: Path
) -> None:
    git(repo, "branch", "6_readme")
    write(repo, "2026.11.3")
    commit(repo, "Release 2026.11.3")
    git(tmp_path, "clone", "--quiet", "--branch=6_readme", str(repo), "clone")
    git(tmp_path / "clone", "merge", "--quiet", "--squash", "origin/main")
    assert check(tmp_path / "clone") == ""


def test_the_staged_version_is_checked_and_not_that_of_the_file(repo: Path) -> None:
    write(repo, "1.0")
    (repo / "pyproject.toml").write_text('[project]\nversion = "2026.11.3"\n')
    check(repo, 1)


@pytest.mark.parametrize(
    "text",
    [
        "[project]\r\nversion = '2026.11.3'\r\n",
        '[ project ] # a table\n  version="2026.11.3" # bumped\n',
        '[project]\nname = "a"\nversion = "2026.11.3"\n[project.urls]\nversion = "1"\n',
    ],
)
def test_the_version_is_read_from_any_valid_spelling(repo: Path, text: str) -> None:
    (repo / "pyproject.toml").write_bytes(text.encode())
    git(repo, "-c", "core.autocrlf=false", "add", "pyproject.toml")
    assert check(repo) == ""
    git(repo, "switch", "--quiet", "--create", "6_readme")
    assert "version 2026.11.3" in check(repo, 1)


@pytest.mark.parametrize("text", ["", "[project\nversion", '[tool.a]\nversion = "2026.11.3"\n'])
def test_a_pyproject_without_a_version_fails_with_a_hint(repo: Path, text: str) -> None:
    (repo / "pyproject.toml").write_text(text)
    git(repo, "add", "pyproject.toml")
    assert 'has no version under [project]\nhint: add version = "2026.11.0"' in check(repo, 1)


def test_a_repo_without_pyproject_passes(tmp_path: Path) -> None:
    git(tmp_path, "init", "--quiet")
    assert check(tmp_path) == ""


def test_the_first_commit_can_have_any_version_up_to_now(repo: Path, tmp_path: Path) -> None:
    fresh = tmp_path / "fresh"
    git(tmp_path, "init", "--quiet", "--initial-branch=main", str(fresh))
    write(fresh, "2026.11.0")
    assert check(fresh) == ""
    write(fresh, "2026.12.0")
    check(fresh, 1)


def test_a_commit_on_a_detached_head_is_checked_by_its_version_only(repo: Path) -> None:
    git(repo, "switch", "--quiet", "--detach")
    write(repo, "2026.11.3")
    assert check(repo) == ""
