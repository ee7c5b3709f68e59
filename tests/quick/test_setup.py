"""`nox -s setup`: what it does to the git repo, with a uv that only looks like one."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from ..conftest import HERE, bootstrapped, commit, first_by_day, git, output, project_of

UV = """#!/bin/sh
case $* in
    'python find '*) [ -z "$HAS_PYTHON" ] || echo "$HAS_PYTHON" ;;
    sync)
        echo "uv got: $UV_PYTHON"
        [ -z "$NO_SYNC" ] || exit 2
        echo locked > uv.lock
        ;;
esac
"""

SetUp = Callable[..., str]


@pytest.fixture
def folder(repo: Path) -> Path:
    """A generated repo that is not in git yet."""
    shutil.rmtree(repo / ".git")
    return repo


@pytest.fixture
def nox(folder: Path, tmp_path: Path) -> SetUp:
    """A function that runs a session in the folder."""
    programs, home = tmp_path / "programs", tmp_path / "home"
    home.mkdir()
    programs.mkdir()
    (programs / "uv").write_text(UV)
    (programs / "uv").chmod(0o755)
    _, made = bootstrapped(sys.executable)
    if not made:
        pytest.skip("python3 noxfile.py, which makes the environment of nox, has not run here")

    def nox(*sessions: str, exit_code: int = 0, **variables: str) -> str:
        path = os.pathsep.join([str(programs), os.environ["PATH"]])
        command = [made / "bin" / "nox", "-s", *(sessions or ["setup"])]
        return output(command, folder, home, exit_code, **{"PATH": path, **variables})

    return nox


def subjects(folder: Path) -> list[str]:
    return git(folder, "log", "--format=%s").splitlines()


def require(folder: Path, python: str) -> None:
    """Let the repo need that Python or newer."""
    pyproject = folder / "pyproject.toml"
    needed = project_of(folder)["requires-python"]
    pyproject.write_text(pyproject.read_text().replace(f'"{needed}"', f'">={python}"'))


def test_where_no_python_is_new_enough_setup_ends_with_both_ways_out_and_a_commit(
    folder: Path, nox: SetUp
) -> None:
    require(folder, "3.99")
    printed = nox(exit_code=1, NO_SYNC="1")
    assert "uv got: 3.99\n" in printed, "uv may download that one, and no newer one"
    *_, reason, first, second = printed.strip().splitlines()
    assert "needs Python 3.99 or newer, which is not on this machine" in reason
    assert "UV_PYTHON=/path/to/python python3 noxfile.py -s setup" in first
    assert f"copier update --defaults --vcs-ref=:current: --data python_version={HERE}" in second
    assert subjects(folder) == ["Generate the repo"]
    assert git(folder, "status", "--porcelain") == "", "or `copier update` refuses"
    (folder / "README.md").write_text("as an update changes it\n")
    nox()
    assert subjects(folder) == ["Lock the packages", "Generate the repo"]
    assert git(folder, "status", "--porcelain") == ""
    nox()
    assert len(subjects(folder)) == 2


def test_a_newer_python_of_the_machine_is_taken(folder: Path, nox: SetUp) -> None:
    require(folder, "3.99")
    assert "uv got: /opt/python4\n" in nox(HAS_PYTHON="/opt/python4")
    printed = nox(exit_code=1, HAS_PYTHON="/opt/python4", NO_SYNC="1")
    assert "needs Python" not in printed, "uv fails for another reason"
    require(folder, "3.11")
    assert f"uv got: {bootstrapped(sys.executable)[1]}/bin/python\n" in nox()


def test_a_commit_of_the_user_s_is_left_alone(folder: Path, nox: SetUp) -> None:
    git(folder, "init", "--quiet", "--initial-branch=main")
    commit(folder, "Mine")
    (folder / "README.md").write_text("not finished\n")
    nox()
    assert subjects(folder) == ["Mine"]
    assert git(folder, "status", "--porcelain") == "M README.md\n?? uv.lock"


NOX = "python3 noxfile.py"  # that of this checkout is not on the PATH of its user
HINT = "No git hooks check your commits here yet: python3 noxfile.py -s setup\n"


def test_a_clone_without_hooks_is_told_so_once_by_what_runs_daily(
    folder: Path, nox: SetUp, tmp_path: Path
) -> None:
    assert HINT not in nox("test"), "there is no git repo"
    nox()
    for sessions in (["run"], ["test"], ["lint"]):
        assert HINT not in nox(*sessions)
    clone, moved = tmp_path / "clone", tmp_path / "moved"
    git(tmp_path, "clone", "--quiet", str(folder), str(clone))
    folder.rename(moved)
    clone.rename(folder)
    for sessions in (["run"], ["test"], ["lint"], ["lint", "test", "run"]):
        assert nox(*sessions).count(HINT) == 1
        assert HINT not in nox(*sessions, CI="true")
    git(folder, "config", "core.hooksPath", str(moved / ".git" / "hooks"))
    assert HINT not in nox("test"), "hooks elsewhere are hooks"
    git(folder, "config", "--unset", "core.hooksPath")
    nox()
    assert HINT not in nox("test")
    git(folder, "worktree", "add", "--quiet", str(tmp_path / "linked"), "-b", "6_linked")
    folder.rename(tmp_path / "main")
    git(tmp_path / "main", "worktree", "repair", str(tmp_path / "linked"))
    (tmp_path / "linked").rename(folder)
    git(tmp_path / "main", "worktree", "repair", str(folder))
    assert HINT not in nox("test"), "a linked work tree has the hooks of the main one"


@pytest.mark.parametrize("own", [0, 1, 2])
def test_the_last_words_of_setup_are_a_command_that_runs_something(
    folder: Path, nox: SetUp, own: int
) -> None:
    tasks = folder / "sales_pipelines" / "tasks"
    if own != 1:
        for number in range(own):
            (tasks / f"own{number}_tasks.py").touch()
    else:
        shutil.rmtree(tasks / "examples")
        (tasks / "own_tasks.py").touch()
    file = " -- FILE" if own == 2 else ""
    assert f"Ready. Next: {NOX} -s run{file}, or {NOX} -s test\n" in nox()


def test_commands_are_printed_for_a_nox_of_the_user_s_own(folder: Path, tmp_path: Path) -> None:
    _, made = bootstrapped(sys.executable)
    if not made:
        pytest.skip("python3 noxfile.py, which makes the environment of nox, has not run here")
    (tmp_path / "tools").symlink_to(made)
    (tmp_path / "home").mkdir()
    git(folder, "init", "--quiet", "--initial-branch=main")
    command = [tmp_path / "tools" / "bin" / "python", "-m", "nox", "-s", "run"]
    printed = output(command, folder, tmp_path / "home", 1, PATH=f"{folder}:/usr/bin:/bin")
    assert "No git hooks check your commits here yet: nox -s setup\n" in printed


def test_lint_names_the_files_in_conflict(folder: Path, nox: SetUp) -> None:
    nox()
    git(folder, "switch", "--quiet", "--create", "6_mine")
    for branch in ("main", "6_mine"):
        git(folder, "switch", "--quiet", branch)
        for name in ("README.md", "bootstrap.py"):
            (folder / name).write_text(f"# {branch}\n")
        git(folder, "commit", "--quiet", "--no-verify", "--all", "--message", branch)
    with pytest.raises(subprocess.CalledProcessError):
        git(folder, "merge", "main")
    printed = nox("lint", exit_code=1)
    assert "in conflict: README.md, bootstrap.py\nhint: make one text" in printed
    git(folder, "commit", "--quiet", "--no-verify", "--all", "--message", "Merge")
    nox("lint")


@pytest.mark.parametrize("command", [["status"], ["run", "nowhere.py"]])
def test_a_variable_with_too_few_underscores_is_named_in_one_line(
    folder: Path, tmp_path: Path, command: list[str]
) -> None:
    (tmp_path / "home").mkdir(exist_ok=True)
    words = [sys.executable, "-m", "sales_pipelines.runtime", *command]
    variables = {"SALES_PIPELINES_ENV": "production"}
    exit_code = 2 if command[0] == "run" else 0
    printed = output(words, folder, tmp_path / "home", exit_code, **variables).splitlines()
    (line,) = (line for line in printed if "SALES_PIPELINES_ENV" in line)
    assert line == (
        f"{command[0]}: SALES_PIPELINES_ENV sets nothing; did you mean SALES_PIPELINES__ENV?"
    )
    assert not any("settings()" in line for line in printed), "no line of code"


def owned_by_another(folder: Path) -> None:
    if os.geteuid():
        pytest.skip("only root can give files away")
    for path in (folder, *folder.rglob("*")):
        os.chown(path, 1234, 1234, follow_symlinks=False)


def without_a_head(folder: Path) -> None:
    (folder / ".git" / "HEAD").write_text("neither a branch nor a commit\n")


def with_a_link_to_nowhere(folder: Path) -> None:
    shutil.rmtree(folder / ".git")
    (folder / ".git").write_text("gitdir: /nowhere\n")


def below_a_broken_one(folder: Path) -> None:
    (folder / ".git").rename(folder.parent / ".git")
    without_a_head(folder.parent)


def of_an_unknown_format(folder: Path) -> None:
    git(folder, "config", "core.repositoryFormatVersion", "99")


UNREADABLE = first_by_day(
    (owned_by_another, "fatal: detected dubious ownership in repository"),
    (without_a_head, "fatal: not a git repository"),
    (with_a_link_to_nowhere, "fatal: not a git repository: /nowhere"),
    (below_a_broken_one, "fatal: not a git repository"),
    (of_an_unknown_format, "fatal: Expected git repo version <= 1, found 99"),
)


@pytest.mark.parametrize(("damage", "reason"), UNREADABLE)
def test_where_git_cannot_read_the_repo_its_reason_is_shown_and_nothing_is_made(
    folder: Path, nox: SetUp, damage: Callable[[Path], None], reason: str
) -> None:
    git(folder, "init", "--quiet", "--initial-branch=main")
    commit(folder, "Mine")
    damage(folder)
    before = sorted(folder.rglob("*"))
    printed = nox(exit_code=1)
    assert reason in printed
    assert "Ready" not in printed
    assert sorted(path for path in folder.rglob("*") if "__pycache__" not in str(path)) == before
    assert reason in nox("lint", exit_code=1)
    code = "import sales_pipelines; print(sales_pipelines.__version__)"
    printed = output([sys.executable, "-c", code], folder, folder.parent / "home")
    assert f"{project_of(folder)['version']}+unknown\n" in printed
    assert f"the commit is unknown: {reason}" in printed
    module = ("-m", "sales_pipelines.runtime", "status")
    printed = output([sys.executable, *module], folder, folder.parent / "home")
    assert printed.count(reason) >= 2, "for the repo and for its hooks"
    assert "no git repo" not in printed


def test_without_git_setup_and_lint_say_so(folder: Path, nox: SetUp, tmp_path: Path) -> None:
    git(folder, "init", "--quiet", "--initial-branch=main")
    (tmp_path / "uv").symlink_to("/bin/true")
    for session in ("setup", "lint"):
        printed = nox(session, exit_code=1, PATH=str(tmp_path))
        assert "git is not on PATH\nhint: apt install git" in printed
        assert "Traceback" not in printed


@pytest.mark.thorough
@pytest.mark.parametrize("file_mode", ["true", "false", "no"])
def test_every_clone_can_run_the_hooks_whatever_the_file_system_says(
    folder: Path, nox: SetUp, tmp_path: Path, file_mode: str
) -> None:
    own = folder / "sales_pipelines" / "flows" / "own"
    own.mkdir()
    shutil.copy(folder / "sales_pipelines" / "config" / "metaflowtask" / "launch.sh", own)
    git(folder, "init", "--quiet", "--initial-branch=main")
    git(folder, "config", "core.fileMode", file_mode)
    nox()
    clone = tmp_path / "clone"
    git(tmp_path, "clone", "--quiet", str(folder), str(clone))
    listed = git(clone, "ls-files", "--stage").splitlines()
    executable = {line.partition("\t")[2] for line in listed if line.startswith("100755")}
    hooks = {f"hooks/{name}" for name in ("branch-name", "calver", "git-hook", "install", "tool")}
    assert hooks <= executable
    assert "sales_pipelines/flows/own/launch.sh" in executable
    assert not {"README.md", "noxfile.py", "hooks/branches"} & executable
    assert git(folder, "status", "--porcelain") == ""
    subprocess.run(["hooks/install"], cwd=clone, check=True)
    refused = subprocess.run(
        ["git", "-c", "user.name=T", "-c", "user.email=t@example.org", "commit", "--allow-empty"],
        cwd=clone,
        capture_output=True,
        text=True,
        check=False,
    )
    assert "prek" in refused.stderr or "is protected" in refused.stderr + refused.stdout
