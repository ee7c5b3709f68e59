"""`status` says what is what, and `clean` takes what is old and named by nothing."""

from __future__ import annotations

import json
import os
import pty
import re
import shlex
import subprocess
import sys
import time
from pathlib import Path

import pytest
from sales_pipelines.runtime import FlowFailedError, MetaflowTask, ParameterError
from sales_pipelines.runtime.commands import clean, inventory, status
from sales_pipelines.runtime.store.files import exclusive_lock

from .conftest import Pipeline, Splitting, start

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

# In a process of its own, that remembers nothing.
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
        """Let a run with this note fail in its last step."""
        (self.root / "fail-end").touch()
        with pytest.raises(Exception, match="failed in step `end`"):
            self.run(note, **more)
        (self.root / "fail-end").unlink()

    def look(self, tag: str = "dev") -> list[object]:
        """What is read of the run that the marker names: sizes, note, is the card there?"""
        command = [sys.executable, "-c", LOOK, tag]
        said = subprocess.check_output(command, cwd=self.root, text=True)
        return list(json.loads(said.splitlines()[-1]))

    def ids(self) -> set[str]:
        """The runs there are."""
        return {run.name for run in inventory.runs(self.root / ".metaflow")}

    def kept(self, kind: str) -> int:
        """How many files there are of a kind."""
        patterns = {
            "own": "KeepingFlow/data/*/*[!a]",
            "cards": "mf.cards/**/*.html",
            "notes": "data/*/*",
        }
        return len(list((self.root / ".metaflow").glob(patterns[kind])))


@pytest.fixture
def keeping(pipeline: Pipeline, monkeypatch: pytest.MonkeyPatch) -> Keeping:
    monkeypatch.chdir(pipeline.root)
    return Keeping(pipeline)


def make_old(root: Path, days: float = 40) -> None:
    """Let all that is there be from so many days ago."""
    then = time.time() - days * DAY
    for path in [root / ".metaflow", *(root / ".metaflow").rglob("*")]:
        os.utime(path, (then, then), follow_symlinks=False)


def everything(root: Path) -> dict[str, float]:
    """Each file there is, and when it was written; those of the lock apart."""
    found = (root / ".metaflow").rglob("*")
    return {str(path): path.lstat().st_mtime for path in found if not path.is_dir()}


def said_by(capfd: pytest.CaptureFixture[str], what: object, *arguments: str) -> str:
    """What status or clean prints, without a traceback."""
    capfd.readouterr()
    code = what.main(list(arguments))  # type: ignore[attr-defined]
    out, err = capfd.readouterr()
    assert code == 0, out + err
    assert "Traceback" not in out + err
    return str(out)


def test_what_a_marker_names_survives_and_all_else_that_is_old_goes(
    keeping: Keeping, capfd: pytest.CaptureFixture[str]
) -> None:
    old = keeping.run("first")
    keeping.fail("second", force=True)
    new = keeping.run("second")
    assert len(keeping.ids()) == 3, "the marker's, the one it resumed, and one that nothing names"
    artifacts = keeping.kept("own")
    assert (keeping.kept("cards"), keeping.kept("notes")) == (2, 2)
    make_old(keeping.root)
    assert "1 run " in said_by(capfd, clean, "--yes")
    assert old not in keeping.ids()
    assert new in keeping.ids()
    assert len(keeping.ids()) == 2
    assert keeping.kept("own") < artifacts
    assert (keeping.kept("cards"), keeping.kept("notes")) == (1, 1)
    assert keeping.look() == [9000, 9000, 18000, "second", True], "the card is the resumed run's"
    assert not (keeping.root / ".metaflow" / "trash").exists()
    assert "Nothing to delete" in said_by(capfd, clean, "--yes", "--older-than", "35d")


@pytest.mark.nightly
def test_a_run_that_was_taken_keeps_what_it_has_from_others(
    keeping: Keeping, capfd: pytest.CaptureFixture[str]
) -> None:
    """Its marker names it alone, and its card is the one of the run that it had resumed."""
    keeping.fail("note")
    run = keeping.run("note")
    keeping.run("note", flow_tag="production", from_run=f"KeepingFlow/{run}")
    for marker in (keeping.root / ".metaflow/luigi/dev").rglob("*.json"):
        marker.unlink()
    make_old(keeping.root)
    said_by(capfd, clean, "--yes")
    assert keeping.look("production") == [9000, 9000, 18000, "note", True]


