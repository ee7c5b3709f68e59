"""`nox -s airflow -- export` before Metaflow begins, and what it makes of Metaflow's file."""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path
from typing import Any

import pytest
from metaflow.plugins.airflow.airflow import Airflow
from sales_pipelines.runtime import PipelineError
from sales_pipelines.runtime.__main__ import main
from sales_pipelines.runtime.commands.export import (
    FOR_AIRFLOW_3,
    check_loads,
    check_no_secret,
    for_airflow_3,
    secrets_of,
)

from .conftest import Pipeline

IMAGE = "registry.example.org/team/sales-pipelines/small:0123456789abcdef"
REMOTE = json.dumps({"repo_url": "https://ann:hidden@example.org/sales.git", "branch": "main"})


def config(**variables: str) -> dict[str, Any]:
    """What Metaflow says of a flow of one step, as far as an export reads it."""
    listed = [{"name": name, "value": value} for name, value in variables.items()]
    return {
        "states": {"start": {"name": "start", "operator_args": {"env_vars": listed}}},
        "dag_instantiation_params": {
            "dag_id": "SmallFlow",
            "schedule_interval": "@daily",
            "default_args": {"retry_delay": {"seconds": 200.0}},
            "is_paused_upon_creation": False,
            "start_date": "2026-11-26T23:17:21.305343",
        },
        "file_path": "/home/ann/sales-pipelines/dags/small.py",
    }


def written(**variables: str) -> str:
    """The file that Metaflow writes of it, by its own code."""
    text: str = Airflow._to_airflow_dag_file(None, config(**variables))
    return text


def variables_of(text: str) -> dict[str, str]:
    _, made = for_airflow_3(text)
    listed = made["states"]["start"]["operator_args"]["env_vars"]
    return {each["name"]: each["value"] for each in listed}


JOB = {"METAFLOW_AIRFLOW_JOB_ID": "{{ ti.job_id }}"}


def test_what_airflow_3_has_renamed_is_replaced_and_all_of_it_is_python() -> None:
    text, made = for_airflow_3(written(**JOB))
    compile(text, "dag.py", "exec")
    assert "schedule_interval" not in text
    assert made["dag_instantiation_params"]["schedule"] == "@daily"
    assert variables_of(written(**JOB)) == {"METAFLOW_AIRFLOW_JOB_ID": "{{ ti.id }}"}


@pytest.mark.parametrize("pattern", [*FOR_AIRFLOW_3, "# Deployed on", "CONFIG = "])
def test_a_file_in_which_one_replacement_finds_nothing_is_refused(pattern: str) -> None:
    changed = re.sub(pattern, "something_else", written(**JOB))
    with pytest.raises(PipelineError, match=r"Metaflow writes other files now, in which nothing"):
        for_airflow_3(changed)


def test_a_pattern_that_finds_nothing_is_named() -> None:
    with pytest.raises(PipelineError, match=re.escape(repr(r"\bti\.job_id\b"))):
        for_airflow_3(written().replace("ti.job_id", "ti.other"))


def test_neither_path_nor_date_of_the_export_is_in_the_file() -> None:
    text, made = for_airflow_3(written())
    assert "/home/ann" not in text
    assert "2026-11-26" not in text
    dag = made["dag_instantiation_params"]
    assert dag["catchup"] is False
    assert "is_paused_upon_creation" not in dag
    assert dag["default_args"]["retry_delay"] == {"seconds": 0}, "of a @retry with no pause"


def test_the_key_of_the_metadata_service_and_that_of_git_s_remote_are_left_out() -> None:
    headers = json.dumps({"x-api-key": "hidden"})
    listed = variables_of(
        written(METAFLOW_SERVICE_HEADERS=headers, METAFLOW_VERSION=REMOTE, METAFLOW_USER="ann")
    )
    assert set(listed) == {"METAFLOW_VERSION", "METAFLOW_USER"}
    version = {"repo_url": "https://example.org/sales.git", "branch": "main"}
    assert json.loads(listed["METAFLOW_VERSION"]) == version


@pytest.mark.parametrize(
    "value", ["plain-text-8", 'it\'s-"quoted"', "back\\slash\\8", "-----BEGIN\nMIIEvQIBADANBg\n--"]
)
def test_a_file_with_the_value_of_a_secret_is_refused(value: str) -> None:
    secrets = secrets_of({"SHOP_TOKEN": value, "HOME": "/home/ann"})
    assert secrets == {"SHOP_TOKEN": value}
    for quoted in (value, json.dumps({"shop": value})):
        text, _ = for_airflow_3(written(SHOP=quoted))
        with pytest.raises(PipelineError, match=r"the value of SHOP_TOKEN .*\n.*secret\('SHOP_TOK"):
            check_no_secret(text, secrets)
    check_no_secret(for_airflow_3(written(SHOP="north"))[0], secrets)


