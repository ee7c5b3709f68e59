"""The hooks in other repos, through .pre-commit-hooks.yaml, and in the template itself."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from ..conftest import ROOT, clean_environment, commit, copy_working_tree, git

RUNNERS = {"prek": ("prek",), "pre-commit": (sys.executable, "-m", "pre_commit")}


def run(folder: Path, home: Path, *command: str) -> tuple[int, str]:
    """The exit code of a command, and its output."""
    process = subprocess.run(
        command,
        cwd=folder,
        env=clean_environment(
            home,
            PATH=f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
            **{
                f"GIT_{who}_{what}": "a@example.org"
                for who in ("AUTHOR", "COMMITTER")
                for what in ("NAME", "EMAIL")
            },
        ),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    return process.returncode, process.stdout


@pytest.mark.parametrize("runner", RUNNERS)
def test_any_repo_can_use_the_hooks(template: Path, tmp_path: Path, runner: str) -> None:
    repo, home = tmp_path / "repo", tmp_path / "home"
    home.mkdir()
    git(tmp_path, "init", "--quiet", "--initial-branch=main", str(repo))
    ids = ("branch-name", "branch-name-merge", "calver", "calver-merge", "staged-files")
    (repo / ".pre-commit-config.yaml").write_text(
        "default_install_hook_types: [pre-commit, pre-merge-commit]\nrepos:\n"
        f"  - repo: {template}\n    rev: {git(template, 'rev-parse', 'HEAD')}\n    hooks:\n"
        + "".join(f"      - id: {name}\n" for name in ids)
    )
    code, printed = run(repo, home, *RUNNERS[runner], "install")
    assert code == 0, printed
    (repo / "a.txt").write_text("a\n")
    git(repo, "add", "--all")
    assert run(repo, home, "git", "commit", "-m", "The first")[0] == 0
    (repo / "a.txt.rej").write_text("a\n")
    (repo / "pyproject.toml").write_text('[project]\nversion = "1.0"\n')
    git(repo, "add", "--all")
    code, printed = run(repo, home, "git", "commit", "-m", "Wrong in three ways")
    assert code
    for message in ("branch main is protected", "'1.0' is not YYYY.M.N", "a.txt.rej is left over"):
        assert message in printed
    git(repo, "rm", "--quiet", "--force", "a.txt.rej", "pyproject.toml")
    git(repo, "switch", "--quiet", "--create", "6_b")
    (repo / "b.txt").write_text("b\n")
    git(repo, "add", "--all")
    assert run(repo, home, "git", "commit", "-m", "B")[0] == 0
    git(repo, "switch", "--quiet", "main")
    code, printed = run(repo, home, "git", "merge", "--no-ff", "-m", "Merge", "6_b")
    assert code == 0, printed


def test_the_template_follows_its_own_rules(tmp_path: Path) -> None:
    repo, home = copy_working_tree(tmp_path / "repo"), tmp_path / "home"
    home.mkdir()
    git(repo, "init", "--quiet", "--initial-branch=main")
    commit(repo, "The template")
    code, printed = run(repo, home, "hooks/install")
    assert code == 0, printed
    (repo / "cookiecutter_json.py").write_text("import os\nx  = 1\n")
    git(repo, "add", "--all")
    code, printed = run(repo, home, "git", "commit", "-m", "Wrong")
    assert code
    assert "branch main is protected" in printed
    git(repo, "switch", "--quiet", "--create", "6_x")
    code, printed = run(repo, home, "git", "commit", "-m", "Wrong")
    assert code
    assert (repo / "cookiecutter_json.py").read_text() == "x = 1\n"
    git(repo, "add", "--all")
    code, printed = run(repo, home, "git", "commit", "-m", "Right")
    assert code == 0, printed
    code, printed = run(repo, home, "git", "push", str(tmp_path / "nowhere"), "HEAD:readme")
    assert code


def test_the_template_is_released_like_generated_repos(tmp_path: Path) -> None:
    repo, home = copy_working_tree(tmp_path / "repo"), tmp_path / "home"
    home.mkdir()
    git(repo, "init", "--quiet", "--initial-branch=main")
    commit(repo, "The template")
    version = (ROOT / "pyproject.toml").read_text().split('version = "')[1].split('"')[0]
    git(repo, "tag", version)
    code, printed = run(repo, home, sys.executable, "hooks/release.py", "--local")
    assert code == 0, printed
    tag = git(repo, "describe", "--exact-match")
    assert f"\n## Unreleased\n\n## {tag}\n" in (repo / "CHANGELOG.md").read_text()
    assert f'version = "{tag}"' in (repo / "pyproject.toml").read_text()
