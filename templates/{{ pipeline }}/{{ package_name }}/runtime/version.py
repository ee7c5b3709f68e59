"""The version of the repo and the commit of its checkout."""

from __future__ import annotations

import os
import re
import subprocess
from importlib import import_module
from typing import NamedTuple

from . import paths

UNKNOWN = "0+unknown"
_NEW_FILES = ("ls-files", "--others", "--exclude-standard", "--directory", "--no-empty-directory")


class Code(NamedTuple):
    """What code runs: the package's version, and branch and commit where git knows them."""

    version: str
    branch: str | None
    commit: str | None
    """Forty hexadecimal digits; followed by `-dirty` as `commit` says."""


def code() -> Code:
    """The code of now: the checkout of a process that runs for long may change."""
    release: str = import_module(__package__.rpartition(".")[0]).__version__
    if not paths.IN_CHECKOUT:  # the folder that it is used from may be any repo's
        return Code(release, None, None)
    return Code(release, git("branch", "--show-current") or None, commit(40) or None)


def version(distribution: str) -> str:
    """The version in pyproject.toml, followed by branch and commit unless this is a release.

    `2026.11.3` at its tag; `2026.11.3+6.readme.gab12cd0` (a local version of PEP 440) at any other
    commit, followed by `.dirty` as `commit` says. A package installed from a wheel has the wheel's
    version; bare files, as Metaflow ships them, have `0+unknown`.
    """
    if not paths.IN_CHECKOUT:
        from importlib import metadata  # takes longer than the rest of this module

        try:
            return metadata.version(distribution)
        except metadata.PackageNotFoundError:
            return UNKNOWN
    release = released()
    if release == UNKNOWN:
        return release
    head = commit(7)
    is_tagged = ("describe", "--tags", "--exact-match", f"--match={release}")
    if not head or (not head.endswith("-dirty") and git(*is_tagged)):
        return release
    words = ".".join([git("branch", "--show-current"), f"g{head}"])
    return f"{release}+" + re.sub("[^a-z0-9]+", ".", words.lower()).strip(".")


def commit(digits: int) -> str:
    """The commit that is checked out, with so many digits; empty where git knows none.

    `-dirty` follows where tracked files are edited or the package has files that git does not know,
    a new flow for instance.
    """
    head = git("describe", "--always", "--dirty", f"--abbrev={digits}", "--exclude=*")
    if head and not head.endswith("-dirty") and git(*_NEW_FILES, str(paths.PACKAGE)):
        head += "-dirty"
    return head


def git(*arguments: str) -> str:
    """What git prints; empty where it fails or is not installed, as in a slim image."""
    try:
        done = subprocess.run(
            ["git", "-C", str(paths.ROOT), *arguments], capture_output=True, check=False
        )
    except FileNotFoundError:
        return ""
    # A file's name may have any bytes and may begin with a space.
    return os.fsdecode(done.stdout).removesuffix("\n") if done.returncode == 0 else ""


def released() -> str:
    """The version under [project] in pyproject.toml, the last release; UNKNOWN without one."""
    return project_value("version") or UNKNOWN


def project_value(key: str) -> str:
    """The value of a key under [project] in pyproject.toml, one line of text; empty without it."""
    text = (paths.PACKAGE.parent / "pyproject.toml").read_text(encoding="utf-8")
    table = re.search(r"^\[project\]\s*(?:#.*)?$.*?(?=^\[|\Z)", text, re.MULTILINE | re.DOTALL)
    line = rf"""^{key}\s*=\s*["']([^"']+)["']"""
    match = re.search(line, table[0] if table else "", re.MULTILINE)
    return match[1] if match else ""
