"""Opens an issue and a pull request for a new version of the template.

The workflow `template-update` runs this on the main branch, and `nox -s update` makes the update.
Each version gets one issue, and one update is open at a time: a newer version replaces it, unless
somebody works on it. Where no pull request can be made, a comment says why and what to do.
"""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

LABEL = "template-update"
"""The label of the issues."""
LONGEST = 60_000
"""How many characters of a text are shown; GitHub takes 65,536."""


class CommandError(Exception):
    """A command that failed, and what it says."""


def main() -> int:
    """Open an issue and a pull request if there is a new version, and return the exit code."""
    try:
        with tempfile.TemporaryDirectory() as folder:
            file = Path(folder, "update.json")
            update("--preview", "--report", str(file))
            if file.exists():  # else the repo is up to date, and update has said so
                print(propose(json.loads(file.read_text(encoding="utf-8")), Path(folder)))
    except (CommandError, OSError) as error:
        print(f"update_pull_request: {error}", file=sys.stderr)
        return 1
    return 0


@dataclass
class Opened:
    """What is open on GitHub."""

    issues: list[dict[str, Any]]
    """Those of updates, with closed ones."""
    pulls: list[dict[str, Any]]
    branches: set[str]

    def heads(self, pattern: str) -> list[str]:
        """The branches of this name, also those of pull requests from forks."""
        names = self.branches | {pull["headRefName"] for pull in self.pulls}
        return sorted(name for name in names if re.fullmatch(pattern, name))

    @property
    def updates(self) -> dict[str, list[str]]:
        """The issues that are open, each with its branches."""
        numbers = [str(issue["number"]) for issue in self.issues if issue["state"] == "OPEN"]
        return {number: self.heads(f"{number}_template-.*") for number in numbers}


def propose(report: dict[str, Any], folder: Path) -> str:
    """Open an issue and, if that is possible, a pull request, and return what was done."""
    version = report["new"]
    title = f"Update the template to {version}"
    # As `nox -s update` names it.
    branch = "_template-" + re.sub(r"[^a-z0-9]+", "-", version.lower()).strip("-")
    opened = look()
    if reason := nothing_to_do(opened, title, branch):
        return reason
    base = run("git", "branch", "--show-current")
    run("gh", "label", "create", LABEL, "--force", "--description", "New versions of the template")
    text = (
        f"The template has a new version, {version}; this repo has {report['old']}.\n\n"
        f"{harmless(report['changelog'])}\n\n"
        "To skip this version, close this issue. A newer version replaces it."
    )
    issue = ("issue", "create", "--title", title, "--label", LABEL)
    number = run("gh", *issue, "--body-file", "-", given=text).rpartition("/")[2]
    branch = number + branch
    next_steps = by_hand(number, version, branch, base)
    try:
        replace(opened, f"Replaced by #{number}, for {version}.")
        if reason := obstacle(report):
            comment(number, f"{reason}\n\n{next_steps}")
            return f"Opened issue #{number}. {reason}"
        file = folder / "update.md"
        update("--issue", number, "--to", version, "--report", str(file))
        run("git", "push", "--quiet", "origin", branch)
        next_steps = (
            f"The branch `{branch}` is pushed. Open a pull request from it whose text has `Closes "
            f"#{number}`. If GitHub does not let workflows do that, see `docs/updating.md`."
        )
        text = f"Closes #{number}.\n\n{harmless(file.read_text(encoding='utf-8'))}"
        if not has_token():
            text += "\n\nCI starts when you approve its runs, or close and reopen the pull request."
        pull = ("pr", "create", "--base", base, "--head", branch, "--title", title)
        url = run("gh", *pull, "--body-file", "-", given=text)
    except CommandError as error:
        comment(number, f"There is no pull request:\n\n```\n{error}\n```\n\n{next_steps}")
        raise
    return f"Opened issue #{number} and {url}"


def look() -> Opened:
    """Ask GitHub what is open; gh lists no more than 30 without a limit."""
    listed = ("--limit", "1000", "--json")
    issues = ("issue", "list", "--label", LABEL, "--state", "all", *listed, "number,title,state")
    pulls = ("pr", "list", "--state", "open", *listed, "number,headRefName")
    branches = run("git", "ls-remote", "--heads", "origin").splitlines()
    return Opened(
        json.loads(run("gh", *issues)),
        json.loads(run("gh", *pulls)),
        {line.partition("refs/heads/")[2] for line in branches},
    )


