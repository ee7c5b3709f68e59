"""`nox -s release` in a generated repo: versions, commits, tags and pushes."""

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

from ..conftest import clean_environment, commit, copy, git, output, project_of

NEWS = "- Sales are forecast by shop.\n"
CLOCK = """
import datetime, os

class Date(datetime.date):
    @classmethod
    def today(cls):
        return cls.fromisoformat(os.environ["TODAY"])

datetime.date = Date
"""
# Runs git, and kills its caller before or after the command $FATAL.
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
    """A copy of that repo, with changes under Unreleased."""
    shutil.copytree(made.parent, tmp_path / "copy", symlinks=True)
    repo = tmp_path / "copy" / made.name
    add_news(repo)
    return repo


def add_news(repo: Path) -> None:
    """Commit a change of the changelog under Unreleased."""
    changelog = repo / "CHANGELOG.md"
    changelog.write_text(changelog.read_text().replace("Unreleased\n", f"Unreleased\n\n{NEWS}", 1))
    commit(repo, "News")


def release(
    repo: Path, *arguments: str, exit_code: int = 0, today: str = "2026-11-20", **variables: str
) -> str:
    """Run the command, which must exit with this code, and return its output."""
    lib, home = repo.parent / "lib", repo.parent / "home"
    for folder in (lib, home):
        folder.mkdir(exist_ok=True)
    (lib / "sitecustomize.py").write_text(CLOCK)
    variables = {"PYTHONPATH": str(lib), "TODAY": today, **variables}
    command = [sys.executable, "hooks/release.py", *arguments]
    printed = output(command, repo, home, exit_code, **variables)
    assert "Traceback" not in printed
    return printed


def state(repo: Path) -> list[str]:
    """Everything that a release could change."""
    commands = (
        ("for-each-ref",),
        ("status", "--porcelain"),
        ("stash", "list"),
        ("worktree", "list"),
    )
    return [git(repo, "rev-parse", "HEAD"), *(git(repo, *arguments) for arguments in commands)]


def assert_released(repo: Path, version: str) -> None:
    """Fail unless the last commit is that of the release, with its tag."""
    assert git(repo, "log", "-1", "--format=%s") == f"Release {version}"
    assert git(repo, "rev-parse", f"{version}^0") == git(repo, "rev-parse", "HEAD")
    assert git(repo, "cat-file", "-t", version) == "tag"
    assert git(repo, "status", "--porcelain") == ""
    assert len(git(repo, "worktree", "list").splitlines()) == 1
    assert project_of(repo)["version"] == version


def test_a_release_makes_a_version_a_commit_and_a_tag(repo: Path) -> None:
    before = git(repo, "rev-parse", "HEAD")
    git(repo, "config", "merge.ff", "false")
    printed = release(repo)
    assert_released(repo, "2026.11.3")
    assert "Released 2026.11.3: commit " in printed
    assert "git push --atomic origin main refs/tags/2026.11.3" in printed
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
def test_other_lines_of_the_changelog_do_not_change(repo: Path, before: str, after: str) -> None:
    # By itself: while the index has the file, git still reads line ends as it says.
    (repo / ".gitattributes").unlink()
    commit(repo, "Line ends as they are")
    (repo / "CHANGELOG.md").write_bytes(before.encode())
    git(repo, "-c", "core.autocrlf=false", "add", "--all")
    git(repo, "commit", "--quiet", "--message=News")
    release(repo)
    assert (repo / "CHANGELOG.md").read_bytes().decode().endswith(f"\n## 2026.11.3{after}")
    assert "no changes under" in release(repo, exit_code=1)


def test_the_printed_command_and_the_option_push_both_push_the_release(repo: Path) -> None:
    printed = release(repo)
    command = re.search(r"Next: (git .*)", printed)
    assert command
    subprocess.run(command[1].split(), cwd=repo, check=True, capture_output=True)
    add_news(repo)
    assert "Pushed 2026.11.4 to origin" in release(repo, "--push")
    remote = repo.parent / "remote.git"
    assert git(remote, "rev-parse", "main") == git(repo, "rev-parse", "HEAD")
    assert {"2026.11.3", "2026.11.4"} <= set(git(remote, "tag").split())


