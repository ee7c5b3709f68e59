"""Writes nothing into the placeholder, which Cookiecutter then overwrites with its own.

Unless it was told to skip files that exist: that is how post_gen_project.py gets to know.
"""

from pathlib import Path

Path(".headwater-placeholder").touch()
