"""`nox -s update`: what people do to a repo between two versions, and what becomes of it."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import re
import shutil
import signal
import stat
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import copier
import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ..conftest import (
    FIRST,
    SECOND,
    Terminal,
    clean_environment,
    commit,
    copy,
    git,
    make_template,
    wait_until,
)

PIPELINE = Path("templates", "{{ pipeline }}")
PACKAGE = PIPELINE / "{{ package_name }}"
BRANCH = "9_template-" + SECOND.replace(".", "-")
PICTURE = bytes(range(256))


def replace(file: Path, old: str, new: str) -> None:
    text = file.read_text()
    assert text.count(old) == 1, f"{old!r} is not once in {file}"
    file.write_text(text.replace(old, new))


def write(file: Path, content: str | bytes) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(content if isinstance(content, bytes) else content.encode())


@pytest.fixture(scope="module")
def released(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The template with a second version, which changes, moves, adds and removes files."""
    template = tmp_path_factory.mktemp("released") / "template"
    template.mkdir()
    write(template / PIPELINE / "docs" / "picture.png", PICTURE)
    write(template / PIPELINE / "docs" / "old.md", "# Old\n")
    write(template / PACKAGE / "runtime" / "shelf.py", SHELF)
    make_template(template)
    runtime = template / PACKAGE / "runtime"
    write(template / PIPELINE / "docs" / "picture.png", PICTURE[::-1])
    (template / PIPELINE / "docs" / "old.md").unlink()
    write(template / PIPELINE / "docs" / "new.md", "# New\n")
    write(template / PIPELINE / "hooks" / "new", "#!/bin/sh\n")
    (template / PIPELINE / "hooks" / "new").chmod(0o755)
    write(template / PACKAGE / "config" / "new.yaml", "new: 1\n")
    write(template / PACKAGE / "config" / "base.yaml.jinja", "# Base, anew\n")
    (runtime / "shelf.py").rename(runtime / "store" / "shelf.py")
    replace(runtime / "store" / "shelf.py", "third = 3", "third = 33")
    replace(runtime / "errors.py", '"""Errors that a user can', '"""All errors that a user can')
    replace(template / PIPELINE / "README.md.jinja", "## Settings", "## The settings")
    replace(template / PIPELINE / "pyproject.toml.jinja", "xfail_strict = true\n", "")
    replace(
        template / "CHANGELOG.md", "## Unreleased\n", f"## Unreleased\n\n## {SECOND}\n\n- New.\n"
    )
    commit(template, "What is new", tag=SECOND)
    return template


SHELF = '"""A shelf."""\n\n' + "".join(
    f"{name} = {number}\n\n\ndef get_{name}() -> int:\n    return {name}\n\n\n"
    for number, name in enumerate(("zeroth", "first", "second", "third", "fourth"))
)


