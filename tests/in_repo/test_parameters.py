"""What a flow is handed: by name and value, as it was meant, or refused before the flow starts."""

from __future__ import annotations

import datetime
import enum
import math
from typing import Any

import pytest
from metaflow.cli_components.run_cmds import run as metaflow_run
from sales_pipelines.runtime import FlowFailedError, MetaflowTask, ParameterError, process
from sales_pipelines.runtime.flow.parameters import DEEPEST, RUN_OPTIONS

from .conftest import Pipeline

TODAY = datetime.date(2026, 11, 20)
NOON = datetime.datetime(2026, 11, 20, 12, 0, 30, 250, datetime.UTC)


class Sort(str, enum.Enum):  # noqa: UP042, as users write it
    WEEKLY = "weekly csv"


def add_flow(pipeline: Pipeline, **types: str) -> str:
    """A flow with these parameters, each with what follows its name, that returns them."""
    lines = [f"{name} = Parameter('{name}'{rest})" for name, rest in types.items()]
    path = pipeline.add_flow(
        parameters="\n    ".join(lines),
        end=f"self.luigi_result = dict((name, getattr(self, name)) for name in {list(types)})",
        talks=True,
    )
    file = pipeline.flows / path
    file.write_text(file.read_text().replace("import FlowSpec,", "import FlowSpec, JSONType,"))
    return path


def arrived(path: str, values: Any) -> Any:
    """What the flow says it was handed, and then what the marker does."""
    task = MetaflowTask(path, flow_kwargs=values)
    task.run()
    marker = task.output().marker
    return marker.result, marker.parameters


def refused(pipeline: Pipeline, path: str, values: Any) -> str:
    """Why the flow does not start; fails where anything of a run is left."""
    task = MetaflowTask(path, flow_kwargs=values)
    with pytest.raises(ParameterError) as error:
        task.run()
    assert not task.complete()
    assert not (pipeline.root / ".metaflow" / "SmallFlow").exists()
    return str(error.value)


def test_parameters_arrive_as_they_were_meant(pipeline: Pipeline) -> None:
    json, number = ", type=JSONType", ", type=float"
    path = add_flow(
        pipeline,
        **{"count": ", type=int", "share": number, "yes": ", type=bool", "größe": ", default=1"},
        **{"no": ", default=True", "text": "", "empty": ", default='x'", "dashes": "", "json": ""},
        **{"mapping": json, "listing": json, "nothing": json, "missing": ", type=int"},
        **{"day": "", "noon": "", "time": "", "days": json, "sort": "", "large": ", type=int"},
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
    }
    values = {
        **{"day": TODAY, "noon": NOON, "time": NOON.time()},
        **{"days": ((TODAY,), {"a": NOON}), "sort": Sort.WEEKLY},
    }
    result, recorded = arrived(path, {**same, **values, "large": -(10**30)})
    assert recorded == {**same, **written, "large": str(-(10**30))}
    assert result == {**same, **written, "large": -(10**30)}


def test_numbers_that_json_has_not_arrive_and_are_recorded_as_text(pipeline: Pipeline) -> None:
    path = pipeline.add_flow(
        parameters="a = Parameter('a', type=float)\n    b = Parameter('b', type=float)",
        end="self.luigi_result = [repr(self.a), repr(self.b)]",
        talks=True,
    )
    result, recorded = arrived(path, {"a": math.nan, "b": -math.inf})
    assert result == ["nan", "-inf"]
    assert recorded == {"a": "NaN", "b": "-Infinity"}


def test_what_parameters_returns_is_handed_over_alike(pipeline: Pipeline) -> None:
    class Dated(MetaflowTask):
        def parameters(self) -> dict[str, Any]:
            return {**self.flow_kwargs, "day": TODAY}

    path = add_flow(pipeline, day="", days=", type=JSONType")
    task = Dated(flow_path=path, flow_kwargs={"days": [TODAY]})
    task.run()
    assert task.output().result == {"day": "2026-11-20", "days": ["2026-11-20"]}


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
    # Of a value it may mean something.
    assert MetaflowTask(path, flow_kwargs={"a": 1, "b": {"c": 2, "d": 1}}) is not task


@pytest.mark.parametrize("name", [*RUN_OPTIONS, "max_workers", "run_id_file"])
def test_a_name_that_is_metaflows_is_refused(pipeline: Pipeline, name: str) -> None:
    with pytest.raises(ParameterError, match=rf"^flow_kwargs: '{name}' is an option of Metaflow's"):
        MetaflowTask(pipeline.add_flow(), flow_kwargs={name: "x"})


@pytest.mark.parametrize("name", ["", "-x", "--x", "a b", "a=b", "2x", "a\0", "a.b", 1, None])
def test_a_name_that_is_none_is_refused(pipeline: Pipeline, name: Any) -> None:
    with pytest.raises(ParameterError, match=r"^flow_kwargs: .* is no parameter's name"):
        MetaflowTask(pipeline.add_flow(), flow_kwargs={name: "x"})


def nested(depth: int) -> Any:
    return [nested(depth - 1)] if depth else 1


