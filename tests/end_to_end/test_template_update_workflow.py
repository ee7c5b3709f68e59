"""The workflow `template-update`, run as GitHub runs it, with a stand-in for GitHub."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import yaml

from ..conftest import (
    FIRST,
    ROOT,
    SECOND,
    bootstrapped,
    clean_environment,
    commit,
    copy,
    git,
    make_template,
)

THIRD = "2026.12.0"
BOT = "41898282+github-actions[bot]@users.noreply.github.com"
ERRORS = Path("templates", "{{ pipeline }}", "{{ package_name }}", "runtime", "errors.py")
WORKFLOW = Path("templates", "{{ github }}", ".github", "workflows", "ci.yml.jinja")

# What GitHub's command does, of what the workflow uses; it refuses everything else.
GH = """
import argparse, json, os, subprocess, sys
from pathlib import Path

file = Path(os.environ["GH_STATE"])
state = json.loads(file.read_text())


def fail(message):
    sys.exit(f"gh: {message}")


def fields(words):
    names = {"issue": ("number", "title", "state"), "pr": ("number", "headRefName")}[kind]
    chosen = words.split(",")
    return chosen if set(chosen) <= set(names) else fail(f"unknown field in {words}")


def numbered(title, body, **more):
    if len(body) > 65_536:
        fail("body is too long (maximum is 65536 characters)")
    state["number"] += 1
    entry = {"number": state["number"], "title": title, "body": body, "state": "OPEN"}
    return {**entry, "comments": [], **more}


kind, verb, *words = sys.argv[1:]
parser = argparse.ArgumentParser(allow_abbrev=False)
command = f"{kind} {verb}"
options = {
    "auth setup-git": (),
    "label create": ("name", "--force", "--description"),
    "issue list": ("--label", "--state", "--limit", "--json"),
    "issue create": ("--title", "--label", "--body-file"),
    "issue comment": ("number", "--body-file"),
    "issue close": ("number", "--reason", "--comment"),
    "pr list": ("--state", "--limit", "--json"),
    "pr create": ("--base", "--head", "--title", "--body-file"),
    "pr close": ("number", "--comment"),
}[command]
for option in options:
    action = "store_true" if option == "--force" else "store"
    parser.add_argument(option, action=action)
given = parser.parse_args(words)
if not os.environ.get("GH_TOKEN"):
    fail("set the GH_TOKEN environment variable")
body = sys.stdin.read() if getattr(given, "body_file", "") == "-" else ""
entries = {"issue": state["issues"], "pr": state["pulls"]}.get(kind, [])

if command == "label create":
    state["labels"] = sorted({*state["labels"], given.name})
elif verb == "list":
    wanted = [
        {name: entry[name] for name in fields(given.json)}
        for entry in reversed(entries)
        if given.state.upper() in ("ALL", entry["state"])
        and (kind == "pr" or given.label in entry["labels"])
    ]
    print(json.dumps(wanted[: int(given.limit)]))
elif command == "issue create":
    if given.label not in state["labels"]:
        fail(f"could not add label: '{given.label}' not found")
    entries.append(numbered(given.title, body, labels=[given.label]))
    print(f"https://github.com/example/sales/issues/{state['number']}")
elif command == "pr create":
    if state["refuses_pulls"]:
        fail("GitHub Actions is not permitted to create or approve pull requests")
    heads = ["git", "-C", os.environ["REMOTE"], "rev-parse", "--verify", "--quiet"]
    for branch in (given.base, given.head):
        subprocess.run([*heads, f"refs/heads/{branch}"], check=True, stdout=subprocess.DEVNULL)
    author = "github-token" if os.environ["GH_TOKEN"] == "github-token" else "a person"
    more = {"headRefName": given.head, "base": given.base, "author": author}
    entries.append(numbered(given.title, body, **more))
    print(f"https://github.com/example/sales/pull/{state['number']}")
