"""The stack of Airflow in Docker: what its files promise, and how it refuses to start."""

from __future__ import annotations

import os
import re
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from ..conftest import Generate, git

SECRETS = {
    *("STACK_AIRFLOW_PASSWORD", "STACK_API_SECRET_KEY", "STACK_DATABASE_PASSWORD"),
    *("STACK_FERNET_KEY", "STACK_JWT_SECRET", "STACK_S3_SECRET_KEY"),
}
PORTS = {f"STACK_{name}_PORT" for name in ("AIRFLOW", "METADATA", "S3", "UI")}


@pytest.fixture
def folder(generate: Generate) -> Path:
    """The folder airflow/ of a repo with a long name."""
    name = "p" * 40
    return generate(package_name=name, with_airflow=True) / "airflow"


def services_of(folder: Path) -> dict[str, Any]:
    services: dict[str, Any] = yaml.safe_load((folder / "compose.yaml").read_text())["services"]
    return services


def stack(folder: Path, *arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
    """`nox -s airflow -- stack`, without the environment of Airflow around it."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("STACK_")}
    return subprocess.run(
        [sys.executable, "local.py", "stack", *arguments],
        cwd=folder,
        env={**kept, "COMPOSE_PROJECT_NAME": "headwater-test-refused", **variables},
        capture_output=True,
        text=True,
        check=False,
    )


def test_each_part_says_whether_it_is_healthy_or_runs_once(folder: Path) -> None:
    services = services_of(folder)
    once = {name for name, each in services.items() if "healthcheck" not in each}
    assert once == {"prepare"}
    waited_for = services["airflow"]["depends_on"]
    assert waited_for == {"prepare": {"condition": "service_completed_successfully"}}
    assert {each["restart"] for name, each in services.items() if name not in once} == {
        "unless-stopped"
    }


def test_ports_are_on_loopback_and_can_be_changed(folder: Path) -> None:
    published = [port for each in services_of(folder).values() for port in each.get("ports", ())]
    variables = set()
    for port in published:
        matched = re.fullmatch(r"127\.0\.0\.1:\$\{(\w+):-\d+\}:\d+", port)
        assert matched, port
        variables.add(matched[1])
    assert variables == PORTS


def test_each_secret_is_asked_for_and_none_has_a_default(folder: Path) -> None:
    text = (folder / "compose.yaml").read_text()
    used = set(re.findall(r"\$\{?(STACK_\w+)", text))
    assert used == SECRETS | PORTS
    sentence = r"is not in airflow/\.env; `nox -s airflow -- stack up` makes it"
    assert set(re.findall(rf"\$\{{(\w+):\?{sentence}\}}", text)) == SECRETS
    assert not set(re.findall(r"\$\{(\w+):?-", text)) - PORTS
    program = (folder / "stack.py").read_text()
    assert set(re.findall(r'"(STACK_\w+)": lambda', program)) == SECRETS


def test_each_image_is_pinned_by_digest_or_at_least_by_version(folder: Path) -> None:
    services = services_of(folder)
    (own,) = (name for name, each in services.items() if "build" in each)
    images = {each["image"] for name, each in services.items() if name != own}
    images.remove(f"${{COMPOSE_PROJECT_NAME}}-{own}")
    assert len(images) == 3
    for image in images:
        assert re.search(r":v?\d+\.\d+[^:]*(@sha256:[0-9a-f]{64})?$", image), image
    unknown = {image for image in images if "@sha256:" not in image}
    assert unknown == {"netflixoss/metaflow_metadata_service:v2.5.0"}


def test_the_secrets_are_not_for_git_nor_for_the_image(folder: Path) -> None:
    git(folder.parent, "init", "--quiet")
    assert git(folder, "check-ignore", ".env") == ".env"
    ignored = (folder / "Dockerfile.dockerignore").read_text().split()
    assert {"**/.env", "**/.venv", ".git/config"} <= set(ignored)


@pytest.mark.docker
@pytest.mark.parametrize("with_tables", [True, False])
def test_compose_takes_the_file_with_all_secrets_and_names_the_one_that_is_missing(
    generate: Generate, with_tables: bool
) -> None:
    folder = generate(with_airflow=True, with_tables=with_tables) / "airflow"
    command = ["docker", "compose", "config", "--quiet"]
    env = {name: value for name, value in os.environ.items() if not name.startswith("STACK_")}
    for without in (None, *sorted(SECRETS)):
        lines = [f"{name}=x\n" for name in sorted(SECRETS - {without})]
        (folder / ".env").write_text("".join(lines))
        done = subprocess.run(
            command, cwd=folder, env=env, capture_output=True, text=True, check=False
        )
        if without is None:
            assert (done.returncode, done.stderr) == (0, "")
        else:
            assert f"{without} is missing a value: is not in airflow/.env; " in done.stderr
            assert "`nox -s airflow -- stack up` makes it" in done.stderr


@pytest.fixture
def taken_port() -> Iterator[int]:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        yield taken.getsockname()[1]


@pytest.mark.docker
def test_a_port_that_is_taken_is_named_before_anything_is_built(
    folder: Path, taken_port: int
) -> None:
    done = stack(folder, "up", STACK_UI_PORT=str(taken_port))
    assert done.returncode == 2
    assert done.stderr == (
        f"stack: port {taken_port}, for Metaflow's pages: Address already in use\n"
        f"hint: another one: STACK_UI_PORT={taken_port + 10} in airflow/.env\n"
    )
    assert (folder / ".env").stat().st_mode & 0o777 == 0o600


@pytest.mark.docker
def test_secrets_are_added_to_what_the_file_has_and_close_it(folder: Path, taken_port: int) -> None:
    file = folder / ".env"
    own = f'# mine\nSTACK_JWT_SECRET="a $$ign"\nSTACK_UI_PORT="{taken_port}"'
    file.write_text(own)
    file.chmod(0o644)
    done = stack(folder, "up")
    assert f"port {taken_port}, for Metaflow's pages" in done.stderr
    text = file.read_text()
    assert text.startswith(f"{own}\nSTACK_AIRFLOW_PASSWORD=")
    added = {line.partition("=")[0] for line in text.splitlines()[3:]}
    assert added == SECRETS - {"STACK_JWT_SECRET"}
    assert file.stat().st_mode & 0o777 == 0o600


@pytest.mark.docker
def test_compose_s_word_on_an_override_is_passed_on(folder: Path) -> None:
    (folder / "compose.override.yaml").write_text("services: {s3: {prots: [1]}}\n")
    done = stack(folder, "up")
    assert done.returncode == 2
    assert done.stderr.startswith("stack: Compose refuses its files: ")
    assert "prots" in done.stderr


def docker(text: str, folder: Path) -> str:
    """A PATH on which there is this docker alone."""
    folder.mkdir()
    (folder / "docker").write_text(f"#!/bin/sh\n{text}\n")
    (folder / "docker").chmod(0o755)
    return str(folder)


@pytest.mark.parametrize(
    ("script", "why"),
    [
        (None, "there is no docker command\nhint: https://docs.docker.com/get-docker/"),
        (
            "echo \"docker: 'compose' is not a docker command\" >&2; exit 1",
            "docker has no command `compose`\nhint: https://docs.docker.com/compose/install/",
        ),
        (
            "echo v2.20.3-desktop.1",
            "Docker Compose v2.20.3-desktop.1 is too old: it takes 2.24 or newer\n"
            "hint: https://docs.docker.com/compose/install/",
        ),
        (
            'case $1 in compose) echo 2.24.0 ;; *) echo "Cannot connect to X." >&2; exit 1 ;; esac',
            "no Docker engine answers: Cannot connect to X.\n"
            "hint: start Docker Desktop, or sudo systemctl start docker",
        ),
    ],
    ids=["no docker", "no compose", "an old compose", "no engine"],
)
@pytest.mark.parametrize("command", ["up", "down"])
def test_without_docker_one_sentence_says_what_to_do(
    folder: Path, tmp_path: Path, script: str | None, why: str, command: str
) -> None:
    path = docker(script, tmp_path / "programs") if script else str(tmp_path)
    done = stack(folder, command, PATH=path)
    assert done.returncode == 2
    assert (done.stdout, done.stderr) == ("", f"stack: {why}\n")
    assert not (folder / ".env").exists()
