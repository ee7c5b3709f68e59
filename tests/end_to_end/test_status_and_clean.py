"""`nox -s status` and `nox -s clean`, as the owner of a generated repo uses them."""

from __future__ import annotations

import re
import shlex
import shutil
import signal
import subprocess
import time
from pathlib import Path

import pytest

from ..conftest import (
    FIRST,
    HERE,
    SECOND,
    Repo,
    clean_environment,
    commit,
    copy,
    git,
    make_template,
    project_of,
    wait_until,
)
from ..processes import is_there

FLOW = """
import os
from pathlib import Path

from metaflow import FlowSpec, Parameter, step


class FragileFlow(FlowSpec):
    day = Parameter("day")

    @step
    def start(self):
        with open("ran.txt", "a") as file:
            file.write(f"start {self.day}\\n")
        self.next(self.end)

    @step
    def end(self):
        if Path("fail").exists():
            raise ValueError
        with open("ran.txt", "a") as file:
            file.write(f"end {self.day}\\n")


if __name__ == "__main__":
    FragileFlow()
"""

TASKS = """
import datetime
from typing import Any

import luigi

from sales_pipelines.runtime import MetaflowTask


class Fragile(MetaflowTask):
    flow_path = "fragile.py"
    day: datetime.date = luigi.DateParameter()
    loudly: bool = luigi.BoolParameter()
    note: str = luigi.Parameter(default="", significant=False)

    def parameters(self) -> dict[str, Any]:
        return {"day": f"{self.day} {self.note}{'!' if self.loudly else ''}"}


class RootTask(luigi.WrapperTask):
    def requires(self) -> Fragile:
        return Fragile(day=datetime.date(2026, 11, 20), loudly=True, note="it's -1")
"""