elif verb in ("close", "comment"):
    (entry,) = [each for each in entries if each["number"] == int(given.number)]
    entry["comments"].append(body or given.comment)
    if verb == "close":
        entry["state"] = "CLOSED"
file.write_text(json.dumps(state))
"""

# As GitHub does: its own token cannot push changes of workflows, nor can that of `limited`.
PRE_RECEIVE = """\
#!/bin/sh
while read -r old new ref; do
    case $GH_TOKEN:$new in
        github-token:*[!0]* | limited:*[!0]*) ;;
        *) continue ;;
    esac
    if [ -n "$(git diff --name-only main "$new" -- .github/workflows)" ]; then
        echo "refusing to allow a GitHub App to create or update workflow" >&2
        exit 1
    fi
done
"""


@dataclass
class GitHub:
    """A template, a repo on GitHub that was made from it, and what GitHub keeps."""

    folder: Path
    secret: str = ""
    clones: list[Path] = field(default_factory=list)

    @property
    def template(self) -> Path:
        return self.folder / "template"

    @property
    def remote(self) -> Path:
        return self.folder / "remote.git"

    @property
    def state(self) -> dict[str, Any]:
        return dict(json.loads((self.folder / "state.json").read_text()))

    @property
    def issues(self) -> list[dict[str, Any]]:
        return list(self.state["issues"])

    @property
    def pulls(self) -> list[dict[str, Any]]:
        return list(self.state["pulls"])

    @property
    def branches(self) -> list[str]:
        return git(self.remote, "for-each-ref", "--format=%(refname:short)", "refs/heads").split()

    def set(self, **values: Any) -> None:
        """Change what GitHub keeps."""
        (self.folder / "state.json").write_text(json.dumps({**self.state, **values}))

    def release(self, version: str, *files: Path, news: str = "- New.") -> None:
        """A version of the template, which changes the first line of these files."""
        for file in files:
            first, rest = (self.template / file).read_text().split("\n", 1)
            mark = f"# {version}\n" if file.suffix == ".jinja" else ""
            first = mark + first if mark else f'"""Errors of {version}.'
            (self.template / file).write_text(f"{first}\n{rest}")
        changelog = self.template / "CHANGELOG.md"
        head = "## Unreleased\n"
        changelog.write_text(
            changelog.read_text().replace(head, f"{head}\n## {version}\n\n{news}\n")
        )
        commit(self.template, version, tag=version)

    def clone(self) -> Path:
        """A new clone, as somebody has it."""
        self.clones.append(self.folder / f"clone-{len(self.clones)}" / "sales-pipelines")
        git(self.folder, "clone", "--quiet", str(self.remote), str(self.clones[-1]))
        return self.clones[-1]

    def push(self, file: str, text: str, branch: str = "main") -> None:
        """Somebody pushes a file."""
        clone = self.clone()
        git(clone, "switch", "--quiet", *(["-c"] if branch not in self.branches else []), branch)
        (clone / file).write_text(text)
        commit(clone, "What I did")
        git(clone, "push", "--quiet", "origin", branch)

    def shell(self, clone: Path, script: str, variables: dict[str, str], exit_code: int = 0) -> str:
        """Run a script in the clone, with the stand-ins on PATH."""
        environment = clean_environment(
            self.folder / "home",
            PATH=f"{self.folder / 'bin'}:{os.environ['PATH']}",
            GH_STATE=str(self.folder / "state.json"),
            REMOTE=str(self.remote),
            **variables,
        )
        done = subprocess.run(
            ["bash", "-e", "-c", script],
            cwd=clone,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
        )
        assert "Traceback" not in done.stdout, done.stdout
        assert done.returncode == exit_code, done.stdout
        return done.stdout

    def run(self, exit_code: int = 0, event: str = "schedule") -> str:
        """Run the workflow, as GitHub does it, and return what it prints."""
        clone = self.clone()
        workflow = yaml.safe_load((clone / ".github/workflows/template-update.yml").read_text())
        values = {
            "${{ secrets.TEMPLATE_UPDATE_TOKEN || github.token }}": self.secret or "github-token",
            "${{ secrets.TEMPLATE_UPDATE_TOKEN != '' }}": "true" if self.secret else "false",
        }
        (job,) = workflow["jobs"].values()
        *_, step = job["steps"]
        given = {name: values[value] for name, value in step["env"].items()}
        given |= {"CI": "true", "GITHUB_EVENT_NAME": event}
        return self.shell(clone, step["run"], given, exit_code)

    def unchanged_by(self, exit_code: int = 0, event: str = "schedule") -> str:
        """Run the workflow, which changes nothing."""
        before = (self.state, self.branches)
        printed = self.run(exit_code, event)
        assert (self.state, self.branches) == before
        return printed


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """The template with one version, and a repo of it."""
    folder = tmp_path_factory.mktemp("made")
    (folder / "template").mkdir()
    template = make_template(folder / "template")
    return template, copy(template, folder / "sales-pipelines")


