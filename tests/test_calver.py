"""The version rule: which versions may be committed, and where."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from .conftest import ROOT, commit, git, output

SCRIPT = ROOT / "hooks" / "calver"
NOVEMBER = "2026-11-20T12:00:00+00:00"


@pytest.fixture
def repo(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A repo that was made in November 2026, with version 2026.11.2; and it is still November."""
    folder, path = tmp_path / "repo", tmp_path / "bin"
    folder.mkdir()
    monkeypatch.setenv("GIT_COMMITTER_DATE", NOVEMBER)
    monkeypatch.setenv("PATH", f"{path}:{os.environ['PATH']}")
    clock(folder, "2026-11-20")
    git(folder, "init", "--quiet", "--initial-branch=main")
    write(folder, "2026.11.2")
    commit(folder, "A version")
    return folder


def clock(repo: Path, date: str) -> None:
    """Let the clock show this date."""
    fake = repo.parent / "bin" / "date"
    fake.parent.mkdir(exist_ok=True)
    fake.write_text(f'#!/bin/sh\nPATH=/usr/bin:/bin exec date --date={date} "$@"\n')
    fake.chmod(0o755)


def write(repo: Path, version: str) -> None:
    """Let it have this version, and stage it."""
    text = f'[tool.x]\nversion = "1"\n\n[project]\nname = "sales"\nversion = "{version}"\n'
    (repo / "pyproject.toml").write_text(text)
    git(repo, "add", "pyproject.toml")


def said(repo: Path, exit_code: int = 0, *arguments: str) -> str:
    """Run the script, which must exit so, and return all that it prints."""
    return output([SCRIPT, *arguments], repo, repo.parent, exit_code)


@pytest.mark.parametrize("version", ["2026.11.2", "2026.11.3", "2026.11.10"])
def test_the_months_next_version_is_taken(repo: Path, version: str) -> None:
    write(repo, version)
    assert said(repo) == ""


@pytest.mark.parametrize(
    "version",
    [
        *("1.2.3", "2026.11", "2026.11.3.1", "2026.13.0", "2026.0.1", "20261120", "2026-11-20"),
        *("2026.11.03", "2026.01.0", "2026.11.3rc1", "2026.11.3+local", "v2026.11.3", "2026.11.x"),
        *("0", "26.11.0", "2026.11.3 ", "${VERSION}", "2026.11.9999999999"),
    ],
)
def test_what_is_no_calver_is_refused_with_the_rule(repo: Path, version: str) -> None:
    write(repo, version)
    refusal = said(repo, 1)
    assert f"version '{version}' is not YYYY.M.N" in refusal
    assert "2026.11.0" in refusal


@pytest.mark.parametrize("version", ["2026.11.1", "2026.10.9", "2025.12.9"])
def test_it_never_goes_behind_the_last_commit(repo: Path, version: str) -> None:
    write(repo, version)
    assert f"version {version} goes back, 2026.11.2 came before" in said(repo, 1)


def test_it_never_goes_behind_the_last_tag(repo: Path) -> None:
    git(repo, "tag", "2026.10.9")
    git(repo, "tag", "2026.11.9")
    git(repo, "tag", "2026.11.10")
    git(repo, "tag", "20261231")  # no version of ours
    write(repo, "2026.11.9")
    assert "2026.11.10 came before" in said(repo, 1)
    write(repo, "2026.11.10")
    assert said(repo) == ""


def test_the_tag_of_another_branch_does_not_count(repo: Path) -> None:
    git(repo, "switch", "--quiet", "--create", "6_other")
    (repo / "a.txt").write_text("a\n")
    commit(repo, "A file", tag="2026.11.8")
    git(repo, "switch", "--quiet", "main")
    write(repo, "2026.11.3")
    assert said(repo) == ""


@pytest.mark.parametrize("version", ["2026.12.0", "2027.1.0", "2027.11.2"])
def test_a_month_to_come_is_refused(repo: Path, version: str) -> None:
    write(repo, version)
    assert f"version {version} is of a month to come, and it is 2026.11" in said(repo, 1)


@pytest.mark.parametrize(
    ("date", "version"),
    [("2026-12-01", "2026.12.0"), ("2027-01-01", "2027.1.0"), ("2027-08-31", "2027.8.0")],
)
def test_a_month_that_has_come_is_taken(repo: Path, date: str, version: str) -> None:
    clock(repo, date)
    write(repo, version)
    assert said(repo) == ""


