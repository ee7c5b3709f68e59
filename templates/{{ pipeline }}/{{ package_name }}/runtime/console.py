"""What is printed for people: lines that any terminal can show, colours, units and counts."""

from __future__ import annotations

import contextlib
import os
import re
import sys
from collections.abc import Iterator

# As a terminal takes them: what begins with ESC [, e.g. to move the cursor or to clear the screen;
# texts such as a window's title or a link; other sequences; and single characters such as the bell.
# Those with a number from 0x80 on mean ESC and a letter.
_CONTROLS = re.compile(
    r"(?:\x1b\[|\x9b)[0-?]*[ -/]*[@-~]"
    r"|(?:\x1b[PX\]^_]|[\x90\x98\x9d-\x9f])[^\x07\x1b\x9c\n]*(?:\x07|\x1b\\|\x9c)"
    r"|\x1b[ -/]*[0-~]"
    r"|[\0-\x08\x0b-\x1f\x7f-\x9f]"
)
_COLOUR = re.compile(r"\x1b\[[0-9;:]*m")

_LENGTHS = {"": 1, "s": 1, "m": 60, "h": 3600, "d": 86400, "w": 7 * 86400}

TIME = "seconds, or a number and s, m, h, d or w, e.g. 90, 15m or 1.5h"
"""The rule of `seconds`."""


def seconds(text: str) -> float:
    """A time in seconds, as TIME says. Raises ValueError for any other text."""
    match = re.fullmatch(r"(-?[0-9]*\.?[0-9]+(?:e[0-9]+)?)([smhdw]?)", text.strip())
    if not match:
        raise ValueError(f"{text!r} is not {TIME}")
    return float(match[1]) * _LENGTHS[match[2]]


def as_called(text: str) -> str:
    """The text, with the nox in its commands as the user calls it, e.g. `python3 noxfile.py`."""
    return text.replace("nox -s ", f"{os.environ.get('NOX_CALLED', 'nox')} -s ")


def printable(text: str, *, colours: bool = False) -> str:
    """The text without all that does something to a terminal, as it is shown to people.

    Whatever comes from flows and values can have such characters, which move the cursor, clear the
    screen or set the title. With `colours`, those remain, up to the end of the text. `?` stands for
    each character that standard output cannot encode.
    """
    if not text.isprintable():  # most are
        text = _CONTROLS.sub(lambda m: m[0] if colours and _COLOUR.fullmatch(m[0]) else "", text)
        text += "\033[0m" if "\033[" in text else ""
    encoding = getattr(sys.stdout, "encoding", None) or "utf-8"  # a daemon may have closed it
    return text.encode(encoding, "replace").decode(encoding)


def show_line(label: str, line: str) -> None:
    """Print a line of what runs, at once; it is no error if nobody reads it."""
    with contextlib.suppress(OSError):  # `run … | head` has ended, or the log's disk is full
        print(printable(f"{label} | {line}", colours=True), flush=True)


@contextlib.contextmanager
def reader_may_leave() -> Iterator[None]:
    """Print what is printed within; if nobody reads it any more, as after `| head`, end there."""
    try:
        yield
        sys.stdout.flush()
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def can_redraw() -> bool:
    """True if somebody watches, on a terminal that can draw a line again: no log of a CI."""
    is_terminal = sys.stdout.isatty() and sys.stderr.isatty()
    is_dumb = os.environ.get("TERM") in ("dumb", "unknown")
    return is_terminal and not is_dumb and not os.environ.get("CI")


def coloured(text: str, code: str) -> str:
    """The text in a colour, or bold, if the terminal can show that."""
    if sys.stdout.isatty() and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb":
        return f"\033[{code}m{text}\033[0m"
    return text


def in_units(size: float) -> str:
    """A number of bytes for people: `340 MB`."""
    for unit in ("B", "kB", "MB", "GB"):
        if size < 999.5:
            return f"{size:.0f} {unit}" if size >= 10 or unit == "B" else f"{size:.1f} {unit}"
        size /= 1000
    return f"{size:.1f} TB"


def in_time(seconds: float) -> str:
    """A number of seconds for people: `3 h`."""
    for unit, length in (("d", 86400), ("h", 3600), ("min", 60)):
        if seconds >= length:
            return f"{seconds // length:.0f} {unit}"
    return f"{max(seconds, 0):.0f} s"


def counted(number: int, noun: str) -> str:
    """A number and what it counts: `1 run`, `2 runs`."""
    return f"{number} {noun}{'' if number == 1 else 's'}"
