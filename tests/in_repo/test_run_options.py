"""Options of `nox -s run` that hold for a whole run, and `FILE --help`."""

from __future__ import annotations

import enum
import functools
import os
import re
import shlex
import sys
import time
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any

import luigi
import pytest
from luigi.freezing import recursively_unfreeze
from luigi.task_register import Register
from sales_pipelines.runtime import MetaflowTask, paths
from sales_pipelines.runtime.__main__ import main
from sales_pipelines.runtime.commands import run as run_command
from sales_pipelines.runtime.commands.run_options import example, option
from sales_pipelines.runtime.settings import PREFIX, settings
from sales_pipelines.runtime.task.run_arguments import run_arguments

from .conftest import Pipeline, mark_done

NAME = f"{paths.PACKAGE.name}.tasks.options_tasks"
FILE = "options_tasks.py"

# Raw has no value of its own; Priced has some in its class, and one of the two Clean is given some.
TASKS = """
import datetime
import luigi
from sales_pipelines.runtime import MetaflowTask

class Raw(MetaflowTask):
    flow_path = "small.py"

class Priced(MetaflowTask):
    flow_path = "small.py"
    runner = "process"
    timeout = luigi.FloatParameter(default=7)
    flow_tag = luigi.Parameter(default="priced")
    container_kwargs = luigi.DictParameter(default={"cpus": 1})

class Own(MetaflowTask):
    flow_path = "small.py"
    top_n = luigi.IntParameter(default=3)

class OwnAll(Own):
    day = luigi.Parameter(default="")

class Clean(MetaflowTask):
    flow_path = "small.py"
    def requires(self):
        return Raw(), Priced()

class Wrapper(luigi.WrapperTask):
    def requires(self):
        return Clean(), Clean(flow_tag="given", runner="process")

class Plain(luigi.Task):
    \"\"\"Not a flow.\"\"\"
    day = luigi.DateParameter(default=datetime.date(2026, 1, 2), description="100% of that day")
    count = luigi.IntParameter(default=0)
    needed = luigi.Parameter()
    flow_tag = luigi.Parameter(default="")
    def requires(self):
        return Clean(flow_tag=self.flow_tag), Clean(flow_tag="given", runner="process")
    def complete(self):
        return all(task.complete() for task in self.requires())

class Publish(luigi.Task):
    def requires(self):
        return Raw()
    def output(self):
        return luigi.LocalTarget("page.html")

class RootTask(MetaflowTask):
    flow_path = "small.py"
    def requires(self):
        return Clean(), Clean(flow_tag="given", runner="process")
"""
ROOTS = [["Wrapper"], ["Plain", "--needed", "x"], []]


@functools.cache
def module() -> ModuleType:
    """The tasks; made once, because Luigi remembers each class."""
    import_module(NAME.rpartition(".")[0])  # it makes Luigi name tasks by their modules
    made = ModuleType(NAME)
    exec(TASKS, vars(made))
    return made


@pytest.fixture
def tasks(pipeline: Pipeline, monkeypatch: pytest.MonkeyPatch) -> Pipeline:
    """A repo with these tasks, and their flow."""
    package = pipeline.root / paths.PACKAGE.name
    monkeypatch.setattr(paths, "PACKAGE", package)
    monkeypatch.setattr(paths, "TASKS", package / "tasks")
    paths.TASKS.mkdir(parents=True)
    (paths.TASKS / FILE).touch()
    monkeypatch.setitem(sys.modules, NAME, module())
    pipeline.add_flow(parameters="day = Parameter('day', default='')")
    return pipeline


Run = Callable[..., list[luigi.Task]]


@pytest.fixture
def run(tasks: Pipeline, monkeypatch: pytest.MonkeyPatch) -> Run:
    """A function that returns the tasks which a command would run, in order."""
    to_run: list[luigi.Task] = []
    environment = dict(os.environ)

    def note(_: list[str], tasks: list[luigi.Task], __: bool) -> int:
        to_run.extend(tasks)
        return 0

    monkeypatch.setattr(run_command, "run", note)

    def run(*arguments: str) -> list[luigi.Task]:
        for name in os.environ.keys() - environment.keys():
            del os.environ[name]
        settings.cache_clear()
        Register.clear_instance_cache()
        to_run.clear()
        assert main(["run", *arguments]) == 0
        return [*to_run]

    return run


