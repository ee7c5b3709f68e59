"""`.dockerignore`: which files of the repo go into an image."""

from __future__ import annotations

from pathlib import Path

import pytest
from runtime import paths
from runtime.container.layers import repo_files
from runtime.errors import ImageError

FILES = ("a/b.csv", "a/c.txt", "a/d/e.csv", "top.csv")


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A package with FILES and a `.env`, in a folder that is not a git repo."""
    monkeypatch.setattr(paths, "ROOT", tmp_path)
    monkeypatch.setattr(paths, "PACKAGE", tmp_path / "p")
    for name in (*FILES, "a/.env"):
        file = tmp_path / "p" / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.touch()
    return tmp_path


@pytest.mark.parametrize(
    ("rules", "left"),
    [
        ("", set(FILES)),
        ("*.csv", set(FILES)),  # a pattern begins in the root
        ("p/*.csv", {"a/b.csv", "a/c.txt", "a/d/e.csv"}),
        ("**/*.csv", {"a/c.txt"}),
        ("**/*.csv\n!p/a/d/*.csv", {"a/c.txt", "a/d/e.csv"}),
        ("# p\n/p/a/d/", {"a/b.csv", "a/c.txt", "top.csv"}),
        ("p/a/?.[a-c]sv", {"a/c.txt", "a/d/e.csv", "top.csv"}),
        ("**e.csv", {"a/b.csv", "a/c.txt", "top.csv"}),
        ("\ufeffp/a/**\r\n!p/a/c.txt\r\n", {"a/c.txt", "top.csv"}),
        ("*\n!p/a/d", {"a/d/e.csv"}),
        ("./p/a/../top.csv\n  # x\np//a//d", {"a/b.csv", "a/c.txt"}),
    ],
)
def test_the_last_rule_that_matches_a_file_counts(
    package: Path, rules: str, left: set[str]
) -> None:
    (package / ".dockerignore").write_text(rules, newline="")
    assert {name.removeprefix("p/") for name in repo_files()} == left


def test_a_wrong_pattern_is_named(package: Path) -> None:
    (package / ".dockerignore").write_text("[z-a].csv\n")
    with pytest.raises(ImageError, match=r"^\.dockerignore: '\[z-a\]\.csv' is no pattern: bad"):
        repo_files()
