"""An update from 2026.11.0, whose runtime was one flat folder, to the working tree."""

from __future__ import annotations

import io
import re
import subprocess
import sys
import tarfile
from pathlib import Path

import copier
import pytest

from ..conftest import FIRST, ROOT, SECOND, commit, copy, copy_working_tree, git

RELEASED = "021fec316afc7aa4129d8c92b642de4a0acc3d36"
YOURS = {"luigi.cfg", *(f"sales_pipelines/config/{name}.yaml" for name in ("base", "production"))}


@pytest.fixture(scope="module")
def upstream(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The template with both versions, each with its tag."""
    folder = tmp_path_factory.mktemp("template")
    archive = subprocess.run(
        ["git", "-C", str(ROOT), "archive", RELEASED], capture_output=True, check=False
    )
    if archive.returncode:
        pytest.skip(f"this clone has no history: {archive.stderr.decode().strip()}")
    git(folder, "init", "--quiet", "--initial-branch=main")
    with tarfile.open(fileobj=io.BytesIO(archive.stdout)) as files:
        files.extractall(folder, filter="data")
    commit(folder, "2026.11.0", tag=FIRST)
    git(folder, "rm", "-r", "--quiet", ".")
    copy_working_tree(folder)
    commit(folder, "The working tree", tag=SECOND)
    return folder


@pytest.fixture
def repo(upstream: Path, tmp_path: Path) -> Path:
    """A repo of the old version."""
    folder = tmp_path / "sales-pipelines"
    data = {"python_version": "3.12"}
    copier.run_copy(str(upstream), folder, data=data, defaults=True, quiet=True, vcs_ref=FIRST)
    git(folder, "init", "--quiet", "--initial-branch=main")
    commit(folder, "Generate the repo")
    return folder


def edit(repo: Path, module: str, old: str, new: str) -> None:
    file = repo / "sales_pipelines" / "runtime" / module
    text = file.read_text()
    assert old in text
    file.write_text(text.replace(old, new))
    commit(repo, f"Edit {module}")


def update_fleet(repo: Path, exit_code: int = 0) -> str:
    """Update as `nox -s fleet` does: a repo of this version has no `nox -s update` of its own."""
    git(repo, "config", "user.name", "Tester")
    git(repo, "config", "user.email", "t@example.org")
    done = subprocess.run(
        [sys.executable, str(ROOT / "hooks" / "update.py"), "--issue", "9"],
        cwd=repo,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == exit_code, done.stdout + done.stderr
    return done.stdout


@pytest.mark.thorough
def test_copier_update_of_an_untouched_repo_gives_what_a_fresh_copy_gives(
    upstream: Path, repo: Path
) -> None:
    copier.run_update(repo, defaults=True, overwrite=True, quiet=True)
    fresh = copy(upstream, repo.parent / "fresh" / repo.name, python_version="3.12")
    names = git(repo, "ls-files", "--cached", "--others", "--exclude-standard").splitlines()
    left = {name for name in names if (repo / name).exists()}
    assert left == {
        path.relative_to(fresh).as_posix() for path in fresh.rglob("*") if path.is_file()
    }
    differing = {name for name in left if (repo / name).read_bytes() != (fresh / name).read_bytes()}
    assert differing == YOURS


@pytest.mark.thorough
def test_an_edit_of_a_module_that_stayed_is_a_conflict_in_it(repo: Path) -> None:
    edit(repo, "errors.py", '"""What can go wrong', '"""What went wrong')
    copier.run_update(repo, defaults=True, overwrite=True, quiet=True)
    assert git(repo, "diff", "--name-only", "--diff-filter=U") == (
        "sales_pipelines/runtime/errors.py"
    )


@pytest.mark.thorough
def test_the_update_prints_a_command_that_shows_edits_of_modules_that_moved(
    repo: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    edit(repo, "process.py", "GRACE = 5.0", "GRACE = 30.0")
    copier.run_update(repo, defaults=True, overwrite=True)
    message = capfd.readouterr().err
    (command,) = re.findall(r"(?m)^ +(git log .*)$", message)
    shown = subprocess.check_output(["sh", "-c", command], cwd=repo, text=True)
    assert "process.py" in shown
    assert "+GRACE = 30.0" in shown
    assert shown.count("\ncommit ") == 0, "nothing but the user's edit"


@pytest.mark.thorough
@pytest.mark.parametrize(
    ("module", "old", "new", "now"),
    [
        ("process.py", "GRACE = 5.0", "GRACE = 30.0", "process/__init__.py"),
        ("s3.py", '"""', '"""Mine. ', "store/s3.py"),
        ("layers.py", "from __future__ import annotations", "# mine", "container/layers.py"),
    ],
)
def test_an_edit_of_a_module_that_moved_is_in_the_tree_and_named(
    repo: Path, module: str, old: str, new: str, now: str
) -> None:
    text = (repo / "sales_pipelines" / "runtime" / module).read_text()
    (repo / "sales_pipelines" / "runtime" / module).write_text(text.replace(old, new, 1))
    commit(repo, "Mine")
    printed = update_fleet(repo, exit_code=3)
    named = re.findall(
        r"(?m)^- `(sales_pipelines/runtime/\S+)`: ", printed.partition("\n## Moved")[0]
    )
    assert named, printed
    assert any(new in (repo / name).read_text() for name in named)
    assert (repo / "sales_pipelines" / "runtime" / now).exists()
