"""`nox -s run`: how its arguments name what to run, and what it says of runs and mistakes."""

from __future__ import annotations

import itertools
import logging
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import ModuleType

import luigi
import pytest
from sales_pipelines import tasks as tasks_package
from sales_pipelines.runtime import FlowFailedError, MetaflowTask, paths
from sales_pipelines.runtime.__main__ import main
from sales_pipelines.runtime.commands import failures
from sales_pipelines.runtime.commands.run import (
    UsageError,
    family,
    in_order,
    to_luigi,
    without_traceback,
)

from .conftest import Pipeline, ends, start


@pytest.fixture
def tasks(pipeline: Pipeline, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = paths.PACKAGE / "tasks"
    made = pipeline.root / folder.relative_to(paths.PACKAGE.parent)
    made.mkdir(parents=True)
    monkeypatch.setattr(paths, "PACKAGE", made.parent)
    monkeypatch.setattr(paths, "TASKS", made)
    (made / "__init__.py").touch()
    return made


def in_a_process(pipeline: Pipeline, *arguments: str) -> subprocess.Popen[str]:
    """Start main() in a process of its own, for which the pipeline is the repo."""
    code = (
        "import pathlib, sys\n"
        "from sales_pipelines.runtime import paths\n"
        "paths.ROOT, paths.FLOWS = map(pathlib.Path, sys.argv[1:3])\n"
        "from sales_pipelines.runtime.__main__ import main\n"
        'sys.exit(main(["run", *sys.argv[3:]]))\n'
    )
    return subprocess.Popen(
        [sys.executable, "-c", code, str(pipeline.root), str(pipeline.flows), *arguments],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )


def test_a_flow_is_named_by_its_path(pipeline: Pipeline, monkeypatch: pytest.MonkeyPatch) -> None:
    path = pipeline.add_flow("group/small.py")
    expected = ("MetaflowTask", ["--flow-path", path, "--force"])
    assert to_luigi([path, "--force"])[1:] == expected
    monkeypatch.chdir(pipeline.root)
    assert to_luigi([f"flows/{path}", "--force"])[1:] == expected, "as a shell completes it"


def test_tasks_are_named_by_their_module(pipeline: Pipeline, tasks: Path) -> None:
    (tasks / "sales.py").touch()
    module = f"{paths.PACKAGE.name}.tasks.sales"
    assert to_luigi(["sales.py"]) == (module, "RootTask", [])
    assert to_luigi(["sales.py", "Weekly", "--local"]) == (module, "Weekly", ["--local"])
    assert to_luigi([]) == (module, "RootTask", []), "the only one needs no name"
    assert to_luigi(["--workers", "2"]) == (module, "RootTask", ["--workers", "2"])


def test_two_modules_may_have_tasks_of_one_name(tmp_path: Path) -> None:
    folder = tmp_path / "some_tasks"
    folder.mkdir()
    (folder / "__init__.py").write_text(Path(str(tasks_package.__file__)).read_text())
    for name in ("one", "two"):
        (folder / f"{name}.py").write_text("import luigi\nclass RootTask(luigi.Task): pass\n")
    code = (
        "from some_tasks import one, two\n"
        "from sales_pipelines.runtime.commands.run import family\n"
        "print(family('some_tasks.one', 'RootTask'), family('some_tasks.two', 'RootTask'))\n"
    )
    output = subprocess.check_output([sys.executable, "-c", code], cwd=tmp_path, text=True)
    assert output.split() == ["some_tasks.one.RootTask", "some_tasks.two.RootTask"]


def test_it_runs_and_reports_what_came_of_it(
    pipeline: Pipeline, capfd: pytest.CaptureFixture[str]
) -> None:
    path = pipeline.add_flow(talks=True, end="self.luigi_result = dict(rows=3)")
    assert main(["run", path]) == 0
    out, err = capfd.readouterr()
    lines = out.splitlines()
    assert any(line.startswith("small.py | ") and "Task is starting" in line for line in lines)
    assert any(line.startswith("small.py: SmallFlow/") for line in lines)
    assert "  rows: 3" in lines
    assert "nothing to do" not in err
    assert (pipeline.root / ".metaflow/luigi-locks/dev").is_dir(), "not in /tmp, for all users"
    _, again = in_a_process(pipeline, path).communicate()
    assert "run: nothing to do; --force runs it again" in again


@pytest.mark.parametrize(
    ("arguments", "cause"),
    [
        ([], "say what to run: nox -s run -- FILE"),
        (["nope.py"], "there is no 'nope.py' below flows/ or tasks/"),
        (["Nope"], "there is no 'Nope' below flows/ or tasks/"),
        (["flows/smal.py"], "; did you mean small.py?"),
        (["small.py", "More"], "'More': only options can follow the file of a flow"),
    ],
)
def test_a_mistake_is_explained_with_what_there_is_to_run(
    pipeline: Pipeline,
    tasks: Path,
    capfd: pytest.CaptureFixture[str],
    arguments: list[str],
    cause: str,
) -> None:
    pipeline.add_flow("small.py")
    for name in ("one.py", "two.py"):
        (tasks / name).touch()
    assert main(["run", *arguments]) == 2
    message = capfd.readouterr().err
    assert cause in message
    assert "Traceback" not in message


def test_a_wrong_setting_is_reported_before_anything_runs(
    pipeline: Pipeline, capfd: pytest.CaptureFixture[str]
) -> None:
    (pipeline.config / "base.yaml").write_text("timout: 3\n")
    assert main(["run", pipeline.add_flow()]) == 2
    cause, hint = capfd.readouterr().err.splitlines()
    assert cause.endswith("did you mean timeout?")
    assert hint.startswith("hint: the settings are env, ")


def test_a_datastore_without_a_bucket_is_reported_before_anything_runs(
    pipeline: Pipeline, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("METAFLOW_DEFAULT_DATASTORE", "s3")
    assert main(["run", pipeline.add_flow()]) == 2
    message = capfd.readouterr().err
    assert "METAFLOW_DATASTORE_SYSROOT_S3 is not set" in message
    assert len(message.splitlines()) == 2  # the cause and the hint


def test_a_missing_flow_that_a_task_requires_is_reported_before_anything_runs(
    pipeline: Pipeline, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    def requires(task: MetaflowTask) -> list[MetaflowTask]:
        return [] if task.flow_path == "missing.py" else [MetaflowTask("missing.py")]

    monkeypatch.setattr(MetaflowTask, "requires", requires)
    assert main(["run", pipeline.add_flow()]) == 2
    out, err = capfd.readouterr()
    assert "there is no" in err
    assert "small.py |" not in out


def test_help_explains_the_arguments_and_lists_what_there_is_to_run(
    pipeline: Pipeline, tasks: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    (tasks / "sales.py").touch()
    pipeline.add_flow("sales/clean.py")
    assert main(["run", "--help"]) == 0
    output = capfd.readouterr().out
    assert "nox -s run -- [FILE [TASK]]" in output
    assert "Modules of tasks: sales.py\nFlows: sales/clean.py" in output
    options = re.findall(r"--([a-z-]+)", output.partition("Luigi's own")[0])
    assert {option.replace("-", "_") for option in options} <= {*dict(MetaflowTask.get_params())}


@pytest.mark.parametrize(
    ("options", "cause"),
    [
        (["--flow-kwargs", "{bad"], """--flow-kwargs '{bad' must be JSON, e.g. '{"name": 1}'"""),
        (["--timeout", "soon"], "--timeout 'soon': 'soon' is not seconds, or a number"),
        (["--workers", "many"], "--workers 'many': invalid literal for int"),
        (["--day", "3"], "there is no option --day\nMetaflowTask has: --flow-kwargs, "),
        (["--foce"], "there is no option --foce; did you mean --force?"),
        (["--work=3"], "there is no option --work; did you mean --workers?"),
        (
            ["--module", "small"],
            "--module is for the bare `luigi` command\nhint: nox -s run -- FILE",
        ),
        (["--day", "3"], """hint: set the flow's own parameters with --flow-kwargs '{"name"""),
    ],
)
def test_a_wrong_option_is_explained_without_a_traceback(
    pipeline: Pipeline, capfd: pytest.CaptureFixture[str], options: list[str], cause: str
) -> None:
    assert main(["run", pipeline.add_flow(), *options]) == 2
    output = capfd.readouterr().err
    assert cause in output
    assert "Traceback" not in output
    assert "usage:" not in output


TASKS = """
import luigi
class Required(luigi.Task):
    def complete(self):
        return True
class RootTask(luigi.WrapperTask):
    def requires(self):
        return REQUIRED()
"""


def test_a_mistake_in_a_task_is_shown_from_the_user_s_line_on(
    monkeypatch: pytest.MonkeyPatch, tasks: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.syspath_prepend(str(tasks.parent.parent))
    module = ModuleType("some_tasks")
    file = tasks / "sales.py"
    file.write_text(TASKS)
    exec(compile(TASKS, str(file), "exec"), vars(module))
    monkeypatch.setitem(sys.modules, f"{paths.PACKAGE.name}.tasks.sales", module)
    assert main(["run", "sales.py"]) == 2
    output = capfd.readouterr().err.splitlines()
    assert output[0] == "Traceback (most recent call last):"
    assert output[1].endswith('sales.py", line 8, in requires')
    assert output[-2] == (
        f"run: RootTask().requires(): NameError: name 'REQUIRED' is not defined, at {file}, line 8"
    )
    assert output[-1] == "run: correct that, and the same command runs what is not done yet"


CHAIN = """
import datetime

import luigi

from sales_pipelines.runtime import MetaflowTask, repo_root


class Noted(luigi.Task):
    day = luigi.DateParameter(datetime.date(2026, 1, 3))

    def output(self):
        return luigi.LocalTarget(str(repo_root() / f"{self.day}.txt"))

    def run(self):
        with self.output().open("w") as file:
            file.write("noted")


class RootTask(Noted):
    def requires(self):
        return [RootTask(self.day - datetime.timedelta(days=1)), Broken(self.day)]


class Broken(Noted):
    def complete(self):
        return True

    def requires(self):
        raise LookupError("no such customer")


class Clean(MetaflowTask):
    flow_path = "small.py"
"""


def test_a_task_may_require_itself_for_the_day_before(
    pipeline: Pipeline,
    monkeypatch: pytest.MonkeyPatch,
    tasks: Path,
    capfd: pytest.CaptureFixture[str],
) -> None:
    """A day that is complete ends the chain, and is asked for nothing."""
    monkeypatch.syspath_prepend(str(tasks.parent.parent))
    module = ModuleType(f"{paths.PACKAGE.name}.tasks.sales")
    (tasks / "sales.py").write_text(CHAIN)
    monkeypatch.setitem(sys.modules, module.__name__, module)
    exec(compile(CHAIN, str(tasks / "sales.py"), "exec"), vars(module))
    (pipeline.root / "2026-01-01.txt").touch()
    assert main(["run", "sales.py"]) == 0
    made = sorted(file.name for file in pipeline.root.glob("*.txt"))
    assert made == ["2026-01-01.txt", "2026-01-02.txt", "2026-01-03.txt"]
    assert "2026-01-03.txt" in capfd.readouterr().out
    assert main(["run", "sales.py", "--no-lock"]) == 0  # this process has the lock
    out, err = capfd.readouterr()
    assert f"{paths.PACKAGE.name}.tasks.sales.RootTask: {pipeline.root}/2026-01-03.txt" in out
    assert "2026-01-02.txt" not in out, "what is done was not asked what it requires"
    assert "run: nothing to do; --force-upstream runs all flows again; nox -s run -- FILE" in err
    assert err.rstrip().endswith(" TASK Clean")


FAILING = """
import luigi
from sales_pipelines.runtime import MetaflowTask

class RootTask(luigi.WrapperTask):
    def requires(self):
        return MetaflowTask("small.py")
"""


def test_how_to_start_afresh_is_said_for_the_task_that_was_named(
    pipeline: Pipeline,
    monkeypatch: pytest.MonkeyPatch,
    tasks: Path,
    capfd: pytest.CaptureFixture[str],
) -> None:
    pipeline.add_flow(start="raise ValueError(3)")
    (pipeline.root / "pyproject.toml").write_text('[project]\nversion = "2026.11.0"\n')
    monkeypatch.syspath_prepend(str(tasks.parent.parent))
    module = ModuleType(f"{paths.PACKAGE.name}.tasks.failing")
    (tasks / "failing.py").write_text(FAILING)
    monkeypatch.setitem(sys.modules, module.__name__, module)
    exec(compile(FAILING, str(tasks / "failing.py"), "exec"), vars(module))
    assert main(["run", "failing.py"]) != 0
    assert "resumes what failed; --force-upstream starts afresh\n" in capfd.readouterr().err


ENDINGS = """
import luigi
from luigi.tools.range import RangeDaily
from sales_pipelines.runtime import MetaflowTask

class Plain(luigi.Task):
    n = luigi.IntParameter(default=3)
    def run(self):
        raise ValueError("no such file")

class Unknown(luigi.Task):
    def complete(self):
        raise LookupError("no such table")

class NeedsUnknown(Plain):
    def requires(self):
        return Unknown()

class BadParameters(MetaflowTask):
    flow_path = "small.py"
    def parameters(self):
        raise KeyError("no such customer")

class Regional(MetaflowTask):
    flow_path = "small.py"
    region = luigi.Parameter(default="north")
    day = luigi.DateParameter()

class Needing(MetaflowTask):
    flow_path = "small.py"
    day = luigi.DateParameter()
    region = luigi.Parameter()
"""
NUMBERS = itertools.count()
RANGE = ["RangeDaily", "--start", "2026-01-01", "--stop", "2026-01-02", "--days-back", "9999"]


@pytest.fixture
def endings(pipeline: Pipeline, monkeypatch: pytest.MonkeyPatch, tasks: Path) -> Path:
    """The file of these tasks; the name of their module is another in each test."""
    pipeline.add_flow()
    (pipeline.root / "pyproject.toml").write_text('[project]\nversion = "2026.11.0"\n')
    monkeypatch.syspath_prepend(str(tasks.parent.parent))
    file = tasks / f"endings{next(NUMBERS)}.py"
    module = ModuleType(f"{paths.PACKAGE.name}.tasks.{file.stem}")
    file.write_text(ENDINGS)
    monkeypatch.setitem(sys.modules, module.__name__, module)
    exec(compile(ENDINGS, str(file), "exec"), vars(module))
    return file


@pytest.mark.parametrize(
    ("name", "why", "line"),
    [
        ("Plain", "Plain n=3: ValueError: no such file", 9),
        ("Unknown", "{module}Unknown().complete(): LookupError: no such table", 13),
        ("NeedsUnknown", "{module}Unknown().complete(): LookupError: no such table", 13),
        ("BadParameters", "BadParameters: KeyError: 'no such customer'", 22),
    ],
)
def test_a_run_ends_with_the_task_that_failed_and_what_to_do(
    endings: Path, capfd: pytest.CaptureFixture[str], name: str, why: str, line: int
) -> None:
    assert main(["run", endings.name, name, "--no-lock"]) != 0
    todo, cause = capfd.readouterr().err.splitlines()[-2:]
    assert todo == "run: correct that, and the same command runs what is not done yet"
    module = f"{paths.PACKAGE.name}.tasks.{endings.stem}."
    assert cause.replace(module, "{module}") == f"run: {why}, at {endings}, line {line}"


def test_status_shows_a_flow_that_was_not_started_because_of_its_parameters(
    endings: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    assert main(["run", endings.name, "BadParameters", "--no-lock"]) != 0
    capfd.readouterr()
    assert main(["status"]) == 0
    lines = capfd.readouterr().out.partition("last runs")[2].splitlines()
    assert re.search(r"failed .* small.py BadParameters  dev  before there was a run$", lines[0])
    assert [line.strip() for line in lines[1:3]] == [
        "KeyError: 'no such customer'",
        f"run it alone: nox -s run -- {endings.name} BadParameters",
    ]


@pytest.mark.parametrize(
    ("options", "cause"),
    [
        (["--of", "{module}.Regional"], r"the 'day' parameter.*\nhint: --param-name NAME"),
        (
            ["--of", "{module}.Needing"],
            r"the 'region' parameter.*\nhint: .*--of-params '{",
        ),
        (
            ["--of", "Regional"],
            r"there is no such task; did you mean .*\.Regional",
        ),
        (["--of", "Regnal"], r"--of 'Regnal': there is no such task$"),
    ],
)
def test_a_wrong_range_of_days_is_explained_without_a_traceback(
    endings: Path, capfd: pytest.CaptureFixture[str], options: list[str], cause: str
) -> None:
    module = f"{paths.PACKAGE.name}.tasks.{endings.stem}"
    options = [each.replace("{module}", module) for each in options]
    assert main(["run", endings.name, *RANGE, *options]) == 2
    output = capfd.readouterr().err.strip()
    assert re.search(cause.replace("{module}", module), output), output
    assert len(output.splitlines()) <= 2


@pytest.mark.parametrize(
    ("text", "cause"),
    [
        (
            "[DEFAULT]\na = /b\n[{module}.Plain]\nn = many",
            r"\[{module}\.Plain\] n: invalid literal for int",
        ),
        ("[{module}.Plain]\nnn = 3", r"\[{module}\.Plain\] nn: Plain has no .*; did you mean n\?$"),
        ("[worker]\nkeep_alive = maybe", r"\[worker\] keep_alive: .* 'maybe' as bool"),
        ("[scheduler]\nretry_count = 1.5", r"\[scheduler\] retry_count: invalid literal"),
        ("[MetaflowTask]\ntimeout = soon", r"\[MetaflowTask\] timeout: 'soon' is not seconds"),
        ("[MetaflowTask]\nflow_tag = %x", r"\[MetaflowTask\] flow_tag: '%' must be followed"),
    ],
)
def test_a_wrong_value_in_luigi_cfg_is_named(
    endings: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
    text: str,
    cause: str,
) -> None:
    module = f"{paths.PACKAGE.name}.tasks.{endings.stem}"
    config = luigi.configuration.LuigiConfigParser()
    config.read_string(text.replace("{module}", module))
    monkeypatch.setattr(luigi.configuration, "get_config", lambda: config)
    assert main(["run", endings.name, "Plain"]) == 2
    output = capfd.readouterr().err.strip()
    assert re.search(f"^run: luigi.cfg: {cause.replace('{module}', module)}", output), output
    assert len(output.splitlines()) == 1


@pytest.mark.parametrize(
    ("text", "cause"),
    [
        ("[worker\n", "no section headers"),
        ("[worker]\n[worker]\n", "section 'worker' already exists"),
        ("[worker]\nforce_multiprocessing\n", "parsing errors: "),
    ],
)
def test_a_luigi_cfg_that_cannot_be_read_is_named(
    pipeline: Pipeline, text: str, cause: str
) -> None:
    path = pipeline.add_flow()
    (pipeline.root / "luigi.cfg").write_text(text)
    running = start(pipeline.root, "run", path)
    output, _ = running.communicate()
    assert running.returncode == 2
    assert cause in output
    assert "luigi.cfg" in output
    assert "\nhint: in luigi.cfg a section is [NAME], once, and each line NAME = VALUE" in output
    assert "Traceback" not in output


class Hungry(luigi.Task):
    """A task whose author forgot something."""

    required = luigi.Parameter()

    def requires(self) -> object:
        return {"a class": luigi.Task, "a path": "sales/clean.py", "a list": [3]}[self.required]


@pytest.mark.parametrize("required", ["a class", "a path", "a list"])
def test_what_a_task_requires_must_be_tasks(required: str) -> None:
    with pytest.raises(UsageError, match=r"^Hungry.requires\(\) returns .* no task\nhint: return"):
        in_order(Hungry(required=required))


def test_a_link_below_flows_is_run_by_its_own_name(pipeline: Pipeline, tmp_path: Path) -> None:
    path = pipeline.add_flow()
    target = (pipeline.flows / path).rename(tmp_path / "elsewhere.py")
    (pipeline.flows / "link.py").symlink_to(target)
    assert to_luigi(["link.py"])[2] == ["--flow-path", "link.py"]


def test_an_unknown_command_is_named_with_those_that_there_are(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert main(["staus"]) == 2
    printed = capsys.readouterr().err
    assert printed.startswith("there is no command 'staus'; did you mean status?\nusage: ")
    assert re.search(r"(?m)^  clean +delete ", printed)
    assert main(["--help"]) == 0
    assert capsys.readouterr().out.startswith("usage: ")


def test_a_scheduler_that_does_not_answer_is_reported_with_the_way_out() -> None:
    text = "Failed connecting to remote scheduler %r"
    nothing = (None, None, None)
    record = logging.LogRecord("", logging.WARNING, "", 0, text, ("http://here:8082",), nothing)
    assert without_traceback(record)
    assert record.getMessage() == (
        "Failed connecting to remote scheduler 'http://here:8082'; "
        "start it: luigid, or set local_scheduler = true in luigi.cfg"
    )
    assert not record.exc_info


def test_luigi_s_own_help_is_passed_on(pipeline: Pipeline) -> None:
    run = in_a_process(pipeline, pipeline.add_flow(), "--help")
    _, output = run.communicate()
    assert run.returncode == 0, output
    assert "Traceback" not in output


def test_a_module_says_which_tasks_it_has(monkeypatch: pytest.MonkeyPatch) -> None:
    module = ModuleType("some_tasks")
    source = "import luigi\nclass RootTask(luigi.Task): pass\nclass Weekly(luigi.Task): pass"
    exec(source, vars(module))
    monkeypatch.setitem(sys.modules, "some_tasks", module)
    for name, close in {"Rot": "", "Wekly": "; did you mean Weekly?"}.items():
        with pytest.raises(UsageError) as refused:
            family("some_tasks", name)
        expected = f"some_tasks has no task {name}{close}\nhint: it has RootTask, Weekly"
        assert str(refused.value) == expected


@pytest.mark.parametrize("workers", ["1", "2"])
def test_a_failure_ends_with_its_cause_and_has_no_traceback_of_the_runtime(
    pipeline: Pipeline, workers: str
) -> None:
    path = pipeline.add_flow(start="print(dict()['customer'])")
    running = in_a_process(pipeline, path, "--workers", workers)
    _, output = running.communicate()
    lines = output.splitlines()
    assert running.returncode == 30, "task_failed, though this pipeline has no luigi.cfg"
    assert lines[-2] == "run: the same command resumes what failed; --force starts afresh"
    assert lines[-1].startswith("run: small.py failed in step `start`")
    assert lines[-1].endswith("KeyError: 'customer'")
    assert not [line for line in lines if "luigi/worker.py" in line or "/metaflow/" in line]
    assert [line for line in lines if "flows/small.py" in line], "the user's own line"


DEEP = """
import threading, time
def deep(n):
    if n:
        return deep(n - 1) + wide(n)
    raise LookupError("no such\\n\\ncustomer")
wide = lambda n: n
def talk():
    while True:
        print("row", flush=True)
LOUD
deep(90)
"""
ROWS = "print(*range(5000), sep=chr(10), file=sys.{})"


@pytest.mark.parametrize(
    "loud",
    [
        pytest.param(ROWS.format("stdout"), id="stdout"),
        pytest.param(ROWS.format("stderr"), id="stderr"),
        pytest.param("threading.Thread(target=talk, daemon=True).start()", id="a thread"),
        pytest.param(
            f"import atexit; atexit.register(lambda: {ROWS.format('stderr')})",
            id="at exit",
        ),
    ],
)
def test_a_step_that_prints_much_and_raises_is_reported_with_its_traceback_and_cause(
    pipeline: Pipeline, capfd: pytest.CaptureFixture[str], loud: str
) -> None:
    start = f"import sys\n{DEEP.replace('LOUD', loud)}"
    task = MetaflowTask(pipeline.add_flow(start=start))
    with pytest.raises(FlowFailedError) as error:
        task.run()
    first, *traceback = str(error.value).splitlines()
    assert first.startswith("small.py failed in step `start` (task ")
    assert traceback[0] == "Traceback (most recent call last):"
    assert [line for line in traceback if line.endswith("in deep")]
    assert traceback[-2:] == ["LookupError: no such", "customer"]
    assert not [line for line in traceback if line.isdigit() or line == "row"]
    assert failures.one_line(error.value).endswith(": exit code 1: LookupError: no such")
    capfd.readouterr()
    assert main(["status"]) == 0
    assert "LookupError: no such" in [line.strip() for line in capfd.readouterr().out.splitlines()]


def test_a_worker_that_is_killed_is_reported_at_the_end(pipeline: Pipeline) -> None:
    task = MetaflowTask(pipeline.add_flow())
    with failures.collected() as failed:
        task.trigger_event(luigi.Event.PROCESS_FAILURE, task, "small died with exit code -9")
    assert failed == [failures.Failure("small died with exit code -9", is_resumed=True)]


def test_a_marker_that_cannot_be_read_is_reported_without_a_traceback(pipeline: Pipeline) -> None:
    path = pipeline.add_flow()
    Path(MetaflowTask(path).output().path).mkdir(parents=True)
    running = in_a_process(pipeline, path)
    _, output = running.communicate()
    assert running.returncode not in (0, None)
    assert "Traceback" not in output
    assert [line for line in output.splitlines() if "cannot be read: Is a directory" in line]


SLEEPER = """
import os, pathlib, time
pathlib.Path("step.pid").write_text(str(os.getpid()))
time.sleep(120)
"""


def test_a_stop_leaves_no_process_and_no_marker(pipeline: Pipeline) -> None:
    path = pipeline.add_flow(start=SLEEPER)
    run = in_a_process(pipeline, path, "--workers", "2")
    pid_file = pipeline.root / "step.pid"
    deadline = time.monotonic() + 30
    while not (pid_file.exists() and pid_file.read_text()):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    run.send_signal(signal.SIGINT)
    _, output = run.communicate(timeout=30)
    assert run.returncode == 130
    assert "run: stopped; the same command resumes what was running" in output.splitlines()
    assert ends(int(pid_file.read_text()), within=10)
    assert not list((pipeline.root / ".metaflow").rglob("MetaflowTask*.json"))
