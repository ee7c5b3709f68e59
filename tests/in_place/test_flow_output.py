"""The lines that Metaflow prints: progress, and the error message of a flow that failed."""

from __future__ import annotations

import pytest
from runtime.flow.output import FlowOutput, Progress

STEPS = {"start": "work", "work": None, "join": None, "end": None}


def output_of(*lines: str) -> FlowOutput:
    output = FlowOutput("split.py", STEPS)
    for line in lines:
        output.add(line)
    return output


def task_line(task: str, text: str) -> str:
    return f"2026-11-20 10:57:42.053 [17/{task} (pid 5039)] {text}"


def finished(task: str) -> list[str]:
    return [
        task_line(task, "Task is starting."),
        task_line(task, "Task finished successfully."),
    ]


SPLIT = [
    task_line("start/1", "Task is starting."),
    task_line("start/1", "Foreach yields 3 child steps."),
    task_line("start/1", "Task finished successfully."),
]


def test_progress_counts_steps_alike_and_their_tasks_alike() -> None:
    output = output_of(*SPLIT, *finished("work/2"), task_line("work/3", "Task is starting."))
    assert output.status() == "step work, 1 of 3 done"
    assert output.percentage() == 33  # one step of four, and a third of the second
    assert output.progress() == Progress("step work, 1 of 3 done", 1, 4, 33)


def test_a_retried_task_counts_once_and_has_not_failed() -> None:
    output = output_of(
        *SPLIT,
        task_line("work/2", "Task is starting."),
        task_line("work/2", "Task failed."),
        task_line("work/2", "Task is starting (retry)."),
        task_line("work/2", "Task finished successfully."),
    )
    assert output.progress() == Progress("", 1, 4, 33)
    assert "step" not in str(output.failure("killed by SIGKILL")).splitlines()[0]


def test_a_failure_has_the_step_and_the_traceback_without_metaflows_frames() -> None:
    traceback = [
        "Traceback (most recent call last):",
        'File "/site-packages/metaflow/task.py", line 12, in run',
        "self._exec(step)",
        "^^^^^^^^^^",
        'File "/repo/flows/split.py", line 9, in work',
        'raise ValueError("no rows")',
        "ValueError: no rows",
    ]
    lines = ["<flow SplitFlow step work> failed:", *traceback]
    output = output_of(
        task_line("work/2", "Task is starting."),
        *(task_line("work/2", line) for line in lines),
        task_line("work/2", "Task failed."),
        "    Workflow failed.",
    )
    error = output.failure("exit code 1")
    first, *rest = str(error).splitlines()
    assert error.cause == "ValueError: no rows"
    assert first == "split.py failed in step `work` (task 17/work/2): exit code 1"
    assert rest == [traceback[0], *traceback[4:]]


@pytest.mark.parametrize("message", ["no rows", "no rows\nof today", "no rows\n\n1: of today"])
def test_what_is_printed_after_a_traceback_hides_neither_it_nor_its_cause(message: str) -> None:
    traceback = [
        "Traceback (most recent call last):",
        'File "/repo/flows/split.py", line 9, in work',
        "raise ValueError(message)",
        *f"ValueError: {message}".splitlines(),
    ]
    rows = [f"row {number}" for number in range(1000)]
    lines = [*rows, "<flow SplitFlow step work> failed:", *traceback, "", *rows]
    output = output_of(
        task_line("work/2", "Task is starting."),
        *(task_line("work/2", line) for line in lines),
        task_line("work/2", "Task failed."),
    )
    error = output.failure("exit code 1")
    assert traceback[:4] == str(error).splitlines()[1:5]
    assert "row 9" not in str(error)
    assert error.cause == "ValueError: no rows"


def test_a_step_without_a_traceback_has_its_last_line_as_such() -> None:
    output = output_of(
        task_line("work/2", "Task is starting."),
        task_line("work/2", "no rows today"),
        task_line("work/2", "Task failed."),
    )
    assert output.failure("exit code 1").cause == "exit code 1; last line: no rows today"


def test_a_time_limit_is_the_cause_whatever_was_printed_last() -> None:
    output = output_of("Workflow starting (run-id 17):", task_line("work/2", "Task is starting."))
    error = output.failure("stopped after 4 seconds")
    assert error.cause == "stopped after 4 seconds"
    first = str(error).splitlines()[0]
    assert first == "split.py failed in step work: stopped after 4 seconds", "with what was running"


def test_a_failure_outside_a_step_has_the_last_lines() -> None:
    output = output_of(*map(str, range(30)))
    error = output.failure("exit code 1")
    first, *rest = str(error).splitlines()
    assert first == "split.py failed: exit code 1"
    assert error.cause == "29"
    assert rest == [str(number) for number in range(10, 30)]


@pytest.mark.parametrize(
    ("lines", "reason"),
    [
        (["Usage: split.py run", "", "Error: no such option: --x"], "no such option: --x"),
        (["Validating your flow..."], ""),
    ],
)
def test_a_refused_command_line_is_told_by_metaflows_reason(lines: list[str], reason: str) -> None:
    assert output_of(*lines).refusal() == reason


def test_lines_of_cloned_tasks_count_however_they_are_mixed() -> None:
    output = output_of(
        "[2/start/1] Cloning previously run task 1/start/1",
        "[2/work/2] [2/work/3] Cloning previously run task 1/work/2",
        "Cloning previously run task 1/work/3[2/join/4] Cloning previously run task 1/join/4",
    )
    assert output.percentage() == 75
    assert output.progress().done == 3


def test_every_line_is_printed_behind_the_flows_path(capsys: pytest.CaptureFixture[str]) -> None:
    output_of("first", task_line("work/2", "second"))
    assert capsys.readouterr().out.splitlines() == [
        "split.py | first",
        f"split.py | {task_line('work/2', 'second')}",
    ]
