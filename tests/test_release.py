"""`nox -s release`, in the repo that the template makes: versions, commits, tags and pushes."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from .conftest import clean_environment, commit, copy, git, output, project_of

NEWS = "- Sales are forecast by shop.\n"
CLOCK = """
import datetime, os

class Date(datetime.date):
    @classmethod
    def today(cls):
        return cls.fromisoformat(os.environ["TODAY"])

datetime.date = Date
"""
# What git does, and then the end of whoever called it: as a kill at that moment.
DEADLY_GIT = """#!/bin/sh
if [ "$1" = "$FATAL" ] && [ "$MOMENT" = before ]; then kill -9 $PPID; exit; fi
PATH=$REAL_PATH git "$@"
code=$?
if [ "$1" = "$FATAL" ] && [ "$MOMENT" = after ]; then kill -9 $PPID; fi
exit $code
"""


@pytest.fixture(scope="module")
def made(plain_template: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A generated repo with a commit on main, pushed to its remote."""
    folder = copy(plain_template, tmp_path_factory.mktemp("made") / "sales.Pipelines")
    text = (folder / "pyproject.toml").read_text()
    (folder / "pyproject.toml").write_text(
        re.sub('(?m)^version = ".*"', 'version = "2026.11.2"', text)
    )
    (folder / "uv.lock").write_text(
        'version = 1\n\n[[package]]\nname = "luigi"\nversion = "2026.11.2"\n\n'
        '[[package]]\nname = "sales-pipelines"\nversion = "2026.11.2"\n'
    )
    (folder / "CHANGELOG.md").write_text("# Changelog\n\n## Unreleased\n\n## 2026.11.2\n\n- Old.\n")
    git(folder, "init", "--quiet", "--initial-branch=main")
    git(folder, "config", "user.name", "Tester")
    git(folder, "config", "user.email", "t@example.org")
    commit(folder, "The repo", tag="2026.11.2")
    git(folder.parent, "init", "--quiet", "--bare", "--initial-branch=main", "remote.git")
    git(folder, "remote", "add", "origin", "../remote.git")
    git(folder, "push", "--quiet", "--set-upstream", "origin", "main", "2026.11.2")
    return folder


@pytest.fixture
def repo(made: Path, tmp_path: Path) -> Path:
    """The same in a folder of its own, with something under Unreleased."""
    shutil.copytree(made.parent, tmp_path / "it", symlinks=True)
    repo = tmp_path / "it" / made.name
    add_news(repo)
    return repo


def add_news(repo: Path) -> None:
    """Put something under Unreleased, and commit it."""
    changelog = repo / "CHANGELOG.md"
    changelog.write_text(changelog.read_text().replace("Unreleased\n", f"Unreleased\n\n{NEWS}", 1))
    commit(repo, "News")


def release(
    repo: Path, *arguments: str, exit_code: int = 0, today: str = "2026-11-20", **variables: str
) -> str:
    """Run the command, which must exit so, and return all that it prints."""
    lib, home = repo.parent / "lib", repo.parent / "home"
    for folder in (lib, home):
        folder.mkdir(exist_ok=True)
    (lib / "sitecustomize.py").write_text(CLOCK)
    variables = {"PYTHONPATH": str(lib), "TODAY": today, **variables}
    command = [sys.executable, "hooks/release.py", *arguments]
    said = output(command, repo, home, exit_code, **variables)
    assert "Traceback" not in said
    return said


def state(repo: Path) -> list[str]:
    """All that a release could change."""
    asked = (("for-each-ref",), ("status", "--porcelain"), ("stash", "list"), ("worktree", "list"))
    return [git(repo, "rev-parse", "HEAD"), *(git(repo, *arguments) for arguments in asked)]


def is_released(repo: Path, version: str) -> None:
    """Fail unless the branch ends in the commit of this release, which has its tag."""
    assert git(repo, "log", "-1", "--format=%s") == f"Release {version}"
    assert git(repo, "rev-parse", f"{version}^0") == git(repo, "rev-parse", "HEAD")
    assert git(repo, "cat-file", "-t", version) == "tag"
    assert git(repo, "status", "--porcelain") == ""
    assert len(git(repo, "worktree", "list").splitlines()) == 1
    assert project_of(repo)["version"] == version