@pytest.fixture(scope="module")
def first(released: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A repo of the first version."""
    folder = tmp_path_factory.mktemp("first") / "sales-pipelines"
    with at_version(released, FIRST):
        copy(released, folder)
    git(folder, "init", "--quiet", "--initial-branch=main")
    git(folder, "config", "user.name", "Tester")
    git(folder, "config", "user.email", "t@example.org")
    answers = yaml.safe_load((folder / ".copier-answers.yml").read_text())
    assert answers["_commit"] == FIRST
    commit(folder, "Generate the repo")
    return folder


@contextlib.contextmanager
def at_version(template: Path, version: str) -> Any:
    """The template, whose newest version this is for a while."""
    tag = git(template, "rev-parse", SECOND)
    git(template, "tag", "--delete", SECOND)
    try:
        git(template, "checkout", "--quiet", version)
        yield
    finally:
        git(template, "checkout", "--quiet", "main")
        git(template, "tag", SECOND, tag)


@dataclass
class Repo:
    """A repo, and what `nox -s update` made of it."""

    root: Path
    template: Path
    code: int = 0
    printed: str = ""

    def __truediv__(self, name: str) -> Path:
        return self.root / name

    def run(self, *arguments: str, **variables: str) -> Repo:
        """Update with these arguments, as the repo's own copy does it."""
        done = subprocess.run(
            [sys.executable, str(self.root / "hooks" / "update.py"), *arguments],
            cwd=self.root,
            env=clean_environment(self.root.parent / "home", **variables),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
        )
        self.code, self.printed = done.returncode, done.stdout
        assert "Traceback" not in done.stdout, done.stdout
        assert len(git(self.root, "worktree", "list").splitlines()) == 1, "no work tree is left"
        return self

    def update(self, *arguments: str, **variables: str) -> Repo:
        """Commit what was done, and update for issue 9."""
        if git(self.root, "status", "--porcelain"):
            commit(self.root, "What I did")
        return self.run("--issue", "9", *arguments, **variables)

    @property
    def branch(self) -> str:
        return git(self.root, "branch", "--show-current")

    @property
    def is_clean(self) -> bool:
        return not git(self.root, "status", "--porcelain")

    def updated(self) -> Repo:
        """It has been updated without a conflict, as one commit on a branch of its own."""
        assert self.code == 0, self.printed
        assert (self.branch, self.is_clean) == (BRANCH, True)
        assert git(self.root, "rev-list", "--count", "main..HEAD") == "1"
        assert f"_commit: {SECOND}\n" in (self / ".copier-answers.yml").read_text()
        return self

    def conflicts(self, *files: str) -> Repo:
        """It has been updated, with conflicts in these files, which are named."""
        assert self.code == 3, self.printed
        assert self.branch == BRANCH
        unmerged = git(self.root, "diff", "--name-only", "--diff-filter=U").splitlines()
        assert unmerged == list(files)
        assert f"update: in conflict: {', '.join(files)}\n" in self.printed
        assert "exit code 3 says that it has conflicts" in self.printed.splitlines()[-1]
        assert git(self.root, "rev-list", "--count", "main..HEAD") == "0"
        return self

    def unchanged(self, code: int, *texts: str) -> Repo:
        """Nothing has changed, and the reason is named in a sentence."""
        assert self.code == code, self.printed
        for text in texts:
            assert text in self.printed
        assert "template-" not in git(self.root, "branch", "--list")
        return self


@pytest.fixture
def repo(first: Path, released: Path, tmp_path: Path) -> Repo:
    """A repo of the first version, of a template that has a second one."""
    (tmp_path / "home").mkdir()
    shutil.copytree(first, tmp_path / "sales-pipelines", symlinks=True)
    return Repo(tmp_path / "sales-pipelines", released)


def test_an_untouched_repo_becomes_what_a_fresh_copy_gives(repo: Repo, tmp_path: Path) -> None:
    users = {"sales_pipelines/config/base.yaml"}  # the user's own stay as they were made
    repo.update().updated()
    fresh = copy(repo.template, tmp_path / "fresh" / "sales-pipelines")
    names = git(repo.root, "ls-files").splitlines()
    assert {p.relative_to(fresh).as_posix() for p in fresh.rglob("*") if p.is_file()} == {*names}
    for name in names:
        same = (repo / name).read_bytes() == (fresh / name).read_bytes()
        assert same == (name not in users), name
        assert (repo / name).stat().st_mode & 0o111 == (fresh / name).stat().st_mode & 0o111, name
    assert (repo / "sales_pipelines/config/new.yaml").exists()


@pytest.mark.thorough
def test_the_result_is_that_of_copier_update(repo: Repo, tmp_path: Path) -> None:
    (repo / "README.md").write_text((repo / "README.md").read_text() + "\nMine.\n")
    replace(
        repo / "sales_pipelines/runtime/errors.py", "from __future__", "# mine\nfrom __future__"
    )
    write(repo / "mine.txt", "mine\n")
    commit(repo.root, "What I did")
    other = tmp_path / "other" / "sales-pipelines"
    shutil.copytree(repo.root, other, symlinks=True)
    repo.update().updated()
    copier.run_update(other, defaults=True, overwrite=True, quiet=True)
    commit(other, "Updated")
    # Copier leaves out a new file that is the user's own once it exists.
    (repo / "sales_pipelines/config/new.yaml").unlink()
    commit(repo.root, "Without")
    assert git(repo.root, "rev-parse", "HEAD^{tree}") == git(other, "rev-parse", "HEAD^{tree}")


def test_a_preview_shows_the_update_and_changes_nothing(repo: Repo) -> None:
    repo.run("--preview", "--issue", "9").unchanged(0, "Next: nox -s update -- --issue 9\n")
    write(repo / "docs/s3.md", "not committed\n")
    before = git(repo.root, "status", "--porcelain"), git(repo.root, "for-each-ref")
    (repo.root.parent / "report.json").unlink(missing_ok=True)
    repo.run("--preview", "--diff", "--report", "../report.json").unchanged(0)
    assert (git(repo.root, "status", "--porcelain"), git(repo.root, "for-each-ref")) == before
    for text in (
        f"# Template {FIRST} → {SECOND}",
        f"## {SECOND}\n\n- New.",
        "- `docs/new.md`",
        "- `docs/old.md`",
        "- `sales_pipelines/runtime/shelf.py`: sales_pipelines/runtime/store/shelf.py",
        "+third = 33",
        "Your uncommitted changes are not part of this preview.",
        "Nothing has changed. Next: nox -s update -- --issue NUMBER --report ../report.json\n",
    ):
        assert text in repo.printed
    report = json.loads((repo.root.parent / "report.json").read_text())
    assert report["removed"] == ["docs/old.md"]
    assert set(report["added"]) == {
        *("docs/new.md", "hooks/new", "sales_pipelines/config/new.yaml"),
    }
    assert report["conflicts"] == report["answers"] == {}


# --- What people do to a repo between two versions ---------------------------------------------

ERRORS = "sales_pipelines/runtime/errors.py"
SHELVED = "sales_pipelines/runtime/shelf.py"
NOW = "sales_pipelines/runtime/store/shelf.py"


def far_from_the_change(repo: Repo) -> None:
    (repo / ERRORS).write_text((repo / ERRORS).read_text() + "\n# mine\n")
    repo.update().updated()
    text = (repo / ERRORS).read_text()
    assert text.startswith('"""All errors')
    assert text.endswith("# mine\n")
    assert f"## Merged with your changes (1)\n\n- `{ERRORS}`" in repo.printed


def the_same_lines(repo: Repo) -> None:
    replace(repo / ERRORS, '"""Errors that', '"""My errors that')
    repo.update().conflicts(ERRORS)
    text = (repo / ERRORS).read_text()
    assert '"""My errors that' in text
    assert '"""All errors that' in text
    assert f"- `{ERRORS}`: line 1\n" in repo.printed
    undo = repo.printed.partition("Undo: ")[2].splitlines()[0]
    repo.run("--issue", "8")
    assert repo.code == 4
    assert f"still in conflict: {ERRORS}\n" in repo.printed
    subprocess.run(undo, shell=True, cwd=repo.root, check=True, capture_output=True)
    assert (repo.branch, repo.is_clean) == ("main", True)
    assert not (repo / "docs/new.md").exists()


def the_same_edit_as_the_template(repo: Repo) -> None:
    replace(repo / ERRORS, '"""Errors that a user can', '"""All errors that a user can')
    repo.update().updated()


def a_file_of_one_s_own(repo: Repo) -> None:
    write(repo / "sales_pipelines/flows/mine.py", "mine = 1\n")
    repo.update().updated()
    assert (repo / "sales_pipelines/flows/mine.py").read_text() == "mine = 1\n"


def deleting_a_file_that_the_template_changes(repo: Repo) -> None:
    (repo / ERRORS).unlink()
    (repo / "docs/s3.md").unlink()  # which the template does not change
    repo.update("--report", "../report.json").updated()
    assert not (repo / ERRORS).exists()
    assert f"; stays deleted here (1)\n\n- `{ERRORS}`" in repo.printed
    report = json.loads((repo.root.parent / "report.json").read_text())
    assert report["stays_deleted"] == [ERRORS]


def deleting_a_file_that_the_template_deletes(repo: Repo) -> None:
    (repo / "docs/old.md").unlink()
    repo.update().updated()
    assert "stays deleted" not in repo.printed


def editing_a_file_that_the_template_deletes(repo: Repo) -> None:
    write(repo / "docs/old.md", "# Old\n\nMine.\n")
    repo.update().conflicts("docs/old.md")
    assert (repo / "docs/old.md").read_text() == "# Old\n\nMine.\n"
    assert "git add docs/old.md keeps it" in repo.printed


def renaming_a_file_that_the_template_changes(repo: Repo) -> None:
    (repo / ERRORS).rename(repo / "sales_pipelines/runtime/faults.py")
    repo.update().updated()
    assert (repo / "sales_pipelines/runtime/faults.py").read_text().startswith('"""All errors')
    assert not (repo / ERRORS).exists()


def editing_a_file_that_the_template_moves(repo: Repo) -> None:
    replace(repo / SHELVED, "first = 1", "first = 11")
    repo.update().updated()
    assert not (repo / SHELVED).exists()
    assert "first = 11" in (repo / NOW).read_text()
    assert "third = 33" in (repo / NOW).read_text()


def editing_what_changes_in_a_file_that_moves(repo: Repo) -> None:
    replace(repo / SHELVED, "third = 3\n", "third = 333\n")
    repo.update().conflicts(NOW)
    assert not (repo / SHELVED).exists()
    assert "third = 333" in (repo / NOW).read_text()


def deleting_a_file_that_the_template_moves(repo: Repo) -> None:
    (repo / SHELVED).unlink()
    repo.update().updated()
    assert not (repo / SHELVED).exists()


def a_file_where_the_template_adds_one(repo: Repo) -> None:
    write(repo / "docs/new.md", "# Mine\n")
    repo.update().conflicts("docs/new.md")
    assert "# Mine" in (repo / "docs/new.md").read_text()


def the_same_file_as_the_template_adds(repo: Repo) -> None:
    write(repo / "docs/new.md", "# New\n")
    repo.update().updated()


def a_folder_where_the_template_adds_a_file(repo: Repo) -> None:
    write(repo / "docs/new.md/mine.txt", "mine\n")
    repo.update()
    assert repo.code == 3
    assert (repo / "docs/new.md/mine.txt").read_text() == "mine\n"


def a_file_where_the_template_adds_a_folder(repo: Repo) -> None:
    shutil.rmtree(repo / "docs")
    write(repo / "docs", "mine\n")
    repo.update()
    assert repo.code == 3
    assert "mine\n" in [
        path.read_text()
        for path in repo.root.iterdir()
        if path.name.startswith("docs")
        if path.is_file()
    ]


def making_a_file_executable(repo: Repo) -> None:
    (repo / ERRORS).chmod(0o755)
    repo.update().updated()
    assert (repo / ERRORS).stat().st_mode & stat.S_IXUSR
    assert (repo / ERRORS).read_text().startswith('"""All errors')


def another_binary(repo: Repo) -> None:
    write(repo / "docs/picture.png", PICTURE * 2)
    repo.update().conflicts("docs/picture.png")
    assert (repo / "docs/picture.png").read_bytes() == PICTURE * 2
    assert "git checkout --theirs docs/picture.png" in repo.printed


def a_link_in_place_of_a_file(repo: Repo) -> None:
    (repo / ERRORS).unlink()
    (repo / ERRORS).symlink_to("settings.py")
    repo.update()
    assert repo.code == 3
    here = git(repo.root, "ls-files", "--stage", "-u", ERRORS)
    assert "120000" in here, "the link is one side of the conflict"


def a_link_beside_the_template_s_files(repo: Repo) -> None:
    (repo / "linked.py").symlink_to(ERRORS)
    repo.update().updated()
    assert (repo / "linked.py").is_symlink()


def windows_line_ends_in_the_work_tree(repo: Repo) -> None:
    (repo / ERRORS).write_bytes((repo / ERRORS).read_bytes().replace(b"\n", b"\r\n"))
    git(repo.root, "add", "--all")  # which makes them those of the repo
    repo.run("--issue", "9").updated()
    assert (repo / ERRORS).read_text().startswith('"""All errors')


def windows_line_ends_in_the_repo(repo: Repo) -> None:
    (repo / ".gitattributes").write_text("* -text\n")
    (repo / ERRORS).write_bytes((repo / ERRORS).read_bytes().replace(b"\n", b"\r\n"))
    repo.update()
    assert repo.code == 3, "a conflict at worst"
    assert '"""Errors that' in (repo / ERRORS).read_text()


def reformatting_a_file(repo: Repo) -> None:
    text = (repo / ERRORS).read_text()
    (repo / ERRORS).write_text(text.replace("    ", "  "))
    repo.update().updated()
    assert (repo / ERRORS).read_text() == text.replace("    ", "  ").replace(
        '"""Errors that', '"""All errors that'
    )


def a_config_of_one_s_own(repo: Repo) -> None:
    base = repo / "sales_pipelines/config/base.yaml"
    base.write_text(base.read_text() + "# mine\n")
    (repo / "sales_pipelines/config/production.yaml").unlink()
    text = base.read_text()
    repo.update().updated()
    assert base.read_text() == text
    assert not (repo / "sales_pipelines/config/production.yaml").exists()


def a_submodule(repo: Repo) -> None:
    other = repo.root.parent / "other"
    write(other / "a.txt", "a\n")
    git(other, "init", "--quiet", "--initial-branch=main")
    commit(other, "Other")
    git(
        repo.root,
        "-c",
        "protocol.file.allow=always",
        "submodule",
        "--quiet",
        "add",
        str(other),
        "other",
    )
    repo.update().updated()
    assert (repo / "other/a.txt").read_text() == "a\n"


def a_subfolder_of_a_git_repo(repo: Repo) -> None:
    top = repo.root.parent / "mono"
    top.mkdir()
    shutil.move(repo.root, top / "pipelines")
    shutil.move(top / "pipelines" / ".git", top / ".git")
    write(top / "README.md", "# All of us\n")
    write(top / "docs/new.md", "# Not the template's\n")
    replace(top / "pipelines" / ERRORS, "from __future__", "# mine\nfrom __future__")
    commit(top, "Move")
    repo.root = top / "pipelines"
    repo.run("--issue", "9")
    assert repo.code == 0, repo.printed
    assert repo.branch == f"{BRANCH}-pipelines", "another folder's update has a branch, too"
    assert (repo / "docs/new.md").read_text() == "# New\n"
    assert "# mine" in (repo / ERRORS).read_text()
    assert '"""All errors' in (repo / ERRORS).read_text()
    assert (top / "README.md").read_text() == "# All of us\n"
    assert (top / "docs/new.md").read_text() == "# Not the template's\n"
    changed = git(top, "diff", "--name-only", "HEAD^", "HEAD").splitlines()
    assert all(name.startswith("pipelines/") for name in changed)


def a_shallow_clone(repo: Repo) -> None:
    write(repo / "mine.txt", "mine\n")
    commit(repo.root, "Mine")
    clone = repo.root.parent / "clone"
    git(repo.root, "clone", "--quiet", "--depth=1", repo.root.as_uri(), str(clone))
    git(clone, "config", "user.name", "Tester")
    git(clone, "config", "user.email", "t@example.org")
    repo.root = clone
    repo.update().updated()


def a_linked_work_tree(repo: Repo) -> None:
    linked = repo.root.parent / "linked"
    git(repo.root, "worktree", "add", "--quiet", "-b", "7_mine", str(linked))
    main, repo.root = repo.root, linked
    done = subprocess.run(
        [sys.executable, "hooks/update.py", "--issue", "9"],
        cwd=linked,
        check=False,
        env=clean_environment(main.parent / "home"),
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert (linked / "docs/new.md").exists()
    assert git(main, "branch", "--show-current") == "main"


def an_ignored_file_in_the_way(repo: Repo) -> None:
    write(repo / ".git/info/exclude", "docs/new.md\n")
    write(repo / "docs/new.md", "secret\n")
    repo.update().updated()
    assert (repo / "docs/new.md").read_text() == "# New\n"
    (copied,) = [*(repo / ".git").rglob("new.md")]
    assert copied.read_text() == "secret\n"
    assert str(copied) in repo.printed


def an_ignored_file_in_the_way_of_a_conflict(repo: Repo) -> None:
    replace(repo / ERRORS, '"""Errors that', '"""My errors that')
    write(repo / ".git/info/exclude", "docs/new.md\n")
    write(repo / "docs/new.md", "secret\n")
    repo.update().conflicts(ERRORS)
    assert (repo / "docs/new.md").read_text() == "# New\n"
    (copied,) = [*(repo / ".git").rglob("new.md")]
    assert copied.read_text() == "secret\n"


def ignored_files_in_the_way_of_two_updates(repo: Repo) -> None:
    write(repo / ".git/info/exclude", "docs/new.md\n")
    for secret in ("one", "two"):
        write(repo / "docs/new.md", secret)
        repo.update().updated()
        undo = repo.printed.partition("Undo: ")[2].splitlines()[0]
        subprocess.run(undo, shell=True, cwd=repo.root, check=True, capture_output=True)
        assert (repo / "docs/new.md").read_text() == secret, "an undo brings it back"
    copies = {path.read_text() for path in (repo / ".git").rglob("new.md")}
    assert copies == {"one", "two"}


def an_ignored_link_in_the_way(repo: Repo) -> None:
    (repo / "elsewhere").mkdir()
    write(repo / ".git/info/exclude", "/hooks/new\n/elsewhere\n")
    (repo / "hooks/new").symlink_to("../elsewhere")
    repo.update().updated()
    (copies,) = (repo / ".git/replaced-by-update").glob("*/hooks")
    assert (copies / "new").readlink() == Path("../elsewhere")


def an_ignored_link_to_a_folder_in_the_way(repo: Repo) -> None:
    template = shutil.copytree(repo.template, repo.root.parent / "guided")
    write(template / PIPELINE / "docs/guides/one.md", "# One\n")
    commit(template, "A guide", tag="2026.12.5")
    write(repo / ".git/info/exclude", "/docs/guides\n/elsewhere\n")
    write(repo / "elsewhere/one.md", "mine\n")
    (repo / "docs/guides").symlink_to("../elsewhere")
    repo.run("--issue", "9", "--template", str(template))
    assert repo.code == 0, repo.printed
    (copies,) = (repo / ".git/replaced-by-update").glob("*/docs")
    assert (copies / "guides").readlink() == Path("../elsewhere")
    assert (repo / "elsewhere/one.md").read_text() == "mine\n"
    assert (repo / "docs/guides/one.md").read_text() == "# One\n"


def a_conflict_that_git_remembers(repo: Repo) -> None:
    git(repo.root, "config", "rerere.enabled", "true")
    replace(repo / ERRORS, '"""Errors that', '"""My errors that')
    repo.update().conflicts(ERRORS)
    git(repo.root, "rerere")
    git(repo.root, "checkout", "--quiet", "--theirs", ERRORS)
    git(repo.root, "add", "--all")
    git(repo.root, "commit", "--quiet", "--message", "Resolved")
    git(repo.root, "switch", "--quiet", "main")
    git(repo.root, "branch", "-D", BRANCH)
    repo.run("--issue", "9").conflicts(ERRORS)
    assert "<<<<<<< " in (repo / ERRORS).read_text()


def renaming_the_package_s_folder(repo: Repo) -> None:
    git(repo.root, "mv", "sales_pipelines", "shop")
    old, new = SHELVED, SHELVED.replace("runtime/", "runtime/store/")
    mine = old.replace("sales_pipelines", "shop")
    repo.update().conflicts(old, new, mine)
    assert f"- `{old}`: moved by you, and elsewhere in the template: git rm {old}\n" in repo.printed
    assert f"- `{new}`: the template's, moved or in" in repo.printed
    assert f"- `{mine}`: yours, moved or in the way of a folder: git add {mine}" in repo.printed


def a_module_where_the_template_has_a_folder(repo: Repo) -> None:
    other = repo.root.parent / "other"
    write(other / "a.txt", "a\n")
    git(other, "init", "--quiet", "--initial-branch=main")
    commit(other, "Other")
    git(repo.root, "rm", "-r", "--quiet", "docs")
    allowed = ("-c", "protocol.file.allow=always")
    git(repo.root, *allowed, "submodule", "--quiet", "add", str(other), "docs")
    repo.update()
    assert repo.code == 3, repo.printed
    assert (
        "- `docs~HEAD`: yours, moved or in the way of a folder: git add docs~HEAD" in repo.printed
    )


def signing_one_s_commits(repo: Repo) -> None:
    key = repo.root.parent / "key"
    if not shutil.which("ssh-keygen"):
        pytest.skip("no ssh-keygen")
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(key)], check=True)
    for name, value in (("gpgSign", "true"), ("format", "ssh")):
        git(repo.root, "config", f"{'commit' if value == 'true' else 'gpg'}.{name}", value)
    git(repo.root, "config", "user.signingKey", str(key))
    repo.update().updated()
    assert "\ngpgsig -----BEGIN SSH SIGNATURE" in git(repo.root, "cat-file", "commit", "HEAD")


