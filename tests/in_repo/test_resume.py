"""A retry resumes the run that failed, and runs nothing twice."""

from __future__ import annotations

import contextlib
import datetime
import json
import os
import shutil
import signal
import subprocess
import time
from pathlib import Path
from typing import Any

import luigi
import pytest
from sales_pipelines.runtime import FlowFailedError, MetaflowTask, ParameterError, PipelineError
from sales_pipelines.runtime.commands.run import UsageError, in_order
from sales_pipelines.runtime.task import forcing
from sales_pipelines.runtime.task.forcing import force

from .conftest import ALL, Pipeline, Splitting, mark_done, start


def fails(splitting: Splitting, **more: object) -> None:
    with pytest.raises(FlowFailedError):
        splitting.task(**more).run()


def git(root: Path, *arguments: str) -> str:
    identity = ("-c", "user.name=a", "-c", "user.email=a@example.org")
    return subprocess.check_output(["git", "-C", str(root), *identity, *arguments], text=True)


@pytest.mark.thorough
def test_over_a_chain_of_failures_and_edits_no_finished_step_runs_again(
    splitting: Splitting,
) -> None:
    git(splitting.root, "init", "--quiet")
    commits = []
    for failing, ran in {
        "fail-work1": None,
        "fail-join": ["join", "work1"],
        "fail-end": ["end", "join"],
    }.items():
        splitting.flow.write_text(splitting.flow.read_text() + f"# edited before {failing}\n")
        git(splitting.root, "add", "flows")
        git(splitting.root, "commit", "--quiet", "--message", failing)
        commits.append(git(splitting.root, "rev-parse", "HEAD").strip())
        splitting.tell(failing)
        fails(splitting)
        if ran:
            assert splitting.ran() == ran
        else:  # its neighbours may have been done, or have been stopped
            first = set(splitting.ran())
            assert first >= {"start", "work1"}
            splitting.tell("fail-join")
            splitting.ran()
    splitting.tell()
    task = splitting.task()
    task.run()
    assert splitting.ran() == ["end"]
    marker = task.output().marker
    assert marker.result == {"total": 5}
    assert [attempt.commit for attempt in marker.resumed] == commits
    assert len({*(attempt.run_id for attempt in marker.resumed), marker.run_id}) == 4
    assert task.output().run.successful
    assert task.complete()
    assert not list(splitting.root.rglob("*.attempts"))


@pytest.mark.thorough
def test_after_a_kill_of_everything_the_finished_steps_are_still_done(splitting: Splitting) -> None:
    """As after a reboot: nothing could be written at the end."""
    splitting.tell("wait-join")
    running = start(splitting.root, "run", "split.py")
    step = splitting.process_of("join")
    for process in {step, *session_of(step)}:
        os.kill(process, signal.SIGKILL)
    os.killpg(running.pid, signal.SIGKILL)
    running.wait()
    splitting.ran()
    splitting.tell()
    task = splitting.task()
    assert not task.complete()
    task.run()
    assert splitting.ran() == ["end", "join"]
    assert len(task.output().marker.resumed) == 1


def session_of(process: int) -> list[int]:
    """The processes of the session that the process is in."""
    session = os.getsid(process)
    members = []
    for folder in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(ProcessLookupError):
            if os.getsid(int(folder.name)) == session:
                members.append(int(folder.name))
    return members


@pytest.mark.nightly
def test_a_flow_whose_finished_steps_were_renamed_needs_force(splitting: Splitting) -> None:
    splitting.tell("fail-join")
    fails(splitting)
    splitting.ran()
    splitting.tell()
    (first,) = (splitting.root / ".metaflow" / "SplitFlow").glob("[0-9]*")
    text = splitting.flow.read_text()
    splitting.flow.write_text(
        text.replace("self.work,", "self.job,").replace("def work", "def job")
    )
    with pytest.raises(FlowFailedError, match=f"having resumed run {first.name}"):
        splitting.task().run()
    splitting.task(force=True).run()
    assert splitting.ran() == ALL


@pytest.mark.thorough
def test_a_run_that_succeeded_unseen_is_taken_with_its_result(splitting: Splitting) -> None:
    """As if killed after the last step, and before the marker."""
    task = splitting.task()
    task.run()
    splitting.ran()
    marker = Path(task.output().path)
    seen = json.loads(marker.read_text())
    attempt = {name: seen[name] for name in ("run_id", "version", "branch", "commit")}
    runs = [{**attempt, "started": seen["finished"]}]
    attempts = {"flow": seen["flow"], "parameters": {}, "runs": runs}
    marker.with_suffix(".attempts").write_text(json.dumps(attempts))
    marker.unlink()
    again = splitting.task()
    again.run()
    assert splitting.ran() == []
    assert again.output().result == {"total": 5}


