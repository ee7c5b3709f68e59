"""`status` says what is what, and `clean` takes what is old and named by nothing."""

from __future__ import annotations

import json
import os
import pty
import shlex
import subprocess
import sys
import time
from pathlib import Path

import pytest
from sales_pipelines.runtime import MetaflowTask, ParameterError, clean, inventory, status

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


@pytest.fixture
def splitting(pipeline: Pipeline, monkeypatch: pytest.MonkeyPatch) -> Splitting:
    monkeypatch.chdir(pipeline.root)
    return Splitting(pipeline)


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
        return {run.run_id for run in inventory.runs(self.root / ".metaflow")}

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


@pytest.mark.nightly
def test_what_failed_can_be_resumed_after_a_clean(
    splitting: Splitting, capfd: pytest.CaptureFixture[str]
) -> None:
    splitting.tell("fail-join")
    start(splitting.root, "run", "split.py").communicate()
    splitting.ran()
    make_old(splitting.root, days=400)
    said_by(capfd, clean, "--yes")
    splitting.tell()
    task = splitting.task()
    task.run()
    assert splitting.ran() == ["end", "join"]
    assert task.output().result == {"total": 5}


@pytest.mark.nightly
def test_what_is_young_stays(keeping: Keeping, capfd: pytest.CaptureFixture[str]) -> None:
    keeping.run("first")
    keeping.run("second", force=True)
    make_old(keeping.root, days=3)
    before = everything(keeping.root)
    assert "Nothing to delete" in said_by(capfd, clean, "--yes")
    assert "Nothing to delete" in said_by(capfd, clean, "--yes", "--older-than", "1w")
    assert everything(keeping.root) == before
    said_by(capfd, clean, "--yes", "--older-than", "71h")
    assert len(keeping.ids()) == 1


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
from sales_pipelines.runtime.clean import main
sys.exit(main(sys.argv[1:]))
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


def test_nothing_is_deleted_without_a_yes(old: Keeping) -> None:
    before = everything(old.root)
    for answer in ("\n", "n\n", "what\n", "\x04"):
        code, said = typed(old.root, answer)
        assert code == 0
        assert "1 run " in said
        assert said.rstrip().endswith("Nothing is deleted."), said
        assert everything(old.root) == before
    command = [sys.executable, "-c", CLEAN]
    done = subprocess.run(
        command, cwd=old.root, stdin=subprocess.DEVNULL, capture_output=True, text=True
    )
    assert done.returncode == 2
    assert "no terminal to ask at" in done.stderr
    assert "-- --yes" in done.stderr
    assert everything(old.root) == before
    code, said = typed(old.root, "y\n")
    assert code == 0
    assert "Freed " in said
    assert len(old.ids()) == 1


@pytest.mark.nightly
def test_a_dry_run_shows_and_deletes_nothing(
    old: Keeping, capfd: pytest.CaptureFixture[str]
) -> None:
    before = everything(old.root)
    said = said_by(capfd, clean, "--dry-run", "--yes")
    assert "1 run " in said
    assert "artifacts" in said
    assert everything(old.root) == before


