"""Finds flows by their files, which are read and never imported."""

from __future__ import annotations

import ast
from pathlib import Path, PurePosixPath

from .. import paths
from ..errors import FlowNotFoundError


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


def check_flow(file: Path) -> None:
    """Raise FlowNotFoundError where the file cannot be a flow's: it does not parse or starts none.

    The file is read, not imported: whatever it does at import is for the flow's own process.
    """
    try:
        starts = bool(_flows(file)) or b"__main__" in file.read_bytes()
    except SyntaxError as error:
        raise FlowNotFoundError(f"{file}, line {error.lineno or 1}: {error.msg}") from error
    if not starts:
        raise FlowNotFoundError(
            f"{file} has no flow: a class based on FlowSpec, and at the end of the file "
            "`if __name__ == '__main__': YourFlow()`"
        )


def flow_names(file: Path) -> list[str]:
    """The names of the flows in the file, which must parse."""
    return _flows(file)


def flow_steps(file: Path) -> dict[str, str | None]:
    """The steps in the file by name, and for each the step that its foreach splits into, or None.

    Steps that a flow has from elsewhere are not among them.
    """
    steps: dict[str, str | None] = {}
    for node in _nodes(file):
        if isinstance(node, ast.FunctionDef) and any(map(_is_step, node.decorator_list)):
            calls = [call for call in ast.walk(node) if isinstance(call, ast.Call)]
            steps[node.name] = next(filter(None, map(_split, calls)), None)
    return steps


def flow_parameters(file: Path) -> list[str]:
    """The names of the parameters and configs in the file, not of those that it imports."""
    calls = [node for node in _nodes(file) if isinstance(node, ast.Call)]
    said = [
        [*call.args[:1], *(each.value for each in call.keywords if each.arg == "name")]
        for call in calls
        if getattr(call.func, "id", getattr(call.func, "attr", None))
        in ("Parameter", "IncludeFile", "Config")
    ]
    names = [name.value for names in said for name in names if isinstance(name, ast.Constant)]
    return sorted(name for name in names if isinstance(name, str))


def _is_step(decorator: ast.expr) -> bool:
    return getattr(decorator, "id", getattr(decorator, "attr", None)) == "step"


def _split(call: ast.Call) -> str | None:
    """The step of `self.next(self.step, foreach=…)`."""
    splits = any(keyword.arg in ("foreach", "num_parallel") for keyword in call.keywords)
    if splits and call.args and isinstance(call.args[0], ast.Attribute):
        return call.args[0].attr
    return None


def _nodes(file: Path) -> list[ast.AST]:
    """What the file is made of; SyntaxError where it does not parse."""
    try:
        return list(ast.walk(ast.parse(file.read_bytes(), str(file))))
    except ValueError as error:  # a NUL, in Python 3.10
        raise SyntaxError(str(error)) from error


def _may_hold_flow(file: Path) -> bool:
    try:
        return bool(_flows(file))
    except SyntaxError:
        return True


def _flows(file: Path) -> list[str]:
    """The classes that the file both bases on another and calls."""
    nodes = _nodes(file)
    classes = {node.name for node in nodes if isinstance(node, ast.ClassDef) and node.bases}
    called = [node.func for node in nodes if isinstance(node, ast.Call)]
    return [name.id for name in called if isinstance(name, ast.Name) and name.id in classes]