@pytest.mark.thorough
def test_a_run_that_was_stopped_while_it_resumed_is_not_resumed_itself(
    splitting: Splitting,
) -> None:
    splitting.tell("fail-join")
    fails(splitting)
    (kept,) = splitting.root.rglob("*.attempts")
    attempts = json.loads(kept.read_text())
    first = attempts["runs"][0]
    # Metaflow had made the run, and had taken over nothing yet.
    half = splitting.root / ".metaflow" / "SplitFlow" / "1" / "_parameters" / "1"
    half.mkdir(parents=True)
    (half / "0.DONE.lock").touch()
    attempts["runs"].append({**first, "run_id": "1"})
    kept.write_text(json.dumps(attempts))
    splitting.ran()
    splitting.tell()
    task = splitting.task()
    task.run()
    assert splitting.ran() == ["end", "join"]
    assert [attempt.run_id for attempt in task.output().marker.resumed] == [first["run_id"], "1"]


@pytest.mark.thorough
@pytest.mark.parametrize(
    ("old", "new"),
    [
        ('n = Parameter("n", default=3)', 'n, m = Parameter("n", default=3), Parameter("m")'),
        pytest.param("SplitFlow", "OtherFlow", marks=pytest.mark.nightly),
        pytest.param(
            "n = Parameter",
            'm = __import__("metaflow").Config("m", default_value={}); n = Parameter',
            marks=pytest.mark.nightly,
        ),
    ],
)
def test_a_flow_that_metaflow_could_not_resume_starts_afresh(
    splitting: Splitting, caplog: pytest.LogCaptureFixture, old: str, new: str
) -> None:
    """It has a new parameter, or another class name."""
    splitting.tell("fail-join")
    fails(splitting)
    splitting.ran()
    splitting.tell()
    text = splitting.flow.read_text()
    splitting.flow.write_text(text.replace(old, new))
    task = splitting.task()
    task.run()
    assert splitting.ran() == ALL
    assert task.output().marker.resumed == []
    assert "starts afresh: " in caplog.text


@pytest.mark.nightly
def test_runs_that_are_gone_are_not_resumed(splitting: Splitting) -> None:
    splitting.tell("fail-join")
    fails(splitting)
    splitting.ran()
    splitting.tell()
    (splitting.root / ".metaflow" / "SplitFlow").rename(splitting.root / "elsewhere")
    task = splitting.task()
    task.run()
    assert splitting.ran() == ALL
    assert task.output().marker.resumed == []


