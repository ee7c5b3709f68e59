"""A flow's `requirements.txt`: how it is read, and what is printed where uv refuses it."""

from __future__ import annotations

from pathlib import Path

import pytest
from runtime.errors import RequirementsError
from runtime.packages.requirements import Line, Requirements, installed_packages, normal, read
from runtime.testing import temporary_root

REFUSED = """\
Using Python 3.11.7 environment at: .venv
error: No solution found when resolving dependencies
  cause: Because you require msgspec<0.1 and msgspec==0.22.0, we can conclude that your
         requirements are unsatisfiable.
"""
REFUSED_AS_A_TREE = """\
Resolved 3 packages in 5ms
  \u00d7 No solution found when resolving dependencies:
  ╰─▶ Because you require msgspec<0.1 and msgspec==0.22.0, we can conclude that your
      requirements are unsatisfiable.
"""
REFUSED_IN_A_BUILD = REFUSED.replace("error", "")
UNREACHABLE = """\
error: Failed to fetch: http://127.0.0.1:9/simple/cowsay/
  cause: error sending request for url (http://127.0.0.1:9/simple/cowsay/)
  cause: Connection refused (os error 111)
"""


def texts(file: Path) -> list[str]:
    return [line.text for line in read(file)]


@pytest.mark.parametrize(
    ("text", "lines"),
    [
        ("", []),
        ("# nothing yet\n\n  # cowsay\n", []),
        ("\ufeffcowsay\r\n", ["cowsay"]),
        ("cowsay==6.1  # prints a cow\n", ["cowsay==6.1"]),
        ("cowsay @ https://example.org/x#sha256=0\n", ["cowsay @ https://example.org/x#sha256=0"]),
        ("cowsay==6.1 \\\n    --hash=sha256:0\\\n\n", ["cowsay==6.1 --hash=sha256:0"]),
        ("cowsay \\  # goes on\n  >6\nmsgspec\\", ["cowsay >6", "msgspec"]),
        ("--index-url=https://example.org\n", ["--index-url=https://example.org"]),
    ],
)
def test_comments_go_and_continued_lines_are_joined(
    tmp_path: Path, text: str, lines: list[str]
) -> None:
    file = tmp_path / "requirements.txt"
    file.write_text(text, newline="")
    assert texts(file) == lines


def test_included_files_are_read_in_place_and_once(tmp_path: Path) -> None:
    shared = tmp_path / "shared"
    shared.mkdir()
    file, more, limits = (
        tmp_path / "requirements.txt",
        shared / "more.txt",
        shared / "limits.txt",
    )
    file.write_text("-r shared/more.txt\ncowsay\n--constraint=shared/limits.txt\n")
    more.write_text("-c limits.txt\n--requirement ../requirements.txt\nrich\n")
    limits.write_text("-r more.txt\nrich<15\n")
    assert read(file) == [
        Line(limits, "rich<15", is_constraint=True),
        Line(more, "rich", is_constraint=False),
        Line(file, "cowsay", is_constraint=False),
    ]


def test_a_missing_file_is_named_with_the_line_that_includes_it(tmp_path: Path) -> None:
    (tmp_path / "requirements.txt").write_text("cowsay\n-c nowhere.txt\n")
    message = (
        "requirements.txt: there is no nowhere.txt\n"
        "hint: correct `-c nowhere.txt`; paths start from the folder of requirements.txt"
    )
    with temporary_root(tmp_path), pytest.raises(RequirementsError) as error:
        read(tmp_path / "requirements.txt")
    assert str(error.value) == message


@pytest.mark.parametrize("printed", [REFUSED, REFUSED_AS_A_TREE, REFUSED_IN_A_BUILD])
def test_a_conflict_is_told_by_uv_in_the_first_line(tmp_path: Path, printed: str) -> None:
    with temporary_root(tmp_path):
        error = Requirements(tmp_path / "requirements.txt", [], {}).failure(printed.splitlines())
    first, *_, hint = str(error).splitlines()
    assert first.startswith("requirements.txt cannot be installed: No solution found when resolv")
    assert "you require msgspec<0.1 and msgspec==0.22.0" in first
    assert "Using Python" not in str(error)
    assert "Resolved" not in str(error)
    assert hint == (
        "hint: change the requirement, or the repo's dependency in pyproject.toml and "
        "`nox -s setup`"
    )


def test_an_address_that_does_not_answer_is_told_with_where_uv_finds_it(tmp_path: Path) -> None:
    wanted = Requirements(tmp_path / "requirements.txt", [], {})
    first, hint = str(wanted.failure(UNREACHABLE.splitlines(), network="the settings")).splitlines()
    assert first.endswith("/simple/cowsay/): Connection refused (os error 111)")
    assert hint == (
        "hint: check the address and the network; uv takes index and proxy from the settings"
    )


def test_installed_packages_are_named_as_indexes_compare_them() -> None:
    assert normal("Python_dotenv.x--y") == "python-dotenv-x-y"
    assert {"luigi", "metaflow", "python-dotenv"} <= installed_packages().keys()
