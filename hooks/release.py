"""`nox -s release`: gives what is under Unreleased a version, in a commit and a tag.

The commit is made in a work tree of its own, and the main branch is moved to it as a whole: until
then nothing has changed, and what is interrupted after it is finished by the same command. The
version is the next one of the month, or the first of a new one; bump-my-version writes it.
"""

from __future__ import annotations

import argparse
import contextlib
import datetime
import fcntl
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import tomlkit  # bump-my-version's own

CHANGELOG = "CHANGELOG.md"
HOOKS = Path(__file__).resolve().parent
WORK_TREE = "release-of-"
"""What the name of the work tree begins with, in the folder for temporary files."""

_CALVER = re.compile(r"([1-9][0-9]{3})\.([1-9]|1[0-2])\.(0|[1-9][0-9]*)")


class ReleaseError(Exception):
    """Why there is no release, and what to do."""


class Version(NamedTuple):
    """A CalVer; they compare as they follow each other."""

    year: int
    month: int
    number: int
    """Counts the month's releases from 0."""

    def __str__(self) -> str:
        return ".".join(map(str, self))


def main(arguments: list[str]) -> int:
    """Release, and return the exit code: 0, 1 where there is no release, 130 after an interrupt."""
    parser = argparse.ArgumentParser(
        prog="nox -s release --",
        description="Moves what is under Unreleased in the changelog under the next version, "
        "YYYY.M.N; commits that, and tags it. On the main branch, with nothing uncommitted.",
    )
    parser.add_argument(
        "--push", action="store_true", help="push the branch and the tag, or neither"
    )
    parser.add_argument("--local", action="store_true", help="without a look at the remote")
    parser.add_argument(
        "--if-any", action="store_true", help="nothing under Unreleased is no error: for CI"
    )
    options = parser.parse_args(arguments)
    if options.push and options.local:
        parser.error("--push and --local contradict each other")
    try:
        with alone():
            return release(options)
    except ReleaseError as error:
        print(f"release: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("release: stopped; the same command goes on from here", file=sys.stderr)
        return 130


def release(options: argparse.Namespace) -> int:
    """Do what the command line says; see `main`."""
    branch = main_branch()
    if changed := git("status", "--porcelain").splitlines():
        some = ", ".join(line[3:] for line in changed[:3]) + (", …" if changed[3:] else "")
        raise ReleaseError(f"there is what is not committed: {some}; commit it or git stash -u")
    remote, ref = ("", branch) if options.local else fetched(branch)
    last = current()
    interrupted = commit_of(last)
    if interrupted and not tag_of(last):
        print(f"{last} has its commit, and no tag: that was interrupted")
        version = tag(last, interrupted)
    elif not unreleased(Path(CHANGELOG)):
        if options.push and tag_of(last):
            version = last  # is it there already? then git says so
        elif options.if_any:
            print("Nothing is under Unreleased")
            return 0
        else:
            raise ReleaseError(f"nothing is under '## Unreleased' in {CHANGELOG}: say what is new")
    else:
        version = following(last)
        commit = committed(version)
        git("merge", "--quiet", "--ff-only", commit)
        tag(version, commit)
    push = ("push", "--atomic", remote, ref, f"refs/tags/{version}")
    if options.push:
        try:
            git(*push)
        except ReleaseError as error:
            raise ReleaseError(
                f"{version} is tagged here, and not pushed: {error}\n"
                "Again: nox -s release -- --push. Or, where the remote has gone on, undo it first: "
                + undoing(version)
            ) from None
        print(f"{version} is pushed to {remote}")
    elif remote:
        print(f"Push it: git {' '.join(push)}")
    return 0


def undoing(version: Version) -> str:
    """The command that takes back a release which is not pushed, for what is at the remote."""
    return f"git tag -d {version} && git reset --keep HEAD~1 && git pull --ff-only"


def main_branch() -> str:
    """The main branch, which must be the one at hand: the first of the protected ones there is."""
    listed = run(str(HOOKS / "branch-name"), "--protected").split()
    if not git("rev-parse", "--verify", "--quiet", "HEAD", otherwise=""):
        raise ReleaseError("there is no commit yet: git add --all && git commit")
    there = [
        name
        for name in listed
        if git("rev-parse", "-q", "--verify", f"refs/heads/{name}", otherwise="")
    ]
    if not there:
        raise ReleaseError(
            f"there is none of the branches {', '.join(listed)}, and releases are made there"
        )
    here = git("symbolic-ref", "--quiet", "--short", "HEAD", otherwise="")
    if here != there[0]:
        raise ReleaseError(
            f"releases are made on {there[0]}, and this is {here or 'no branch'}: "
            f"git switch {there[0]}"
        )
    return here


def fetched(branch: str) -> tuple[str, str]:
    """The branch's remote, after a look at what is new there; all of which must be here.

    And what says to `git push` which branch goes where.
    """
    remote = git("config", f"branch.{branch}.remote", otherwise="")
    upstream = git(
        "rev-parse", "--quiet", "--verify", "--symbolic-full-name", "@{upstream}", otherwise=""
    )
    if not remote or not upstream:
        raise ReleaseError(
            f"{branch} follows no branch of a remote: git push --set-upstream origin {branch}; "
            "or release without one: nox -s release -- --local"
        )
    try:
        git("fetch", remote)  # tags of its commits come along
    except ReleaseError as error:
        raise ReleaseError(f"what is new at {remote} cannot be seen: {error}") from None
    behind = int(git("rev-list", "--count", "HEAD..@{upstream}"))
    if behind:
        commits = "a commit" if behind == 1 else f"{behind} commits"
        ahead = int(git("rev-list", "--count", "@{upstream}..HEAD"))
        way = "git pull --no-rebase" if ahead else "git pull --ff-only"
        mine = parsed(git("log", "-1", "--format=%s").removeprefix("Release "))
        if ahead and mine:
            way = undoing(mine)
        raise ReleaseError(f"{remote} has {commits} that {branch} lacks: {way}")
    there = git("config", f"branch.{branch}.merge").removeprefix("refs/heads/")
    return remote, branch if there == branch else f"{branch}:{there}"


def current() -> Version:
    """The version in pyproject.toml, which no tag of the branch may be ahead of."""
    try:
        project = tomlkit.parse(Path("pyproject.toml").read_bytes())["project"]
        text = str(project["version"])
    except FileNotFoundError:
        raise ReleaseError(f"there is no pyproject.toml in {Path.cwd()}") from None
    except tomlkit.exceptions.TOMLKitError as error:
        raise ReleaseError(f"pyproject.toml has no [project] version to read: {error}") from None
    version = parsed(text)
    if not version:
        raise ReleaseError(f"pyproject.toml has version {text!r}, and that is not YYYY.M.N")
    tags = filter(None, map(parsed, git("tag", "--merged", "HEAD").split()))
    latest = max(tags, default=version)
    if latest > version:
        raise ReleaseError(
            f"pyproject.toml has version {version}, and {latest} is tagged: put that in its place"
        )
    return version


def parsed(text: str) -> Version | None:
    """The version that the text is."""
    found = _CALVER.fullmatch(text)
    return Version(*map(int, found.groups())) if found else None


def following(last: Version) -> Version:
    """The version after the last one; the first of all is that which waits in pyproject.toml."""
    today = datetime.date.today()
    month = Version(today.year, today.month, 0)
    if month[:2] > last[:2]:
        version = month
    elif month[:2] == last[:2] and not any(map(parsed, git("tag", "--merged", "HEAD").split())):
        version = last
    else:  # a clock that is behind counts on
        version = last._replace(number=last.number + 1)
    if commit := tag_of(version):
        raise ReleaseError(
            f"the tag {version} is there already, at {commit[:9]}, which is no release of this "
            f"branch: git tag -d {version}, if it is here by mistake"
        )
    return version


def unreleased(changelog: Path) -> bool:
    """Does the changelog have something under Unreleased?"""
    try:
        text = changelog.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise ReleaseError(
            f"there is no {CHANGELOG}: what is new stands there, under '## Unreleased'"
        ) from None
    found = re.search(r"^## Unreleased[ \t]*\n(.*?)(?=^## |\Z)", text, re.MULTILINE | re.DOTALL)
    if not found:
        raise ReleaseError(f"{CHANGELOG} has no '## Unreleased', under which is what is new")
    return bool(found[1].strip())


def committed(version: Version) -> str:
    """The commit of the release, which is on no branch yet."""
    with work_tree() as folder:
        bump = ("bumpversion", "bump", "--new-version", str(version))
        try:
            run(sys.executable, "-m", *bump, cwd=folder)
        except ReleaseError as error:
            raise ReleaseError(
                f"{error}\nWhere a file has another version than pyproject.toml, or another name "
                "of the project: uv lock, and commit that"
            ) from None
        changelog = folder / CHANGELOG
        text = changelog.read_bytes()
        heading = rf"## Unreleased\1\1## {version}\1".encode()
        changelog.write_bytes(
            re.sub(rb"^## Unreleased[ \t]*(\r?\n)", heading, text, count=1, flags=re.MULTILINE)
        )
        git("commit", "--quiet", "--all", "--message", f"Release {version}", cwd=folder)
        return git("rev-parse", "HEAD", cwd=folder)


@contextlib.contextmanager
def work_tree() -> Iterator[Path]:
    """A work tree with the last commit; those that an interrupt has left are removed."""
    temporary = Path(tempfile.gettempdir()).resolve()
    for line in git("worktree", "list", "--porcelain").splitlines():
        left = Path(line.removeprefix("worktree "))
        if left.parent.parent == temporary and left.parent.name.startswith(WORK_TREE):
            remove(left)
    folder = Path(tempfile.mkdtemp(prefix=WORK_TREE, dir=temporary)) / Path.cwd().name
    try:
        git("worktree", "add", "--quiet", "--detach", str(folder), "HEAD")
        yield folder
    finally:
        remove(folder)


def remove(folder: Path) -> None:
    """Let the work tree be gone."""
    # Twice: git locks it until it is there as a whole.
    git("worktree", "remove", "--force", "--force", str(folder), otherwise="")
    shutil.rmtree(folder.parent, ignore_errors=True)
    git("worktree", "prune")


def tag(version: Version, commit: str) -> Version:
    """Tag the commit, and say so."""
    git("tag", "--annotate", "--message", f"Release {version}", str(version), commit)
    print(f"{version} is released: commit {commit[:9]}, and a tag")
    return version


def tag_of(version: Version) -> str:
    """The commit that has the version's tag; nothing where there is none."""
    return git("rev-parse", "--quiet", "--verify", f"refs/tags/{version}^0", otherwise="")


def commit_of(version: Version) -> str:
    """The commit of the version's release; nothing where there is none."""
    pattern = f"^Release {re.escape(str(version))}$"
    return git("log", "-1", "--format=%H", "--first-parent", f"--grep={pattern}", otherwise="")


@contextlib.contextmanager
def alone() -> Iterator[None]:
    """Let no other process release here at the same time."""
    if not shutil.which("git"):
        raise ReleaseError("git is not on PATH")
    folder = git("rev-parse", "--git-common-dir", otherwise="")
    if not folder:
        raise ReleaseError(f"{Path.cwd()} is in no git repo")
    if git("rev-parse", "--show-prefix"):
        top = git("rev-parse", "--show-toplevel")
        raise ReleaseError(
            f"{Path.cwd()} is a folder of the git repo {top}, and has no own versions"
        )
    with Path(folder, "release.lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise ReleaseError("another process is at it; try again when it is done") from None
        yield


def git(*arguments: str, cwd: Path | None = None, otherwise: str | None = None) -> str:
    """What git prints; see `run`."""
    return run("git", *arguments, cwd=cwd, otherwise=otherwise)


def run(*command: str, cwd: Path | None = None, otherwise: str | None = None) -> str:
    """What the command prints; where it fails `otherwise`, or a ReleaseError with what it said."""
    env = {name: value for name, value in os.environ.items() if name != "VIRTUAL_ENV"}
    done = subprocess.run(
        command,
        cwd=cwd,
        env=env,
        capture_output=True,
        encoding="utf-8",
        errors="replace",
        check=False,
    )
    if done.returncode == 0:
        return done.stdout.rstrip()
    if otherwise is not None:
        return otherwise
    said = (done.stderr.strip() or done.stdout.strip()).splitlines()
    name = " ".join([Path(command[0]).name, *command[1:3]])
    raise ReleaseError("\n".join([f"{name} failed:", *said[-15:]]))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
