"""What is measured inside a generated repo, with its Python; prints its figures as JSON."""

from __future__ import annotations

import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import luigi
from sales_pipelines.runtime import MetaflowTask, paths
from sales_pipelines.runtime.container import engine, image
from sales_pipelines.runtime.metaflow_config import metaflow_environment
from sales_pipelines.runtime.packages import overlay
from sales_pipelines.runtime.task.target import Marker

FLOW = Path(__file__).with_name("small_flow.py").read_text(encoding="utf-8")

LEFT_OUT = shutil.ignore_patterns(".venv", ".metaflow", "reports")


class BareTask(luigi.Task):
    """Starts the same process, and does nothing else."""

    number = luigi.IntParameter()

    def output(self) -> luigi.LocalTarget:
        return luigi.LocalTarget(str(paths.ROOT / "bare" / str(self.number)))

    def run(self) -> None:
        command = [sys.executable, str(paths.FLOWS / "small.py"), "--no-pylint", "run"]
        environment = {**metaflow_environment(), "PYTHONUNBUFFERED": "1"}
        subprocess.run(command, cwd=paths.ROOT, env=environment, check=True, capture_output=True)
        with self.output().open("w") as marker:
            marker.write("done")


class Finished(luigi.WrapperTask):
    """Requires so many tasks that have succeeded."""

    count = luigi.IntParameter()

    def requires(self) -> list[MetaflowTask]:
        return [MetaflowTask("small.py", flow_kwargs={"n": n}) for n in range(self.count)]


def build(task: luigi.Task) -> float:
    """How long Luigi takes for the task."""
    started = time.perf_counter()
    assert luigi.build([task], local_scheduler=True, log_level="WARNING")
    return time.perf_counter() - started


def task() -> dict[str, float]:
    """Seconds of a bare task and of a MetaflowTask, taking turns."""
    times: dict[str, list[float]] = {"bare": [], "task": []}
    for number in range(9):
        times["bare"].append(build(BareTask(number)))
        times["task"].append(build(MetaflowTask("small.py", flow_kwargs={}, flow_tag=str(number))))
    return {name: statistics.median(taken) for name, taken in times.items()}


def finish(count: int) -> None:
    """Let so many tasks have succeeded."""
    for finished in Finished(count).requires():
        finished.output().write(Marker(flow="SmallFlow", path="small.py", run_id="1"))


def recheck() -> dict[str, float]:
    """Seconds until Luigi knows that so many tasks are done, by their number."""
    finish(10_000)
    times: dict[str, list[float]] = {"1000": [], "2000": [], "10000": []}
    for _ in range(5):
        for count, taken in times.items():
            luigi.task_register.Register.clear_instance_cache()
            taken.append(build(Finished(int(count))))
    return {count: statistics.median(taken) for count, taken in times.items()}


def recheck_on_s3() -> dict[str, Any]:
    """The same with markers on S3, and the requests that are made, by the number of tasks."""
    import boto3
    from botocore.client import BaseClient
    from sales_pipelines.runtime.store import s3

    address = os.environ["METAFLOW_S3_ENDPOINT_URL"]
    boto3.client("s3", endpoint_url=address).create_bucket(Bucket="pipelines")
    asked = 0
    call = BaseClient._make_api_call

    def counted(self: Any, *arguments: Any) -> Any:
        nonlocal asked
        asked += 1
        return call(self, *arguments)

    BaseClient._make_api_call = counted
    times: dict[int, list[float]] = {1_000: [], 10_000: []}
    requests: dict[int, int] = {}
    for count, taken in times.items():
        finish(count)
        for _ in range(5):
            luigi.task_register.Register.clear_instance_cache()
            s3._listings_of.cache_clear()  # as in a process that begins
            asked = 0
            taken.append(build(Finished(count)))
            requests[count] = max(asked, requests.get(count, 0))
    seconds = {str(count): statistics.median(taken) for count, taken in times.items()}
    return {**seconds, "requests": requests}


def own_requirements() -> dict[str, float]:
    """Seconds that a flow's own requirements take before it starts: at first, and later."""
    flow = paths.FLOWS / "small.py"
    times = []
    for text in ("cowsay==6.0\n", "cowsay==6.1\n", "cowsay==6.0  # again\n"):  # uv's cache, first
        flow.with_name("requirements.txt").write_text(text)
        times.append(overlay_takes(flow))
    assert len(list(paths.ROOT.glob(".metaflow/overlays/*/cowsay"))) == 2
    later = statistics.median(overlay_takes(flow) for _ in range(15))
    return {"first": times[1], "later": later}


def overlay_takes(flow: Path) -> float:
    """Seconds until the environment of the flow is known."""
    started = time.perf_counter()
    assert "PYTHONPATH" in overlay.environment_for(flow)
    return time.perf_counter() - started


def flow_image() -> dict[str, float]:
    """Seconds until the name of a flow's image is known, and megabytes that its layers take."""
    flow = paths.FLOWS / "small.py"
    lock = paths.ROOT / "uv.lock"
    lock.write_text(f"{lock.read_text()}\n# {time.time()}\n")  # a base that nobody has built
    figures = {"cold": image_takes()}
    edited = []
    for number in range(5):
        flow.write_text(f"{FLOW}\n# {number}\n")
        edited.append(image_takes())
    figures["edited"] = statistics.median(edited)
    figures["unchanged"] = statistics.median(image_takes() for _ in range(9))
    with image.images_for("small.py") as both:
        names = [each.name for each in both]
    form = "--format={{.Size}}"
    sizes = [int(engine.docker("image", "inspect", form, each).stdout) / 1e6 for each in names]
    for made in engine.images():
        engine.remove(made.name)
    return {**figures, "base": sizes[0], "layer": sizes[1] - sizes[0]}


def image_takes() -> float:
    """Seconds until the name of the flow's image is known."""
    started = time.perf_counter()
    image.image_for("small.py")
    return time.perf_counter() - started


def main(name: str) -> None:
    """Run one part in a folder of its own."""
    parts: dict[str, Any] = {
        "task": task,
        "recheck": recheck,
        "recheck_on_s3": recheck_on_s3,
        "overlay": own_requirements,
        "image": flow_image,
    }
    with tempfile.TemporaryDirectory() as root:
        os.chdir(root)
        paths.ROOT = Path(root)
        if name == "image":
            shutil.copytree(
                paths.PACKAGE.parent, root, symlinks=True, dirs_exist_ok=True, ignore=LEFT_OUT
            )
            paths.PACKAGE = paths.ROOT / paths.PACKAGE.name
            paths.CONFIG, paths.FLOWS = paths.PACKAGE / "config", paths.PACKAGE / "flows"
        else:
            paths.FLOWS = paths.ROOT / "flows"
            paths.FLOWS.mkdir()
        (paths.FLOWS / "small.py").write_text(FLOW)
        print(json.dumps(parts[name]()))


if __name__ == "__main__":
    main(sys.argv[1])
