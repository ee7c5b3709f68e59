"""What `nox -s run` shows on a terminal, and that it prints as before where there is none."""

from __future__ import annotations

import datetime
import json
import os
import re
import signal
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import luigi
import pytest
from luigi.parameter import ParameterVisibility
from rich.cells import cell_len
from sales_pipelines.runtime import MetaflowTask, console, paths
from sales_pipelines.runtime.commands import events, status, view
from sales_pipelines.runtime.container import image
from sales_pipelines.runtime.errors import ImageError
from sales_pipelines.runtime.flow.output import Progress
from sales_pipelines.runtime.packages import overlay

from ..conftest import Terminal
from .conftest import REPO, START, Pipeline, Splitting, mark_done, wait_until

TASKS = """
import datetime, os, subprocess, warnings

import luigi

from sales_pipelines.runtime import MetaflowTask


class Daily(MetaflowTask):
    flow_path = "small.py"
    day = luigi.DateParameter()


class Publish(luigi.Task):
    def requires(self):
        return [Daily(day=datetime.date(2026, 1, day)) for day in (1, 2)]

    def run(self):
        print("printed by a task")
        subprocess.run("echo printed by its child >&2", shell=True)
        warnings.warn("a warning of Python")
        self.output().makedirs()
        open(self.output().path, "w").close()

    def output(self):
        return luigi.LocalTarget("published/page")


class RootTask(luigi.WrapperTask):
    def requires(self):
        return Publish()


class Raising(luigi.Task):
    def run(self):
        raise KeyError("no such customer")


class Killed(luigi.Task):
    def run(self):
        os.kill(os.getpid(), 9)


class Broken(luigi.Task):
    def complete(self):
        raise KeyError("no such customer")


class BrokenRequires(luigi.Task):
    def requires(self):
        if os.path.isdir(".metaflow/logs"):  # Luigi asks, not the check of the command line
            raise KeyError("no such customer")
        return []
"""


@pytest.fixture
def tasks() -> Iterator[str]:
    """The name of a module of tasks, in the repo for this test alone."""
    file = REPO / "sales_pipelines" / "tasks" / "watched_tasks.py"
    file.write_text(TASKS)
    yield file.name
    file.unlink()


def run(
    pipeline: Pipeline | Splitting,
    *arguments: str,
    code: str = START,
    size: tuple[int, int] = (40, 120),
    **variables: str,
) -> Terminal:
    """Start `run …` on a terminal."""
    command = [sys.executable, "-c", code, "run", *arguments]
    environment = {name: value for name, value in os.environ.items() if name != "CI"}
    return Terminal(command, pipeline.root, {**environment, **variables}, size)


def log_of(terminal: Terminal, pipeline: Pipeline | Splitting) -> str:
    """The contents of the log that the run names, in a line of its own."""
    (name,) = re.findall(r"(?m)^log: (\S+)$", terminal.text)
    return (pipeline.root / name).read_text()


@pytest.mark.parametrize("workers", ["2", pytest.param("1", marks=pytest.mark.thorough)])
def test_each_task_has_a_line_and_all_that_is_printed_is_in_the_log(
    pipeline: Pipeline, tasks: str, workers: str
) -> None:
    pipeline.add_flow(start="print('a row')")
    terminal = run(pipeline, tasks, "--workers", workers)
    assert terminal.exit_code() == 0, terminal.text
    printed = ["a row", "printed by a task", "printed by its child", "a warning of Python"]
    printed += ["INFO: Informed scheduler", "This progress looks :)"]
    log = log_of(terminal, pipeline)
    for line in printed:
        assert line not in terminal.text
        assert line in log
    for label in ("small.py day=2026-01-01", "small.py day=2026-01-02"):
        assert re.search(rf"(?m)^done +{label} +2 of 2 steps +[0-9.]+ s", terminal.text)
    assert re.search(r"(?m)^done +Publish +[0-9.]+ s", terminal.text)
    assert "RootTask" not in terminal.text, "it does nothing"
    assert re.search(r"(?m)^3 of 3 tasks done, \d+ s$", terminal.text)
    assert terminal.text.rstrip().endswith("Publish: published/page"), "the result"
    assert len(re.findall(r"(?m)^small.py day=[0-9-]+: SmallFlow/", terminal.text)) == 2
    assert terminal.shows_cursor()


