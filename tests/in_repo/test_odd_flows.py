"""Flows that are written in uncommon ways, and workers that start in an uncommon way."""

from __future__ import annotations

import subprocess
import sys

import luigi
import pytest
from sales_pipelines.runtime import FlowFailedError, MetaflowTask

from .conftest import Pipeline, mark_done


def run(task: luigi.Task) -> bool:
    return bool(luigi.build([task], local_scheduler=True, log_level="WARNING"))


def test_a_failure_is_the_last_one_with_step_and_traceback(pipeline: Pipeline) -> None:
    path = pipeline.add_flow(
        start="""
        from metaflow import current
        print('Task failed to converge, it says')
        if current.retry_count == 0:
            raise ValueError('the first time')
        """,
        end="""
        try:
            raise KeyError('the cause')
        except KeyError as error:
            raise ValueError('the last time') from error
        """,
    )
    task = MetaflowTask(path, preflow_kwargs={"with": ["retry:times=1,minutes_between_retries=0"]})
    with pytest.raises(FlowFailedError) as error:
        task.run()
    message = str(error.value)
    assert "small.py failed in step `end`" in message
    assert "the first time" not in message, "a retry of Metaflow's has repaired it"
    assert "Traceback (most recent call last)" in message
    assert "KeyError: 'the cause'" in message
    assert message.splitlines()[-1] == "ValueError: the last time"
    assert not task.complete()


@pytest.mark.thorough
def test_production_is_nothing_to_a_flow_that_does_not_talk_to_luigi(pipeline: Pipeline) -> None:
    path = pipeline.add_flow(
        parameters="production = Parameter('production', default='plant-7')",
        start="assert self.production == 'plant-7'",
    )
    assert run(MetaflowTask(path, flow_tag="production"))


@pytest.mark.thorough
def test_a_parameter_that_is_given_beats_the_tag(pipeline: Pipeline) -> None:
    path = pipeline.add_flow(talks=True, end="self.luigi_result = self.production")
    task = MetaflowTask(path, flow_tag="production", flow_kwargs={"production": False})
    assert run(task)
    assert task.output().result is False


def test_a_task_s_own_production_is_such_a_parameter_and_leaves_the_tag_as_it_is(
    pipeline: Pipeline,
) -> None:
    class Task(MetaflowTask):
        flow_path = pipeline.add_flow(talks=True, end="self.luigi_result = self.production")
        production = luigi.BoolParameter(default=True)

    task = Task(flow_tag="trial")
    assert run(task)
    assert task.output().result is True
    assert "/luigi/trial/" in task.output().path
    assert "trial" in task.output().run.user_tags
    assert "production" not in task.output().run.user_tags


@pytest.mark.thorough
def test_the_result_of_a_flow_that_a_flow_starts_is_not_its_own(pipeline: Pipeline) -> None:
    pipeline.add_flow("inner.py", talks=True, end="self.luigi_result = 'inner'")
    path = pipeline.add_flow(
        "outer.py",
        talks=True,
        start="""
        import subprocess, sys
        subprocess.run([sys.executable, 'flows/inner.py', 'run'], check=True)
        """,
    )
    task = MetaflowTask(path)
    task.run()
    assert task.output().marker.result is None


SPAWNED = """
import multiprocessing
import pathlib
import sys

import luigi

from sales_pipelines.runtime import MetaflowTask, paths

paths.ROOT = pathlib.Path(__file__).parent
paths.FLOWS = paths.ROOT / "flows"


class Downstream(MetaflowTask):
    flow_path = "second.py"

    def requires(self):
        return MetaflowTask("first.py", force=self.force)


if __name__ == "__main__":
    multiprocessing.set_start_method("spawn")
    sys.exit(not luigi.build([Downstream(force=True)], workers=2, local_scheduler=True))
"""


@pytest.mark.thorough
def test_workers_that_are_spawned_know_what_was_forced(pipeline: Pipeline) -> None:
    """As on macOS, where each worker process makes its tasks anew."""
    for name in ("first.py", "second.py"):
        mark_done(MetaflowTask(pipeline.add_flow(name)))
    script = pipeline.root / "spawned.py"
    script.write_text(SPAWNED)
    command = [sys.executable, str(script)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    runs = (pipeline.root / ".metaflow" / "SmallFlow").glob("[0-9]*")
    assert len([*runs]) == 2, "each once"