@pytest.fixture(scope="module")
def own_template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A template only for this module, which may get newer versions."""
    return make_template(tmp_path_factory.mktemp("template"))


@pytest.fixture(scope="module")
def bare(own_template: Path, tmp_path_factory: pytest.TempPathFactory) -> Repo:
    """A repo that was generated and not set up."""
    root = tmp_path_factory.mktemp("repo")
    (root / "home").mkdir()
    folder = copy(own_template, root / "sales-pipelines", python_version=HERE)
    return Repo(folder, root / "home", shutil.which("python3") or "python3")


@pytest.fixture(scope="module")
def repo(bare: Repo, own_template: Path, tmp_path_factory: pytest.TempPathFactory) -> Repo:
    """A repo that was set up, whose one pipeline fails if there is a file `fail`."""
    root = tmp_path_factory.mktemp("repo")
    (root / "home").mkdir()
    folder = copy(own_template, root / "sales-pipelines", python_version=HERE)
    made = Repo(folder, root / "home", bare.python)
    (made.folder / "sales_pipelines" / "flows" / "fragile.py").write_text(FLOW)
    (made.folder / "sales_pipelines" / "tasks" / "fragile_tasks.py").write_text(TASKS)
    made.nox("-s", "setup")
    return made


def line(report: str, name: str) -> str:
    """What the report has after a name."""
    (text,) = re.findall(rf"(?m)^{name} +(.*)$", report)
    return str(text)


def test_status_and_clean_say_what_to_do_before_there_is_an_environment(bare: Repo) -> None:
    output = bare.nox("-s", "status")
    assert line(output, "environment") == "none yet: python3 noxfile.py -s setup"
    version = project_of(bare.folder)["version"]
    assert line(output, "repo") == f"sales_pipelines {version}; no git repo"
    assert line(output, "hooks") == "none: no git repo"
    assert line(output, "last runs") == "none yet"
    assert not (bare.folder / ".venv").exists()
    assert not (bare.folder / ".metaflow").exists()
    output = bare.nox("-s", "clean", exit_code=1)
    assert re.search(
        r"(?m)^clean: the environment has no \w+\nhint: python3 noxfile.py -s setup$", output
    )
    assert "Traceback" not in output


def test_status_reports_a_repo_as_it_is(repo: Repo) -> None:
    output = repo.nox("-s", "status")
    commit_ = git(repo.folder, "rev-parse", "--short", "HEAD")
    version = project_of(repo.folder)["version"]
    assert line(output, "repo") == f"sales_pipelines {version}, main, {commit_}"
    assert line(output, "environment").startswith("up to date")
    assert line(output, "hooks") == "pre-commit, pre-merge-commit, pre-push"
    assert "\033" not in output
    hooks = repo.folder / ".git" / "hooks"
    (hooks / "pre-merge-commit").chmod(0o644)  # which git does not run then
    (hooks / "pre-push").unlink()
    (repo.folder / "README.md").write_text("edited\n")
    output = repo.nox("-s", "status")
    assert line(output, "hooks") == (
        "pre-commit; to install pre-merge-commit, pre-push: python3 noxfile.py -s setup"
    )
    assert line(output, "repo").endswith("and 1 file not committed")
    git(repo.folder, "restore", "README.md")
    repo.nox("-s", "setup")
    assert line(repo.nox("-s", "status"), "hooks") == "pre-commit, pre-merge-commit, pre-push"


@pytest.mark.thorough
def test_an_outdated_environment_is_reported_with_the_command_that_updates_it(repo: Repo) -> None:
    project = repo.folder / "pyproject.toml"
    text = project.read_text()
    project.write_text(text.replace('"luigi>=3.8"', '"luigi>=3.8", "cowsay"'))
    output = line(repo.nox("-s", "status"), "environment")
    assert output.startswith("outdated")
    assert output.endswith("python3 noxfile.py -s setup")
    assert "cowsay" not in (repo.folder / "uv.lock").read_text(), "a report changes nothing"
    project.write_text(text)
    for gone in (repo.folder / ".venv" / "lib").glob("*/site-packages/msgspec*"):
        shutil.rmtree(gone)
    output = repo.nox("-s", "status")
    assert "msgspec" in line(output, "environment")
    repo.nox("-s", "setup")
    assert line(repo.nox("-s", "status"), "environment").startswith("up to date")


@pytest.mark.thorough
def test_a_newer_template_is_reported_with_the_command_that_brings_it(
    repo: Repo, own_template: Path
) -> None:
    output = line(repo.nox("-s", "status"), "template")
    assert output == f"{FIRST} of {own_template}, the newest"
    for tag in ("2026.12.0rc1", "2026.9.9", "latest", "2026-12-31"):
        git(own_template, "tag", tag)
    assert line(repo.nox("-s", "status"), "template").endswith("the newest")
    (own_template / "README.md").write_text("New\n")
    commit(own_template, "New", tag=SECOND)
    output = line(repo.nox("-s", "status"), "template")
    assert output.endswith(f"; {SECOND} is available: python3 noxfile.py -s update -- --preview")


@pytest.mark.thorough
def test_a_template_that_does_not_answer_is_reported_and_waited_for_a_few_seconds(
    repo: Repo,
) -> None:
    answers = repo.folder / ".copier-answers.yml"
    text = answers.read_text()

    def reported(source: str, ssh: str = "ssh") -> str:
        answers.write_text(re.sub(r"(?m)^_src_path: .*$", f"_src_path: {source}", text))
        return line(repo.nox("-s", "status", GIT_SSH_COMMAND=ssh), "template")

    output = reported("https://user:secret@nowhere.invalid/x.git")
    assert "newest unknown: fatal:" in output
    assert "secret" not in output
    # One that takes the connection and never answers.
    sleeper = repo.home / "sleeper"
    sleeper.write_text("#!/bin/sh\nexec sleep 600\n")
    sleeper.chmod(0o755)
    output = reported("git@example.org:x/y.git", ssh=str(sleeper))
    assert output == f"{FIRST} of git@example.org:x/y.git; newest unknown: no answer within 5 s"
    answers.unlink()
    output = line(repo.nox("-s", "status"), "template")
    assert output.startswith("none: the repo follows no template")
    answers.write_text(text)


@pytest.mark.thorough
@pytest.mark.parametrize("env", ["dev", pytest.param("production", marks=pytest.mark.nightly)])
def test_the_command_that_status_prints_resumes_a_pipeline_s_task_when_pasted(
    repo: Repo, env: str
) -> None:
    ran = repo.folder / "ran.txt"
    ran.unlink(missing_ok=True)
    (repo.folder / "fail").touch()
    repo.nox("-s", "run", "--", "fragile_tasks.py", exit_code=1, SALES_PIPELINES__ENV=env)
    assert ran.read_text() == "start 2026-11-20 it's -1!\n"
    ran.unlink()
    output = repo.nox("-s", "status")
    assert re.search(rf"failed at end +\d+ s ago  fragile.py .*  {env}  FragileFlow/", output)
    (command,) = re.findall(r"(?m)^ +run it alone: (.*)$", output)
    assert "fragile_tasks.py Fragile " in command
    (repo.folder / "fail").unlink()
    done = subprocess.run(
        command.replace("python3", shlex.quote(repo.python), 1),
        shell=True,
        cwd=repo.folder,
        env=clean_environment(repo.home),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    assert done.returncode == 0, done.stdout
    assert ran.read_text() == "end 2026-11-20 it's -1!\n"
    ran.unlink()
    assert "failed" not in repo.nox("-s", "status")


WAITING = """
import os, time
from pathlib import Path

