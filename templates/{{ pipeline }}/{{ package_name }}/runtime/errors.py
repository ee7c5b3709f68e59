"""Errors that a user can cause: shown without a traceback, as the cause and a hint."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class PipelineError(Exception):
    """Base of the errors that are shown as a message, without a traceback."""


class SettingsError(PipelineError):
    """A settings file or variable has an unknown key or a wrong value."""


class FlowNotFoundError(PipelineError):
    """A flow's path is outside `flows/` or has no file, or the file has no flow."""


class ParameterError(PipelineError):
    """A parameter of a task or its flow has a name or value that is not allowed."""


class RequirementsError(PipelineError):
    """A flow's `requirements.txt` cannot be installed on top of the repo's packages."""


class ImageError(PipelineError):
    """A flow's image cannot be built, or there is no Docker engine to build or run it."""


class TableError(PipelineError):
    """A row does not fit its table, a table its model, or the database does not answer."""


class FlowFailedError(PipelineError):
    """A flow ran and failed; the message has the step and its traceback."""

    def __init__(self, message: str, cause: str = "") -> None:
        super().__init__(message)
        self.cause = cause or message.strip().rpartition("\n")[2]
        """The reason in a line, for reports that do not show the whole message."""


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """`; did you mean NAME?` with the known name closest to this one; empty if none is close."""
    close = difflib.get_close_matches(name, [*known], n=1)
    return f"; did you mean {close[0]}?" if close else ""