@pytest.fixture
def old(keeping: Keeping) -> Keeping:
    """With a run that can go."""
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


def typed(root: Path, text: str, *arguments: str) -> tuple[int, str]:
    """Run clean at a terminal at which this is typed; its exit code, and what it prints."""
    ours, its = pty.openpty()
    with os.fdopen(ours, "wb"):
        os.write(ours, text.encode())
        command = [sys.executable, "-c", CLEAN, *arguments]
        done = subprocess.run(command, cwd=root, stdin=its, capture_output=True, text=True)
        os.close(its)
    return done.returncode, done.stdout + done.stderr


def test_nothing_is_deleted_without_a_yes(old: Keeping, capfd: pytest.CaptureFixture[str]) -> None:
    before = everything(old.root)
    for answer in ("\n", "what\n", "\x04"):
        code, said = typed(old.root, answer)
        assert code == 0
        assert "1 run " in said
        assert said.rstrip().endswith("Nothing is deleted."), said
    command = [sys.executable, "-c", CLEAN]
    done = subprocess.run(
        command, cwd=old.root, stdin=subprocess.DEVNULL, capture_output=True, text=True
    )
    assert done.returncode == 2
    assert "no terminal to ask at" in done.stderr
    assert "-- --yes" in done.stderr
    assert "1 run " in said_by(capfd, clean, "--dry-run", "--yes")
    assert "Nothing to delete" in said_by(capfd, clean, "--yes", "--older-than", "6w")
    assert everything(old.root) == before
    with exclusive_lock(old.root / ".metaflow" / "clean.lock", lambda _: None):
        code, said = typed(old.root, "y\n")
    assert code == 2
    assert f"process {os.getpid()} is cleaning already" in said
    code, said = typed(old.root, "y\n", "--older-than", "959h")
    assert code == 0
    assert "Freed " in said
    assert len(old.ids()) == 1


@pytest.mark.parametrize("wrong", ["30", "d", "30y", "-1d", "soon", "1.5d", "٣d"])
def test_an_age_that_is_none_is_told(
    pipeline: Pipeline, wrong: str, capfd: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as stop:
        clean.main([f"--older-than={wrong}", "--yes"])
    assert stop.value.code == 2
    assert "a number and h, d or w" in capfd.readouterr().err


@pytest.mark.nightly
@pytest.mark.parametrize("is_bare", [False, True])
def test_a_flow_at_work_is_left_alone_however_old(
    splitting: Splitting, capfd: pytest.CaptureFixture[str], is_bare: bool
) -> None:
    """Where it runs by itself no task holds a lock for it, and no file names its run."""
    splitting.task(flow_kwargs={"n": 2}).run()
    for marker in (splitting.root / ".metaflow").rglob("MetaflowTask*.json"):
        marker.unlink()  # so that its artifacts, which the next run has too, are nobody's
    splitting.ran()
    splitting.tell("wait-join")
    if is_bare:
        command = [sys.executable, str(splitting.flow), "--no-pylint", "run"]
        environment = {**os.environ, "METAFLOW_USER": "somebody"}
        running = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True)
    else:
        running = start(splitting.root, "run", "split.py")
    splitting.process_of("join")
    make_old(splitting.root)
    said = said_by(capfd, clean, "--yes", "--older-than", "0h")
    assert "May be at work, so left alone: SplitFlow." in said
    told = said_by(capfd, status)
    assert ("running at join" in told) != is_bare
    assert "failed" not in told
    splitting.tell()
    printed = running.communicate(timeout=120)[0]
    assert running.returncode == 0, printed


@pytest.mark.nightly
@pytest.mark.parametrize("what", ["begun", "named", "changed"])
def test_what_is_needed_since_it_was_planned_is_put_back(
    old: Keeping, capfd: pytest.CaptureFixture[str], what: str
) -> None:
    root = old.root / ".metaflow"
    plan = clean.plan_for(str(root), root, time.time() - DAY)
    (run,) = (item for item in plan.items if item.kind == clean.RUN)
    assert clean.ARTIFACT in {item.kind for item in plan.items}
    if what == "begun":
        (root / "KeepingFlow" / "1" / "_meta").mkdir(parents=True)
    elif what == "named":
        told = {"flow": "KeepingFlow", "run_id": run.name.partition("/")[2]}
        (root / "luigi" / "taken.json").write_text(json.dumps(told))
    else:
        (run.paths[0] / "_parameters").touch()
    before = everything(old.root)
    assert clean.delete(plan, root) == 0
    assert "Used meanwhile, so left alone: KeepingFlow." in capfd.readouterr().out
    if what == "changed":
        assert run.paths[0].is_dir()
    else:
        assert everything(old.root) == before


