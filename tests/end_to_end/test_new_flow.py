"""`nox -s new` in repos that are set up: what it makes runs at once, and passes lint and tests."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from ..conftest import HERE, Repo, SetUp, clean_environment, git, output, unshare
from ..quick.test_new import KINDS
from .test_combinations import CHOICES, COMBINATIONS

# What each kind prints of its last flow, by the name that `make_all` gives it.
RESULTS = {
    "minimal": "  count: 10\n  mean: 28.5\n",
    "foreach": "  shops: 3\n  means:\n",
    "train_predict": "  days: 7\n  total: 2",
    "scrape": "  pages: 2\n",
    "curate": "  inserted: 21\n",
}


@pytest.fixture(scope="module")
def repo(set_up: SetUp) -> Repo:
    """The repo that most users have."""
    return set_up("sales-pipelines", python_version=HERE)


def results(repo: Repo) -> dict[str, str]:
    """What the kinds print that can be made in the repo: a table needs the piece."""
    has_tables = (repo.folder / "sales_pipelines" / "tables.py").exists()
    return {name: text for name, text in RESULTS.items() if has_tables or name != "curate"}


def make_all(repo: Repo, group: str, *options: str) -> None:
    """Make a flow of each kind, each after the one before."""
    after: tuple[str, ...] = ()
    for kind, name in zip(KINDS, results(repo), strict=False):
        flow = f"{group}/{name}"
        repo.nox("-s", "new", "--", flow, "--kind", kind, *after, *options)
        after = ("--after", flow)


def passes(repo: Repo) -> None:
    """Check that the repo passes lint and types, and the tests of the new flows and its own."""
    printed = repo.nox("-s", "lint", "test")
    assert re.search(r"mypy\.+Passed\n", printed)
    assert "Failed" not in printed
    assert re.search(r"\d+ passed", printed)
    assert "skipped" not in printed


def runs(repo: Repo, group: str, *options: str) -> None:
    """Check that the flow of each kind runs, on the result of the one before."""
    for name, result in results(repo).items():
        printed = repo.nox("-s", "run", "--", f"{group}/{name}_tasks.py", *options)
        assert result in printed
    markers = [json.loads(file.read_text()) for file in markers_of(repo, group)]
    given = {
        marker["path"].split("/")[1]: marker["parameters"].get("given")
        for marker in markers
        if not marker["path"].endswith("/predict.py")
    }
    assert given["minimal"] is None
    assert given["foreach"] == {"count": 10, "mean": 28.5}
    assert given["train_predict"]["shops"] == 3
    assert given["scrape"]["days"] == 7
    assert given.get("curate", {"pages": 2})["pages"] == 2


def markers_of(repo: Repo, group: str) -> list[Path]:
    return sorted((repo.folder / ".metaflow" / "luigi" / "dev" / group).rglob("*.json"))


@pytest.mark.thorough
def test_two_new_flows_in_a_row_pass_lint_types_and_tests_and_run(repo: Repo) -> None:
    repo.nox("-s", "new", "--", "sales/clean")
    model = ("sales/model", "--kind", "train-predict", "--after", "sales/clean")
    printed = repo.nox("-s", "new", "--", *model)
    next_ones = re.findall(r"^  python3 noxfile\.py (.*)", printed, re.MULTILINE)
    assert next_ones == ["-s run -- sales/model_tasks.py", "-s test -- tests/test_sales_model.py"]
    status = git(repo.folder, "status", "--porcelain", "--untracked-files=all").splitlines()
    assert len(status) == 7
    assert all(line.startswith("?? ") for line in status), "nothing else has changed or is staged"
    printed = repo.nox("-s", "lint")
    assert re.search(r"mypy\.+Passed\n", printed)
    printed = repo.nox("-s", "test", "--", "tests/test_sales_clean.py", "tests/test_sales_model.py")
    assert "5 passed" in printed
    printed = repo.nox(*next_ones[0].split())
    for flow in ("SalesCleanFlow/", "SalesModelTrainFlow/", "SalesModelPredictFlow/"):
        assert flow in printed
    assert "  given:\n    count: 10\n    mean: 28.5\n" in printed


@pytest.mark.thorough
def test_a_refusal_has_its_reason_and_exit_code(repo: Repo) -> None:
    printed = repo.nox("-s", "new", "--", "sales/random", exit_code=2)
    assert "\nnew: sales/random would hide the module random from the flow; try random_flow" in (
        printed
    )
    assert "--kind" in repo.nox("-s", "new", exit_code=2)


@pytest.mark.thorough
def test_no_network_is_needed_once_copier_has_been_here(repo: Repo) -> None:
    repo.nox("-s", "new", "--", "network/first")
    command = unshare("--map-root-user", "--net")
    new = [*command, repo.python, "noxfile.py", "-s", "new", "--", "network/second"]
    printed = output(new, repo.folder, repo.home)
    assert "network/second_tasks.py" in printed
    no_cache = {"UV_CACHE_DIR": str(repo.home / "empty"), "UV_HTTP_RETRIES": "0"}
    new[-1] = "network/third"
    done = subprocess.run(
        new,
        cwd=repo.folder,
        env=clean_environment(repo.home, **no_cache),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode
    assert "Fetching Copier, which takes a network" in done.stderr
    assert not (repo.folder / "sales_pipelines" / "flows" / "network" / "third").exists()


def from_cookiecutter(template: Path, root: Path, answers: dict[str, Any]) -> Repo:
    """A repo that Cookiecutter has made, set up."""
    repo = Repo(root / "sales-pipelines", root / "home", sys.executable)
    repo.home.mkdir()
    given = [f"{name}={answer}" for name, answer in answers.items()]
    cookiecutter = [sys.executable, "-m", "cookiecutter", "--no-input", template]
    names = ["repo_name=sales-pipelines", "package_name=sales_pipelines"]
    output([*cookiecutter, *names, *given], root, repo.home, PWD=str(root))
    repo.nox("-s", "setup")
    return repo


PIECES = [
    {name: answer for name, answer in each.items() if name not in ("license", "python_version")}
    for each in COMBINATIONS
    if (each["license"], each["python_version"]) == ("MIT", CHOICES["python_version"][0])
]


DOORS = [
    pytest.param(
        *(door, pieces),
        id="-".join([door, *map(str, pieces.values())]),
        # Of each door one; at night all.
        marks=pytest.mark.thorough if pieces is PIECES[last] else pytest.mark.nightly,
    )
    for door, last in (("copier", -1), ("cookiecutter", 0))
    for pieces in PIECES
]


@pytest.mark.parametrize(("door", "pieces"), DOORS)
def test_each_kind_passes_lint_types_and_tests_and_runs_in_any_repo(
    template: Path, set_up: SetUp, tmp_path: Path, door: str, pieces: dict[str, Any]
) -> None:
    answers = {"python_version": HERE, **pieces}
    if door == "copier":
        repo = set_up("sales-pipelines", **answers)
    else:
        repo = from_cookiecutter(template, tmp_path, answers)
    make_all(repo, "sales")
    passes(repo)
    runs(repo, "sales")


@pytest.mark.thorough
@pytest.mark.docker
def test_each_kind_runs_in_a_container_by_a_dockerfile_of_its_own(repo: Repo) -> None:
    make_all(repo, "boxed", "--in-container")
    printed = repo.nox("-s", "lint")
    assert "Failed" not in printed
    runs(repo, "boxed")
    markers = [json.loads(file.read_text()) for file in markers_of(repo, "boxed")]
    images = {marker["path"]: marker["image"] for marker in markers}
    assert len(images) == 6
    for path, image in images.items():
        assert path.removesuffix(".py").replace("/", "-").replace("_", "-") in image