def values(task: Any) -> list[Any]:
    """What distinguishes how and where the task's flow runs."""
    kwargs = recursively_unfreeze(task.container_kwargs)
    return [type(task).__name__, task.flow_tag, task.runner, task.timeout, kwargs]


KWARGS = '{"memory": "4g", "env": {"A": null}}'
OF_RUN = ["--flow-tag", "t", "--runner=container", "--timeout", "4", "--container-kwargs", KWARGS]


@pytest.mark.parametrize("root", ROOTS)
def test_options_hold_for_every_task_of_the_run_that_sets_no_value(
    run: Run, root: list[str]
) -> None:
    made = run(FILE, *root, *OF_RUN)
    of_run = ["container", 4, {"memory": "4g", "env": {"A": None}}]
    expected = [
        ["Raw", "t", *of_run],
        ["Priced", "priced", "process", 7, {"cpus": 1}],
        ["Clean", "t", *of_run],
        ["Clean", "given", "process", *of_run[1:]],
    ]
    if not root:
        expected.append(["RootTask", "t", *of_run])
    flows = [values(task) for task in made if isinstance(task, MetaflowTask)]
    assert sorted(flows, key=str) == sorted(expected, key=str)


def test_without_them_the_settings_hold(run: Run, tasks: Pipeline) -> None:
    (tasks.config / "base.yaml").write_text("container_kwargs: {memory: 1g}\ntimeout: 9\n")
    raw = next(task for task in run(FILE, "Wrapper") if type(task).__name__ == "Raw")
    assert values(raw) == ["Raw", "dev", "process", 9, {"memory": "1g"}]
    (raw,) = run(FILE, "Raw", "--container-kwargs", '{"cpus": 2}')
    assert values(raw)[-1] == {"memory": "1g", "cpus": 2}, "like all settings, they are merged"


def test_an_option_is_also_the_named_tasks_where_that_has_such_a_parameter(run: Run) -> None:
    (task,) = run(FILE, "Priced", "--flow-tag", "t", "--timeout", "3")
    assert values(task) == ["Priced", "t", "process", 3, {"cpus": 1}]
    (task,) = run(FILE, "Raw", "--timeout", "1.5m")
    assert values(task)[3] == 90
    (task,) = run(FILE, "Raw", "--flow-tag", "", "--timeout", "")
    assert values(task) == ["Raw", "dev", "process", None, {}]
    plain: Any = run(FILE, "Plain", "--needed", "x", "--flow-tag", "t")[-1]
    assert plain.flow_tag == "t"


@pytest.mark.parametrize("root", ROOTS)
def test_force_upstream_forces_every_flow_whatever_the_named_task_is(
    run: Run, root: list[str]
) -> None:
    for task in run(FILE, *root):
        if isinstance(task, MetaflowTask):
            mark_done(task)
    assert all(task.complete() for task in run(FILE, *root))
    *upstream, last = run(FILE, *root, "--force-upstream")
    assert not [task for task in (*upstream, last) if task.complete()]
    for task in (*upstream, last):
        if isinstance(task, MetaflowTask):
            mark_done(task, written=time.time())
            Register.clear_instance_cache()  # as in a worker process that makes its tasks anew
            assert all(each.complete() for each in task.requires())
    if root:
        assert last.complete()
    (only_one, *others) = reversed(run(FILE, "Clean", "--force"))
    assert not only_one.complete()
    assert all(task.complete() for task in others)


