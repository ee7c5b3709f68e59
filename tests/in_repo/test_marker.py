"""There is a marker if and only if the run has succeeded, whatever happens when."""

from __future__ import annotations

import errno
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from sales_pipelines.runtime import FlowFailedError, MetaflowTask, PipelineError
from sales_pipelines.runtime.store.files import locked, write_whole
from sales_pipelines.runtime.task.attempts import read_attempts

from .conftest import ALL, START, Pipeline, Splitting, start

KILL = """
import os, pathlib, signal
from sales_pipelines.runtime.flow import flow_run
from sales_pipelines.runtime.task import attempts, target


def kill_in(owner, name, when=lambda *arguments: True):
    original = getattr(owner, name)

    def killing(*arguments, **more):
        if when(*arguments):
            os.kill(os.getpid(), signal.SIGKILL)
        return original(*arguments, **more)

    setattr(owner, name, killing)
"""
# When the process is killed: each is a moment in the life of a run.
MOMENTS = {
    "before the flow starts": "kill_in(flow_run.FlowRun, 'start')",
    "when the run is known": (
        "kill_in(attempts, 'write_attempts', lambda _, attempts: attempts.flow)"
    ),
    "when the flow has succeeded": "kill_in(target.FlowTarget, 'write')",
    "while the marker is written": (
        "kill_in(pathlib.Path, 'replace', lambda file, _: '.json.' in file.name)"
    ),
    "when the marker is there": (
        "kill_in(pathlib.Path, 'unlink', lambda file, *_: file.suffix == '.attempts')"
    ),
}


WHEN = {"when the run is known": [], "while the marker is written": [pytest.mark.thorough]}
EACH = [pytest.param(each, marks=WHEN.get(each, [pytest.mark.nightly])) for each in MOMENTS]


@pytest.mark.parametrize("moment", EACH)
def test_killed_at_any_moment_the_next_one_goes_on(splitting: Splitting, moment: str) -> None:
    killed = subprocess.run(
        [sys.executable, "-c", f"{KILL}\n{MOMENTS[moment]}\n{START}", "run", "split.py"],
        cwd=splitting.root,
        capture_output=True,
        text=True,
        check=False,
    )
    assert killed.returncode == -signal.SIGKILL, killed.stdout + killed.stderr
    task = splitting.task()
    assert task.complete() is (moment == "when the marker is there")
    before = splitting.ran()
    task.run()
    assert splitting.ran() == ([] if "end" in before else ALL)
    assert task.output().result == {"total": 5}
    assert task.output().run.successful


@pytest.mark.thorough
def test_killed_before_it_resumes_it_still_resumes(splitting: Splitting) -> None:
    splitting.tell("fail-join")
    with pytest.raises(FlowFailedError):
        splitting.task().run()
    splitting.ran()
    splitting.tell()
    kill = MOMENTS["before the flow starts"]
    command = [sys.executable, "-c", f"{KILL}\n{kill}\n{START}", "run", "split.py"]
    killed = subprocess.run(command, cwd=splitting.root, capture_output=True, check=False)
    assert killed.returncode == -signal.SIGKILL
    splitting.task().run()
    assert splitting.ran() == ["end", "join"]


@pytest.mark.nightly
def test_a_flow_goes_on_when_nobody_listens(splitting: Splitting) -> None:
    command = [sys.executable, "-c", START, "run", "split.py"]
    running = subprocess.Popen(command, cwd=splitting.root, stdout=subprocess.PIPE)
    assert running.stdout
    running.stdout.readline()
    running.stdout.close()
    running.wait(60)
    assert splitting.ran() == ALL
    assert splitting.task().complete()


@pytest.mark.thorough
def test_a_flow_goes_on_when_what_it_prints_cannot_be_written(pipeline: Pipeline) -> None:
    """Nor may it wait for its task to read on: a pipe has room for 64 KiB."""
    path = pipeline.add_flow(start="print(('x' * 99 + '\\n') * 2000)")
    with Path("/dev/full").open("w") as full:
        running = start(pipeline.root, "run", path, stdout=full)
    try:
        running.wait(60)
    finally:
        running.terminate()
    assert MetaflowTask(path).complete()


def test_attempts_that_are_half_a_file_are_none(tmp_path: Path) -> None:
    kept = tmp_path / "x.attempts"
    for contents in (b"", b'{"flow": ', b'{"flow": "\xff"}', b"[]"):
        kept.write_bytes(contents)
        assert read_attempts(str(kept)) is None


def no_space(_: int) -> None:
    raise OSError(errno.ENOSPC, "No space left on device")


def test_a_lock_says_who_holds_it_also_behind_one_that_was_killed(tmp_path: Path) -> None:
    lock = tmp_path / "x.lock"
    lock.write_text("12345678901234")
    waited: list[str] = []
    with locked(lock, waited.append):
        assert lock.read_text() == str(os.getpid())
    assert (waited, lock.exists()) == ([], False)


def test_where_attempts_cannot_be_kept_nothing_starts(
    splitting: Splitting, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "fsync", no_space)
    with pytest.raises(PipelineError, match=r"\.attempts: No space left on device"):
        splitting.task().run()
    assert splitting.ran() == []