def folders_named_as_those_of_updates(repo: Repo) -> None:
    there = repo.root.parent / "template-update-mine"
    git(repo.root, "worktree", "add", "--quiet", "-b", "7_mine", str(there / "linked"))
    write(there / "notes.txt", "mine\n")
    write(there / "linked/mine.txt", "mine\n")
    away = repo.root.parent / "away"
    git(repo.root, "worktree", "add", "--quiet", "-b", "8_mine", str(away))
    away.rename(repo.root.parent / "drive")  # a drive that is not there at the moment
    done = subprocess.run(
        [sys.executable, "hooks/update.py", "--issue", "9"],
        cwd=repo.root,
        env=clean_environment(repo.root.parent / "home"),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    (repo.root.parent / "drive").rename(away)
    assert git(away, "branch", "--show-current") == "8_mine"
    assert (there / "notes.txt").exists()
    assert (there / "linked/mine.txt").exists()


def a_tag_named_as_the_branch(repo: Repo) -> None:
    git(repo.root, "tag", "main")
    repo.update().updated()
    undo = repo.printed.partition("Undo: ")[2].splitlines()[0]
    subprocess.run(undo, shell=True, cwd=repo.root, check=True, capture_output=True)
    assert repo.branch == "main"


def another_template_s_answers(repo: Repo) -> None:
    mine = repo / ".copier-answers.headwater.yml"
    (repo / ".copier-answers.yml").rename(mine)
    write(repo / ".copier-answers.yml", "_commit: 1.0\n_src_path: /elsewhere\n")
    repo.update()
    assert repo.code == 0, repo.printed
    assert f"_commit: {SECOND}\n" in mine.read_text()
    assert "_commit: 1.0\n" in (repo / ".copier-answers.yml").read_text()


def an_encoding_without_arrows(repo: Repo) -> None:
    repo.update(PYTHONIOENCODING="ascii").updated()
    assert f"# Template {FIRST} ? {SECOND}" in repo.printed


def an_ignored_folder_in_the_way(repo: Repo) -> None:
    write(repo / ".git/info/exclude", "docs/new.md\n")
    write(repo / "docs/new.md/deep/a.txt", "secret\n")
    repo.update()
    copies = [path.read_text() for path in repo.root.rglob("a.txt")]
    assert "secret\n" in copies


def settings_of_git_that_change_what_it_prints(repo: Repo) -> None:
    for name, value in (
        ("status.showUntrackedFiles", "no"),
        ("diff.renames", "false"),
        ("merge.renames", "false"),
        ("color.ui", "always"),
        ("core.quotePath", "true"),
        ("merge.conflictStyle", "diff3"),
        ("diff.noprefix", "true"),
        ("log.showSignature", "true"),
        ("core.fileMode", "false"),
        ("diff.external", "false"),
        ("merge.directoryRenames", "true"),
        ("column.ui", "always"),
        ("status.relativePaths", "false"),
        ("core.abbrev", "5"),
    ):
        git(repo.root, "config", name, value)
    replace(repo / SHELVED, "first = 1", "first = 11")
    write(repo / "größe.txt", "mine\n")
    repo.update().updated()
    assert "first = 11" in (repo / NOW).read_text()


def hooks_that_refuse_everything(repo: Repo) -> None:
    for name in ("pre-commit", "commit-msg", "post-checkout", "pre-merge-commit"):
        write(repo / ".git/hooks" / name, "#!/bin/sh\nexit 1\n")
        (repo / ".git/hooks" / name).chmod(0o755)
    git(repo.root, "-c", "core.hooksPath=/dev/null", "commit", "--allow-empty", "-qm", "Mine")
    repo.update().updated()


def answers_edited_by_hand(repo: Repo) -> None:
    replace(repo / ".copier-answers.yml", "license: MIT", "license: Proprietary")
    repo.update().updated()
    assert "license: Proprietary" in (repo / ".copier-answers.yml").read_text()


def a_file_with_an_odd_name(repo: Repo) -> None:
    write(repo / 'a "b"\tc\n.txt', "mine\n")
    write(repo / "-n", "mine\n")
    repo.update().updated()
    assert (repo / "-n").read_text() == "mine\n"


def switching_the_example_off(repo: Repo) -> None:
    repo.update("with_examples=false").updated()
    assert not (repo / "sales_pipelines/flows/examples").exists()
    assert "- `with_examples`: True → False" in repo.printed


def switching_an_edited_example_off(repo: Repo) -> None:
    edited = "sales_pipelines/flows/examples/co2/clean.py"
    (repo / edited).write_text((repo / edited).read_text() + "# mine\n")
    repo.update("with_examples=false").conflicts(edited)
    assert (repo / edited).read_text().endswith("# mine\n")


def switching_the_example_on_again(repo: Repo) -> None:
    repo.update("with_examples=false").updated()
    git(repo.root, "switch", "--quiet", "-c", "main2")
    git(repo.root, "branch", "-D", BRANCH)
    repo.run("--issue", "9", "with_examples=true")
    assert repo.code == 0, repo.printed
    assert (repo / "sales_pipelines/flows/examples/co2/clean.py").exists()
    assert "# New answers" in repo.printed


CASES = [
    far_from_the_change,
    the_same_lines,
    editing_a_file_that_the_template_moves,
    an_ignored_file_in_the_way,
    another_binary,
    *(
        pytest.param(case, marks=pytest.mark.thorough)
        for case in (
            the_same_edit_as_the_template,
            a_file_of_one_s_own,
            deleting_a_file_that_the_template_changes,
            deleting_a_file_that_the_template_deletes,
            editing_a_file_that_the_template_deletes,
            renaming_a_file_that_the_template_changes,
            editing_what_changes_in_a_file_that_moves,
            deleting_a_file_that_the_template_moves,
            a_file_where_the_template_adds_one,
            the_same_file_as_the_template_adds,
            a_folder_where_the_template_adds_a_file,
            a_file_where_the_template_adds_a_folder,
            making_a_file_executable,
            a_link_in_place_of_a_file,
            a_link_beside_the_template_s_files,
            windows_line_ends_in_the_work_tree,
            windows_line_ends_in_the_repo,
            reformatting_a_file,
            a_config_of_one_s_own,
            a_submodule,
            a_subfolder_of_a_git_repo,
            a_shallow_clone,
            a_linked_work_tree,
            an_ignored_file_in_the_way_of_a_conflict,
            an_ignored_folder_in_the_way,
            ignored_files_in_the_way_of_two_updates,
            an_ignored_link_to_a_folder_in_the_way,
            a_conflict_that_git_remembers,
            renaming_the_package_s_folder,
            a_module_where_the_template_has_a_folder,
            signing_one_s_commits,
            an_ignored_link_in_the_way,
            folders_named_as_those_of_updates,
            a_tag_named_as_the_branch,
            another_template_s_answers,
            an_encoding_without_arrows,
            settings_of_git_that_change_what_it_prints,
            hooks_that_refuse_everything,
            answers_edited_by_hand,
            a_file_with_an_odd_name,
            switching_the_example_off,
            switching_an_edited_example_off,
            switching_the_example_on_again,
        )
    ),
]


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.__name__.replace("_", "-"))
def test_after(repo: Repo, case: Callable[[Repo], None]) -> None:
    case(repo)


