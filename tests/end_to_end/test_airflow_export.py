"""A flow as a DAG with a pod for each step, on a real Airflow.

There is no Kubernetes: Airflow makes each pod as it would send it, and a process of this machine
takes its place, with no other variables than the pod's and those of the flow's image.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import boto3
import pytest

from ..conftest import HERE, Repo, SetUp, clean_environment, git, output, s3_server

pytestmark = pytest.mark.thorough

IMAGE = "registry.example.org/team/sales-pipelines/train:0123456789abcdef"
SECRETS = {
    "AWS_ACCESS_KEY_ID": "not-to-be-written-1",
    "AWS_SECRET_ACCESS_KEY": "not-to-be-written-2",
    "METAFLOW_SERVICE_AUTH_KEY": "not-to-be-written-3",
    "SHOP_TOKEN": "not-to-be-written-4",
}
REMOTE = "https://ann:not-to-be-written-5@example.org/team/sales.git"

FLOW = '''
"""Squares numbers, each in a task of its own; the first attempt of one fails."""

from metaflow import FlowSpec, Parameter, current, kubernetes, retry, schedule, step

from sales_pipelines.runtime import talk_to_luigi


@schedule(weekly=True)
@talk_to_luigi
class TrainFlow(FlowSpec):
    """Square numbers."""

    label = Parameter("label", default="north")

    @step
    def start(self):
        """Split."""
        self.numbers = [1, 2, 3]
        self.next(self.square, foreach="numbers")

    @kubernetes(memory=512)
    @retry(times=2, minutes_between_retries=0)
    @step
    def square(self):
        """Fail once."""
        if self.input == 2 and current.retry_count == 0:
            raise ValueError("the first attempt of 2")
        self.squared = self.input**2
        self.next(self.join)

    @step
    def join(self, inputs):
        """Add."""
        self.total = sum(each.squared for each in inputs)
        self.next(self.end)

    @step
    def end(self):
        """End."""
        self.luigi_result = {"total": self.total, "production": self.production}


if __name__ == "__main__":
    TrainFlow()
'''

NESTED = """
from metaflow import FlowSpec, step


class NestedFlow(FlowSpec):
    @step
    def start(self):
        self.rows = [1]
        self.next(self.row, foreach="rows")

    @step
    def row(self):
        self.columns = [1]
        self.next(self.column, foreach="columns")

    @step
    def column(self):
        self.next(self.join_columns)

    @step
    def join_columns(self, inputs):
        self.next(self.join_rows)

    @step
    def join_rows(self, inputs):
        self.next(self.end)

    @step
    def end(self):
        pass


if __name__ == "__main__":
    NestedFlow()
"""

LEAK = """
import os

from metaflow import FlowSpec, environment, step


class LeakFlow(FlowSpec):
    @environment(vars={"TOKEN": os.environ["SHOP_TOKEN"]})
    @step
    def start(self):
        self.next(self.end)

    @step
    def end(self):
        pass


if __name__ == "__main__":
    LeakFlow()
"""

# A policy of Airflow's, by which a pod becomes a process.
POLICY = """
import json
import os
import subprocess
import tempfile
from pathlib import Path

PODS = Path(os.environ["TEST_PODS"])


def task_policy(task):
    from airflow.providers.cncf.kubernetes.hooks.kubernetes import KubernetesHook
    from airflow.providers.cncf.kubernetes.operators.pod import KubernetesPodOperator

    KubernetesHook.is_in_cluster = property(lambda self: True)
    KubernetesPodOperator.execute = execute