def test_the_branch_is_pushed_to_the_branch_that_it_tracks(repo: Path) -> None:
    remote = repo.parent / "remote.git"
    git(remote, "branch", "--move", "main", "trunk")
    git(repo, "fetch", "--quiet", "--prune")
    git(repo, "branch", "--quiet", "--set-upstream-to=origin/trunk")
    assert "git push --atomic origin main:trunk refs/tags/2026.11.3" in release(repo)
    release(repo, "--push")
    assert git(remote, "rev-parse", "trunk") == git(repo, "rev-parse", "HEAD")
    assert git(remote, "branch", "--format=%(refname:short)") == "trunk"


@pytest.mark.thorough
def test_when_another_clone_released_first_the_hint_undoes_this_release(repo: Path) -> None:
    git(repo, "push", "--quiet")
    other = repo.parent / "other"
    git(repo.parent, "clone", "--quiet", "--config=user.name=T", "remote.git", str(other))
    git(other, "config", "user.email", "t@example.org")
    release(other)
    release(repo, "--push")
    printed = release(other, "--push", exit_code=1)
    assert "origin has a commit that main lacks\nhint: " in printed
    subprocess.run(
        ["sh", "-c", printed.split("hint: ")[1]], cwd=other, check=True, capture_output=True
    )
    assert git(other, "rev-parse", "HEAD") == git(repo, "rev-parse", "HEAD")
    add_news(other)
    assert "Pushed 2026.11.4" in release(other, "--push")


def clone(repo: Path, *options: str) -> Path:
    """A clone of the repo's remote, in which everything of the repo has been pushed."""
    git(repo, "push", "--quiet", "--follow-tags")
    folder = repo.parent / "clone"
    address = f"file://{repo.parent / 'remote.git'}"  # a depth needs an address
    git(repo.parent, "clone", "--quiet", *options, address, str(folder))
    git(folder, "config", "user.name", "Tester")
    git(folder, "config", "user.email", "t@example.org")
    return folder


@pytest.mark.parametrize("depth", [1, pytest.param(2, marks=pytest.mark.thorough)])
@pytest.mark.parametrize(
    "options",
    [
        (),
        pytest.param(("--local",), marks=pytest.mark.thorough),
        pytest.param(("--push",), marks=pytest.mark.thorough),
    ],
)
def test_a_shallow_clone_is_refused_with_a_hint_that_works(
    repo: Path, depth: int, options: tuple[str, ...]
) -> None:
    release(repo)
    add_news(repo)
    shallow = clone(repo, f"--depth={depth}")
    before = state(shallow)
    printed = release(shallow, *options, exit_code=1)
    assert state(shallow) == before
    hint = printed.split("hint: ")[1]
    subprocess.run(["sh", "-c", hint], cwd=shallow, check=True, capture_output=True)
    release(shallow, *options)
    assert_released(shallow, "2026.11.4")


def merge_of_a_branch(repo: Path, name: str = "6_merged") -> str:
    """Merge a branch into main, and return the commit that must not be lost."""
    git(repo, "switch", "--quiet", "--create", name)
    (repo / f"{name}.txt").write_text("mine\n")
    commit(repo, name)
    git(repo, "switch", "--quiet", "main")
    git(repo, "merge", "--quiet", "--no-ff", "--message=Merge", name)
    git(repo, "branch", "--quiet", "--delete", "--force", name)
    return git(repo, "rev-parse", "HEAD^2")


@pytest.mark.parametrize(
    "options",
    [
        ("--no-tags",),
        pytest.param(("--no-tags", "--single-branch"), marks=pytest.mark.thorough),
    ],
)
def test_a_clone_without_tags_gets_those_of_versions(repo: Path, options: tuple[str, ...]) -> None:
    release(repo)
    other = clone(repo, *options)
    mine = merge_of_a_branch(other)
    before = state(other)
    printed = release(other, "--local", exit_code=1)
    assert "the commit of 2026.11.3 is pushed, and its tag is not in this clone" in printed
    assert state(other) == before
    assert "no changes under" in release(other, exit_code=1)
    assert "2026.11.3" in git(other, "tag")
    add_news(other)
    assert "Pushed 2026.11.4" in release(other, "--push")
    assert mine in git(other, "rev-list", "HEAD").split()


def reject_pushes(repo: Path) -> Path:
    """Make the remote reject every push, until the hook is deleted."""
    hook = repo.parent / "remote.git" / "hooks" / "pre-receive"
    hook.parent.mkdir(exist_ok=True)
    hook.write_text("#!/bin/sh\necho 'main is closed' >&2\nexit 1\n")
    hook.chmod(0o755)
    return hook


