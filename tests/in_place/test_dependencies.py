"""The runtime is tested here with the packages that a generated repo gives it."""

from __future__ import annotations

import re
import tomllib

from ..conftest import ROOT
from .conftest import TEMPLATE


def test_the_group_runtime_has_the_dependencies_of_a_generated_repo() -> None:
    groups = tomllib.loads((ROOT / "pyproject.toml").read_text())["dependency-groups"]
    text = (TEMPLATE / "pyproject.toml.jinja").read_text()
    table = re.search(r"^dependencies = \[\n(.*?)^\]", text, re.MULTILINE | re.DOTALL)
    assert table
    assert groups["runtime"] == re.findall(r'^ +"(.+?)"', table[1], re.MULTILINE)
    assert {"include-group": "runtime"} in groups["test"]
