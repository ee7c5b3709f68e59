"""A task's own Luigi parameters: they reach the flow, and Luigi's tools work with them."""

from __future__ import annotations

import datetime
import enum
import hashlib
from pathlib import Path
from typing import Any

import luigi
import pytest
from luigi.tools.range import RangeDaily, RangeHourly
from luigi.util import requires
from sales_pipelines.runtime import FlowFailedError, MetaflowTask, ParameterError, PipelineError
from sales_pipelines.runtime.flow import flow_run

from ..conftest import first_by_day
from .conftest import Pipeline, mark_done

PATH = "small.py"
DAY = datetime.date(2026, 1, 2)


class Colour(enum.Enum):
    RED = "#f00"


class TextColour(enum.StrEnum):
    RED = "#f00"


class NumberColour(enum.IntEnum):
    RED = 3


class Daily(MetaflowTask):
    flow_path = PATH
    day = luigi.DateParameter()


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The flows that are asked for their parameters, which takes half a second."""
    flows: list[str] = []
    ask = flow_run.declared_parameters

    def note(label: str, *arguments: Any) -> Any:
        flows.append(label)
        return ask(label, *arguments)

    monkeypatch.setattr(flow_run, "declared_parameters", note)
    return flows


def echo(pipeline: Pipeline, *parameters: str) -> None:
    """Add a flow with these parameters, which hands them over."""
    names = [parameter.partition(" =")[0] for parameter in parameters]
    values = ", ".join(f"{name!r}: self.{name}" for name in names)
    pipeline.add_flow(
        PATH,
        talks=True,
        parameters="\n    ".join(parameters),
        end=f"self.luigi_result = {{{values}}}",
    )


def results(task: MetaflowTask) -> Any:
    task.run()
    return task.output().result


def test_a_task_s_own_parameter_reaches_the_flow_and_is_in_the_marker(
    pipeline: Pipeline, asked: list[str]
) -> None:
    echo(pipeline, 'day = Parameter("day", default="2026-01-01")')
    task = Daily(day=DAY)
    assert results(task) == {"day": "2026-01-02"}
    assert task.output().marker.parameters == {"day": "2026-01-02"}
    assert asked == [], "the flow's file says that it has the parameter"


def declaration(name: str, options: str) -> str:
    """A parameter of a flow, as its class has it."""
    return f'{name} = Parameter("{name}"{", " * bool(options)}{options})'


def test_each_type_arrives_in_the_flow_s_type(pipeline: Pipeline) -> None:
    cases: dict[str, tuple[luigi.Parameter[Any], str, Any]] = {
        "whole": (luigi.IntParameter(default=3), "default=0", 3),
        "switch": (luigi.BoolParameter(default=True), "default=False", True),
        "month": (luigi.MonthParameter(default=DAY), 'default=""', "2026-01"),
        "items": (luigi.ListParameter(default=(1, "a,b")), "type=JSONType", [1, "a,b"]),
        "real": (luigi.FloatParameter(default=0.5), "default=0.0", 0.5),
        "table": (luigi.DictParameter(default={"a": [None]}), "type=JSONType", {"a": [None]}),
        "colour": (luigi.EnumParameter(enum=Colour, default=Colour.RED), 'default=""', "RED"),
        "text": (luigi.EnumParameter(enum=TextColour, default=TextColour.RED), 'default=""', "RED"),
        "number": (luigi.EnumParameter(enum=NumberColour, default=NumberColour.RED), "", "RED"),
        "all": (
            luigi.EnumListParameter(enum=Colour, default=(Colour.RED,)),
            "type=JSONType",
            ["RED"],
        ),
        "hour": (
            luigi.DateHourParameter(default=datetime.datetime(2026, 1, 2, 3)),
            "",
            "2026-01-02T03",
        ),
        "none": (luigi.OptionalIntParameter(default=None), "type=int, default=None", None),
        "pair": (luigi.TupleParameter(default=("a", "b")), 'separator=","', ["a", "b"]),
    }
    own = {name: parameter for name, (parameter, _, _) in cases.items()}
    task = type("Task", (MetaflowTask,), {"flow_path": PATH, **own})
    echo(pipeline, *(declaration(name, options) for name, (_, options, _) in cases.items()))
    assert results(task()) == {name: arrives for name, (_, _, arrives) in cases.items()}


def test_one_that_the_flow_does_not_have_stays_the_task_s(pipeline: Pipeline) -> None:
    class Task(Daily):
        region = luigi.Parameter("north")
        tag = luigi.Parameter("an option of Metaflow's run")

    echo(pipeline, 'day = Parameter("day", default="")')
    task = Task(day=DAY)
    assert results(task) == {"day": "2026-01-02"}
    assert task.output().marker.parameters == {"day": "2026-01-02"}


@pytest.mark.parametrize("value", first_by_day(float("nan"), b"bytes", object(), {"a": {1}}))
def test_one_that_no_flow_can_get_is_refused_only_if_the_flow_has_it(
    pipeline: Pipeline, value: Any
) -> None:
    class Raw(luigi.Parameter[Any]):
        def normalize(self, x: Any) -> Any:
            return [x]

    class Task(Daily):
        raw = Raw(default=value)

    echo(pipeline, 'day = Parameter("day", default="")')
    assert results(Task(day=DAY)) == {"day": "2026-01-02"}
    echo(pipeline, 'raw = Parameter("raw", default="")')
    with pytest.raises(ParameterError, match=r"^parameters: raw\[0\]"):
        Task(day=DAY + datetime.timedelta(days=1)).run()


def test_it_reaches_a_parameter_that_the_flow_inherits(pipeline: Pipeline) -> None:
    pipeline.add_file(
        "base.py",
        "from metaflow import FlowSpec, Parameter\n\n\nclass Base(FlowSpec):\n"
        '    start_day = Parameter("start-day", default="")\n',
    )

    class Task(MetaflowTask):
        flow_path = PATH
        start_day = luigi.DateParameter()

    flow = pipeline.flows / pipeline.add_flow(
        PATH, talks=True, end="self.luigi_result = self.start_day"
    )
    text = flow.read_text()
    flow.write_text("from base import Base\n" + text.replace("(FlowSpec)", "(Base)"))
    task = Task(start_day=DAY)
    assert results(task) == "2026-01-02"
    assert task.output().marker.parameters == {"start-day": "2026-01-02"}


@pytest.mark.parametrize("value", ["2026-01-03", None, ["2026-01-02"]])
def test_two_values_for_one_name_are_refused(pipeline: Pipeline, value: Any) -> None:
    echo(pipeline, 'day = Parameter("day", default="")')
    with pytest.raises(
        ParameterError, match=r"day is '2026-01-02' as the task's own .*\nhint: leave"
    ):
        Daily(day=DAY, flow_kwargs={"day": value})


def test_the_same_value_twice_is_one(pipeline: Pipeline) -> None:
    echo(pipeline, 'day = Parameter("day", default="")')
    assert results(Daily(day=DAY, flow_kwargs={"day": "2026-01-02"})) == {"day": "2026-01-02"}


def test_what_the_task_says_in_parameters_goes_before_its_own(pipeline: Pipeline) -> None:
    class Task(Daily):
        def parameters(self) -> dict[str, Any]:
            return {"day": f"{self.day:%d.%m.}"}

    echo(pipeline, 'day = Parameter("day", default="")')
    assert results(Task(day=DAY)) == {"day": "02.01."}


def test_none_is_refused_where_the_flow_would_take_its_default(pipeline: Pipeline) -> None:
    class Task(MetaflowTask):
        flow_path = PATH
        limit = luigi.OptionalIntParameter(default=None)

    echo(pipeline, 'limit = Parameter("limit", default=10)')
    with pytest.raises(ParameterError, match="limit is None, but would get its default, 10"):
        Task().run()


def test_a_run_with_own_parameters_is_resumed(pipeline: Pipeline) -> None:
    class Task(Daily):
        region = luigi.Parameter("north")

    pipeline.add_flow(
        PATH,
        talks=True,
        parameters='day = Parameter("day", default="")',
        start="print('the first step')",
        end="""
        from pathlib import Path
        assert Path("mended").exists()
        self.luigi_result = self.day
        """,
    )
    task = Task(day=DAY)
    with pytest.raises(FlowFailedError):
        task.run()
    (pipeline.root / "mended").touch()
    assert results(task) == "2026-01-02"
    marker = task.output().marker
    assert len(marker.resumed) == 1
    assert marker.parameters == {"day": "2026-01-02"}


def test_from_run_takes_a_run_with_the_task_s_own_parameters_and_no_other(
    pipeline: Pipeline,
) -> None:
    echo(pipeline, 'day = Parameter("day", default="2026-01-01")')
    task = Daily(day=DAY)
    task.run()
    pathspec = task.output().marker.pathspec
    task.output().remove()
    other = Daily(day=DAY + datetime.timedelta(days=1), from_run=pathspec)
    with pytest.raises(PipelineError, match="day '2026-01-02', not '2026-01-03'"):
        other.run()
    taken = Daily(day=DAY, from_run=pathspec)
    assert results(taken) == {"day": "2026-01-02"}


def test_positions_are_those_of_the_task_s_own_parameters(pipeline: Pipeline) -> None:
    pipeline.add_flow(PATH)
    assert Daily(DAY).day == DAY
    assert Daily(DAY).task_id == Daily(day=DAY).task_id
    assert dict(MetaflowTask(PATH, {"n": 1}).flow_kwargs) == {"n": 1}


@pytest.mark.parametrize("options", [{}, {"param_name": "day"}])
@pytest.mark.parametrize("region", [None, "south"])
def test_luigi_s_daily_range_finds_what_is_missing(
    pipeline: Pipeline, options: dict[str, str], region: str | None
) -> None:
    class SalesOfRegion(MetaflowTask):
        flow_path = PATH
        day = luigi.DateParameter()
        region = luigi.Parameter("north")

    pipeline.add_flow(PATH)
    params = {"region": region} if region else {}
    days = [DAY + datetime.timedelta(days=each) for each in range(3)]
    mark_done(SalesOfRegion(day=days[1], **params))
    tasks = RangeDaily(
        of=SalesOfRegion, of_params=params, start=days[0], stop=days[-1], reverse=True, **options
    )
    tasks.requires()
    missing = tasks.missing_datetimes([datetime.datetime(2026, 1, day) for day in (2, 3, 4)])
    assert sorted(each.day for each in missing) == [2, 4]


@pytest.mark.thorough
def test_luigi_s_hourly_range_runs_a_flow_for_each_hour(pipeline: Pipeline) -> None:
    class Hourly(MetaflowTask):
        flow_path = PATH
        region = luigi.Parameter("north")
        hour = luigi.DateHourParameter()

    echo(pipeline, 'hour = Parameter("hour", default="")')
    start = datetime.datetime(2026, 1, 2, 3)
    every = RangeHourly(
        of=Hourly,
        param_name="hour",
        start=start,
        stop=start + datetime.timedelta(hours=2),
        now=int((start + datetime.timedelta(days=1)).timestamp()),
    )
    assert luigi.build([every], local_scheduler=True, log_level="WARNING")
    assert [Hourly(hour=start.replace(hour=hour)).output().result for hour in (3, 4)] == [
        {"hour": "2026-01-02T03"},
        {"hour": "2026-01-02T04"},
    ]


def test_bulk_complete_takes_tuples_and_dicts(pipeline: Pipeline) -> None:
    pipeline.add_flow(PATH)
    mark_done(Daily(DAY))
    later = DAY + datetime.timedelta(days=1)
    assert Daily.bulk_complete([(DAY,), (later,)]) == [(DAY,)]
    assert Daily.bulk_complete([{"day": DAY}, {"day": later}]) == [{"day": DAY}]


def test_a_target_names_its_marker(pipeline: Pipeline) -> None:
    pipeline.add_flow(PATH)
    target = Daily(DAY).output()
    assert repr(target) == f"FlowTarget({target.path!r})"


def test_requires_and_clone_leave_with_a_task_what_is_for_it_alone(pipeline: Pipeline) -> None:
    pipeline.add_flow(PATH)

    @requires(Daily)
    class Report(MetaflowTask):
        flow_path = PATH

    @requires(Report)
    class Chart(MetaflowTask):
        flow_path = PATH

    given = {"flow_kwargs": {"n": 1}, "preflow_kwargs": {"with": ["retry"]}, "timeout": 9.0}
    for one_run in ({"force": True}, {"from_run": "SmallFlow/1"}, {"rebuild_base": True}):
        chart = Chart(day=DAY, **given, **one_run)
        for task in (chart.requires(), chart.requires().requires(), chart.clone(Daily)):
            assert [task.force, task.from_run, task.rebuild_base] == [False, "", False]
            assert (task.day, task.timeout) == (DAY, 9.0)
            assert not {**task.flow_kwargs, **task.preflow_kwargs}
        before = chart.clone(day=DAY - datetime.timedelta(days=1))
        assert [before.force, before.from_run, before.rebuild_base] == [False, "", False]
        assert dict(before.flow_kwargs) == {"n": 1}
        assert chart.clone(Daily, force=True).force


def test_each_kind_of_list_arrives_as_meant(pipeline: Pipeline) -> None:
    cases = {
        "split": ('separator=","', ["q", "r"], ["q", "r"]),
        "many": ("multiple=True", ["q", "r,s"], ["q", "r,s"]),
        "numbers": ("multiple=True, type=int", [1, 2], [1, 2]),
        "values": ("multiple=True, type=JSONType", [["q"], {"a": 1}], [["q"], {"a": 1}]),
        "empty": ("multiple=True", [], []),
        "json": ("type=JSONType", ["q", 1], ["q", 1]),
        "text": ("", ["q", 1], '["q", 1]'),
        "filled": ('multiple=True, type=str, default=["x"]', ["qq"], ["qq"]),
    }
    echo(pipeline, *(declaration(name, options) for name, (options, _, _) in cases.items()))
    task = MetaflowTask(PATH, flow_kwargs={name: items for name, (_, items, _) in cases.items()})
    assert results(task) == {name: arrives for name, (_, _, arrives) in cases.items()}


@pytest.mark.parametrize(
    ("declared", "items", "why"),
    [
        ('separator=","', ["a,b"], r"splits a text at ',', which cannot give 'a,b'"),
        ('separator=","', [1], "which cannot give 1"),
        ('separator=";", default="x"', [], r"cannot give \[\]"),
        ('separator=";"', [""], r"cannot give \[''\]"),
        (
            'multiple=True, default=["x"]',
            [],
            r"has that of its default, and Metaflow reads no list from text\n"
            r"hint: declare it with the type of its items, e.g. type=str",
        ),
        (
            'multiple=True, default=["x"], type=str',
            [],
            r"is an empty list, and would get its default, \['x'\]",
        ),
        ('multiple=True, default=("x",)', ["qq"], "reads no tuple from text"),
        ('multiple=True, default=("x",)', "qq", "reads no tuple from text"),
        ("default=['x']", ["qq"], "hint: declare it with type=JSONType, and the default as JSON"),
        ("['x']", "qq", "reads no list from text"),
        ("default={'a': 1}", {"b": 1}, "reads no dict from text"),
        ("multiple=True, default=dict(a=1).keys() and list('x')", ["qq"], "reads no list from"),
    ],
)
def test_a_list_that_would_not_arrive_is_refused(
    pipeline: Pipeline, declared: str, items: Any, why: str
) -> None:
    echo(pipeline, f'rows = Parameter("rows", {declared})')
    task = MetaflowTask(PATH, flow_kwargs={"rows": items})
    with pytest.raises(ParameterError, match=why):
        task.run()
    assert not (pipeline.root / ".metaflow" / "SmallFlow").exists(), "nothing has run"


def test_a_task_gives_its_flow_configs_and_they_tell_tasks_apart(pipeline: Pipeline) -> None:
    (pipeline.root / "north.json").write_text('{"name": "north"}')
    options = {"config": {"shop": "north.json"}, "config-value": {"limits": {"rows": [1, "é"]}}}
    pipeline.add_flow(
        PATH,
        talks=True,
        parameters='shop = Config("shop")\n'
        '    limits = Config("limits", default_value="{}")\n    n = Parameter("n", default=1)',
        end="self.luigi_result = [self.shop.name, self.limits.to_dict(), self.n]",
    )
    task = MetaflowTask(PATH, preflow_kwargs=options, flow_kwargs={"n": 2})
    assert results(task) == ["north", {"rows": [1, "é"]}, 2]
    assert task.task_id != MetaflowTask(PATH, flow_kwargs={"n": 2}).task_id


def test_a_wrong_config_is_named(pipeline: Pipeline) -> None:
    pipeline.add_flow(PATH, parameters='shop = Config("shop")')
    with pytest.raises((FlowFailedError, ParameterError), match="shpo"):
        MetaflowTask(PATH, preflow_kwargs={"config-value": {"shpo": {}}}).run()


INCLUDED = "a,b\n" + "1,ü\n" * 10_000


def included(pipeline: Pipeline, options: str) -> tuple[str, str]:
    """A flow with an included file, and a run of it: path and pathspec."""
    for name, text in (("first.csv", INCLUDED), ("copy.csv", INCLUDED), ("other.csv", "a,b\n")):
        (pipeline.root / name).write_text(text, encoding="utf-8")
    path = pipeline.add_flow(
        PATH,
        talks=True,
        parameters=f"table = IncludeFile('table'{options})\n    n = Parameter('n', default=1)",
        end="self.luigi_result = len(self.table or '')",
    )
    task = MetaflowTask(path, flow_kwargs={"table": "first.csv"})
    task.run()
    marker = task.output().marker
    assert marker.parameters == {"table": "first.csv"}
    task.output().remove()
    return path, marker.pathspec


@pytest.mark.parametrize(
    "options", ["", pytest.param(", is_text=False", marks=pytest.mark.thorough)]
)
def test_from_run_takes_a_run_with_the_same_included_file(pipeline: Pipeline, options: str) -> None:
    path, pathspec = included(pipeline, options)
    for given in ({"table": "first.csv"}, {"table": "copy.csv", "n": 1}, {"n": 1}, {}):
        task = MetaflowTask(path, flow_kwargs=given, from_run=pathspec)
        task.run()
        marker = task.output().marker
        digest = "sha256:" + hashlib.sha256(INCLUDED.encode()).hexdigest()
        expected = {"table": digest, "n": 1, "production": False} | given
        assert marker.parameters == expected
        assert len(Path(task.output().path).read_bytes()) < 2000, "a marker is small"
    for wrong in ("other.csv", "missing.csv"):
        with pytest.raises(PipelineError, match=r"ran with table 'sha256:\w+', not "):
            MetaflowTask(path, flow_kwargs={"table": wrong}, from_run=pathspec).run()


def test_from_run_takes_a_run_without_a_file(pipeline: Pipeline) -> None:
    path = pipeline.add_flow(PATH, parameters="table = IncludeFile('table', default=None)")
    task = MetaflowTask(path)
    task.run()
    pathspec = task.output().marker.pathspec
    task.output().remove()
    taken = MetaflowTask(path, from_run=pathspec)
    taken.run()
    assert taken.output().marker.parameters == {"table": None}


def test_from_run_compares_text_as_text(pipeline: Pipeline) -> None:
    class Versioned(MetaflowTask):
        flow_path = PATH
        text = luigi.Parameter()

    echo(pipeline, 'text = Parameter("text", default="")')
    task = Versioned(text="1.10")
    task.run()
    pathspec = task.output().marker.pathspec
    for other in ("1.1", "1.100", "01.10"):
        with pytest.raises(PipelineError, match=f"text '1.10', not '{other}'"):
            Versioned(text=other, from_run=pathspec).run()


def test_from_run_takes_a_run_with_the_same_list(pipeline: Pipeline) -> None:
    echo(pipeline, 'rows = Parameter("rows", multiple=True)')
    task = MetaflowTask(PATH, flow_kwargs={"rows": ["p", "q,r"]})
    task.run()
    pathspec = task.output().marker.pathspec
    task.output().remove()
    taken = MetaflowTask(PATH, flow_kwargs={"rows": ["p", "q,r"]}, from_run=pathspec)
    assert results(taken) == {"rows": ["p", "q,r"]}


def test_a_retry_starts_afresh_if_the_task_has_got_a_parameter_of_the_flow(
    pipeline: Pipeline,
) -> None:
    limit = luigi.OptionalIntParameter(default=None, significant=False)
    before = type("Task", (MetaflowTask,), {"flow_path": PATH})
    after = type("Task", (MetaflowTask,), {"flow_path": PATH, "limit": limit})
    pipeline.add_flow(
        PATH,
        talks=True,
        parameters="limit = Parameter('limit', default=1)",
        end="assert self.limit == 5\n        self.luigi_result = self.limit".replace(
            "        ", ""
        ),
    )
    with pytest.raises(FlowFailedError):
        before().run()
    task = after(limit=5)
    assert task.task_id == before().task_id
    assert results(task) == 5
    assert task.output().marker.resumed == []


BASE = """
from metaflow import Config, FlowSpec, JSONType, Parameter


