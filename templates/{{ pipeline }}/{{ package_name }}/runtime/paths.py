"""Folders: the package with its flows and tasks, the repo around it, and `.metaflow` in it."""

from __future__ import annotations

import os
from pathlib import Path

from .errors import PipelineError

PACKAGE = Path(__file__).resolve().parent.parent
CONFIG = PACKAGE / "config"
FLOWS = PACKAGE / "flows"
TASKS = PACKAGE / "tasks"
IN_CHECKOUT = (PACKAGE.parent / "pyproject.toml").is_file()
ROOT = PACKAGE.parent if IN_CHECKOUT else Path.cwd()

LOCKS = "luigi-locks"
"""The folder, in Metaflow's folder on this machine, of the locks that running tasks hold."""
TASKS_LOCK = f"{LOCKS}/all-tasks"
"""The lock that all running tasks share, and that `clean` holds alone."""


def repo_root() -> Path:
    """The repo's root; for an installed package, the current folder when it was imported."""
    return ROOT


def metaflow_folder() -> Path:
    """The folder for everything that runs write on this machine: `metaflow_config.local_root`.

    Where the settings cannot be read, as by `status` without an environment, the default.
    """
    # ruff formats `except (A, B):` in two ways, by the lowest Python; the runtime is one for all.
    unreadable = (ImportError, PipelineError)
    try:
        from .metaflow_config import local_root  # needs packages, and this module

        return local_root()
    except unreadable:
        return ROOT / ".metaflow"


def overlays() -> Path:
    """The folder of the overlays: packages that flows need in addition to the repo's."""
    return metaflow_folder() / "overlays"


def images() -> Path:
    """The folder with a file for each Docker image; its time is that of the image's last use."""
    return metaflow_folder() / "images"


def client_cache() -> Path:
    """The cache of Metaflow's client, unless METAFLOW_CLIENT_CACHE_PATH names another."""
    return metaflow_folder() / "client-cache"


def logs() -> Path:
    """The folder with a file for each run on a terminal: what the run has printed."""
    return metaflow_folder() / "logs"


def shown(path: Path) -> str:
    """The path as messages show it: relative to the repo's root if it is in the repo."""
    normal = Path(os.path.normpath(path))
    return str(normal.relative_to(ROOT) if normal.is_relative_to(ROOT) else normal)