@pytest.mark.nightly
def test_what_a_clean_that_was_killed_has_left_goes_with_the_next(
    old: Keeping, capfd: pytest.CaptureFixture[str]
) -> None:
    trash = old.root / ".metaflow" / "trash" / "killed"
    trash.mkdir(parents=True)
    (old.root / ".metaflow" / "KeepingFlow" / min(old.ids())).rename(trash / "0")
    said = said_by(capfd, clean, "--yes")
    assert "1 left-over " in said
    assert "1 run " in said, "of which there was the card"
    assert old.look() == [9000, 9000, 18000, "second", True]
    assert old.kept("cards") == 1
    assert not trash.parent.exists()


@pytest.mark.nightly
def test_a_marker_that_cannot_be_read_protects_all_runs(
    old: Keeping, capfd: pytest.CaptureFixture[str]
) -> None:
    (marker,) = (old.root / ".metaflow" / "luigi").rglob("*.json")
    marker.write_text("<<<<<<< HEAD\n")
    os.utime(marker, (0, 0))
    ids = old.ids()
    said = said_by(capfd, clean, "--yes")
    assert f"{marker} is not JSON" in said
    assert old.ids() == ids
    assert f"unknown: {marker} is not JSON" in said_by(capfd, status)
    marker.unlink()
    (old.root / ".metaflow" / "luigi" / "dev" / "more").symlink_to("a disk that is not there now")
    assert "No run is touched" in said_by(capfd, clean, "--yes")
    assert old.ids() == ids


