"""`nox -s python`: Python, or a notebook, with the packages of a flow and the repo's Metaflow."""

from __future__ import annotations

import contextlib
import os
import sys
from pathlib import Path

from .. import paths
from ..console import as_called
from ..errors import FlowNotFoundError, did_you_mean
from ..flow.flow_file import flow_file, flow_paths
from ..metaflow_config import local_root, metaflow_environment
from ..packages.overlay import environment_for
from .image import flow_path

USAGE = """\
Usage: nox -s python -- [FLOW] [PYTHON'S ARGUMENTS]

  FLOW   a flow below flows/, e.g. sales/clean/clean.py, whose own packages can be imported

Metaflow's client finds the repo's runs, whichever folder you are in and whatever you import first.

  nox -s python                                    an interactive Python
  nox -s python -- sales/clean.py -m jupyterlab    notebooks; first `uv add --dev jupyterlab`
  nox -s python -- script.py                       a script
  nox -s python -- sales/clean.py script.py        a script, with the packages of that flow
"""


def main(arguments: list[str]) -> int:
    """Become the Python that the arguments ask for; returns only to print the usage."""
    if arguments[:1] in (["--help"], ["-h"]):
        print(as_called(USAGE), end="")
        return 0
    environment = metaflow_environment()
    # Metaflow's client looks for local runs above the current folder, unless it is set.
    environment["METAFLOW_DATASTORE_SYSROOT_LOCAL"] = str(local_root().parent)
    local_root().mkdir(parents=True, exist_ok=True)
    flow = flow_path(arguments[0]) if arguments else ""
    is_flow = not Path(flow).is_absolute() and (paths.FLOWS / flow).is_file()
    if not (is_flow or flow.startswith("-") or Path(flow).exists()):
        raise FlowNotFoundError(
            f"there is no {flow!r}, neither a flow below flows/ nor a script in this folder"
            f"{did_you_mean(flow, flow_paths())}"
        )
    if is_flow:
        with contextlib.redirect_stdout(sys.stderr):  # only Python's output is standard output
            environment |= environment_for(flow_file(flow))
        arguments = arguments[1:]
    os.execve(sys.executable, [sys.executable, *arguments], environment)