@pytest.fixture
def github(made: tuple[Path, Path], tmp_path: Path) -> GitHub:
    """The repo on GitHub, of a template that is its own."""
    template, repo = made
    git(tmp_path, "clone", "--quiet", str(template), str(tmp_path / "template"))
    shutil.copytree(repo, tmp_path / "sales-pipelines")
    answers = tmp_path / "sales-pipelines" / ".copier-answers.yml"
    text = answers.read_text()
    assert str(template) in " ".join(text.split())
    lines = yaml.safe_load(text) | {"_src_path": str(tmp_path / "template")}
    answers.write_text("# Written by Copier\n" + yaml.safe_dump(lines, width=1000))
    git(tmp_path / "sales-pipelines", "init", "--quiet", "--initial-branch=main")
    commit(tmp_path / "sales-pipelines", "Generate the repo")
    remote = tmp_path / "remote.git"
    git(tmp_path, "clone", "--quiet", "--bare", str(tmp_path / "sales-pipelines"), str(remote))
    write_program(remote / "hooks" / "pre-receive", PRE_RECEIVE)
    write_program(tmp_path / "bin" / "gh", f"#!{sys.executable}\n{GH}")
    for name in ("python", "python3"):  # nox -s update, without the time that its environment takes
        script = f'shift 4; exec {sys.executable} hooks/update.py "$@"'
        words = f'[ "$1 $2 $3" = "noxfile.py -s update" ] || exec {sys.executable} "$@"'
        write_program(tmp_path / "bin" / name, f"#!/bin/sh\n{words}\n{script}\n")
    (tmp_path / "home").mkdir()
    state = {"number": 6, "issues": [], "pulls": [], "labels": [], "refuses_pulls": False}
    (tmp_path / "state.json").write_text(json.dumps(state))
    return GitHub(tmp_path)


def write_program(file: Path, text: str) -> None:
    file.parent.mkdir(exist_ok=True)
    file.write_text(text)
    file.chmod(0o755)


@pytest.mark.thorough
def test_a_new_version_gets_one_issue_and_one_pull_request_that_closes_it(github: GitHub) -> None:
    assert "The repo has the template's newest version" in github.unchanged_by()
    github.release(SECOND, ERRORS)
    github.run()
    branch = "7_template-2026-11-1"
    (issue,), (pull,) = github.issues, github.pulls
    assert (issue["number"], issue["title"]) == (7, f"Update the template to {SECOND}")
    assert f"a new version, {SECOND}; this repo has {FIRST}.\n" in issue["body"]
    assert f"## {SECOND}\n\n- New.\n" in issue["body"]
    assert issue["comments"] == []
    assert (pull["headRefName"], pull["base"], pull["state"]) == (branch, "main", "OPEN")
    assert pull["body"].startswith(f"Closes #7.\n\n# Template {FIRST} → {SECOND}\n")
    assert "- `sales_pipelines/runtime/errors.py`\n" in pull["body"]
    assert github.branches == [branch, "main"]
    assert git(github.remote, "log", "--format=%ce %s", f"main..{branch}") == (
        f"{BOT} Update the template to {SECOND}"
    )
    answers = git(github.remote, "show", f"{branch}:.copier-answers.yml")
    assert f"_commit: {SECOND}\n" in answers
    for event in ("schedule", "workflow_dispatch"):
        assert "Nothing to do: there is issue #7" in github.unchanged_by(event=event)


