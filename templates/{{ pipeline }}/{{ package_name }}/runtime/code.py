"""What code is at work: the repo's version, and the branch and commit of its checkout."""

from __future__ import annotations

import subprocess

import msgspec

from . import paths

_UNKNOWN = ("ls-files", "--others", "--exclude-standard", "--directory", "--no-empty-directory")


class Code(msgspec.Struct, frozen=True):
    """Version of the package, and where git knows them branch and commit."""

    version: str
    branch: str | None
    commit: str | None
    """Forty hexadecimal digits.

    `-dirty` behind them where tracked files had been edited, or the package has files that git does
    not know: a new flow, say.
    """


def code() -> Code:
    """Ask now: a long-lived process may see its checkout change."""
    from .. import __version__

    if not paths.IN_CHECKOUT:  # the folder it is used from may be any repo's
        return Code(version=__version__, branch=None, commit=None)
    commit = _git("describe", "--always", "--dirty", "--abbrev=40", "--exclude=*")
    if commit and not commit.endswith("-dirty") and _git(*_UNKNOWN, str(paths.PACKAGE)):
        commit += "-dirty"
    return Code(version=__version__, branch=_git("branch", "--show-current"), commit=commit)


def _git(*arguments: str) -> str | None:
    try:
        done = subprocess.run(
            ["git", "-C", str(paths.ROOT), *arguments], capture_output=True, text=True, check=False
        )
    except FileNotFoundError:  # no git, as in a slim image
        return None
    return done.stdout.strip() or None if done.returncode == 0 else None