@pytest.mark.parametrize(
    ("value", "told"),
    [
        (object(), r"n is a object; what can be handed over is text"),
        ([{"a": b"b"}], r"n\[0\]\['a'\] is a bytes"),
        ({1, 2}, r"n is a set"),
        ([math.nan], r"n\[0\] is nan, which JSON cannot hold"),
        ({"a": 2**64}, r"n\['a'\] is 18446744073709551616"),
        ({"a": {1: 2}}, r"n\['a'\] has the key 1, and JSON's are text: '1'"),
        ("a\ud800", r"n has half a character, '\\ud800' at 1"),
        ({"\udc80": 1}, r"n has half a character"),
        (nested(DEEPEST + 1), rf"n\[0\].* nested more than {DEEPEST} deep"),
    ],
)
def test_a_value_that_would_not_arrive_is_refused(
    pipeline: Pipeline, value: Any, told: str
) -> None:
    with pytest.raises(ParameterError, match=rf"^flow_kwargs: {told}"):
        MetaflowTask(pipeline.add_flow(), flow_kwargs={"n": value})


def test_text_that_no_command_can_have_is_refused(pipeline: Pipeline) -> None:
    path = add_flow(pipeline, n="")
    assert "n has a NUL character" in refused(pipeline, path, {"n": "a\0b"})
    told = refused(pipeline, path, {"n": "é" * 2_000_000})
    assert "small.py: n is 4,000,000 bytes long" in told
    assert "write the value to a file" in told


def test_unknown_and_missing_ones_are_told_with_what_the_flow_has(pipeline: Pipeline) -> None:
    path = add_flow(
        pipeline,
        **{"weekly_csv": ", required=True", "count": ", type=int", "rates": ", type=JSONType"},
        **{"share": ", default=0.5, required=True", "sort": ", default=lambda context: 'x'"},
    )
    told = refused(pipeline, path, {"wekly_csv": "x", "help": True}).splitlines()
    assert told == [
        "small.py has no parameter 'help'",
        "small.py has no parameter 'wekly_csv'; did you mean weekly_csv?",
        "small.py requires the parameter 'weekly_csv'",
        "small.py has: count (int), production (bool, default worked out by the flow), rates "
        "(JSON), share (float, default 0.5), sort (str, default worked out by the flow), "
        "weekly_csv (str, required)",
    ]


def test_a_value_of_another_type_is_told_as_metaflow_tells_it(pipeline: Pipeline) -> None:
    path = add_flow(pipeline, n=", type=int", rates=", type=JSONType")
    told = refused(pipeline, path, {"n": "many\nof them"})
    assert told.startswith("small.py: Invalid value for '--n': many\nof them is not a valid int")
    assert told.endswith("n (int), production (bool, default worked out by the flow), rates (JSON)")
    told = refused(pipeline, path, {"rates": "high"})
    assert "high is not a valid JSON" in told
    assert "takes a text as JSON: '\"text\"'" in told


def test_none_is_refused_where_the_flow_would_have_another_value(
    pipeline: Pipeline, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = add_flow(pipeline, n=", default='x'", m=", required=True", k="")
    assert "n is None" in (told := refused(pipeline, path, {"n": None, "m": 1}))
    assert "its default, 'x'; leave it out" in told
    assert "requires the parameter 'm'" in refused(pipeline, path, {"m": None})
    assert "production is None" in refused(pipeline, path, {"production": None, "m": 1})
    assert "no parameter 'l'" in refused(pipeline, path, {"l": None, "m": 1})
    monkeypatch.setenv("METAFLOW_RUN_K", "y")
    assert "its default, 'y' by METAFLOW_RUN_K" in refused(pipeline, path, {"k": None, "m": 1})


def test_a_flow_is_asked_for_its_parameters_only_where_it_must_be(
    pipeline: Pipeline, monkeypatch: pytest.MonkeyPatch
) -> None:
    commands: list[Any] = []
    run = process.run

    def counted(command: Any, **options: Any) -> int:
        commands.append(command)
        return run(command, **options)

    monkeypatch.setattr(process, "run", counted)
    path = add_flow(pipeline, n="")
    MetaflowTask(path, flow_kwargs={"n": "x"}).run()
    assert len(commands) == 1
    MetaflowTask(path, flow_kwargs={"n": None}).run()
    assert len(commands) == 3


def test_a_flow_that_cannot_be_asked_says_why(pipeline: Pipeline) -> None:
    path = add_flow(pipeline, n="")
    file = pipeline.flows / path
    file.write_text("raise KeyError('at import')\n" + file.read_text())
    with pytest.raises(FlowFailedError, match=r"(?s)asked for its parameters.*at import"):
        MetaflowTask(path, flow_kwargs={"n": None}).run()
    file.write_text("import time\n\ntime.sleep(60)\n" + file.read_text())
    with pytest.raises(FlowFailedError, match=r"parameters were not known after 1 seconds"):
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
    assert "small.py has: m (str), production" in refused(pipeline, path, {"n": None})


def test_the_options_that_metaflow_has_are_known() -> None:
    options = {option.opts[0][2:]: option.name for option in metaflow_run.params}
    assert set(RUN_OPTIONS) == set(options)
    for name, way_out in RUN_OPTIONS.items():
        if "METAFLOW_" in way_out:
            assert f"METAFLOW_RUN_{options[name].upper()}," in way_out
