"""Real commits, merges and pushes in a generated repo that is set up.

The tests share one repo, and each has branches of its own.
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

from ..conftest import HERE, Repo, SetUp, clean_environment, unshare

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


ANY_INSTALLATION = pytest.mark.parametrize(
    "git",
    [
        "set up",
        pytest.param("pre-commit install", marks=pytest.mark.thorough),
        pytest.param("prek install", marks=pytest.mark.nightly),
    ],
    indirect=True,
)
"""For tests in which a runner could behave differently."""


@pytest.fixture
def git(request: pytest.FixtureRequest, made: Repo) -> Iterator[Git]:
    """A function that runs git in the repo, with hooks installed by `setup` or by a runner.

    A runner's `install` replaces the hooks that `setup` installed.
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
    """Run the command in the repo, which must exit with this code, and return its output."""
    # The runners of the tests' own environment are not on PATH.
    path = os.pathsep.join(
        each
        for each in os.environ["PATH"].split(os.pathsep)
        if not Path(each, "prek").exists() and not Path(each, "pre-commit").exists()
    )
    process = subprocess.run(
        command,
        cwd=folder or repo.folder,
        env=clean_environment(repo.home, PATH=path, **more),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    assert (process.returncode != 0) == (exit_code != 0), process.stdout
    return process.stdout


def write(made: Repo, name: str, text: str, git: Git) -> None:
    """Write a file, and stage it."""
    path = made.folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    git("add", "--force", name)


@ANY_INSTALLATION
def test_branches_for_issues_take_commits_and_others_do_not(git: Git, made: Repo) -> None:
    write(made, "sales_pipelines/sums.py", GOOD, git)
    assert "branch main is protected" in git("commit", "-m", "Sums", exit_code=1)
    git("switch", "--quiet", "--create", "readme")
    assert "git branch -m readme <issue>_readme" in git("commit", "-m", "Sums", exit_code=1)
    git("branch", "-m", "6_readme")
    git("commit", "-m", "Sums")


@ANY_INSTALLATION
def test_the_main_branch_takes_merges_and_badly_named_branches_do_not(git: Git, made: Repo) -> None:
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


@ANY_INSTALLATION
def test_bad_formatting_is_fixed_and_the_second_commit_works(git: Git, made: Repo) -> None:
    git("switch", "--quiet", "--create", "6_sums")
    write(made, "sales_pipelines/sums.py", GOOD.replace("a + b", "a+b"), git)
    refused = git("commit", "-m", "Sums", exit_code=1)
    assert "ruff format (git add what it changed)" in refused
    assert (made.folder / "sales_pipelines" / "sums.py").read_text() == GOOD
    git("add", "--all")
    git("commit", "-m", "Sums")


def test_large_files_leftovers_conflicts_and_keys_are_rejected(git: Git, made: Repo) -> None:
    git("switch", "--quiet", "--create", "6_files")
    for name, text, _ in REJECTED:
        (made.folder / name).write_text(text)
        git("add", "--", name)
    printed = git("commit", "-m", "Files", exit_code=1)
    for _, _, message in REJECTED:
        assert message in printed
    assert "MIIE" not in printed, "the key itself is not printed"


REJECTED = [
    ("base.yaml.rej", "a\n", "base.yaml.rej is left over from an update or a merge"),
    ("a file.orig", "a\n", "a file.orig is left over"),
    ("big.csv", "a,b\n" * 300_000, "big.csv is larger than 1 MB"),
    ("-big.csv", "a,b\n" * 300_000, "-big.csv is larger than 1 MB"),
    ("(", "a\n", ""),  # an operator of `find`
    ("key", KEY, "key:1:"),
    ("account.json", '{"key": "' + KEY.strip() + '\\n"}\n', "account.json:1:"),
    ("a.md", "a\n<<<<<<< ours\nb\n=======\nc\n>>>>>>> theirs\n", "a.md:2:<<<<<<< ours"),
    ("b.md", "<<<<<<< before updating\n=======\n", "b.md:1:"),
]


def test_files_that_only_look_like_those_are_committed(git: Git, made: Repo) -> None:
    git("switch", "--quiet", "--create", "6_files")
    write(made, "a.md", "A heading\n=======\n\n    <<<<<<< quoted\n", git)
    write(made, "ünï çödé.txt", "a\n", git)
    write(made, ".gitattributes", "*.bin filter=lfs -text\n", git)
    (made.folder / "a.bin").write_bytes(bytes(2_000_000))
    (made.folder / "link").symlink_to("/nowhere")
    git("add", "--all")
    git("commit", "-m", "Files")


def test_an_invalid_version_is_rejected_at_a_commit(git: Git, made: Repo) -> None:
    git("switch", "--quiet", "--create", "6_version")
    text = (made.folder / "pyproject.toml").read_text()
    write(made, "pyproject.toml", re.sub('(?m)^version = ".*"', 'version = "1.0"', text), git)
    assert "version '1.0' is not YYYY.M.N" in git("commit", "-m", "1.0", exit_code=1)


@pytest.mark.thorough
@ANY_INSTALLATION
def test_a_push_checks_the_pushed_refs_and_not_the_current_branch(git: Git, made: Repo) -> None:
    git("push", "origin", "main")
    git("switch", "--quiet", "--create", "6_readme")
    assert "readme is not" in git("push", "origin", "HEAD:readme", exit_code=1)
    git("branch", "readme")
    assert "readme is not" in git("push", "origin", "6_readme", "readme", exit_code=1)
    assert "readme is not" in git(
        "push", "origin", "HEAD^{/Generate the}:refs/heads/readme", exit_code=1
    )
    git("push", "origin", "6_readme")
    git("push", "--no-verify", "origin", "readme")
    git("push", "--delete", "origin", "readme", "6_readme")


@pytest.mark.thorough
@ANY_INSTALLATION
def test_slow_checks_run_at_the_push(git: Git, made: Repo) -> None:
    git("push", "origin", "main")
    git("switch", "--quiet", "--create", "6_thorough")
    for name, text, _ in THOROUGH:
        write(made, name, text, git)
    git("commit", "-m", "Wrong in five ways")
    printed = git("push", "origin", "6_thorough", exit_code=1)
    for _, _, message in THOROUGH:
        assert message in printed


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


SECRET = 'api_key = "' + "q8Zt3LmX0vKd7RbW" + '"\n'


@pytest.fixture
def remote(git: Git, made: Repo) -> Path:
    """An empty remote."""
    folder = made.folder.parent / "empty.git"
    shutil.rmtree(folder, ignore_errors=True)
    git("init", "--quiet", "--bare", str(folder))
    git("switch", "--quiet", "--create", "6_secret")
    return folder


@ANY_INSTALLATION
def test_a_secret_that_only_the_work_tree_has_lost_is_not_pushed(
    git: Git, made: Repo, remote: Path
) -> None:
    write(made, "settings.py", SECRET, git)
    git("commit", "-m", "With a secret")
    write(made, "settings.py", "", git)
    for _ in ("staged", "deleted"):
        printed = git("push", str(remote), "6_secret", exit_code=1)
        assert "settings.py:1 of commit " + git("rev-parse", "--short=8", "HEAD").strip() in printed
        assert "git rebase -i" in printed
        (made.folder / "settings.py").unlink(missing_ok=True)
    assert not git("ls-remote", str(remote))
    git("commit", "--all", "--amend", "--allow-empty", "-m", "Without")
    git("push", str(remote), "6_secret")


@pytest.mark.thorough
def test_a_secret_that_a_later_commit_takes_out_is_not_pushed(
    git: Git, made: Repo, remote: Path
) -> None:
    odd = "a b/größe\tx.ini"
    for name in (odd, "settings.py"):
        write(made, name, SECRET, git)
    git("commit", "-m", "With a secret")
    git("rm", "--quiet", odd)
    write(made, "settings.py", "", git)
    git("commit", "-m", "Without")
    git("tag", "old", "HEAD^")
    git("switch", "--quiet", "main")
    for pushed in ("6_secret", "old", "6_secret:refs/heads/7_other"):
        printed = git("push", str(remote), pushed, exit_code=1)
        assert f"{odd}:1 of commit " in printed
        assert "settings.py:1 of commit " in printed
    assert not git("ls-remote", str(remote))
    git("push", "--no-verify", "origin", "6_secret")
    git("push", "origin", "6_secret:7_other", "old")  # what is there already is not looked at
    git("push", "--delete", "origin", "6_secret", "7_other", "old")
    git("tag", "--delete", "old")


@pytest.mark.thorough
def test_secrets_of_tags_and_in_other_encodings_are_not_pushed(
    git: Git, made: Repo, remote: Path
) -> None:
    write(made, "words.ini", SECRET, git)
    blob, tree = git("rev-parse", ":words.ini").strip(), git("write-tree").strip()
    git("rm", "--quiet", "--force", "words.ini")
    git("tag", "blob", blob)
    git("tag", "-a", "-m", "A tag of a file", "blob-2", "blob")
    git("tag", "-a", "-m", "A tag of a folder", "tree", tree)
    git("tag", "-a", "-m", f"Notes\n\n{SECRET}", "notes", "main")
    git("tag", "-a", "-m", "Notes", "none", "main")
    for name, where in (
        ("blob", "blob:1 of tag blob "),
        ("blob-2", "blob-2:1 of tag blob-2 "),
        ("tree", "words.ini:1 of tag tree "),
        ("notes", "message:3 of tag notes "),
    ):
        printed = git("push", str(remote), name, exit_code=1)
        assert where in printed
        assert f"git tag --delete {name}" in printed
    git("push", str(remote), "none")
    git("tag", "--delete", "blob", "blob-2", "tree", "notes", "none")
    for name, encoding in (("little.ini", "utf-16-le"), ("big.ini", "utf-16-be")):
        (made.folder / name).write_bytes(f"\ufeffa = 1\n{SECRET}".encode(encoding))
        git("add", name)
    git("commit", "-m", "With texts of Windows")
    printed = git("push", str(remote), "6_secret", exit_code=1)
    assert "little.ini:2 of commit " in printed
    assert "big.ini:2 of commit " in printed


@pytest.mark.thorough
def test_what_only_looks_like_a_secret_can_be_pushed_with_a_comment(
    git: Git, made: Repo, remote: Path
) -> None:
    write(made, "settings.py", SECRET, git)
    write(made, "data/words.txt", SECRET, git)
    git("commit", "-m", "With words like secrets")
    write(made, "settings.py", SECRET.rstrip() + "  # pragma: allowlist secret\n", git)
    config = (made.folder / ".pre-commit-config.yaml").read_text()
    excluded = r"^(uv\.lock|alembic\.ini|migrations/.*)$"
    assert f"exclude: {excluded}\n" in config
    write(made, ".pre-commit-config.yaml", config.replace(excluded, "^(uv.lock|data/)"), git)
    git("commit", "-m", "Say that they are none")
    git("push", str(remote), "6_secret")
    write(made, "below.py", f"a = 1  # pragma: allowlist secret\n{SECRET.replace('q8', 's0')}", git)
    write(made, "feed.py", f"import os\n\x0c\n\n{SECRET.replace('q8', 't1')}", git)
    git("-c", "core.hooksPath=/dev/null", "commit", "-m", "With more secrets")
    printed = git("push", str(remote), "6_secret", exit_code=1)
    assert "below.py:2 of commit" in printed
    assert "feed.py:" in printed
    git("reset", "--quiet", "--hard", "HEAD^")
    for other in ("", "data.py"):
        write(made, other or "settings.py", SECRET.replace("q8", "r9"), git)
        git("commit", "-m", "Another")
        printed = git("push", str(remote), "6_secret", exit_code=1)
        assert f"{other or 'settings.py'}:1 of commit" in printed
        assert "words.txt" not in printed


@ANY_INSTALLATION
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


def test_a_moved_repo_keeps_its_hooks(made: Repo) -> None:
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


def test_setup_in_a_hook_of_another_repo_makes_the_repo_in_its_own_folder(
    made: Repo, tmp_path: Path
) -> None:
    """git names the other repo in variables, for a hook or for `rebase --exec`."""
    other, away = tmp_path / "other", tmp_path / "away"
    run(made, "git", "init", "--quiet", str(other))
    before = sorted(other.rglob("*")), (other / ".git" / "config").read_text()
    (made.folder / ".git").rename(away)
    try:
        folder = str(other / ".git")
        made.nox("-s", "setup", GIT_DIR=folder, GIT_INDEX_FILE=f"{folder}/index", GIT_PREFIX="")
        assert "Generate the repo" in run(made, "git", "log", "--format=%s")
        assert (made.folder / ".git" / "hooks" / "pre-commit").exists()
        assert (sorted(other.rglob("*")), (other / ".git" / "config").read_text()) == before
    finally:
        shutil.rmtree(made.folder / ".git", ignore_errors=True)
        away.rename(made.folder / ".git")


def test_a_user_s_hook_is_kept_and_runs_first(made: Repo) -> None:
    hooks = made.folder / ".git" / "hooks"
    shutil.rmtree(hooks)
    hooks.mkdir()
    hook = hooks / "pre-push"
    hook.write_text("#!/bin/sh\necho 'my hook runs'\ncat > pushed\n")
    hook.chmod(0o755)
    assert "your pre-push hook is" in run(made, "hooks/install")
    assert run(made, "hooks/install") == "", "the second run has nothing to do"
    assert (hooks / "pre-push.legacy").stat().st_mode & stat.S_IXUSR
    printed = run(made, "git", "push", "origin", "main:6_own")
    assert "my hook runs" in printed
    assert "refs/heads/6_own" in (made.folder / "pushed").read_text()
    (made.folder / "pushed").unlink()
    hook.write_text("#!/bin/sh\n# another one\n")
    assert "are both your hooks" in run(made, "hooks/install", exit_code=1)
    assert "another one" in hook.read_text()
    shutil.rmtree(hooks)


def test_a_user_s_hook_that_calls_git_hook_is_kept(made: Repo) -> None:
    hooks = made.folder / ".git" / "hooks"
    hooks.mkdir(exist_ok=True)
    hook = hooks / "pre-push"
    hook.write_text("#!/bin/sh\necho 'my hook runs'\nexec hooks/git-hook pre-push \"$@\"\n")
    hook.chmod(0o755)
    run(made, "hooks/install")
    assert "my hook runs" in run(made, "git", "push", "origin", "main:6_calls")
    assert "readme is not" in run(made, "git", "push", "origin", "main:readme", exit_code=1)
    shutil.rmtree(hooks)


def test_hooks_of_runners_installed_over_each_other_are_replaced(git: Git, made: Repo) -> None:
    run(made, ".venv/bin/prek", "install")
    run(made, sys.executable, "-m", "pre_commit", "install")
    assert run(made, "hooks/install") == ""
    assert not list((made.folder / ".git" / "hooks").glob("*.legacy"))
    git("switch", "--quiet", "--create", "6_over")
    assert "error" not in git("commit", "--allow-empty", "-m", "A")


def test_a_work_tree_without_the_hooks_takes_no_commits(git: Git, made: Repo) -> None:
    git("switch", "--quiet", "--create", "readme")
    git("sparse-checkout", "set", "docs")
    printed = git("commit", "--allow-empty", "-m", "A", exit_code=1)
    assert "git sparse-checkout add hooks" in printed
    git("sparse-checkout", "add", "hooks")
    assert "readme is not" in git("commit", "--allow-empty", "-m", "A", exit_code=1)
    git("sparse-checkout", "disable")
    git("rm", "-r", "--quiet", "hooks")
    git("commit", "-m", "Without hooks")  # as in commits from before the hooks


@pytest.mark.parametrize("scope", ["--local", "--global"])
def test_install_names_the_setting_that_makes_git_ignore_the_hooks(made: Repo, scope: str) -> None:
    run(made, "git", "config", scope, "core.hooksPath", "/company/hooks")
    printed = run(made, "hooks/install")
    assert "git runs the hooks in /company/hooks" in printed
    run(made, "sh", "-c", printed.splitlines()[-1].removeprefix("hint: "))
    assert run(made, "hooks/install") == ""
    assert "branch main is protected" in run(
        made, "git", "commit", "--allow-empty", "-m", "A", exit_code=1
    )
    if scope == "--global":
        run(made, "git", "config", "--unset", "core.hooksPath")
        run(made, "git", "config", scope, "--unset", "core.hooksPath")


def test_without_a_runner_the_commit_fails_with_a_hint(made: Repo) -> None:
    run(made, "hooks/install")
    away = made.folder / ".venv-away"
    (made.folder / ".venv").rename(away)
    try:
        printed = run(made, "git", "commit", "--allow-empty", "-m", "A", exit_code=1)
        assert "nox -s setup" in printed
    finally:
        away.rename(made.folder / ".venv")


@pytest.mark.thorough
def test_lint_runs_the_same_hooks_on_the_files_that_git_would_add(made: Repo) -> None:
    new = made.folder / "sales_pipelines" / "new.py"
    new.write_text("a=1\n")
    odd = made.folder / os.fsdecode(b"caf\xe9.txt")  # not UTF-8
    odd.write_text("a\n")
    assert "ruff format" in made.nox("-s", "lint", exit_code=1)
    printed = made.nox("-s", "lint")
    assert "noxfile.py" not in printed, "file names are not listed"
    for hook in ("version is", "leftovers", "ruff check", "mypy", "secrets", "shellcheck"):
        assert hook in printed
    assert "protected" not in printed, "lint also works on main"
    new.unlink()
    odd.unlink()
    assert "mypy" not in made.nox("-s", "lint", "--", "ruff-check")