# --- Bad input ---------------------------------------------------------------------------------


def uncommitted_changes(repo: Repo) -> None:
    write(repo / "docs/s3.md", "mine\n")
    repo.run("--issue", "9").unchanged(4, "uncommitted changes in docs/s3.md", "git stash")
    git(repo.root, "add", "docs/s3.md")
    repo.run("--issue", "9").unchanged(4, "uncommitted changes in docs/s3.md")
    assert (repo / "docs/s3.md").read_text() == "mine\n"


def an_untracked_file_in_the_way(repo: Repo) -> None:
    write(repo / "docs/new.md", "mine\n")
    repo.run("--issue", "9").unchanged(4, "docs/new.md is in the way", "git add docs/new.md")
    assert (repo / "docs/new.md").read_text() == "mine\n"


def a_detached_head(repo: Repo) -> None:
    git(repo.root, "switch", "--quiet", "--detach")
    repo.run("--issue", "9").unchanged(4, "no branch is checked out", "git switch BRANCH")


def a_merge_under_way(repo: Repo) -> None:
    git(repo.root, "switch", "--quiet", "-c", "7_a")
    write(repo / "mine.txt", "mine\n")
    commit(repo.root, "Mine")
    git(repo.root, "switch", "--quiet", "main")
    git(repo.root, "merge", "--quiet", "--no-ff", "--no-commit", "7_a")
    repo.run("--issue", "9").unchanged(4, "git merge is under way", "git merge --abort")
    git(repo.root, "merge", "--abort")
    for name, command in (("rebase-apply", "am"), ("sequencer", "cherry-pick")):
        (repo / ".git" / name).mkdir()
        repo.run("--issue", "9").unchanged(
            4, f"git {command} is under way", f"git {command} --abort"
        )
        (repo / ".git" / name).rmdir()


