"""Airflow on this machine, with the DAGs in dags/, for `nox -s airflow`.

It needs no Docker: Airflow's parts run as processes, with SQLite, and end with this command.
"""

from __future__ import annotations

import argparse
import contextlib
import fcntl
import json
import os
import re
import secrets
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any
from urllib.request import urlopen

import stack

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent
(SUPERVISOR,) = ROOT.glob("*/runtime/process/supervisor.py")
PACKAGE = SUPERVISOR.parents[2].name
PYTHON = ROOT / ".venv" / "bin" / "python"
"""The repo's own, which runs the flows."""

# `airflow standalone` would start the same parts, but two of them with a server for logs, which
# listens on all addresses, and it goes on when one of them has ended.
PARTS = (
    ("api-server",),
    ("scheduler", "--skip-serve-logs"),
    ("dag-processor",),
    ("triggerer", "--skip-serve-logs"),
)

READY = 180.0
"""Seconds in which Airflow is up, even on a busy machine."""

GRACE = 10.0
"""Seconds in which Airflow's parts may end before they are killed."""


def main(arguments: Sequence[str]) -> int:
    """Serve Airflow until Ctrl-C, run one DAG, or export a flow; the exit code."""
    is_export = arguments[:1] == ["export"]  # whose options are the repo's to read
    options = parser().parse_args(["export"] if is_export else arguments)
    if options.stack:
        return stack.main(options.stack, options.volumes)
    if not PYTHON.exists():
        print(f"airflow: there is no {PYTHON}\nhint: python3 noxfile.py -s setup", file=sys.stderr)
        return 2
    if is_export:
        return export(arguments[1:])
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.default_int_handler)
    threading.Thread(target=end_with_nox, daemon=True).start()
    try:
        if options.dag:
            return test(options.dag, options.date, options.conf, options.verbose)
        return serve(options.port)
    except KeyboardInterrupt:
        return 130


def end_with_nox() -> None:
    """Stop when nox has gone, whatever has ended it: uv, between it and this process, stays."""
    if nox := int(os.environ.get("NOX_PROCESS", 0)):
        with contextlib.suppress(ProcessLookupError):
            while True:
                os.kill(nox, 0)
                time.sleep(0.5)
        os.kill(os.getpid(), signal.SIGTERM)


def parser() -> argparse.ArgumentParser:
    """The options."""
    made = argparse.ArgumentParser(
        prog="nox -s airflow --",
        description="Start Airflow on this machine, with the DAGs in dags/, until Ctrl-C. "
        "`test DAG` runs one of them to its end instead, here in the terminal. `stack up` starts "
        "all that belongs to it, in Docker. `export FLOW` makes a DAG of a flow, for Kubernetes.",
    )
    made.set_defaults(dag="", date=None, conf=None, stack="")
    made.add_argument("--port", type=port, default=8080, help="of its pages; default: 8080")
    commands = made.add_subparsers(metavar="test | stack | export")
    run = commands.add_parser("test", help="run one DAG, without Airflow's services")
    run.add_argument("dag", help="its name, e.g. co2")
    run.add_argument("date", nargs="?", help="its logical date, e.g. 2026-11-20")
    run.add_argument("--conf", help="""its parameters as JSON, e.g. '{"flow_tag": "dev"}'""")
    run.add_argument("--verbose", action="store_true", help="show all that Airflow logs")
    commands.add_parser("export", help="make a DAG with a pod for each step; export --help")
    docker = commands.add_parser("stack", help="all of it in Docker: docs/airflow-stack.md")
    docker.add_argument("stack", choices=["up", "down"], metavar="up | down", help="start or stop")
    docker.add_argument("--volumes", action="store_true", help="with `down`: delete data and image")
    return made


def port(text: str) -> int:
    """The number of a port."""
    if not (text.isdecimal() and 0 < int(text) < 2**16):
        raise argparse.ArgumentTypeError(f"{text} must be a number from 1 to 65535")
    return int(text)


