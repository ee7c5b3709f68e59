"""The pipeline that a repo comes with: the same on every store and with every runner."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator

import boto3
import pytest
from sales_pipelines.runtime import paths
from sales_pipelines.runtime.metaflow_config import datastore_root, local_root
from sales_pipelines.runtime.settings import settings
from sales_pipelines.tasks.examples.co2_tasks import CleanCo2, PublishCo2, ReportCo2, RootTask

from .conftest import s3_address

# What the flows hand over. The repo's own tests compare it with NOAA's table.
CLEANED = {
    **{"weeks": 2225, "gaps": 59, "first": "1958-03-29", "last": "2001-12-29"},
    **{"complete_years": 42, "incomplete_years": [1958, 1964]},
}
REPORTED = {
    "growth_ppm_per_year": {"1960s": 0.807, "1970s": 1.245, "1980s": 1.592, "1990s": 1.574},
    **{"season_ppm": 6.13, "rms_ppm": 0.75},
}

VARIABLES = {
    "local": {},
    "s3": {
        **{"METAFLOW_DEFAULT_DATASTORE": "s3", "METAFLOW_DATASTORE_SYSROOT_S3": "s3://co2/runs"},
        **{"AWS_ACCESS_KEY_ID": "planted", "AWS_SECRET_ACCESS_KEY": "planted"},
        **{"AWS_DEFAULT_REGION": "us-east-1", "METAFLOW_S3_WORKER_COUNT": "1"},
    },
}


@pytest.fixture
def store(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """Metaflow's datastore, set up for this process and its children."""
    for name, value in VARIABLES[request.param].items():
        monkeypatch.setenv(name, value)
    if request.param == "s3":
        monkeypatch.setenv("METAFLOW_S3_ENDPOINT_URL", s3_address())
        boto3.client("s3", endpoint_url=s3_address()).create_bucket(Bucket="co2")
    looked_up = (settings, datastore_root, local_root)
    for cached in looked_up:
        cached.cache_clear()
    yield request.param
    for cached in looked_up:
        cached.cache_clear()


@pytest.mark.parametrize(
    ("store", "runner"),
    [
        pytest.param("s3", "process", marks=pytest.mark.thorough),
        pytest.param("local", "container", marks=pytest.mark.docker),
        pytest.param("local", "process", marks=pytest.mark.thorough),
        pytest.param("s3", "container", marks=[pytest.mark.docker, pytest.mark.thorough]),
    ],
    indirect=["store"],
)
def test_the_shipped_pipeline_runs_to_its_end_with_the_same_results(
    store: str, runner: str
) -> None:
    tag = f"{store}-{runner}"
    command = ["-m", "sales_pipelines.runtime", "run", "examples/co2_tasks.py", "--flow-tag", tag]
    # A container reaches the test's S3, which listens on loopback, by that network.
    options = ["--runner", runner, "--container-kwargs", '{"network": "host"}']
    done = subprocess.run(
        [sys.executable, *command, *options],
        cwd=paths.ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout
    markers = [task(flow_tag=tag).output().marker for task in (CleanCo2, ReportCo2)]
    assert [marker.result for marker in markers] == [CLEANED, REPORTED]
    assert {bool(marker.image) for marker in markers} == {runner == "container"}
    page = paths.ROOT / "reports" / tag / "co2.html"
    assert "<html" in page.read_text()[:500]
    assert RootTask(flow_tag=tag).complete()
    os.utime(page, (0, 0))
    assert not PublishCo2(flow_tag=tag).complete(), "it is older than the report"
