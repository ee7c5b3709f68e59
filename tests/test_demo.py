"""The README's first command: a repo is made, and its pipeline run to the end."""

from __future__ import annotations

from pathlib import Path

import pytest

from .conftest import copy_working_tree, git, noxfile

pytestmark = pytest.mark.end_to_end


@pytest.fixture(scope="module")
def checkout(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A clone of the template, beside an empty home."""
    folder = copy_working_tree(tmp_path_factory.mktemp("demo") / "headwater")
    (folder.parent / "home").mkdir()
    git(folder, "init", "--quiet")
    git(folder, "add", "--all")
    git(folder, "commit", "--quiet", "--message", "The template")
    return folder


def demo(checkout: Path, *arguments: str, exit_code: int = 0) -> str:
    """Run the demo, as one whose Metaflow is set up for S3, and return what it prints."""
    home = checkout.parent / "home"
    options = ("-s", "demo", *arguments)
    return noxfile(checkout, home, *options, exit_code=exit_code, METAFLOW_DEFAULT_DATASTORE="s3")


def test_the_demo_runs_a_pipeline_and_says_where_everything_is(checkout: Path) -> None:
    said = demo(checkout)
    repo = checkout / "demo" / "co2-pipelines"
    assert said.index(f"Making a repo in {repo}") < said.index("Task is starting.")
    for decade in ("1960s: 0.807", "1970s: 1.245", "1980s: 1.592", "1990s: 1.574"):
        assert decade in said
    end = said[said.index("The pipeline has run") :]
    assert f"    {repo / 'reports' / 'dev' / 'co2.html'}\n" in end
    assert f"    cd {repo}\n" in end
    assert (repo / "reports" / "dev" / "co2.html").is_file()
    assert (repo / ".venv" / "bin" / "python").exists(), "its own environment, not the demo's"
    assert git(repo, "rev-list", "--count", "HEAD") == "1"
    assert git(checkout, "status", "--porcelain") == ""


def test_the_demo_can_be_run_again(checkout: Path) -> None:
    said = demo(checkout)
    assert "is there already: its pipeline is run again" in said
    assert "1960s: 0.807" in said


@pytest.mark.nightly
def test_a_folder_of_one_s_own_may_have_any_name(checkout: Path) -> None:
    folder = checkout.parent / "my d\u00e9mo's"
    said = demo(checkout, "--", "../my d\u00e9mo's")
    assert (folder / "reports" / "dev" / "co2.html").is_file()
    assert (folder / ".git").is_dir()
    assert "cd '" in said


@pytest.mark.parametrize("used", ["a folder", "a file"])
def test_what_is_in_use_is_left_alone(checkout: Path, used: str) -> None:
    path = checkout.parent / used
    if used == "a folder":
        path.mkdir()
        (path / "mine").touch()
    else:
        path.touch()
    said = demo(checkout, "--", str(path), exit_code=1)
    assert f"{path} is in use; name another" in said
    assert "Traceback" not in said
    assert path.is_file() or [entry.name for entry in path.iterdir()] == ["mine"]
