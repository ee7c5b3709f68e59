"""Whatever a flow is handed arrives as it was meant; what is no parameter of it is refused."""

from __future__ import annotations

import datetime
import json
import math
import pickle
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from .conftest import HERE, SetUp, output

pytestmark = pytest.mark.end_to_end

# Each set of values is a run of a flow, which takes seconds.
fewer = settings(max_examples=settings().max_examples // 12)

ECHO = """
import os
import pickle
from pathlib import Path

from metaflow import FlowSpec, JSONType, Parameter, step


class EchoFlow(FlowSpec):
    {parameters}

    @step
    def start(self):
        self.next(self.end)

    @step
    def end(self):
        seen = dict((name, getattr(self, name)) for name in {names})
        Path(os.environ["SEEN"]).write_bytes(pickle.dumps(seen))


if __name__ == "__main__":
    EchoFlow()
"""

DRIVER = """
import os
import pickle
from pathlib import Path

from sales_pipelines.runtime import MetaflowTask, ParameterError

os.environ["SEEN"] = "seen"
try:
    values = pickle.loads(Path("values").read_bytes())
    task = MetaflowTask("echo.py", flow_kwargs=values, force=True)  # the same may come again
    task.run()
    told = pickle.loads(Path("seen").read_bytes()), task.output().marker.parameters
except ParameterError as error:
    told = str(error)
Path("told").write_bytes(pickle.dumps(told))
"""

CHARACTERS = st.characters(exclude_categories=["Cs"])  # halves of characters
TEXTS = (
    st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"))
    | st.sampled_from(["", "-", "--", "-h", "--help", "--tag=x", "=", "--a=b\n--c=d", "run", "@x"])
    | st.sampled_from(["null", "None", "true", '{"a": 1}', "[", "%s", "{}", "$HOME", "`id`", "\\"])
    | st.sampled_from([" x ", "\n", "\r\n", "a\tb", "'", '"', "\x1b[31m", "e\u0301", "\u202e"])
)
ZONES = [None, datetime.UTC, datetime.timezone(datetime.timedelta(hours=-3, minutes=-30))]
TIMES = st.dates() | st.times() | st.datetimes(timezones=st.sampled_from(ZONES))
LEAVES = (
    *(st.none(), st.booleans(), st.text(CHARACTERS), TIMES),
    *(st.integers(-(2**63), 2**64 - 1), st.floats(allow_nan=False, allow_infinity=False)),
)


def collections(inner: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    lists = st.lists(inner, max_size=5)
    return lists | lists.map(tuple) | st.dictionaries(st.text(CHARACTERS), inner, max_size=5)


JSON = collections(st.recursive(st.one_of(LEAVES), collections, max_leaves=15))
# How many parameters of each kind the flow has, what it says of them, and their values.
KINDS: dict[str, tuple[int, str, st.SearchStrategy[Any]]] = {
    "text": (12, "", TEXTS),
    "default": (4, "default='x'", TEXTS),
    "long": (1, "", TEXTS.map(lambda text: (text[:20] + "x") * 1400)),
    "time": (4, "", TIMES),
    "whole": (4, "type=int", st.integers()),
    "share": (4, "type=float", st.floats()),
    "yes": (2, "type=bool, default=True", st.booleans()),
    "json": (5, "type=JSONType", JSON),
    "bare": (2, "type=JSONType", st.none() | st.booleans() | st.integers() | st.floats()),
    "json-default": (2, "type=JSONType, default='[1]'", JSON),
    "nothing": (1, "", st.none() | TEXTS),
    "no_number": (1, "type=int", st.none() | st.integers()),
}
PARAMETERS = {f"{kind}{at}": kind for kind, (number, _, _) in KINDS.items() for at in range(number)}
VALUES = st.fixed_dictionaries({name: KINDS[kind][2] for name, kind in PARAMETERS.items()})
NAMES = (
    st.from_regex(r"\A[A-Za-z_][A-Za-z0-9_-]{0,8}\Z")
    | st.text(CHARACTERS)
    | st.sampled_from(["help", "Text0", "text", "json_default0", "text0 ", "max_workers", "tag"])
)


class Echo:
    """A repo whose flow says what it was handed."""

    def __init__(self, folder: Path, home: Path) -> None:
        self.folder = folder
        self.home = home
        lines = [
            f"{name.replace('-', '_')} = Parameter('{name}', {KINDS[kind][1]})"
            for name, kind in PARAMETERS.items()
        ]
        names = [name.replace("-", "_") for name in PARAMETERS]
        text = ECHO.format(parameters="\n    ".join(lines), names=names)
        (folder / "sales_pipelines" / "flows" / "echo.py").write_text(text)

    def told(self, values: dict[str, Any]) -> Any:
        """What the flow has seen and what the marker says; or, as text, why there was no run."""
        (self.folder / "values").write_bytes(pickle.dumps(values))
        output([self.folder / ".venv/bin/python", "-c", DRIVER], self.folder, self.home)
        return pickle.loads((self.folder / "told").read_bytes())

    def runs(self) -> int:
        return len(list(self.folder.glob(".metaflow/EchoFlow/*/_parameters")))


@pytest.fixture(scope="module")
def echo(set_up: SetUp) -> Echo:
    answers = {"python_version": HERE, "with_examples": False, "ci": "none"}
    repo = set_up("sales-pipelines", **answers)
    return Echo(repo.folder, repo.home)


def meant(value: Any) -> Any:
    """The value as JSON has it."""
    if isinstance(value, (datetime.date, datetime.time)):
        return value.isoformat()
    if isinstance(value, (list, tuple)):
        return [meant(each) for each in value]
    if isinstance(value, dict):
        return {key: meant(each) for key, each in value.items()}
    return value


def recorded(value: Any) -> Any:
    """The value as the marker has it: text for a number that JSON, or a reader of it, has not."""
    odd = isinstance(value, int) and not -(2**63) <= value < 2**64
    if odd or (isinstance(value, float) and not math.isfinite(value)):
        return json.dumps(value)
    return meant(value)


@fewer
@given(values=VALUES)
def test_what_is_handed_over_arrives_and_is_recorded(echo: Echo, values: dict[str, Any]) -> None:
    seen, marker = echo.told(values)
    # By what is printed: 1 is not True there, 0.0 not -0.0, and nan is nan.
    for name, value in values.items():
        assert repr(seen[name.replace("-", "_")]) == repr(meant(value)), name
        assert repr(marker[name]) == repr(recorded(value)), name


@fewer
@given(values=st.dictionaries(NAMES.filter(lambda name: name not in PARAMETERS), TEXTS, min_size=1))
def test_names_that_the_flow_has_not_are_refused(echo: Echo, values: dict[str, Any]) -> None:
    before = echo.runs()
    told = echo.told(values)
    assert isinstance(told, str)
    assert any(repr(name) in told for name in values)
    assert echo.runs() == before


def test_a_name_that_is_nearly_one_of_the_flow_s_is_told_which(echo: Echo) -> None:
    told = echo.told({"text_0": "x"})
    assert told.startswith("echo.py has no parameter 'text_0'; did you mean text0?\necho.py has: ")
