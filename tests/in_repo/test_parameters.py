"""The parameters that a task gives its flow: they arrive as they were meant, or are refused."""

from __future__ import annotations

import datetime
import enum
import math
import subprocess
import sys
from importlib import metadata
from pathlib import Path
from typing import Any

import pytest
from metaflow.cli_components.run_cmds import run as metaflow_run
from sales_pipelines.runtime import FlowFailedError, MetaflowTask, ParameterError, paths, process
from sales_pipelines.runtime.flow.declared_parameters import FlowParameter, check_none
from sales_pipelines.runtime.flow.parameter_values import DEEPEST, RUN_OPTIONS

from .conftest import Pipeline

TODAY = datetime.date(2026, 11, 20)
NOON = datetime.datetime(2026, 11, 20, 12, 0, 30, 250, datetime.UTC)


class Sort(str, enum.Enum):  # noqa: UP042, as users write it
    WEEKLY = "weekly csv"


class Dated(MetaflowTask):
    """It gives the flow what it is made with, and what `parameters()` adds."""

    def parameters(self) -> dict[str, Any]:
        return {**self.flow_kwargs, "added": [TODAY]}


def add_flow(pipeline: Pipeline, **declarations: str) -> str:
    """A flow with these parameters, each with what follows its name, that returns their values.

    Of a number that JSON does not have it returns what Python prints.
    """
    lines = [f"{name} = Parameter('{name}'{rest})" for name, rest in declarations.items()]
    path = pipeline.add_flow(
        parameters="\n    ".join(lines),
        end=f"""
        self.luigi_result = dict((name, getattr(self, name)) for name in {list(declarations)})
        for name, value in self.luigi_result.items():
            if repr(value) in ("nan", "inf", "-inf"):
                self.luigi_result[name] = repr(value)
        """,
        talks=True,
    )
    file = pipeline.flows / path
    file.write_text(file.read_text().replace("import FlowSpec,", "import FlowSpec, JSONType,"))
    return path


def refused(pipeline: Pipeline, path: str, values: Any) -> str:
    """Why the flow does not start; fails if anything of a run is left."""
    task = MetaflowTask(path, flow_kwargs=values)
    with pytest.raises(ParameterError) as error:
        task.run()
    assert not task.complete()
    assert not (pipeline.root / ".metaflow" / "SmallFlow").exists()
    return str(error.value)


def test_parameters_arrive_as_they_were_meant_and_are_recorded(pipeline: Pipeline) -> None:
    json, number = ", type=JSONType", ", type=float"
    path = add_flow(
        pipeline,
        **{"count": ", type=int", "share": number, "yes": ", type=bool", "größe": ", default=1"},
        **{"no": ", default=True", "text": "", "empty": ", default='x'", "dashes": "", "json": ""},
        **{"mapping": json, "listing": json, "nothing": json, "missing": ", type=int"},
        **{"day": "", "noon": "", "time": "", "days": json, "sort": "", "large": ", type=int"},
        **{"no_number": number, "endless": number, "added": json},
    )
    same = {
        "count": -7,
        "share": 0.1 + 0.2,
        "yes": True,
        "no": False,
        "größe": 2**64 - 1,
        "text": "--a 'b' \"c\" $HOME; d=\\\r\n\té\U0001f30a\u202e ",
        "empty": "",
        "dashes": "--tag=x",
        "json": '{"a": 1}',
        "mapping": {"a": [1, None, {"b": "c\0"}], "--": 1e-300},
        "listing": [],
        "nothing": None,
        "missing": None,
    }
    written = {
        "day": TODAY.isoformat(),
        "noon": NOON.isoformat(),
        "time": NOON.time().isoformat(),
        "days": [[TODAY.isoformat()], {"a": NOON.isoformat()}],
        "sort": "weekly csv",
        "added": [TODAY.isoformat()],
    }
    values = {
        **{"day": TODAY, "noon": NOON, "time": NOON.time()},
        **{"days": ((TODAY,), {"a": NOON}), "sort": Sort.WEEKLY},
        **{"large": -(10**30), "no_number": math.nan, "endless": -math.inf},
    }
    task = Dated(flow_path=path, flow_kwargs={**same, **values})
    task.run()
    marker = task.output().marker
    as_text = {"large": str(-(10**30)), "no_number": "NaN", "endless": "-Infinity"}
    assert marker.parameters == {**same, **written, **as_text}
    arrived = {"large": -(10**30), "no_number": "nan", "endless": "-inf"}
    assert marker.result == {**same, **written, **arrived}