def test_what_is_new_gets_a_version_a_commit_and_a_tag(repo: Path) -> None:
    before = git(repo, "rev-parse", "HEAD")
    git(repo, "config", "merge.ff", "false")
    said = release(repo)
    is_released(repo, "2026.11.3")
    assert "2026.11.3 is released" in said
    assert "git push --atomic origin main refs/tags/2026.11.3" in said
    assert git(repo, "rev-parse", "HEAD~1") == before
    assert git(repo, "diff", "--name-only", "HEAD~1").split() == [
        *("CHANGELOG.md", "pyproject.toml", "uv.lock"),
    ]
    assert (repo / "CHANGELOG.md").read_text() == (
        f"# Changelog\n\n## Unreleased\n\n## 2026.11.3\n\n{NEWS}\n## 2026.11.2\n\n- Old.\n"
    )
    lock = (repo / "uv.lock").read_text()
    assert 'name = "sales-pipelines"\nversion = "2026.11.3"' in lock
    assert 'name = "luigi"\nversion = "2026.11.2"' in lock


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("# C\r\n\r\n## Unreleased\r\n\r\n- New\r\n", "\r\n\r\n- New\r\n"),
        ("# C\n## Unreleased\n- New\n```\n## Code\n```", "\n- New\n```\n## Code\n```"),
    ],
)
def test_the_changelogs_lines_stay_as_they_are(repo: Path, before: str, after: str) -> None:
    (repo / ".gitattributes").unlink()
    (repo / "CHANGELOG.md").write_bytes(before.encode())
    git(repo, "-c", "core.autocrlf=false", "add", "--all")
    git(repo, "commit", "--quiet", "--message=News")
    release(repo)
    assert (repo / "CHANGELOG.md").read_bytes().decode().endswith(f"\n## 2026.11.3{after}")
    assert "nothing is under" in release(repo, exit_code=1)


def test_what_is_printed_pushes_it_and_so_does_push(repo: Path) -> None:
    said = release(repo)
    command = re.search(r"Push it: (git .*)", said)
    assert command
    subprocess.run(command[1].split(), cwd=repo, check=True, capture_output=True)
    add_news(repo)
    assert "2026.11.4 is pushed to origin" in release(repo, "--push")
    remote = repo.parent / "remote.git"
    assert git(remote, "rev-parse", "main") == git(repo, "rev-parse", "HEAD")
    assert {"2026.11.3", "2026.11.4"} <= set(git(remote, "tag").split())


def test_the_branch_is_pushed_to_that_which_it_follows(repo: Path) -> None:
    remote = repo.parent / "remote.git"
    git(remote, "branch", "--move", "main", "trunk")
    git(repo, "fetch", "--quiet", "--prune")
    git(repo, "branch", "--quiet", "--set-upstream-to=origin/trunk")
    assert "git push --atomic origin main:trunk refs/tags/2026.11.3" in release(repo)
    release(repo, "--push")
    assert git(remote, "rev-parse", "trunk") == git(repo, "rev-parse", "HEAD")
    assert git(remote, "branch", "--format=%(refname:short)") == "trunk"


def test_of_two_clones_the_later_one_is_told_the_way_out(repo: Path) -> None:
    git(repo, "push", "--quiet")
    other = repo.parent / "other"
    git(repo.parent, "clone", "--quiet", "--config=user.name=T", "remote.git", str(other))
    git(other, "config", "user.email", "t@example.org")
    release(other)
    release(repo, "--push")
    said = release(other, "--push", exit_code=1)
    assert "origin has a commit that main lacks: " in said
    subprocess.run(
        ["sh", "-c", said.split("lacks: ")[1]], cwd=other, check=True, capture_output=True
    )
    assert git(other, "rev-parse", "HEAD") == git(repo, "rev-parse", "HEAD")
    add_news(other)
    assert "2026.11.4 is pushed" in release(other, "--push")