def environment(home: Path, port: int) -> dict[str, str]:
    """The variables that make Airflow serve this repo alone, on this machine alone."""
    home.mkdir(mode=0o700, parents=True, exist_ok=True)
    secret = home / "jwt-secret"
    # Without one that they share, Airflow's parts refuse each other's requests.
    if not (secret.exists() and secret.read_text()):
        secret.touch(mode=0o600)
        secret.write_text(secrets.token_hex(32))
    address = f"http://127.0.0.1:{port}"
    # Variables of a shell may lead to another Airflow's database; those of connections may stay.
    others = {name: text for name, text in os.environ.items() if "AIRFLOW__" not in name}
    return {
        **others,
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', os.defpath)}",
        "AIRFLOW_HOME": str(home),
        "AIRFLOW__API__BASE_URL": address,
        "AIRFLOW__API__HOST": "127.0.0.1",
        "AIRFLOW__API__PORT": str(port),
        "AIRFLOW__API__WORKERS": "1",
        "AIRFLOW__API_AUTH__JWT_SECRET": secret.read_text(),
        "AIRFLOW__CORE__DAGS_FOLDER": str(ROOT / "dags"),
        "AIRFLOW__CORE__DEFAULT_TASK_RETRY_DELAY": "10",  # seconds, not five minutes
        "AIRFLOW__CORE__EXECUTION_API_SERVER_URL": f"{address}/execution/",
        "AIRFLOW__CORE__LOAD_EXAMPLES": "False",
        # Far more processes than processors keep SQLite's lock for longer than others wait for it.
        "AIRFLOW__CORE__PARALLELISM": str(max(4, os.cpu_count() or 0)),
        "AIRFLOW__CORE__PLUGINS_FOLDER": str(HERE / "plugins"),
        "AIRFLOW__DAG_PROCESSOR__REFRESH_INTERVAL": "10",
        "AIRFLOW__SCHEDULER__ENABLE_HEALTH_CHECK": "False",
        f"{PACKAGE.upper()}_FILES": "/files",  # see plugins/files_of_runs.py
    }