@pytest.mark.parametrize(
    "returned", [None, {"b": object()}, {"tag": 1}, pytest.param({"b": [10**5000]}, id="digits")]
)
def test_what_parameters_may_not_return_is_refused(pipeline: Pipeline, returned: Any) -> None:
    class Wrong(MetaflowTask):
        def parameters(self) -> Any:
            return returned

    with pytest.raises(ParameterError, match=r"^parameters\(\)"):
        Wrong(flow_path=pipeline.add_flow()).run()


def test_1_and_true_are_not_one_task(pipeline: Pipeline) -> None:
    path = pipeline.add_flow()
    for value in (1, True, 1.0):
        kwargs = {"n": value}
        assert repr(MetaflowTask(path, flow_kwargs=kwargs).flow_kwargs) == repr(kwargs)
    assert MetaflowTask(path, flow_kwargs={"n": [TODAY]}) is MetaflowTask(
        path, flow_kwargs={"n": [TODAY.isoformat()]}
    )


def test_their_order_makes_no_other_task(pipeline: Pipeline) -> None:
    path = pipeline.add_flow()
    task = MetaflowTask(path, flow_kwargs={"a": 1, "b": {"d": 1, "c": 2}})
    assert MetaflowTask(path, flow_kwargs={"b": {"d": 1, "c": 2}, "a": 1}) is task
    # In a value the order may mean something.
    assert MetaflowTask(path, flow_kwargs={"a": 1, "b": {"c": 2, "d": 1}}) is not task


@pytest.mark.parametrize("name", [*RUN_OPTIONS, "max_workers", "run_id_file"])
def test_a_name_that_is_metaflows_is_refused(pipeline: Pipeline, name: str) -> None:
    with pytest.raises(ParameterError, match=rf"^flow_kwargs: '{name}' is an option of Metaflow's"):
        MetaflowTask(pipeline.add_flow(), flow_kwargs={name: "x"})


@pytest.mark.parametrize("name", ["", "-x", "--x", "a b", "a=b", "2x", "a\0", "a.b", 1, None])
def test_a_name_that_no_parameter_can_have_is_refused(pipeline: Pipeline, name: Any) -> None:
    with pytest.raises(ParameterError, match=r"^flow_kwargs: .* is not a parameter name"):
        MetaflowTask(pipeline.add_flow(), flow_kwargs={name: "x"})


def nested(depth: int) -> Any:
    return [nested(depth - 1)] if depth else 1


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        (object(), r"n is a object; a parameter can be text"),
        ([{"a": b"b"}], r"n\[0\]\['a'\] is a bytes"),
        ({1, 2}, r"n is a set"),
        ([math.nan], r"n\[0\] is nan, which JSON cannot hold"),
        ({"a": 2**64}, r"n\['a'\] is 18446744073709551616"),
        ({"a": {1: 2}}, r"n\['a'\] has the key 1; in JSON a key is text: '1'"),
        ("a\ud800", r"n has half a character, '\\ud800' at 1"),
        ({"\udc80": 1}, r"n has half a character"),
        (nested(DEEPEST + 1), rf"n\[0\].* nested more than {DEEPEST} deep"),
    ],
)
def test_a_value_that_would_not_arrive_is_refused(
    pipeline: Pipeline, value: Any, reason: str
) -> None:
    with pytest.raises(ParameterError, match=rf"^flow_kwargs: {reason}"):
        MetaflowTask(pipeline.add_flow(), flow_kwargs={"n": value})


