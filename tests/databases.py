"""Database servers for tests: PostgreSQL and MariaDB, on loopback and in a folder of their own."""

from __future__ import annotations

import contextlib
import os
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from .conftest import folder_for_repos

PASSWORD = "planted-password"


def free_port() -> int:
    with socket.socket() as asking:
        asking.bind(("127.0.0.1", 0))
        return int(asking.getsockname()[1])


def found(command: str, *folders: str) -> str:
    """The command's path; the test is skipped without it, or fails if the machine must have it."""
    for folder in ("", *sorted(folders, reverse=True)):
        if path := shutil.which(str(Path(folder, command)) if folder else command):
            return path
    why = f"there is no {command} on this machine"
    if os.environ.get("REQUIRE_POSTGRES") == "1":
        pytest.fail(f"REQUIRE_POSTGRES=1, and {why}")
    pytest.skip(why)


class Server:
    """A server that can be stopped and started again."""

    def __init__(self, folder: Path, address: str, command: list[str], user: str) -> None:
        self.address, self.folder = address, folder
        self._command, self._user = command, user
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        log = (self.folder / "log").open("ab")
        self._process = subprocess.Popen(
            self._command, stdout=log, stderr=log, cwd=self.folder, **as_user(self._user)
        )
        deadline = time.monotonic() + 60
        port = int(self.address.rpartition(":")[2])
        while True:
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
                return
            log_text = (self.folder / "log").read_text(errors="replace")
            assert self._process.poll() is None, log_text
            assert time.monotonic() < deadline, log_text
            time.sleep(0.05)

    def stop(self) -> None:
        """End it at once, as a crash does."""
        if self._process:
            self._process.kill()
            self._process.wait()


def as_user(name: str) -> dict[str, Any]:
    """Servers refuse to run as root."""
    return {"user": name, "group": name} if os.geteuid() == 0 else {}


@contextlib.contextmanager
def folder_of(user: str) -> Iterator[Path]:
    folder = Path(tempfile.mkdtemp(prefix=f"{user}-", dir=folder_for_repos()))
    if os.geteuid() == 0:
        shutil.chown(folder, user, user)
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@contextlib.contextmanager
def postgresql() -> Iterator[Server]:
    """A PostgreSQL server, whose user `etl` has the password."""
    folders = map(str, Path("/usr/lib/postgresql").glob("*/bin"))
    initdb = found("initdb", *folders)
    with folder_of("postgres") as folder:
        secret = folder / "password"
        secret.write_text(PASSWORD)
        if os.geteuid() == 0:
            shutil.chown(secret, "postgres")
        options = ("--no-sync", "--auth=scram-sha-256", "--encoding=UTF8", "--no-locale")
        subprocess.run(
            [initdb, "-D", folder / "data", "-U", "etl", f"--pwfile={secret}", *options],
            check=True,
            capture_output=True,
            cwd=folder,
            **as_user("postgres"),
        )
        port = free_port()
        command = [str(Path(initdb).with_name("postgres")), "-D", str(folder / "data")]
        command += ["-p", str(port), "-k", str(folder), "-c", "listen_addresses=127.0.0.1"]
        # A crash of the server's process is tested, none of the machine.
        server = Server(folder, f"etl@127.0.0.1:{port}", [*command, "-c", "fsync=off"], "postgres")
        server.start()
        try:
            yield server
        finally:
            server.stop()


@contextlib.contextmanager
def mariadb() -> Iterator[Server]:
    """A MariaDB server, whose user `etl` has the password."""
    install = found("mariadb-install-db")
    program = found("mariadbd", "/usr/sbin")
    with folder_of("mysql") as folder:
        data = folder / "data"
        subprocess.run(
            [install, "--no-defaults", f"--datadir={data}", "--skip-test-db"],
            check=True,
            capture_output=True,
            cwd=folder,
            **as_user("mysql"),
        )
        port = free_port()
        users = folder / "users.sql"
        users.write_text(
            "DELETE FROM mysql.global_priv WHERE User = '';\n"
            f"CREATE USER IF NOT EXISTS etl@'127.0.0.1' IDENTIFIED BY '{PASSWORD}';\n"
            "GRANT ALL ON *.* TO etl@'127.0.0.1';\nFLUSH PRIVILEGES;\n"
        )
        command = [program, "--no-defaults", f"--datadir={data}", f"--port={port}"]
        command += [f"--socket={folder}/s", "--bind-address=127.0.0.1", f"--init-file={users}"]
        command += ["--character-set-server=utf8mb4", "--innodb-flush-log-at-trx-commit=0"]
        command += ["--skip-name-resolve"]
        server = Server(folder, f"etl@127.0.0.1:{port}", command, "mysql")
        server.start()
        try:
            yield server
        finally:
            server.stop()