@pytest.mark.nightly
def test_a_merged_update_leaves_nothing_to_do(github: GitHub) -> None:
    github.release(SECOND, ERRORS)
    github.run()
    git(github.remote, "update-ref", "refs/heads/main", "refs/heads/7_template-2026-11-1")
    git(github.remote, "branch", "--delete", "--force", "7_template-2026-11-1")
    assert "The repo has the template's newest version" in github.unchanged_by()


@pytest.mark.parametrize("name", ["12_template-2026-11-1", "5_template-2026-11-1"])
@pytest.mark.nightly
def test_an_update_that_somebody_has_made_is_enough(github: GitHub, name: str) -> None:
    github.release(SECOND, ERRORS)
    github.push("mine.txt", "mine\n", branch=name)
    assert f"Nothing to do: there is the branch {name}" in github.unchanged_by()


@pytest.mark.thorough
def test_a_pull_request_from_a_fork_is_enough(github: GitHub) -> None:
    github.release(SECOND, ERRORS)
    fork = {"number": 5, "state": "OPEN", "headRefName": "4_template-2026-11-1"}
    github.set(pulls=[fork])
    assert "there is the branch 4_template-2026-11-1" in github.unchanged_by()


@pytest.mark.nightly
def test_a_branch_of_another_name_is_no_update(github: GitHub) -> None:
    github.release(SECOND, ERRORS)
    for name in ("7_template-2026-11-10", "x7_template-2026-11-1", "7_template-2026-11-1-more"):
        github.push("mine.txt", "mine\n", branch=name)
    github.run()
    assert len(github.pulls) == 1


@pytest.mark.thorough
def test_conflicts_are_named_in_the_issue_with_the_commands_that_solve_them(
    github: GitHub,
) -> None:
    errors = "sales_pipelines/runtime/errors.py"
    text = (github.clone() / errors).read_text()
    github.push(errors, text.replace('"""Errors', '"""My errors', 1))
    github.release(SECOND, ERRORS)
    github.run()
    assert (github.pulls, github.branches) == ([], ["main"])
    (comment,) = github.issues[0]["comments"]
    assert f"because of conflicts:\n\n- `{errors}`: line 1\n" in comment
    assert "`Closes #7`" in comment
    github.unchanged_by()
    update, rest = commands(comment).split("# If there are conflicts")
    clone = github.clone()
    github.shell(clone, update, person(), exit_code=3)
    assert git(clone, "diff", "--name-only", "--diff-filter=U") == errors
    (clone / errors).write_text(text)
    git(clone, "add", errors)
    git(clone, "commit", "--quiet", "--message", "Update")
    github.shell(clone, rest.split("lint test\n")[1], person())
    assert github.branches == ["7_template-2026-11-1", "main"]


def commands(comment: str) -> str:
    """The commands in a comment."""
    found = re.search("```\n(git switch .*?)```", comment, re.DOTALL)
    assert found, comment
    return found[1]


def person() -> dict[str, str]:
    """Variables for somebody who works on a machine of their own."""
    return {
        f"GIT_{role}_{what}": value
        for role in ("AUTHOR", "COMMITTER")
        for what, value in (("NAME", "Tester"), ("EMAIL", "t@example.org"))
    }


