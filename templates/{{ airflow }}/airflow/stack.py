"""The stack of compose.yaml, for `nox -s airflow -- stack up` and `stack down`.

It makes the secrets, in airflow/.env, and lets Docker Compose do the rest.
"""

from __future__ import annotations

import base64
import json
import os
import re
import secrets
import shutil
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
ENV = HERE / ".env"  # which Compose reads, too

SECRETS: dict[str, Callable[[], str]] = {
    "STACK_AIRFLOW_PASSWORD": lambda: secrets.token_urlsafe(18),
    "STACK_API_SECRET_KEY": lambda: secrets.token_hex(32),
    "STACK_DATABASE_PASSWORD": lambda: secrets.token_hex(32),  # it stands in an address
    "STACK_FERNET_KEY": lambda: base64.urlsafe_b64encode(secrets.token_bytes(32)).decode(),
    "STACK_JWT_SECRET": lambda: secrets.token_hex(32),
    "STACK_S3_SECRET_KEY": lambda: secrets.token_hex(32),
}

PAGES = {
    "airflow": "Airflow",
    "ui": "Metaflow's pages",
    "metadata": "Metaflow's service",
    "s3": "S3",
}
"""What the services are that have a port, by their names in compose.yaml."""


class StackError(Exception):
    """What is wrong, and after a line break `hint: ` and the way out."""


def main(command: str, volumes: bool) -> int:
    """Start the stack and say where it is, or stop it; the exit code."""
    try:
        check_docker()
        return down(volumes) if command == "down" else up()
    except StackError as error:
        print(f"stack: {error}", file=sys.stderr)
        return 2


def up() -> int:
    """Start what does not run yet, or runs with other files than these, and wait for all of it."""
    add_secrets()
    made = configuration()
    services = made["services"]
    if not running():
        for name, port in ports(services):
            check_port(name, port)
    if exit_code := compose("up", "--build", "--detach", "--wait").returncode:
        logs = f"docker compose --project-directory {HERE.name} logs"
        print(f"stack: it has not started: see above, or {logs}", file=sys.stderr)
        return exit_code
    remove_old_images(made["name"])
    print()
    for name, port in ports(services):
        print(f"{PAGES.get(name, name)}: http://127.0.0.1:{port}")
    print(f"Log in to Airflow as admin, password {value_of('STACK_AIRFLOW_PASSWORD')}")
    print("`stack down` stops it, and keeps its data.", flush=True)
    return 0


def down(volumes: bool) -> int:
    """Stop it, and with `volumes` delete all that it has made but its secrets."""
    if not volumes:
        return compose("down").returncode
    exit_code = compose("down", "--volumes", "--rmi=local").returncode
    remove_old_images(configuration()["name"])
    return exit_code


def remove_old_images(project: str) -> None:
    """Remove the project's images that have lost their name to a newer one."""
    label = f"label=com.docker.compose.project={project}"
    command = ["docker", "image", "prune", "--force", "--filter", label]
    subprocess.run(command, stdout=subprocess.DEVNULL, check=False)


def compose(*arguments: str, **options: Any) -> subprocess.CompletedProcess[str]:
    """Run `docker compose` for this folder, and show the command unless its output is captured."""
    command = ["docker", "compose", *arguments]
    if not options.get("capture_output"):
        print(f"cd {HERE.name} && {' '.join(command)}", flush=True)
    # Compose refuses even to stop a stack whose secrets are not there.
    missing = dict.fromkeys(SECRETS.keys() - written().keys(), "missing")
    return subprocess.run(
        command, cwd=HERE, env=missing | os.environ, text=True, check=False, **options
    )


def check_docker() -> None:
    """Raise StackError where there is no Docker, no Compose that knows the file, or no engine."""
    if not shutil.which("docker"):
        raise StackError("there is no docker command\nhint: https://docs.docker.com/get-docker/")
    asked = compose("version", "--short", capture_output=True)
    numbers = re.match(r"v?(\d+)\.(\d+)", asked.stdout)
    if asked.returncode or not numbers:
        raise StackError(
            "docker has no command `compose`\nhint: https://docs.docker.com/compose/install/"
        )
    if (int(numbers[1]), int(numbers[2])) < (2, 24):
        raise StackError(
            f"Docker Compose {asked.stdout.strip()} is too old: it takes 2.24 or newer\n"
            "hint: https://docs.docker.com/compose/install/"
        )
    asked = subprocess.run(["docker", "info"], capture_output=True, text=True, check=False)
    if asked.returncode:
        reason = asked.stderr.strip().splitlines()
        raise StackError(
            f"no Docker engine answers: {reason[-1] if reason else ''}\n"
            "hint: start Docker Desktop, or sudo systemctl start docker"
        )


def written() -> dict[str, str]:
    """The variables of airflow/.env."""
    text = ENV.read_text(encoding="utf-8", errors="replace") if ENV.exists() else ""
    return dict(re.findall(r"(?m)^(\w+)=(.+)$", text))


def value_of(name: str) -> str:
    """The value that Compose uses: a variable of the environment is stronger than the file."""
    return os.environ.get(name) or written().get(name, "")


def add_secrets() -> None:
    """Add the secrets that are not there to airflow/.env, which nobody else can read.

    Raises StackError if the stack has data already: these were made with other secrets.
    """
    missing = [name for name in SECRETS if not value_of(name)]
    if not missing:
        return
    project = configuration()["name"]
    label = f"label=com.docker.compose.project={project}"
    listed = ["docker", "volume", "ls", "--quiet", "--filter", label]
    if subprocess.run(listed, capture_output=True, text=True, check=True).stdout:
        raise StackError(
            f"airflow/.env has no {', '.join(missing)}, with which the stack's data were made\n"
            "hint: add them again, or delete the data: nox -s airflow -- stack down --volumes"
        )
    ENV.touch()
    ENV.chmod(0o600)
    text = ENV.read_bytes()
    with ENV.open("a", encoding="utf-8") as file:
        file.write("\n" if text and not text.endswith(b"\n") else "")
        file.writelines(f"{name}={SECRETS[name]()}\n" for name in missing)
    print(f"airflow/.env has the secrets of the stack: {', '.join(missing)}")


def configuration() -> dict[str, Any]:
    """What Compose makes of its files and variables. Raises StackError with Compose's reason."""
    asked = compose("config", "--format", "json", capture_output=True)
    if asked.returncode:
        raise StackError(f"Compose refuses its files: {asked.stderr.strip()}")
    made: dict[str, Any] = json.loads(asked.stdout)
    return made


def running() -> bool:
    """True if a part of the stack runs, so that it has its port itself."""
    return bool(compose("ps", "--quiet", capture_output=True).stdout.strip())


def ports(services: dict[str, Any]) -> list[tuple[str, int]]:
    """The services with a port of this machine, and the port; Airflow first."""
    names = sorted(services, key=lambda name: (name not in PAGES, [*PAGES, name].index(name)))
    return [
        (name, int(port["published"])) for name in names for port in services[name].get("ports", ())
    ]


def check_port(name: str, port: int) -> None:
    """Raise StackError if another program has the port."""
    with socket.socket() as free:
        free.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            free.bind(("127.0.0.1", port))
        except OSError as error:
            raise StackError(
                f"port {port}, for {PAGES.get(name, name)}: {error.strerror}\n"
                f"hint: another one: STACK_{name.upper()}_PORT={port + 10} in airflow/.env"
            ) from None
