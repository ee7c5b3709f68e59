"""A generated repo, used as its owner would use it: set up, checked, tested, run, built."""

from __future__ import annotations

import contextlib
import json
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from ..conftest import HERE, ROOT, Repo, SetUp, Terminal, clean_environment, git


@pytest.fixture(scope="module")
def repo(set_up: SetUp) -> Repo:
    """The repo that most users have, with the Python at hand."""
    return set_up("sales-pipelines", python_version=HERE)


def test_setup_makes_environment_lock_file_and_first_commit(repo: Repo) -> None:
    assert (repo.folder / ".venv" / "bin" / "python").exists()
    assert "uv.lock" in git(repo.folder, "ls-files")
    assert git(repo.folder, "status", "--porcelain") == ""
    assert git(repo.folder, "log", "--format=%an: %s") == (
        "The sales-pipelines team: Generate the repo"
    ), "git knows nobody in an empty home"
    assert git(repo.folder, "branch", "--show-current") == "main"


def test_names_of_dependencies_are_refused_to_repos_and_packages(repo: Repo) -> None:
    includes = ROOT / "includes"
    locked = re.findall(r'(?m)^name = "(.+)"$', (repo.folder / "uv.lock").read_text())
    distributions = (includes / "distributions.txt").read_text().split()
    assert set(locked) - {*distributions, "sales-pipelines"} == set()
    code = "import importlib.metadata as m; print(*m.packages_distributions())"
    python = repo.folder / ".venv" / "bin" / "python"
    installed = subprocess.check_output([python, "-c", code], text=True).split()
    public = {name for name in installed if re.fullmatch("[a-z][a-z0-9_]*", name)}
    taken = (includes / "module-names.txt").read_text().split()
    assert public - {*taken, "sales_pipelines"} == set()


def test_setup_can_be_run_again(repo: Repo) -> None:
    before = git(repo.folder, "rev-parse", "HEAD")
    repo.nox("-s", "setup")
    assert git(repo.folder, "rev-parse", "HEAD") == before
    assert git(repo.folder, "status", "--porcelain") == ""


def test_a_new_repo_passes_its_own_lint_types_and_tests(repo: Repo) -> None:
    said = repo.nox("-s", "lint", "test")
    assert len(re.findall(r"\.Passed\n", said)) >= 7, "each of its hooks"
    assert "Failed" not in said
    assert re.search(r"\d+ passed", said)
    assert "skipped" not in said


@pytest.mark.thorough
def test_lint_fails_where_something_is_wrong_and_mends_what_it_can(repo: Repo) -> None:
    wrong = repo.folder / "sales_pipelines" / "wrong.py"
    wrong.write_text("import os\nx  = 1\n")
    try:
        repo.nox("-s", "lint", exit_code=1)
        assert wrong.read_text() == "x = 1\n"
        repo.nox("-s", "lint")
    finally:
        wrong.unlink()


def test_the_wheel_builds_and_imports_with_its_data(repo: Repo, tmp_path: Path) -> None:
    environment = clean_environment(repo.home, VIRTUAL_ENV="")
    uv = shutil.which("uv") or next(repo.folder.glob(".nox/bootstrap-*/bin/uv"))
    for command in (
        [uv, "build", "--quiet", "--wheel", "--out-dir", tmp_path, repo.folder],
        [uv, "venv", "--quiet", "--python", sys.executable, tmp_path / "venv"],
    ):
        subprocess.run(command, env=environment, check=True)
    (wheel,) = tmp_path.glob("*.whl")
    python = tmp_path / "venv" / "bin" / "python"
    install = [uv, "pip", "install", "--quiet", "--python", python, wheel]
    subprocess.run(install, env=environment, check=True)
    code = (
        "import sales_pipelines, sales_pipelines.runtime.paths as paths\n"
        "from sales_pipelines.runtime import MetaflowTask, talk_to_luigi\n"
        "assert (paths.CONFIG / 'base.yaml').is_file()\n"
        "assert (paths.FLOWS / 'examples/co2/co2_weekly.csv').is_file()\n"
        "print(sales_pipelines.__version__)"
    )
    said = subprocess.check_output([python, "-c", code], env=environment, cwd=tmp_path, text=True)
    assert said.strip() in wheel.name