def nothing_to_do(opened: Opened, title: str, branch: str) -> str:
    """Why there is nothing to open; empty if there is."""
    # Whoever closes an issue skips its version, until the workflow is started by hand.
    states = {"OPEN", "CLOSED"} if os.environ.get("GITHUB_EVENT_NAME") == "schedule" else {"OPEN"}
    for issue in opened.issues:
        if issue["title"] == title and issue["state"] in states:
            return f"Nothing to do: there is issue #{issue['number']}, {title}"
    for name in opened.heads(rf"[1-9][0-9]*{re.escape(branch)}"):
        return f"Nothing to do: there is the branch {name}"
    for number, names in opened.updates.items():
        for name in names:
            if name not in opened.branches or is_worked_on(name):
                return f"Nothing to do until #{number} is closed: somebody works on {name}"
    return ""


def is_worked_on(branch: str) -> bool:
    """True if somebody else has committed to the branch of an update."""
    committers = run("git", "log", "--format=%ce", f"HEAD..origin/{branch}").split()
    return not set(committers) <= {run("git", "config", "user.email")}


def replace(opened: Opened, reason: str) -> None:
    """Close the updates to older versions."""
    for number, names in opened.updates.items():
        for pull in opened.pulls:
            if pull["headRefName"] in names:
                run("gh", "pr", "close", str(pull["number"]), "--comment", reason)
        run("gh", "issue", "close", number, "--reason", "not planned", "--comment", reason)
        if names:
            run("git", "push", "--quiet", "origin", "--delete", *names)


def obstacle(report: dict[str, Any]) -> str:
    """Why no pull request can be made; empty if one can."""
    if conflicts := report["conflicts"]:
        lines = "\n".join(f"- `{name}`: {text}" for name, text in conflicts.items())
        return f"There is no pull request, because of conflicts:\n\n{lines}"
    changes = (report[name] for name in ("added", "changed", "merged", "removed", "moved"))
    names = {name for each in changes for name in each} | {*report["moved"].values()}
    workflows = sorted(name for name in names if name.startswith(".github/workflows/"))
    if workflows and not has_token():
        return (
            f"There is no pull request, because {', '.join(workflows)} would change, and GitHub "
            "lets no workflow push that without the secret TEMPLATE_UPDATE_TOKEN: see "
            "`docs/updating.md`."
        )
    return ""


def has_token() -> bool:
    """True if the token is that of the secret, which can push workflows and start CI."""
    return os.environ.get("HAS_TOKEN") == "true"


def by_hand(number: str, version: str, branch: str, base: str) -> str:
    """How to make the update on one's own machine."""
    return (
        "On your machine:\n\n```\n"
        f"git switch {shlex.quote(base)} && git pull\n"
        f"python3 noxfile.py -s update -- --issue {number} --to {shlex.quote(version)}\n"
        "# If there are conflicts: make one text of what is between <<<<<<< and >>>>>>>,\n"
        "# git add each file in conflict, and git commit.\n"
        "python3 noxfile.py -s setup lint test\n"
        f"git push --set-upstream origin {branch}\n"
        f"```\n\nThen open a pull request whose text has `Closes #{number}`."
    )


def harmless(text: str) -> str:
    """The text, in which names and numbers refer to nobody and nothing in this repo."""
    text = text[:LONGEST] + ("\n\n…" if text[LONGEST:] else "")
    return re.sub(r"(?i)(\bgh-(?=\d)|#(?=\d)|(?<![\w/])@(?=\w))", "\\1\u200b", text)


def comment(issue: str, text: str) -> None:
    """Add a comment to an issue."""
    run("gh", "issue", "comment", issue, "--body-file", "-", given=text)


def update(*arguments: str) -> None:
    """Run `nox -s update`, and show what it prints."""
    print(run("python", "noxfile.py", "-s", "update", "--", *arguments))


def run(*command: str, given: str | None = None) -> str:
    """What the command prints; CommandError if it fails."""
    done = subprocess.run(
        command, input=given, capture_output=True, encoding="utf-8", errors="replace", check=False
    )
    if done.returncode:
        raise CommandError(f"{' '.join(command[:4])} failed: {done.stderr.strip()}")
    return done.stdout.strip()


if __name__ == "__main__":
    sys.exit(main())
