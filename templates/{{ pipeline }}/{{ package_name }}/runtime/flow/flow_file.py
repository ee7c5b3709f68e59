"""Flows by their files, which are read and never imported."""

from __future__ import annotations

import ast
from pathlib import Path, PurePosixPath

from .. import paths
from ..errors import FlowNotFoundError

_PARAMETERS = ("Parameter", "IncludeFile", "Config")


def flow_file(flow_path: str) -> Path:
    """The file of a flow, from its path below `flows/`.

    Raises FlowNotFoundError if the path leads elsewhere or to no file.
    """
    path = PurePosixPath(flow_path)
    if path.is_absolute() or ".." in path.parts or path.as_posix() != flow_path:
        raise FlowNotFoundError(
            f"flow_path {flow_path!r} must be a plain path below {paths.FLOWS}, "
            "e.g. 'examples/co2/clean.py'"
        )
    file = paths.FLOWS / path
    if not file.is_file():
        known = ", ".join(flow_paths()) or "none"
        raise FlowNotFoundError(
            f"flow_path {flow_path!r}: there is no {file}\nhint: the flows are {known}"
        )
    return file


def flow_paths() -> list[str]:
    """The paths below `flows/` of the files that hold a flow or do not parse, sorted."""
    files = filter(_may_hold_flow, sorted(paths.FLOWS.rglob("*.py")))
    return [file.relative_to(paths.FLOWS).as_posix() for file in files]


def check_flow(file: Path) -> None:
    """Raise FlowNotFoundError if the file does not parse, or starts no flow."""
    try:
        has_flow = bool(flow_names(file)) or b"__main__" in file.read_bytes()
    except SyntaxError as error:
        raise FlowNotFoundError(f"{file}, line {error.lineno or 1}: {error.msg}") from error
    if not has_flow:
        raise FlowNotFoundError(
            f"{file} has no flow\nhint: it takes a class based on FlowSpec, and at the end of the "
            "file `if __name__ == '__main__': YourFlow()`"
        )


def flow_names(file: Path) -> list[str]:
    """The flows in the file: the classes that it both bases on another and calls.

    Raises SyntaxError if the file does not parse, like all functions below.
    """
    nodes = _nodes(file)
    classes = {node.name for node in nodes if isinstance(node, ast.ClassDef) and node.bases}
    called = [node.func for node in nodes if isinstance(node, ast.Call)]
    return [name.id for name in called if isinstance(name, ast.Name) and name.id in classes]


def flow_steps(file: Path) -> dict[str, str | None]:
    """The steps in the file by name, and for each the step that its foreach splits into, or None.

    Steps that the flow inherits from another file are missing.
    """
    steps: dict[str, str | None] = {}
    for node in _nodes(file):
        if isinstance(node, ast.FunctionDef) and "step" in map(_last_name, node.decorator_list):
            calls = [call for call in ast.walk(node) if isinstance(call, ast.Call)]
            steps[node.name] = next(filter(None, map(_split, calls)), None)
    return steps


def flow_parameters(file: Path) -> list[str]:
    """The names of the parameters and configs in the file, without those that it imports."""
    names = []
    for node in _nodes(file):
        if isinstance(node, ast.Call) and _last_name(node.func) in _PARAMETERS:
            keywords = [keyword.value for keyword in node.keywords if keyword.arg == "name"]
            names += [*node.args[:1], *keywords]
    values = [name.value for name in names if isinstance(name, ast.Constant)]
    return sorted(value for value in values if isinstance(value, str))


def _last_name(node: ast.expr) -> str | None:
    """`step` of both `step` and `metaflow.step`."""
    return getattr(node, "id", getattr(node, "attr", None))


def _split(call: ast.Call) -> str | None:
    """The step of `self.next(self.step, foreach=…)`."""
    splits = any(keyword.arg in ("foreach", "num_parallel") for keyword in call.keywords)
    if splits and call.args and isinstance(call.args[0], ast.Attribute):
        return call.args[0].attr
    return None


def _nodes(file: Path) -> list[ast.AST]:
    try:
        return list(ast.walk(ast.parse(file.read_bytes(), str(file))))
    except ValueError as error:  # a NUL, before Python 3.11.4
        raise SyntaxError(str(error)) from error


def _may_hold_flow(file: Path) -> bool:
    try:
        return bool(flow_names(file))
    except SyntaxError:
        return True
