"""Flows by their files, which are read and never imported."""

from __future__ import annotations

import ast
import itertools
from collections.abc import Iterable
from pathlib import Path, PurePosixPath
from typing import NamedTuple

from .. import paths
from ..errors import FlowNotFoundError, did_you_mean

_PARAMETERS = ("Parameter", "IncludeFile")
_DISPLAYS = {ast.List: "list", ast.Tuple: "tuple", ast.Dict: "dict", ast.Set: "set"}


class ParameterInFile(NamedTuple):
    """What a flow's file says of a parameter."""

    type: str | None
    """As written, `JSONType` or `int`, or that of a default such as `[1]`.

    None if it is neither, or if the parameter is `multiple` with a type."""
    required: bool


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
        known = flow_paths()
        raise FlowNotFoundError(
            f"flow_path {flow_path!r}: there is no {file}{did_you_mean(flow_path, known)}\n"
            f"hint: the flows are {', '.join(known) or 'none'}"
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
    """The flows that the file starts: the classes that it calls `if __name__ == "__main__"`.

    They are its own or imported ones. If it calls none there, its own that it calls outside
    functions; in the end, if it has such an `if`, those that it calls anywhere.

    Raises SyntaxError if the file does not parse, like all functions below.
    """
    nodes = _nodes(file)
    classes = {node.name for node in nodes if isinstance(node, ast.ClassDef) and node.bases}
    guards = [node for node in nodes if isinstance(node, ast.If) and "__main__" in ast.dump(node)]
    imports = [node.names for node in nodes if isinstance(node, ast.ImportFrom)]
    aliases = {each.asname or each.name for each in itertools.chain.from_iterable(imports)}
    # Of what is imported, only the spelling says whether it is a class.
    imported = {name for name in aliases if name[:1].isupper()}
    called = _called(itertools.chain.from_iterable(map(ast.walk, guards)))
    started = called & classes or called & imported
    started = started or _called(_outside_functions(nodes[0])) & classes
    return sorted(started or (_called(nodes) & classes if guards else ()))


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


def flow_parameters(file: Path) -> dict[str, ParameterInFile]:
    """The parameters in the file by name, without those that it imports."""
    parameters = {}
    for node in _nodes(file):
        if isinstance(node, ast.Call) and _last_name(node.func) in _PARAMETERS:
            given = dict(zip(("name", "default", "type"), node.args, strict=False))
            given |= {keyword.arg: keyword.value for keyword in node.keywords if keyword.arg}
            name, default, type_ = map(given.get, ("name", "default", "type"))
            if isinstance(name, ast.Constant) and isinstance(name.value, str):
                written = None if "multiple" in given or not type_ else _last_name(type_)
                of_default = None if type_ else _DISPLAYS.get(type(default))
                required = given.get("required")
                is_required = isinstance(required, ast.Constant) and required.value is True
                parameters[name.value] = ParameterInFile(
                    written or of_default, is_required and default is None
                )
    return parameters


def _called(nodes: Iterable[ast.AST]) -> set[str]:
    """The plain names that are called, apart from exceptions that are raised."""
    nodes = [*nodes]
    raised = [node.exc for node in nodes if isinstance(node, ast.Raise)]
    calls = [node for node in nodes if isinstance(node, ast.Call) and node not in raised]
    return {call.func.id for call in calls if isinstance(call.func, ast.Name)}


def _outside_functions(module: ast.AST) -> list[ast.AST]:
    """What runs when the module is imported, apart from the bodies of classes."""
    nodes = [module]
    for node in nodes:
        if not isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
            nodes += ast.iter_child_nodes(node)
    return nodes


def _last_name(node: ast.expr) -> str | None:
    """`step` of `step`, of `metaflow.step`, and of `step(end=True)`."""
    if isinstance(node, ast.Call):
        return _last_name(node.func)
    return getattr(node, "id", getattr(node, "attr", None))


def _split(call: ast.Call) -> str | None:
    """The step of `self.next(self.step, foreach=…)`."""
    splits = any(keyword.arg in ("foreach", "num_parallel") for keyword in call.keywords)
    if splits and call.args and isinstance(call.args[0], ast.Attribute):
        return call.args[0].attr
    return None


def _nodes(file: Path) -> list[ast.AST]:
    """All nodes of the file; the first is the module."""
    try:
        return list(ast.walk(ast.parse(file.read_bytes(), str(file))))
    except ValueError as error:  # a NUL, before Python 3.11.4
        raise SyntaxError(str(error)) from error


def _may_hold_flow(file: Path) -> bool:
    try:
        return bool(flow_names(file))
    except SyntaxError:
        return True
