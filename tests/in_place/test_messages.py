"""What people read: units, suggestions, exit codes and paths."""

from __future__ import annotations

import signal
from argparse import ArgumentTypeError
from pathlib import Path

import pytest
from runtime import paths
from runtime.commands.clean import age
from runtime.console import as_called, counted, in_time, in_units, printable, seconds
from runtime.errors import did_you_mean
from runtime.process import describe_exit


@pytest.mark.parametrize(
    ("size", "text"),
    [
        *((0, "0 B"), (999, "999 B"), (1000, "1.0 kB"), (9_940, "9.9 kB"), (12_345, "12 kB")),
        *((999_400, "999 kB"), (999_600, "1.0 MB"), (340e6, "340 MB"), (5e15, "5000.0 TB")),
    ],
)
def test_sizes_have_at_most_three_digits_and_a_unit(size: float, text: str) -> None:
    assert in_units(size) == text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        *((-1, "0 s"), (59.4, "59 s"), (60, "1 min"), (3599, "59 min"), (3600, "1 h")),
        (10 * 86400, "10 d"),
    ],
)
def test_times_are_in_the_largest_whole_unit(seconds: float, text: str) -> None:
    assert in_time(seconds) == text


@pytest.mark.parametrize(
    ("text", "length"),
    [
        *(("90", 90), ("2.5", 2.5), (".5", 0.5), ("90s", 90), ("15m", 900), ("1h", 3600)),
        *(("1.5h", 5400), ("30d", 30 * 86400), ("2w", 14 * 86400), (" 1h ", 3600), ("-1h", -3600)),
        ("1e3", 1000),
    ],
)
def test_a_time_is_read_in_any_unit_and_as_seconds_without_one(text: str, length: float) -> None:
    assert seconds(text) == length


@pytest.mark.parametrize("text", ["", "soon", "h", "1 h 5", "1H", "1min", "1y", "nan", "inf"])
def test_text_that_is_no_time_is_refused_with_the_rule(text: str) -> None:
    with pytest.raises(ValueError, match=f"^'{text}' is not seconds, or a number and s, m, h"):
        seconds(text)


@pytest.mark.parametrize("text", ["30", "30.", "", "-1d", "soon", "d"])
def test_an_age_has_a_unit(text: str) -> None:
    assert age("30d") == 30 * 86400
    assert age("2w") == 14 * 86400
    with pytest.raises(ArgumentTypeError, match="is not an age"):
        age(text)


def test_a_count_has_its_noun_in_the_right_number() -> None:
    assert [counted(number, "run") for number in range(3)] == ["0 runs", "1 run", "2 runs"]


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("a\tb\nc", "a\tb\nc"),
        ("na\u00efve \u4e2d \U0001f600", "na\u00efve \u4e2d \U0001f600"),
        ("\x1b[2J\x1b[1;1Hgone\x1b[?25l", "gone"),
        ("\x9b2Jgone", "gone"),
        ("\x1b]0;a title\x07text", "text"),
        ("\x1b]8;;https://example.org\x1b\\a link\x1b]8;;\x1b\\", "a link"),
        ("\x1bPq#0\x1b\\picture", "picture"),
        ("\x1b]0;without an end\nand more", "0;without an end\nand more"),
        ("\x1bcreset \x1b(0lines \x0eshifted\x0f", "reset lines shifted"),
        ("bell\x07 back\x08 return\r page\x0c \x00\x7f", "bell back return page "),
        ("cut off \x1b[3", "cut off 3"),
        ("\x1b", ""),
        ("[2J and ]0; are text", "[2J and ]0; are text"),
    ],
)
@pytest.mark.parametrize("colours", [False, True])
def test_nothing_that_is_printed_for_people_can_control_their_terminal(
    text: str, shown: str, colours: bool
) -> None:
    assert printable(text, colours=colours) == shown


def test_colours_remain_where_they_may_and_end_with_the_text() -> None:
    assert printable("\x1b[1;31mred\x1b[0m") == "red"
    assert printable("\x1b[38:5:9mred\x1b[2J", colours=True) == "\x1b[38:5:9mred\x1b[0m"


def test_a_name_close_to_a_known_one_gets_a_suggestion() -> None:
    assert did_you_mean("timout", ["timeout", "runner"]) == "; did you mean timeout?"
    assert did_you_mean("rocket", ["timeout", "env"]) == ""


@pytest.mark.parametrize(
    ("code", "text"),
    [
        (2, "exit code 2"),
        (128, "exit code 128"),
        (-signal.SIGSEGV, "killed by SIGSEGV"),
        (128 + signal.SIGTERM, "killed by SIGTERM"),
        (128 + signal.SIGKILL, "killed by SIGKILL, perhaps for lack of memory"),
    ],
)
def test_an_exit_code_is_described_by_its_signal(code: int, text: str) -> None:
    assert describe_exit(code) == text


def test_paths_are_shown_relative_to_the_repo(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(paths, "ROOT", tmp_path)
    assert paths.shown(tmp_path / "flows" / ".." / "luigi.cfg") == "luigi.cfg"
    assert paths.shown(tmp_path.parent / "other") == str(tmp_path.parent / "other")


def test_characters_that_the_terminal_cannot_show_become_question_marks(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    class Terminal:
        encoding = "ascii"

    monkeypatch.setattr("sys.stdout", Terminal())
    assert printable("größe") == "gr??e"


def test_commands_are_printed_as_the_user_calls_nox(monkeypatch: pytest.MonkeyPatch) -> None:
    hint = "hint: nox -s setup, or nox -s run -- FILE"
    monkeypatch.delenv("NOX_CALLED", raising=False)
    assert as_called(hint) == hint
    monkeypatch.setenv("NOX_CALLED", "python3 noxfile.py")
    called = "hint: python3 noxfile.py -s setup, or python3 noxfile.py -s run -- FILE"
    assert as_called(hint) == called
    assert as_called(called) == called