def test_the_line_of_a_flow_shows_its_steps_while_they_run(splitting: Splitting) -> None:
    splitting.tell("wait-work1")
    terminal = run(splitting, "split.py", "--workers", "2")
    line = r"running +split.py +1 of 4 steps +\d+ s +step work, 2 of 3 done"
    wait_until(lambda: re.search(line, terminal.text))
    assert re.search(r"0 of 1 task done, \d+ s; log: \.metaflow/logs/\S+\.log", terminal.text)
    terminal.resize(24, 40)
    drawn = len(terminal.text)
    # The second, because the first may have been on its way.
    wait_until(lambda: len(re.findall("(?m)^running .*$", terminal.text[drawn:])) > 1)
    assert len(re.findall("(?m)^running .*$", terminal.text[drawn:])[1]) <= 40
    splitting.tell()
    assert terminal.exit_code() == 0, terminal.text
    assert re.search(r"(?m)^done +split.py +4/4 ", terminal.text), "where it is narrow"


@pytest.mark.parametrize("workers", ["1", pytest.param("2", marks=pytest.mark.thorough)])
def test_a_flow_that_fails_is_shown_once_with_its_traceback_and_how_to_go_on(
    pipeline: Pipeline, workers: str
) -> None:
    # As markup this would be bold.
    path = pipeline.add_flow(end="print('a row')\nraise ValueError('[bold]no such customer')")
    terminal = run(pipeline, path, "--workers", workers)
    assert terminal.exit_code() == 30
    failed = re.search(
        r"(?m)^failed +small.py +1 of 2 steps +[0-9.]+ s *\n"
        r"small.py failed in step `end` \(task \d+/end/2\): exit code 1\n"
        r"Traceback \(most recent call last\):\n"
        r'  File ".*small.py", line \d+, in end\n(?:.*\n)+?'
        r"ValueError: \[bold\]no such customer\n",
        terminal.text,
    )
    assert failed, terminal.text
    assert terminal.text.count("Traceback") == 1
    assert terminal.text.count("ValueError: ") == 1
    assert "a row" in log_of(terminal, pipeline)
    assert re.search(r"(?m)^0 of 1 task done, failed: small.py, \d+ s$", terminal.text)
    last = "run: the same command resumes what failed; --force starts afresh"
    assert terminal.text.splitlines()[-1] == last


@pytest.mark.parametrize(
    ("task", "cause"),
    [
        ("Raising", "KeyError: 'no such customer'"),
        ("Killed", "died unexpectedly with exit code -9"),
        ("Broken", "KeyError: 'no such customer'"),
        ("BrokenRequires", "KeyError: 'no such customer'"),
    ],
)
def test_any_task_that_fails_is_shown_once(
    pipeline: Pipeline, tasks: str, task: str, cause: str
) -> None:
    terminal = run(pipeline, tasks, task, "--workers", "2")
    assert terminal.exit_code() != 0
    assert terminal.text.count(cause) == 1, terminal.text
    assert terminal.text.count("Traceback") == (0 if task == "Killed" else 1)
    assert cause in log_of(terminal, pipeline)


CONTROLS = r"\x1b[2J\x1b[5A\x1b]0;a title\x07\x1b]8;;https://example.org\x1b\\\x07\x1b[31m"


@pytest.mark.parametrize("arguments", [[], ["--verbose"]])
def test_what_a_flow_prints_cannot_control_the_terminal(
    pipeline: Pipeline,
    capfd: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    arguments: list[str],
) -> None:
    fails = f"text = '{CONTROLS}printed'\nprint(text)\nraise ValueError(text)"
    path = pipeline.add_flow(parameters="text = Parameter('text', default='')", end=fails)
    values = json.dumps({"text": f"a value{CONTROLS}".encode().decode("unicode_escape")})
    terminal = run(pipeline, path, "--flow-kwargs", values, *arguments)
    assert terminal.exit_code() == 30
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True, raising=False)
    status.main([])
    reported = capfd.readouterr().out
    assert "text=a value" in reported
    for text in (terminal.printed, reported):
        assert "printed" in text
        for control in ("\x1b[2J", "\x1b[5A", "\x1b]", "\x07"):
            assert control not in text
    assert "\x1b[31m" not in reported.partition("printed")[2], "a cause has no colours"


@pytest.mark.parametrize("workers", ["1", "2"])
def test_ctrl_c_gives_the_cursor_back_and_the_last_line_says_how_to_go_on(
    splitting: Splitting, workers: str
) -> None:
    splitting.tell("wait-work1")
    terminal = run(splitting, "split.py", "--workers", workers)
    wait_until(lambda: "step work, 2 of 3 done" in terminal.text)
    terminal.type("\x03")
    assert terminal.exit_code() == 130
    assert terminal.shows_cursor()
    assert re.search(r"(?m)^stopped +split.py +1 of 4 steps +[0-9.]+ s", terminal.text)
    assert "failed" not in terminal.text
    assert "Traceback" not in terminal.text
    last = "run: stopped; the same command resumes what was running"
    assert terminal.text.splitlines()[-1] == last