@pytest.mark.parametrize(
    ("name", "is_secret"),
    [
        ("AWS_SECRET_ACCESS_KEY", True),
        ("AWS_ACCESS_KEY_ID", True),
        ("AWS_SESSION_TOKEN", True),
        ("METAFLOW_SERVICE_AUTH_KEY", True),
        ("db_password", True),
        ("METAFLOW_KUBERNETES_SECRETS", False),  # the names of secrets
        ("METAFLOW_DEFAULT_SECRETS_BACKEND_TYPE", False),
        ("PWD", False),
    ],
)
def test_a_variable_is_secret_by_its_name(name: str, is_secret: bool) -> None:
    assert (name in secrets_of({name: "long-enough"})) is is_secret
    assert not secrets_of({name: "short"})


def test_the_secrets_of_metaflow_s_profile_count(
    pipeline: Pipeline, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("METAFLOW_HOME", str(tmp_path))
    (tmp_path / "config.json").write_text('{"METAFLOW_SERVICE_AUTH_KEY": "of-the-profile"}')
    assert secrets_of({}) == {"METAFLOW_SERVICE_AUTH_KEY": "of-the-profile"}


def test_a_password_in_an_address_is_refused_and_not_shown() -> None:
    text, _ = for_airflow_3(written(DATABASE="postgresql://ann:hidden@db.example.org/sales"))
    with pytest.raises(PipelineError, match=r"an address of db.example.org") as error:
        check_no_secret(text, {})
    assert "hidden" not in str(error.value)
    check_no_secret(for_airflow_3(written(URL="https://example.org:8080/a@b"))[0], {})


def test_a_file_that_does_not_load_is_refused(pipeline: Pipeline) -> None:
    with pytest.raises(PipelineError, match=r"^Airflow does not take .*: ValueError: no$"):
        check_loads(sys.executable, "raise ValueError('no')")
    check_loads(sys.executable, "pass")


def test_a_value_that_no_file_can_have_is_refused() -> None:
    with pytest.raises(PipelineError, match="cannot be in a file"):
        for_airflow_3(written(NUMBER="x").replace("'x'", "inf"))


@pytest.mark.parametrize(
    ("options", "variables", "message"),
    [
        (
            ["smal.py"],
            {},
            r"there is no .*; did you mean small.py\?\nhint: the flows are small.py$",
        ),
        (
            ["small.py"],
            {},
            r"have no image\nhint: .* image -- small.py --push REGISTRY$",
        ),
        (["small.py", "--image", IMAGE], {}, r"datastore is local, .*\nhint: .*docs/s3.md says$"),
        (
            ["small.py"],
            {"METAFLOW_KUBERNETES_CONTAINER_IMAGE": IMAGE, "METAFLOW_DEFAULT_DATASTORE": "s3"},
            r"has no kubernetes, .*\nhint: uv add kubernetes$",
        ),
    ],
)
def test_what_is_missing_is_named_before_metaflow_begins(
    pipeline: Pipeline,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
    options: list[str],
    variables: dict[str, str],
    message: str,
) -> None:
    monkeypatch.setitem(sys.modules, "kubernetes", None)  # as if it were not installed
    pipeline.add_flow()
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert main(["export", *options]) == 2
    out, err = capfd.readouterr()
    assert out == ""
    assert re.fullmatch(f"export: .*{message}", err.strip(), re.DOTALL | re.MULTILINE), err
    assert len(err.splitlines()) == 2


@pytest.mark.parametrize(
    "text",
    [
        "dag = 'mine'\n",
        "",
        "# Made of other.py by nox -s airflow -- export: edit the flow, and …\n",
    ],
)
def test_the_users_own_file_and_another_flows_export_stay(
    pipeline: Pipeline, capfd: pytest.CaptureFixture[str], text: str
) -> None:
    pipeline.add_flow()
    dag = pipeline.root / "dags" / "small.py"
    dag.parent.mkdir()
    dag.write_text(text)
    assert main(["export", "small.py", "--image", IMAGE]) == 2
    assert "dags/small.py is no export of small.py, and would be lost\n" in capfd.readouterr().err
    assert dag.read_text() == text
