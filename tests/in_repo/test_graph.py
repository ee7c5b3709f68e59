"""`nox -s graph`, and one task of a graph that runs for another scheduler."""

from __future__ import annotations

import contextlib
import datetime
import json
import re
import textwrap
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from sales_pipelines.runtime import MetaflowTask, PipelineError, paths
from sales_pipelines.runtime.commands import graph, node
from sales_pipelines.runtime.commands.graph import graph_of, named_tasks, root_task, sum_of
from sales_pipelines.runtime.settings import PREFIX, settings
from sales_pipelines.runtime.task.attempts import Caller

from .conftest import ALL, Pipeline, Splitting, mark_done

HEAD = """
import datetime
import enum

import luigi
from sales_pipelines.runtime import MetaflowTask, paths

"""
NUMBERS = iter(range(1000))

DAY = """
        class Day(MetaflowTask):
            flow_path = "small.py"
            day = luigi.DateParameter()

"""

AddTasks = Callable[[str], str]


@pytest.fixture
def add_tasks(pipeline: Pipeline) -> Iterator[AddTasks]:
    """A function that adds a module of tasks to the repo, and returns its name."""
    files: list[Path] = []

    def add(text: str) -> str:
        # Python imports a module once, whatever its file comes to be.
        file = paths.TASKS / f"module{next(NUMBERS)}_tasks.py"
        file.write_text(HEAD + textwrap.dedent(text))
        files.append(file)
        return file.name

    pipeline.add_flow()
    yield add
    for file in files:
        file.unlink()


def nodes(arguments: list[str]) -> dict[str, list[str]]:
    """The graph's tasks, and what each requires."""
    return {each["name"]: each["requires"] for each in graph_of(arguments)["nodes"]}


def test_wrappers_are_looked_through_and_names_have_what_differs(add_tasks: AddTasks) -> None:
    module = add_tasks("""
        class Extract(MetaflowTask):
            flow_path = "small.py"
            region = luigi.Parameter()
            day = luigi.DateParameter()


        class Both(luigi.WrapperTask):
            day = luigi.DateParameter()

            def requires(self):
                for region in ("north", "south 1"):
                    yield Extract(region=region, day=self.day - datetime.timedelta(days=1))


        class Sum(MetaflowTask):
            flow_path = "small.py"
            day = luigi.DateParameter()

            def requires(self):
                return Both(day=self.day)


        class Publish(luigi.Task):
            day = luigi.DateParameter()

            def requires(self):
                return [Sum(day=self.day - datetime.timedelta(days=each)) for each in range(2)]


        RootTask = Publish
    """)
    requires = nodes([module])
    assert requires["Publish"] == ["Sum.1", "Sum.2"]
    assert set(requires) == {
        *("Publish", "Sum.1", "Sum.2"),
        *(f"Extract.{region}.{number}" for region in ("north", "south_1") for number in (1, 2)),
    }
    assert requires["Extract.north.1"] == []


def test_tasks_that_are_done_are_in_the_graph(add_tasks: AddTasks, pipeline: Pipeline) -> None:
    module = add_tasks("""
        class First(MetaflowTask):
            flow_path = "small.py"

        class RootTask(MetaflowTask):
            flow_path = "small.py"
            n = luigi.IntParameter(1)

            def requires(self):
                return First()
    """)
    expected = {"First": [], "RootTask": ["First"]}
    assert nodes([module]) == expected
    root = graph.root_task([module])
    assert isinstance(root, MetaflowTask)
    mark_done(root)
    assert root.complete()
    assert nodes([module]) == expected


