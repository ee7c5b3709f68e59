"""What code is at work: the repo's version, and the branch and commit of its checkout."""

from __future__ import annotations

import msgspec

from . import paths
from .version import commit, git


class Code(msgspec.Struct, frozen=True):
    """Version of the package, and where git knows them branch and commit."""

    version: str
    branch: str | None
    commit: str | None
    """Forty hexadecimal digits; `-dirty` behind them as `commit` has it."""


def code() -> Code:
    """Ask now: a long-lived process may see its checkout change."""
    from .. import __version__

    if not paths.IN_CHECKOUT:  # the folder it is used from may be any repo's
        return Code(version=__version__, branch=None, commit=None)
    branch = git("branch", "--show-current")
    return Code(version=__version__, branch=branch or None, commit=commit(40) or None)
