"""For tests of pipelines: a repo's root of their own, the same on any machine."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

from . import paths
from .settings import PREFIX, settings


@contextlib.contextmanager
def temporary_root(folder: Path) -> Iterator[None]:
    """Use the folder as the repo's root inside the `with` block.

    Runs, markers and `.env` lie there, and so do flows and settings where it has folders `flows` and
    `config`. Variables that set up this repo or Metaflow are taken away, and Metaflow's configuration
    in the home folder is not read. Everything is as before when the block ends.
    """
    roots = (paths.ROOT, paths.FLOWS, paths.CONFIG)
    environment = dict(os.environ)
    for name in environment:
        if name.startswith((PREFIX, "METAFLOW_")):
            del os.environ[name]
    os.environ["METAFLOW_HOME"] = str(folder / "no-metaflow-config")
    own = [folder / name for name in ("flows", "config")]
    new = [path if path.is_dir() else default for path, default in zip(own, roots[1:], strict=True)]
    paths.ROOT, (paths.FLOWS, paths.CONFIG) = folder, new
    settings.cache_clear()
    try:
        yield
    finally:
        paths.ROOT, paths.FLOWS, paths.CONFIG = roots
        os.environ.clear()
        os.environ.update(environment)
        settings.cache_clear()
