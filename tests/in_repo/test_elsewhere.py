"""Metaflow uses a flow's image for steps that run on AWS Batch and on Kubernetes.

S3 is moto's server. Batch is a server that records the
requests that it gets.
"""

from __future__ import annotations

import json
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
from sales_pipelines.runtime import FlowFailedError, MetaflowTask, paths
from sales_pipelines.runtime.metaflow_config import metaflow_environment

from .conftest import Pipeline, s3_address

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
    workflow = subprocess.run(
        [*command, "argo-workflows", "create", "--only-json"],
        cwd=paths.ROOT,
        env=metaflow_environment()
        | {"PYTHONPATH": str(tmp_path / "packages"), "METAFLOW_KUBERNETES_NAMESPACE": "default"},
        check=True,
        stdout=subprocess.PIPE,
        text=True,
    ).stdout
    images = re.findall(r'"image": "(.*)"', workflow)
    assert len(images) >= 2  # one for each step
    assert {*images} == {IMAGE}
