"""`status` reports how the repo is, and `clean` deletes what is old and not needed."""

from __future__ import annotations

import contextlib
import datetime
import itertools
import json
import os
import pty
import re
import shlex
import shutil
import signal
import subprocess
import sys
import time
from fnmatch import fnmatch
from pathlib import Path
from types import SimpleNamespace

import luigi
import pytest
from luigi.parameter import ParameterVisibility
from sales_pipelines.runtime import FlowFailedError, MetaflowTask, ParameterError, paths, process
from sales_pipelines.runtime.__main__ import main
from sales_pipelines.runtime.commands import clean, records, status
from sales_pipelines.runtime.store import metaflow_files
from sales_pipelines.runtime.store.files import locked
from sales_pipelines.runtime.task.attempts import Attempts, AttemptsFile

from .conftest import Pipeline, Splitting, start, wait_until

DAY = 86400.0

# Each run has an artifact of its own, one that all have, a card, and a file that it includes.
KEEPING = """
import os
from pathlib import Path

from metaflow import FlowSpec, IncludeFile, card, current, step
from metaflow.cards import Markdown


class KeepingFlow(FlowSpec):
    note = IncludeFile("note", default="note.txt")

    @card(type="blank")
    @step
    def start(self):
        current.card.append(Markdown(f"the card of {self.note}"))
        self.own, self.shared = os.urandom(9000), bytes(9000)
        self.next(self.end)

    @step
    def end(self):
        if Path("fail-end").exists():
            raise ValueError
        self.length = len(self.own) + len(self.shared)


if __name__ == "__main__":
    KeepingFlow()
"""

# Run in a process of its own, which has nothing cached.
LOOK = """
import base64, json, pathlib, re, sys
from sales_pipelines.runtime import paths
paths.ROOT = pathlib.Path.cwd()
paths.CONFIG, paths.FLOWS = paths.ROOT / "config", paths.ROOT / "flows"
from sales_pipelines.runtime import MetaflowTask
from metaflow.cards import get_cards
run = MetaflowTask("keeping.py", flow_tag=sys.argv[1]).output().run
(card,) = get_cards(run["start"].task)
texts = [base64.b64decode(each) for each in re.findall(r'= "([\\w+/=]{40,})"', card.get())]
print(json.dumps([len(run.data.own), len(run.data.shared), run.data.length, run.data.note,
                  any(b"the card of " + run.data.note.encode() in text for text in texts)]))
"""


class Keeping:
    """A pipeline whose runs leave everything that a run can leave."""

    def __init__(self, pipeline: Pipeline) -> None:
        self.root = pipeline.root
        pipeline.add_file("keeping.py", KEEPING)

    def run(self, note: str, **more: object) -> str:
        """Run it with this note, and return the id of the run."""
        (self.root / "note.txt").write_text(note)
        MetaflowTask.clear_instance_cache()
        MetaflowTask("keeping.py", **more).run()
        MetaflowTask.clear_instance_cache()
        tag = str(more.get("flow_tag", "dev"))
        return str(MetaflowTask("keeping.py", flow_tag=tag).output().marker.run_id)

    def fail(self, note: str, **more: object) -> None:
        """Make a run with this note that fails in its last step."""
        (self.root / "fail-end").touch()
        with pytest.raises(Exception, match="failed in step `end`"):
            self.run(note, **more)
        (self.root / "fail-end").unlink()

    def look(self, tag: str = "dev") -> list[object]:
        """What can be read of the marker's run: sizes, note, and whether its card is there."""
        command = [sys.executable, "-c", LOOK, tag]
        output = subprocess.check_output(command, cwd=self.root, text=True)
        return list(json.loads(output.splitlines()[-1]))

    def ids(self) -> set[str]:
        """The ids of all runs on the disk."""
        return {run.name for run in metaflow_files.runs(self.root / ".metaflow")}

    def count(self, kind: str) -> int:
        """How many files there are of a kind."""
        patterns = {
            "own": "KeepingFlow/data/*/" + 40 * "?",
            "cards": "mf.cards/**/*.html",
            "notes": "data/*/*",
        }
        return len(list((self.root / ".metaflow").glob(patterns[kind])))


@pytest.fixture
def keeping(pipeline: Pipeline, monkeypatch: pytest.MonkeyPatch) -> Keeping:
    monkeypatch.chdir(pipeline.root)
    return Keeping(pipeline)