@pytest.mark.thorough
def test_changes_of_workflows_need_the_secret_or_a_person(github: GitHub) -> None:
    github.release(SECOND, ERRORS, WORKFLOW)
    github.run()
    assert (github.pulls, github.branches) == ([], ["main"])
    (comment,) = github.issues[0]["comments"]
    assert "because .github/workflows/ci.yml would change" in comment
    assert "TEMPLATE_UPDATE_TOKEN" in comment
    github.unchanged_by()
    script = commands(comment).replace("python3 noxfile.py -s setup lint test\n", "")
    github.shell(github.clone(), script, person())
    assert github.branches == ["7_template-2026-11-1", "main"]
    changed = git(github.remote, "diff", "--name-only", "main", "7_template-2026-11-1")
    assert ".github/workflows/ci.yml" in changed.splitlines()


@pytest.mark.thorough
def test_the_secret_brings_changes_of_workflows_and_starts_ci(github: GitHub) -> None:
    github.secret = "of a person"
    github.release(SECOND, ERRORS, WORKFLOW)
    github.run()
    (pull,) = github.pulls
    assert pull["author"] == "a person"
    assert "CI starts when you approve" not in pull["body"]
    github.secret = ""
    github.release(THIRD, ERRORS)
    github.run()
    assert "CI starts when you approve" not in github.pulls[-1]["body"], "it has workflows, too"


@pytest.mark.nightly
def test_a_secret_that_may_not_push_workflows_is_named_as_the_reason(github: GitHub) -> None:
    github.secret = "limited"
    github.release(SECOND, WORKFLOW)
    printed = github.run(exit_code=1)
    assert "refusing to allow a GitHub App to create or update workflow" in printed
    (comment,) = github.issues[0]["comments"]
    assert "refusing to allow" in comment
    assert "git push --set-upstream origin 7_template-2026-11-1\n" in commands(comment)
    github.unchanged_by()


@pytest.mark.nightly
def test_where_github_refuses_the_pull_request_the_issue_names_the_branch(github: GitHub) -> None:
    github.set(refuses_pulls=True)
    github.release(SECOND, ERRORS)
    assert "GitHub Actions is not permitted to create" in github.run(exit_code=1)
    (comment,) = github.issues[0]["comments"]
    assert "GitHub Actions is not permitted to create" in comment
    assert "The branch `7_template-2026-11-1` is pushed." in comment
    assert "7_template-2026-11-1" in github.branches
    github.unchanged_by()


@pytest.mark.thorough
def test_a_newer_version_replaces_an_update_that_nobody_works_on(github: GitHub) -> None:
    github.release(SECOND, ERRORS)
    github.run()
    github.release(THIRD, ERRORS)
    github.run()
    (issue, newer), (pull, newer_pull) = github.issues, github.pulls
    assert [issue["state"], pull["state"]] == ["CLOSED", "CLOSED"]
    assert issue["comments"] == pull["comments"] == [f"Replaced by #9, for {THIRD}."]
    assert newer["state"] == newer_pull["state"] == "OPEN"
    assert newer_pull["body"].startswith(f"Closes #9.\n\n# Template {FIRST} → {THIRD}\n")
    assert github.branches == ["9_template-2026-12-0", "main"]
    github.unchanged_by()


@pytest.mark.nightly
def test_a_newer_version_replaces_an_issue_without_a_pull_request(github: GitHub) -> None:
    github.release(SECOND, WORKFLOW)
    github.run()
    github.release(THIRD, ERRORS)
    github.secret = "of a person"
    github.run()
    assert [issue["state"] for issue in github.issues] == ["CLOSED", "OPEN"]
    assert [pull["headRefName"] for pull in github.pulls] == ["8_template-2026-12-0"]


@pytest.mark.parametrize("by_hand", [False, pytest.param(True, marks=pytest.mark.nightly)])
@pytest.mark.thorough
def test_an_update_that_somebody_works_on_is_left_alone(github: GitHub, by_hand: bool) -> None:
    github.release(SECOND, WORKFLOW if by_hand else ERRORS)
    github.run()
    github.push("mine.txt", "mine\n", branch="7_template-2026-11-1")
    github.release(THIRD, ERRORS)
    printed = github.unchanged_by()
    assert "Nothing to do until #7 is closed: somebody works on 7_template-2026-11-1" in printed
    github.set(issues=[{**github.issues[0], "state": "CLOSED"}], pulls=[])
    github.secret = "of a person"
    github.run()
    assert github.issues[-1]["title"] == f"Update the template to {THIRD}"
    assert "7_template-2026-11-1" in github.branches, "somebody's work is never deleted"


