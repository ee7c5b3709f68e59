"""Many tasks at once: none is lost, none runs twice, and Luigi's process does not grow."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from sales_pipelines.runtime import MetaflowTask

from .conftest import Pipeline

MANY = """
import pathlib, sys

import luigi

from sales_pipelines.runtime import MetaflowTask, paths

paths.ROOT = pathlib.Path.cwd()
paths.CONFIG, paths.FLOWS = paths.ROOT / "config", paths.ROOT / "flows"


class Many(luigi.WrapperTask):
    def requires(self):
        return [MetaflowTask("small.py", flow_kwargs={"n": n}) for n in range(int(sys.argv[1]))]


sys.exit(not luigi.build([Many()], workers=4, local_scheduler=True, log_level="WARNING"))
"""


def resident(process: int) -> int:
    """The memory of the process, in KiB; 0 if it has ended."""
    try:
        lines = Path(f"/proc/{process}/status").read_text().splitlines()
    except OSError:
        return 0
    return next((int(line.split()[1]) for line in lines if line.startswith("VmRSS:")), 0)


@pytest.mark.parametrize(
    "tasks",
    [
        pytest.param(12, marks=pytest.mark.thorough),
        pytest.param(200, marks=pytest.mark.nightly),
    ],
)
def test_many_tasks_on_four_workers(pipeline: Pipeline, tasks: int) -> None:
    path = pipeline.add_flow(
        talks=True,
        parameters="n = Parameter('n', type=int)",
        start="print(self.n, file=open('ran.txt', 'a'))",
        end="self.luigi_result = self.n",
    )
    with (pipeline.root / "log").open("w") as log:
        command = [sys.executable, "-c", MANY, str(tasks)]
        running = subprocess.Popen(command, cwd=pipeline.root, stdout=log, stderr=log)
        sizes: dict[int, int] = {}
        markers = pipeline.root / ".metaflow" / "luigi" / "dev" / "small.py"
        while running.poll() is None:
            sizes[len(list(markers.glob("*.json")))] = resident(running.pid)
            try:
                running.wait(0.2)
            except subprocess.TimeoutExpired:
                continue
    assert running.returncode == 0, (pipeline.root / "log").read_text()[-5000:]
    ran = sorted(map(int, (pipeline.root / "ran.txt").read_text().split()))
    assert ran == list(range(tasks)), "each once"
    done = [MetaflowTask(path, flow_kwargs={"n": n}).output().marker for n in range(tasks)]
    assert [marker.result for marker in done] == ran
    assert len({marker.run_id for marker in done}) == tasks
    assert len(list((pipeline.root / ".metaflow" / "SmallFlow").glob("[0-9]*"))) == tasks
    assert not list(pipeline.root.rglob("*.attempts"))
    early = max(size for count, size in sizes.items() if count <= tasks // 4)
    late = max(size for count, size in sizes.items() if count > tasks // 2)
    print(f"{tasks} tasks: {early} KiB, and {late} KiB in the end")
    assert late < 1.1 * early