def test_a_file_that_cannot_be_written_is_left_as_it_was(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And nothing else is left."""
    file = tmp_path / "file"
    write_whole(file, b"before")
    monkeypatch.setattr(os, "fsync", no_space)
    with pytest.raises(OSError, match="No space left"):
        write_whole(file, b"after")
    assert file.read_bytes() == b"before"
    assert list(tmp_path.iterdir()) == [file]


NO_MARKERS = [b"", b'{"flow": "SplitFlow", ', b'{"flow": "\xff"}', b"[]", b"null", b'{"flow": 1}']


@pytest.mark.parametrize("contents", NO_MARKERS)
def test_a_file_that_is_no_marker_is_named_and_does_not_count(
    splitting: Splitting, contents: bytes
) -> None:
    task = splitting.task()
    Path(task.output().path).parent.mkdir(parents=True)
    Path(task.output().path).write_bytes(contents)
    assert not task.output().exists()
    assert not task.complete()
    with pytest.raises(PipelineError, match=r"(?s)\.json is no marker: .*with --force"):
        _ = task.output().result


@pytest.mark.nightly
def test_with_a_file_that_is_no_marker_the_flow_runs_again(splitting: Splitting) -> None:
    task = splitting.task()
    Path(task.output().path).parent.mkdir(parents=True)
    Path(task.output().path).write_bytes(NO_MARKERS[1])
    task.run()
    assert task.complete()


def test_a_marker_of_another_version_is_one(splitting: Splitting) -> None:
    task = splitting.task()
    Path(task.output().path).parent.mkdir(parents=True)
    old = {"flow": "SplitFlow", "path": "split.py", "run_id": "1", "from_the_future": {"a": 1}}
    Path(task.output().path).write_text(json.dumps(old))
    assert task.complete()
    assert task.output().marker.pathspec == "SplitFlow/1"


def output_in_namespace(splitting: Splitting, kind: str, before: str, after: str = "") -> str:
    """What `run` prints in a namespace, between these shell commands; it must fail."""
    inside = ["unshare", *kind.split(), "sh", "-c"]
    tried = subprocess.run([*inside, "true"], capture_output=True, text=True, check=False)
    if tried.returncode:
        pytest.skip(f"namespaces are not allowed here: {tried.stderr}")
    script = f'{before}\n"$@"\ncode=$?\n{after}\nexit $code'
    done = subprocess.run(
        [*inside, script, "sh", sys.executable, "-c", START, "run", "split.py"],
        cwd=splitting.root,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    assert done.returncode != 0, done.stdout
    return done.stdout


SMALL_DISK = "mkdir -p .metaflow/luigi; mount -t tmpfs -o size=64k tmpfs .metaflow/luigi"


@pytest.mark.nightly
def test_on_a_full_disk_nothing_starts(splitting: Splitting) -> None:
    full = f"{SMALL_DISK}; cat /dev/zero > .metaflow/luigi/x 2>/dev/null"
    printed = output_in_namespace(splitting, "--map-root-user --mount", full)
    assert "No space left on device" in printed
    assert splitting.ran() == []


@pytest.mark.thorough
def test_a_disk_that_is_full_in_the_end_loses_no_step(splitting: Splitting) -> None:
    """The run is noted by then, and taken as it is once there is room."""
    text = splitting.flow.read_text()
    fill = "import os; os.system('cat /dev/zero > .metaflow/luigi/x 2>/dev/null')"
    splitting.flow.write_text(text.replace('note("end")', f'note("end"); {fill}'))
    keep = "cp -r .metaflow/luigi kept; rm kept/x"
    printed = output_in_namespace(splitting, "--map-root-user --mount", SMALL_DISK, keep)
    assert "has succeeded, but its marker" in printed
    assert "No space left on device" in printed
    assert splitting.ran() == ALL
    (splitting.root / ".metaflow" / "luigi").rmdir()
    (splitting.root / "kept").rename(splitting.root / ".metaflow" / "luigi")
    task = splitting.task()
    assert not task.complete()
    task.run()
    assert splitting.ran() == []
    assert task.output().result == {"total": 5}


FULL = "cat /dev/zero > .metaflow/x 2>/dev/null"


@pytest.mark.parametrize(
    ("before", "step", "state"),
    [
        pytest.param(FULL, "no step", "none yet", marks=pytest.mark.thorough),
        ("true", "start", "failed at start"),
        pytest.param("true", "end", "failed at end", marks=pytest.mark.thorough),
    ],
)
def test_of_a_full_disk_the_run_and_status_say_so(
    splitting: Splitting, before: str, step: str, state: str
) -> None:
    (splitting.root / ".metaflow").mkdir()
    text = splitting.flow.read_text()
    fill = f"__import__('os').system({FULL!r})"
    splitting.flow.write_text(text.replace(f'note("{step}")', fill))
    small = f"mount -t tmpfs -o size=2m tmpfs .metaflow; {before}"
    report = '"$1" "$2" "$3" status'
    printed = output_in_namespace(splitting, "--map-root-user --mount", small, report)
    ran, _, reported = printed.partition("\nrepo  ")
    *_, last = ran.splitlines()
    why = "run: nothing more can be written to .metaflow: No space left on device; "
    assert last == f"{why}to delete what is old: nox -s clean"
    first, *below = reported.partition("last runs")[2].splitlines()
    assert first.strip().startswith(state)
    assert "No space left on device" in (below[0] if below else last)
    assert "free on that disk" in reported


def test_in_a_folder_that_cannot_be_written_nothing_starts(splitting: Splitting) -> None:
    folder = splitting.root / ".metaflow"
    folder.mkdir()
    folder.chmod(0o555)
    printed = output_in_namespace(splitting, "--user", "")  # root is not above modes there
    folder.chmod(0o755)
    assert "Permission denied" in printed
    assert "Traceback" not in printed
    assert splitting.ran() == []
