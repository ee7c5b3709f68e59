"""Updates of untouched repos, from each released version to the working tree."""

from __future__ import annotations

import io
import re
import subprocess
import sys
import tarfile
from pathlib import Path

import copier
import pytest
from packaging.version import Version
from pathspec import GitIgnoreSpec

from ..conftest import CONFIGURATION, ROOT, commit, copy, copy_working_tree, git

UNTAGGED = {"2026.11.0": "021fec316afc7aa4129d8c92b642de4a0acc3d36"}
"""Releases that have neither a tag nor a commit of their own."""
NEXT = "2999.12.0"


def releases() -> dict[str, str]:
    """The commit of each released version, by its tag or by the commit of the release."""
    listed = subprocess.run(
        ["git", "-C", str(ROOT), "log", "--all", "--format=%H %D%n%H %s"],
        capture_output=True,
        text=True,
        check=False,
    ).stdout
    found = re.findall(r"(?m)^(\w+) (?:Release |.*\btag: )(2\d{3}\.\d+\.\d+)(?:,.*)?$", listed)
    return UNTAGGED | {version: commit for commit, version in found}


RELEASES = releases()
ALL = sorted(RELEASES, key=Version)
# The last twelve, and the first of each year; at night all.
BY_DAY = {*ALL[-12:], *{version.partition(".")[0]: version for version in reversed(ALL)}.values()}
EACH_RELEASE = pytest.mark.parametrize(
    "version",
    [pytest.param(each, marks=[] if each in BY_DAY else pytest.mark.nightly) for each in ALL],
)
LEAST = {"with_examples": False, "ci": "none"}


def template_of(version: str, folder: Path) -> Path:
    """The template with this version and the working tree, each with its tag."""
    archive = subprocess.run(
        ["git", "-C", str(ROOT), "archive", RELEASES[version]], capture_output=True, check=False
    )
    if archive.returncode:
        pytest.skip(f"this clone has no history: {archive.stderr.decode().strip()}")
    folder.mkdir()
    git(folder, "init", "--quiet", "--initial-branch=main")
    with tarfile.open(fileobj=io.BytesIO(archive.stdout)) as files:
        files.extractall(folder, filter="data")
    commit(folder, version, tag=version)
    git(folder, "rm", "-r", "--quiet", ".")
    copy_working_tree(folder)
    commit(folder, "The working tree", tag=NEXT)
    return folder


def contents(folder: Path) -> dict[str, tuple[bytes, int]]:
    """What is in each file that git does not ignore, and if it can be run."""
    paths = [path for path in folder.rglob("*") if path.is_file() and ".git" not in path.parts]
    return {
        path.relative_to(folder).as_posix(): (path.read_bytes(), path.stat().st_mode & 0o111)
        for path in paths
    }


@EACH_RELEASE
@pytest.mark.parametrize(
    ("before", "after"),
    [
        ({}, {}),
        *(
            pytest.param(*answers, marks=pytest.mark.thorough)
            for answers in ((LEAST, LEAST), ({}, LEAST), (LEAST, {"with_examples": True}))
        ),
    ],
    ids=["all", "least", "switched off", "switched on"],
)
def test_an_untouched_repo_becomes_what_a_fresh_copy_gives(
    version: str, before: dict[str, object], after: dict[str, object], tmp_path: Path
) -> None:
    template = template_of(version, tmp_path / "template")
    repo = tmp_path / "repos" / "sales-pipelines"
    answers = {"python_version": "3.12", **before}
    copier.run_copy(str(template), repo, data=answers, defaults=True, quiet=True, vcs_ref=version)
    made = contents(repo)
    git(repo, "init", "--quiet", "--initial-branch=main")
    git(repo, "config", "user.name", "Tester")
    git(repo, "config", "user.email", "t@example.org")
    commit(repo, "Generate the repo")
    changed = [f"{name}={answer}" for name, answer in after.items() if before.get(name) != answer]
    # As `nox -s fleet` does, because a released version may have no `nox -s update`.
    subprocess.run(
        [sys.executable, str(ROOT / "hooks" / "update.py"), "--issue", "9", *changed],
        cwd=repo,
        check=True,
    )
    updated = contents(repo)
    fresh = contents(copy(template, tmp_path / "fresh" / repo.name, **answers | after))
    assert {*updated} == {*fresh}
    users = GitIgnoreSpec.from_lines(CONFIGURATION["yours"]["default"])
    for name, content in updated.items():
        is_kept = name in made and users.match_file(name)
        assert content == (made if is_kept else fresh)[name], name
