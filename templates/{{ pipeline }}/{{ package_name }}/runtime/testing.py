"""For tests of pipelines: a temporary root, so that they run the same on any machine."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

from . import paths
from .metaflow_config import datastore_root, local_root
from .settings import PREFIX, DatabaseSettings, settings


@contextlib.contextmanager
def temporary_root(folder: Path) -> Iterator[None]:
    """Use the folder as the repo's root inside the `with` block.

    Runs, markers, `.env` and tables are read and written there: whatever the settings say, the
    database is a file of SQLite. If the folder has `flows` or `config`, they replace the package's
    own, and its settings hold. Environment variables that set up this repo or Metaflow are
    removed, and Metaflow's configuration in the home folder is not read. When the block ends,
    everything is as it was before.
    """
    roots = (paths.ROOT, paths.FLOWS, paths.CONFIG)
    environment = dict(os.environ)
    for name in environment:
        if name.startswith((PREFIX, "METAFLOW_")):
            del os.environ[name]
    os.environ["METAFLOW_HOME"] = str(folder / "no-metaflow-config")
    paths.ROOT = folder
    for name in ("flows", "config"):
        if (folder / name).is_dir():
            setattr(paths, name.upper(), folder / name)
    if not (folder / "config").is_dir():
        os.environ[f"{PREFIX}DATABASE__URL"] = DatabaseSettings().url
    _forget()
    try:
        yield
    finally:
        paths.ROOT, paths.FLOWS, paths.CONFIG = roots
        os.environ.clear()
        os.environ.update(environment)
        _forget()


def _forget() -> None:
    for looked_up in (settings, datastore_root, local_root):
        looked_up.cache_clear()
