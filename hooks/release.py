"""`nox -s release`: releases the changes under Unreleased, with a version, a commit and a tag.

The commit is made in a separate work tree, and then the main branch moves to it in one step. Until
that step nothing has changed; after it, the same command finishes an interrupted release. The
version is the next one of the month, or the first of a new month; bump-my-version writes it.
"""

from __future__ import annotations

import argparse
import contextlib
import datetime
import fcntl
import functools
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import tomlkit  # comes with bump-my-version

CHANGELOG = "CHANGELOG.md"
HOOKS = Path(__file__).resolve().parent
WORK_TREE = "release-of-"
"""The prefix of the work tree's folder, which is made in the folder for temporary files."""

_CALVER = re.compile(r"([1-9][0-9]{3})\.([1-9]|1[0-2])\.(0|[1-9][0-9]*)")


class ReleaseError(Exception):
    """Why the release failed, and a hint on what to do."""

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(f"{message}\nhint: {hint}" if hint else message)


class Version(NamedTuple):
    """A CalVer; a later version is greater."""

    year: int
    month: int
    number: int
    """The number of the release in its month, from 0."""

    def __str__(self) -> str:
        return ".".join(map(str, self))


def main(arguments: list[str]) -> int:
    """Release, and return the exit code: 0, 1 for a failure, 130 for an interrupt."""
    parser = argparse.ArgumentParser(
        prog="nox -s release --",
        description="Release the changes under Unreleased in the changelog: write the next "
        "version, YYYY.M.N, commit and tag. The main branch must be checked out, without changes.",
    )
    parser.add_argument(
        "--push", action="store_true", help="also push the branch and the tag, both or neither"
    )
    parser.add_argument("--local", action="store_true", help="do not fetch from the remote first")
    parser.add_argument(
        "--if-any", action="store_true", help="succeed if there are no changes to release, for CI"
    )
    options = parser.parse_args(arguments)
    if options.push and options.local:
        parser.error("--push and --local exclude each other")
    try:
        with locked():
            return release(options)
    except ReleaseError as error:
        print(f"release: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("release: interrupted\nhint: the same command finishes it", file=sys.stderr)
        return 130


def release(options: argparse.Namespace) -> int:
    """Release as the options say; see `main`."""
    branch = main_branch()
    if git("rev-parse", "--is-shallow-repository") == "true":
        raise ReleaseError(
            "this clone has only the last commits, and a release needs the whole history",
            "git fetch --unshallow",
        )
    if changed := git("status", "--porcelain", "--untracked-files=normal").splitlines():
        files = ", ".join(line[3:] for line in changed[:3]) + (", …" if changed[3:] else "")
        raise ReleaseError(f"uncommitted changes in {files}", "commit them, or git stash -u")
    remote, ref = ("", branch) if options.local else fetched(branch)
    last = current_version()
    release_commit = commit_of(last)
    if release_commit and not tag_of(last):
        upstream = git("rev-parse", "--quiet", "--verify", "@{upstream}", otherwise="")
        if options.local and upstream and is_ancestor(release_commit, upstream):
            raise ReleaseError(
                f"the commit of {last} is pushed, and its tag is not in this clone",
                "git fetch --tags, or nox -s release, which fetches it",
            )
        print(f"{last} has a commit and no tag; finishing that release")
        version = tag(last, release_commit)
    elif not has_changes(Path(CHANGELOG)):
        if options.push and tag_of(last):
            version = last  # git reports if it is pushed already
        elif options.if_any:
            print("No changes to release")
            return 0
        else:
            raise ReleaseError(
                f"no changes under '## Unreleased' in {CHANGELOG}", "describe the changes there"
            )
    else:
        version = next_version(last)
        commit = make_commit(version)
        git("merge", "--quiet", "--ff-only", commit)
        tag(version, commit)
    push = ("push", "--atomic", remote, ref, f"refs/tags/{version}")
    if options.push:
        try:
            git(*push)
        except ReleaseError as error:
            raise ReleaseError(
                f"{version} is tagged, but not pushed: {error}",
                "nox -s release -- --push tries again. If the remote has new commits, first undo: "
                + undo_command(version),
            ) from None
        print(f"Pushed {version} to {remote}")
    elif remote:
        print(f"Next: git {' '.join(push)}")
    return 0


def undo_command(version: Version) -> str:
    """The command that takes back a release that is not pushed, and gets the remote's commits.

    The release's commit goes only if it is the last one; else it is merged, with what follows it.
    """
    commit = commit_of(version)
    if commit != git("rev-parse", "HEAD"):
        return f"git tag -d {version} && git pull --no-rebase"
    # Fails if there are more commits by the time the command is pasted.
    is_last = f'[ "$(git rev-parse HEAD)" = {commit} ]'
    pull = "git pull --no-rebase"
    return f"{is_last} && git tag -d {version} && git reset --keep {commit}~1 && {pull}"


def is_ancestor(commit: str, other: str) -> bool:
    """True if the other commit has the commit in its history."""
    return git("merge-base", commit, other, otherwise="") == commit


def main_branch() -> str:
    """The main branch, which is the first protected branch that exists; it must be checked out."""
    protected = run(str(HOOKS / "branch-name"), "--protected").split()
    if not git("rev-parse", "--verify", "--quiet", "HEAD", otherwise=""):
        raise ReleaseError("the repo has no commit yet", "git add --all && git commit")
    existing = [
        name
        for name in protected
        if git("rev-parse", "-q", "--verify", f"refs/heads/{name}", otherwise="")
    ]
    if not existing:
        raise ReleaseError(
            f"none of the protected branches exists: {', '.join(protected)}",
            f"git branch -m {protected[0]}, or name your main branch in hooks/branches",
        )
    main, current = existing[0], git("symbolic-ref", "--quiet", "--short", "HEAD", otherwise="")
    if current != main:
        raise ReleaseError(
            f"releases are made on {main}, not on {current or 'a detached HEAD'}",
            f"git switch {main}",
        )
    return main


def fetched(branch: str) -> tuple[str, str]:
    """Fetch from the branch's remote; the branch must have all of its commits.

    Returns the remote, and the refspec that pushes the branch to it.
    """
    remote = git("config", f"branch.{branch}.remote", otherwise="")
    upstream = git(
        "rev-parse", "--quiet", "--verify", "--symbolic-full-name", "@{upstream}", otherwise=""
    )
    if not remote or not upstream:
        raise ReleaseError(
            f"{branch} does not track a remote branch",
            f"git push --set-upstream origin {branch}, or nox -s release -- --local",
        )
    try:
        git("fetch", remote)
    except ReleaseError as error:
        raise ReleaseError(
            f"cannot fetch from {remote}: {error}", "nox -s release -- --local does not fetch"
        ) from None
    # Versions' tags, also where the clone was made without. A tag that differs stays as it is.
    git("fetch", "--no-tags", "--no-prune", remote, "refs/tags/2*:refs/tags/2*", otherwise="")
    behind = int(git("rev-list", "--count", "HEAD..@{upstream}"))
    if behind:
        commits = "a commit" if behind == 1 else f"{behind} commits"
        ahead = int(git("rev-list", "--count", "@{upstream}..HEAD"))
        hint = "git pull --no-rebase" if ahead else "git pull --ff-only"
        last = current_version()
        if ahead and commit_of(last) == git("rev-parse", "HEAD"):
            hint = undo_command(last)
        raise ReleaseError(f"{remote} has {commits} that {branch} lacks", hint)
    target = git("config", f"branch.{branch}.merge").removeprefix("refs/heads/")
    return remote, branch if target == branch else f"{branch}:{target}"


def current_version() -> Version:
    """The version in pyproject.toml, which must not be lower than a tag of the branch."""
    try:
        project = tomlkit.parse(Path("pyproject.toml").read_bytes())["project"]
        text = str(project["version"])
    except FileNotFoundError:
        raise ReleaseError(f"no pyproject.toml in {Path.cwd()}") from None
    except tomlkit.exceptions.TOMLKitError as error:
        raise ReleaseError(f"cannot read [project] version in pyproject.toml: {error}") from None
    version = parsed(text)
    if not version:
        raise ReleaseError(
            f"version {text!r} in pyproject.toml is not YYYY.M.N",
            f'write version = "{this_month()}"',
        )
    latest = max(merged_tags(), default=version)
    if latest > version:
        raise ReleaseError(
            f"version {version} in pyproject.toml is lower than the tag {latest}",
            f'write version = "{latest}"',
        )
    return version


def parsed(text: str) -> Version | None:
    """The text as a version; None if it is not one."""
    match = _CALVER.fullmatch(text)
    return Version(*map(int, match.groups())) if match else None


def this_month() -> Version:
    """The first version of this month."""
    today = datetime.date.today()
    return Version(today.year, today.month, 0)


def next_version(last: Version) -> Version:
    """The version after the last one; the first release takes the version in pyproject.toml."""
    month = this_month()
    if month[:2] > last[:2]:
        version = month
    elif month[:2] == last[:2] and not merged_tags():
        version = last
    else:  # also when the clock is behind
        version = last._replace(number=last.number + 1)
    if commit := tag_of(version):
        raise ReleaseError(
            f"the tag {version} exists already, on {commit[:9]}, which is not in this branch",
            f"git tag -d {version}, if the tag is a mistake",
        )
    return version


def has_changes(changelog: Path) -> bool:
    """True if the changelog has text under Unreleased."""
    hint = "add the heading '## Unreleased', and the changes below it"
    try:
        text = changelog.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise ReleaseError(f"no {CHANGELOG} in {Path.cwd()}", hint) from None
    match = re.search(r"^## Unreleased[ \t]*\n(.*?)(?=^## |\Z)", text, re.MULTILINE | re.DOTALL)
    if not match:
        raise ReleaseError(f"no heading '## Unreleased' in {CHANGELOG}", hint)
    return bool(match[1].strip())


def make_commit(version: Version) -> str:
    """Make the commit of the release, which is not on a branch yet, and return its hash."""
    with work_tree() as folder:
        bump = ("bumpversion", "bump", "--new-version", str(version))
        try:
            run(sys.executable, "-m", *bump, cwd=folder)
        except ReleaseError as error:
            raise ReleaseError(
                str(error),
                "if uv.lock differs from pyproject.toml in the project's version or name: uv lock, "
                "then commit it",
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
    """A work tree with the last commit; also removes those that interrupted releases left."""
    temporary = Path(tempfile.gettempdir()).resolve()
    for line in git("worktree", "list", "--porcelain").splitlines():
        folder = Path(line.removeprefix("worktree "))
        if folder.parent.parent == temporary and folder.parent.name.startswith(WORK_TREE):
            remove(folder)
    folder = Path(tempfile.mkdtemp(prefix=WORK_TREE, dir=temporary)) / Path.cwd().name
    try:
        git("worktree", "add", "--quiet", "--detach", str(folder), "HEAD")
        yield folder
    finally:
        remove(folder)


def remove(folder: Path) -> None:
    """Remove the work tree."""
    # `--force` twice, because git locks a work tree until it is complete.
    git("worktree", "remove", "--force", "--force", str(folder), otherwise="")
    shutil.rmtree(folder.parent, ignore_errors=True)
    git("worktree", "prune")


def tag(version: Version, commit: str) -> Version:
    """Tag the commit, and print that."""
    git("tag", "--annotate", "--message", f"Release {version}", str(version), commit)
    print(f"Released {version}: commit {commit[:9]} and a tag")
    return version


def tag_of(version: Version) -> str:
    """The commit with the version's tag; empty if there is none."""
    return git("rev-parse", "--quiet", "--verify", f"refs/tags/{version}^0", otherwise="")


def merged_tags() -> list[Version]:
    """The versions that are tagged in this branch."""
    # Not `git tag`, which can be set to print columns.
    tags = git("for-each-ref", "--merged=HEAD", "--format=%(refname:lstrip=2)", "refs/tags")
    return list(filter(None, map(parsed, tags.split())))


def commit_of(version: Version) -> str:
    """The commit of the version's release; empty if there is none."""
    pattern = rf"--grep=^Release {re.escape(str(version))}$"
    # Not `git log`, which can be set to print signatures, too.
    command = ("rev-list", "--max-count=1", "--first-parent", "--encoding=UTF-8")
    return git(*command, "--basic-regexp", pattern, "HEAD", otherwise="")


@contextlib.contextmanager
def locked() -> Iterator[None]:
    """Keep other processes from releasing in this repo at the same time."""
    if not shutil.which("git"):
        raise ReleaseError("git is not on PATH", "apt install git, or brew install git")
    folder = git("rev-parse", "--git-common-dir")
    if git("rev-parse", "--show-prefix"):
        top = git("rev-parse", "--show-toplevel")
        raise ReleaseError(
            f"{Path.cwd()} is a folder in the git repo {top}; only a whole repo is released"
        )
    with Path(folder, "release.lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise ReleaseError(
                "another release is running", "try again when it has ended"
            ) from None
        yield


def git(*arguments: str, cwd: Path | None = None, otherwise: str | None = None) -> str:
    """The output of git; see `run`."""
    return run("git", *arguments, cwd=cwd, otherwise=otherwise)


@functools.cache
def dropped_variables() -> set[str]:
    """The variables that choose a repo for git, which it sets for hooks, and uv's environment."""
    command = ["git", "rev-parse", "--local-env-vars"]
    listed = subprocess.run(command, capture_output=True, text=True, check=False).stdout.split()
    # GIT_CONFIG_COUNT and the like are settings, such as the credentials of CI.
    return {"VIRTUAL_ENV", *(name for name in listed if not name.startswith("GIT_CONFIG_"))}


def run(*command: str, cwd: Path | None = None, otherwise: str | None = None) -> str:
    """The output of the command; if it fails, `otherwise`, or a ReleaseError with its messages."""
    env = {name: value for name, value in os.environ.items() if name not in dropped_variables()}
    process = subprocess.run(
        command,
        cwd=cwd,
        env=env,
        capture_output=True,
        encoding="utf-8",
        errors="replace",
        check=False,
    )
    if process.returncode == 0:
        return process.stdout.rstrip()
    if otherwise is not None:
        return otherwise
    messages = (process.stderr.strip() or process.stdout.strip()).splitlines()
    name = " ".join([Path(command[0]).name, *command[1:3]])
    raise ReleaseError("\n".join([f"{name} failed:", *messages[-15:]]))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
