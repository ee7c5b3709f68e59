"""What git does in a generated repo that is set up: real commits, merges and pushes.

Each test has a clone's worth of branches of its own, in one repo that they share.
"""

from __future__ import annotations

import os
import re
import shutil
import stat
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from .conftest import HERE, Repo, SetUp, clean_environment, unshare

pytestmark = pytest.mark.end_to_end

GOOD = '"""Sums."""\n\n\ndef add(a: int, b: int) -> int:\n    """The sum."""\n    return a + b\n'
KEY = "-----BEGIN RSA " + "PRIVATE KEY-----\nMIIEow\n"
Git = Callable[..., str]


@pytest.fixture(scope="module")
def made(set_up: SetUp) -> Repo:
    """A repo that is set up, with a remote."""
    repo = set_up("sales-pipelines", python_version=HERE)
    run(repo, "git", "init", "--quiet", "--bare", str(repo.folder.parent / "remote.git"))
    run(repo, "git", "remote", "add", "origin", "../remote.git")
    run(repo, "git", "config", "user.name", "Tester")
    run(repo, "git", "config", "user.email", "t@example.org")
    return repo


HOWEVER = pytest.mark.parametrize(
    "git", ["set up", "pre-commit install", "prek install"], indirect=True
)
"""For a test of what the runners could do otherwise."""


@pytest.fixture
def git(request: pytest.FixtureRequest, made: Repo) -> Iterator[Git]:
    """A function that runs git in the repo, which must exit so; whoever has installed the hooks.

    A user's own `install` puts itself in the place of what `setup` has installed.
    """
    hooks = made.folder / ".git" / "hooks"
    shutil.rmtree(hooks, ignore_errors=True)
    run(made, "hooks/install")
    install = getattr(request, "param", "set up")
    if install == "pre-commit install":
        run(made, sys.executable, "-m", "pre_commit", "install")
    elif install == "prek install":
        run(made, ".venv/bin/prek", "install")

    def git(*arguments: str, exit_code: int = 0, folder: Path = made.folder) -> str:
        return run(made, "git", *arguments, exit_code=exit_code, folder=folder)

    yield git
    subprocess.run(["git", "merge", "--abort"], cwd=made.folder, capture_output=True, check=False)
    for path in (made.folder / ".git").glob("refs/heads/**/*"):
        if path.is_file() and path.name != "main":
            path.unlink()
    git("switch", "--quiet", "--force", "main")
    git("reset", "--quiet", "--hard", git("rev-list", "--max-parents=0", "HEAD").strip())
    git("clean", "--quiet", "--force", "-d")