def make_old(root: Path, days: float = 40) -> None:
    """Set the times of all files of runs to so many days ago."""
    then = time.time() - days * DAY
    for path in [root / ".metaflow", *(root / ".metaflow").rglob("*")]:
        os.utime(path, (then, then), follow_symlinks=False)


def everything(root: Path) -> dict[str, float]:
    """Each file of runs, and when it was written."""
    files = (root / ".metaflow").rglob("*")
    return {str(path): path.lstat().st_mtime for path in files if not path.is_dir()}


def output_of(capfd: pytest.CaptureFixture[str], command: object, *arguments: str) -> str:
    """What status or clean prints, without a traceback."""
    capfd.readouterr()
    code = command.main(list(arguments))  # type: ignore[attr-defined]
    out, err = capfd.readouterr()
    assert code == 0, out + err
    assert "Traceback" not in out + err
    return str(out)


def test_clean_keeps_what_a_marker_names_and_deletes_everything_else_that_is_old(
    keeping: Keeping, capfd: pytest.CaptureFixture[str]
) -> None:
    old = keeping.run("first")
    keeping.fail("second", force=True)
    new = keeping.run("second")
    assert len(keeping.ids()) == 3, "the marker's, the one it resumed, and one that is not needed"
    artifacts = keeping.count("own")
    assert (keeping.count("cards"), keeping.count("notes")) == (2, 2)
    make_old(keeping.root)
    assert "1 run " in output_of(capfd, clean, "--yes")
    assert old not in keeping.ids()
    assert new in keeping.ids()
    assert len(keeping.ids()) == 2
    assert keeping.count("own") < artifacts
    assert (keeping.count("cards"), keeping.count("notes")) == (1, 1)
    assert keeping.look() == [9000, 9000, 18000, "second", True], "the card is the resumed run's"
    assert not (keeping.root / ".metaflow" / "trash").exists()
    assert "Nothing to delete" in output_of(capfd, clean, "--yes", "--older-than", "35d")


@pytest.mark.nightly
def test_clean_keeps_what_a_run_that_was_taken_has_from_its_origin(
    keeping: Keeping, capfd: pytest.CaptureFixture[str]
) -> None:
    """The marker names only the run itself, whose card is that of the run that it resumed."""
    keeping.fail("note")
    run = keeping.run("note")
    keeping.run("note", flow_tag="production", from_run=f"KeepingFlow/{run}")
    for marker in (keeping.root / ".metaflow/luigi/dev").rglob("*.json"):
        marker.unlink()
    make_old(keeping.root)
    output_of(capfd, clean, "--yes")
    assert keeping.look("production") == [9000, 9000, 18000, "note", True]


@pytest.fixture
def old(keeping: Keeping) -> Keeping:
    """With a run that can be deleted."""
    keeping.run("first")
    keeping.run("second", force=True)
    make_old(keeping.root)
    return keeping


CLEAN = """
import pathlib, sys
from sales_pipelines.runtime import paths
paths.ROOT = pathlib.Path.cwd()
paths.CONFIG, paths.FLOWS = paths.ROOT / "config", paths.ROOT / "flows"
from sales_pipelines.runtime.__main__ import main
sys.exit(main(["clean", *sys.argv[1:]]))
"""


def clean_at_a_terminal(root: Path, answer: str, *arguments: str) -> tuple[int, str]:
    """Run clean at a terminal at which this is typed; its exit code, and what it prints."""
    ours, terminal = pty.openpty()
    with os.fdopen(ours, "wb"):
        os.write(ours, answer.encode())
        command = [sys.executable, "-c", CLEAN, *arguments]
        done = subprocess.run(command, cwd=root, stdin=terminal, capture_output=True, text=True)
        os.close(terminal)
    return done.returncode, done.stdout + done.stderr


