"""What runs write and where, and flows that run elsewhere: on AWS Batch and on Kubernetes.

S3 is moto's server. Batch is a server that records the
requests that it gets.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, ClassVar

import boto3
import pytest
from metaflow.metaflow_config import CLIENT_CACHE_PATH
from sales_pipelines.runtime import FlowFailedError, MetaflowTask, paths
from sales_pipelines.runtime.metaflow_config import local_root, metaflow_environment

from .conftest import Pipeline, s3_address, start

IMAGE = "registry.example.org/team/sales-pipelines/small:0123456789abcdef"


class Batch(BaseHTTPRequestHandler):
    """AWS Batch up to the definition of a job; it refuses to start one."""

    defined: ClassVar[list[dict[str, Any]]]
    answers: ClassVar[dict[str, Any]] = {
        "/v1/describejobqueues": {
            "jobQueues": [{"computeEnvironmentOrder": [{"computeEnvironment": "c"}]}]
        },
        "/v1/describecomputeenvironments": {
            "computeEnvironments": [{"computeResources": {"type": "EC2"}}]
        },
        "/v1/describejobdefinitions": {"jobDefinitions": []},
    }

    def do_POST(self) -> None:
        request = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        if self.path == "/v1/registerjobdefinition":
            self.defined.append(request)
        answer = self.answers.get(self.path)
        body = json.dumps(answer or {"message": "not available"}).encode()
        self.send_response(200 if answer else 400)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        """Print nothing."""


@pytest.fixture
def on_s3(pipeline: Pipeline, monkeypatch: pytest.MonkeyPatch) -> Iterator[Pipeline]:
    """The pipeline with its datastore on S3, and a Batch that refuses all jobs."""
    Batch.defined = []
    server = s3_address()
    with ThreadingHTTPServer(("127.0.0.1", 0), Batch) as batch:
        threading.Thread(target=batch.serve_forever, daemon=True).start()
        for name, value in {
            "AWS_ACCESS_KEY_ID": "testing",
            "AWS_SECRET_ACCESS_KEY": "testing",
            "AWS_DEFAULT_REGION": "us-east-1",
            "AWS_ENDPOINT_URL_BATCH": f"http://127.0.0.1:{batch.server_port}",
            "METAFLOW_DEFAULT_DATASTORE": "s3",
            "METAFLOW_DATASTORE_SYSROOT_S3": "s3://pipelines/metaflow",
            "METAFLOW_S3_ENDPOINT_URL": server,
            "METAFLOW_BATCH_JOB_QUEUE": "queue",
            "METAFLOW_ECS_S3_ACCESS_IAM_ROLE": "arn:aws:iam::123456789012:role/steps",
        }.items():
            monkeypatch.setenv(name, value)
        boto3.client("s3", endpoint_url=server).create_bucket(Bucket="pipelines")
        yield pipeline
        batch.shutdown()


# It includes a file, has packages of its own, and reads an artifact of another run.
WRITES = """
from metaflow import FlowSpec, IncludeFile, Run, current, namespace, step

import cowsay
from sales_pipelines.runtime import talk_to_luigi


@talk_to_luigi
class WritingFlow(FlowSpec):
    table = IncludeFile("table", default="table.csv")

    @step
    def start(self):
        self.rows = [cowsay.__version__, self.table]
        self.next(self.end)

    @step
    def end(self):
        namespace(None)
        self.luigi_result = Run(f"WritingFlow/{current.run_id}")["start"].task.data.rows


if __name__ == "__main__":
    WritingFlow()