def run(
    repo: Repo, *command: str, exit_code: int = 0, folder: Path | None = None, **more: str
) -> str:
    """Run the command in the repo, which must exit so, and return all that it prints."""
    # Nothing of this environment's tools is to be found.
    path = os.pathsep.join(
        each
        for each in os.environ["PATH"].split(os.pathsep)
        if not Path(each, "prek").exists() and not Path(each, "pre-commit").exists()
    )
    done = subprocess.run(
        command,
        cwd=folder or repo.folder,
        env=clean_environment(repo.home, PATH=path, **more),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    assert (done.returncode != 0) == (exit_code != 0), done.stdout
    return done.stdout


def write(made: Repo, name: str, text: str, git: Git) -> None:
    """Write a file, and stage it."""
    path = made.folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    git("add", "--force", name)


@HOWEVER
def test_branches_for_issues_are_committed_to_and_others_are_not(git: Git, made: Repo) -> None:
    write(made, "sales_pipelines/sums.py", GOOD, git)
    assert "main is protected" in git("commit", "-m", "Sums", exit_code=1)
    git("switch", "--quiet", "--create", "readme")
    assert "git branch -m readme <issue>_readme" in git("commit", "-m", "Sums", exit_code=1)
    git("branch", "-m", "6_readme")
    git("commit", "-m", "Sums")


@HOWEVER
def test_merges_go_into_the_main_branch_and_not_into_bad_ones(git: Git, made: Repo) -> None:
    for number, branch in enumerate(("6_a", "7_b")):
        git("switch", "--quiet", "--create", branch, "main")
        write(made, "a.txt", f"{number}\n", git)
        git("commit", "-m", branch)
    git("switch", "--quiet", "main")
    git("merge", "--no-ff", "-m", "A merge", "6_a")
    git("merge", "--no-ff", "7_b", exit_code=1)
    write(made, "a.txt", "both\n", git)
    git("commit", "-m", "A merge with a conflict")
    git("switch", "--quiet", "--create", "readme", "7_b~1")
    write(made, "b.txt", "b\n", git)
    git("commit", "--no-verify", "-m", "B")
    assert "readme is not" in git("merge", "--no-ff", "-m", "A merge", "7_b", exit_code=1)


@HOWEVER
def test_what_is_ill_written_is_mended_and_committed_the_second_time(git: Git, made: Repo) -> None:
    git("switch", "--quiet", "--create", "6_sums")
    write(made, "sales_pipelines/sums.py", GOOD.replace("a + b", "a+b"), git)
    assert "ruff format" in git("commit", "-m", "Sums", exit_code=1)
    assert (made.folder / "sales_pipelines" / "sums.py").read_text() == GOOD
    git("add", "--all")
    git("commit", "-m", "Sums")


def test_what_nobody_means_to_commit_is_refused(git: Git, made: Repo) -> None:
    git("switch", "--quiet", "--create", "6_files")
    for name, text, _ in REFUSED:
        (made.folder / name).write_text(text)
        git("add", "--", name)
    said = git("commit", "-m", "Files", exit_code=1)
    for _, _, sentence in REFUSED:
        assert sentence in said
    assert "MIIE" not in said, "of a key nothing is shown"


REFUSED = [
    ("base.yaml.rej", "a\n", "base.yaml.rej is left over from an update or a merge"),
    ("a file.orig", "a\n", "a file.orig is left over"),
    ("big.csv", "a,b\n" * 300_000, "big.csv is larger than 1 MB"),
    ("-big.csv", "a,b\n" * 300_000, "-big.csv is larger than 1 MB"),
    ("(", "a\n", ""),  # to find more than a name
    ("key", KEY, "key:1:"),
    ("account.json", '{"key": "' + KEY.strip() + '\\n"}\n', "account.json:1:"),
    ("a.md", "a\n<<<<<<< ours\nb\n=======\nc\n>>>>>>> theirs\n", "a.md:2:<<<<<<< ours"),
    ("b.md", "<<<<<<< before updating\n=======\n", "b.md:1:"),
]


def test_what_looks_like_that_and_is_not_is_committed(git: Git, made: Repo) -> None:
    git("switch", "--quiet", "--create", "6_files")
    write(made, "a.md", "A heading\n=======\n\n    <<<<<<< quoted\n", git)
    write(made, "ünï çödé.txt", "a\n", git)
    write(made, ".gitattributes", "*.bin filter=lfs -text\n", git)
    (made.folder / "a.bin").write_bytes(bytes(2_000_000))
    (made.folder / "link").symlink_to("/nowhere")
    git("add", "--all")
    git("commit", "-m", "Files")


def test_versions_do_not_change_on_a_branch_for_an_issue(git: Git, made: Repo) -> None:
    git("switch", "--quiet", "--create", "6_version")
    text = (made.folder / "pyproject.toml").read_text()
    write(made, "pyproject.toml", re.sub('(?m)^version = ".*"', 'version = "1.0"', text), git)
    assert "version '1.0' is not YYYY.M.N" in git("commit", "-m", "1.0", exit_code=1)


@HOWEVER
def test_what_is_pushed_counts_not_what_is_checked_out(git: Git, made: Repo) -> None:
    git("push", "origin", "main")
    git("switch", "--quiet", "--create", "6_readme")
    assert "readme is not" in git("push", "origin", "HEAD:readme", exit_code=1)
    git("branch", "readme")
    assert "readme is not" in git("push", "origin", "6_readme", "readme", exit_code=1)
    assert "readme is not" in git(
        "push", "origin", "HEAD^{/from its}:refs/heads/readme", exit_code=1
    )
    git("push", "origin", "6_readme")
    git("push", "--no-verify", "origin", "readme")
    git("push", "--delete", "origin", "readme", "6_readme")


@HOWEVER
def test_what_is_thorough_waits_for_the_push(git: Git, made: Repo) -> None:
    git("push", "origin", "main")
    git("switch", "--quiet", "--create", "6_thorough")
    for name, text, _ in THOROUGH:
        write(made, name, text, git)
    git("commit", "-m", "Wrong in five ways")
    said = git("push", "origin", "6_thorough", exit_code=1)
    for _, _, sentence in THOROUGH:
        assert sentence in said


THOROUGH = [
    ("sales_pipelines/sums.py", GOOD.replace("-> int", "-> str"), "[return-value]"),
    (
        "config.ini",
        "[aws]\naws_secret_access_key = " + "wJalrXUtnFEMI/K7MDENG/" + "bPxRfiCYEXAMPLEKEY\n",
        "config.ini:2",
    ),
    (
        ".github/workflows/x.yml",
        "on: push\njobs: {a: {runs-on: x, steps: [{uses: a/b@v1}]}}\n",
        "unpinned-uses",
    ),
    ("do.sh", "#!/bin/sh\nrm $1/*\n", "SC2086"),
    ("Dockerfile", "FROM debian\nRUN cd /tmp && sudo ls\n", "DL3004"),
]


@HOWEVER
def test_a_linked_work_tree_has_the_same_hooks(git: Git, made: Repo) -> None:
    linked = made.folder.parent / "linked"
    git("worktree", "add", "--quiet", "-b", "readme", str(linked))
    (linked / "a.py").write_text("a=1\n")
    git("add", "--all", folder=linked)
    assert "readme is not" in git("commit", "-m", "A", exit_code=1, folder=linked)
    git("branch", "-m", "6_readme", folder=linked)
    assert "ruff format" in git("commit", "-m", "A", exit_code=1, folder=linked)
    git("commit", "--all", "-m", "A", folder=linked)
    git("worktree", "remove", "--force", str(linked))


def test_after_setup_a_commit_needs_no_network(git: Git, made: Repo) -> None:
    closed = unshare("--map-root-user", "--net")
    git("switch", "--quiet", "--create", "6_closed")
    write(made, "sales_pipelines/sums.py", GOOD, git)
    run(made, *closed, "git", "commit", "-m", "Sums")


def test_a_repo_that_was_moved_goes_on(made: Repo) -> None:
    run(made, "hooks/install")
    moved = made.folder.with_name("moved-pipelines")
    made.folder.rename(moved)
    try:
        run(made, "git", "switch", "--quiet", "--create", "6_moved", folder=moved)
        (moved / "a.py").write_text("a=1\n")
        run(made, "git", "add", "a.py", folder=moved)
        assert "ruff format" in run(made, "git", "commit", "-m", "A", exit_code=1, folder=moved)
        run(made, "git", "commit", "--all", "-m", "A", folder=moved)
        run(made, "git", "switch", "--quiet", "main", folder=moved)
    finally:
        moved.rename(made.folder)


def test_a_hook_of_the_users_is_kept_and_runs_first(made: Repo) -> None:
    hooks = made.folder / ".git" / "hooks"
    shutil.rmtree(hooks)
    hooks.mkdir()
    own = hooks / "pre-push"
    own.write_text("#!/bin/sh\necho 'the first word'\ncat > pushed\n")
    own.chmod(0o755)
    assert "your pre-push is" in run(made, "hooks/install")
    assert run(made, "hooks/install") == "", "a second time nothing is left to do"
    assert (hooks / "pre-push.legacy").stat().st_mode & stat.S_IXUSR
    said = run(made, "git", "push", "origin", "main:6_own")
    assert "the first word" in said
    assert "refs/heads/6_own" in (made.folder / "pushed").read_text()
    (made.folder / "pushed").unlink()
    own.write_text("#!/bin/sh\n# another one\n")
    assert "are both yours" in run(made, "hooks/install", exit_code=1)
    assert "another one" in own.read_text()
    shutil.rmtree(hooks)


def test_a_hook_of_the_users_that_calls_ours_is_kept(made: Repo) -> None:
    hooks = made.folder / ".git" / "hooks"
    hooks.mkdir(exist_ok=True)
    own = hooks / "pre-push"
    own.write_text("#!/bin/sh\necho 'the first word'\nexec hooks/git-hook pre-push \"$@\"\n")
    own.chmod(0o755)
    run(made, "hooks/install")
    assert "the first word" in run(made, "git", "push", "origin", "main:6_calls")
    assert "readme is not" in run(made, "git", "push", "origin", "main:readme", exit_code=1)
    shutil.rmtree(hooks)


def test_of_runners_that_were_installed_over_each_other_nothing_is_left(
    git: Git, made: Repo
) -> None:
    run(made, ".venv/bin/prek", "install")
    run(made, sys.executable, "-m", "pre_commit", "install")
    assert run(made, "hooks/install") == ""
    assert not list((made.folder / ".git" / "hooks").glob("*.legacy"))
    git("switch", "--quiet", "--create", "6_over")
    assert "error" not in git("commit", "--allow-empty", "-m", "A")


def test_without_the_hooks_in_the_work_tree_nothing_is_committed(git: Git, made: Repo) -> None:
    git("switch", "--quiet", "--create", "readme")
    git("sparse-checkout", "set", "docs")
    said = git("commit", "--allow-empty", "-m", "A", exit_code=1)
    assert "git sparse-checkout add hooks" in said
    git("sparse-checkout", "add", "hooks")
    assert "readme is not" in git("commit", "--allow-empty", "-m", "A", exit_code=1)
    git("sparse-checkout", "disable")
    git("rm", "-r", "--quiet", "hooks")
    git("commit", "-m", "Without hooks")  # as before there were any


@pytest.mark.parametrize("scope", ["--local", "--global"])
def test_hooks_that_git_looks_for_elsewhere_are_said(made: Repo, scope: str) -> None:
    run(made, "git", "config", scope, "core.hooksPath", "/company/hooks")
    said = run(made, "hooks/install")
    assert "git runs those in /company/hooks" in said
    run(made, "sh", "-c", said.splitlines()[-1])
    assert run(made, "hooks/install") == ""
    assert "main is protected" in run(
        made, "git", "commit", "--allow-empty", "-m", "A", exit_code=1
    )
    if scope == "--global":
        run(made, "git", "config", "--unset", "core.hooksPath")
        run(made, "git", "config", scope, "--unset", "core.hooksPath")


def test_without_a_runner_the_commit_says_what_makes_one(made: Repo) -> None:
    run(made, "hooks/install")
    away = made.folder / ".venv-away"
    (made.folder / ".venv").rename(away)
    try:
        said = run(made, "git", "commit", "--allow-empty", "-m", "A", exit_code=1)
        assert "nox -s setup" in said
    finally:
        away.rename(made.folder / ".venv")


def test_lint_runs_the_same_hooks_on_files_that_git_would_take(made: Repo) -> None:
    new = made.folder / "sales_pipelines" / "new.py"
    new.write_text("a=1\n")
    odd = made.folder / os.fsdecode(b"caf\xe9.txt")  # no UTF-8
    odd.write_text("a\n")
    assert "ruff format" in made.nox("-s", "lint", exit_code=1)
    said = made.nox("-s", "lint")
    assert "noxfile.py" not in said, "thousands of names are no news"
    for hook in ("version is", "left-overs", "ruff check", "mypy", "secrets", "shellcheck"):
        assert hook in said
    assert "protected" not in said, "main may be looked at"
    new.unlink()
    odd.unlink()
    assert "mypy" not in made.nox("-s", "lint", "--", "ruff-check")