@pytest.mark.parametrize("moment", ["before the push", "before the undo", "with another release"])
def test_the_printed_undo_loses_no_commit(repo: Path, moment: str) -> None:
    """Whatever is on top of the release's commit, when it is printed or later when it is run."""
    git(repo, "push", "--quiet")
    hook = reject_pushes(repo)
    if moment == "before the push":
        release(repo)
        mine = merge_of_a_branch(repo)
    printed = release(repo, "--push", exit_code=1)
    undo = re.search(r"first undo: (.*)", printed)
    assert undo
    if moment != "before the push":
        mine = merge_of_a_branch(repo)
    if moment == "with another release":
        hook.unlink()
        other = clone(repo)
        (other / "b.txt").write_text("b\n")
        commit(other, "B")
        git(other, "push", "--quiet")
    subprocess.run(["sh", "-c", undo[1]], cwd=repo, check=False, capture_output=True)
    assert mine in git(repo, "rev-list", "HEAD").split()
    assert (repo / "6_merged.txt").exists()


SETTINGS = {
    "columns": {"column.ui": "always", "column.tag": "always,column"},
    "colours": {"color.ui": "always", "color.status": "always", "color.branch": "always"},
    "signatures": {"log.showSignature": "true", "gpg.program": "echo"},
    "quoting": {"core.quotePath": "true", "i18n.logOutputEncoding": "UTF-16"},
    "dates": {"log.date": "relative", "format.pretty": "fuller"},
    "patterns": {"grep.patternType": "fixed", "versionsort.suffix": ".1"},
    "fetching": {"fetch.prune": "true", "fetch.pruneTags": "true", "fetch.output": "full"},
    "what is listed": {"status.showUntrackedFiles": "no", "tag.sort": "-refname"},
}


def set_user_settings(home: Path, kind: str) -> None:
    """Write the settings into the user's own file."""
    home.mkdir(exist_ok=True)
    for name, value in SETTINGS[kind].items():
        command = ["git", "config", "--file", str(home / ".gitconfig"), name, value]
        subprocess.run(command, check=True)


@pytest.mark.thorough
@pytest.mark.parametrize("kind", SETTINGS)
def test_no_setting_of_the_user_s_changes_a_release(repo: Path, kind: str) -> None:
    set_user_settings(repo.parent / "home", kind)
    for version in ("2026.11.2", "2026.11.10", "2026.9.1"):
        git(repo, "tag", "--force", version, "HEAD~1")
    text = (repo / "pyproject.toml").read_text()
    (repo / "pyproject.toml").write_text(text.replace('"2026.11.2"', '"2026.11.10"'))
    (repo / "uv.lock").write_text((repo / "uv.lock").read_text().replace("2026.11.2", "2026.11.10"))
    commit(repo, "The version of the tag")
    release(repo)
    assert_released(repo, "2026.11.11")
    assert "Pushed 2026.11.11" in release(repo, "--push")
    (repo / "new file.txt").write_text("new\n")
    assert "uncommitted changes in " in release(repo, exit_code=1)


def test_a_user_s_folder_with_a_similar_name_is_not_removed(repo: Path) -> None:
    folder = repo.parent / "release-of-2026"
    git(repo, "worktree", "add", "--quiet", "-b", "6_old", str(folder / "tree"))
    (folder / "notes.txt").write_text("mine\n")
    release(repo)
    assert {path.name for path in folder.iterdir()} == {"tree", "notes.txt"}


def test_an_incomplete_work_tree_of_a_killed_release_is_removed(repo: Path) -> None:
    work_tree = repo.parent / "tmp" / "release-of-x" / "tree"
    git(repo, "worktree", "add", "--quiet", "--detach", "--lock", str(work_tree))
    release(repo, TMPDIR=str(repo.parent / "tmp"))
    assert_released(repo, "2026.11.3")
    assert not work_tree.parent.exists()


@pytest.mark.thorough
def test_in_ci_a_merge_during_the_release_is_released_too(repo: Path) -> None:
    """The workflow's own script, with a commit on the remote between fetch and push."""
    git(repo, "push", "--quiet")
    remote, programs = repo.parent / "remote.git", repo.parent / "bin"
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
        (programs / name).parent.mkdir(exist_ok=True)
        (programs / name).write_text(f"#!/bin/sh\n{script}\n")
        (programs / name).chmod(0o755)
    workflow = yaml.safe_load((repo / ".github/workflows/release.yml").read_text())
    script = workflow["jobs"]["release"]["steps"][-1]["run"]
    path = f"{programs}:{os.environ['PATH']}"
    env = clean_environment(repo.parent, PATH=path, REAL=os.environ["PATH"])
    process = subprocess.run(["bash", "-e", "-c", script], cwd=repo, env=env, check=False)
    assert process.returncode == 0
    assert git(remote, "log", "-3", "--format=%s", "main").splitlines()[1:] == ["A file", "News"]
    assert git(remote, "rev-parse", "main") == git(repo, "rev-parse", f"{git(repo, 'describe')}^0")


