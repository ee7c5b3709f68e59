"""talk_to_luigi: what it gives a flow, with and without Luigi."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest
from metaflow import FlowSpec
from sales_pipelines.runtime import FlowFailedError, MetaflowTask, talk_to_luigi
from sales_pipelines.runtime.flow.handover import write_result

from .conftest import Pipeline


def by_hand(pipeline: Pipeline, path: str, *options: str) -> str:
    environment = {**os.environ, "METAFLOW_USER": "tester"}
    done = subprocess.run(
        [sys.executable, str(pipeline.flows / path), "run", *options],
        cwd=pipeline.root,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    return done.stdout + done.stderr


def test_a_flow_run_by_hand_is_a_test_unless_production_is_given(pipeline: Pipeline) -> None:
    start = "import sys\nprint(self.production, self.test, 'luigi' in sys.modules)"
    path = pipeline.add_flow(talks=True, start=start, end="self.luigi_result = 1")
    assert "False True False" in by_hand(pipeline, path), "flows do not import Luigi"
    assert "True False False" in by_hand(pipeline, path, "--production", "true")


def test_a_result_that_is_no_json_fails_the_flow(pipeline: Pipeline) -> None:
    task = MetaflowTask(pipeline.add_flow(talks=True, end="self.luigi_result = object()"))
    with pytest.raises(FlowFailedError, match=r"(?s)step `end`.*luigi_result must be a JSON value"):
        task.run()
    assert not task.complete()


def test_a_result_is_a_json_value_of_limited_size() -> None:
    with pytest.raises(TypeError, match=r"must be a JSON value: .* finite number"):
        write_result("1", {"mean": float("nan")})
    with pytest.raises(ValueError, match="is 70,002 bytes of JSON and may have 65,536"):
        write_result("1", "x" * 70_000)


def test_what_is_no_flow_is_refused_with_the_rule() -> None:
    class Forgotten:
        pass

    with pytest.raises(TypeError, match=r"based on FlowSpec, which <class '.*Forgotten'> is not"):
        talk_to_luigi(Forgotten)


def test_the_flow_s_own_names_are_not_overwritten() -> None:
    class Flow(FlowSpec):
        test = "mine"

    with pytest.raises(TypeError, match=r"Flow\.test: talk_to_luigi adds this name"):
        talk_to_luigi(Flow)
