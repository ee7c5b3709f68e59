"""`nox -s status` and `nox -s clean`, as the owner of a generated repo uses them."""

from __future__ import annotations

import re
import shlex
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from .conftest import (
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
)

pytestmark = pytest.mark.end_to_end

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


def test_runs_are_told_of_and_cleaned_away(seam: Callable[[str], None]) -> None:
    seam("test_housekeeping.py")


@pytest.fixture(scope="module")
def own_template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A template of this module's own, which may get newer versions."""
    return make_template(tmp_path_factory.mktemp("template"))


@pytest.fixture(scope="module")
def bare(own_template: Path, tmp_path_factory: pytest.TempPathFactory) -> Repo:
    """A repo that has been copied, and nothing else."""
    root = tmp_path_factory.mktemp("repo")
    (root / "home").mkdir()
    folder = copy(own_template, root / "sales-pipelines", python_version=HERE)
    return Repo(folder, root / "home", shutil.which("python3") or "python3")


@pytest.fixture(scope="module")
def repo(bare: Repo, own_template: Path, tmp_path_factory: pytest.TempPathFactory) -> Repo:
    """A repo that has been set up; its one pipeline fails where the file `fail` is."""
    root = tmp_path_factory.mktemp("repo")
    (root / "home").mkdir()
    folder = copy(own_template, root / "sales-pipelines", python_version=HERE)
    made = Repo(folder, root / "home", bare.python)
    (made.folder / "sales_pipelines" / "flows" / "fragile.py").write_text(FLOW)
    (made.folder / "sales_pipelines" / "tasks" / "fragile_tasks.py").write_text(TASKS)
    made.nox("-s", "setup")
    return made


def line(said: str, name: str) -> str:
    """What the report says behind a name."""
    (found,) = re.findall(rf"(?m)^{name} +(.*)$", said)
    return str(found)


def test_it_says_what_to_do_before_there_is_an_environment(bare: Repo) -> None:
    said = bare.nox("-s", "status")
    assert line(said, "environment") == "none yet: python3 noxfile.py -s setup"
    version = project_of(bare.folder)["version"]
    assert line(said, "repo") == f"sales_pipelines {version}; no git repo"
    assert line(said, "hooks") == "none: no git repo"
    assert line(said, "last runs") == "none yet"
    assert not (bare.folder / ".venv").exists()
    assert not (bare.folder / ".metaflow").exists()
    said = bare.nox("-s", "clean", exit_code=1)
    assert "clean: the environment lacks" in said
    assert "python3 noxfile.py -s setup" in said
    assert "Traceback" not in said


def test_a_repo_that_has_been_set_up_is_told_as_it_is(repo: Repo) -> None:
    said = repo.nox("-s", "status")
    commit_ = git(repo.folder, "rev-parse", "--short", "HEAD")
    version = project_of(repo.folder)["version"]
    assert line(said, "repo") == f"sales_pipelines {version}, main, {commit_}"
    assert line(said, "environment").startswith("fresh")
    assert line(said, "hooks") == "pre-commit, pre-merge-commit, pre-push"
    assert "\033" not in said
    hooks = repo.folder / ".git" / "hooks"
    (hooks / "pre-merge-commit").chmod(0o644)  # git runs none that is no program
    (hooks / "pre-push").unlink()
    (repo.folder / "README.md").write_text("edited\n")
    said = repo.nox("-s", "status")
    assert line(said, "hooks") == (
        "pre-commit; pre-merge-commit, pre-push to be installed: python3 noxfile.py -s setup"
    )
    assert line(said, "repo").endswith("and 1 file not committed")
    git(repo.folder, "restore", "README.md")
    repo.nox("-s", "setup")
    assert line(repo.nox("-s", "status"), "hooks") == "pre-commit, pre-merge-commit, pre-push"