@pytest.mark.parametrize("wrong", ["30", "d", "30y", "-1d", "soon", "1.5d", "٣d"])
def test_an_age_that_is_none_is_told(
    pipeline: Pipeline, wrong: str, capfd: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as stop:
        clean.main([f"--older-than={wrong}", "--yes"])
    assert stop.value.code == 2
    assert "a number and h, d or w" in capfd.readouterr().err


@pytest.mark.nightly
def test_a_run_at_work_is_left_alone_however_old(
    splitting: Splitting, capfd: pytest.CaptureFixture[str]
) -> None:
    splitting.task(flow_kwargs={"n": 2}).run()
    for marker in (splitting.root / ".metaflow").rglob("MetaflowTask*.json"):
        marker.unlink()  # so that its artifacts, which the next run has too, are nobody's
    make_old(splitting.root)
    splitting.ran()
    splitting.tell("wait-join")
    running = start(splitting.root, "run", "split.py")
    splitting.process_of("join")
    make_old(splitting.root)
    said = said_by(capfd, clean, "--yes", "--older-than", "0h")
    assert "May be at work, so its artifacts are left alone: SplitFlow." in said
    told = said_by(capfd, status)
    assert "running at join" in told
    assert "failed" not in told
    splitting.tell()
    printed = running.communicate(timeout=120)[0]
    assert running.returncode == 0, printed
    assert splitting.task().output().result == {"total": 5}


@pytest.mark.nightly
def test_a_flow_that_runs_by_itself_is_left_alone_too(
    splitting: Splitting, capfd: pytest.CaptureFixture[str]
) -> None:
    """No task holds a lock for it, and no file names its run."""
    splitting.tell("wait-join")
    command = [sys.executable, str(splitting.flow), "--no-pylint", "run"]
    (splitting.root / ".metaflow").mkdir()
    environment = {**os.environ, "METAFLOW_USER": "somebody"}
    running = subprocess.Popen(
        command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    splitting.process_of("join")
    make_old(splitting.root)
    said_by(capfd, clean, "--yes", "--older-than", "0h")
    splitting.tell()
    printed = running.communicate(timeout=120)[0]
    assert running.returncode == 0, printed


@pytest.mark.nightly
def test_a_run_that_begins_meanwhile_finds_its_artifacts(old: Keeping) -> None:
    root = old.root / ".metaflow"
    plan = clean.plan_for(root, time.time())
    items = [item for item in plan.items if item.kind == clean.ARTIFACT]
    assert items
    before = everything(old.root)
    known = {run.folder for run in inventory.runs(root)}
    (root / "KeepingFlow" / "1" / "_meta").mkdir(parents=True)
    with clean.Trash(root) as trash:
        assert not clean.take_artifacts(root, "KeepingFlow", items, trash, known)
    assert everything(old.root) == before


@pytest.mark.nightly
def test_what_a_clean_that_was_killed_has_left_goes_with_the_next(
    old: Keeping, capfd: pytest.CaptureFixture[str]
) -> None:
    trash = old.root / ".metaflow" / "trash" / "killed"
    trash.mkdir(parents=True)
    (run,) = (
        each for each in inventory.runs(old.root / ".metaflow") if each.run_id in min(old.ids())
    )
    run.folder.rename(trash / "0")
    assert len(old.ids()) == 1
    said = said_by(capfd, clean, "--yes")
    assert "cards of runs" in said
    assert "artifacts" in said
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
    assert "unreadable" in said_by(capfd, status)


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
def test_overlays_and_leftovers_go_when_nobody_has_used_them(
    splitting: Splitting, capfd: pytest.CaptureFixture[str]
) -> None:
    root = splitting.root / ".metaflow"
    for name in ("0123", "4567", "89ab.x.making"):
        (root / "overlays" / name).mkdir(parents=True)
        (root / "overlays" / name / "overlay.json").write_text("{}")
    splitting.task(flow_kwargs={"n": 1}).run()
    splitting.ran()
    for name in ("luigi/dev/x.json.1.tmp", "luigi-locks/x.lock", "overlays/cdef.lock"):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).touch()
    lost = root / "luigi" / "dev" / "split.py" / "Lost.attempts"
    lost.write_text(json.dumps({"flow": "SplitFlow", "runs": [{"run_id": "1"}]}))
    make_old(splitting.root)
    splitting.tell("wait-join")
    running = start(splitting.root, "run", "split.py")
    splitting.process_of("join")
    os.utime(root / "overlays" / "4567" / "overlay.json")  # as the task that is at work does
    os.utime(root / "overlays" / "4567")
    said = said_by(capfd, clean, "--yes")
    assert "1 overlay " in said
    assert "1 list of attempts" in said or "1 lists of attempts" in said
    assert [path.name for path in (root / "overlays").iterdir()] == ["4567"]
    assert not lost.exists()
    assert not (root / "luigi/dev/x.json.1.tmp").exists()
    assert [path.name for path in (root / "luigi-locks").glob("*.lock")] != ["x.lock"]
    make_old(splitting.root, days=0)
    said_by(capfd, clean, "--yes", "--older-than", "0h")
    assert (root / "overlays" / "4567").exists(), "used since the task began"
    splitting.tell()
    running.communicate(timeout=120)
    assert running.returncode == 0


@pytest.mark.nightly
def test_where_the_datastore_is_elsewhere_only_what_is_local_is_minded(old: Keeping) -> None:
    overlay = old.root / ".metaflow" / "overlays" / "0123"
    overlay.mkdir(parents=True)
    os.utime(overlay, (0, 0))
    ids = old.ids()
    done = subprocess.run(
        [sys.executable, "-c", CLEAN, "--yes"],
        cwd=old.root,
        env={**os.environ, "METAFLOW_DEFAULT_DATASTORE": "s3"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert "Only what is local is minded" in done.stdout
    assert "'s3'" in done.stdout
    assert not overlay.exists()
    assert old.ids() == ids


@pytest.mark.nightly
def test_two_cleans_do_not_meet(old: Keeping) -> None:
    with clean.alone(old.root / ".metaflow" / "clean.lock", lambda _: None):
        code, said = typed(old.root, "y\n")
    assert code == 2
    assert f"process {os.getpid()} is cleaning already" in said


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
    said = said_by(capfd, status)
    assert "failed at join" in said
    splitting.tell()
    again = start(splitting.root, "run", *retry_in(said))
    printed = again.communicate(timeout=120)[0]
    assert again.returncode == 0, printed
    assert splitting.ran() == ["end", "join"]
    said = said_by(capfd, status)
    assert "succeeded" in said
    assert "failed" not in said


QUOTED = """
from metaflow import FlowSpec, Parameter, step


class QuotedFlow(FlowSpec):
    text = Parameter("text")

    @step
    def start(self):
        self.next(self.end)

    @step
    def end(self):
        raise ValueError(self.text)


if __name__ == "__main__":
    QuotedFlow()
"""


@pytest.mark.nightly
def test_a_parameter_with_what_a_shell_would_read_arrives_again(
    splitting: Splitting, pipeline: Pipeline, capfd: pytest.CaptureFixture[str]
) -> None:
    text = """it's "$HOME" `id` \\ ; * ü
    -- end"""
    pipeline.add_file("a b/quo'ted.py", QUOTED)
    options = ["--flow-kwargs", json.dumps({"text": text})]
    start(splitting.root, "run", "a b/quo'ted.py", *options).communicate()
    words = retry_in(said_by(capfd, status))
    assert words[0] == "a b/quo'ted.py"
    assert json.loads(words[words.index("--flow-kwargs") + 1]) == {"text": text}
    start(splitting.root, "run", *words).communicate()
    (kept,) = (splitting.root / ".metaflow" / "luigi").rglob("*.attempts")
    assert len(json.loads(kept.read_bytes())["runs"]) == 2, "one, and its retry"


@pytest.mark.nightly
def test_the_newest_runs_are_shown_first(
    pipeline: Pipeline, capfd: pytest.CaptureFixture[str]
) -> None:
    tasks = [MetaflowTask(pipeline.add_flow(), flow_tag=tag) for tag in ("one", "two", "three")]
    for task in tasks:
        task.run()
    lines = said_by(capfd, status, "--runs", "2").splitlines()
    shown = [line for line in lines if "SmallFlow/" in line]
    markers = [task.output().marker.run_id for task in (tasks[2], tasks[1])]
    assert [line.split("SmallFlow/")[1].split()[0] for line in shown] == markers
    assert "and 1 more: nox -s status -- --runs 3" in lines[-1]
    assert "3 markers" in "\n".join(lines)


def test_what_failed_before_there_was_a_run_is_told_and_hinders_no_clean(
    splitting: Splitting, capfd: pytest.CaptureFixture[str]
) -> None:
    splitting.task(flow_kwargs={"n": 1}).run()
    splitting.task(flow_kwargs={"n": 1}, force=True).run()
    with pytest.raises(ParameterError, match="has no parameter 'm'"):
        splitting.task(flow_kwargs={"m": 1}).run()
    said = said_by(capfd, status)
    assert "split.py  dev  before there was a run" in said
    make_old(splitting.root)
    said = said_by(capfd, clean, "--yes")
    assert "1 run " in said
    assert "1 lists of attempts" in said
    assert not list(splitting.root.rglob("*.attempts"))


@pytest.mark.nightly
def test_nothing_hides_the_rest(splitting: Splitting, capfd: pytest.CaptureFixture[str]) -> None:
    """No git repo, no answers, no environment and no runs, and everything else broken."""
    root = splitting.root
    (root / ".metaflow").write_text("a file where a folder should be")
    (root / "pyproject.toml").write_text("<<<<<<< HEAD\n")
    (root / ".copier-answers.yml").write_bytes(b"\xff\xfe")
    said = said_by(capfd, status)
    for name in ("repo", "template", "hooks", "environment", "disk", "last runs"):
        assert any(line.startswith(name) for line in said.splitlines()), said
    assert "pyproject.toml or uv.lock is no TOML" in said
    assert len(said.splitlines()) < 15


def test_a_lock_is_looked_at_without_being_held(splitting: Splitting) -> None:
    splitting.tell("wait-join")
    running = start(splitting.root, "run", "split.py")
    splitting.process_of("join")
    root = splitting.root / ".metaflow"
    (task_id,) = inventory.tasks_at_work(root)
    splitting.tell()
    running.communicate(timeout=120)
    wait_until(lambda: not inventory.tasks_at_work(root))
    left = root / "luigi-locks" / f"{task_id}.lock"
    left.touch()
    assert inventory.tasks_at_work(root) == {}
    left.unlink()
