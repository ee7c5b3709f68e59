"""Errors that a user can cause, shown without a traceback; each message says what to do."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class PipelineError(Exception):
    """Base of the errors that are shown as a message, without a traceback."""


class SettingsError(PipelineError):
    """A settings file or variable has an unknown key or a wrong value."""


class FlowNotFoundError(PipelineError):
    """A flow's path leads outside `flows/` or to no file, or the file holds no flow."""


class ParameterError(PipelineError):
    """A task or its flow gets a parameter whose name or value is not allowed."""


class RequirementsError(PipelineError):
    """A flow's `requirements.txt` cannot be installed beside the repo's environment."""


class ImageError(PipelineError):
    """A flow's image cannot be built, or no Docker engine can build or run it."""


class FlowFailedError(PipelineError):
    """A flow ran and did not succeed; the message has the step and its traceback."""


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """`; did you mean NAME?` with the known name that is most like this one; empty if none is."""
    close = difflib.get_close_matches(name, [*known], n=1)
    return f"; did you mean {close[0]}?" if close else ""