def a_lock_that_git_has_left(repo: Repo) -> None:
    for name in ("index.lock", "HEAD.lock", "packed-refs.lock"):
        lock = repo / ".git" / name
        lock.touch()
        repo.run("--issue", "9").unchanged(4, "another git command has made", f"rm {lock}")
        lock.unlink()


def a_key_that_cannot_sign(repo: Repo) -> None:
    git(repo.root, "config", "commit.gpgSign", "true")
    git(repo.root, "config", "gpg.program", "false")
    repo.run("--issue", "9").unchanged(
        1, "git cannot make the commit: error: gpg failed to sign", "mend the key, or git config"
    )


def a_name_that_is_no_utf_8(repo: Repo) -> None:
    odd = os.fsdecode(b"docs/s3-\xff.md")
    (repo / "docs/s3.md").rename(repo / odd)
    git(repo.root, "add", "--all")
    git(repo.root, "commit", "--quiet", "--message", "Odd")
    template = shutil.copytree(repo.template, repo.root.parent / "edited")
    write(template / PIPELINE / "docs" / "s3.md", "# Anew\n")
    commit(template, "Another text", tag="2026.12.5")
    for suffix in ("json", "md"):
        report = repo.root.parent / f"report.{suffix}"
        repo.run("--preview", "--template", str(template), "--report", str(report)).unchanged(0)
        assert r"docs/s3-\udcff.md" in report.read_text()


def a_terminal_that_takes_nothing(repo: Repo) -> None:
    done = subprocess.run(
        ["sh", "-c", '"$1" hooks/update.py --issue 9 >/dev/full', "sh", sys.executable],
        cwd=repo.root, stderr=subprocess.PIPE, text=True, check=False,
        env=clean_environment(repo.root.parent / "home"),
    )  # fmt: skip
    assert done.returncode == 1
    assert "Undo: git switch main && git branch -D" in done.stderr
    assert "update: the report cannot be written: [Errno 28]" in done.stderr
    assert repo.branch == BRANCH


def an_ignored_file_that_cannot_be_copied(repo: Repo) -> None:
    write(repo / ".git/info/exclude", "docs/new.md\n")
    write(repo / "docs/new.md/a.txt", "mine\n")
    os.mkfifo(repo / "docs/new.md/pipe")
    repo.run("--issue", "9").unchanged(
        4, "docs/new.md is in the way, and cannot be copied: `", "is a named pipe\nhint: move it"
    )
    assert (repo / "docs/new.md/a.txt").read_text() == "mine\n"


def a_template_that_is_not_all_there(repo: Repo) -> None:
    git(repo.template, "config", "uploadpack.allowFilter", "true")
    for option, text in (("--filter=blob:none", "cannot read the"), ("--depth=1", "shallow clone")):
        clone = repo.root.parent / f"clone{option}"
        git(repo.root, "clone", "--quiet", "--bare", option, repo.template.as_uri(), str(clone))
        git(clone, "remote", "set-url", "origin", "/nowhere")
        repo.run("--issue", "9", "--template", str(clone)).unchanged(5, text)


def no_commit_yet(repo: Repo) -> None:
    shutil.rmtree(repo / ".git")
    git(repo.root, "init", "--quiet")
    repo.run("--issue", "9").unchanged(4, "no commit", "nox -s setup")


def no_git_repo(repo: Repo) -> None:
    shutil.rmtree(repo / ".git")
    done = subprocess.run(
        [sys.executable, "hooks/update.py", "--preview"],
        cwd=repo.root,
        text=True,
        check=False,
        capture_output=True,
        env=clean_environment(repo.root.parent / "home"),
    )
    assert done.returncode == 4
    assert "not a git repository" in done.stderr
    assert "Traceback" not in done.stderr


def a_template_that_is_gone(repo: Repo) -> None:
    gone = repo.root.parent / "gone"
    set_answer(repo, "_src_path", str(gone))
    repo.update().unchanged(5, f"cannot read the template {gone}", "--template ADDRESS")


def no_network(repo: Repo) -> None:
    url = "http://127.0.0.1:9/template.git"
    set_answer(repo, "_src_path", url)
    repo.update().unchanged(5, f"cannot read the template {url}: ", "127.0.0.1")


def a_password_in_the_address(repo: Repo) -> None:
    set_answer(repo, "_src_path", "http://me:hunter2@127.0.0.1:9/template.git")
    repo.update().unchanged(5, "cannot read the template http://127.0.0.1:9/template.git")
    assert "hunter2" not in repo.printed


def a_template_that_asks_for_a_password(repo: Repo) -> None:
    set_answer(repo, "_src_path", "ssh://127.0.0.1:9/x.git")
    repo.update().unchanged(5, "cannot read the template ssh://127.0.0.1:9/x.git")


def a_version_that_is_unknown_to_the_template(repo: Repo) -> None:
    set_answer(repo, "_commit", "2020.1.0")
    repo.update().unchanged(5, "no version 2020.1.0", SECOND)


def a_version_that_does_not_exist(repo: Repo) -> None:
    for version in ("2031.1.0", "--upload-pack=x", "x y"):
        repo.run("--issue", "9", f"--to={version}").unchanged(5, f"no version {version}", SECOND)


def an_empty_version(repo: Repo) -> None:
    repo.run("--issue", "9", "--to=").unchanged(2, "--to: no version is named")