@pytest.mark.nightly
def test_links_are_not_followed_to_what_is_deleted_and_are_to_what_is_named(
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
    said_by(capfd, clean, "--yes")
    assert len(old.ids()) == 1
    assert before == {str(path) for path in elsewhere.rglob("*")}
    assert old.look() == [9000, 9000, 18000, "second", True]


@pytest.mark.nightly
def test_overlays_go_when_nobody_has_used_them(
    splitting: Splitting, capfd: pytest.CaptureFixture[str]
) -> None:
    root = splitting.root / ".metaflow"
    for name in ("0123", "4567"):
        (root / "overlays" / name).mkdir(parents=True)
        (root / "overlays" / name / "overlay.json").write_text("{}")
    make_old(splitting.root)
    splitting.tell("wait-join")
    running = start(splitting.root, "run", "split.py")
    splitting.process_of("join")
    os.utime(root / "overlays" / "4567" / "overlay.json")  # as the task that is at work does
    assert "1 overlay " in said_by(capfd, clean, "--yes", "--older-than", "0h")
    assert [path.name for path in (root / "overlays").iterdir()] == ["4567"]
    splitting.tell()
    running.communicate(timeout=120)
    assert running.returncode == 0


@pytest.mark.nightly
def test_a_bucket_is_left_to_whoever_keeps_it_and_this_disk_is_freed(old: Keeping) -> None:
    overlay = old.root / ".metaflow" / "overlays" / "0123"
    overlay.mkdir(parents=True)
    os.utime(overlay, (0, 0))
    ids = old.ids()
    on_s3 = {"METAFLOW_DEFAULT_DATASTORE": "s3", "METAFLOW_DATASTORE_SYSROOT_S3": "s3://nowhere/x"}
    command = [sys.executable, "-c", CLEAN, "--yes"]
    said = subprocess.check_output(command, cwd=old.root, env={**os.environ, **on_s3}, text=True)
    assert "Left to whoever keeps the bucket: s3://nowhere/x" in said
    assert not overlay.exists()
    assert old.ids() == ids


def retry_in(said: str) -> list[str]:
    """The words behind `nox -s run --` of the one command that is printed."""
    (line,) = (line for line in said.splitlines() if "retry: " in line)
    words = shlex.split(line.partition("retry: ")[2])
    assert words[:4] == ["nox", "-s", "run", "--"]
    return words[4:]


@pytest.mark.parametrize(
    "options",
    [
        [],
        [
            *("--flow-kwargs", '{"n": 2}', "--flow-tag", "it.is-1"),
            *("--preflow-kwargs", '{"with": ["retry:times=0"]}'),
        ],
    ],
)
def test_the_command_that_status_prints_resumes_what_failed(
    splitting: Splitting, capfd: pytest.CaptureFixture[str], options: list[str]
) -> None:
    splitting.tell("fail-join")
    start(splitting.root, "run", "split.py", *options).communicate()
    splitting.ran()
    make_old(splitting.root, days=400)
    said_by(capfd, clean, "--yes")
    said = said_by(capfd, status)
    assert "failed at join" in said
    assert "  ValueError: fail-join is there\n" in said
    assert ("  split.py n=2  it.is-1  SplitFlow/" if options else "  split.py  dev  ") in said
    splitting.tell()
    again = start(splitting.root, "run", *retry_in(said))
    printed = again.communicate(timeout=120)[0]
    assert again.returncode == 0, printed
    assert splitting.ran() == ["end", "join"]
    said = said_by(capfd, status)
    assert "succeeded" in said
    assert "failed" not in said


def test_the_newest_runs_are_shown_first(
    pipeline: Pipeline, capfd: pytest.CaptureFixture[str]
) -> None:
    folder = pipeline.root / ".metaflow" / "luigi" / "dev" / "a b" / "small.py"
    folder.mkdir(parents=True)
    for number in (1, 3, 2):
        file = folder / f"Small_{number}.json"
        file.write_text(json.dumps({"flow": "SmallFlow", "run_id": f"{number}", "seconds": 1}))
        os.utime(file, (number * DAY, number * DAY))
    lines = said_by(capfd, status, "--runs", "2").splitlines()
    shown = [line for line in lines if "a b/small.py  dev" in line]
    assert [line.split("SmallFlow/")[1] for line in shown] == ["3  1.0 s", "2  1.0 s"]
    assert "and 1 more: nox -s status -- --runs 3" in lines[-1]
    assert not [line for line in lines if line.startswith("images")], "where none was built"


def test_what_failed_before_there_was_a_run_is_told_and_hinders_no_clean(
    splitting: Splitting, capfd: pytest.CaptureFixture[str]
) -> None:
    splitting.task(flow_kwargs={"n": 1}).run()
    splitting.task(flow_kwargs={"n": 1}, force=True).run()
    with pytest.raises(ParameterError, match="has no parameter 'm'"):
        splitting.task(flow_kwargs={"m": 1}).run()
    assert "before there was" not in said_by(capfd, status), (
        "there is nothing to retry as it stands"
    )
    splitting.flow.write_text("import no_such_module\n" + splitting.flow.read_text())
    with pytest.raises(FlowFailedError, match="no_such_module"):
        splitting.task(flow_kwargs={"n": 2}).run()
    said = said_by(capfd, status)
    assert "split.py n=2  dev  before there was a run" in said
    assert re.search(r"\n +ModuleNotFoundError: .* 'no_such_module'\n +retry: ", said)
    make_old(splitting.root)
    said = said_by(capfd, clean, "--yes")
    assert "1 run " in said
    assert "1 lost attempt " in said
    assert not list(splitting.root.rglob("*.attempts"))


@pytest.mark.nightly
def test_nothing_hides_the_rest(
    splitting: Splitting, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """No git, no answers, no environment and no runs, and everything else broken."""
    root = splitting.root
    monkeypatch.setenv("PATH", "")
    (root / ".metaflow").write_text("a file where a folder should be")
    (root / "pyproject.toml").write_text("<<<<<<< HEAD\n")
    (root / ".copier-answers.yml").write_bytes(b"\xff\xfe")
    said = said_by(capfd, status)
    for name in ("repo", "template", "hooks", "environment", "disk", "last runs"):
        assert any(line.startswith(name) for line in said.splitlines()), said
    assert "environment  none yet: nox -s setup" in said
    assert "; git is not on PATH" in said
    assert len(said.splitlines()) < 15


def test_a_lock_says_who_is_at_work_while_it_is_held(tmp_path: Path) -> None:
    lock = tmp_path / "luigi-locks" / "Task_1.lock"
    with exclusive_lock(lock, lambda _: None):
        assert [*inventory.tasks_at_work(tmp_path)] == ["Task_1"]
    lock.touch()  # as after a kill
    assert inventory.tasks_at_work(tmp_path) == {}
    assert lock.exists()