from metaflow import FlowSpec, step


class WaitingFlow(FlowSpec):
    @step
    def start(self):
        Path("started").write_text(str(os.getpid()))
        while Path("wait").exists():
            time.sleep(0.02)
        self.next(self.end)

    @step
    def end(self):
        pass


if __name__ == "__main__":
    WaitingFlow()
"""


@pytest.mark.parametrize(
    ("number", "exit_code"),
    [
        (signal.SIGTERM, 130),
        pytest.param(signal.SIGHUP, 130, marks=pytest.mark.thorough),
        pytest.param(signal.SIGKILL, -signal.SIGKILL, marks=pytest.mark.thorough),
    ],
)
def test_a_signal_to_nox_itself_stops_the_run(
    repo: Repo, number: signal.Signals, exit_code: int
) -> None:
    """As a scheduler's or a service manager's, which does not reach the whole process group."""
    (repo.folder / "sales_pipelines" / "flows" / "waiting.py").write_text(WAITING)
    (repo.folder / "wait").touch()
    started = repo.folder / "started"
    started.unlink(missing_ok=True)
    command = [repo.python, "noxfile.py", "-s", "run", "--", "waiting.py"]
    nox = subprocess.Popen(
        command,
        cwd=repo.folder,
        env=clean_environment(repo.home),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    deadline = time.monotonic() + 120
    while not (started.exists() and started.read_text()):
        assert nox.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.05)
    nox.send_signal(number)
    printed, _ = nox.communicate(timeout=60)  # until nothing holds its output any more
    assert nox.returncode == exit_code, printed
    assert "run: stopped; the same command resumes what was running" in printed
    wait_until(lambda: not is_there(int(started.read_text())), 10)
    assert not list((repo.folder / ".metaflow/luigi/dev/waiting.py").glob("*.json"))
    assert "stopped at start " in repo.nox("-s", "status")


@pytest.mark.thorough
def test_clean_explains_itself_and_deletes_what_is_old(repo: Repo) -> None:
    assert "--older-than AGE" in repo.nox("-s", "clean", "--", "--help")
    assert "--runs N" in repo.nox("-s", "status", "--", "--help")
    repo.nox("-s", "run", "--", "fragile_tasks.py", "Fragile", "--day", "2026-11-21")
    repo.nox("-s", "run", "--", "fragile_tasks.py", "Fragile", "--day", "2026-11-21", "--force")
    runs = list((repo.folder / ".metaflow" / "FragileFlow").glob("[0-9]*"))
    output = repo.nox("-s", "clean", "--", "--older-than", "0h", exit_code=1)
    assert "python3 noxfile.py -s clean -- --yes" in output
    output = repo.nox("-s", "clean", "--", "--older-than", "0h", "--yes")
    assert re.search(r"(?m)^ +1 run ", output)
    left = list((repo.folder / ".metaflow" / "FragileFlow").glob("[0-9]*"))
    assert len(left) == len(runs) - 1