def test_text_that_no_command_can_have_is_refused(pipeline: Pipeline) -> None:
    path = add_flow(pipeline, n="")
    assert "n has a NUL" in refused(pipeline, path, {"n": "a\0b"})
    message = refused(pipeline, path, {"n": "é" * 2_000_000})
    assert "small.py: n is 4,000,000 bytes long" in message
    assert "write the value to a file" in message


def test_the_message_for_unknown_and_missing_ones_lists_those_of_the_flow(
    pipeline: Pipeline,
) -> None:
    path = add_flow(
        pipeline,
        **{"weekly_csv": ", required=True", "count": ", type=int", "rates": ", type=JSONType"},
        **{"share": ", default=0.5, required=True", "sort": ", default=lambda context: 'x'"},
    )
    assert refused(pipeline, path, {"wekly_csv": "x", "help": True}).splitlines() == [
        "small.py has no parameter 'help'",
        "small.py has no parameter 'wekly_csv'; did you mean weekly_csv?",
        "small.py requires the parameter 'weekly_csv'",
        "hint: its parameters are count (int), production (bool, default worked out by the flow), "
        "rates (JSON), share (float, default 0.5), sort (str, default worked out by the flow), "
        "weekly_csv (str, required)",
        """hint: give it with --flow-kwargs '{"weekly_csv": "…"}', or as a parameter of """
        "the task, weekly_csv = luigi.Parameter()",
    ]


@pytest.mark.parametrize(
    ("declared", "given"),
    [("'n', required=True", {}), ("name='n', required=True, type=int", {"n": None})],
)
def test_a_parameter_that_is_missing_is_named_before_metaflow_starts(
    pipeline: Pipeline, capfd: pytest.CaptureFixture[str], declared: str, given: dict[str, Any]
) -> None:
    path = pipeline.add_flow(parameters=f"n = Parameter({declared})")
    assert refused(pipeline, path, given).splitlines()[::2] == [
        "small.py requires the parameter 'n'",
        """hint: give it with --flow-kwargs '{"n": "…"}', or as a parameter of the task, """
        "n = luigi.Parameter()",
    ]
    assert "Metaflow" not in capfd.readouterr().out