class Base(FlowSpec):
    limit = 3
"""


@pytest.mark.parametrize(
    ("added", "has"),
    first_by_day(
        ('    new = Parameter("the-new", default="x")\n', "new = 'x'"),
        ('    new = Config("the_new", default_value="{}")\n', "new = {}"),
        ('    limit = Parameter("limit", default=4)\n', "limit = 4"),
    ),
)
def test_a_retry_starts_afresh_if_the_flow_has_got_a_parameter_wherever_it_is_declared(
    pipeline: Pipeline, caplog: pytest.LogCaptureFixture, added: str, has: str
) -> None:
    """A resumed run has the parameters of the first run, and no others."""
    name, _, expected = has.partition(" = ")
    pipeline.add_file("base.py", BASE)
    flow = pipeline.flows / pipeline.add_flow(
        PATH, talks=True, end=f"self.luigi_result = repr(self.{name})\nassert self.limit != 3"
    )
    flow.write_text("from base import Base\n" + flow.read_text().replace("(FlowSpec)", "(Base)"))
    for _ in range(2):  # of two runs that failed, the second was resumed
        with pytest.raises(FlowFailedError):
            MetaflowTask(PATH).run()
    if name == "new":
        added += "    limit = 4\n"
    pipeline.add_file("base.py", BASE + added)
    task = MetaflowTask(PATH)
    if name == "new":  # a constant of the class is as the first run had it
        flow.write_text(flow.read_text().replace("\n        assert self.limit != 3", ""))
    assert results(task) == expected
    assert task.output().marker.resumed == []
    assert f"starts afresh: the flow has new parameters, {name}\n" in caplog.text


@pytest.mark.thorough
def test_a_retry_starts_afresh_if_a_decorator_has_given_the_flow_a_parameter(
    pipeline: Pipeline,
) -> None:
    pipeline.add_flow(PATH, end="assert not self.production")
    with pytest.raises(FlowFailedError):
        MetaflowTask(PATH).run()
    pipeline.add_flow(PATH, end="assert not self.production", talks=True)
    task = MetaflowTask(PATH)
    task.run()
    assert task.output().marker.resumed == []


@pytest.mark.thorough
def test_a_retry_of_a_flow_that_cannot_be_asked_is_resumed(pipeline: Pipeline) -> None:
    pipeline.add_flow(PATH, end="assert 0")
    with pytest.raises(FlowFailedError, match="step `end`"):
        MetaflowTask(PATH).run()
    text = (pipeline.flows / PATH).read_text()
    (pipeline.flows / PATH).write_text("raise KeyError('at import')\n" + text)
    with pytest.raises(FlowFailedError, match=r"(?s)having resumed run .*KeyError: 'at import'"):
        MetaflowTask(PATH).run()


def test_a_config_is_no_parameter(pipeline: Pipeline) -> None:
    class Shop(Daily):
        shop = luigi.Parameter("north")

    pipeline.add_flow(
        PATH,
        talks=True,
        parameters="shop = Config('shop', default_value='{}')\n    day = Parameter('day')",
        end="self.luigi_result = self.day",
    )
    assert results(Shop(day=DAY)) == "2026-01-02"
