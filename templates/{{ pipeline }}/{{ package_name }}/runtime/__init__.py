"""Everything that flows, tasks and tests import from the runtime; the rest is internal.

The rooms. Each imports only from the rooms below it and from the files beside this one:

    commands    what nox starts: run, image, python, status, clean
    task        Luigi's half: MetaflowTask, its marker, its attempts
    container   images, and flows that run in them
    flow        Metaflow's half: what a flow is, gets, prints and returns
    packages    a flow's own requirements.txt
    process     runs a command and leaves no process of it behind
    store       small files in a folder or on S3, and Metaflow's own files

Names that need Luigi or msgspec are imported at their first use, because each step of a flow
imports this module.
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
    from .flow.secret import secret as secret
    from .flow.talk_to_luigi import talk_to_luigi as talk_to_luigi
    from .task.metaflow_task import MetaflowTask as MetaflowTask
    from .task.target import FlowTarget as FlowTarget
    from .testing import temporary_root as temporary_root

_MODULES = {
    "FlowTarget": "task.target",
    "MetaflowTask": "task.metaflow_task",
    "secret": "flow.secret",  # pragma: allowlist secret
    "talk_to_luigi": "flow.talk_to_luigi",
    "temporary_root": "testing",
}


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f".{_MODULES[name]}", __name__), name)