def a_downgrade(repo: Repo) -> None:
    repo.update().updated()
    git(repo.root, "switch", "--quiet", "-c", "main2")
    git(repo.root, "branch", "-D", BRANCH)
    repo.run("--issue", "9", "--to", FIRST).unchanged(5, f"{FIRST} is older", "git revert")


def a_missing_answers_file(repo: Repo) -> None:
    (repo / ".copier-answers.yml").unlink()
    repo.update().unchanged(6, "no .copier-answers.yml in the last commit")


def an_answers_file_that_is_broken(repo: Repo) -> None:
    for text, reason in (
        ("<<<<<<< ours\n", ""),
        ("", ""),
        ("- a\n", ""),
        ("a: 1\n", "_src_path"),
        ("_src_path: /x\n", "_commit"),
        ("_src_path: [\n", ""),
        ("\0", ""),
    ):
        (repo / ".copier-answers.yml").write_text(text)
        repo.update().unchanged(6, ".copier-answers.yml is not as Copier writes it", reason)


def an_answer_of_an_odd_type(repo: Repo) -> None:
    text = (repo / ".copier-answers.yml").read_text()
    for old, new, reason in (
        ("repo_name: sales-pipelines", "repo_name: 2026-01-01", "repo_name is 2026-01-01, of the"),
        ("repo_name: sales-pipelines", "repo_name: .nan", "repo_name is nan, of the type float"),
        ("license: MIT", "license: [MIT]", "license is ['MIT'], of the type list"),
        ("author_name: ", "author_name: null # ", "author_name is None, null"),
        ("author_name: ", "author_name:\n  a: ", "of the type dict"),
        ("package_name: ", "2026-01-01: x\npackage_name: ", "2026-01-01"),
        ("_src_path: ", "_src_path: null # ", "_src_path is None, null"),
        ("_commit: ", "_commit: [] # ", "_commit is [], of the type list"),
    ):
        assert text.count(old) == 1
        (repo / ".copier-answers.yml").write_text(text.replace(old, new))
        repo.update().unchanged(6, ".copier-answers.yml is not as Copier writes it", reason)


def a_template_that_needs_trust(repo: Repo) -> None:
    template = shutil.copytree(repo.template, repo.root.parent / "unsafe")
    with (template / "copier.yml").open("a") as file:
        file.write("_tasks: [touch done]\n")
    commit(template, "With a task", tag="2026.12.5")
    repo.run("--issue", "9", "--template", str(template))
    repo.unchanged(5, "unsafe feature: tasks", "Headwater has no", "--template ADDRESS")
    assert "--trust" not in repo.printed


def files_that_may_not_grow(repo: Repo) -> None:
    for limit in (0, 4, 8, 32, 64):
        done = subprocess.run(
            ["sh", "-c", 'ulimit -f "$1" && "$2" hooks/update.py --issue 9 2>&1 | cat', "sh",
             str(limit), sys.executable],
            cwd=repo.root, capture_output=True, text=True, check=False,
            env=clean_environment(repo.root.parent / "home"),
        )  # fmt: skip
        repo.printed = done.stdout
        assert re.match(r"update: .*\w", done.stdout), done.stdout
        assert "Traceback" not in done.stdout
        assert (repo.branch, repo.is_clean) == ("main", True)
        assert not [*(repo / ".git").rglob("*index.lock")]
    (repo.root.parent / "report.md").symlink_to("/dev/full")
    repo.run("--preview", "--report", "../report.md").unchanged(
        1, "Nothing has changed", "update: the report cannot be written: [Errno 28]"
    )
    repo.run("--issue", "9").updated()


def a_wrong_answer(repo: Repo) -> None:
    repo.run("--issue", "9", "license=GPL").unchanged(6, "license")
    repo.run("--issue", "9", "with_exampels=no").unchanged(6, "with_exampels", "with_examples")
    repo.run("--issue", "9", "main_branch=x").unchanged(6, "main_branch")
    repo.run("--issue", "9", "with_examples").unchanged(2, "NAME=VALUE")
    repo.run("--issue", "9", "package_name=other").unchanged(6, "does not change package_name")


def no_issue(repo: Repo) -> None:
    repo.run().unchanged(2, "the branch needs an issue's number", "--issue 9")
    for issue in ("0", "x", "-1", "9 9", "9\n"):
        repo.run(f"--issue={issue}").unchanged(2, "is no issue's number")


def a_branch_that_exists(repo: Repo) -> None:
    git(repo.root, "branch", BRANCH)
    repo.run("--issue", "9")
    assert repo.code == 4
    assert f"the branch {BRANCH} exists already" in repo.printed
    assert repo.branch == "main"
    linked = repo.root.parent / "linked"
    git(repo.root, "worktree", "add", "--quiet", str(linked), BRANCH)
    done = subprocess.run(
        [sys.executable, "hooks/update.py", "--issue", "9"], cwd=repo.root, check=False,
        env=clean_environment(repo.root.parent / "home"), capture_output=True, text=True,
    )  # fmt: skip
    assert (done.returncode, f"hint: it is checked out in {linked}\n" in done.stderr) == (4, True)
    git(repo.root, "worktree", "remove", str(linked))
    git(repo.root, "branch", "--move", BRANCH, f"{BRANCH}/x")
    repo.run("--issue", "9")
    assert (repo.code, f"the branch {BRANCH}/x exists already" in repo.printed) == (4, True)