@pytest.mark.nightly
def test_a_closed_issue_skips_its_version_unless_somebody_starts_the_workflow(
    github: GitHub,
) -> None:
    github.release(SECOND, WORKFLOW)
    github.run()
    github.set(issues=[{**github.issues[0], "state": "CLOSED"}])
    assert "Nothing to do: there is issue #7" in github.unchanged_by()
    github.run(event="workflow_dispatch")
    assert [issue["state"] for issue in github.issues] == ["CLOSED", "OPEN"]
    github.set(issues=[{**each, "state": "CLOSED"} for each in github.issues])
    github.release(THIRD, ERRORS)
    github.secret = "of a person"
    github.run()
    assert github.pulls[-1]["headRefName"] == "9_template-2026-12-0"


@pytest.mark.parametrize("reason", ["cannot read the template", "not as Copier writes it"])
def test_an_update_that_cannot_be_made_fails_with_its_reason(github: GitHub, reason: str) -> None:
    if "Copier" in reason:
        github.push(".copier-answers.yml", "_commit: [\n")
    else:
        github.template.rename(github.folder / "elsewhere")
    assert reason in github.unchanged_by(exit_code=1)


@pytest.mark.nightly
def test_a_changelog_mentions_nobody_and_may_be_long(github: GitHub) -> None:
    news = "- Fixes #12, GH-3 and octo/repo#4, by @octocat; t@example.org is no mention.\n"
    github.release(SECOND, ERRORS, news=news + "- And so on, 日本語.\n" * 5000)
    github.run()
    for text in (github.issues[0]["body"], github.pulls[0]["body"]):
        assert not re.search(r"(?i)(?<!Closes )#\d|gh-\d|@octocat", text.split("To skip")[0])
        assert "t@example.org" in text
        assert "\n\n…" in text


@pytest.mark.nightly
def test_a_template_without_versions_is_followed_by_its_commits(github: GitHub) -> None:
    git(github.template, "tag", "--delete", FIRST)
    clone = github.clone()
    answers = (clone / ".copier-answers.yml").read_text()
    first = git(github.template, "rev-parse", "--short", "HEAD")
    github.push(".copier-answers.yml", answers.replace(f"_commit: {FIRST}", f"_commit: {first}"))
    github.release("v", ERRORS)
    git(github.template, "tag", "--delete", "v")
    github.run()
    newest = git(github.template, "rev-parse", "--short", "HEAD")
    assert github.pulls[0]["headRefName"] == f"7_template-{newest}"
    github.unchanged_by()


@pytest.mark.nightly
def test_it_works_with_nox_itself(github: GitHub) -> None:
    name, environment = bootstrapped(sys.executable)
    link = f"mkdir .nox && ln -s {environment} .nox/{name}; " if environment else ""
    words = f'[ -e .nox ] || {{ {link}true; }}; exec {sys.executable} "$@"'
    write_program(github.folder / "bin" / "python", f"#!/bin/sh\n{words}\n")
    github.release(SECOND, ERRORS)
    github.run()
    assert [pull["headRefName"] for pull in github.pulls] == ["7_template-2026-11-1"]
    github.unchanged_by()
    github.template.rename(github.folder / "elsewhere")
    assert "update: cannot read the template" in github.unchanged_by(exit_code=1)


def test_dependencies_of_the_script_are_pythons_own() -> None:
    script = ROOT / "templates" / "{{ github }}" / "hooks" / "update_pull_request.py"
    command = [sys.executable, "-I", "-S", "-c", "import runpy, sys; runpy.run_path(sys.argv[1])"]
    subprocess.run([*command, str(script)], check=True)
