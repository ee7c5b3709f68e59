"""Versions between releases, and what is read from pyproject.toml."""

from __future__ import annotations

from pathlib import Path

import pytest
from packaging.version import Version
from runtime import paths
from runtime.version import UNKNOWN, local_version, project_value, released, version


@pytest.mark.parametrize(
    ("branch", "head", "expected"),
    [
        ("main", "ab12cd0", "2026.11.3+main.gab12cd0"),
        ("6_Fix-the.README", "ab12cd0-dirty", "2026.11.3+6.fix.the.readme.gab12cd0.dirty"),
        ("6_ünï/çödé--x", "ab12cd0", "2026.11.3+6.n.d.x.gab12cd0"),
        ("", "ab12cd0", "2026.11.3+gab12cd0"),
    ],
)
def test_a_commit_between_releases_has_a_normal_version_above_the_release(
    branch: str, head: str, expected: str
) -> None:
    text = local_version("2026.11.3", branch, head)
    assert text == expected == str(Version(text))
    assert Version("2026.11.3") < Version(text) < Version("2026.11.4")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ('[project]\nname = "x"\nversion = "2026.11.3"  # the last\n', "2026.11.3"),
        ("[project]\nversion = '2026.11.3'\n", "2026.11.3"),
        ('[tool.x]\nversion = "1"\n[project]\nname = "x"\n', UNKNOWN),
        ('<<<<<<< ours\n[project]\nversion = "2026.11.3"\n', UNKNOWN),
        ("", UNKNOWN),
    ],
)
def test_the_last_release_is_the_version_under_project(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str, expected: str
) -> None:
    (tmp_path / "pyproject.toml").write_text(text)
    monkeypatch.setattr(paths, "PACKAGE", tmp_path / "package")
    assert released() == expected
    assert project_value("no-such-key") == ""


def test_without_a_checkout_the_version_is_that_of_the_distribution(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(paths, "IN_CHECKOUT", False)
    assert version("luigi").startswith("3.")
    assert version("no-such-distribution") == UNKNOWN
