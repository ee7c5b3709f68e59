"""The rooms of the runtime import one way, and user code imports from the runtime's front door."""

from __future__ import annotations

import ast
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

from ..conftest import ROOT

TEMPLATES = ROOT / "templates"
RUNTIMES = [
    TEMPLATES / piece / "{{ package_name }}" / "runtime"
    for piece in ("{{ pipeline }}", "{{ tables }}")
]
PACKAGE = "sales_pipelines"

# From the top: a room imports from itself, from the rooms below it, and from the root files.
ROOMS = (
    "commands",
    "table",
    "task",
    "container",
    "flow",
    "packages",
    "process",
    "store",
    "root files",
)


class Module(NamedTuple):
    """A module of the runtime by its dotted name, and its parsed source."""

    name: str
    is_package: bool
    tree: ast.Module

    @property
    def room(self) -> str:
        return room_of(self.name)


def room_of(name: str) -> str:
    """The room of a module of the runtime; root files are those beside the rooms."""
    top = name.partition(".")[0]
    is_room = bool(top) and any((runtime / top).is_dir() for runtime in RUNTIMES)
    return top if is_room else "root files"


def modules() -> list[Module]:
    """All modules of the runtime; the runtime itself has the name ''."""
    read = []
    for runtime in RUNTIMES:
        for file in sorted({*runtime.rglob("*.py"), *runtime.rglob("*.py.jinja")}):
            parts = file.relative_to(runtime).with_name(file.name.partition(".")[0]).parts
            is_package = parts[-1] == "__init__"
            name = ".".join(parts[:-1] if is_package else parts)
            text = re.sub(r"\{%.*?%\}", "", file.read_text(encoding="utf-8"))
            read.append(Module(name, is_package, ast.parse(text)))
    return read


MODULES = modules()
NAMES = {module.name for module in MODULES}


def own_imports(module: Module) -> Iterator[tuple[str, int]]:
    """The modules of the runtime that a module imports, wherever in it, with the line."""
    for node in ast.walk(module.tree):
        if not isinstance(node, ast.ImportFrom) or not node.level:
            continue
        package = module.name.split(".") if module.name else []
        up = node.level - module.is_package
        base = package[: len(package) - up] + (node.module.split(".") if node.module else [])
        for alias in node.names:
            inner = ".".join([*base, alias.name])
            yield inner if inner in NAMES else ".".join(base), node.lineno


def other_imports(module: Module) -> Iterator[tuple[str, int]]:
    """The packages that a module imports from outside the runtime, with the line."""
    for node in ast.walk(module.tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield alias.name.partition(".")[0], node.lineno
        elif isinstance(node, ast.ImportFrom) and not node.level:
            yield str(node.module).partition(".")[0], node.lineno


def test_every_folder_of_the_runtime_is_a_room() -> None:
    assert {module.room for module in MODULES} == set(ROOMS)


def test_imports_between_rooms_go_one_way() -> None:
    # __init__.py imports the names that users need, and __main__.py starts the commands.
    imports = [
        (module, name, line)
        for module in MODULES
        if module.name not in ("", "__main__")
        for name, line in own_imports(module)
    ]
    assert len(imports) > 100, "the imports were found"
    upward = [
        f"{module.name}, line {line}: imports {name or 'the runtime itself'}"
        for module, name, line in imports
        if not name or ROOMS.index(room_of(name)) < ROOMS.index(module.room)
    ]
    assert upward == []


def test_a_step_of_a_flow_imports_no_room_with_the_runtime() -> None:
    """Neither Luigi nor Metaflow: each step of a flow imports the package again."""
    (front,) = (module for module in MODULES if not module.name)
    at_import = [node for node in front.tree.body if isinstance(node, ast.ImportFrom)]
    assert {node.module for node in at_import if node.level} == {"errors", "paths"}


def test_only_relative_imports_are_used_within_the_runtime() -> None:
    absolute = [
        f"{module.name}, line {line}"
        for module in MODULES
        for name, line in other_imports(module)
        if name in {PACKAGE, "runtime", *ROOMS}
    ]
    assert absolute == []


def test_the_room_process_uses_the_standard_library_alone() -> None:
    process = [module for module in MODULES if module.room == "process"]
    assert len(process) > 1
    outside = [
        f"{module.name}, line {line}: imports {name}"
        for module in process
        for name, line in other_imports(module)
        if name not in sys.stdlib_module_names
    ]
    from_other_rooms = [
        f"{module.name}, line {line}: imports {name}"
        for module in process
        for name, line in own_imports(module)
        if room_of(name) != "process"
    ]
    assert outside + from_other_rooms == []


def public_names() -> set[str]:
    """The names that runtime/__init__.py imports for its users."""
    (front,) = (module for module in MODULES if not module.name)
    return {
        str(alias.asname)
        for node in ast.walk(front.tree)
        if isinstance(node, ast.ImportFrom) and node.level
        for alias in node.names
    }


def user_sources() -> dict[str, str]:
    """The Python that users see or copy: the examples, and the code in the generated README."""
    sources = {}
    for file in sorted((TEMPLATES / "{{ examples }}").rglob("*.py*")):
        if file.suffix in (".py", ".jinja"):
            sources[str(file.relative_to(TEMPLATES))] = file.read_text(encoding="utf-8")
    for file in sorted(TEMPLATES.rglob("*.md*")):
        blocks = re.findall(r"^```python\n(.*?)^```", file.read_text(encoding="utf-8"), re.M | re.S)
        for number, block in enumerate(blocks, start=1):
            sources[f"{file.relative_to(TEMPLATES)}, block {number}"] = block
    return sources


SOURCES = user_sources()


def imports_past_the_front_door(text: str) -> list[str]:
    """What a user's Python imports of the runtime that runtime/__init__.py does not export."""
    # Statements of Jinja go; a value becomes a name.
    text = re.sub(r"\{%.*?%\}", "", text)
    text = text.replace("{{ package_name }}", PACKAGE)
    tree = ast.parse(re.sub(r"\{\{.*?\}\}", "rendered", text))
    runtime, names, wrong = f"{PACKAGE}.runtime", public_names(), []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            wrong += [alias.name for alias in node.names if alias.name.startswith(runtime)]
        elif isinstance(node, ast.ImportFrom):
            module = str(node.module)
            for alias in node.names:
                name = f"{module}.{alias.name}"
                is_public = module == runtime and alias.name in names
                if name.startswith(runtime) and not is_public:
                    wrong.append(name)
    return wrong


@pytest.mark.parametrize("name", SOURCES)
def test_user_code_imports_only_public_names_of_the_runtime(name: str) -> None:
    assert imports_past_the_front_door(SOURCES[name]) == []


def test_there_is_user_code_that_imports_the_runtime() -> None:
    importing = [name for name, text in SOURCES.items() if ".runtime import " in text]
    pieces = {"{{ examples }}", "{{ pipeline }}", "{{ tables }}"}
    assert {Path(name).parts[0] for name in importing} == pieces


@pytest.mark.parametrize(
    "line",
    [
        "from {{ package_name }}.runtime import MetaflowTask, paths",
        "from {{ package_name }}.runtime.settings import settings",
        "from {{ package_name }} import runtime",
        "import {{ package_name }}.runtime.paths",
        "def f():\n    from {{ package_name }}.runtime.task import target",
    ],
)
def test_an_import_past_the_front_door_is_seen(line: str) -> None:
    assert imports_past_the_front_door(line)
    assert not imports_past_the_front_door("from {{ package_name }}.runtime import MetaflowTask")