"""


def files_of(root: Path) -> dict[Path, float]:
    """Everything below the folder, and when it was written."""
    return {path: path.lstat().st_mtime for path in (root, *root.rglob("*"))}


@pytest.mark.parametrize(
    ("where", "datastore"),
    [
        ("environment", "local"),
        pytest.param("dotenv", "s3", marks=pytest.mark.thorough),
        pytest.param("profile", "local", marks=pytest.mark.thorough),
        pytest.param("profile", "s3", marks=pytest.mark.thorough),
    ],
)
def test_a_run_writes_nothing_to_a_checkout_with_its_datastore_elsewhere(
    pipeline: Pipeline,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path_factory: pytest.TempPathFactory,
    where: str,
    datastore: str,
) -> None:
    elsewhere = tmp_path_factory.mktemp("elsewhere")
    pipeline.add_file("writing.py", WRITES)
    pipeline.add_file("requirements.txt", "cowsay==6.1\n")
    (pipeline.root / "table.csv").write_text("a,b")
    variables = {"METAFLOW_DATASTORE_SYSROOT_LOCAL": str(elsewhere)}
    if datastore == "s3":
        variables |= {
            **{"AWS_ACCESS_KEY_ID": "testing", "AWS_SECRET_ACCESS_KEY": "testing"},
            "METAFLOW_DEFAULT_DATASTORE": "s3",
            "METAFLOW_DATASTORE_SYSROOT_S3": f"s3://written-{where}/metaflow",
            "METAFLOW_S3_ENDPOINT_URL": s3_address(),
        }
        for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
            monkeypatch.setenv(name, variables[name])
        client = boto3.client("s3", endpoint_url=s3_address(), region_name="us-east-1")
        client.create_bucket(Bucket=f"written-{where}")
    if where == "environment":
        for name, value in variables.items():
            monkeypatch.setenv(name, value)
    elif where == "dotenv":
        lines = [f"{name}={value}\n" for name, value in variables.items()]
        (pipeline.root / ".env").write_text("".join(lines))
    else:
        monkeypatch.setenv("METAFLOW_HOME", str(elsewhere / "home"))
        (elsewhere / "home").mkdir()
        (elsewhere / "home" / "config.json").write_text(json.dumps(variables))
    before = files_of(pipeline.root)
    running = start(pipeline.root, "run", "writing.py")
    output, _ = running.communicate(timeout=120)
    assert running.returncode == 0, output
    assert "- '6.1'\n  - a,b\n" in output
    assert files_of(pipeline.root) == before
    written = {path.name for path in (elsewhere / ".metaflow").iterdir()}
    assert {"overlays", "client-cache", "luigi-locks", "WritingFlow"} <= written
    assert [file.read_text() for file in elsewhere.rglob("overlay.json")]
    assert not [name for name in written if name.startswith("metaflow.")], "what S3 moves goes"


# Another process that reads an artifact, as a notebook does. Its Metaflow may have a cache already.
READS = """
import pathlib
{first}
from sales_pipelines.runtime import MetaflowTask, paths
paths.ROOT = pathlib.Path.cwd()
paths.FLOWS = paths.ROOT / "flows"
print(MetaflowTask("small.py").output().run.data.rows)
"""


@pytest.mark.parametrize(
    "first",
    [
        "import metaflow",
        pytest.param("", marks=pytest.mark.thorough),
        pytest.param(
            "from metaflow.client import core; core.filecache = core.FileCache()",
            marks=pytest.mark.thorough,
        ),
    ],
)
def test_the_clients_cache_is_not_shared_whatever_is_imported_first(
    pipeline: Pipeline, first: str
) -> None:
    MetaflowTask(pipeline.add_flow(start="self.rows = [1, 2]")).run()
    command = [sys.executable, "-c", READS.format(first=first)]
    assert subprocess.check_output(command, cwd=pipeline.root, text=True) == "[1, 2]\n"
    cache = pipeline.root / ".metaflow" / "client-cache"
    assert [path for path in cache.rglob("*") if path.is_file()]


def test_the_tests_share_no_cache_with_other_users() -> None:
    assert not Path(CLIENT_CACHE_PATH).is_relative_to("/tmp")


@pytest.mark.parametrize("datastore", [pytest.param(None, marks=pytest.mark.thorough), "elsewhere"])
def test_one_command_gives_python_a_flows_packages_and_the_repos_runs(
    pipeline: Pipeline, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, datastore: str | None
) -> None:
    if datastore:
        (pipeline.root / ".env").write_text(
            f"METAFLOW_DATASTORE_SYSROOT_LOCAL={tmp_path / datastore}\n"
        )
        local_root.cache_clear()
    path = pipeline.add_flow("group/small.py", start="self.rows = [1, 2]")
    pipeline.add_file("group/requirements.txt", "cowsay==6.1\n")
    task = MetaflowTask(path)
    task.run()
    code = (
        "import os, shutil, sys, metaflow, cowsay; os.chdir('/'); metaflow.namespace(None); "
        f"print(metaflow.Run({task.output().marker.pathspec!r}).data.rows, sys.argv[1:], "
        "shutil.which('cowsay'), metaflow.client.core.filecache.cache_dir)"
    )
    running = start(pipeline.root, "python", path, "-c", code, "--force", "x y")
    output, _ = running.communicate(timeout=60)
    assert running.returncode == 0, output
    top = (tmp_path / datastore if datastore else pipeline.root) / ".metaflow"
    (overlay,) = [each for each in (top / "overlays").iterdir() if each.is_dir()]
    assert output == (
        f"[1, 2] ['--force', 'x y'] {overlay / 'bin' / 'cowsay'} {top / 'client-cache'}\n"
    )
    assert not (pipeline.root / ".metaflow").exists() or not datastore


def test_python_without_a_flow_has_the_repos_packages_alone(pipeline: Pipeline) -> None:
    pipeline.add_file("group/small.py", "")
    running = start(pipeline.root, "python", "-c", "import msgspec, metaflow; print('both')")
    output, _ = running.communicate(timeout=60)
    assert (running.returncode, output) == (0, "both\n")
    assert not (pipeline.root / ".metaflow" / "overlays").exists()


def test_a_script_runs_with_the_repos_packages_alone_unless_it_follows_a_flow(
    pipeline: Pipeline,
) -> None:
    pipeline.add_file("group/requirements.txt", "cowsay\n")
    path = pipeline.add_flow("group/small.py")
    script = pipeline.root / "script.py"
    script.write_text(
        "import importlib.util as i, sys, metaflow; print(sys.argv[1:], i.find_spec('cowsay'))"
    )
    for name in ("script.py", "./script.py", str(script)):
        running = start(pipeline.root, "python", name, "a", "--b")
        output, _ = running.communicate(timeout=60)
        assert (running.returncode, output) == (0, "['a', '--b'] None\n")
    (pipeline.root / path).parent.mkdir()
    (pipeline.root / path).write_text(script.read_text())
    running = start(pipeline.root, "python", path, path, "a")
    output, _ = running.communicate(timeout=120)
    assert running.returncode == 0, output
    assert output.splitlines()[-1].startswith("['a'] ModuleSpec("), "a flow comes before a file"


@pytest.mark.parametrize("command", ["python", "image"])
def test_for_no_flow_python_and_image_name_what_may_be_meant(
    pipeline: Pipeline, command: str
) -> None:
    pipeline.add_flow("group/small.py")
    running = start(pipeline.root, command, "group/smal.py")
    output, _ = running.communicate(timeout=60)
    assert running.returncode == 2
    assert output.startswith(f"{command}: ")
    assert "there is no " in output
    assert "smal.py" in output
    assert "; did you mean group/small.py?\n" in output


@pytest.mark.thorough
def test_batch_gets_the_image(on_s3: Pipeline) -> None:
    task = MetaflowTask(on_s3.add_flow(), preflow_kwargs={"with": f"batch:image={IMAGE}"})
    with pytest.raises(FlowFailedError):
        task.run()
    (defined, *_) = Batch.defined
    assert defined["containerProperties"]["image"] == IMAGE


@pytest.mark.nightly
def test_kubernetes_gets_the_image(on_s3: Pipeline, tmp_path: Path) -> None:
    install = ("uv", "pip", "install", "--quiet", f"--python={sys.executable}")
    subprocess.run([*install, f"--target={tmp_path / 'packages'}", "kubernetes"], check=True)
    flow = paths.FLOWS / on_s3.add_flow()
    command = (sys.executable, str(flow), "--no-pylint", f"--with=kubernetes:image={IMAGE}")
    local_root().mkdir(exist_ok=True)  # as before a run: Metaflow puts what goes to S3 there first
    environment = metaflow_environment()
    search_path = os.pathsep.join([str(tmp_path / "packages"), environment["PYTHONPATH"]])
    workflow = subprocess.run(
        [*command, "argo-workflows", "create", "--only-json"],
        cwd=paths.ROOT,
        env=environment | {"PYTHONPATH": search_path, "METAFLOW_KUBERNETES_NAMESPACE": "default"},
        check=True,
        stdout=subprocess.PIPE,
        text=True,
    ).stdout
    images = re.findall(r'"image": "(.*)"', workflow)
    assert len(images) >= 2  # one for each step
    assert {*images} == {IMAGE}
