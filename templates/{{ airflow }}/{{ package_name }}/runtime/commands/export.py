"""`nox -s airflow -- export`: a flow as a DAG of Airflow, each step in a pod of Kubernetes.

Metaflow writes the DAG, for Airflow 2. Here it is changed to one for Airflow 3, without secrets.
"""

from __future__ import annotations

import argparse
import ast
import itertools
import json
import re
import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from .. import paths, store
from ..console import as_called
from ..errors import PipelineError
from ..flow.flow_file import check_flow, flow_file
from ..flow.runner import ProcessRunner
from ..metaflow_config import (
    configuration_file,
    configured,
    datastore_root,
    local_root,
    metaflow_environment,
)
from ..store.files import write_whole
from .image import flow_path

HEAD = "# Made of {} by nox -s airflow -- export: edit the flow, and export it again."
"""The first line of the file, by which it is known again."""

KUBERNETES = "airflow.providers.cncf.kubernetes"

FOR_AIRFLOW_3 = {
    r"\bschedule_interval\b": "schedule",
    r"(?s)    try:\n        from airflow\.providers\.cncf\.kubernetes\.get_provider_info import"
    r'.*?return get_provider_info\(\)\["versions"\]\[0\]': "    from importlib.metadata import "
    'version\n\n    return version("apache-airflow-providers-cncf-kubernetes")',
    rf"{re.escape(KUBERNETES)}\.operators\.kubernetes_pod\b": f"{KUBERNETES}.operators.pod",
    r"\bfrom airflow\.kubernetes\.secret\b": f"from {KUBERNETES}.secret",
    r"\bti\.job_id\b": "ti.id",
}
"""What Airflow 3 has renamed, in what Metaflow writes: patterns, and what takes their place."""

SECRET = re.compile(r"(?i)(KEY|KEY_ID|TOKEN|SECRET|PASS|PASSWD|PASSWORD|AUTH|CREDENTIALS?)$")
"""The names of variables whose values must not be in the file."""

SHORTEST = 8
"""Characters of a secret that is looked for; a shorter one can be anywhere by chance."""

HINTS = {
    "supported": "an ordinary DAG runs any flow: docs/airflow.md",
    "production token": "--authorize TOKEN, the METAFLOW_PRODUCTION_TOKEN of an earlier export",
}
"""What to do, by words of Metaflow's reason."""


def main(arguments: list[str]) -> int:
    """Write the DAG of the flow that the arguments name."""
    parser = argparse.ArgumentParser(
        prog=as_called("nox -s airflow -- export"),
        usage="nox -s airflow -- export FLOW --image IMAGE [OPTIONS]",
        description="Write a DAG of Airflow that runs each step of a flow in a pod of Kubernetes.",
        epilog="Other options are those of Metaflow's `airflow create`, e.g. --max-workers 10 or "
        "--authorize TOKEN. docs/airflow.md says what the pods need.",
        allow_abbrev=False,
    )
    parser.add_argument("flow", help="its file below flows/, e.g. sales/train.py")
    parser.add_argument("--image", help="what nox -s image -- FLOW --push REGISTRY prints")
    parser.add_argument("--namespace", help="of Kubernetes; default: default")
    parser.add_argument(
        "--kubeconfig", help="its path where Airflow runs, if that is not in the same cluster"
    )
    parser.add_argument("--output", type=Path, help="the DAG's file; default: dags/NAME.py")
    parser.add_argument("--python", help=argparse.SUPPRESS)  # Airflow's, which tries the file
    options, others = parser.parse_known_args(arguments)
    path = flow_path(options.flow)
    check_flow(flow_file(path))
    output: Path = options.output or paths.ROOT / "dags" / Path(path).name
    before = _before(output, path)
    settings = {
        "KUBERNETES_CONTAINER_IMAGE": options.image,
        "KUBERNETES_NAMESPACE": options.namespace,
        "AIRFLOW_KUBERNETES_KUBECONFIG_FILE": options.kubeconfig,
    }
    variables = {f"METAFLOW_{name}": value for name, value in settings.items() if value}
    _check_setup(path, variables)
    # Metaflow asks others than the one who exported the flow first for its token.
    token = re.findall(r"'METAFLOW_PRODUCTION_TOKEN', 'value': '([^']*)'", before)[:1]
    authorized = [word for each in token for word in ("--authorize", each)]
    text, config = for_airflow_3(created(path, variables, [*authorized, *others]))
    check_no_secret(text, secrets_of(metaflow_environment()))
    text = f"{HEAD.format(path)}\n# ruff: noqa\n# fmt: off\n{text}"
    if options.python:
        check_loads(options.python, text)
    write_whole(output, text.encode())
    dag = config["dag_instantiation_params"]["dag_id"]
    steps = ", ".join(config["states"])
    print(f"{paths.shown(output)}: the DAG {dag}, with a pod for each step: {steps}")
    return 0


