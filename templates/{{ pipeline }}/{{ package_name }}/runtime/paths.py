"""Where things are: the package, its flows and tasks, and the repo around it."""

from pathlib import Path

PACKAGE = Path(__file__).resolve().parent.parent
CONFIG = PACKAGE / "config"
FLOWS = PACKAGE / "flows"
TASKS = PACKAGE / "tasks"
IN_CHECKOUT = (PACKAGE.parent / "pyproject.toml").is_file()
# In a checkout the repo's root; where the package is installed, the folder it is used from.
ROOT = PACKAGE.parent if IN_CHECKOUT else Path.cwd()


def repo_root() -> Path:
    """The root of the repo; where the package is installed, the folder it is used from."""
    return ROOT