def test_a_folder_of_the_users_is_not_taken_for_what_a_killed_one_left(repo: Path) -> None:
    folder = repo.parent / "release-of-2026"
    git(repo, "worktree", "add", "--quiet", "-b", "6_old", str(folder / "tree"))
    (folder / "notes.txt").write_text("mine\n")
    release(repo)
    assert {path.name for path in folder.iterdir()} == {"tree", "notes.txt"}


def test_a_work_tree_that_git_had_not_finished_is_removed(repo: Path) -> None:
    left = repo.parent / "tmp" / "release-of-x" / "tree"
    git(repo, "worktree", "add", "--quiet", "--detach", "--lock", str(left))
    release(repo, TMPDIR=str(repo.parent / "tmp"))
    is_released(repo, "2026.11.3")
    assert not left.parent.exists()


def test_in_ci_a_merge_that_comes_in_between_is_released_too(repo: Path) -> None:
    """The workflow's own script, with a remote that goes on between its look and its push."""
    git(repo, "push", "--quiet")
    remote, path = repo.parent / "remote.git", repo.parent / "bin"
    git(repo, "switch", "--quiet", "--create", "6_a")
    (repo / "a.txt").write_text("a\n")
    commit(repo, "A file")
    git(repo, "push", "--quiet", "origin", "6_a")
    git(repo, "switch", "--quiet", "main")
    merge = f"git -C '{remote}' branch --force main 6_a"
    for name, script in {
        "gh": "",
        "python": f'shift 4; exec {sys.executable} hooks/release.py "$@"',
        "git": f'PATH=$REAL; [ "$1" != push ] || [ -e ../once ] || {merge} > ../once; git "$@"',
    }.items():
        (path / name).parent.mkdir(exist_ok=True)
        (path / name).write_text(f"#!/bin/sh\n{script}\n")
        (path / name).chmod(0o755)
    workflow = yaml.safe_load((repo / ".github/workflows/release.yml").read_text())
    script = workflow["jobs"]["release"]["steps"][-1]["run"]
    path_there = f"{path}:{os.environ['PATH']}"
    env = clean_environment(repo.parent, PATH=path_there, REAL=os.environ["PATH"])
    done = subprocess.run(["bash", "-e", "-c", script], cwd=repo, env=env, check=False)
    assert done.returncode == 0
    assert git(remote, "log", "-3", "--format=%s", "main").splitlines()[1:] == ["A file", "News"]
    assert git(remote, "rev-parse", "main") == git(repo, "rev-parse", f"{git(repo, 'describe')}^0")


def test_versions_go_on_over_days_months_and_years_and_never_back(repo: Path) -> None:
    calendar = [
        ("2026-11-20", "2026.11.3"),
        ("2026-11-20", "2026.11.4"),
        ("2026-11-30", "2026.11.5"),
        ("2026-12-01", "2026.12.0"),
        ("2026-11-01", "2026.12.1"),  # a clock that is a month behind
        ("2026-12-31", "2026.12.2"),
        ("2027-01-01", "2027.1.0"),
        ("2026-12-31", "2027.1.1"),
    ]
    for number, (today, version) in enumerate(calendar):
        if number:
            add_news(repo)
        release(repo, "--local", today=today)
        is_released(repo, version)


@pytest.mark.parametrize(
    ("today", "version"), [("2026-11-30", "2026.11.2"), ("2026-12-01", "2026.12.0")]
)
def test_the_first_release_takes_the_months_first_version(
    repo: Path, today: str, version: str
) -> None:
    git(repo, "tag", "--delete", "2026.11.2")
    git(repo.parent / "remote.git", "tag", "--delete", "2026.11.2")
    release(repo, today=today)
    is_released(repo, version)


def dirty(repo: Path) -> str:
    (repo / "README.md").write_text("edited\n")
    return "what is not committed: README.md"


def untracked(repo: Path) -> str:
    (repo / "new.txt").write_text("new\n")
    return "what is not committed: new.txt"


def on_a_branch(repo: Path) -> str:
    git(repo, "switch", "--quiet", "--create", "6_readme")
    return "releases are made on main, and this is 6_readme: git switch main"


