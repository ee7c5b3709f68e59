"""The version of the repo and the commit of its checkout."""

from __future__ import annotations

import os
import re
import subprocess
import warnings
from functools import lru_cache
from importlib import import_module
from typing import NamedTuple

from . import paths

UNKNOWN = "0+unknown"
_NEW_FILES = ("ls-files", "--others", "--exclude-standard", "--directory", "--no-empty-directory")


class Code(NamedTuple):
    """The code that runs: the package's version, and branch and commit where git knows them."""

    version: str
    branch: str | None
    commit: str | None
    """Forty hexadecimal digits, and `-dirty` as `commit` says."""


def code() -> Code:
    """The code of this moment: the checkout of a long-running process may change."""
    package = import_module(__package__.rpartition(".")[0])
    release: str = getattr(package, "__version__", UNKNOWN)  # an __init__.py of the user's own
    if not paths.IN_CHECKOUT:  # the current folder may be in any other repo
        return Code(release, None, None)
    return Code(release, git("branch", "--show-current") or None, commit(40) or None)


def version(distribution: str) -> str:
    """The version in pyproject.toml, followed by branch and commit unless this is a release.

    `2026.11.3` at its tag; `2026.11.3+6.readme.gab12cd0` (a local version of PEP 440) at any other
    commit, followed by `.dirty` as `commit` says; `2026.11.3+unknown` where there is no git repo or
    no commit, and, with a warning, where git cannot read the repo. A package installed from a wheel
    has the wheel's version. Bare files, as Metaflow ships them, have `0+unknown`.
    """
    if not paths.IN_CHECKOUT:
        from importlib import metadata  # takes longer than the rest of this module

        try:
            return metadata.version(distribution)
        except metadata.PackageNotFoundError:
            return UNKNOWN
    release, head = released(), commit(7)
    if release == UNKNOWN:
        return release
    if not head:
        return f"{release}+unknown"
    is_tagged = ("describe", "--tags", "--exact-match", f"--match={release}")
    if not head.endswith("-dirty") and git(*is_tagged):
        return release
    return local_version(release, git("branch", "--show-current"), head)


def local_version(release: str, branch: str, head: str) -> str:
    """The PEP 440 version of a commit between releases; the branch may be empty."""
    words = f"{branch}.g{head}".lower()
    return f"{release}+" + re.sub("[^a-z0-9]+", ".", words).strip(".")


def commit(digits: int) -> str:
    """The commit that is checked out, shortened to so many digits; empty without one.

    `-dirty` follows where tracked files are edited, or the package has files that git does not
    track, a new flow for example. Warns where git cannot read the repo.
    """
    head = git("describe", "--always", "--dirty", f"--abbrev={digits}", "--exclude=*")
    if head and not head.endswith("-dirty") and git(*_NEW_FILES, str(paths.PACKAGE)):
        head += "-dirty"
    if not head and (reason := refusal()):
        warnings.warn(f"the commit is unknown: {reason}", stacklevel=2)
    return head


def refusal() -> str:
    """git's reason not to read the repo; empty where it does, or where there is none."""
    if not in_repo():
        return ""
    # In a repo that is set to be bare, git finds its folder and no files.
    command = ["git", "-C", str(paths.ROOT), "rev-parse", "--show-toplevel"]
    try:
        done = subprocess.run(command, env=git_environment(), capture_output=True, check=False)
    except FileNotFoundError:
        return "git is not on PATH"
    return os.fsdecode(done.stderr).partition("\n")[0] if done.returncode else ""


def in_repo() -> bool:
    """True if there is a git repo around the package, whether git can read it or not."""
    return any((folder / ".git").exists() for folder in (paths.ROOT, *paths.ROOT.parents))


def git(*arguments: str) -> str:
    """The output of git in the repo; empty where git fails or is missing, as in a slim image."""
    command = ["git", "-C", str(paths.ROOT), *arguments]
    try:
        done = subprocess.run(command, env=git_environment(), capture_output=True, check=False)
    except FileNotFoundError:
        return ""
    # A file's name may contain any bytes and may begin with a space.
    return os.fsdecode(done.stdout).removesuffix("\n") if done.returncode == 0 else ""


def git_environment() -> dict[str, str]:
    """The variables of this process, without those that choose a repo for git.

    git sets them for hooks and for `git rebase --exec`, and they override the current folder.
    """
    names = _names_for_a_repo()
    return {name: value for name, value in os.environ.items() if name not in names}


@lru_cache(maxsize=1)
def _names_for_a_repo() -> frozenset[str]:
    command = ["git", "rev-parse", "--local-env-vars"]
    try:
        listed = subprocess.run(command, capture_output=True, text=True, check=False)
    except FileNotFoundError:
        return frozenset()
    # GIT_CONFIG_COUNT and the like are settings, such as the credentials of CI.
    return frozenset(n for n in listed.stdout.split() if not n.startswith("GIT_CONFIG_"))


def released() -> str:
    """The version under [project] in pyproject.toml, the last release; UNKNOWN without one."""
    return project_value("version") or UNKNOWN


def project_value(key: str) -> str:
    """The text of a key under [project] in pyproject.toml; empty without it, or in bad TOML."""
    import tomllib

    try:
        pyproject = tomllib.loads((paths.PACKAGE.parent / "pyproject.toml").read_text("utf-8"))
    except ValueError:
        return ""
    return str(pyproject.get("project", {}).get(key, ""))
