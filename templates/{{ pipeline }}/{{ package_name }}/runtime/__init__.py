"""The seam between Luigi and Metaflow.

`MetaflowTask` is the Luigi task that runs a flow; `talk_to_luigi` is what a flow wears that answers
to it. Each is imported when it is first used: flows import this module in every step, and have no
use for Luigi there.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .errors import FlowFailed, FlowNotFound, InvalidSettings, PipelineError
    from .flow import talk_to_luigi
    from .target import FlowTarget
    from .task import MetaflowTask

__all__ = [
    "FlowFailed",
    "FlowNotFound",
    "FlowTarget",
    "InvalidSettings",
    "MetaflowTask",
    "PipelineError",
    "talk_to_luigi",
]


def __getattr__(name: str) -> Any:
    if name in ("FlowFailed", "FlowNotFound", "InvalidSettings", "PipelineError"):
        from . import errors as module
    elif name == "talk_to_luigi":
        from . import flow as module
    elif name == "FlowTarget":
        from . import target as module
    elif name == "MetaflowTask":
        from . import task as module
    else:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(module, name)
