"""`nox -s fleet`: many repos, of which each is another case."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from ..conftest import FIRST, ROOT, SECOND, Terminal, clean_environment, commit, git
from .test_nox_update import BRANCH, ERRORS, first, released, replace, set_answer, write

__all__ = ["first", "released"]  # the fixtures


def fleet(folder: Path, *arguments: str, code: int = 0, **variables: str) -> str:
    """What the command prints, which must exit with this code."""
    temporary = folder.parent / "tmp"
    temporary.mkdir(exist_ok=True)
    done = subprocess.run(
        [sys.executable, str(ROOT / "hooks" / "fleet.py"), *arguments],
        cwd=folder,
        env=clean_environment(folder.parent / "home", TMPDIR=str(temporary), **variables),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    assert done.returncode == code, done.stdout
    assert "Traceback" not in done.stdout
    return done.stdout


@pytest.fixture
def folder(first: Path, tmp_path: Path) -> Path:
    """A folder with repos of all sorts."""
    (tmp_path / "home").mkdir()
    repos = tmp_path / "repos"
    for name in (
        *("conflict", "detached", "dirty", "elsewhere", "gone", "plain", "pushed", "taken"),
        *("unborn", "ünïcödé and spaces"),
    ):
        shutil.copytree(first, repos / name, symlinks=True)
    replace(repos / "conflict" / ERRORS, '"""Errors that', '"""My errors that')
    commit(repos / "conflict", "Mine")
    git(repos / "detached", "switch", "--quiet", "--detach")
    write(repos / "dirty" / "docs" / "s3.md", "mine\n")
    change(repos / "elsewhere", "package_name: sales_pipelines\n", "")
    set_source(repos / "gone", "/nowhere/template")
    git(tmp_path, "init", "--quiet", "--bare", "remote.git")
    git(repos / "pushed", "remote", "add", "origin", str(tmp_path / "remote.git"))
    git(repos / "taken", "branch", BRANCH)
    shutil.rmtree(repos / "unborn" / ".git")
    git(repos / "unborn", "init", "--quiet")
    write(repos / "no-repo" / "a.txt", "a\n")
    return repos


def change(repo: Path, old: str, new: str) -> None:
    replace(repo / ".copier-answers.yml", old, new)
    commit(repo, "Change the answers")


def set_source(repo: Path, source: str) -> None:
    from .test_nox_update import Repo

    set_answer(Repo(repo, repo), "_src_path", source)
    commit(repo, "Change the answers")


STATES = {
    "conflict": ("conflict", ERRORS),
    "detached": ("refused", "no branch is checked out"),
    "dirty": ("refused", "uncommitted changes in docs/s3.md"),
    "elsewhere": ("refused", "another template"),
    "gone": ("failed", "cannot read the template /nowhere/template"),
    "plain": ("updated", BRANCH),
    "pushed": ("updated", BRANCH),
    "taken": ("refused", f"the branch {BRANCH} exists already"),
    "unborn": ("refused", "no commit"),
    "ünïcödé and spaces": ("updated", BRANCH),
}


def test_each_repo_is_updated_or_the_reason_is_named(folder: Path) -> None:
    report = folder.parent / "report.json"
    printed = fleet(folder, "--update", "--issue", "9", "--report", "../report.json", ".", code=3)
    lines = {Path(line["repo"]).name: line for line in json.loads(report.read_text())}
    assert {*lines} == {*STATES}
    for name, (state, text) in STATES.items():
        assert lines[name]["state"] == state, lines[name]
        assert text in json.dumps(lines[name], ensure_ascii=False)
        (row,) = [row for row in printed.splitlines() if f"/repos/{name}\t" in row]
        assert row.startswith(f"{state}\t")
        assert text in row
        if state == "updated":
            assert git(folder / name, "branch", "--show-current") == BRANCH
            assert not git(folder / name, "status", "--porcelain")
        assert len(git(folder / name, "worktree", "list").splitlines()) <= 1
    assert "3 updated" in printed
    assert not [*(folder.parent / "tmp").iterdir()]


@pytest.mark.thorough
def test_the_same_command_takes_up_what_is_left(folder: Path) -> None:
    for name in STATES:
        if STATES[name][0] in ("failed", "refused"):
            shutil.rmtree(folder / name)
    command = ("--update", "--issue", "9", ".")
    fleet(folder, *command, code=3)
    heads = {name: git(folder / name, "rev-parse", "HEAD") for name in ("plain", "pushed")}
    printed = fleet(folder, *command, code=3)
    assert printed.count("up to date\t") == 3
    assert f"conflict\t{folder}/conflict\t{FIRST}\t{SECOND}\t{ERRORS}: left by" in printed
    git(folder / "conflict", "checkout", "--quiet", "--theirs", ERRORS)
    commit(folder / "conflict", "Update the template")
    printed = fleet(folder, *command, "--push", code=1)  # most have no remote
    assert printed.count("not pushed\t") == 3
    assert printed.count("no remote (git remote add") == 3
    assert printed.count(", pushed") == 1
    assert git(folder.parent / "remote.git", "rev-parse", BRANCH) == heads["pushed"]
    assert {name: git(folder / name, "rev-parse", "HEAD") for name in heads} == heads


def test_which_are_behind_is_shown_without_an_update(folder: Path, released: Path) -> None:
    listed = folder.parent / "list.txt"
    listed.write_text("# ours\nrepos/plain\nrepos/pushed   # twice\n\nrepos/plain\nrepos/gone\n")
    printed = fleet(folder, "../list.txt", code=1)
    assert f"behind\t{folder}/plain\t{FIRST}\t{SECOND}\t1 version behind\n" in printed
    assert "fleet: 2 behind, 1 failed\n" in printed
    printed = fleet(folder, "plain", "--to", FIRST)
    assert printed.startswith("up to date\t")
    fleet(folder, "--report", "../table.md", "plain")
    assert (folder.parent / "table.md").read_text().splitlines()[2] == (
        f"| {folder}/plain | {FIRST} | {SECOND} | behind | 1 version behind |"
    )


@pytest.mark.thorough
def test_a_template_that_cannot_be_read_is_asked_once(folder: Path) -> None:
    trace = folder.parent / "trace"
    for name in ("plain", "pushed"):
        set_source(folder / name, "/nowhere/template")
    command = ("--update", "--issue", "9", "plain", "pushed", "gone")
    printed = fleet(folder, *command, code=1, GIT_TRACE=str(trace))
    for name in ("plain", "pushed", "gone"):
        (row,) = [row for row in printed.splitlines() if f"/repos/{name}\t" in row]
        assert row.startswith("failed\t")
        assert "cannot read the template /nowhere/template: " in row
    assert trace.read_text().count("git ls-remote") == 1


@pytest.mark.thorough
def test_folders_of_one_git_repo_are_updated_one_after_the_other(folder: Path) -> None:
    mono = folder.parent / "mono"
    mono.mkdir()
    for name in ("sales", "stock"):
        shutil.move(folder / ("plain" if name == "sales" else "conflict"), mono / name)
        shutil.rmtree(mono / name / ".git")
    git(mono, "init", "--quiet", "--initial-branch=main")
    git(mono, "config", "user.name", "Tester")
    git(mono, "config", "user.email", "t@example.org")
    commit(mono, "Both")
    printed = fleet(folder, "--update", "--issue", "9", "../mono", code=3)
    assert f"updated\t{mono}/sales\t{FIRST}\t{SECOND}\t" in printed
    assert f"on {BRANCH}-sales\n" in printed
    assert (
        f"conflict\t{mono}/stock\t{FIRST}\t{SECOND}\t{ERRORS}: line 1, on {BRANCH}-stock" in printed
    )
    assert git(mono, "diff", "--name-only", "--diff-filter=U") == f"stock/{ERRORS}"
    printed = fleet(folder, "--update", "--issue", "9", "../mono", code=3)
    assert f"up to date\t{mono}/sales\t" in printed
    assert f"conflict\t{mono}/stock\t" in printed


@pytest.mark.thorough
def test_a_preview_changes_no_repo(folder: Path) -> None:
    before = [git(folder / name, "for-each-ref") for name in ("plain", "conflict", "dirty")]
    printed = fleet(folder, "--preview", "plain", "conflict", "dirty", code=3)
    for state, name in (("update", "plain"), ("conflict", "conflict"), ("update", "dirty")):
        assert f"would {state}\t{folder}/{name}\t" in printed
    assert before == [git(folder / name, "for-each-ref") for name in ("plain", "conflict", "dirty")]


@pytest.mark.thorough
@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (["--update", "plain"], "--update needs --issue"),
        (["--push", "plain"], "--push and --check go with --update"),
        (["--jobs", "0", "plain"], "--jobs is at least 1"),
        (["--report", "x.txt", "plain"], "ends in .md or .json"),
        (["--update", "--issue", "x", "plain"], "is no issue's number"),
        (["nowhere"], "cannot read the list of repos"),
        ([], "FILE_OR_FOLDER"),
    ],
)
def test_wrong_usage_is_named(folder: Path, arguments: list[str], text: str) -> None:
    assert text in fleet(folder, *arguments, code=2)


@pytest.mark.thorough
def test_only_the_branch_of_the_update_is_pushed(folder: Path) -> None:
    repo = folder / "pushed"
    fleet(folder, "--update", "--issue", "9", "pushed")
    git(repo, "switch", "--quiet", "-c", "7_template-notes")
    write(repo / "mine.txt", "mine\n")
    commit(repo, "A draft")
    printed = fleet(folder, "--update", "--issue", "9", "--push", "pushed")
    assert "pushed" not in printed.partition("\t")[2].replace("/pushed", "")
    assert not git(folder.parent / "remote.git", "branch", "--list")


@pytest.mark.thorough
def test_a_push_that_is_refused_is_no_failed_update(folder: Path) -> None:
    hook = folder.parent / "remote.git" / "hooks" / "pre-receive"
    write(hook, "#!/bin/sh\necho 'error: protected' >&2; exit 1\n")
    hook.chmod(0o755)
    printed = fleet(folder, "--update", "--issue", "9", "--push", "pushed", code=1)
    assert printed.startswith("not pushed\t")
    assert "remote: error: protected" in printed
    assert f"on {BRANCH}" in printed
    assert "fleet: 1 not pushed\n" in printed
    assert git(folder / "pushed", "branch", "--show-current") == BRANCH
    hook.unlink()
    printed = fleet(folder, "--update", "--issue", "9", "--push", "pushed")
    assert f"on {BRANCH}, pushed\n" in printed


@pytest.mark.thorough
def test_what_cannot_be_read_is_named_in_a_sentence(folder: Path) -> None:
    (folder / "list.txt").write_text("plain\nnowhere\n")
    printed = fleet(folder, "list.txt", code=1)
    assert f"failed\t{folder}/nowhere\t\t\tNo such file or directory: {folder}/nowhere\n" in printed
    printed = fleet(folder, "plain/README.md", code=2)
    assert "plain/README.md is no list of folders: there is no plain/" in printed
    assert len(printed.splitlines()) == 1
    printed = fleet(folder, "--update", "--issue", "9", "dirty", code=1)
    assert "uncommitted changes in docs/s3.md (commit them, or git stash)\n" in printed
    fleet(folder, "--report", "/dev/full", "plain", code=2)
    (folder / "r.md").symlink_to("/dev/full")
    assert "the report cannot be written: " in fleet(folder, "--report", "r.md", "plain")


@pytest.mark.thorough
def test_a_list_can_be_odd_and_a_template_broken(folder: Path) -> None:
    (folder / "list.txt").write_text("\ufeffplain\nlist.txt  # itself\nnew#1\n", "utf-8")
    shutil.copytree(folder / "plain", folder / "new#1")
    printed = fleet(folder, "list.txt", code=1)
    assert f"behind\t{folder}/plain\t" in printed
    assert f"behind\t{folder}/new#1\t" in printed
    (folder / "bad.txt").write_text("~nosuchuser/x\n")
    assert "cannot read the list of repos" in fleet(folder, "bad.txt", code=2)
    (folder / "empty.txt").write_text("")
    assert "no repos are named" in fleet(folder, "empty.txt", code=2)


@pytest.mark.thorough
def test_a_folder_without_a_repo_is_refused(folder: Path) -> None:
    assert "refused\t" in fleet(folder, "no-repo", code=1)


@pytest.mark.thorough
def test_on_a_terminal_there_is_a_table(folder: Path) -> None:
    command = [sys.executable, str(ROOT / "hooks" / "fleet.py"), "plain", "pushed", "gone"]
    terminal = Terminal(command, folder, clean_environment(folder.parent / "home"))
    assert terminal.exit_code() == 1
    assert "Repo" in terminal.text
    assert "2 behind, 1 failed" in terminal.text
    assert "\x1b[33mbehind" in terminal.printed