def test_parameters_have_the_types_of_a_form(add_tasks: AddTasks) -> None:
    module = add_tasks("""
        class Size(enum.Enum):
            small = 1
            large = 2


        class RootTask(luigi.Task):
            text = luigi.Parameter("a", description="some text")
            number = luigi.IntParameter(3)
            share = luigi.FloatParameter(0.5)
            fast = luigi.BoolParameter()
            asked = luigi.BoolParameter(True, parsing=luigi.BoolParameter.EXPLICIT_PARSING)
            rows = luigi.ListParameter((1, "b"))
            none = luigi.ListParameter(())
            names = luigi.ListParameter(("a",))
            limits = luigi.DictParameter({"a": [1]})
            kind = luigi.ChoiceParameter("x", choices=["y", "x"], description="which.")
            size = luigi.EnumParameter(Size.small, enum=Size)
            sizes = luigi.EnumListParameter((Size.small, Size.large), enum=Size)
            limit = luigi.OptionalIntParameter(None)
            note = luigi.OptionalParameter(None)
            empty = luigi.Parameter("")
            pause = luigi.TimeDeltaParameter(datetime.timedelta(hours=2))
            day = luigi.DateParameter()
            month = luigi.MonthParameter()
            since = luigi.DateParameter(default=None)
            nothing = luigi.Parameter(default=None)
            maybe = luigi.OptionalBoolParameter(None)
            always = luigi.BoolParameter(True)
            endless = luigi.FloatParameter(float("inf"))
            secret = luigi.Parameter("s", visibility=luigi.parameter.ParameterVisibility.PRIVATE)
    """)
    parameters = graph_of([module])["parameters"]
    any_items = {"type": ["array", "boolean", "null", "number", "object", "string"]}
    assert {name: (each["schema"], each.get("default")) for name, each in parameters.items()} == {
        "text": ({"type": "string", "minLength": 1}, "a"),
        "number": ({"type": "integer"}, 3),
        "share": ({"type": "number"}, 0.5),
        "fast": ({"type": "boolean"}, False),
        "asked": ({"type": "boolean"}, True),
        "rows": ({"type": "array", "items": any_items}, [1, "b"]),
        "none": ({"type": "array", "items": any_items}, []),
        "names": ({"type": "array"}, ["a"]),
        "limits": ({"type": "object"}, {"a": [1]}),
        "kind": ({"type": "string", "enum": ["x", "y"]}, "x"),
        "size": ({"type": "string", "enum": ["large", "small"]}, "small"),
        "sizes": ({"type": "string", "minLength": 1}, "small,large"),
        "limit": ({"type": ["null", "integer"]}, None),
        "note": ({"type": ["null", "string"]}, None),
        "empty": ({"type": ["null", "string"]}, None),
        "pause": ({"type": "string", "minLength": 1}, "0 w 0 d 2 h 0 m 0 s"),
        "day": ({"type": "string"}, None),
        "month": ({"type": "string"}, None),
        "since": ({"type": ["null", "string"]}, None),
        "nothing": ({"type": ["null", "string"]}, None),
        "maybe": ({"type": ["null", "boolean"]}, None),
        "endless": ({"type": "string", "minLength": 1}, "inf"),
    }
    assert parameters["text"]["description"] == "some text"
    assert parameters["kind"]["description"] == "which.", "Luigi adds the choices, in any order"
    assert (parameters["day"]["moment"], parameters["month"]["moment"]) == ("%Y-%m-%d", "%Y-%m")
    assert (parameters["fast"]["is_switch"], parameters["asked"]["is_switch"]) == (True, False)


def test_what_is_given_is_no_parameter_of_the_dag(add_tasks: AddTasks) -> None:
    module = add_tasks("""
        class RootTask(luigi.Task):
            region = luigi.Parameter()
            number = luigi.IntParameter(3)
    """)
    graph_of_north = graph_of([module, "--region=north"])
    assert graph_of_north["pipeline"] == [module, "--region=north"]
    assert [*graph_of_north["parameters"]] == ["number"]
    with pytest.raises(PipelineError, match="region"):
        graph_of([module])


@pytest.mark.parametrize(
    ("requires", "reason"),
    [
        ("RootTask()", "these tasks require each other: .*RootTask"),
        ("'no task'", "returns 'no task', which is no task"),
        ("Around()", "these tasks require each other"),
    ],
)
def test_an_order_that_is_none_is_refused(add_tasks: AddTasks, requires: str, reason: str) -> None:
    module = add_tasks(f"""
        class Around(luigi.WrapperTask):
            def requires(self):
                return Around()


        class RootTask(luigi.Task):
            def requires(self):
                return {requires}
    """)
    with pytest.raises(PipelineError, match=reason):
        graph_of([module])


def test_a_mistake_in_a_task_is_shown_from_its_own_line_on(
    add_tasks: AddTasks, capsys: pytest.CaptureFixture[str]
) -> None:
    module = add_tasks("""
        class RootTask(luigi.Task):
            def requires(self):
                return undefined
    """)
    with pytest.raises(PipelineError, match=rf"NameError: .*undefined.*{module}, line 11$"):
        graph.main([module])
    assert "/runtime/" not in capsys.readouterr().err


def test_the_file_is_written_and_checked(
    add_tasks: AddTasks, pipeline: Pipeline, capsys: pytest.CaptureFixture[str]
) -> None:
    module = add_tasks("""
        class RootTask(luigi.Task):
            number = luigi.IntParameter(3)
    """)
    name = module.removesuffix("_tasks.py")
    file = pipeline.root / "dags" / "graphs" / f"{name}.json"
    assert graph.main(["--check", module]) == 1
    assert not file.exists()
    assert f"dags/graphs/{name}.json is not what the tasks are\nhint: " in capsys.readouterr().out
    assert graph.main([module]) == 0
    assert json.loads(file.read_text()) == graph_of([module])
    assert graph.main(["--check", module]) == 0
    assert "is up to date: RootTask" in capsys.readouterr().out
    with pytest.raises(PipelineError, match=r"--name '\.\./x' must be letters"):
        graph.main(["--name", "../x", module])


