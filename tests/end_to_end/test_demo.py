"""The README's first command makes a repo and runs its pipeline."""

from __future__ import annotations

import os
import re
from pathlib import Path

import pytest

from ..conftest import copy_working_tree, git, noxfile


@pytest.fixture(scope="module")
def checkout(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A clone of the template, beside an empty home."""
    folder = copy_working_tree(tmp_path_factory.mktemp("demo") / "headwater")
    (folder.parent / "home").mkdir()
    git(folder, "init", "--quiet")
    git(folder, "add", "--all")
    git(folder, "commit", "--quiet", "--message", "The template")
    return folder


def demo(checkout: Path, *arguments: str, docker: str = "exit 1", exit_code: int = 0) -> str:
    """Run the demo for a user whose Metaflow is set up for S3, and return its output.

    `docker` is what the user's docker does, in a shell.
    """
    home, programs = checkout.parent / "home", checkout.parent / "bin"
    programs.mkdir(exist_ok=True)
    (programs / "docker").write_text(f"#!/bin/sh\n{docker}\n")
    (programs / "docker").chmod(0o755)
    variables = {
        "METAFLOW_DEFAULT_DATASTORE": "s3",
        "PATH": f"{programs}{os.pathsep}{os.environ['PATH']}",
    }
    return noxfile(checkout, home, "-s", "demo", *arguments, exit_code=exit_code, **variables)


IN_CONTAINERS = "    python3 noxfile.py -s run -- --runner container --force-upstream "


def test_the_demo_runs_a_pipeline_and_prints_where_the_results_are(checkout: Path) -> None:
    printed = demo(checkout, docker="exit 0")
    repo = checkout / "demo" / "co2-pipelines"
    assert printed.index(f"Making a repo in {repo}") < printed.index("Task is starting.")
    for decade in ("1960s: 0.807", "1970s: 1.245", "1980s: 1.592", "1990s: 1.574"):
        assert decade in printed
    assert "Next: python3 noxfile.py -s run" in printed
    assert not re.search(r"(?<!\w)nox -s", printed), "the user may have no nox"
    end = printed[printed.index("The pipeline has run") :]
    assert f"    {repo / 'reports' / 'dev' / 'co2.html'}\n" in end
    assert f"    cd {repo}\n" in end
    assert IN_CONTAINERS in end
    assert (repo / "reports" / "dev" / "co2.html").is_file()
    assert (repo / ".venv" / "bin" / "python").exists(), "the repo has its own environment"
    assert git(repo, "rev-list", "--count", "HEAD") == "1"
    assert git(checkout, "status", "--porcelain") == ""


@pytest.mark.parametrize(
    "docker", ["exec sleep 60", pytest.param("exit 1", marks=pytest.mark.thorough)]
)
def test_the_demo_can_be_run_again(checkout: Path, docker: str) -> None:
    if not (checkout / "demo").exists():  # the test above has made it
        demo(checkout)
    printed = demo(checkout, docker=docker)
    assert IN_CONTAINERS not in printed, "the engine does not answer"
    assert f"Running the pipeline of {checkout / 'demo' / 'co2-pipelines'} again" in printed
    assert f"PublishCo2: {checkout / 'demo' / 'co2-pipelines' / 'reports'}" in printed
    assert "nothing to do" in printed


@pytest.mark.nightly
def test_the_demo_s_folder_can_have_any_name(checkout: Path) -> None:
    folder = checkout.parent / "my d\u00e9mo's"
    printed = demo(checkout, "--", "../my d\u00e9mo's")
    assert (folder / "reports" / "dev" / "co2.html").is_file()
    assert (folder / ".git").is_dir()
    assert "cd '" in printed


@pytest.mark.parametrize("name", ["a folder", "a file"])
def test_an_existing_folder_or_file_is_left_alone(checkout: Path, name: str) -> None:
    path = checkout.parent / name
    if name == "a folder":
        path.mkdir()
        (path / "mine").touch()
    else:
        path.touch()
    printed = demo(checkout, "--", str(path), exit_code=1)
    assert f"{path} is not empty\nhint: choose another folder" in printed
    assert "Traceback" not in printed
    assert path.is_file() or [entry.name for entry in path.iterdir()] == ["mine"]
