"""`nox -s image`: builds the image of a flow and prints its name."""

from __future__ import annotations

import argparse
import contextlib
import sys
from functools import partial
from pathlib import Path

from .. import paths
from ..console import as_called
from ..container.image import image_for, push


def main(arguments: list[str]) -> int:
    """Build the image, and push it if asked to; `--help` explains the exit codes."""
    parser = argparse.ArgumentParser(
        prog=as_called("nox -s image --"),
        description="Builds the image in which a flow runs as a container, unless there is one of "
        "what is in it now, and prints its name. docs/containers.md explains what goes in.",
        epilog="Exit codes: 0; 2 if it cannot be built or pushed; 130 if stopped.",
    )
    parser.add_argument("flow", help="the flow's file below flows/, e.g. sales/clean.py")
    parser.add_argument("--rebuild-flow", action="store_true", help="build it without the cache")
    parser.add_argument("--rebuild-base", action="store_true", help="build its base anew, too")
    parser.add_argument(
        "--push", metavar="REGISTRY", help="push it there, e.g. registry.example.org/team"
    )
    options = parser.parse_args(arguments)
    with contextlib.redirect_stdout(sys.stderr):  # only the name goes to standard output
        name = image_for(
            flow_path(options.flow),
            rebuild_flow=options.rebuild_flow,
            rebuild_base=options.rebuild_base,
        )
    if options.push is not None:
        name = push(name, options.push, partial(print, file=sys.stderr, flush=True))
    print(name)
    return 0


def flow_path(name: str) -> str:
    """The flow's path below flows/, from a name below flows/ or in the current folder."""
    for folder in (paths.FLOWS, Path.cwd()):
        file = (folder / name).resolve()
        if file.is_file() and file.is_relative_to(paths.FLOWS):
            return file.relative_to(paths.FLOWS).as_posix()
    return name
