"""Empties the placeholder, which Cookiecutter then overwrites with the template's text.

It stays empty if Cookiecutter skips existing files, which tells post_gen_project.py about that.
"""

from pathlib import Path

Path(".headwater-placeholder").touch()
