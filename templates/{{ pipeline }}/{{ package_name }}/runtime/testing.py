"""For tests of pipelines: a repo's root of their own, on any machine the same."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

from . import paths
from .settings import PREFIX, settings


@contextlib.contextmanager
def temporary_root(folder: Path) -> Iterator[None]:
    """Let the folder be the repo's root inside the `with` block.

    Runs, markers and `.env` are looked for there. Variables that set up the repo or Metaflow do not
    count inside it, and neither does Metaflow's configuration in the home folder.
    """
    root, environment = paths.ROOT, dict(os.environ)
    for name in environment:
        if name.startswith((PREFIX, "METAFLOW_")):
            del os.environ[name]
    os.environ["METAFLOW_HOME"] = str(folder / "no-metaflow-config")
    paths.ROOT = folder
    settings.cache_clear()
    try:
        yield
    finally:
        paths.ROOT = root
        os.environ.clear()
        os.environ.update(environment)
        settings.cache_clear()