@pytest.mark.thorough
def test_versions_increase_over_days_months_and_years(repo: Path) -> None:
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
        assert_released(repo, version)


@pytest.mark.parametrize(
    ("today", "version"), [("2026-11-30", "2026.11.2"), ("2026-12-01", "2026.12.0")]
)
def test_the_first_release_takes_the_version_in_pyproject_or_a_new_month(
    repo: Path, today: str, version: str
) -> None:
    git(repo, "tag", "--delete", "2026.11.2")
    git(repo.parent / "remote.git", "tag", "--delete", "2026.11.2")
    release(repo, today=today)
    assert_released(repo, version)


def dirty(repo: Path) -> str:
    (repo / "README.md").write_text("edited\n")
    return "uncommitted changes in README.md\nhint: commit them, or git stash -u"


def untracked(repo: Path) -> str:
    (repo / "new.txt").write_text("new\n")
    return "uncommitted changes in new.txt"


def on_a_branch(repo: Path) -> str:
    git(repo, "switch", "--quiet", "--create", "6_readme")
    return "releases are made on main, not on 6_readme\nhint: git switch main"


def detached(repo: Path) -> str:
    git(repo, "switch", "--quiet", "--detach")
    return "releases are made on main, not on a detached HEAD"


def no_main_branch(repo: Path) -> str:
    git(repo, "branch", "--move", "trunk")
    return "none of the protected branches exists: main, dev, master"


def no_upstream(repo: Path) -> str:
    git(repo, "branch", "--unset-upstream")
    return "git push --set-upstream origin main"


def no_remote(repo: Path) -> str:
    git(repo, "remote", "remove", "origin")
    return "nox -s release -- --local"


def remote_gone(repo: Path) -> str:
    shutil.rmtree(repo.parent / "remote.git")
    return "cannot fetch from origin"


def remote_ahead(repo: Path) -> str:
    other = repo.parent / "other"
    git(repo.parent, "clone", "--quiet", "remote.git", str(other))
    (other / "a.txt").write_text("a\n")
    commit(other, "A file")
    git(other, "push", "--quiet")
    git(repo, "fetch", "--quiet")  # so that the command changes nothing
    return "origin has a commit that main lacks\nhint: git pull --no-rebase"


def broken_pyproject(repo: Path) -> str:
    (repo / "pyproject.toml").write_text("[project\n")
    commit(repo, "Broken")
    return "pyproject.toml"


def other_version(repo: Path) -> str:
    text = (repo / "pyproject.toml").read_text()
    (repo / "pyproject.toml").write_text(text.replace("2026.11.2", "1.0.0"))
    commit(repo, "Another version")
    return "version '1.0.0' in pyproject.toml is not YYYY.M.N"


def behind_its_tag(repo: Path) -> str:
    git(repo, "tag", "2026.11.7")
    return "version 2026.11.2 in pyproject.toml is lower than the tag 2026.11.7"


def tag_there(repo: Path) -> str:
    git(repo, "switch", "--quiet", "--create", "6_a")
    (repo / "a.txt").write_text("a\n")
    commit(repo, "A file", tag="2026.11.3")
    git(repo, "switch", "--quiet", "main")
    return "the tag 2026.11.3 exists already"


def nothing_new(repo: Path) -> str:
    (repo / "CHANGELOG.md").write_text("# Changelog\n\n## Unreleased\n\n \n## 2026.11.2\n\n- Old\n")
    commit(repo, "Nothing")
    return "no changes under '## Unreleased'"


def no_heading(repo: Path) -> str:
    (repo / "CHANGELOG.md").write_text("# Changelog\n\n## 2026.11.2\n\n- Old\n")
    commit(repo, "Nothing")
    return "no heading '## Unreleased'"


def no_changelog(repo: Path) -> str:
    (repo / "CHANGELOG.md").unlink()
    commit(repo, "Nothing")
    return "no CHANGELOG.md in"