def two_updates_at_once(repo: Repo) -> None:
    with (repo / ".git/template-update.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        repo.run("--issue", "9").unchanged(4, "another update of this repo is running")
    repo.run("--issue", "9").updated()


def a_git_that_knows_no_name(repo: Repo) -> None:
    git(repo.root, "config", "--unset", "user.name")
    git(repo.root, "config", "--unset", "user.email")
    git(repo.root, "config", "user.useConfigOnly", "true")
    repo.run("--issue", "9").unchanged(4, "git does not know who you are", "user.name")


def a_template_that_cannot_be_made(repo: Repo) -> None:
    template = shutil.copytree(repo.template, repo.root.parent / "broken")
    write(template / PIPELINE / "broken.md.jinja", "{{ nothing_of_this_name }}\n")
    commit(template, "Broken", tag="2026.12.5")
    repo.run("--issue", "9", "--template", str(template)).unchanged(1, "nothing_of_this_name")


def a_report_of_another_kind(repo: Repo) -> None:
    repo.run("--preview", "--report", "x.txt").unchanged(2, "ends in .md or .json")
    repo.run("--preview", "--report", "no/x.md").unchanged(2, "cannot write to no")
    (repo.root.parent / "x.md").mkdir()
    repo.run("--issue", "9", "--report", "../x.md").unchanged(2, "it is a folder")


def answers_of_another_template(repo: Repo) -> None:
    write(repo / ".copier-answers.yml", "_commit: 1.0\n_src_path: /elsewhere\n")
    repo.update().unchanged(6, "of another template, /elsewhere")


def a_change_that_git_was_told_to_overlook(repo: Repo) -> None:
    for conflict in (False, True):
        if conflict:
            replace(repo / ERRORS, '"""Errors that', '"""My errors that')
            commit(repo.root, "Mine")
        git(repo.root, "update-index", "--assume-unchanged", "README.md")
        write(repo / "README.md", "mine\n")
        repo.run("--issue", "9").unchanged(1, "git cannot bring the update in", "README.md")
        assert repo.branch == "main"
        assert (repo / "README.md").read_text() == "mine\n"


def a_template_whose_questions_cannot_be_read(repo: Repo) -> None:
    template = shutil.copytree(repo.template, repo.root.parent / "unread")
    write(template / "copier.yml", "a: [\n")
    commit(template, "Broken", tag="2026.12.5")
    repo.run("--issue", "9", "--template", str(template)).unchanged(1, "copier.yml cannot be read")


def nobody_who_reads(repo: Repo) -> None:
    command = f"{sys.executable} hooks/update.py --preview --diff | head -1"
    done = subprocess.run(
        command, shell=True, cwd=repo.root, capture_output=True, text=True, check=True,
        env=clean_environment(repo.root.parent / "home"),
    )  # fmt: skip
    assert "Traceback" not in done.stderr


BAD = [
    uncommitted_changes,
    an_untracked_file_in_the_way,
    a_template_that_is_gone,
    *(
        pytest.param(case, marks=pytest.mark.thorough)
        for case in (
            a_detached_head,
            a_merge_under_way,
            a_lock_that_git_has_left,
            a_key_that_cannot_sign,
            a_name_that_is_no_utf_8,
            a_terminal_that_takes_nothing,
            an_ignored_file_that_cannot_be_copied,
            a_template_that_is_not_all_there,
            an_empty_version,
            no_commit_yet,
            no_git_repo,
            no_network,
            a_password_in_the_address,
            a_template_that_asks_for_a_password,
            a_version_that_is_unknown_to_the_template,
            a_version_that_does_not_exist,
            a_downgrade,
            a_missing_answers_file,
            an_answers_file_that_is_broken,
            an_answer_of_an_odd_type,
            a_template_that_needs_trust,
            files_that_may_not_grow,
            a_wrong_answer,
            no_issue,
            a_branch_that_exists,
            two_updates_at_once,
            a_git_that_knows_no_name,
            a_template_that_cannot_be_made,
            a_report_of_another_kind,
            answers_of_another_template,
            a_change_that_git_was_told_to_overlook,
            a_template_whose_questions_cannot_be_read,
            nobody_who_reads,
        )
    ),
]


def set_answer(repo: Repo, name: str, value: str) -> None:
    file = repo / ".copier-answers.yml"
    file.write_text(re.sub(rf"(?m)^{name}: .*$", f"{name}: {value}", file.read_text()))


@pytest.mark.parametrize("case", BAD, ids=lambda case: case.__name__.replace("_", "-"))
def test_bad_input_changes_nothing(repo: Repo, case: Callable[[Repo], None]) -> None:
    case(repo)


def test_a_repo_that_is_up_to_date_stays_as_it_is(repo: Repo) -> None:
    repo.update().updated()
    git(repo.root, "switch", "--quiet", "-c", "main2")
    git(repo.root, "branch", "-D", BRANCH)
    repo.run("--issue", "9").unchanged(0, f"has the template's newest version, {SECOND}")
    repo.run("--preview").unchanged(0)


# --- What fails when the result comes in -----------------------------------------------------

FAILURES = {
    "HEAD is locked": "touch .git/HEAD.lock",
    "the index is locked": "touch .git/index.lock",
    "no room for the files": "ulimit -f 1",
    "no room for the index": "ulimit -f 12",
    "killed before": "kill -9 $$",
    "killed after": '"$real" "$@"; kill -9 $$',
}


def stumbling_git(repo: Repo, *cases: tuple[str, str]) -> str:
    """A PATH with a git that does this before it runs a command with that text."""
    lines = [f"    {pattern}) {what} ;;\n" for pattern, what in cases]
    git = repo.root.parent / "bin" / "git"
    real = shutil.which("git")
    script = f'#!/bin/sh\nreal={real}\ncase "$*" in\n{"".join(lines)}esac\nexec "$real" "$@"\n'
    write(git, script)
    git.chmod(0o755)
    return f"{git.parent}:{os.environ['PATH']}"


def snapshot(repo: Repo) -> dict[str, object]:
    """All that the user has: the files, the index, the branches, and which is checked out."""
    found: dict[str, object] = {
        command: git(repo.root, *command.split())
        for command in ("ls-files -s -v", "for-each-ref", "symbolic-ref HEAD", "status --short")
    }
    for path in repo.root.rglob("*"):
        if ".git" not in path.relative_to(repo.root).parts and not path.is_dir():
            is_link = path.is_symlink()
            content = path.readlink() if is_link else (path.read_bytes(), path.stat().st_mode)
            found[str(path.relative_to(repo.root))] = content
    return found


def in_the_way(repo: Repo, ends: str) -> None:
    """Let there be an ignored file in the way, and another end of the update."""
    if ends == "in conflict":
        replace(repo / ERRORS, '"""Errors that', '"""My errors that')
        commit(repo.root, "Mine")
    write(repo / ".git/info/exclude", "docs/new.md\n")
    write(repo / "docs/new.md", "precious\n")
    write(repo / "untracked.txt", "mine\n")
    git(repo.root, "update-index", "--assume-unchanged", "docs/s3.md")
    write(repo / "docs/s3.md", "mine\n")


@pytest.mark.thorough
@pytest.mark.parametrize("ends", ["done", "in conflict"])
@pytest.mark.parametrize("failure", FAILURES.values(), ids=FAILURES.keys())
def test_what_fails_at_the_last_step_leaves_all_as_before(
    repo: Repo, failure: str, ends: str
) -> None:
    in_the_way(repo, ends)
    before = snapshot(repo)
    step = '*" read-tree -m -u "*|*" switch "*'
    if "HEAD.lock" in failure or "after" in failure:
        step += '|*" symbolic-ref -m "*'
    repo.run("--issue", "9", PATH=stumbling_git(repo, (step, failure)))
    assert repo.code == 1, repo.printed
    assert "update: git cannot bring the update in: " in repo.printed
    for lock in ("HEAD.lock", "index.lock"):
        (repo / ".git" / lock).unlink(missing_ok=True)
    assert snapshot(repo) == before
    repo.run("--issue", "9")
    assert repo.code == (3 if ends == "in conflict" else 0), repo.printed


@contextlib.contextmanager
def fixed(*paths: Path) -> Iterator[None]:
    """Let nobody change these files or folders, not even root."""
    is_root = os.geteuid() == 0
    commands = (
        (["chattr", "+i"], ["chattr", "-i"]) if is_root else (["chmod", "-w"], ["chmod", "u+w"])
    )
    if subprocess.run(
        [*commands[0], *map(str, paths)], capture_output=True, check=False
    ).returncode:
        pytest.skip("no attributes of files here")
    try:
        yield
    finally:
        subprocess.run([*commands[1], *map(str, paths)], check=True)


@pytest.mark.thorough
@pytest.mark.parametrize("ends", ["done", "in conflict"])
@pytest.mark.parametrize("names", [["docs"], ["hooks"], ["docs/old.md"], ["docs/old.md", "hooks"]])
def test_a_folder_that_cannot_be_written_leaves_all_as_before(
    repo: Repo, names: list[str], ends: str
) -> None:
    if names == ["docs/old.md"] and os.geteuid():
        names = ["docs"]  # who may write to a folder may delete its files
    in_the_way(repo, ends)
    before = snapshot(repo)
    with fixed(*(repo / name for name in names)):
        repo.run("--issue", "9")
        assert repo.code == 1, repo.printed
        assert re.search("update: git cannot bring the update in: .*(docs|hooks)/", repo.printed)
        assert "half updated" not in repo.printed
        assert snapshot(repo) == before


@pytest.mark.thorough
@pytest.mark.parametrize("ends", ["done", "in conflict"])
def test_what_cannot_be_taken_back_is_undone_by_a_command(repo: Repo, ends: str) -> None:
    in_the_way(repo, ends)
    git(repo.root, "update-index", "--no-assume-unchanged", "docs/s3.md")
    git(repo.root, "restore", "docs/s3.md")
    before = snapshot(repo)
    stumbles = (('*" symbolic-ref -m "*', "touch .git/HEAD.lock"), ("*checkout-index*", "exit 1"))
    repo.run("--issue", "9", PATH=stumbling_git(repo, *stumbles))
    assert repo.code == 1, repo.printed
    assert "half updated" in repo.printed
    assert "template-" not in git(repo.root, "branch", "--list")
    (repo / ".git/HEAD.lock").unlink()
    undo = repo.printed.partition("mend that, then ")[2].splitlines()[0]
    subprocess.run(undo, shell=True, cwd=repo.root, check=True, capture_output=True)
    assert snapshot(repo) == before


@pytest.mark.thorough
@pytest.mark.parametrize("how", ["moved", "relative", "another branch"])
def test_a_template_that_moved_is_found_where_it_is(repo: Repo, how: str) -> None:
    if how == "relative":
        link = repo.root.parent / "template"
        link.symlink_to(repo.template)
        set_answer(repo, "_src_path", "../template")
        repo.update().updated()
        assert "_src_path: ../template\n" in (repo / ".copier-answers.yml").read_text()
        return
    set_answer(repo, "_src_path", "/nowhere/template")
    arguments = ["--template", str(repo.template)]
    if how == "another branch":
        arguments += ["--to", "main"]
    repo.update(*arguments).updated()
    assert f"_src_path: {repo.template}\n" in (repo / ".copier-answers.yml").read_text()
    assert f"- `_src_path`: /nowhere/template → {repo.template}" in repo.printed


def program(repo: Repo, text: str) -> str:
    """A program that does this; in the place of uv or nox, which tests/end_to_end/ have."""
    file = repo.root.parent / "program"
    write(file, f"#!/bin/sh\n{text}\n")
    file.chmod(0o755)
    return str(file)


@pytest.mark.thorough
def test_the_lock_file_is_brought_up_to_date_where_that_is_possible(repo: Repo) -> None:
    write(repo / "uv.lock", "locked\n")
    commit(repo.root, "Lock")
    failing = program(repo, "echo building >&2; echo no network >&2; exit 2")
    repo.update(UV=failing).updated()
    assert (repo / "uv.lock").read_text() == "locked\n"
    assert "uv.lock is as it was (no network); nox -s setup updates it" in repo.printed
    git(repo.root, "switch", "--quiet", "main")
    git(repo.root, "branch", "-D", BRANCH)
    locking = program(repo, '[ "$1" = lock ] && echo again > "$4/uv.lock"')
    repo.update(UV=locking).updated()
    assert (repo / "uv.lock").read_text() == "again\n"
    assert git(repo.root, "rev-list", "--count", "main..HEAD") == "1"


@pytest.mark.thorough
def test_a_check_decides_whether_the_update_comes_in(repo: Repo) -> None:
    failing = program(repo, "echo mine > docs/s3.md; cat docs/new.md && touch left; exit 1")
    repo.run("--issue", "9", "--check", NOX_PYTHON=failing).unchanged(
        1, "# New", "fails its lint", "it failed before the update, too"
    )
    failing = program(repo, "echo mine > docs/s3.md; touch left; ! cat docs/new.md")
    repo.run("--issue", "9", "--check", NOX_PYTHON=failing).unchanged(
        1, "fails its lint", "it passes without the update"
    )
    repo.run("--issue", "9", "--check", NOX_PYTHON=program(repo, "exit 0")).updated()


@pytest.mark.thorough
def test_on_a_terminal_it_asks_for_the_issue(repo: Repo) -> None:
    assert asked(repo, "x").exit_code() == 2
    terminal = asked(repo, "9")
    assert terminal.exit_code() == 0, terminal.text
    repo.updated()


def asked(repo: Repo, answer: str) -> Terminal:
    """The command on a terminal, after this answer to its question."""
    command = [sys.executable, "hooks/update.py"]
    terminal = Terminal(command, repo.root, clean_environment(repo.root.parent / "home"))
    wait_until(lambda: "e.g. 9: " in terminal.text)
    terminal.type(f"{answer}\n")
    return terminal


# --- Whatever one does, and whenever it ends ---------------------------------------------------

FILES = [
    *(ERRORS, SHELVED, "docs/old.md", "docs/s3.md", "README.md", "pyproject.toml", "noxfile.py"),
    *("hooks/staged-files", "sales_pipelines/config/base.yaml", ".gitignore", "tests/__init__.py"),
]
EDITS = st.lists(
    st.tuples(
        st.sampled_from(FILES),
        st.sampled_from(["insert", "replace", "append", "delete line", "rename", "new", "delete"]),
        st.integers(0, 200),
    ),
    min_size=1,
    max_size=12,
)


def edit(repo: Repo, edits: list[tuple[str, str, int]]) -> None:
    """Do these things to the repo, in which each new line has a number of its own."""
    for number, (name, what, place) in enumerate(edits):
        file = repo / name
        if what == "new":
            write(repo / f"own/{place}.txt", f"# line-{number}-of-mine\n" * 3)
        elif not file.exists():
            continue
        elif what == "delete":
            file.unlink()
        elif what == "rename":
            file.rename(file.with_name(f"renamed-{number}-{file.name}"))
        else:
            lines = file.read_text().splitlines(keepends=True)
            place = min(place, max(len(lines) - 1, 0))
            line = f"# line-{number}-of-mine\n"
            if what == "insert":
                lines.insert(place, line)
            elif what == "append":
                lines.append(line)
            elif lines:
                lines[place : place + 1] = [line] if what == "replace" else []
            file.write_text("".join(lines))


def lines_of_mine(folder: Path) -> set[str]:
    files = [path for path in folder.rglob("*") if path.is_file() and ".git" not in path.parts]
    return {
        found for file in files for found in re.findall(rb"line-\d+-of-mine", file.read_bytes())
    }


@pytest.mark.thorough
@settings(
    max_examples=settings().max_examples // 10,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(edits=EDITS)
def test_every_line_of_the_user_s_is_there_after_an_update(
    repo: Repo, first: Path, edits: list[tuple[str, str, int]]
) -> None:
    shutil.rmtree(repo.root)
    shutil.copytree(first, repo.root, symlinks=True)
    edit(repo, edits)
    mine = lines_of_mine(repo.root)
    repo.update()
    assert repo.code in (0, 3), repo.printed
    assert lines_of_mine(repo.root) == mine
    undo = repo.printed.partition("Undo: ")[2].splitlines()[0]
    subprocess.run(undo, shell=True, cwd=repo.root, check=True, capture_output=True)
    assert (repo.branch, repo.is_clean) == ("main", True)
    assert lines_of_mine(repo.root) == mine


@pytest.mark.parametrize(
    "moment",
    [
        pytest.param(number / 20, marks=pytest.mark.nightly if number % 4 else pytest.mark.thorough)
        for number in range(20)
    ],
)
@pytest.mark.parametrize("ends", ["done", "in conflict"])
def test_killed_at_any_moment_it_is_as_before_or_updated(
    repo: Repo, moment: float, ends: str
) -> None:
    if ends == "in conflict":
        replace(repo / ERRORS, '"""Errors that', '"""My errors that')
        commit(repo.root, "What I did")
    temporary = repo.root.parent / "tmp"
    temporary.mkdir()
    variables = clean_environment(repo.root.parent / "home", TMPDIR=str(temporary))
    command = [sys.executable, "hooks/update.py", "--issue", "9"]
    started = time.monotonic()
    copied = shutil.copytree(repo.root, repo.root.parent / "timed", symlinks=True)
    subprocess.run(command, cwd=copied, env=variables, check=False, capture_output=True)
    takes = time.monotonic() - started
    running = subprocess.Popen(
        command,
        cwd=repo.root,
        env=variables,
        start_new_session=True,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    time.sleep(takes * moment)
    os.killpg(running.pid, signal.SIGKILL)
    running.wait()
    wait_until(lambda: not runs_in(repo.root))
    repo.printed = f"update: in conflict: {ERRORS}\nexit code 3 says that it has conflicts"
    if repo.branch == "main":
        assert repo.is_clean
        assert "template-" not in git(repo.root, "branch", "--list")
        repo.run("--issue", "9", TMPDIR=str(temporary))
    elif ends == "in conflict":
        repo.code = 3
    if ends == "in conflict":
        repo.conflicts(ERRORS)
    else:
        repo.updated()


def runs_in(folder: Path) -> bool:
    """True if any process is in the folder."""
    for process in Path("/proc").glob("[0-9]*/cwd"):
        with contextlib.suppress(OSError):
            if process.readlink() == folder:
                return True
    return False
