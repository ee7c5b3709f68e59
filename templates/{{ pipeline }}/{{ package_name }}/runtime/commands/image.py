"""`nox -s image`: builds the image of a flow, and says its name."""

from __future__ import annotations

import argparse
import contextlib
import sys
from pathlib import Path

from .. import paths
from ..container.image import image_for, push


def main(arguments: list[str]) -> int:
    """Build the image, and push it where that is asked for; the exit code is as `--help` says."""
    parser = argparse.ArgumentParser(
        prog="nox -s image --",
        description="Builds the image in which a flow runs as a container, where there is none yet "
        "of what is in it now, and says its name. docs/containers.md says what goes in.",
        epilog="Exit codes: 0; 2 where it cannot be built or pushed; 130 when stopped.",
    )
    parser.add_argument("flow", help="the flow's file below flows/, e.g. sales/clean.py")
    parser.add_argument("--rebuild-flow", action="store_true", help="build it anew, without cache")
    parser.add_argument("--rebuild-base", action="store_true", help="and what it is built on, too")
    parser.add_argument(
        "--push", metavar="REGISTRY", help="push it there, e.g. registry.example.org/team"
    )
    options = parser.parse_args(arguments)
    with contextlib.redirect_stdout(sys.stderr):  # standard output gets the name alone
        name = image_for(
            flow_path(options.flow),
            rebuild_flow=options.rebuild_flow,
            rebuild_base=options.rebuild_base,
        )
    print(name if options.push is None else push(name, options.push, to_stderr))
    return 0


def to_stderr(line: str) -> None:
    """Show how far it is."""
    print(line, file=sys.stderr, flush=True)


def flow_path(name: str) -> str:
    """The flow's path below flows/, where it is named from the folder that one is in, too."""
    for folder in (paths.FLOWS, Path.cwd()):
        file = (folder / name).resolve()
        if file.is_file() and file.is_relative_to(paths.FLOWS):
            return file.relative_to(paths.FLOWS).as_posix()
    return name