def test_without_a_file_all_graphs_are_written_or_checked(
    add_tasks: AddTasks, pipeline: Pipeline, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = pipeline.root / "dags" / "graphs"
    with pytest.raises(PipelineError, match="there is no graph yet: nox -s graph -- FILE"):
        graph.main([])
    module = add_tasks("""
        class RootTask(luigi.Task):
            number = luigi.IntParameter(3)
    """)
    for name, more in (("one", []), ("three", ["--number=3"])):
        assert graph.main(["--name", name, module, *more]) == 0
    assert graph.main(["--check"]) == 0
    file = folder / "three.json"
    text = file.read_text()
    file.write_text(text.replace("RootTask", "Old"))
    assert graph.main(["--check"]) == 1
    assert "three.json is not what the tasks are" in capsys.readouterr().out
    assert graph.main([]) == 0
    assert file.read_text() == text
    file.write_text("<<<<<<< HEAD")
    with pytest.raises(PipelineError, match=r"three\.json is no graph: .*\nhint: delete it"):
        graph.main([])


def test_a_graph_of_another_pipeline_is_not_lost(add_tasks: AddTasks, pipeline: Pipeline) -> None:
    text = "class RootTask(luigi.Task):\n    pass"
    one, other = add_tasks(text), add_tasks(text)
    assert graph.main(["--name", "clean", one]) == 0
    with pytest.raises(
        PipelineError, match=rf"clean\.json is the graph of {one} RootTask\nhint: .*--name"
    ):
        graph.main(["--name", "clean", other])
    assert graph.main(["--name", "clean", one, "RootTask"]) == 0, "other arguments, same file"


def test_a_flow_alone_has_its_own_name(pipeline: Pipeline) -> None:
    pipeline.add_flow("sales/train.py")
    assert nodes(["sales/train.py"]) == {"train": []}


def run_node(
    module: str,
    name: str,
    run: str,
    attempt: int,
    root: Path,
    *more: str,
    instance: str = "",
    known: str = "",
) -> int:
    """Run a task of the module for a scheduler, as Airflow does."""
    with contextlib.suppress(ConnectionError):  # of a test's requires()
        known = known or sum_of(named_tasks(root_task([module, *more])))
    MetaflowTask.clear_instance_cache()
    by = ("--by", run, "--task", name, "--try", str(attempt))
    this = ("--instance", instance or f"{run}/{attempt}", "--result", str(root / "result.json"))
    own = ("--node", name, "--graph", known, *by, *this)
    return node.main([*own, "--", module, *more])


SPLIT = """
    class Split(MetaflowTask):
        flow_path = "split.py"


    class After(luigi.Task):
        def requires(self):
            return Split()


    RootTask = After
"""


def test_a_retry_resumes_another_run_runs_anew_and_so_does_a_cleared_success(
    add_tasks: AddTasks, splitting: Splitting
) -> None:
    module, root = add_tasks(SPLIT), splitting.root
    splitting.tell("fail-join")
    assert run_node(module, "Split", "split/a", 1, root) == 30
    splitting.ran()
    splitting.tell()
    assert run_node(module, "Split", "split/a", 2, root) == 0
    assert splitting.ran() == ["end", "join"]
    result = json.loads((root / "result.json").read_text())
    marker = json.loads(Path(result["marker"]).read_text())
    assert result["result"] == {"total": 5}
    assert result["run"] == f"SplitFlow/{marker['run_id']}"
    assert len(result["resumed"]) == 1
    assert marker["caller"] == ["split/a", "Split", 2, "split/a/2"]
    assert run_node(module, "Split", "split/a", 2, root) == 0
    assert splitting.ran() == [], "the same try has succeeded already"
    assert run_node(module, "Split", "split/a", 3, root) == 0
    assert splitting.ran() == ALL, "a success that was cleared"
    assert run_node(module, "Split", "split/a", 3, root, instance="again") == 0
    assert splitting.ran() == ALL, "a run of the DAG that was deleted and came again"
    splitting.tell("fail-join")
    assert run_node(module, "Split", "split/b", 1, root) == 30
    assert Path(result["marker"]).exists(), "what another run has made stays"
    assert splitting.ran() == [each for each in ALL if each != "end"], "another run of the DAG"
    splitting.tell()
    assert run_node(module, "Split", "split/c", 1, root) == 0
    assert splitting.ran() == ALL, "what failed for another run is not resumed"


@pytest.mark.thorough
def test_a_task_with_a_date_runs_once_for_it(add_tasks: AddTasks, splitting: Splitting) -> None:
    module = add_tasks("""
        class RootTask(MetaflowTask):
            flow_path = "split.py"
            day = luigi.DateParameter()
    """)
    for run, day, ran in (("a", 1, ALL), ("b", 1, []), ("c", 2, ALL)):
        assert run_node(module, "RootTask", run, 1, splitting.root, f"--day=2026-01-0{day}") == 0
        assert splitting.ran() == ran
    assert run_node(module, "RootTask", "b", 2, splitting.root, "--day=2026-01-01") == 0
    assert splitting.ran() == ALL, "cleared, although another run had made it"


def test_what_others_make_meanwhile_fails_no_task(splitting: Splitting) -> None:
    task = splitting.task()
    task.call_from(Caller("one/1", "Split", 1, "x"), takes_runs_of_others=False)
    assert not task.complete()
    task.run()
    task.output().remove()  # as another run of the scheduler, which begins
    assert task.complete()


def test_a_run_with_other_tasks_than_the_graph_is_refused(
    add_tasks: AddTasks, pipeline: Pipeline
) -> None:
    """Airflow would leave out, without a word, those that it does not know."""
    module = add_tasks(
        DAY
        + """
        class RootTask(luigi.WrapperTask):
            day = luigi.DateParameter()

            def requires(self):
                return [Day(self.day.replace(day=each + 1)) for each in range(self.day.day)]
    """
    )
    known = sum_of(named_tasks(root_task([module], is_sample=True)))
    with pytest.raises(PipelineError, match=r"this run has other tasks than the graph.*Day\.23"):
        run_node(module, "Day.1", "a", 1, pipeline.root, "--day=2026-11-23", known=known)


def test_a_number_is_that_of_a_date_in_whatever_order_tasks_are_required(
    add_tasks: AddTasks,
) -> None:
    module = add_tasks(
        DAY
        + """
        class RootTask(luigi.WrapperTask):
            day = luigi.DateParameter()
            is_reversed = luigi.BoolParameter()

            def requires(self):
                days = [Day(self.day - datetime.timedelta(days=each)) for each in range(4)]
                return days[::-1] if self.is_reversed else days
    """
    )
    for more in ([], ["--is-reversed"]):
        tasks: Any = named_tasks(root_task([module, "--day=2026-11-23", *more]))
        numbers = {name: task.day.day for name, task in tasks.items()}
        assert numbers == {"Day.1": 20, "Day.2": 21, "Day.3": 22, "Day.4": 23}
        drawn = [each["name"] for each in graph_of([module, *more])["nodes"]]
        assert drawn == ["Day.1", "Day.2", "Day.3", "Day.4"]


def test_parameters_may_have_the_names_of_options_of_the_runtime(
    add_tasks: AddTasks, pipeline: Pipeline
) -> None:
    module = add_tasks("""
        class RootTask(luigi.Task):
            task = luigi.Parameter("")
            result = luigi.Parameter("")
            node = luigi.Parameter("")
            check = luigi.Parameter("")

            def run(self):
                with self.output().open("w") as file:
                    file.write(f"{self.task} {self.result} {self.node} {self.check}")

            def output(self):
                return luigi.LocalTarget(f"{paths.ROOT}/said")
    """)
    names = ("task", "result", "node", "check")
    values = [f"--{each}=its-{each}" for each in names]
    assert run_node(module, "RootTask", "a", 1, pipeline.root, *values) == 0
    assert (pipeline.root / "said").read_text() == "its-task its-result its-node its-check"
    assert graph.main([module, "--check=x"]) == 0
    file = pipeline.root / "dags" / "graphs" / f"{module.removesuffix('_tasks.py')}.json"
    assert json.loads(file.read_text())["pipeline"] == [module, "--check=x"]


def test_what_is_private_does_not_get_into_the_graph_nor_a_message(
    add_tasks: AddTasks, pipeline: Pipeline
) -> None:
    module = add_tasks("""
        class RootTask(luigi.Task):
            pw = luigi.Parameter("", visibility=luigi.parameter.ParameterVisibility.PRIVATE)
    """)
    with pytest.raises(PipelineError, match="--pw is private, and would be in a file of git"):
        graph.main([module, "--pw=s3cret"])
    other = add_tasks("""
        def task():
            class Inner(luigi.Task):
                pw = luigi.Parameter(visibility=luigi.parameter.ParameterVisibility.PRIVATE)

            return Inner(pw="s3cret")


        class RootTask(luigi.Task):
            def requires(self):
                return task()
    """)
    with pytest.raises(PipelineError, match="no command line names the task of Inner") as error:
        run_node(other, "Inner", "a", 1, pipeline.root)
    assert "s3cret" not in str(error.value)


def test_a_file_is_named_as_on_any_machine(add_tasks: AddTasks, pipeline: Pipeline) -> None:
    module = add_tasks("class RootTask(luigi.Task):\n    pass")
    assert graph.main(["--name", "absolute", str(paths.TASKS / module)]) == 0
    file = pipeline.root / "dags" / "graphs" / "absolute.json"
    assert json.loads(file.read_text())["pipeline"] == [module]


def test_a_task_whose_requirements_are_missing_does_not_run_them(
    add_tasks: AddTasks, splitting: Splitting, capsys: pytest.CaptureFixture[str]
) -> None:
    module = add_tasks(SPLIT)
    assert run_node(module, "After", "split/a", 1, splitting.root) == 20
    assert (
        "node: After requires Split, not done: run or clear that first" in capsys.readouterr().err
    )
    assert splitting.ran() == []


def test_a_task_that_is_no_more_is_named_with_the_way_out(
    add_tasks: AddTasks, splitting: Splitting
) -> None:
    module = add_tasks(SPLIT)
    with pytest.raises(PipelineError, match=rf"{module} has no task Old any more; it has Split, A"):
        run_node(module, "Old", "split/a", 1, splitting.root)


def test_settings_and_private_values_hold_for_each_task(
    add_tasks: AddTasks, pipeline: Pipeline, monkeypatch: pytest.MonkeyPatch
) -> None:
    module = add_tasks("""
        class Write(luigi.Task):
            secret = luigi.Parameter(visibility=luigi.parameter.ParameterVisibility.PRIVATE)

            def run(self):
                with self.output().open("w") as file:
                    file.write(self.secret)

            def output(self):
                return luigi.LocalTarget(f"{paths.ROOT}/written-{self.secret}")


        class RootTask(MetaflowTask):
            flow_path = "told.py"

            def requires(self):
                return Write(secret="hidden")

            def parameters(self):
                return {"text": self.container_kwargs["env"]["MODE"]}
    """)
    for name, value in (("FLOW_TAG", "weekly"), ("CONTAINER_KWARGS", '{"env": {"MODE": "fast"}}')):
        monkeypatch.setenv(f"{PREFIX}{name}", value)
    settings.cache_clear()
    pipeline.add_flow("told.py", parameters='text = Parameter("text", default="")')
    for name in ("Write", "RootTask"):
        assert run_node(module, name, "dag/1", 1, pipeline.root) == 0
    assert (pipeline.root / "written-hidden").read_text() == "hidden"
    made = json.loads((pipeline.root / "result.json").read_text())
    marker = json.loads(Path(made["marker"]).read_text())
    assert marker["flow_tag"] == "weekly"
    assert marker["parameters"]["text"] == "fast"


def test_a_mistake_in_a_task_can_be_retried(
    add_tasks: AddTasks, pipeline: Pipeline, capsys: pytest.CaptureFixture[str]
) -> None:
    module = add_tasks("""
        class RootTask(luigi.Task):
            def requires(self):
                raise ConnectionError("no answer")
    """)
    assert run_node(module, "RootTask", "dag/1", 1, pipeline.root) == 1
    lines = capsys.readouterr().err.splitlines()
    assert re.match(r"node: .*ConnectionError: no answer, at .*_tasks\.py, line 11$", lines[-1])


def test_names_are_the_same_for_any_date(add_tasks: AddTasks) -> None:
    module = add_tasks("""
        class Day(MetaflowTask):
            flow_path = "small.py"
            day = luigi.DateParameter()
            region = luigi.Parameter("north")


        class RootTask(luigi.WrapperTask):
            day = luigi.DateParameter(datetime.date(2026, 3, 1))

            def requires(self):
                return [Day(self.day - datetime.timedelta(days=each)) for each in range(3)]
    """)
    sample = [*named_tasks(graph.root_task([module], is_sample=True))]
    for day in ("2026-03-01", "2024-02-29", "1999-12-31"):
        tasks = named_tasks(graph.root_task([module, f"--day={day}"]))
        assert [*tasks] == sample
        first: Any = tasks[sample[0]]
        assert isinstance(first.day, datetime.date)
    assert {*sample} == {"Day.1", "Day.2", "Day.3"}