def _before(output: Path, flow: str) -> str:
    """What the flow's last export has written to the file; PipelineError if it is another file."""
    if not output.exists():
        return ""
    text = output.read_text(encoding="utf-8", errors="replace")
    if text.partition("\n")[0] != HEAD.format(flow):
        raise PipelineError(
            f"{paths.shown(output)} is no export of {flow}, and would be lost\n"
            "hint: choose another file, e.g. --output dags/pods.py"
        )
    return text


def _check_setup(flow: str, variables: Mapping[str, str]) -> None:
    """Raise PipelineError where a pod would miss something, before Metaflow begins."""
    image = "METAFLOW_KUBERNETES_CONTAINER_IMAGE"
    if not (variables.get(image) or configured(image)):
        raise PipelineError(
            "the pods have no image\nhint: --image IMAGE, or the variable "
            f"{image}; IMAGE is the last line of: nox -s image -- {flow} --push REGISTRY"
        )
    if configured("METAFLOW_DEFAULT_DATASTORE") in (None, "local"):
        raise PipelineError(
            "Metaflow's datastore is local, and pods need one that they share\n"
            "hint: METAFLOW_DEFAULT_DATASTORE=s3, as docs/s3.md says"
        )
    if find_spec("kubernetes") is None:
        raise PipelineError(
            "the environment has no kubernetes, without which Metaflow exports nothing\n"
            "hint: uv add kubernetes"
        )
    if configured("METAFLOW_DEFAULT_DATASTORE") == "s3":
        store.check(datastore_root())


def created(flow: str, variables: Mapping[str, str], options: Sequence[str]) -> str:
    """What Metaflow's `airflow create` writes for the flow, with its own packages."""
    local_root().mkdir(parents=True, exist_ok=True)  # what goes to S3 is there first
    runner = ProcessRunner(flow, print)
    lines: list[str] = []
    with tempfile.TemporaryDirectory(prefix="export-") as folder:
        file = Path(folder, "dag.py")
        command = [runner.python, runner.file, "--no-pylint", "airflow", "create", str(file)]
        exit_code = runner.run(
            [*command, *options], variables=variables, timeout=None, on_line=lines.append
        )
        if exit_code == 0:
            return file.read_text(encoding="utf-8")
    lines = [line for line in lines if line.strip()]
    message = [*itertools.takewhile(lambda line: line.startswith(" "), reversed(lines))][::-1]
    reason = " ".join(" ".join(message or lines[-1:]).split())
    reason = reason.removeprefix("The graph looks good! ")
    hints = [f"\nhint: {hint}" for words, hint in HINTS.items() if words in reason]
    raise PipelineError(f"{flow}: Metaflow cannot export it: {reason}{''.join(hints)}")