def test_with_a_clock_that_is_behind_the_last_commit_and_tag_count(
    repo: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock(repo, "2026-10-20")
    write(repo, "2026.11.3")
    assert said(repo) == ""  # the last commit is of November
    write(repo, "2026.12.0")
    said(repo, 1)
    git(repo, "tag", "2026.12.0")
    write(repo, "2026.12.1")
    assert said(repo) == ""


def test_a_branch_for_an_issue_keeps_the_version_that_it_has(repo: Path) -> None:
    git(repo, "switch", "--quiet", "--create", "6_readme")
    write(repo, "2026.11.3")
    refusal = said(repo, 1)
    assert "version 2026.11.3 on branch 6_readme" in refusal
    assert 'version = "2026.11.2"' in refusal
    write(repo, "2026.11.2")
    assert said(repo) == ""


def test_a_branch_that_is_behind_the_main_one_may_change_other_lines(repo: Path) -> None:
    git(repo, "branch", "6_readme")
    write(repo, "2026.11.3")
    commit(repo, "Release 2026.11.3", tag="2026.11.3")
    git(repo, "switch", "--quiet", "6_readme")
    with (repo / "pyproject.toml").open("a") as opened:
        opened.write('dependencies = ["numpy"]\n')
    git(repo, "add", "--all")
    assert said(repo) == ""


@pytest.mark.parametrize("how", ["local", "remote", "another branch"])
def test_a_merge_brings_the_main_branchs_version(repo: Path, tmp_path: Path, how: str) -> None:
    git(repo, "branch", "6_readme")
    write(repo, "2026.11.3")
    commit(repo, "Release 2026.11.3")
    work, source = repo, "main"
    if how == "remote":  # main is not checked out here
        work, source = tmp_path / "clone", "origin/main"
        git(repo, "clone", "--quiet", "--branch=6_readme", str(repo), str(work))
    else:
        git(repo, "switch", "--quiet", "6_readme")
    if how == "another branch":
        git(repo, "branch", "7_other", "main")
        source = "7_other"
    (work / "a.txt").write_text("a\n")
    commit(work, "A file")
    git(work, "merge", "--quiet", "--no-ff", "--no-commit", source)
    assert said(work) == ""
    write(work, "2026.11.4")
    said(work, 1)
    assert said(work, 0, "--merge") == ""
    write(work, "2026.11.1")
    said(work, 1, "--merge")


def test_a_squash_of_the_remotes_main_branch_brings_its_version(repo: Path, tmp_path: Path) -> None:
    git(repo, "branch", "6_readme")
    write(repo, "2026.11.3")
    commit(repo, "Release 2026.11.3")
    git(tmp_path, "clone", "--quiet", "--branch=6_readme", str(repo), "clone")
    git(tmp_path / "clone", "merge", "--quiet", "--squash", "origin/main")
    assert said(tmp_path / "clone") == ""


def test_the_staged_version_counts_and_not_that_of_the_file(repo: Path) -> None:
    write(repo, "1.0")
    (repo / "pyproject.toml").write_text('[project]\nversion = "2026.11.3"\n')
    said(repo, 1)


@pytest.mark.parametrize(
    "text",
    [
        "[project]\r\nversion = '2026.11.3'\r\n",
        '[ project ] # what it is\n  version="2026.11.3" # bumped\n',
        '[project]\nname = "a"\nversion = "2026.11.3"\n[project.urls]\nversion = "1"\n',
    ],
)
def test_the_version_is_read_however_it_is_written(repo: Path, text: str) -> None:
    (repo / "pyproject.toml").write_bytes(text.encode())
    git(repo, "-c", "core.autocrlf=false", "add", "pyproject.toml")
    assert said(repo) == ""
    git(repo, "switch", "--quiet", "--create", "6_readme")
    assert "version 2026.11.3" in said(repo, 1)


@pytest.mark.parametrize("text", ["", "[project\nversion", '[tool.a]\nversion = "2026.11.3"\n'])
def test_without_a_version_that_can_be_read_one_sentence_says_so(repo: Path, text: str) -> None:
    (repo / "pyproject.toml").write_text(text)
    git(repo, "add", "pyproject.toml")
    assert "has no version" in said(repo, 1)


def test_what_has_no_version_has_nothing_to_refuse(tmp_path: Path) -> None:
    git(tmp_path, "init", "--quiet")
    assert said(tmp_path) == ""


def test_the_first_commit_of_all_may_have_any_version_up_to_now(repo: Path, tmp_path: Path) -> None:
    fresh = tmp_path / "fresh"
    git(tmp_path, "init", "--quiet", "--initial-branch=main", str(fresh))
    write(fresh, "2026.11.0")
    assert said(fresh) == ""
    write(fresh, "2026.12.0")
    said(fresh, 1)


def test_a_commit_on_no_branch_is_judged_by_its_version_alone(repo: Path) -> None:
    git(repo, "switch", "--quiet", "--detach")
    write(repo, "2026.11.3")
    assert said(repo) == ""