def test_an_environment_that_is_behind_is_told_with_what_mends_it(repo: Repo) -> None:
    project = repo.folder / "pyproject.toml"
    text = project.read_text()
    project.write_text(text.replace('"luigi>=3.8"', '"luigi>=3.8", "cowsay"'))
    said = line(repo.nox("-s", "status"), "environment")
    assert said.startswith("outdated")
    assert said.endswith("python3 noxfile.py -s setup")
    assert "cowsay" not in (repo.folder / "uv.lock").read_text(), "a report changes nothing"
    project.write_text(text)
    for gone in (repo.folder / ".venv" / "lib").glob("*/site-packages/msgspec*"):
        shutil.rmtree(gone)
    said = repo.nox("-s", "status")
    assert "msgspec" in line(said, "environment")
    repo.nox("-s", "setup")
    assert line(repo.nox("-s", "status"), "environment").startswith("fresh")


def test_a_newer_template_is_told_with_the_command_that_brings_it(
    repo: Repo, own_template: Path
) -> None:
    said = line(repo.nox("-s", "status"), "template")
    assert said == f"{FIRST} of {own_template}, the newest"
    for tag in ("2026.12.0rc1", "2026.9.9", "latest", "2026-12-31"):
        git(own_template, "tag", tag)
    assert line(repo.nox("-s", "status"), "template").endswith("the newest")
    (own_template / "README.md").write_text("New\n")
    commit(own_template, "New", tag=SECOND)
    said = line(repo.nox("-s", "status"), "template")
    assert said.endswith(f"; {SECOND} is there: uvx copier update --skip-answered")


def test_a_template_that_cannot_be_asked_is_said_and_waited_for_no_longer_than_it_takes(
    repo: Repo,
) -> None:
    answers = repo.folder / ".copier-answers.yml"
    text = answers.read_text()

    def told(source: str, ssh: str = "ssh") -> str:
        answers.write_text(re.sub(r"(?m)^_src_path: .*$", f"_src_path: {source}", text))
        return line(repo.nox("-s", "status", GIT_SSH_COMMAND=ssh), "template")

    said = told("https://user:secret@nowhere.invalid/x.git")
    assert "newest unknown: fatal:" in said
    assert "secret" not in said
    # One that takes the connection, and never says a word.
    sleeper = repo.home / "sleeper"
    sleeper.write_text("#!/bin/sh\nexec sleep 600\n")
    sleeper.chmod(0o755)
    said = told("git@example.org:x/y.git", ssh=str(sleeper))
    assert said == f"{FIRST} of git@example.org:x/y.git; newest unknown: no answer within 5 s"
    answers.unlink()
    said = line(repo.nox("-s", "status"), "template")
    assert said.startswith("none: the repo has left it")
    answers.write_text(text)


@pytest.mark.parametrize("env", ["dev", "production"])
def test_the_command_it_prints_for_a_pipeline_s_task_resumes_it_when_pasted(
    repo: Repo, env: str
) -> None:
    ran = repo.folder / "ran.txt"
    ran.unlink(missing_ok=True)
    (repo.folder / "fail").touch()
    repo.nox("-s", "run", "--", "fragile_tasks.py", exit_code=1, SALES_PIPELINES__ENV=env)
    assert ran.read_text() == "start 2026-11-20 it's -1!\n"
    ran.unlink()
    said = repo.nox("-s", "status")
    assert re.search(rf"failed at end +\d+ s ago  fragile.py .*  {env}  FragileFlow/", said)
    (command,) = re.findall(r"(?m)^ +retry: (.*)$", said)
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


def test_clean_says_how_and_frees_what_is_old(repo: Repo) -> None:
    assert "--older-than AGE" in repo.nox("-s", "clean", "--", "--help")
    assert "--runs N" in repo.nox("-s", "status", "--", "--help")
    repo.nox("-s", "run", "--", "fragile_tasks.py", "Fragile", "--day", "2026-11-21")
    repo.nox("-s", "run", "--", "fragile_tasks.py", "Fragile", "--day", "2026-11-21", "--force")
    runs = list((repo.folder / ".metaflow" / "FragileFlow").glob("[0-9]*"))
    said = repo.nox("-s", "clean", "--", "--older-than", "0h", exit_code=1)
    assert "python3 noxfile.py -s clean -- --yes" in said
    said = repo.nox("-s", "clean", "--", "--older-than", "0h", "--yes")
    assert re.search(r"(?m)^ +1 run ", said)
    left = list((repo.folder / ".metaflow" / "FragileFlow").glob("[0-9]*"))
    assert len(left) == len(runs) - 1
