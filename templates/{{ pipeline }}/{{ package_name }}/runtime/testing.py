"""Help for tests of flows and tasks."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from unittest import mock

from . import paths
from .settings import PREFIX, settings


@contextmanager
def temporary_root(folder: Path) -> Iterator[None]:
    """Make a folder the root of the repo, for as long as the context is open.

    Runs, markers and `repo_root()` are in the folder. Variables of this machine that begin with
    `METAFLOW_` or the prefix of the settings do not count.
    """
    with mock.patch.object(paths, "ROOT", folder), mock.patch.dict(os.environ):
        for name in [*os.environ]:
            if name.startswith((PREFIX, "METAFLOW_")):
                del os.environ[name]
        os.environ["METAFLOW_HOME"] = str(folder)
        settings.cache_clear()
        try:
            yield
        finally:
            settings.cache_clear()