@pytest.mark.thorough
@pytest.mark.parametrize(
    "number", [signal.SIGQUIT, pytest.param(signal.SIGKILL, marks=pytest.mark.thorough)]
)
def test_a_run_that_is_killed_has_not_hidden_the_cursor(
    splitting: Splitting, number: signal.Signals
) -> None:
    splitting.tell("wait-work1")
    terminal = run(splitting, "split.py")
    wait_until(lambda: "step work, 2 of 3 done" in terminal.text)
    if number == signal.SIGQUIT:
        terminal.type("\x1c")
    else:
        (pid,) = splitting.root.rglob("*.pid")
        os.kill(int(pid.read_text()), number)
    assert terminal.exit_code() == -number
    assert terminal.shows_cursor()


CRASHING = """
import sys
from sales_pipelines.runtime.commands import view
del view._STYLES[view.DONE]
"""


def test_where_nothing_more_can_be_shown_the_run_goes_on_and_a_line_says_why(
    pipeline: Pipeline,
) -> None:
    terminal = run(pipeline, pipeline.add_flow(), code=CRASHING + START)
    assert terminal.exit_code() == 0, terminal.text
    assert re.search(r"(?m)^nothing more is shown: KeyError: 'done'; log: \S+\.log$", terminal.text)
    assert re.search(r"(?m)^small.py: SmallFlow/", terminal.text), "the result"


@pytest.mark.thorough
def test_of_a_run_that_is_resumed_or_starts_afresh_a_line_says_so(splitting: Splitting) -> None:
    splitting.tell("fail-join")
    run(splitting, "split.py").exit_code()
    splitting.tell()
    (attempts,) = splitting.root.rglob("*.attempts")
    (attempt,) = json.loads(attempts.read_text())["runs"]
    kept = attempts.read_text()
    terminal = run(splitting, "split.py")
    assert terminal.exit_code() == 0, terminal.text
    line = f"split.py resumes run {attempt['run_id']}, of {attempt['started']}"
    assert terminal.text.splitlines().count(line) == 1
    next(splitting.root.rglob("MetaflowTask*.json")).unlink()
    attempts.write_text(kept)
    splitting.flow.write_text(splitting.flow.read_text().replace("class SplitFlow", "class Other"))
    splitting.flow.write_text(splitting.flow.read_text().replace("    SplitFlow()", "    Other()"))
    terminal = run(splitting, "split.py")
    assert terminal.exit_code() == 0, terminal.text
    assert "split.py starts afresh: SplitFlow is now Other" in terminal.text.splitlines()


WIDE = "\u62a5\u544a/\u5317\u4eac\u5317.py"


@pytest.mark.parametrize(
    ("label", "width", "line"),
    [
        ("reports/daily.py", 40, "running  …ports/daily.py   2/12  1,234 s"),
        ("reports/daily.py", 60, "running  reports/daily.py   2/12  1,234 s  step train"),
        ("reports/daily.py", 80, "running  reports/daily.py  2 of 12 steps    1,234 s  step train"),
        ("a" * 31, 80, f"running  {'a' * 31}   2/12  1,234 s  step train"),
        ("a" * 99, 80, f"running  …{'a' * 37}   2/12  1,234 s  step train"),
        ("a" * 99, 60, f"running  …{'a' * 34}   2/12  1,234 s"),
        ("\u62a5\u544a/\u4eac.py", 40, "running  \u62a5\u544a/\u4eac.py   2/12  1,234 s"),
        (
            "\u62a5\u544a/\u5317\u4eac\u5317.py",
            37,
            "running  …/\u5317\u4eac\u5317.py    2/12  1,234 s",
        ),
    ],
)
def test_of_a_name_as_much_is_shown_as_the_terminal_has_room_for(
    monkeypatch: pytest.MonkeyPatch, label: str, width: int, line: str
) -> None:
    monkeypatch.setattr(time, "time", lambda: 2234.0)
    row = view._Row(label, 1000.0, progress=Progress("step train", 2, 12))
    text = row.text(cell_len(label), width)
    assert text.plain.rstrip() == line
    assert cell_len(text.plain.rstrip()) <= width