@pytest.mark.thorough
def test_run_takes_the_pipeline_to_its_report(repo: Repo) -> None:
    said = repo.nox("-s", "run")
    assert "1960s: 0.807" in said
    assert "This progress looks :)" in said
    page = repo.folder / "reports" / "dev" / "co2.html"
    assert page.is_file()
    assert f"PublishCo2: {page}" in said
    assert git(repo.folder, "status", "--porcelain") == "", "results are not for git"
    again = repo.nox("-s", "run")
    assert "Did not run any tasks" in again
    assert f"PublishCo2: {page}" in again
    assert "1960s: 0.807" not in again, "what is done is not asked what it requires"
    commit = git(repo.folder, "rev-parse", "HEAD")
    (marker,) = (repo.folder / ".metaflow/luigi/dev/examples/co2/clean.py").glob("*.json")
    assert json.loads(marker.read_text())["commit"] == commit


def test_a_run_on_a_terminal_shows_a_line_for_each_flow(repo: Repo) -> None:
    environment = clean_environment(repo.home)
    environment.pop("CI", None)
    flow = ("examples/co2/clean.py", "--flow-tag", "watched")
    command = [repo.python, "noxfile.py", "-s", "run", "--", *flow]
    terminal = Terminal(command, repo.folder, environment)
    assert terminal.exit_code() == 0, terminal.text
    assert re.search(r"(?m)^running +examples/co2/clean\.py", terminal.text)
    assert re.search(r"(?m)^done +examples/co2/clean\.py +4 of 4 steps +[0-9.]+ s", terminal.text)
    assert "weeks: 2225" in terminal.text, "the result"
    (log,) = re.findall(r"(?m)^log: (\.metaflow/logs/\S+)$", terminal.text)
    lines = (repo.folder / log).read_text().splitlines()
    assert sum("Task is starting." in line for line in lines) == 9
    assert "Task is starting." not in terminal.text
    assert git(repo.folder, "status", "--porcelain") == "", "logs are not for git"


@contextlib.contextmanager
def readme_example(repo: Repo) -> Iterator[Path]:
    """The README's flow and tasks in the repo, while the block runs; yields the tasks' file."""
    clean, tasks = re.findall(r"```python\n(.*?)```", (repo.folder / "README.md").read_text(), re.S)
    package = repo.folder / "sales_pipelines"
    day = 'day = Parameter("day", default="2026-01-01")'
    forecast = clean.replace("CleanFlow", "ForecastFlow").replace("self.rows = ", "self.seen = ")
    forecast = forecast.replace(day, 'rows = Parameter("rows", default=0)')
    forecast = forecast.replace("len(self.rows)", "self.rows")
    files = {
        "flows/sales/clean.py": clean,
        "flows/sales/forecast.py": forecast,
        "tasks/sales_tasks.py": tasks,
    }
    try:
        for name, text in files.items():
            (package / name).parent.mkdir(exist_ok=True)
            (package / name).write_text(text)
        yield package / "tasks" / "sales_tasks.py"
    finally:
        for name in files:
            (package / name).unlink()


def test_the_readme_s_example_is_a_pipeline_that_runs_and_passes_lint(repo: Repo) -> None:
    own = repo.folder / "sales_pipelines" / "flows" / "own.py"
    own.write_text("import only_in_its_requirements\n\nonly_in_its_requirements.run()\n")
    try:
        with readme_example(repo):
            repo.nox("-s", "lint")
            printed = repo.nox("-s", "run", "--", "sales_tasks.py", "--day", "2026-01-02")
    finally:
        own.unlink()
    marker = next(repo.folder.glob(".metaflow/luigi/dev/sales/clean.py/*2026_01_02*.json"))
    assert json.loads(marker.read_text())["parameters"] == {"day": "2026-01-02"}
    assert "\nsales/clean.py day=2026-01-02: CleanFlow/" in printed
    assert "\nsales/forecast.py day=2026-01-02: ForecastFlow/" in printed
    assert printed.count("  rows: 1\n") == 2


@pytest.mark.thorough
def test_luigi_s_range_tool_runs_the_readme_s_task_for_each_day_as_its_page_says(
    repo: Repo,
) -> None:
    page = (repo.folder / "docs" / "how-a-flow-runs.md").read_text()
    (command,) = re.findall(r"^nox -s run -- (.* RangeDaily .*\\\n.*)$", page, re.M)
    words = shlex.split(command.replace("\\\n", " ").replace("2026-02-01", "2026-01-03"))
    with readme_example(repo) as tasks:
        tasks.write_text(f"from luigi.tools.range import RangeDaily\n{tasks.read_text()}")
        printed = repo.nox("-s", "run", "--", *words)
    assert "is not of type" not in printed, "Luigi warns of a default of its own"
    markers = repo.folder.glob(".metaflow/luigi/dev/sales/clean.py/*.json")
    days = {json.loads(marker.read_text())["parameters"]["day"] for marker in markers}
    assert days == {"2026-01-01", "2026-01-02"}