@pytest.mark.thorough
def test_other_parameters_start_afresh(
    splitting: Splitting, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A task's parameters may come from what is upstream of it."""
    monkeypatch.setattr(MetaflowTask, "parameters", lambda self: {"n": 2})
    splitting.tell("fail-join")
    fails(splitting)
    splitting.ran()
    splitting.tell()
    monkeypatch.setattr(MetaflowTask, "parameters", lambda self: {"n": 1})
    task = splitting.task()
    task.run()
    assert splitting.ran() == ["end", "join", "start", "work0"]
    assert task.output().marker.parameters == {"n": 1}


@pytest.mark.nightly
def test_force_starts_afresh_and_its_own_retry_does_not(splitting: Splitting) -> None:
    splitting.tell("fail-join")
    fails(splitting)
    splitting.ran()
    forced = splitting.task(force=True)
    with pytest.raises(FlowFailedError):
        forced.run()
    assert "start" in splitting.ran()
    splitting.tell()
    forced.run()
    assert splitting.ran() == ["end", "join"]


class Upstream(MetaflowTask):
    flow_path = "first.py"


class Between(luigi.WrapperTask):
    def requires(self) -> MetaflowTask:
        return Upstream()


class Downstream(MetaflowTask):
    flow_path = "second.py"

    def requires(self) -> luigi.Task:
        return Between()


class Day(luigi.WrapperTask):
    n = luigi.IntParameter()
    side = luigi.BoolParameter()

    def requires(self) -> list[luigi.Task]:
        return [Day(self.n - 1, side) for side in (False, True)] if self.n else [Upstream()]


def test_a_task_may_require_a_long_chain_in_many_ways(pipeline: Pipeline) -> None:
    """Of days, say, each of which requires the day before in two ways."""
    pipeline.add_flow("first.py")
    days = in_order(Day(1200))
    assert days[0] is Upstream()
    assert days[-1] is Day(1200)
    assert len(days) == len({*days}) == 2 * 1200 + 2
    force([Day(1200)], 2e9)
    assert not Upstream().forced_at < 2e9


class Daily(MetaflowTask):
    """Requires itself for the day before, so that nothing but a complete day ends the chain."""

    flow_path = "first.py"
    day = luigi.DateParameter()
    first = luigi.DateParameter(default=datetime.date(2026, 1, 1))

    def requires(self) -> luigi.Task:
        assert self.day >= self.first, "a complete task was asked what it requires"
        return Daily(day=self.day - datetime.timedelta(days=1), first=self.first)

    def complete(self) -> bool:
        return self.day < self.first or super().complete()


class Summary(luigi.Task):
    """Of another kind, and done, though what it requires is broken."""

    def complete(self) -> bool:
        return True

    def requires(self) -> luigi.Task:
        raise LookupError("no such customer")


class Hourly(luigi.Task):
    """Its complete() fails on one hour, of which Luigi says that it will not run."""

    hour = luigi.IntParameter()

    def complete(self) -> bool:
        if self.hour == 3:
            raise LookupError("no such table")
        return False

    def requires(self) -> list[luigi.Task]:
        return [Hourly(self.hour - 1), Summary()]


def numbers(tasks: list[luigi.Task], name: str) -> list[Any]:
    return [getattr(task, name) for task in tasks if hasattr(task, name)]


def test_a_complete_task_is_not_asked_what_it_requires(pipeline: Pipeline) -> None:
    pipeline.add_flow("first.py")
    days = numbers(in_order(Daily(day=datetime.date(2026, 1, 3))), "day")
    assert [day.isoformat() for day in days] == [
        *("2025-12-31", "2026-01-01", "2026-01-02", "2026-01-03")
    ]
    mark_done(Daily(day=datetime.date(2026, 1, 2)))
    days = numbers(in_order(Daily(day=datetime.date(2026, 1, 3))), "day")
    assert [day.day for day in days] == [2, 3], "a marker ends the chain as well"
    assert in_order(Summary()) == [Summary()]
    assert numbers(in_order(Hourly(5)), "hour") == [3, 4, 5]
    outside = luigi.task.externalize(Hourly(5))
    assert in_order(outside) == [outside]


def test_what_is_complete_although_it_is_forced_ends_a_forced_chain(pipeline: Pipeline) -> None:
    pipeline.add_flow("first.py")
    mark_done(Daily(day=datetime.date(2026, 1, 2)))
    days = in_order(Daily(day=datetime.date(2026, 1, 4), force_upstream=True))
    assert [day.day for day in numbers(days, "day")] == [31, 1, 2, 3, 4]
    assert all(numbers(days, "forced_at"))
    force([Summary()], 2e9)


@pytest.mark.parametrize("force_upstream", [True, False])
def test_a_chain_without_an_end_is_refused(
    pipeline: Pipeline, monkeypatch: pytest.MonkeyPatch, force_upstream: bool
) -> None:
    monkeypatch.setattr(forcing, "ENDLESS", 50)
    pipeline.add_flow("first.py")
    endless = Daily(
        day=datetime.date(2026, 1, 4),
        first=datetime.date(1, 1, 1),
        force_upstream=force_upstream,
    )
    with pytest.raises(PipelineError, match=r"more than 50 tasks .*day=2025.*\nhint: "):
        in_order(endless)


class Hen(luigi.Task):
    def requires(self) -> luigi.Task:
        return Egg()


class Egg(luigi.Task):
    def requires(self) -> luigi.Task:
        return Hen()


def test_tasks_that_require_each_other_are_named() -> None:
    with pytest.raises(UsageError, match=r"require each other: (Egg\(\), Hen|Hen\(\), Egg)"):
        in_order(Egg())


@pytest.mark.thorough
@pytest.mark.parametrize("workers", [pytest.param(1, marks=pytest.mark.nightly), 2])
def test_force_upstream_runs_again_all_that_a_task_requires(
    pipeline: Pipeline, workers: int
) -> None:
    for name in ("first.py", "second.py"):
        pipeline.add_flow(name)

    def run(**more: bool) -> list[str]:
        luigi.task_register.Register.clear_instance_cache()
        task = Downstream(**more)
        assert luigi.build([task], workers=workers, local_scheduler=True, log_level="WARNING")
        return [each.output().marker.run_id for each in (Upstream(), task)]

    first = run()
    assert run() == first
    only_one = run(force=True)
    assert only_one[0] == first[0]
    assert only_one[1] != first[1]
    both = run(force_upstream=True)
    assert not {*both} & {*first, *only_one}
    assert run() == both


@pytest.mark.parametrize("hours", [-1, 1])
def test_force_runs_again_whatever_the_clock_has_been(pipeline: Pipeline, hours: int) -> None:
    pipeline.add_flow("first.py")
    ahead = max(hours, 0) * 3600  # the clock was ahead when the marker was written
    mark_done(Upstream(), written=time.time() + ahead)
    assert Upstream().complete()
    luigi.task_register.Register.clear_instance_cache()
    task = Upstream(force=True)
    if hours < 0:  # it has been set back since the task was made
        task.forced_at -= hours * 3600
    assert not task.complete()
    task.run()
    assert task.complete()
    assert task.output().marker.run_id != "1"


def test_a_finished_run_is_taken_instead_of_running(splitting: Splitting) -> None:
    splitting.task(flow_kwargs={"n": 2}).run()
    made = splitting.task(flow_kwargs={"n": 2}).output().marker
    splitting.ran()
    same = {"flow_tag": "production", "flow_kwargs": {"n": "2"}}  # as the flow reads it
    taking = splitting.task(from_run=made.pathspec, **same)
    assert not taking.complete()
    taking.run()
    assert splitting.ran() == []
    marker = splitting.task(**same).output().marker
    assert marker.pathspec == made.pathspec
    assert marker.result == {"total": 1}
    assert marker.parameters == {"n": 2, "production": False}
    assert (marker.version, marker.commit) == (made.version, made.commit)
    assert marker.finished <= made.finished  # the run's own end, not when it was taken
    assert taking.complete()
    assert splitting.task(**same).complete()
    assert not splitting.task(from_run="SplitFlow/1", **same).complete()


@pytest.mark.thorough
def test_a_run_that_is_not_the_task_s_is_refused(splitting: Splitting, pipeline: Pipeline) -> None:
    splitting.tell("fail-join")
    fails(splitting)
    (kept,) = splitting.root.rglob("*.attempts")
    failed = "SplitFlow/" + json.loads(kept.read_text())["runs"][0]["run_id"]
    splitting.tell()
    splitting.task(flow_kwargs={"n": 1}).run()
    made = splitting.task(flow_kwargs={"n": 1}).output().marker.pathspec
    pipeline.add_flow("small.py")
    for task, reason in [
        (splitting.task(from_run="SplitFlow/1"), "there is no run SplitFlow/1"),
        (splitting.task(from_run=failed), "has not succeeded"),
        (splitting.task(from_run=made, flow_kwargs={"n": 2}), "ran with n 1, not 2"),
        (MetaflowTask("small.py", from_run=made), "is of no flow in small.py"),
    ]:
        with pytest.raises(PipelineError, match=reason):
            task.run()
        assert not task.complete()
    shutil.rmtree(splitting.root / ".metaflow" / "SplitFlow" / "data")
    shutil.rmtree(splitting.root / ".metaflow" / "client-cache", ignore_errors=True)
    with pytest.raises(PipelineError, match=f"the artifacts of {made} cannot be read"):
        splitting.task(from_run=made, flow_kwargs={"n": 1}, flow_tag="other").run()
    for wrong in ("SplitFlow", "123", "../x/1", "SplitFlow/1/start"):
        with pytest.raises(ParameterError, match="must be a flow's class and a run"):
            splitting.task(from_run=wrong)
    with pytest.raises(ParameterError, match="force makes a new one"):
        splitting.task(from_run=made, force=True)


@pytest.mark.thorough
def test_two_processes_run_a_task_once(splitting: Splitting) -> None:
    splitting.tell("wait-join")
    both = [start(splitting.root, "run", "split.py", "--no-lock") for _ in range(2)]
    splitting.process_of("join")
    splitting.tell()
    printed = [process.communicate(timeout=120)[0] for process in both]
    assert [process.returncode for process in both] == [0, 0], printed
    (waiting,) = (at for at, lines in enumerate(printed) if "waits for process" in lines)
    assert f"waits for process {both[1 - waiting].pid}, which is running it" in printed[waiting]
    assert splitting.ran() == ALL
    assert not list((splitting.root / ".metaflow" / "luigi-locks").glob("*.lock"))
