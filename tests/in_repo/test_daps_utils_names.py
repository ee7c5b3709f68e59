"""What a task of daps_utils passes to its MetaflowTask, and this one does not take."""

from __future__ import annotations

from typing import Any

import luigi
import pytest
from sales_pipelines.runtime import MetaflowTask, ParameterError

from .conftest import Pipeline


class Cleaned(luigi.Task):
    """What another task needs first."""


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"requires_task": Cleaned}, r"no requires_task\nhint: .*requires\(\)"),
        ({"requires_task_kwargs": {"day": "2026-01-01"}}, r"no requires_task_kwargs\nhint: "),
        (
            {"requires_task_kwargs": {}, "requires_task": Cleaned},
            r"no requires_task\nhint: .*requires\(\)",
        ),
        ({"stale_breadcrumb": "s3://b/MetaflowTask___1"}, r"no stale_breadcrumb\nhint: from_run"),
        ({"container_kwargs": {"mem_limit": "4g"}}, r"`mem_limit`\nhint: .* memory"),
    ],
)
def test_a_parameter_that_is_gone_is_named_with_what_takes_its_place(
    pipeline: Pipeline, arguments: dict[str, Any], message: str
) -> None:
    path = pipeline.add_flow("adverts/adverts.py")
    with pytest.raises(ParameterError, match=message):
        MetaflowTask(path, **arguments)


def test_what_is_not_gone_is_taken(pipeline: Pipeline) -> None:
    path = pipeline.add_flow("adverts/adverts.py")
    task = MetaflowTask(
        flow_path=path,
        flow_tag="production",
        rebuild_base=False,
        rebuild_flow=True,
        flow_kwargs={},
        preflow_kwargs={"with": ["retry"]},
        container_kwargs={"memory": "4g"},
    )
    assert (task.flow_tag, task.rebuild_flow) == ("production", True)


def test_a_subclass_can_have_a_parameter_of_that_name(pipeline: Pipeline) -> None:
    class Own(MetaflowTask):
        flow_path = pipeline.add_flow("adverts/adverts.py")
        requires_task: Any = luigi.TaskParameter()

        def requires(self) -> luigi.Task:
            task: luigi.Task = self.requires_task()
            return task

    assert isinstance(Own(requires_task=Cleaned).requires(), Cleaned)