OWN = """
import cowsay
from metaflow import FlowSpec, step


class OwnFlow(FlowSpec):
    @step
    def start(self):
        cowsay.cow("moo")
        self.next(self.end)

    @step
    def end(self):
        pass


if __name__ == "__main__":
    OwnFlow()
"""


@pytest.mark.thorough
def test_a_repo_s_own_tests_check_a_flow_with_packages_of_its_own(repo: Repo) -> None:
    folder = repo.folder / "sales_pipelines" / "flows" / "own"
    folder.mkdir()
    try:
        (folder / "own.py").write_text(OWN)
        (folder / "requirements.txt").write_text("cowsay==6.1\n")
        assert "1 passed" in repo.nox("-s", "test", "--", "-k", "every_flow")
        (folder / "requirements.txt").unlink()
        repo.nox("-s", "test", "--", "-k", "every_flow", exit_code=1)
    finally:
        shutil.rmtree(folder)


@pytest.mark.thorough
def test_a_file_is_named_from_where_one_is(repo: Repo) -> None:
    done = subprocess.run(
        [
            repo.python,
            "../../../../noxfile.py",
            "-s",
            "run",
            "--",
            "clean.py",
            "--flow-tag",
            "here",
        ],
        cwd=repo.folder / "sales_pipelines" / "flows" / "examples" / "co2",
        env=clean_environment(repo.home),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert (repo.folder / ".metaflow/luigi/here/examples/co2/clean.py").is_dir()


@pytest.mark.nightly
def test_a_copied_checkout_tests_itself(repo: Repo, tmp_path: Path) -> None:
    where = "import sys\n\n\ndef test_where() -> None:\n    print(sys.prefix)\n"
    for folder in (tmp_path / "copy ü x", tmp_path / "moved"):
        shutil.copytree(repo.folder, folder, symlinks=True)
        (folder / "tests" / "test_where.py").write_text(where)
        copied = Repo(folder, repo.home, repo.python)
        printed = copied.nox("-s", "test", "--", "-s", "tests/test_where.py")
        assert str(folder / ".venv") in printed


def test_conflict_markers_in_pyproject_are_told_as_such(repo: Repo) -> None:
    project = repo.folder / "pyproject.toml"
    kept = project.read_text()
    try:
        project.write_text(f"<<<<<<< before\n{kept}")
        said = repo.nox("-s", "lint", exit_code=1)
        assert "pyproject.toml is not valid TOML" in said
        assert "hint: resolve merge conflicts" in said
        assert "Traceback" not in said
    finally:
        project.write_text(kept)


def test_a_failed_flow_is_an_exit_code_of_run(repo: Repo) -> None:
    said = repo.nox(
        *("-s", "run", "--", "examples/co2/clean.py"),
        *("--flow-kwargs", '{"weekly_csv": "nowhere.csv"}'),
        exit_code=1,  # nox's own, for a command that failed with another
    )
    assert "failed with exit code 30" in said, "luigi.cfg's task_failed"
    assert "nowhere.csv" in said


@pytest.mark.thorough
def test_a_repo_inside_another_is_not_given_a_git_of_its_own(
    set_up: SetUp, repo: Repo, tmp_path: Path
) -> None:
    git(tmp_path, "init", "--quiet")
    (tmp_path / "secret.txt").touch()
    inner = tmp_path / "inner"
    shutil.copytree(repo.folder, inner, ignore=shutil.ignore_patterns(".git", ".nox", ".venv"))
    said = Repo(inner, repo.home, sys.executable).nox("-s", "setup")
    assert f"Installed no git hooks: this folder is part of the git repo {tmp_path}" in said
    assert not (inner / ".git").exists()
    assert "No commits yet" in git(tmp_path, "status"), "nor is what is around it committed"
    assert not list((tmp_path / ".git" / "hooks").glob("*[!e]")), "nor given hooks"
    Repo(inner, repo.home, sys.executable).nox("-s", "lint")
