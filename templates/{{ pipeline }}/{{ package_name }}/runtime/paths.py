"""Where things are: the package, its flows and tasks, and the repo around it."""

from pathlib import Path

PACKAGE = Path(__file__).resolve().parent.parent
CONFIG = PACKAGE / "config"
FLOWS = PACKAGE / "flows"
TASKS = PACKAGE / "tasks"
# In a checkout the repo's root; where the package is installed, the folder it is used from.
ROOT = PACKAGE.parent if (PACKAGE.parent / "pyproject.toml").is_file() else Path.cwd()
