"""Finds flows by their files, which are read and never imported."""

from __future__ import annotations

import ast
from pathlib import Path, PurePosixPath

from . import paths
from .errors import FlowNotFoundError


def flow_file(flow_path: str) -> Path:
    """The file of a flow, from its path below `flows/`.

    Raises FlowNotFoundError where the path leads elsewhere or to no file.
    """
    path = PurePosixPath(flow_path)
    if path.is_absolute() or ".." in path.parts or path.as_posix() != flow_path:
        raise FlowNotFoundError(
            f"flow_path {flow_path!r} must be a plain path below {paths.FLOWS}, "
            "e.g. 'examples/co2/clean.py'"
        )
    file = paths.FLOWS / path
    if not file.is_file():
        known = ", ".join(file.relative_to(paths.FLOWS).as_posix() for file in flow_files())
        raise FlowNotFoundError(
            f"flow_path {flow_path!r}: there is no {file}; flows are: {known or 'none yet'}"
        )
    return file


def flow_files() -> list[Path]:
    """The files below `flows/` that hold a flow, sorted; one that does not parse may hold one."""
    return [file for file in sorted(paths.FLOWS.rglob("*.py")) if _may_hold_flow(file)]


def flow_name(file: Path) -> str:
    """Name of the flow in the file: the last class that it both defines and calls.

    The file is read, not imported: whatever it does at import is for the flow's own process.
    Raises FlowNotFoundError where there is none, or the file does not parse.
    """
    try:
        flows = _flows(file)
    except SyntaxError as error:
        raise FlowNotFoundError(f"{file}, line {error.lineno}: {error.msg}") from error
    if not flows:
        raise FlowNotFoundError(
            f"{file} has no flow: a class based on FlowSpec, and at the end of the file "
            "`if __name__ == '__main__': YourFlow()`"
        )
    return flows[-1]


def _may_hold_flow(file: Path) -> bool:
    try:
        return bool(_flows(file))
    except SyntaxError:
        return True


def _flows(file: Path) -> list[str]:
    nodes = list(ast.walk(ast.parse(file.read_bytes(), str(file))))
    classes = {node.name for node in nodes if isinstance(node, ast.ClassDef) and node.bases}
    called = [
        (node.lineno, node.func.id)
        for node in nodes
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name)
    ]
    return [name for _, name in sorted(called) if name in classes]
