"""The version of the repo, and of what is built from it."""

from __future__ import annotations

import os
import re
import subprocess

from . import paths

UNKNOWN = "0+unknown"
_NEW_FILES = ("ls-files", "--others", "--exclude-standard", "--directory", "--no-empty-directory")


def version(distribution: str) -> str:
    """The version in pyproject.toml, with branch and commit behind it where that is no release.

    `2026.11.3` at its tag; `2026.11.3+6.readme.gab12cd0` (a local version of PEP 440) at any other
    commit, with `.dirty` behind it as `commit` has it. What is installed from a wheel has the
    version of the wheel; bare files, as Metaflow ships them, have `0+unknown`.
    """
    if not paths.IN_CHECKOUT:
        from importlib import metadata  # takes longer than the rest of this

        try:
            return metadata.version(distribution)
        except metadata.PackageNotFoundError:
            return UNKNOWN
    release = released()
    if release == UNKNOWN:
        return release
    here = commit(7)
    tagged = ("describe", "--tags", "--exact-match", f"--match={release}")
    if not here or (not here.endswith("-dirty") and git(*tagged)):
        return release
    words = ".".join([git("branch", "--show-current"), f"g{here}"])
    return f"{release}+" + re.sub("[^a-z0-9]+", ".", words.lower()).strip(".")


def commit(digits: int) -> str:
    """The commit at hand, by so many digits; nothing where git knows none.

    `-dirty` behind it where tracked files have been edited, or the package has files that git does
    not know: a new flow, say.
    """
    found = git("describe", "--always", "--dirty", f"--abbrev={digits}", "--exclude=*")
    if found and not found.endswith("-dirty") and git(*_NEW_FILES, str(paths.PACKAGE)):
        found += "-dirty"
    return found


def git(*arguments: str) -> str:
    """What git prints; nothing where it fails, or is not there, as in a slim image."""
    try:
        done = subprocess.run(
            ["git", "-C", str(paths.ROOT), *arguments], capture_output=True, check=False
        )
    except FileNotFoundError:
        return ""
    # Names of files are of any bytes, and may begin with a space.
    return os.fsdecode(done.stdout).removesuffix("\n") if done.returncode == 0 else ""


def released() -> str:
    """The version under [project] in pyproject.toml, the last release; UNKNOWN without one."""
    return of_project("version") or UNKNOWN


def of_project(key: str) -> str:
    """What pyproject.toml says of the key under [project], one line of text; nothing without it."""
    text = (paths.PACKAGE.parent / "pyproject.toml").read_text(encoding="utf-8")
    table = re.search(r"^\[project\]\s*(?:#.*)?$.*?(?=^\[|\Z)", text, re.MULTILINE | re.DOTALL)
    line = rf"""^{key}\s*=\s*["']([^"']+)["']"""
    found = re.search(line, table[0] if table else "", re.MULTILINE)
    return found[1] if found else ""