def detached(repo: Path) -> str:
    git(repo, "switch", "--quiet", "--detach")
    return "releases are made on main, and this is no branch"


def no_main_branch(repo: Path) -> str:
    git(repo, "branch", "--move", "trunk")
    return "none of the branches main, dev, master"


def no_upstream(repo: Path) -> str:
    git(repo, "branch", "--unset-upstream")
    return "git push --set-upstream origin main"


def no_remote(repo: Path) -> str:
    git(repo, "remote", "remove", "origin")
    return "nox -s release -- --local"


def remote_gone(repo: Path) -> str:
    shutil.rmtree(repo.parent / "remote.git")
    return "what is new at origin cannot be seen"


def remote_ahead(repo: Path) -> str:
    other = repo.parent / "other"
    git(repo.parent, "clone", "--quiet", "remote.git", str(other))
    (other / "a.txt").write_text("a\n")
    commit(other, "A file")
    git(other, "push", "--quiet")
    git(repo, "fetch", "--quiet")  # so that the refusal changes nothing
    return "origin has a commit that main lacks: git pull --no-rebase"


def broken_pyproject(repo: Path) -> str:
    (repo / "pyproject.toml").write_text("[project\n")
    commit(repo, "Broken")
    return "pyproject.toml"


def other_version(repo: Path) -> str:
    text = (repo / "pyproject.toml").read_text()
    (repo / "pyproject.toml").write_text(text.replace("2026.11.2", "1.0.0"))
    commit(repo, "Another version")
    return "pyproject.toml has version '1.0.0', and that is not YYYY.M.N"


def behind_its_tag(repo: Path) -> str:
    git(repo, "tag", "2026.11.7")
    return "version 2026.11.2, and 2026.11.7 is tagged"


def tag_there(repo: Path) -> str:
    git(repo, "switch", "--quiet", "--create", "6_a")
    (repo / "a.txt").write_text("a\n")
    commit(repo, "A file", tag="2026.11.3")
    git(repo, "switch", "--quiet", "main")
    return "the tag 2026.11.3 is there already"


def nothing_new(repo: Path) -> str:
    (repo / "CHANGELOG.md").write_text("# Changelog\n\n## Unreleased\n\n \n## 2026.11.2\n\n- Old\n")
    commit(repo, "Nothing")
    return "nothing is under '## Unreleased'"


def no_heading(repo: Path) -> str:
    (repo / "CHANGELOG.md").write_text("# Changelog\n\n## 2026.11.2\n\n- Old\n")
    commit(repo, "Nothing")
    return "no '## Unreleased'"


def no_changelog(repo: Path) -> str:
    (repo / "CHANGELOG.md").unlink()
    commit(repo, "Nothing")
    return "there is no CHANGELOG.md"


def another_lock_file(repo: Path) -> str:
    lock = repo / "uv.lock"
    lock.write_text(lock.read_text().replace("sales-pipelines", "other"))
    commit(repo, "Another name")
    return "uv lock, and commit that"


def refused_by_a_hook(repo: Path) -> str:
    hook = repo / ".git" / "hooks" / "pre-commit"
    hook.parent.mkdir(exist_ok=True)
    hook.write_text("#!/bin/sh\necho 'not today' >&2\nexit 1\n")
    hook.chmod(0o755)
    return "not today"


@pytest.mark.parametrize(
    "circumstance",
    [
        *(dirty, untracked, on_a_branch, detached, no_main_branch, no_upstream, no_remote),
        *(remote_gone, remote_ahead, broken_pyproject, other_version, behind_its_tag, tag_there),
        *(nothing_new, no_heading, no_changelog, another_lock_file, refused_by_a_hook),
    ],
    ids=lambda each: each.__name__,
)
def test_what_stands_against_a_release_is_said_and_nothing_changes(
    repo: Path, circumstance: object
) -> None:
    sentence = circumstance(repo)  # type: ignore[operator]
    before = state(repo)
    assert sentence in release(repo, exit_code=1)
    assert state(repo) == before