@pytest.mark.thorough
def test_nothing_is_deleted_without_a_yes(old: Keeping, capfd: pytest.CaptureFixture[str]) -> None:
    before = everything(old.root)
    for answer in ("\n", "what\n", "\x04"):
        code, output = clean_at_a_terminal(old.root, answer)
        assert code == 0
        assert "1 run " in output
        assert output.rstrip().endswith("Nothing is deleted."), output
    command = [sys.executable, "-c", CLEAN]
    done = subprocess.run(
        command, cwd=old.root, stdin=subprocess.DEVNULL, capture_output=True, text=True
    )
    assert done.returncode == 2
    assert "no terminal to ask at" in done.stderr
    assert "-- --yes" in done.stderr
    assert "1 run " in output_of(capfd, clean, "--dry-run", "--yes")
    assert "Nothing to delete" in output_of(capfd, clean, "--yes", "--older-than", "6w")
    assert everything(old.root) == before
    code, output = clean_at_a_terminal(old.root, "y\n", "--older-than", "959h")
    assert code == 0
    assert "Freed " in output
    assert len(old.ids()) == 1


@pytest.mark.parametrize("wrong", ["30", "d", "30y", "-1d", "soon", "٣d"])
def test_a_wrong_age_is_refused_with_the_rule(
    pipeline: Pipeline, wrong: str, capfd: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as stop:
        clean.main([f"--older-than={wrong}", "--yes"])
    assert stop.value.code == 2
    assert "a number and s, m, h, d or w" in capfd.readouterr().err


@pytest.fixture
def tasks_lock(pipeline: Pipeline) -> Path:
    return pipeline.root / ".metaflow" / paths.TASKS_LOCK


def processes_with(file: Path) -> set[int]:
    """The ids of the processes that have the file open."""
    ids = set()
    for descriptor in Path("/proc").glob("[0-9]*/fd/*"):
        with contextlib.suppress(OSError):
            if descriptor.samefile(file):
                ids.add(int(descriptor.parts[2]))
    return ids


def test_clean_deletes_nothing_while_a_task_runs_and_names_it(
    splitting: Splitting, tasks_lock: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    splitting.tell("wait-join")
    running = start(splitting.root, "run", "split.py")
    splitting.process_of("join")
    overlay = splitting.root / ".metaflow" / "overlays" / "0123"
    overlay.mkdir(parents=True)
    make_old(splitting.root)
    before = everything(splitting.root)
    if sys.platform == "linux":
        holders = processes_with(tasks_lock)
        assert running.pid in holders
        assert len(holders) == 2, "the supervisor holds it too, until the flow is gone"
    capfd.readouterr()
    assert main(["clean", "--yes", "--older-than", "0h"]) == 2
    out, err = capfd.readouterr()
    assert out == "", "nothing is listed that is not deleted"
    cause, hint = err.splitlines()
    task_id = MetaflowTask("split.py").task_id
    assert f"nothing is deleted, because this is running: {task_id} (for " in cause
    assert hint == "hint: when it is done: nox -s clean"
    report = output_of(capfd, clean, "--dry-run", "--older-than", "0h")
    assert "1 overlay" in report
    assert "left-over" not in report, "the files are the run's"
    assert overlay.exists()
    assert everything(splitting.root) == before
    report = output_of(capfd, status)
    assert "running at join" in report
    assert "failed" not in report
    splitting.tell()
    printed = running.communicate(timeout=120)[0]
    assert running.returncode == 0, printed
    assert "1 overlay " in output_of(capfd, clean, "--yes", "--older-than", "0h")
    assert not overlay.exists()


@pytest.mark.thorough
def test_a_task_that_starts_during_clean_waits_until_it_is_done(
    splitting: Splitting, tasks_lock: Path
) -> None:
    with locked(tasks_lock, lambda _: None):
        waiting = start(splitting.root, "run", "split.py", "--flow-kwargs", '{"n": 1}')
        assert waiting.stdout is not None
        waits = f" waits for process {os.getpid()}, which is running clean"
        assert any(waits in line for line in waiting.stdout)
        assert splitting.ran() == []
    waiting.communicate(timeout=120)
    assert waiting.returncode == 0
    assert splitting.ran() == ["end", "join", "start", "work0"]


def test_two_cleans_do_not_delete_at_once(
    pipeline: Pipeline, tasks_lock: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    overlay = pipeline.root / ".metaflow" / "overlays" / "0123"
    overlay.mkdir(parents=True)
    make_old(pipeline.root)
    with locked(tasks_lock, lambda _: None):
        assert main(["clean", "--yes"]) == 2
    assert "or another clean" in capfd.readouterr().err
    assert overlay.exists()


@pytest.mark.nightly
def test_a_flow_that_runs_without_a_task_is_left_alone_however_old(
    splitting: Splitting, capfd: pytest.CaptureFixture[str]
) -> None:
    """No task holds a lock for it, and no file names its run."""
    splitting.task(flow_kwargs={"n": 2}).run()
    for marker in (splitting.root / ".metaflow").rglob("MetaflowTask*.json"):
        marker.unlink()  # so that only the next run, which has the same artifacts, needs them
    splitting.ran()
    splitting.tell("wait-join")
    command = [sys.executable, str(splitting.flow), "--no-pylint", "run"]
    environment = {**os.environ, "METAFLOW_USER": "somebody"}
    running = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True)
    splitting.process_of("join")
    make_old(splitting.root)
    output = output_of(capfd, clean, "--yes", "--older-than", "0h")
    assert "May be running, so left alone: SplitFlow." in output
    report = output_of(capfd, status)
    assert "running at join" not in report
    assert "failed" not in report
    splitting.tell()
    printed = running.communicate(timeout=120)[0]
    assert running.returncode == 0, printed


@pytest.mark.nightly
def test_what_is_needed_since_it_was_planned_is_left_alone(
    old: Keeping, capfd: pytest.CaptureFixture[str]
) -> None:
    root = old.root / ".metaflow"

    def plan() -> list[clean.Item]:
        return clean.plan_for(str(root), root, time.time() - DAY).items

    planned = plan()
    (run,) = (item for item in planned if item.kind == clean.RUN)
    assert clean.ARTIFACT in {item.kind for item in planned}

    def nothing_is_deleted() -> None:
        before = everything(old.root)
        assert clean.delete(planned, plan()) == 0
        assert "Used in the meantime, so left alone: KeepingFlow." in capfd.readouterr().out
        assert everything(old.root) == before

    begun = root / "KeepingFlow" / "1" / "_meta"
    begun.mkdir(parents=True)
    nothing_is_deleted()
    begun.rmdir()
    begun.parent.rmdir()
    marker = root / "luigi" / "taken.json"
    marker.write_text(json.dumps({"flow": "KeepingFlow", "run_id": run.name.partition("/")[2]}))
    nothing_is_deleted()
    marker.unlink()
    (run.paths[0] / "_parameters").touch()
    nothing_is_deleted()


def test_what_cannot_be_deleted_is_reported_and_leaves_nothing_broken(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    run, overlay = tmp_path / "123", tmp_path / "0123"
    run.mkdir()
    overlay.mkdir()
    made_from = overlay / "overlay.json"
    files = [tmp_path / "artifact", tmp_path / "other-artifact", made_from]
    for file in files:
        file.touch()
    items = [
        clean.Item(clean.ARTIFACT, "SmallFlow/abcd", (files[0],), 1, 0),
        clean.Item(clean.ARTIFACT, "OtherFlow/abcd", (files[1],), 1, 0),
        clean.Item(clean.OVERLAY, "0123", (made_from, overlay), 1, 0),
        clean.Item(clean.RUN, "SmallFlow/123", (run,), 1, 0),
    ]

    def fail(path: Path) -> None:
        raise OSError(1, "Operation not permitted", str(path))

    monkeypatch.setattr(shutil, "rmtree", fail)
    assert clean.delete(items, items) == 1
    out, err = capfd.readouterr()
    assert f"clean: 0123: {overlay}: Operation not permitted" in err
    assert f"clean: SmallFlow/123: {run}: Operation not permitted" in err
    assert "Freed 1 B." in out
    exist = [file.exists() for file in files]
    assert exist == [True, False, False], "a run has its artifacts, and an overlay is made anew"


@pytest.mark.nightly
def test_what_a_clean_that_was_killed_has_left_goes_with_the_next(
    old: Keeping, capfd: pytest.CaptureFixture[str]
) -> None:
    run = old.root / ".metaflow" / "KeepingFlow" / min(old.ids())
    shutil.rmtree(run / "start")
    trash = old.root / ".metaflow" / "trash" / "of 2026.11.0"
    (trash / "0").mkdir(parents=True)
    os.utime(run, (0, 0))
    output = output_of(capfd, clean, "--yes")
    assert "1 left-over " in output
    assert "1 run " in output
    assert old.look() == [9000, 9000, 18000, "second", True]
    assert old.count("cards") == 1
    assert len(old.ids()) == 1
    assert not trash.exists()


@pytest.mark.thorough
def test_a_flow_whose_run_was_stopped_is_not_taken_for_one_that_runs(
    splitting: Splitting, capfd: pytest.CaptureFixture[str]
) -> None:
    splitting.task(flow_kwargs={"n": 1}).run()
    splitting.task(flow_kwargs={"n": 1}, force=True).run()
    splitting.ran()
    splitting.tell("wait-join")
    running = start(splitting.root, "run", "split.py")
    splitting.process_of("join")
    assert "May be running, so left alone: SplitFlow." in output_of(capfd, clean, "--dry-run")
    running.kill()
    running.communicate(timeout=60)
    wait_until(lambda: not records.running_tasks(splitting.root / ".metaflow"))
    output = output_of(capfd, clean, "--yes", "--older-than", "0h")
    assert "May be running" not in output
    assert re.search(r"\n +1 run ", output), "the one that was forced"
    assert "Kept for a marker, or to retry what failed: 2 runs." in output
    # Of one that no task has started, nobody knows.
    bare = splitting.root / ".metaflow" / "SplitFlow" / "17" / "start"
    bare.mkdir(parents=True)
    assert "May be running, so left alone: SplitFlow." in output_of(capfd, clean, "--dry-run")


def left(root: Path) -> set[str]:
    """What there is below `.metaflow` beside what a run is to leave."""
    files = (path.relative_to(root / ".metaflow") for path in (root / ".metaflow").rglob("*"))
    kept = ("SplitFlow", "luigi", "data", "luigi-locks/dev", "luigi-locks/all-tasks")
    top = {str(file) for file in files if file.parts[0] == "luigi-locks" or not file.parts[1:]}
    return top - {*kept, "luigi-locks"}


def test_the_files_of_a_run_are_not_left_over_between_two_of_its_tasks(
    pipeline: Pipeline, capfd: pytest.CaptureFixture[str]
) -> None:
    local = pipeline.root / ".metaflow"
    (local / "luigi-locks" / "dev").mkdir(parents=True)
    (local / "metaflow.events-1").touch()
    pid_file = local / "luigi-locks" / "dev" / "1.pid"
    pid_file.write_text(f"{os.getpid()}\n")
    assert "Nothing to delete" in output_of(capfd, clean, "--yes", "--older-than", "0h")
    pid_file.write_text("")
    report = output_of(capfd, clean, "--yes", "--older-than", "0h")
    assert "2 left-overs " in report
    assert not left(pipeline.root)


@pytest.mark.thorough
def test_a_run_leaves_nothing_and_what_a_killed_one_leaves_goes_with_clean(
    splitting: Splitting, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    temporary = splitting.root / "temporary"
    temporary.mkdir()
    monkeypatch.setenv("TMPDIR", str(temporary))
    start(splitting.root, "run", "split.py", "--flow-tag", "other").communicate(timeout=120)
    assert left(splitting.root) == set()
    splitting.ran()
    splitting.tell("wait-join")
    running = start(splitting.root, "run", "split.py")
    splitting.process_of("join")
    (pid_file,) = splitting.root.rglob("*.pid")
    assert pid_file.read_text().split() == [str(running.pid)]
    assert pid_file not in {*records.left_by_kills(splitting.root / ".metaflow")}
    running.kill()
    running.communicate(timeout=60)
    wait_until(lambda: not records.running_tasks(splitting.root / ".metaflow"))
    overlays = splitting.root / ".metaflow" / "overlays"
    (overlays / "0123.x.making").mkdir(parents=True)
    (overlays / "4567.x.making").mkdir()
    written = splitting.root / ".metaflow" / "luigi" / "dev" / "split.py" / "T.json.17.tmp"
    written.write_text("{")
    patterns = {"metaflow.[et]*-*", "luigi-locks/*.lock", "luigi-locks/dev/*.pid", "overlays"}
    for name in left(splitting.root):
        assert any(fnmatch(name, pattern) for pattern in patterns), name
    with locked(overlays / "4567.lock", lambda _: None):
        report = output_of(capfd, clean, "--yes", "--older-than", "0h")
    assert re.search(r"\n +6 left-overs ", report)
    assert left(splitting.root) == {"overlays"}
    assert [path.name for path in overlays.iterdir()] == ["4567.x.making"]
    assert not written.exists()
    outside = [path for path in temporary.iterdir() if not path.name.startswith("tmp")]
    assert not outside, "those are Metaflow's own, of a step that was killed"


@pytest.mark.nightly
def test_a_marker_that_cannot_be_read_protects_every_run(
    old: Keeping, capfd: pytest.CaptureFixture[str]
) -> None:
    (marker,) = (old.root / ".metaflow" / "luigi").rglob("*.json")
    marker.write_text("<<<<<<< HEAD\n")
    os.utime(marker, (0, 0))
    ids = old.ids()
    assert f"{marker} is not JSON" in output_of(capfd, clean, "--yes")
    assert old.ids() == ids
    assert f"unknown: {marker} is not JSON" in output_of(capfd, status)
    marker.unlink()
    (old.root / ".metaflow" / "luigi" / "dev" / "more").symlink_to("a disk that is not there now")
    assert "No run is touched" in output_of(capfd, clean, "--yes")
    assert old.ids() == ids


@pytest.mark.nightly
def test_links_are_followed_to_markers_and_never_to_delete(
    old: Keeping, tmp_path_factory: pytest.TempPathFactory, capfd: pytest.CaptureFixture[str]
) -> None:
    elsewhere = tmp_path_factory.mktemp("elsewhere")
    root = old.root / ".metaflow"
    names = ("luigi/dev", "client-cache", "mf.cards")
    moved = {name: elsewhere / name.partition("/")[0] for name in names}
    (root / "client-cache").mkdir(exist_ok=True)
    (root / "client-cache" / "blob").touch()
    for name, there in moved.items():
        (root / name).rename(there)
        (root / name).symlink_to(there)
    (root / "OtherFlow").symlink_to(elsewhere)
    make_old(old.root)
    for path in elsewhere.rglob("*"):
        os.utime(path, (0, 0))
    before = {str(path) for path in elsewhere.rglob("*")}
    output_of(capfd, clean, "--yes")
    assert len(old.ids()) == 1
    assert before == {str(path) for path in elsewhere.rglob("*")}
    assert old.look() == [9000, 9000, 18000, "second", True]


def test_an_overlay_goes_when_it_was_not_used_for_long(
    pipeline: Pipeline, capfd: pytest.CaptureFixture[str]
) -> None:
    overlays = pipeline.root / ".metaflow" / "overlays"
    for name in ("0123", "4567"):
        (overlays / name).mkdir(parents=True)
        (overlays / name / "overlay.json").write_text("{}")
    make_old(pipeline.root)
    os.utime(overlays / "4567" / "overlay.json")  # as a task does that uses it
    assert "1 overlay " in output_of(capfd, clean, "--yes")
    assert [path.name for path in overlays.iterdir()] == ["4567"]


def test_an_old_log_goes(pipeline: Pipeline, capfd: pytest.CaptureFixture[str]) -> None:
    logs = pipeline.root / ".metaflow" / "logs"
    logs.mkdir(parents=True)
    for name in ("old.log", "new.log"):
        (logs / name).write_text("a line\n")
    make_old(pipeline.root)
    os.utime(logs / "new.log")
    assert re.search(r"(?m)^ +logs +[1-9]", output_of(capfd, status))
    assert "1 log " in output_of(capfd, clean, "--yes")
    assert [path.name for path in logs.iterdir()] == ["new.log"]


@pytest.mark.nightly
def test_a_bucket_is_left_alone_and_this_machine_s_disk_is_freed(old: Keeping) -> None:
    overlay = old.root / ".metaflow" / "overlays" / "0123"
    overlay.mkdir(parents=True)
    os.utime(overlay, (0, 0))
    ids = old.ids()
    on_s3 = {"METAFLOW_DEFAULT_DATASTORE": "s3", "METAFLOW_DATASTORE_SYSROOT_S3": "s3://nowhere/x"}
    command = [sys.executable, "-c", CLEAN, "--yes"]
    output = subprocess.check_output(command, cwd=old.root, env={**os.environ, **on_s3}, text=True)
    assert "The bucket is left alone: s3://nowhere/x" in output
    assert not overlay.exists()
    assert old.ids() == ids


def retry_in(report: str) -> list[str]:
    """The words after `nox -s run --` of the one retry that is printed."""
    (line,) = (line for line in report.splitlines() if "run it alone: " in line)
    words = shlex.split(line.partition("run it alone: ")[2])
    assert words[:4] == ["nox", "-s", "run", "--"]
    return words[4:]


@pytest.mark.thorough
@pytest.mark.parametrize(
    "options",
    [
        [
            *("--flow-kwargs", '{"n": 2}', "--flow-tag", "it.is-1"),
            *("--preflow-kwargs", '{"with": ["retry:times=0"]}'),
        ],
        pytest.param([], marks=pytest.mark.thorough),
    ],
)
def test_the_command_that_status_prints_resumes_what_failed(
    splitting: Splitting, capfd: pytest.CaptureFixture[str], options: list[str]
) -> None:
    splitting.tell("fail-join")
    start(splitting.root, "run", "split.py", *options).communicate()
    splitting.ran()
    make_old(splitting.root, days=400)
    output_of(capfd, clean, "--yes")
    report = output_of(capfd, status)
    assert "failed at join" in report
    assert "  ValueError: fail-join is there\n" in report
    assert ("  split.py n=2  it.is-1  SplitFlow/" if options else "  split.py  dev  ") in report
    splitting.tell()
    again = start(splitting.root, "run", *retry_in(report))
    printed = again.communicate(timeout=120)[0]
    assert again.returncode == 0, printed
    assert splitting.ran() == ["end", "join"]
    report = output_of(capfd, status)
    assert "succeeded" in report
    assert "failed" not in report


def last_run(capfd: pytest.CaptureFixture[str]) -> tuple[str, str]:
    """The line on the last run, and the one below it."""
    first, second, *_ = output_of(capfd, status).partition("last runs")[2].splitlines()
    return " ".join(first.split()), second.strip()


@pytest.mark.parametrize(
    ("number", "waiting", "state", "why"),
    [
        (signal.SIGTERM, "join", "stopped at join ", "by Ctrl-C or a signal"),
        pytest.param(
            *(signal.SIGKILL, "work1", "killed at work ", "by kill -9 or for lack of memory, or"),
            marks=pytest.mark.thorough,
        ),
        pytest.param(
            *(signal.SIGHUP, "end", "stopped at end ", "by Ctrl-C or a signal"),
            marks=pytest.mark.thorough,
        ),
    ],
)
def test_of_a_run_that_was_ended_from_outside_status_says_how_and_at_which_step(
    splitting: Splitting,
    capfd: pytest.CaptureFixture[str],
    number: signal.Signals,
    waiting: str,
    state: str,
    why: str,
) -> None:
    splitting.tell(f"wait-{waiting}")
    running = start(splitting.root, "run", "split.py")
    splitting.process_of(waiting)
    running.send_signal(number)
    running.communicate(timeout=60)
    wait_until(lambda: not records.running_tasks(splitting.root / ".metaflow"))
    first, second = last_run(capfd)
    assert first.startswith(state)
    assert re.search(r" s ago split.py dev SplitFlow/\d+ \d+\.\d s$", first)
    assert second.startswith(why)


def test_of_a_time_limit_status_says_what_the_run_said(
    splitting: Splitting, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    looks = itertools.count()

    def time_is_up() -> float:
        if next(looks) == 0:  # when the flow is started
            return 0.0
        splitting.process_of("join")
        return 3600.0

    splitting.tell("wait-join")
    monkeypatch.setattr(process, "time", SimpleNamespace(monotonic=time_is_up))
    with pytest.raises(FlowFailedError) as error:
        splitting.task(timeout=3600).run()
    reason = str(error.value).splitlines()[0]
    assert reason == "split.py failed in step join: stopped after 3600 seconds"
    first, second = last_run(capfd)
    assert first.startswith("failed at join ")
    assert second == "stopped after 3600 seconds"


def test_an_error_of_no_known_kind_is_noted_by_its_name(tmp_path: Path) -> None:
    file = tmp_path / "Small.attempts"
    attempts = AttemptsFile(str(file), Attempts(parameters={}))
    with pytest.raises(MemoryError), attempts.noting_errors():
        raise MemoryError("17 GB\nare too many")
    assert json.loads(file.read_text())["ended"] == "MemoryError: 17 GB"


class DayTask(MetaflowTask):
    """Its flow knows nothing of the day."""

    flow_path = "small.py"
    day = luigi.DateParameter()
    token = luigi.Parameter("", visibility=ParameterVisibility.PRIVATE)
    retries = luigi.IntParameter(3, significant=False)


@pytest.mark.thorough
def test_status_tells_the_tasks_of_one_flow_apart(
    pipeline: Pipeline, capfd: pytest.CaptureFixture[str]
) -> None:
    pipeline.add_flow(
        parameters="n = Parameter('n', default=1)", start="assert self.n == 1, 'no such customer'"
    )
    DayTask(day=datetime.date(2026, 1, 2), token="some token").run()
    with pytest.raises(FlowFailedError):
        DayTask(day=datetime.date(2026, 1, 3), flow_kwargs={"n": 2}).run()
    report = output_of(capfd, status)
    assert "  small.py DayTask day=2026-01-02  dev  SmallFlow/" in report
    assert "  small.py DayTask day=2026-01-03 n=2  dev  SmallFlow/" in report
    assert "AssertionError: no such customer" in report
    assert "some token" not in report
    marker = DayTask(day=datetime.date(2026, 1, 2), token="some token").output().marker
    assert marker.task == "DayTask day=2026-01-02"


def test_the_newest_runs_are_shown_first(
    pipeline: Pipeline, capfd: pytest.CaptureFixture[str]
) -> None:
    folder = pipeline.root / ".metaflow" / "luigi" / "dev" / "a b" / "small.py"
    folder.mkdir(parents=True)
    for number in (1, 3, 2):
        file = folder / f"Small_{number}.json"
        file.write_text(json.dumps({"flow": "SmallFlow", "run_id": f"{number}", "seconds": 1}))
        os.utime(file, (number * DAY, number * DAY))
    lines = output_of(capfd, status, "--runs", "2").splitlines()
    shown = [line for line in lines if "a b/small.py  dev" in line]
    assert [line.split("SmallFlow/")[1] for line in shown] == ["3  1.0 s", "2  1.0 s"]
    assert "and 1 more: nox -s status -- --runs 3" in lines[-1]
    assert not [line for line in lines if line.startswith("images")], "where none was built"


@pytest.mark.thorough
def test_what_failed_before_there_was_a_run_is_reported_and_does_not_hinder_clean(
    splitting: Splitting, capfd: pytest.CaptureFixture[str]
) -> None:
    splitting.task(flow_kwargs={"n": 1}).run()
    splitting.task(flow_kwargs={"n": 1}, force=True).run()
    with pytest.raises(ParameterError, match="has no parameter 'm'"):
        splitting.task(flow_kwargs={"m": 1}).run()
    assert "before there was" not in output_of(capfd, status), (
        "there is nothing to retry as it stands"
    )
    splitting.flow.write_text("import no_such_module\n" + splitting.flow.read_text())
    with pytest.raises(FlowFailedError, match="no_such_module"):
        splitting.task(flow_kwargs={"n": 2}).run()
    report = output_of(capfd, status)
    assert "split.py n=2  dev  before there was a run" in report
    assert re.search(r"\n +ModuleNotFoundError: .* 'no_such_module'\n +run it alone: ", report)
    make_old(splitting.root)
    report = output_of(capfd, clean, "--yes")
    assert "1 run " in report
    assert "1 lost attempt " in report
    assert not list(splitting.root.rglob("*.attempts"))


@pytest.mark.nightly
def test_what_is_broken_does_not_hide_the_rest(
    splitting: Splitting, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """No git, no answers, no environment and no runs, and all the rest is broken."""
    root = splitting.root
    monkeypatch.setenv("PATH", "")
    (root / ".metaflow").write_text("a file where a folder should be")
    (root / "pyproject.toml").write_text("<<<<<<< HEAD\n")
    (root / ".copier-answers.yml").write_bytes(b"\xff\xfe")
    report = output_of(capfd, status)
    for name in ("repo", "template", "hooks", "environment", "disk", "last runs"):
        assert any(line.startswith(name) for line in report.splitlines()), report
    assert "environment  none yet: nox -s setup" in report
    assert "; git is not on PATH" in report
    assert len(report.splitlines()) < 15


def test_a_task_counts_as_running_while_its_lock_is_held(tmp_path: Path) -> None:
    lock = tmp_path / "luigi-locks" / "Task_1.lock"
    with locked(lock, lambda _: None):
        assert [*records.running_tasks(tmp_path)] == ["Task_1"]
    lock.touch()  # as after a kill
    assert records.running_tasks(tmp_path) == {}
    assert lock.exists()
