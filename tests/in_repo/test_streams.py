"""Commands whose standard streams are closed, unread, or cannot encode what is printed."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest
from sales_pipelines.runtime import process

from .conftest import START, Pipeline

LOUD = "for n in range(20_000): print(f'row {n}, and some more')"


def shell(pipeline: Pipeline, line: str, **variables: str) -> subprocess.CompletedProcess[str]:
    """Run a line of bash in the pipeline's folder, in which `$@` is the repo's command line."""
    return subprocess.run(
        ["bash", "-o", "pipefail", "-c", line, "bash", sys.executable, "-c", START],
        cwd=pipeline.root,
        env={**os.environ, **variables},
        capture_output=True,
        text=True,
        errors="replace",
        timeout=120,
        check=False,
    )


def test_a_run_ends_when_standard_output_is_closed(pipeline: Pipeline) -> None:
    pipeline.add_flow("loud.py", start=LOUD)
    done = shell(pipeline, '"$@" run loud.py >&-')
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr
    assert list(pipeline.root.glob(".metaflow/luigi/dev/loud.py/*.json"))


@pytest.mark.parametrize("reader", ["head -n 1", pytest.param("true", marks=pytest.mark.thorough)])
def test_a_run_that_nobody_reads_succeeds(pipeline: Pipeline, reader: str) -> None:
    pipeline.add_flow("small.py")
    done = shell(pipeline, f'"$@" run small.py | {reader}; echo "${{PIPESTATUS[0]}}"')
    assert done.stdout.splitlines()[-1] == "0", done.stderr
    assert "Broken pipe" not in done.stderr
    again = shell(pipeline, f'"$@" run small.py | {reader}; echo "${{PIPESTATUS[0]}}"')
    assert again.stdout.splitlines()[-1] == "0", again.stderr


@pytest.mark.thorough
@pytest.mark.parametrize("encoding", ["ascii", "latin-1"])
def test_what_cannot_be_encoded_is_shown_as_a_question_mark(
    pipeline: Pipeline, encoding: str
) -> None:
    result = "self.luigi_result = {'na\\u00efve': '\\u4e2d'}"
    path = pipeline.add_flow("odd.py", end=result, talks=True)
    done = shell(pipeline, f'"$@" run {path}', PYTHONIOENCODING=encoding)
    assert done.returncode == 0, done.stderr
    assert "ve: '?'" in done.stdout or "ve: ?" in done.stdout, done.stdout
    for _ in range(3):  # more than clean names
        shell(pipeline, f'"$@" run {path} --force')
    cleaned = shell(pipeline, '"$@" clean --older-than 0h --dry-run', PYTHONIOENCODING=encoding)
    assert cleaned.returncode == 0, cleaned.stderr
    assert ", ?" in cleaned.stdout, "the ellipsis"


@pytest.mark.parametrize("closed", ["<&-", "<&- 2>&-"])
def test_status_reports_the_same_when_streams_are_closed(pipeline: Pipeline, closed: str) -> None:
    expected = shell(pipeline, '"$@" status')
    for _ in range(3):
        done = shell(pipeline, f'"$@" status {closed}')
        assert done.returncode == 0
        assert done.stdout == expected.stdout


def test_a_user_without_a_home_gets_a_report(pipeline: Pipeline) -> None:
    if os.geteuid():
        pytest.skip("only root can become a user who has no entry")
    user = "setpriv --reuid 4242 --regid 4242 --clear-groups"
    capable = "--inh-caps +dac_override --ambient-caps +dac_override"
    ends = {
        "status": "last runs ",
        "clean --dry-run": "Nothing to delete",
        "run examples/co2_tasks.py": "run: flow_path ",
    }
    for command in ends:
        done = shell(
            pipeline,
            f'{user} {capable} env -u HOME -u METAFLOW_HOME "$@" {command}',
            UV_CACHE_DIR="/nowhere",
        )
        assert "Traceback" not in done.stderr + done.stdout
        assert ends[command] in done.stdout + done.stderr


# A standard stream that is closed: the next descriptor that is opened takes its number.
CLOSED = """
import os, sys
from pathlib import Path
from sales_pipelines.runtime import process
os.close({number})
lines = []
command = [sys.executable, "-c", "import time; time.sleep(0.5); print('done')"]
exit_code = process.run(
    command, cwd=Path.cwd(), env=os.environ, timeout=60, on_line=lines.append
)
Path("ended").write_text(f"{{exit_code}} {{lines}}")
"""


@pytest.mark.parametrize("number", [0, 1, 2])
def test_a_command_is_not_stopped_because_a_stream_is_closed(
    pipeline: Pipeline, number: int
) -> None:
    code = CLOSED.format(number=number)
    subprocess.run([sys.executable, "-c", code], cwd=pipeline.root, check=False)
    assert (pipeline.root / "ended").read_text() == "0 ['done']"


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_a_command_ends_though_its_lines_cannot_be_shown(pipeline: Pipeline) -> None:
    def show(line: str) -> None:
        raise ValueError(line)

    command = [sys.executable, "-c", "print('x' * 99 + '\\n' * 200_000)"]
    assert not process.run(command, cwd=pipeline.root, env=os.environ, timeout=30, on_line=show)