def test_a_parameter_that_a_variable_sets_is_not_missing(
    pipeline: Pipeline, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("METAFLOW_RUN_N", "3")
    path = pipeline.add_flow(
        talks=True,
        parameters="n = Parameter('n', required=True, type=int)",
        end="self.luigi_result = self.n",
    )
    task = MetaflowTask(path)
    task.run()
    assert task.output().result == 3


def test_for_a_value_of_another_type_the_message_has_metaflow_s_reason(pipeline: Pipeline) -> None:
    path = add_flow(pipeline, n=", type=int", rates=", type=JSONType")
    message = refused(pipeline, path, {"n": "many\nof them"})
    assert message.startswith("small.py: Invalid value for '--n': many\nof them is not a valid int")
    assert message.endswith(
        "n (int), production (bool, default worked out by the flow), rates (JSON)"
    )
    message = refused(pipeline, path, {"rates": "high"})
    assert "high is not a valid JSON" in message
    assert "takes text as JSON, with its quotes: '\"text\"'" in message


def test_none_is_refused_if_the_flow_would_get_another_value(
    pipeline: Pipeline, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = add_flow(pipeline, n=", default='x'", k="")
    message = refused(pipeline, path, {"n": None})
    assert "n is None, but would get its default, 'x': " in message
    assert "leave it out" in message
    monkeypatch.setenv("METAFLOW_RUN_K", "y")
    assert "its default, 'y' by METAFLOW_RUN_K" in refused(pipeline, path, {"k": None})


def test_with_a_none_the_other_parameters_are_checked_too() -> None:
    declared = [
        FlowParameter("m", "str", required=True, default=None),
        FlowParameter("k", "str", required=False, default=None),
        FlowParameter("production", "bool", required=False, default="worked out by the flow"),
    ]
    check_none("small.py", {"m": 1, "k": None}, declared)
    with pytest.raises(ParameterError, match=r"production is None, but would get its default"):
        check_none("small.py", {"m": 1, "production": None}, declared)
    with pytest.raises(ParameterError, match=r"^small\.py requires the parameter 'm'"):
        check_none("small.py", {"m": None}, declared)
    with pytest.raises(ParameterError, match=r"^small\.py has no parameter 'l'"):
        check_none("small.py", {"l": None, "m": 1}, declared)


@pytest.mark.parametrize(("value", "is_asked"), [("x", False), (None, True)])
def test_a_flow_is_asked_for_its_parameters_only_if_one_is_none(
    pipeline: Pipeline, monkeypatch: pytest.MonkeyPatch, value: str | None, is_asked: bool
) -> None:
    commands: list[list[str]] = []

    def run(command: list[str], **_: Any) -> int:
        commands.append(command)
        return 0

    monkeypatch.setattr(process, "run", run)
    with pytest.raises(FlowFailedError):  # for nothing has run
        MetaflowTask(pipeline.add_flow(), flow_kwargs={"n": value}).run()
    assert [any("show_parameters" in word for word in command) for command in commands] == [
        is_asked
    ]


def test_a_flow_that_cannot_be_asked_says_why(pipeline: Pipeline) -> None:
    path = add_flow(pipeline, n="")
    file = pipeline.flows / path
    file.write_text("raise KeyError('at import')\n" + file.read_text())
    with pytest.raises(FlowFailedError, match=r"(?s)asked for its parameters.*at import"):
        MetaflowTask(path, flow_kwargs={"n": None}).run()
    file.write_text("import time\n\ntime.sleep(60)\n" + file.read_text())
    expected = "stopped after 1 seconds, before it had listed its parameters"
    with pytest.raises(FlowFailedError, match=expected):
        MetaflowTask(path, flow_kwargs={"n": None}, timeout=1.0).run()


def test_a_command_that_is_wrong_elsewhere_is_no_matter_of_parameters(pipeline: Pipeline) -> None:
    path = add_flow(pipeline, n=", required=True")
    with pytest.raises(FlowFailedError, match=r"(?s)exit code 2.*no such option: --nonsense"):
        MetaflowTask(path, preflow_kwargs={"nonsense": 1}).run()


def test_a_flow_is_asked_from_its_own_folder_and_as_a_script(pipeline: Pipeline) -> None:
    path = add_flow(pipeline, n="")
    text = (pipeline.flows / path).read_text().replace("'n'", "neighbour.NAME")
    pipeline.add_file("neighbour.py", "NAME = 'm'\n")
    (pipeline.flows / path).write_text("import neighbour\n" + text)
    message = refused(pipeline, path, {"n": None})
    assert "hint: its parameters are m (str), production" in message


@pytest.mark.parametrize("has_click", [False, True])
def test_a_metaflow_that_cannot_list_parameters_is_named(tmp_path: Path, has_click: bool) -> None:
    """It has no copy of click, or does not use it."""
    vendored = tmp_path / "metaflow" / "_vendor"
    vendored.mkdir(parents=True)
    for file in (vendored.with_name("__init__.py"), vendored / "__init__.py"):
        file.touch()
    if has_click:
        (vendored / "click.py").write_text("class Command:\n    parse_args = None\n")
    flow = tmp_path / "small.py"
    flow.write_text(
        "import sys\nassert sys.argv[-1] == '--help', 'a run would start'\nsys.exit()\n"
    )
    module = "sales_pipelines.runtime.flow.show_parameters"
    done = subprocess.run(
        [sys.executable, "-m", module, str(tmp_path / "answer"), str(flow), "run"],
        cwd=paths.ROOT,
        env={"PYTHONPATH": str(tmp_path)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1
    assert done.stderr.startswith(f"Metaflow {metadata.version('metaflow')} has not listed")
    assert "\nhint: install metaflow" in done.stderr


def test_the_options_that_metaflow_has_are_known() -> None:
    options = {option.opts[0][2:]: option.name for option in metaflow_run.params}
    assert set(RUN_OPTIONS) == set(options)
    for name, way_out in RUN_OPTIONS.items():
        if "METAFLOW_" in way_out:
            assert f"METAFLOW_RUN_{options[name].upper()}," in way_out