def execute(self, context):
    from kubernetes.client import ApiClient

    # As it is sent to Kubernetes.
    pod = ApiClient().sanitize_for_serialization(self.build_pod_request_obj(context))
    base, *_ = pod["spec"]["containers"]
    task = context["ti"]
    file = PODS / f"{self.task_id}.{max(task.map_index, 0)}.{task.try_number}"
    file.with_name(f"{file.name}.json").write_text(json.dumps(pod))
    variables = {each["name"]: each.get("value", "of-the-pod") for each in base["env"]}
    image = json.loads(os.environ["TEST_IMAGE"])
    with tempfile.TemporaryDirectory() as folder:
        # Metaflow's own files, which the pod has downloaded, name a folder in the root.
        xcom = f"sed -i s:/airflow/xcom:{folder}/xcom: .mf_code/metaflow/plugins/airflow/*.py"
        starts = "mflog 'Task is starting.'"
        words = [*base["command"], *base.get("args", [])]
        ended = subprocess.run(
            [word.replace(starts, f"{xcom} && {starts}") for word in words],
            cwd=folder,
            env={**image, **variables, "HOME": folder},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        file.with_name(f"{file.name}.log").write_text(ended.stdout)
        if ended.returncode:
            raise RuntimeError(ended.stdout)
        return json.loads(Path(folder, "xcom", "return.json").read_text())
"""


class Exporting:
    """A repo with flows, its datastore on S3."""

    def __init__(self, repo: Repo, server: str) -> None:
        self.repo = repo
        self.dag = repo.folder / "dags" / "train.py"
        self.python = repo.folder / "airflow" / ".venv" / "bin" / "python"
        self.variables: dict[str, Any] = {
            "AWS_DEFAULT_REGION": "us-east-1",
            "METAFLOW_DEFAULT_DATASTORE": "s3",
            "METAFLOW_DATASTORE_SYSROOT_S3": "s3://pipelines/metaflow",
            "METAFLOW_S3_ENDPOINT_URL": server,
            "METAFLOW_KUBERNETES_SECRETS": "keys-of-the-store",
            "METAFLOW_USER": "ann",
            **SECRETS,
        }

    def export(self, *arguments: str, exit_code: int = 0, **more: str) -> str:
        words = ("-s", "airflow", "--", "export", *arguments)
        return self.repo.nox(*words, exit_code=exit_code, **{**self.variables, **more})

    def airflow(self, home: Path, *arguments: str, **variables: Any) -> str:
        """What Airflow's command prints, with no variable of the repo's."""
        home.mkdir(exist_ok=True)
        command = [self.python, "-m", "airflow", *arguments]
        variables = {
            "AIRFLOW_HOME": str(home),
            "AIRFLOW__CORE__LOAD_EXAMPLES": "False",
            **variables,
        }
        return output(command, home, self.repo.home, **variables)


@pytest.fixture(scope="module")
def exporting(set_up: SetUp, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Exporting]:
    repo = set_up("sales-pipelines", python_version=HERE, with_airflow=True)
    output(["uv", "add", "--quiet", "kubernetes"], repo.folder, repo.home, VIRTUAL_ENV="")
    for name, text in (("train", FLOW), ("nested", NESTED), ("leak", LEAK)):
        file = repo.folder / "sales_pipelines" / "flows" / "sales" / f"{name}.py"
        file.parent.mkdir(exist_ok=True)
        file.write_text(text.lstrip())
    git(repo.folder, "remote", "add", "origin", REMOTE)
    with s3_server(tmp_path_factory.mktemp("s3") / "moto.log") as server:
        client = boto3.client(
            "s3",
            endpoint_url=server,
            region_name="us-east-1",
            aws_access_key_id="testing",
            aws_secret_access_key="testing",
        )
        client.create_bucket(Bucket="pipelines")
        made = Exporting(repo, server)
        printed = made.export("sales/train.py", "--image", IMAGE, "--namespace", "sales")
        steps = "with a pod for each step: start, square, join, end"
        assert f"dags/train.py: the DAG TrainFlow, {steps}\n" in printed
        yield made


def config_of(dag: Path) -> dict[str, Any]:
    """What the file says of the flow."""
    variables: dict[str, Any] = {}
    exec(re.search(r"(?m)^CONFIG = .*$", dag.read_text())[0], variables)  # type: ignore[index]
    config: dict[str, Any] = variables["CONFIG"]
    return config


def test_no_secret_is_in_the_file(exporting: Exporting) -> None:
    text = exporting.dag.read_text()
    assert "not-to-be-written" not in text
    assert "https://example.org/team/sales.git" in text
    assert str(exporting.repo.folder) not in text


def test_a_flow_that_would_write_a_secret_is_refused(exporting: Exporting) -> None:
    printed = exporting.export("sales/leak.py", "--image", IMAGE, exit_code=1)
    assert "export: the value of SHOP_TOKEN would be in the file\nhint: " in printed
    assert "not-to-be-written" not in printed
    assert not exporting.dag.with_name("leak.py").exists()


def test_what_metaflow_refuses_is_told_in_a_sentence(exporting: Exporting) -> None:
    printed = exporting.export("sales/nested.py", "--image", IMAGE, exit_code=1)
    (line,) = (line for line in printed.splitlines() if line.startswith("export: "))
    assert line.startswith("export: sales/nested.py: Metaflow cannot export it: Not yet supported")
    assert "Step row is a foreach step called within a foreach step." in line
    assert "Traceback" not in printed


def test_without_the_repos_environment_the_way_to_it_is_named(exporting: Exporting) -> None:
    environment = exporting.repo.folder / ".venv"
    environment.rename(environment.with_name("away"))
    try:
        printed = exporting.export("sales/train.py", exit_code=1)
    finally:
        environment.with_name("away").rename(environment)
    assert f"airflow: there is no {environment / 'bin' / 'python'}\nhint: " in printed


def test_a_colleague_exports_it_again_and_keeps_the_token(
    exporting: Exporting, tmp_path: Path
) -> None:
    before = config_of(exporting.dag)
    theirs: dict[str, Any] = {"METAFLOW_USER": "bob", "METAFLOW_HOME": str(tmp_path)}
    kubeconfig = ("--kubeconfig", "/etc/kube/config", "--max-workers", "7")
    other = ("--output", str(tmp_path / "other.py"))
    printed = exporting.export("sales/train.py", "--image", IMAGE, *other, exit_code=1, **theirs)
    assert "Incorrect production token" in printed
    assert "hint: --authorize TOKEN" in printed
    text = exporting.dag.read_text()
    try:
        exporting.export("sales/train.py", "--image", IMAGE, *kubeconfig, **theirs)
        after = config_of(exporting.dag)
    finally:
        exporting.dag.write_text(text)
    assert after["dag_instantiation_params"]["max_active_tasks"] == 7
    start = after["states"]["start"]["operator_args"]
    assert start["config_file"] == "/etc/kube/config"
    assert start["in_cluster"] is False
    annotation = "metaflow/production_token"
    old = before["states"]["start"]["operator_args"]
    assert old["in_cluster"] is True
    assert start["annotations"][annotation] == old["annotations"][annotation]


def test_the_repo_passes_its_lint(exporting: Exporting) -> None:
    git(exporting.repo.folder, "remote", "set-url", "origin", "https://example.org/sales.git")
    text = exporting.dag.read_text()
    output(["git", "add", "dags"], exporting.repo.folder, exporting.repo.home)
    for hook in ("ruff-check", "ruff-format", "mypy", "detect-secrets", "staged-files"):
        exporting.repo.nox("-s", "lint", "--", hook)
    assert exporting.dag.read_text() == text
    git(exporting.repo.folder, "remote", "set-url", "origin", REMOTE)


def test_airflow_lists_it_in_another_folder_without_the_repos_packages(
    exporting: Exporting, tmp_path: Path
) -> None:
    dags = tmp_path / "dags"
    dags.mkdir()
    (dags / "train.py").write_bytes(exporting.dag.read_bytes())
    for package in ("metaflow", "sales_pipelines"):
        command = [str(exporting.python), "-c", f"import {package}"]
        environment = clean_environment(exporting.repo.home)
        tried = subprocess.run(command, cwd=dags, env=environment, stderr=subprocess.PIPE)
        assert b"ModuleNotFoundError" in tried.stderr
    home = tmp_path / "home"
    variables = {"AIRFLOW__CORE__DAGS_FOLDER": str(dags)}
    exporting.airflow(home, "db", "migrate", **variables)
    exporting.airflow(home, "dags", "reserialize", **variables)
    errors = exporting.airflow(home, "dags", "list-import-errors", "-o", "json", **variables)
    assert json.loads(errors.splitlines()[-1]) == []
    details = exporting.airflow(home, "dags", "details", "TrainFlow", "-o", "json", **variables)
    (dag,) = json.loads(details.splitlines()[-1])
    assert dag["timetable_summary"] == "0 0 * * 0"


@pytest.fixture(scope="module")
def pods(exporting: Exporting) -> Path:
    """The folder of the pods of a run, as they are sent to Kubernetes, and of their logs."""
    folder = exporting.repo.folder.parent / "pods"
    folder.mkdir()
    settings = exporting.repo.folder / "airflow/home/test/config/airflow_local_settings.py"
    settings.parent.mkdir(parents=True)
    settings.write_text(POLICY)
    image = {
        "PATH": f"{exporting.repo.folder / '.venv' / 'bin'}{os.pathsep}{os.environ['PATH']}",
        "METAFLOW_SKIP_INSTALL_DEPENDENCIES": "1",
        # From the secret of Kubernetes.
        **{"AWS_ACCESS_KEY_ID": "testing", "AWS_SECRET_ACCESS_KEY": "testing"},
        "AWS_DEFAULT_REGION": "us-east-1",
    }
    variables: dict[str, Any] = {"TEST_PODS": str(folder), "TEST_IMAGE": json.dumps(image)}
    exporting.repo.nox("-s", "airflow", "--", "test", "TrainFlow", **variables)
    return folder


def test_the_pods_make_a_run_of_metaflow(exporting: Exporting, pods: Path) -> None:
    start, end = (variables_of(pod(pods, f"{name}.0.1")) for name in ("start", "end"))
    run = start["METAFLOW_RUN_ID"]
    assert end["METAFLOW_RUN_ID"] == run
    flow = exporting.repo.folder / "sales_pipelines" / "flows" / "sales" / "train.py"
    task = f"{run}/end/{end['METAFLOW_AIRFLOW_TASK_ID']}"
    dumped = output(
        [exporting.repo.folder / ".venv" / "bin" / "python", flow, "--no-pylint", "dump", task],
        flow.parent,
        exporting.repo.home,
        **{**exporting.variables, "METAFLOW_SERVICE_AUTH_KEY": ""},
    )
    assert "{'total': 14, 'production': False}" in dumped


def test_a_pod_that_fails_is_tried_again_as_metaflow_s_retry_says(pods: Path) -> None:
    names = {file.stem for file in pods.glob("*.json")}
    squares = {"square.0.1", "square.1.1", "square.1.2", "square.2.1"}
    assert names == {"start.0.1", *squares, "join.0.1", "end.0.1"}
    assert "ValueError: the first attempt of 2" in (pods / "square.1.1.log").read_text()


def test_a_pod_has_the_image_the_command_and_no_secret(pods: Path) -> None:
    for file in pods.glob("*.json"):
        assert "not-to-be-written" not in file.read_text()
        made = pod(pods, file.stem)
        base = container(made)
        assert base["image"] == IMAGE
        assert made["metadata"]["namespace"] == "sales"
        assert base["envFrom"] == [{"secretRef": {"name": "keys-of-the-store"}}]
        step = file.stem.partition(".")[0]
        shell, option, command = base["command"]
        assert (shell, option) == ("bash", "-c")
        assert "python train.py " in command
        assert f" step {step} --run-id {variables_of(made)['METAFLOW_RUN_ID']} " in command
        assert "{{" not in json.dumps(base)
    memory = {step: container(pod(pods, f"{step}.0.1"))["resources"] for step in ("square", "end")}
    assert memory["square"]["requests"]["memory"] == "512M"
    assert memory["end"]["requests"]["memory"] == "4096M"


def test_a_pod_gets_these_variables_and_no_others(pods: Path) -> None:
    of_kubernetes = ("NAMESPACE", "NAME", "ID")
    expected = {
        *(f"METAFLOW_KUBERNETES_POD_{name}" for name in of_kubernetes),
        *(
            f"METAFLOW_KUBERNETES_{name}"
            for name in ("SERVICE_ACCOUNT_NAME", "NODE_IP", "WORKLOAD")
        ),
        *(f"METAFLOW_CODE_{name}" for name in ("DS", "METADATA", "SHA", "URL")),
        *(f"METAFLOW_AIRFLOW_{name}" for name in ("DAG_RUN_ID", "JOB_ID", "TASK_ID")),
        *(f"METAFLOW_DEFAULT_{name}" for name in ("DATASTORE", "METADATA")),
        *("METAFLOW_ATTEMPT_NUMBER", "METAFLOW_CARD_S3ROOT", "METAFLOW_DATASTORE_SYSROOT_S3"),
        *("METAFLOW_DATATOOLS_S3ROOT", "METAFLOW_FLOW_NAME", "METAFLOW_OWNER"),
        *("METAFLOW_PRODUCTION_TOKEN", "METAFLOW_RUNTIME_ENVIRONMENT", "METAFLOW_RUNTIME_NAME"),
        *("METAFLOW_RUN_ID", "METAFLOW_S3_ENDPOINT_URL", "METAFLOW_STEP_NAME", "METAFLOW_USER"),
        *("METAFLOW_VERSION", "USER"),
    }
    assert set(variables_of(pod(pods, "end.0.1"))) == expected
    assert set(variables_of(pod(pods, "start.0.1"))) == {*expected, "METAFLOW_PARAMETERS"}


def pod(pods: Path, name: str) -> dict[str, Any]:
    made: dict[str, Any] = json.loads((pods / f"{name}.json").read_text())
    return made


def container(made: dict[str, Any]) -> dict[str, Any]:
    """The container of the pod that runs the step."""
    (base,) = (each for each in made["spec"]["containers"] if each["name"] == "base")
    return dict(base)


def variables_of(made: dict[str, Any]) -> dict[str, str]:
    return {each["name"]: each.get("value", "") for each in container(made)["env"]}