def another_lock_file(repo: Path) -> str:
    lock = repo / "uv.lock"
    lock.write_text(lock.read_text().replace("sales-pipelines", "other"))
    commit(repo, "Another name")
    return "uv lock, then commit it"


def refused_by_a_hook(repo: Path) -> str:
    hook = repo / ".git" / "hooks" / "pre-commit"
    hook.parent.mkdir(exist_ok=True)
    hook.write_text("#!/bin/sh\necho 'not today' >&2\nexit 1\n")
    hook.chmod(0o755)
    return "not today"


@pytest.mark.parametrize(
    "obstacle",
    [
        *(dirty, untracked, on_a_branch, detached, no_main_branch, no_upstream, no_remote),
        *(remote_gone, remote_ahead, broken_pyproject, other_version, behind_its_tag, tag_there),
        *(nothing_new, no_heading, no_changelog, another_lock_file, refused_by_a_hook),
    ],
    ids=lambda each: each.__name__,
)
def test_an_obstacle_to_a_release_is_named_and_nothing_changes(
    repo: Path, obstacle: object
) -> None:
    message = obstacle(repo)  # type: ignore[operator]
    before = state(repo)
    assert message in release(repo, exit_code=1)
    assert state(repo) == before


def test_a_missing_repo_commit_or_git_is_named(repo: Path, tmp_path: Path) -> None:
    bare = tmp_path / "bare"
    shutil.copytree(repo / "hooks", bare / "hooks")
    assert "fatal: not a git repository" in release(bare, exit_code=1)
    git(bare, "init", "--quiet")
    inner = bare / "inner"
    shutil.copytree(repo / "hooks", inner / "hooks")
    assert "the repo has no commit yet\nhint: git add" in release(bare, exit_code=1)
    assert "is a folder in the git repo" in release(inner, exit_code=1)
    assert "git is not on PATH" in release(bare, exit_code=1, PATH="")


def test_ci_succeeds_with_nothing_to_release(repo: Path) -> None:
    nothing_new(repo)
    before = state(repo)
    assert "No changes to release" in release(repo, "--if-any")
    assert state(repo) == before


def test_local_releases_without_a_remote(repo: Path) -> None:
    git(repo, "remote", "remove", "origin")
    release(repo, "--local")
    assert_released(repo, "2026.11.3")
    assert "exclude each other" in release(repo, "--local", "--push", exit_code=2)


@pytest.mark.parametrize("moment", ["before", pytest.param("after", marks=pytest.mark.nightly)])
@pytest.mark.parametrize(
    "fatal",
    [
        "commit",
        "push",
        *(pytest.param(each, marks=pytest.mark.thorough) for each in ("worktree", "merge", "tag")),
    ],
)
def test_the_same_command_finishes_a_killed_release(repo: Path, fatal: str, moment: str) -> None:
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
    assert_released(repo, "2026.11.3")
    remote = repo.parent / "remote.git"
    assert git(remote, "rev-parse", "main") == git(repo, "rev-parse", "HEAD")
    assert git(remote, "rev-parse", "2026.11.3^0") == git(repo, "rev-parse", "HEAD")
    assert list(temporary.iterdir()) == []


@pytest.mark.thorough
def test_a_remote_that_rejects_the_push_gets_neither_commit_nor_tag(repo: Path) -> None:
    hook = reject_pushes(repo)
    printed = release(repo, "--push", exit_code=1)
    assert "main is closed" in printed
    assert "2026.11.3 is tagged, but not pushed" in printed
    assert "2026.11.3" not in git(repo.parent / "remote.git", "tag")
    undo = re.search(r"first undo: (.*)", printed)
    assert undo
    subprocess.run(["sh", "-c", undo[1]], cwd=repo, check=True, capture_output=True)
    assert git(repo, "log", "-1", "--format=%s") == "News"
    hook.unlink()
    release(repo, "--push")
    assert_released(repo, "2026.11.3")


@pytest.fixture
def other_release(repo: Path) -> Iterator[None]:
    """Another release is running."""
    code = "import fcntl, sys; f = open(sys.argv[1], 'w'); fcntl.flock(f, 1); print(); input()"
    command = [sys.executable, "-c", code, str(repo / ".git" / "release.lock")]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout
        process.stdout.readline()
        yield
        process.kill()


@pytest.mark.usefixtures("other_release")
def test_only_one_release_runs_at_a_time(repo: Path) -> None:
    assert "another release is running" in release(repo, exit_code=1)
