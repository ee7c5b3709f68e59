"""All that flows, tasks and tests import of the runtime; the modules below are the template's.

The rooms, each importing only from those behind it and from the files beside this one:

    commands    what nox starts: run, image, status, clean
    task        Luigi's half: MetaflowTask, its marker, its attempts
    container   images, and flows that run in them
    flow        Metaflow's half: what a flow is, gets, prints and returns
    packages    a flow's own requirements.txt
    process     runs a command and leaves nothing of it behind
    store       small files in a folder or on S3, and Metaflow's own files

A name is imported at its first use: each step of a flow imports this module, and needs no Luigi.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from .errors import FlowFailedError as FlowFailedError
from .errors import FlowNotFoundError as FlowNotFoundError
from .errors import ImageError as ImageError
from .errors import ParameterError as ParameterError
from .errors import PipelineError as PipelineError
from .errors import RequirementsError as RequirementsError
from .errors import SettingsError as SettingsError
from .paths import repo_root as repo_root

if TYPE_CHECKING:
    from .flow.talk_to_luigi import talk_to_luigi as talk_to_luigi
    from .task.metaflow_task import MetaflowTask as MetaflowTask
    from .task.target import FlowTarget as FlowTarget
    from .testing import temporary_root as temporary_root

_MODULES = {
    "FlowTarget": "task.target",
    "MetaflowTask": "task.metaflow_task",
    "talk_to_luigi": "flow.talk_to_luigi",
    "temporary_root": "testing",
}


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f".{_MODULES[name]}", __name__), name)