@pytest.mark.parametrize("arguments", [[], ["--verbose"]])
def test_the_values_of_a_task_cannot_control_the_terminal(
    pipeline: Pipeline, tasks: str, arguments: list[str]
) -> None:
    file = REPO / "sales_pipelines" / "tasks" / tasks
    file.write_text(f"{TASKS}\n\n{DYNAMIC}")
    terminal = run(pipeline, tasks, "Asked", "--name", "a\x1b[5A\x1b]0;b\x07c", *arguments)
    assert terminal.exit_code() == 0, terminal.text
    assert "name=ac" in terminal.text
    assert "\x1b[5A" not in terminal.printed
    assert "\x07" not in terminal.printed


def test_a_task_that_another_requires_while_it_runs_has_its_name_whole(
    pipeline: Pipeline, tasks: str
) -> None:
    file = REPO / "sales_pipelines" / "tasks" / tasks
    file.write_text(f"{TASKS}\n\n{DYNAMIC}")
    terminal = run(pipeline, tasks, "Asking")
    assert terminal.exit_code() == 0, terminal.text
    assert re.search(rf"(?m)^done +Asked name={'x' * 50} ", terminal.text)


def test_lines_fit_a_narrow_terminal_whatever_it_can_encode(pipeline: Pipeline) -> None:
    path = pipeline.add_flow("a_folder/with_a_long_name/and_a_flow.py")
    terminal = run(pipeline, path, size=(24, 40), PYTHONIOENCODING="ascii", NO_COLOR="1")
    assert terminal.exit_code() == 0
    lines = re.findall(r"(?:running|done ) .*", terminal.text)
    assert max(map(len, lines)) <= 40
    assert [line for line in lines if "?" in line and "_flow.py" in line], "the end of its path"
    assert not re.search(r"\x1b\[[0-9;]*3\dm", terminal.printed), "NO_COLOR"


# Twenty tasks start, and the run is over.
MANY = """
import pathlib
import luigi
from sales_pipelines.runtime import paths
from sales_pipelines.runtime.commands import events, view
paths.ROOT = pathlib.Path.cwd()

class Some(luigi.Task):
    number = luigi.IntParameter()

tasks = [Some(number=number) for number in range(20)]
with events.shared(), view.shown(tasks, []):
    for task in tasks:
        task.trigger_event(luigi.Event.START, task)
"""


def test_no_more_lines_are_drawn_than_the_terminal_has(pipeline: Pipeline) -> None:
    terminal = run(pipeline, code=MANY, size=(10, 80))
    assert terminal.exit_code() == 0, terminal.text
    drawn = terminal.text.partition("log:")[0]
    assert drawn.count("running") == 8
    assert "0 of 20 tasks done" in drawn
    assert len(re.findall("(?m)^stopped +Some number=", terminal.text)) == 20


def test_events_that_a_full_disk_cut_off_hide_no_other(pipeline: Pipeline) -> None:
    with events.shared(), events.Events() as sent:
        events.send("first", "")
        with Path(os.environ["LUIGI_EVENTS"]).open("a") as file:
            file.write('["cut off", "", 1')
        events.send("second", "")
        events.send("third", "")
        assert [kind for kind, *_ in sent.new()] == ["first", "third"]


LOADED = "import atexit, sys; atexit.register(lambda: print('rich' in sys.modules))\n" + START


@pytest.mark.parametrize(
    ("arguments", "variable"),
    [(["--verbose"], ("LANG", "C")), ([], ("CI", "true")), ([], ("TERM", "dumb"))],
    ids=["--verbose", "CI", "a dumb terminal"],
)
def test_every_line_is_printed_where_that_is_asked_for(
    pipeline: Pipeline, arguments: list[str], variable: tuple[str, str]
) -> None:
    mark_done(MetaflowTask(pipeline.add_flow()))
    more = dict([variable])
    terminal = run(pipeline, "small.py", *arguments, code=LOADED, size=(40, 120), **more)
    assert terminal.exit_code() == 0
    assert "INFO: Informed scheduler" in terminal.text
    assert "log:" not in terminal.text
    assert terminal.text.splitlines()[-1] == "False", "rich is not loaded"
    assert not (pipeline.root / ".metaflow" / "logs").exists()


@pytest.mark.parametrize("stream", ["1", "2"])
def test_every_line_is_printed_where_a_stream_is_no_terminal(
    pipeline: Pipeline, stream: str
) -> None:
    mark_done(MetaflowTask(pipeline.add_flow()))
    terminal = Terminal(
        ["sh", "-c", f'"$@" {stream}>file', "sh", sys.executable, "-c", LOADED, "run", "small.py"],
        pipeline.root,
        {name: value for name, value in os.environ.items() if name != "CI"},
    )
    assert terminal.exit_code() == 0
    everything = terminal.text + (pipeline.root / "file").read_text()
    assert "INFO: Informed scheduler" in everything
    assert "False" in everything.splitlines(), "rich is not loaded"