def serve(port: int) -> int:
    """Start Airflow, say where it is, and end all of it with this process."""
    home = HERE / "home"
    variables = environment(home, port)
    running = (home / "running").open("a+")  # locked as long as this process lives
    try:
        fcntl.flock(running, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        running.seek(0)
        print(f"airflow: it runs already: {running.read()}", file=sys.stderr)
        return 2
    with socket.socket() as free:
        free.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            free.bind(("127.0.0.1", port))
        except OSError as error:
            print(f"airflow: port {port}: {error.strerror}\nhint: --port 8081", file=sys.stderr)
            return 2
    running.truncate(0)
    running.write(f"http://127.0.0.1:{port}")
    running.flush()
    log = home / "airflow.log"
    where = log.relative_to(ROOT)
    print(f"Airflow starts, which takes half a minute; its log is {where}", flush=True)
    with log.open("w") as lines:
        with supervised([("db", "migrate")], variables, lines) as (migration,):
            is_ready = migration.wait() == 0
        with supervised(PARTS if is_ready else (), variables, lines) as parts:
            deadline = time.monotonic() + READY
            while is_ready and not answers(port):
                is_ready = ended(parts) is None and time.monotonic() < deadline
                time.sleep(0.5)
            if not is_ready:
                print(f"airflow: it does not start: see {log}", file=sys.stderr)
                return 1
            print(f"\nAirflow is at http://127.0.0.1:{port}{login(home)}", flush=True)
            print("Ctrl-C ends it.", flush=True)
            while (part := ended(parts)) is None:
                time.sleep(0.5)
            print(f"airflow: its {part} has ended: see {log}", file=sys.stderr)
            return 1


def ended(parts: Sequence[subprocess.Popen[bytes]]) -> str | None:
    """The first of Airflow's parts that has ended; None if all run."""
    for (name, *_), process in zip(PARTS, parts, strict=True):
        if process.poll() is not None:
            return name
    return None


def answers(port: int) -> bool:
    """True if Airflow's pages can be opened."""
    with (
        contextlib.suppress(OSError),
        urlopen(f"http://127.0.0.1:{port}/api/v2/version", timeout=5),
    ):
        return True
    return False


def login(home: Path) -> str:
    """The name and the password that Airflow has made for this machine."""
    users = json.loads((home / "simple_auth_manager_passwords.json.generated").read_text())
    return "".join(f", user {name}, password {password}" for name, password in users.items())


def test(dag: str, date: str | None, conf: str | None, is_verbose: bool) -> int:
    """Run the DAG to its end, with a database of its own: a running scheduler would take part."""
    variables = environment(HERE / "home" / "test", 8080)
    if not is_verbose:
        variables["AIRFLOW__LOGGING__JSON_LOGS"] = "True"
    words = [*([date] if date else []), *(["--conf", conf] if conf else [])]
    with supervised([("db", "migrate")], variables, subprocess.PIPE) as (process,):
        lines, _ = process.communicate()
        if process.returncode:
            print(lines.decode(errors="replace"), file=sys.stderr)
            return process.returncode
    tasks = 0
    with supervised([("dags", "test", dag, *words)], variables, subprocess.PIPE) as (process,):
        for line in process.stdout or ():
            text = line.decode(errors="replace").rstrip("\n")
            tasks += "[DAG TEST] starting task_id" in text
            if is_verbose:
                print(text, flush=True)
            else:
                for each in told(text):
                    print(each, flush=True)
        exit_code = process.wait()
    if exit_code:
        print(f"\n{dag}: failed", file=sys.stderr)
    elif not tasks:
        print(f"{dag}: no task has run\nhint: the date is before its start_date", file=sys.stderr)
        return 1
    else:
        print(f"\n{dag}: success")
    return exit_code


def told(line: str) -> Iterator[str]:
    """What a line of Airflow's log, as JSON, tells of the tasks: what they print, and errors."""
    entry = None
    with contextlib.suppress(ValueError):
        entry = json.loads(line)
    if not (isinstance(entry, dict) and {"event", "level"} <= entry.keys()):
        yield line  # printed by a task, or by the file of a DAG
        return
    event, level, logger = str(entry["event"]), entry["level"], entry.get("logger", "")
    if task := re.match(r"\[DAG TEST\] starting task_id=(\S+)", event):
        yield f"\n{task[1]}"
    elif level in ("error", "critical"):
        errors = entry.get("error_detail") or entry.get("exception") or []
        yield from (f"    {each['exc_type']}: {each['exc_value']}" for each in errors[:1])
        if not errors:
            yield f"    {event}"
    elif logger.startswith("airflow.task") and event.strip():
        yield f"    {event}"


def export(arguments: Sequence[str]) -> int:
    """Become the repo's own Python, which exports the flow; it tries the DAG with this one."""
    of_airflow = ("VIRTUAL_ENV", "UV_PROJECT_ENVIRONMENT")
    variables = {name: value for name, value in os.environ.items() if name not in of_airflow}
    command = ["-m", f"{PACKAGE}.runtime", "export", "--python", sys.executable, *arguments]
    os.execve(PYTHON, [str(PYTHON), *command], variables)


@contextlib.contextmanager
def supervised(
    commands: Sequence[Sequence[str]], variables: dict[str, str], output: Any
) -> Iterator[list[subprocess.Popen[bytes]]]:
    """Processes of Airflow's commands, which leave none behind, however this one ends."""
    lifeline, end = os.pipe()
    supervisor = [sys.executable, "-I", "-S", str(SUPERVISOR), str(lifeline), str(GRACE), "0"]
    processes = [
        subprocess.Popen(
            [*supervisor, "airflow", *command],
            env=variables,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            pass_fds=[lifeline],
            start_new_session=True,
        )
        for command in commands
    ]
    os.close(lifeline)
    try:
        yield processes
    finally:
        os.close(end)
        for process in processes:
            process.wait()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
