"""`PACKAGE.__version__` in a checkout, at a release, in a wheel, and in a copy without git."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from ..conftest import HERE, Repo, SetUp, clean_environment, commit, git, project_of


def version_of(folder: Path, **variables: str) -> str:
    """The version of the package in the folder, from a Python with no other packages."""
    code = "import sales_pipelines; print(sales_pipelines.__version__)"
    env = {"PATH": os.environ["PATH"], "PYTHONPATH": str(folder), **variables}
    return subprocess.check_output([sys.executable, "-c", code], text=True, env=env).strip()


def test_between_releases_the_version_has_branch_and_commit(repo: Path) -> None:
    released = project_of(repo)["version"]
    sha = git(repo, "rev-parse", "--short=7", "HEAD")
    assert version_of(repo) == f"{released}+main.g{sha}"
    git(repo, "switch", "--quiet", "--create", "6_Fix-the.README")
    assert version_of(repo) == f"{released}+6.fix.the.readme.g{sha}"
    (repo / "README.md").write_text("edited\n")
    assert version_of(repo) == f"{released}+6.fix.the.readme.g{sha}.dirty"
    git(repo, "checkout", "--quiet", "--force", "--detach", "HEAD")
    git(repo, "reset", "--quiet", "--hard")
    assert version_of(repo) == f"{released}+g{sha}"


def test_a_run_is_recorded_also_if_the_package_has_no_version(repo: Path) -> None:
    (repo / "sales_pipelines" / "__init__.py").write_text('"""Ours."""\n')
    commit(repo, "As before the template")
    code = "from sales_pipelines.runtime.version import code; print(*code())"
    printed = subprocess.check_output([sys.executable, "-c", code], text=True, cwd=repo)
    assert printed.split() == ["0+unknown", "main", git(repo, "rev-parse", "HEAD")]


@pytest.mark.parametrize("kind", ["--annotate", "--no-sign"])
def test_at_its_tag_the_version_is_only_the_release(repo: Path, kind: str) -> None:
    released = project_of(repo)["version"]
    git(repo, "tag", kind, "--message=Release", released) if kind == "--annotate" else git(
        repo, "tag", released
    )
    assert version_of(repo) == released
    (repo / "README.md").write_text("edited\n")
    assert version_of(repo).endswith(".dirty")
    commit(repo, "More")
    assert re.fullmatch(re.escape(released) + r"\+main\.g[0-9a-f]{7}", version_of(repo))


def test_packaging_reads_the_version_and_orders_it_after_the_release(repo: Path) -> None:
    from packaging.version import Version

    git(repo, "switch", "--quiet", "--create", "6_ünï/çödé--x")
    between, released = Version(version_of(repo)), Version(project_of(repo)["version"])
    assert between > released
    assert str(between) == version_of(repo), "in normal form"


def test_where_git_names_no_commit_the_version_is_no_release(repo: Path, tmp_path: Path) -> None:
    unknown = f"{project_of(repo)['version']}+unknown"
    git(repo, "tag", project_of(repo)["version"])
    assert version_of(repo, PATH="/nowhere") == unknown
    git(repo, "config", "core.bare", "true")
    assert version_of(repo) == unknown
    git(repo, "config", "core.bare", "false")
    for head in ("ref: refs/heads/6_nothing", "0123456789" * 4, "<<<<<<< ours"):
        (repo / ".git" / "HEAD").write_text(f"{head}\n")
        assert version_of(repo) == unknown
    shutil.rmtree(repo / ".git")
    assert version_of(repo) == unknown
    git(repo, "init", "--quiet")
    assert version_of(repo) == unknown
    shutil.copytree(repo / "sales_pipelines", tmp_path / "shipped" / "sales_pipelines")
    assert version_of(tmp_path / "shipped") == "0+unknown", "as Metaflow ships it"


@pytest.fixture(scope="module")
def made(set_up: SetUp) -> Repo:
    """A repo that is set up, without the example."""
    return set_up("sales-pipelines", python_version=HERE, with_examples=False)


@pytest.mark.thorough
def test_a_wheel_has_the_version_of_the_checkout_and_building_changes_no_file(made: Repo) -> None:
    git(made.folder, "switch", "--quiet", "--create", "6_wheel")
    (made.folder / "sales_pipelines" / "new.py").write_text("x = 1\n")
    (made.folder / "sales_pipelines" / "secret.env").write_text("x\n")
    (made.folder / ".git" / "info" / "exclude").write_text("*.env\n")
    version = version_of(made.folder)
    status = git(made.folder, "status", "--porcelain")
    made.nox("-s", "build")
    assert git(made.folder, "status", "--porcelain") == status
    (wheel,) = (made.folder / "dist").glob("*.whl")
    assert wheel.name == f"sales_pipelines-{version}-py3-none-any.whl"
    uv = str(next(made.folder.glob(".nox/bootstrap-*/bin/uv")))
    site = made.folder.parent / "site"
    command = [uv, "pip", "install", "--quiet", "--no-deps", "--target", str(site), str(wheel)]
    subprocess.run(command, check=True, env=clean_environment(made.home), cwd=made.home)
    assert version_of(site) == version
    assert (site / "sales_pipelines" / "new.py").exists()
    assert not (site / "sales_pipelines" / "secret.env").exists(), "git ignores it"


@pytest.mark.thorough
def test_without_a_git_repo_build_and_lint_fail_with_a_hint(made: Repo) -> None:
    away = made.folder.parent / "away"
    (made.folder / ".git").rename(away)
    try:
        for session in ("build", "lint"):
            assert "noxfile.py -s setup makes the git repo" in made.nox("-s", session, exit_code=1)
    finally:
        away.rename(made.folder / ".git")


@pytest.mark.thorough
def test_the_session_releases_with_hooks_and_lock_file(made: Repo) -> None:
    git(made.folder, "config", "user.name", "Tester")
    git(made.folder, "config", "user.email", "t@example.org")
    git(made.folder, "switch", "--quiet", "--force", "main")
    git(made.folder, "clean", "--quiet", "--force", "-d")
    made.nox("-s", "release", "--", "--local")
    assert git(made.folder, "describe", "--exact-match") == project_of(made.folder)["version"]
    assert version_of(made.folder) == project_of(made.folder)["version"]
    changelog = made.folder / "CHANGELOG.md"
    news = changelog.read_text().replace("Unreleased\n", "Unreleased\n\n- News.\n", 1)
    changelog.write_text(news)
    git(made.folder, "commit", "--quiet", "--no-verify", "--all", "--message", "News")
    made.nox("-s", "release", "--", "--local")
    assert project_of(made.folder)["version"].endswith(".1")
    made.nox("-s", "lint", "--", "calver", UV_LOCKED="1")  # the lock file has the new version too