DYNAMIC = """
class Asked(luigi.Task):
    name = luigi.Parameter()
    is_done = False

    def run(self):
        self.is_done = True

    def complete(self):
        return self.is_done


class Asking(Asked):
    name = luigi.Parameter("y")

    def run(self):
        yield Asked("x" * 50)
        self.is_done = True
"""

OWN = """
class Own(luigi.Task):
    verbose = luigi.BoolParameter()

    def run(self):
        print("verbose:", self.verbose)
"""


def test_a_task_s_own_option_verbose_reaches_it(pipeline: Pipeline, tasks: str) -> None:
    file = REPO / "sales_pipelines" / "tasks" / tasks
    file.write_text(f"{TASKS}\n\n{OWN}")
    terminal = run(pipeline, tasks, "Own", "--verbose")
    terminal.exit_code()
    assert "verbose: True" in terminal.text.splitlines()


@pytest.fixture
def reported() -> Iterator[list[Progress]]:
    """The progress that tasks of this process report."""
    progress: list[Progress] = []

    def keep(task: luigi.Task, *details: Progress) -> None:
        progress.extend(details)

    luigi.Task.event_handler(luigi.Event.PROGRESS)(keep)
    yield progress
    luigi.Task.remove_event_handler(luigi.Event.PROGRESS, keep)


def test_the_build_of_an_image_is_progress_of_its_task(
    pipeline: Pipeline, monkeypatch: pytest.MonkeyPatch, reported: list[Progress]
) -> None:
    def image_for(flow: str, *, show: Callable[[str], None], **anew: bool) -> str:
        show("building an image")
        raise ImageError("no image")

    monkeypatch.setattr(image, "image_for", image_for)
    with pytest.raises(ImageError):
        MetaflowTask(pipeline.add_flow(), runner="container").run()
    assert reported == [Progress("building an image")]


def test_the_making_of_an_overlay_is_progress_of_its_task(
    pipeline: Pipeline, monkeypatch: pytest.MonkeyPatch, reported: list[Progress]
) -> None:
    def make(folder: Path, wanted: object, flow: str, show: Callable[[str], None]) -> None:
        show("making an environment")
        folder.mkdir(parents=True)
        (folder / overlay.MADE_FROM).write_text('{"packages": []}')

    monkeypatch.setattr(overlay, "_make", make)
    pipeline.add_file("requirements.txt", "cowsay\n")
    MetaflowTask(pipeline.add_flow()).run()
    assert reported[0] == Progress("making an environment")
    assert reported[-1][1:] == (2, 2, 100), "the last report is made when the flow has ended"


def test_a_line_is_named_by_flow_and_values(pipeline: Pipeline) -> None:
    class Clean(MetaflowTask):
        flow_path = pipeline.add_flow()
        day = luigi.DateParameter()
        secret = luigi.Parameter(visibility=ParameterVisibility.PRIVATE)

    day, nested = datetime.date(2026, 1, 2), {"a": [1, {"b": None}]}
    task = Clean(day=day, secret="x", flow_kwargs={"nested": nested, "text": "two\n lines"})
    assert view.label(task) == f"small.py nested={nested} text=two lines day=2026-01-02"
    assert view.label(Clean(day=day, secret="x")) == "small.py day=2026-01-02"

    class Publish(luigi.Task):
        page = luigi.Parameter()

    assert view.label(Publish(page="x" * 99)) == f"Publish page={'x' * 60}"


@pytest.mark.parametrize(
    ("stdout", "stderr", "variables", "can"),
    [
        (True, True, {}, True),
        (False, True, {}, False),
        (True, False, {}, False),
        (True, True, {"TERM": "dumb"}, False),
        (True, True, {"CI": "1"}, False),
        (True, True, {"CI": ""}, True),
        (True, True, {"NO_COLOR": "1"}, True),
    ],
)
def test_lines_are_drawn_again_only_on_a_terminal_that_people_watch(
    monkeypatch: pytest.MonkeyPatch,
    stdout: bool,
    stderr: bool,
    variables: dict[str, str],
    can: bool,
) -> None:
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.delenv("CI", raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(sys.stdout, "isatty", lambda: stdout)
    monkeypatch.setattr(sys.stderr, "isatty", lambda: stderr)
    assert console.can_redraw() == can


def test_the_folder_of_logs_is_that_which_clean_looks_into(pipeline: Pipeline) -> None:
    assert paths.logs() == pipeline.root / ".metaflow" / "logs"