def test_force_upstream_is_refused_where_a_finished_task_hides_a_flow(
    run: Run, capfd: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    raw, _ = run(FILE, "Publish", "--force-upstream")
    assert not raw.complete()
    Path("page.html").touch()
    assert main(["run", FILE, "Publish", "--force-upstream"]) == 2
    cause, hint = capfd.readouterr().err.splitlines()
    assert cause.endswith(
        "Publish() is done and runs no flow, so what it requires would not run again"
    )
    assert hint == "hint: delete its output first: page.html"
    assert run(FILE, "Publish")[-1].complete()


@pytest.mark.parametrize("options", [OF_RUN, []], ids=["with options", "without"])
@pytest.mark.parametrize("name", ["Raw", "Priced", "Clean", "RootTask"])
def test_the_command_of_a_retry_names_the_same_task_and_what_it_requires(
    run: Run, name: str, options: list[str]
) -> None:
    def seen(task: luigi.Task) -> list[Any]:
        each = values(task)
        return [task.task_id, *each[:3], each[4], *map(seen, task.requires())]

    for task in run(FILE, *options):
        if type(task).__name__ == name:
            before, arguments = seen(task), run_arguments(task)
            assert seen(run(*arguments)[-1]) == before, shlex.join(arguments)


@pytest.mark.parametrize(
    ("options", "flow"),
    [
        (["--flow-tag", "t", "--runner", "container"], True),
        (["--container-kwargs", '{"env": {"B": null}}'], True),
        (["--container-kwargs", '{"env": {"B": "secret"}}'], False),
    ],
)
def test_the_command_of_a_retry_has_the_options_unless_they_may_be_secret(
    run: Run, options: list[str], flow: bool
) -> None:
    for name in (["small.py"], [FILE, "Raw"]):
        (task,) = run(*name, *options)
        assert run_arguments(task) == ([*name, *options] if flow else [])


@pytest.mark.parametrize(
    ("options", "cause"),
    [
        (["--runner", "docker"], "--runner docker: .*; it is 'process' or 'container'"),
        (["--timeout", "soon"], "--timeout 'soon': 'soon' is not seconds"),
        (["--timeout", "-3"], "--timeout -3: .* > 0"),
        (["--flow-tag", "a/b"], "flow_tag 'a/b' must be letters"),
        (["--container-kwargs", "{bad"], "--container-kwargs '{bad' must be JSON, e.g. "),
        (["--container-kwargs", '{"mem": 1}'], "unknown field `mem`\nhint: container_kwargs may "),
        (["--runner"], "argument --runner: expected one argument"),
        (["--force"], "there is no option --force; .*\nWrapper has: .*; every run: --flow-tag, "),
        (["--flow-t", "x"], "there is no option --flow-t; did you mean --flow-tag?"),
        (["--runn=container"], "there is no option --runn; did you mean --runner?"),
        (["--time", "2h"], "there is no option --time; did you mean --timeout?"),
    ],
)
def test_a_wrong_option_of_a_run_is_explained_before_anything_runs(
    tasks: Pipeline, capfd: pytest.CaptureFixture[str], options: list[str], cause: str
) -> None:
    assert main(["run", FILE, "Wrapper", *options]) == 2
    output = capfd.readouterr().err
    assert re.search(cause, output), output
    assert len(output.splitlines()) <= 3


@pytest.mark.parametrize(
    ("options", "cause"),
    [
        (["--runner", "foo"], "--runner foo: .*; it is 'process' or 'container'"),
        (["--timeout", "0"], "--timeout 0: .* > 0"),
        (["--flow-tag", "a/b"], "flow_tag 'a/b' must be letters"),
        (["--container-kwargs", '{"mem": 1}'], "unknown field `mem`\nhint: container_kwargs may "),
        (["--container-kwargs", '{"cpus": "many"}'], "container_kwargs: .*cpus"),
        (["--flow-t", "x"], "there is no option --flow-t; did you mean --flow-tag?"),
    ],
)
def test_a_wrong_option_of_a_run_is_explained_although_nothing_is_to_be_done(
    tasks: Pipeline,
    capfd: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    options: list[str],
    cause: str,
) -> None:
    monkeypatch.chdir(tasks.root)
    Path("page.html").touch()
    assert main(["run", FILE, "Publish", *options]) == 2
    output = capfd.readouterr().err
    assert re.search(cause, output), output


@pytest.mark.parametrize("word", ["--flow-tag", "--options_tasks.Raw-flow-tag", "--forc"])
def test_the_beginning_of_an_option_is_refused_for_a_flow_too(
    run: Run, capfd: pytest.CaptureFixture[str], word: str
) -> None:
    of_class = f"--{option(NAME + '.Raw-flow-tag').lstrip('-')}"
    assert values(run(FILE, "Raw", of_class, "t")[0])[1] == "t", "Luigi's option for one class"
    for name in (of_class[:-1], word[:-1]):
        assert main(["run", FILE, "Raw", name, "t"]) == 2
        assert f"there is no option {name}" in capfd.readouterr().err


@pytest.mark.parametrize(
    ("words", "own"),
    [
        ([FILE, "Plain"], {"--day", "--count", "--needed"}),
        ([FILE, "Wrapper"], set()),
        ([FILE, "Clean"], {"--flow-kwargs", "--from-run", "--force", "--rebuild-base"}),
        (["small.py"], {"--flow-kwargs", "--from-run", "--force", "--rebuild-base"}),
    ],
)
def test_help_of_a_task_is_one_screen_with_each_option_once(
    tasks: Pipeline, capfd: pytest.CaptureFixture[str], words: list[str], own: set[str]
) -> None:
    assert main(["run", *words, "--help"]) == 0
    text = capfd.readouterr().out
    options = re.findall(r"(?m)^ +(--[\w.-]+)", text)
    assert sorted({*options}) == sorted(options)
    of_run = {"--flow-tag", "--runner", "--timeout", "--container-kwargs", "--force-upstream"}
    assert own | of_run <= {*options}
    assert not [each for each in options if "Root" in each or "." in each or "flow-path" in each]
    assert len(text.splitlines()) < 40
    assert "--help-all" in text
    if "Plain" in words:
        assert re.search(r"--day 2026-01-31 +100% of that day; default: 2026-01-02\n", text)
        assert re.search(r"--count 3 +default: 0\n", text)
        assert re.search(r"--needed VALUE +required\n", text)
        assert "\nNot a flow.\n" in text
    assert ("\nParameters of small.py, for --flow-kwargs: day\n" in text) == bool(
        {"Clean", "small.py"} & {*words}
    )


class Size(enum.Enum):
    SMALL = 1
    LARGE = 2


@pytest.mark.parametrize(
    ("parameter", "text"),
    [
        (luigi.DateParameter(), "2026-01-31"),
        (luigi.MonthParameter(), "2026-01"),
        (luigi.DateHourParameter(), "2026-01-31T08"),
        (luigi.OptionalIntParameter(), "3"),
        (luigi.FloatParameter(), "0.5"),
        (luigi.ListParameter(), """'["a", "b"]'"""),
        (luigi.TupleParameter(), """'["a", "b"]'"""),
        (luigi.TimeDeltaParameter(), "2h"),
        (luigi.DateIntervalParameter(), "2026-01-01-2026-01-31"),
        (luigi.BoolParameter(parsing="explicit"), "true|false"),
        (luigi.EnumParameter(enum=Size), "SMALL|LARGE"),
        (dict(MetaflowTask.get_params())["timeout"], "2h"),
        (luigi.Parameter(), "VALUE"),
    ],
)
def test_help_has_an_example_of_a_value_that_the_option_takes(
    parameter: luigi.Parameter[Any], text: str
) -> None:
    assert example(parameter) == text
    for word in () if text == "VALUE" else text.split("|"):
        parameter.parse(*shlex.split(word))


def test_help_names_a_parameter_of_the_flow_once(
    tasks: Pipeline, capfd: pytest.CaptureFixture[str]
) -> None:
    tasks.add_flow(parameters="day = Parameter('day')\n    top_n = Parameter('top-n')")
    for task, line in {
        "Own": "Parameters of small.py, for --flow-kwargs: day\n",
        "OwnAll": "Parameters of",
        "Raw": "Parameters of small.py, for --flow-kwargs: day, top-n\n",
    }.items():
        assert main(["run", FILE, task, "--help"]) == 0
        assert (line in capfd.readouterr().out) == (task != "OwnAll")


def test_luigis_own_command_keeps_luigis_meaning(tasks: Pipeline) -> None:
    """There, an option is of the named task alone."""
    assert PREFIX not in "".join(os.environ)
    arguments = ["--module", NAME, f"{NAME}.RootTask", "--flow-tag", "t"]
    with luigi.cmdline_parser.CmdlineParser.global_instance(arguments) as parser:
        task = parser.get_task_obj()
        assert (task.flow_tag, task.requires()[0].flow_tag) == ("t", "dev")