def test_without_a_repo_a_commit_or_git_one_sentence_says_so(repo: Path, tmp_path: Path) -> None:
    bare = tmp_path / "bare"
    shutil.copytree(repo / "hooks", bare / "hooks")
    assert "in no git repo" in release(bare, exit_code=1)
    git(bare, "init", "--quiet")
    inner = bare / "inner"
    shutil.copytree(repo / "hooks", inner / "hooks")
    assert "there is no commit yet" in release(bare, exit_code=1)
    assert "is a folder of the git repo" in release(inner, exit_code=1)
    assert "git is not on PATH" in release(bare, exit_code=1, PATH="")


def test_with_nothing_to_release_ci_goes_on(repo: Path) -> None:
    nothing_new(repo)
    before = state(repo)
    assert "Nothing is under Unreleased" in release(repo, "--if-any")
    assert state(repo) == before


def test_without_a_remote_local_releases(repo: Path) -> None:
    git(repo, "remote", "remove", "origin")
    release(repo, "--local")
    is_released(repo, "2026.11.3")
    assert "contradict" in release(repo, "--local", "--push", exit_code=2)


@pytest.mark.parametrize("moment", ["before", pytest.param("after", marks=pytest.mark.nightly)])
@pytest.mark.parametrize("fatal", ["worktree", "commit", "merge", "tag", "push"])
def test_what_was_killed_is_finished_by_the_same_command(
    repo: Path, fatal: str, moment: str
) -> None:
    shim = repo.parent / "shim" / "git"
    shim.parent.mkdir()
    shim.write_text(DEADLY_GIT)
    shim.chmod(0o755)
    temporary = repo.parent / "tmp"
    temporary.mkdir()
    release(
        repo,
        "--push",
        exit_code=-9,
        PATH=f"{shim.parent}:{os.environ['PATH']}",
        REAL_PATH=os.environ["PATH"],
        FATAL=fatal,
        MOMENT=moment,
        TMPDIR=str(temporary),
    )
    tagged, head = git(repo, "tag"), git(repo, "log", "-1", "--format=%s")
    assert "2026.11.3" not in tagged or head == "Release 2026.11.3", "a tag without its commit"
    assert git(repo, "status", "--porcelain") == ""
    release(repo, "--push", TMPDIR=str(temporary))
    is_released(repo, "2026.11.3")
    remote = repo.parent / "remote.git"
    assert git(remote, "rev-parse", "main") == git(repo, "rev-parse", "HEAD")
    assert git(remote, "rev-parse", "2026.11.3^0") == git(repo, "rev-parse", "HEAD")
    assert list(temporary.iterdir()) == []


def test_a_remote_that_has_gone_on_gets_neither_commit_nor_tag(repo: Path) -> None:
    hook = repo.parent / "remote.git" / "hooks" / "pre-receive"
    hook.parent.mkdir(exist_ok=True)
    hook.write_text("#!/bin/sh\necho 'main is closed' >&2\nexit 1\n")
    hook.chmod(0o755)
    said = release(repo, "--push", exit_code=1)
    assert "main is closed" in said
    assert "2026.11.3 is tagged here, and not pushed" in said
    assert "2026.11.3" not in git(repo.parent / "remote.git", "tag")
    undo = re.search(r"undo it first: (.*)", said)
    assert undo
    subprocess.run(["sh", "-c", undo[1]], cwd=repo, check=True, capture_output=True)
    assert git(repo, "log", "-1", "--format=%s") == "News"
    hook.unlink()
    release(repo, "--push")
    is_released(repo, "2026.11.3")


@pytest.fixture
def held(repo: Path) -> Iterator[None]:
    """Another release that is at work."""
    code = "import fcntl, sys; f = open(sys.argv[1], 'w'); fcntl.flock(f, 1); print(); input()"
    command = [sys.executable, "-c", code, str(repo / ".git" / "release.lock")]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout
        process.stdout.readline()
        yield
        process.kill()


@pytest.mark.usefixtures("held")
def test_two_at_once_do_not_both_release(repo: Path) -> None:
    assert "another process is at it" in release(repo, exit_code=1)
