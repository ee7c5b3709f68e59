"""talk_to_luigi: what it gives a flow, with and without Luigi."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest
from metaflow import FlowSpec, step
from sales_pipelines.runtime import (
    FlowFailedError,
    FlowNotFoundError,
    MetaflowTask,
    PipelineError,
    talk_to_luigi,
)
from sales_pipelines.runtime.flow.flow_file import flow_names, flow_paths, flow_steps
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


@pytest.mark.parametrize(
    "steps",
    [
        ["@step(start=True, end=True)", "whole"],
        ["@step", "only"],
        ["@step(start=True)", "first", "@step", "second", "@step(end=True)", "last"],
        pytest.param(["@step", "start", "@step(end=True)", "last"], marks=pytest.mark.thorough),
    ],
)
def test_the_last_step_hands_over_the_result_whatever_its_name(
    pipeline: Pipeline, steps: list[str]
) -> None:
    names = steps[1::2]
    lines = ["from metaflow import FlowSpec, step"]
    lines += ["from sales_pipelines.runtime import talk_to_luigi", "@talk_to_luigi"]
    lines += ["class OtherFlow(FlowSpec):"]
    for name, decorator, following in zip(names, steps[::2], [*names[1:], ""], strict=True):
        lines += [f"    {decorator}", f"    def {name}(self):", f"        self.at = '{name}'"]
        lines += ["        self.luigi_result = self.at"]
        lines += [f"        self.next(self.{following})"] if following else []
    lines += ["if __name__ == '__main__':", "    OtherFlow()"]
    task = MetaflowTask(pipeline.add_file("other.py", "\n".join([*lines, ""])))
    progress: list[int] = []
    task.set_status_message, task.set_progress_percentage = lambda _: None, progress.append
    task.run()
    assert task.output().result == names[-1]
    assert [*flow_steps(pipeline.flows / "other.py")] == names


def test_metaflow_still_names_the_last_step_where_it_is_looked_up() -> None:
    class Flow(FlowSpec):
        @step(start=True, end=True)  # type: ignore[untyped-decorator]
        def whole(self) -> None: ...

    assert Flow._graph.end_step == "whole"


IN_TWO_FILES = """
from metaflow import FlowSpec, step

from sales_pipelines.runtime import talk_to_luigi


@talk_to_luigi
class Base(FlowSpec):
    @step
    def start(self):
        self.next(self.end)

    @step
    def end(self):
        self.luigi_result = [type(self).__name__, self.production, self.test]
"""


@pytest.mark.parametrize("decorator", ["@talk_to_luigi", ""])
@pytest.mark.parametrize("base", ["base", "small"])
def test_a_class_based_on_one_that_talks_to_luigi_does_too(
    pipeline: Pipeline, decorator: str, base: str
) -> None:
    child = (
        f"from base import Base, talk_to_luigi\n{decorator}\nclass Child(Base):\n    pass\n"
        "if __name__ == '__main__':\n    Child()\n"
    )
    if base == "small":  # in one file
        child = child.replace("from base import Base, talk_to_luigi\n", IN_TWO_FILES)
    pipeline.add_file("base.py", IN_TWO_FILES)
    task = MetaflowTask(pipeline.add_file("small.py", child), flow_tag="production")
    task.run()
    assert task.output().result == ["Child", True, False]
    assert task.output().marker.flow == "Child"


@pytest.mark.thorough
def test_a_flow_whose_class_is_imported_runs_resumes_and_is_taken(pipeline: Pipeline) -> None:
    text = IN_TWO_FILES.replace(
        "self.luigi_result", "assert os.path.exists('mended')\n        self.luigi_result"
    ).replace("from metaflow", "import os\n\nfrom metaflow", 1)
    pipeline.add_file("base.py", text)
    path = pipeline.add_file(
        "main.py", "from base import Base\nif __name__ == '__main__':\n    Base()\n"
    )
    assert flow_paths() == [path]
    task = MetaflowTask(path)
    with pytest.raises(FlowFailedError, match="in step `end`"):
        task.run()
    (pipeline.root / "mended").touch()
    task.run()
    assert len(task.output().marker.resumed) == 1
    taken = MetaflowTask(path, from_run=task.output().marker.pathspec)
    task.output().remove()
    taken.run()
    assert taken.output().result == ["Base", False, True]


def test_only_what_the_file_starts_is_a_flow(pipeline: Pipeline) -> None:
    path = pipeline.add_flow(start="raise BadRow('row 3')", talks=True)
    file = pipeline.flows / path
    text = "class BadRow(ValueError):\n    pass\n\n\n"
    file.write_text(text + file.read_text())
    assert flow_names(file) == ["SmallFlow"]
    helper = pipeline.flows / pipeline.add_file("rows.py", text + "def no():\n    raise BadRow()\n")
    with pytest.raises(FlowNotFoundError, match="has no flow"):
        MetaflowTask("rows.py").run()
    assert flow_paths() == [path]
    helper.write_text(text + "from pathlib import Path\nHERE = Path(__file__)\n")
    assert flow_names(helper) == []
    for started in (
        "def main():\n    SmallFlow()\nif __name__ == '__main__':\n    main()\n",
        "SmallFlow()\n",
    ):
        whole = file.read_text().partition("if __name__")[0]
        helper.write_text(whole + started)
        assert flow_names(helper) == ["SmallFlow"]


@pytest.mark.parametrize("end", ["pass", "self.luigi_result = None"])
def test_a_result_that_is_missing_names_the_flow_and_why(pipeline: Pipeline, end: str) -> None:
    task = MetaflowTask(pipeline.add_flow(talks=True, end=end))
    task.run()
    target = task.output()
    assert target.marker.result is None
    with pytest.raises(
        PipelineError,
        match=rf"^small\.py has no result: {target.marker.pathspec} has set no self\.luigi_result"
        r"\nhint: .*@talk_to_luigi.*--force$",
    ):
        _ = target.result["rows"]
