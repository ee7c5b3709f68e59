"""The seam between Luigi and Metaflow.

`MetaflowTask` is the Luigi task that runs a flow; `talk_to_luigi` is what a flow wears that answers
to it. Each is imported when it is first used: flows import this module in every step, and have no
use for Luigi there.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .errors import (
        FlowFailedError,
        FlowNotFoundError,
        ImageError,
        ParameterError,
        PipelineError,
        RequirementsError,
        SettingsError,
    )
    from .flow import talk_to_luigi
    from .paths import repo_root
    from .target import FlowTarget
    from .task import MetaflowTask
    from .testing import temporary_root

__all__ = [
    "FlowFailedError",
    "FlowNotFoundError",
    "FlowTarget",
    "ImageError",
    "MetaflowTask",
    "ParameterError",
    "PipelineError",
    "RequirementsError",
    "SettingsError",
    "repo_root",
    "talk_to_luigi",
    "temporary_root",
]

_HOMES = {
    "FlowFailedError": "errors",
    "FlowNotFoundError": "errors",
    "FlowTarget": "target",
    "ImageError": "errors",
    "MetaflowTask": "task",
    "ParameterError": "errors",
    "PipelineError": "errors",
    "RequirementsError": "errors",
    "SettingsError": "errors",
    "repo_root": "paths",
    "talk_to_luigi": "flow",
    "temporary_root": "testing",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f".{_HOMES[name]}", __name__), name)
