"""Any value that a flow is given arrives as it was meant, and any unknown name is refused."""

from __future__ import annotations

import datetime
import json
import math
import pickle
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ..conftest import HERE, Repo, SetUp, output

# For each set of values a flow runs, which takes seconds.
fewer = settings(max_examples=settings().max_examples // 8)

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
        arrived = dict((name, getattr(self, name)) for name in {names})
        Path(os.environ["ARRIVED"]).write_bytes(pickle.dumps(arrived))


if __name__ == "__main__":
    EchoFlow()
"""

DRIVER = """
import os
import pickle
from pathlib import Path

from sales_pipelines.runtime import MetaflowTask, ParameterError

os.environ["ARRIVED"] = "arrived"
try:
    values = pickle.loads(Path("values").read_bytes())
    task = MetaflowTask("echo.py", flow_kwargs=values, force=True)  # the same may come again
    task.run()
    outcome = pickle.loads(Path("arrived").read_bytes()), task.output().marker.parameters
except ParameterError as error:
    outcome = str(error)
Path("outcome").write_bytes(pickle.dumps(outcome))
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
# For each kind: how many parameters the flow has, how it declares them, and their values.
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
    """A repo with a flow that writes down the parameters that arrive."""

    def __init__(self, repo: Repo) -> None:
        self._repo = repo
        lines = [
            f"{name.replace('-', '_')} = Parameter('{name}', {KINDS[kind][1]})"
            for name, kind in PARAMETERS.items()
        ]
        names = [name.replace("-", "_") for name in PARAMETERS]
        text = ECHO.format(parameters="\n    ".join(lines), names=names)
        (repo.folder / "sales_pipelines" / "flows" / "echo.py").write_text(text)

    def run(self, values: dict[str, Any]) -> Any:
        """What arrives in the flow and what the marker records; or the message of the refusal."""
        folder = self._repo.folder
        (folder / "values").write_bytes(pickle.dumps(values))
        output([folder / ".venv/bin/python", "-c", DRIVER], folder, self._repo.home)
        return pickle.loads((folder / "outcome").read_bytes())

    def runs(self) -> int:
        return len(list(self._repo.folder.glob(".metaflow/EchoFlow/*/_parameters")))


@pytest.fixture(scope="module")
def echo(set_up: SetUp) -> Echo:
    answers = {"python_version": HERE, "with_examples": False, "ci": "none"}
    return Echo(set_up("sales-pipelines", **answers))


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
    """The value as the marker records it: numbers that not every JSON can hold become text."""
    is_large = isinstance(value, int) and not -(2**63) <= value < 2**64
    if is_large or (isinstance(value, float) and not math.isfinite(value)):
        return json.dumps(value)
    return meant(value)


@pytest.mark.thorough
@fewer
@given(values=VALUES)
def test_any_value_arrives_and_is_recorded(echo: Echo, values: dict[str, Any]) -> None:
    arrived, marker = echo.run(values)
    # Compared as text: there 1 is not True, 0.0 is not -0.0, and nan is nan.
    for name, value in values.items():
        assert repr(arrived[name.replace("-", "_")]) == repr(meant(value)), name
        assert repr(marker[name]) == repr(recorded(value)), name


@pytest.mark.thorough
@fewer
@given(values=st.dictionaries(NAMES.filter(lambda name: name not in PARAMETERS), TEXTS, min_size=1))
def test_names_that_the_flow_does_not_have_are_refused(echo: Echo, values: dict[str, Any]) -> None:
    before = echo.runs()
    message = echo.run(values)
    assert isinstance(message, str)
    assert any(repr(name) in message for name in values)
    assert echo.runs() == before


def test_the_message_for_a_misspelt_name_has_the_right_one(echo: Echo) -> None:
    lines = echo.run({"text_0": "x"}).splitlines()
    assert lines[0] == "echo.py has no parameter 'text_0'; did you mean text0?"
    assert lines[1].startswith("hint: its parameters are ")