def for_airflow_3(text: str) -> tuple[str, dict[str, Any]]:
    """The file for Airflow 3 and what it says of the flow, from what Metaflow has written.

    Raises PipelineError if Metaflow writes something else than what is known here.
    """
    for pattern, new in FOR_AIRFLOW_3.items():
        text, count = re.subn(pattern, new, text)
        if not count:
            raise _changed(pattern)
    text, count = re.subn(r"\A# Deployed on .*\n+", "", text)
    line = re.search(r"^CONFIG = (.*)$", text, re.MULTILINE)
    if not (count and line):
        raise _changed("# Deployed on … CONFIG = …")
    try:
        config: dict[str, Any] = ast.literal_eval(line[1])
    except ValueError:  # a default such as inf, which would be a name in the file, too
        raise PipelineError("a value of the flow, e.g. a default, cannot be in a file") from None
    # The path and the local time of the export, without a zone, say nothing where Airflow runs.
    # Whether the DAG starts paused is for Airflow's own settings. The pause of a `@retry` without
    # one would be 200 seconds.
    config["file_path"] = None
    dag = config["dag_instantiation_params"]
    dag |= {"start_date": "2026-01-01T00:00:00+00:00", "catchup": False}
    dag["default_args"]["retry_delay"] = {"seconds": 0}
    dag.pop("is_paused_upon_creation", None)
    for state in config["states"].values():
        variables = state["operator_args"].get("env_vars", [])  # a sensor has none
        # These have the key of the metadata service, which the pods get from Kubernetes.
        variables[:] = [each for each in variables if each["name"] != "METAFLOW_SERVICE_HEADERS"]
        for each in variables:
            if each["name"] == "METAFLOW_VERSION":  # with the address of git's remote
                each["value"] = re.sub(r"(://)[^/\"]*@", r"\1", each["value"])
    return f"{text[: line.start(1)]}{config!r}{text[line.end(1) :].rstrip()}\n", config


def _changed(pattern: str) -> PipelineError:
    return PipelineError(
        f"Metaflow writes other files now, in which nothing matches {pattern!r}\n"
        "hint: uv add 'metaflow==2.19.39', or update the repo: nox -s update"
    )


def secrets_of(environment: Mapping[str, str]) -> dict[str, str]:
    """The variables, also of Metaflow's profile, that have a secret by their names."""
    known = dict(environment)
    if (file := configuration_file()).is_file():
        known |= json.loads(file.read_text(encoding="utf-8"))
    return {
        name: value
        for name, value in known.items()
        if SECRET.search(name) and isinstance(value, str) and len(value) >= SHORTEST
    }


def check_no_secret(text: str, secrets: Mapping[str, str]) -> None:
    """Raise PipelineError if the file has a secret, e.g. of `@environment` or a default."""
    plain = text.replace("\\", "")  # however often it is quoted
    for name, value in secrets.items():
        if max(value.splitlines(), key=len).replace("\\", "") in plain:
            raise PipelineError(
                f"the value of {name} would be in the file\nhint: in the flow, look it up where it "
                f"is needed, with secret({name!r}), and give it to the pods by a secret of "
                "Kubernetes: docs/airflow.md"
            )
    if address := re.search(r"\w+://[^\s/:@'\"]*:[^\s/@'\"]+@([^\s/:'\"]*)", text):
        raise PipelineError(
            f"the password in an address of {address[1]} would be in the file\n"
            "hint: leave it out of the address, and give it to the pods by a secret of Kubernetes: "
            "docs/airflow.md"
        )


def check_loads(python: str, text: str) -> None:
    """Raise PipelineError if Airflow, in its own Python, does not take the file."""
    with tempfile.TemporaryDirectory(prefix="export-") as folder:
        file = Path(folder, "dag.py")
        file.write_text(text, encoding="utf-8")
        tried = subprocess.run(
            [python, str(file)],
            cwd=folder,
            env={**metaflow_environment(), "AIRFLOW_HOME": folder},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
        )
    if tried.returncode:
        reason = tried.stdout.strip().rpartition("\n")[2]
        raise PipelineError(f"Airflow does not take what Metaflow writes: {reason}")
