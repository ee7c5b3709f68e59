"""`nox -s status`: what a newcomer asks of a repo, and the command for what is not as it should be.

It reports and changes nothing, needs no environment of the repo, and whatever cannot be told is
told as that: one thing that is broken must not hide the others.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import re
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from threading import Thread
from typing import Any, NamedTuple

from .. import paths
from ..console import coloured, counted, in_time, in_units, printable
from ..container import engine
from ..errors import PipelineError
from ..version import UNKNOWN, released
from . import inventory
from .inventory import Record

SHOWN = 10
"""Runs that are shown, if nobody asks for more."""

TOOL_LIMIT, NETWORK_LIMIT, S3_LIMIT, DISK_LIMIT = 20.0, 5.0, 10.0, 2.0
"""Seconds after which what is asked is left alone: a tool, the template, S3, the sizes of files."""

_STARTED: list[subprocess.Popen[str]] = []


class Done(NamedTuple):
    """A command that has ended: its exit code, and what it printed."""

    code: int
    out: str
    err: str

    @property
    def why(self) -> str:
        """The line that says why it failed."""
        lines = [line.strip() for line in self.err.splitlines() if line.strip()]
        telling = [line for line in lines if line.startswith(("fatal:", "error:"))]
        return without_password((telling or lines or [f"exit code {self.code}"])[0])


def run(*words: str, limit: float = TOOL_LIMIT, **variables: str) -> Done:
    """Run a command that can ask nobody for anything, for so many seconds at most."""
    environment = {name: value for name, value in os.environ.items() if name != "VIRTUAL_ENV"}
    process = subprocess.Popen(
        words,
        cwd=paths.ROOT,
        env=environment | variables,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        errors="replace",
        start_new_session=True,  # without a terminal, and ended with all that it starts
    )
    _STARTED.append(process)
    try:
        out, err = process.communicate(timeout=limit)
    except subprocess.TimeoutExpired:
        return Done(-1, "", f"no answer within {limit:g} s")
    return Done(process.returncode, out, err)


def main(arguments: list[str]) -> int:
    """Print the report; the exit code is as `--help` says."""
    parser = argparse.ArgumentParser(
        prog="nox -s status --",
        description="Says what is what: versions of the repo and of its template, git hooks, "
        "environment, the disk that runs take, and the last runs, here or on S3, with the command "
        "that retries what failed.",
        epilog="Exit codes: 0 whatever it says, 2 for a mistake in the command, 130 when stopped.",
    )
    parser.add_argument(
        "--runs", type=int, default=SHOWN, metavar="N", help=f"how many runs; default: {SHOWN}"
    )
    parser.add_argument("--nox", default="nox", help=argparse.SUPPRESS)  # as the user calls it
    options = parser.parse_args(arguments)
    try:
        report(options.runs, options.nox)
        sys.stdout.flush()
    except BrokenPipeError:  # `| head` has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    finally:
        for process in _STARTED:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                if process.poll() is None:
                    os.killpg(process.pid, signal.SIGKILL)
    return 0


def report(count: int, nox: str) -> None:
    """Ask everything at once, and print line by line."""
    setup = f"{nox} -s setup"
    asked = {
        "template": begun(template),
        "environment": begun(partial(environment, setup)),
        "repo": begun(repo),
        "hooks": begun(partial(hooks, setup)),
    }
    place, here, wrong = (
        str(paths.metaflow_folder().resolve()),
        paths.metaflow_folder().resolve(),
        "",
    )
    try:
        place, here = inventory.datastore()
    except PipelineError as error:
        wrong = str(error).splitlines()[0]
    except ImportError:  # the settings need packages; without them this is where it is
        pass
    on_s3 = place != str(here)
    asked["disk"] = begun(partial(disk, here, on_s3, nox), DISK_LIMIT, f": du -sh {here}")
    if paths.images().is_dir():
        asked["images"] = begun(partial(images, nox), DISK_LIMIT)
    limit, way_out = (S3_LIMIT, f" from {place}") if on_s3 else (TOOL_LIMIT, "")
    asked["last runs"] = begun(partial(last_runs, place, here, count, nox), limit, way_out)
    for name in ("repo", "template", "hooks", "environment"):
        show(name, asked[name]())
    if wrong or on_s3:
        show("datastore", wrong or place)
    show("disk", asked["disk"]())
    if "images" in asked:
        show("images", asked["images"]())
    if not wrong:
        show("last runs", asked["last runs"]())


def begun(
    ask: Callable[[], Any], limit: float = TOOL_LIMIT, way_out: str = ""
) -> Callable[[], Any]:
    """Begin to ask, and return what waits for the answer, or for the reason why there is none."""
    found: list[Any] = []
    until = time.monotonic() + limit
    thread = Thread(target=lambda: found.append(told(ask)), daemon=True)
    thread.start()

    def answer() -> Any:
        thread.join(max(0, until - time.monotonic()))
        return found[0] if found else f"unknown: no answer within {limit:g} s{way_out}"

    return answer


def told(ask: Callable[[], Any]) -> Any:
    """The answer, or the reason why there is none."""
    try:
        return ask()
    except FileNotFoundError as error:
        return f"unknown: {error.filename} is not there"
    except Exception as error:  # a report that breaks off says less than one with a gap
        lines = str(error).splitlines() or [type(error).__name__]
        return f"unknown: {without_password(lines[0])}"


def show(name: str, text: str | Sequence[str]) -> None:
    """Print the line behind its name, and those that follow below it."""
    for at, line in enumerate([text] if isinstance(text, str) else text):
        print(coloured(f"{'' if at else name:<12}", "1"), printable(line), flush=True)


def without_password(text: str) -> str:
    """The text without what stands before the `@` of an address."""
    return re.sub(r"://[^/@\s]+@", "://", text)


def git(*arguments: str) -> Done:
    """Ask git about the repo."""
    return run("git", *arguments, GIT_OPTIONAL_LOCKS="0")


def repo() -> str:
    """Version, branch and commit, and whether files differ from it."""
    version = released()
    project = f"{paths.PACKAGE.name} {'of unknown version' if version == UNKNOWN else version}"
    try:
        done = git("status", "--porcelain=v2", "--branch")
    except FileNotFoundError:
        return f"{project}; git is not on PATH"
    if done.code:
        nowhere = "not a git repository" in done.err
        return f"{project}; " + ("no git repo" if nowhere else f"git says {done.why}")
    lines = done.out.splitlines()
    told = dict(line.split(" ")[1:3] for line in lines if line.startswith("# branch."))
    branch = told["branch.head"].replace("(detached)", "no branch")
    if told["branch.oid"] == "(initial)":
        return f"{project}, {branch}, no commit yet"
    changed = sum(not line.startswith("#") for line in lines)
    return f"{project}, {branch}, {told['branch.oid'][:7]}" + (
        f", and {counted(changed, 'file')} not committed" if changed else ""
    )


def template() -> str:
    """The version of the template that is here, and whether there is a newer one."""
    source, have = answers()
    if not source:
        return "none: the repo has left it, or never had one (no .copier-answers.yml)"
    here = f"{have or 'a version without a number'} of {without_password(source)}"
    done = run(
        *("git", "ls-remote", "--tags", "--refs", "--", address(source)),
        limit=NETWORK_LIMIT,
        # Nobody is there to be asked for a password, not in a window either.
        GIT_TERMINAL_PROMPT="0",
        GIT_ASKPASS="false",
        SSH_ASKPASS="false",
        GCM_INTERACTIVE="never",
    )
    if done.code:
        return f"{here}; newest unknown: {done.why}"
    tags = [line.rpartition("refs/tags/")[2] for line in done.out.splitlines()]
    newest = max((tag for tag in tags if order(tag)[1]), key=order, default="")
    if not newest:
        return f"{here}; it has no release"
    if order(newest) <= order(re.sub(r"-\d+-g[0-9a-f]+$", "", have)):  # as git describes it
        return f"{here}, the newest"
    return f"{here}; {newest} is there: uvx copier update --skip-answered"


def answers() -> tuple[str, str]:
    """Where the template is, and its version here; empty where the repo does not say."""
    try:
        text = (paths.ROOT / ".copier-answers.yml").read_text(encoding="utf-8")
    except FileNotFoundError:
        return "", ""
    # Without an environment there is nothing that reads YAML; Copier writes these in one line.
    found = dict(re.findall(r"""^(_src_path|_commit): *['"]?(.+?)['"]? *$""", text, re.MULTILINE))
    return found.get("_src_path", ""), found.get("_commit", "")


def address(source: str) -> str:
    """The template's address as git takes it, from Copier's way to write it."""
    host = {"gh:": "https://github.com/", "gl:": "https://gitlab.com/"}.get(source[:3])
    if host:
        return f"{host}{source[3:].removesuffix('.git')}.git"
    return os.path.expanduser(source.removeprefix("git+"))  # noqa: PTH111 - an address is no path


def order(tag: str) -> tuple[list[int], bool]:
    """What sorts a version among others: its numbers, and is it a release, not one before it?

    What is no version has no numbers.
    """
    found = re.fullmatch(r"v?(\d+(?:\.\d+)*)((?:a|b|rc|\.dev)\d+)?", tag)
    return ([int(part) for part in found[1].split(".")], not found[2]) if found else ([], False)


def hooks(setup: str) -> str:
    """Which git hooks are installed, and what installs those that are configured."""
    asked = git("rev-parse", "--git-path", "hooks")
    if asked.code:
        return "none: no git repo"
    folder = paths.ROOT / asked.out.strip()
    files = folder.iterdir() if folder.is_dir() else ()
    installed = {file.name for file in files if not file.suffix and os.access(file, os.X_OK)}
    there = ", ".join(sorted(installed)) or "none"
    configured = set()
    with contextlib.suppress(FileNotFoundError):
        text = (paths.ROOT / ".pre-commit-config.yaml").read_text(encoding="utf-8")
        found = re.search(r"^default_install_hook_types:\s*([^#:]+)", text, re.MULTILINE)
        configured = set(re.findall(r"[a-z]+(?:-[a-z]+)+", found[1] if found else "pre-commit"))
    if missing := ", ".join(sorted(configured - installed)):
        return f"{there}; {missing} to be installed: {setup}"
    return there


def environment(setup: str) -> str:
    """Is there an environment, and is it what lock file and pyproject.toml say?"""
    folder = paths.ROOT / os.environ.get("UV_PROJECT_ENVIRONMENT", ".venv")
    if not (folder / "bin" / "python").exists():
        return f"none yet: {setup}"
    uv = os.environ.get("UV") or "uv"
    sync = run(uv, "sync", "--check", "--locked", "--offline", "--color=never", "--no-progress")
    if sync.code == 0:
        return "fresh: it is what uv.lock says"
    if re.search("needs to be updated|No solution found|Unable to find lockfile", sync.err):
        return f"outdated, uv.lock does not fit pyproject.toml: {setup}"
    if "is outdated" not in sync.err:
        return f"unknown: {sync.why}"
    # ` + numpy==2.4.6`, ` - numpy==2.4.5`
    names = sorted(set(re.findall(r"^ [-+~] ([\w.-]+)", sync.err, re.MULTILINE)))
    some = ", ".join(names[:3]) + (" and others" if names[3:] else "")
    return f"outdated, {some} would change: {setup}"


def disk(here: Path, on_s3: bool, nox: str) -> list[str]:
    """What each kind of thing takes on this machine."""
    overlays, runs = inventory.overlays(), counted(len(inventory.runs(here)), "run")
    flows = [*inventory.flows(here), here / "mf.cards", here / "data"]
    kinds = {
        "markers": [here / "luigi"],
        f"{runs}, metadata only" if on_s3 else f"{runs}, with artifacts": flows,
        counted(len(overlays), "overlay"): overlays,
        "client cache": [paths.client_cache().resolve()],
    }
    sizes = {what: in_units(inventory.usage(*of).bytes) for what, of in kinds.items()}
    lines = [f"{what:<26}{size:>8}" for what, size in sizes.items()]
    return [*lines, f"what is old goes with: {nox} -s clean"]


def images(nox: str) -> str:
    """How many Docker images this checkout has made, and what they take in the engine."""
    made = engine.images()
    taken = in_units(sum(image.bytes for image in made))
    return f"{counted(len(made), 'image')}, {taken}; old ones go with: {nox} -s clean"


def last_runs(place: str, here: Path, count: int, nox: str) -> list[str]:
    """The newest runs, and for what failed the command that retries it.

    On S3 that is one request for each 1,000 markers, and one for each run that is shown.
    """
    if place != str(here):
        os.environ.setdefault("AWS_MAX_ATTEMPTS", "1")  # for who waits, an answer is better
    at_work = inventory.tasks_at_work(here)
    records = inventory.records(place)
    succeeded = {record.task for record in records if record.is_marker}
    shown = [
        record
        for record in records
        if record.is_marker or record.task_id in at_work or record.task not in succeeded
    ]
    lines: list[str] = []
    for record in shown[: max(count, 0)]:
        is_at_work = record.task_id in at_work
        its = told(partial(lines_of, record, place, here, is_at_work, nox))
        lines += [its] if isinstance(its, str) else its
    if len(shown) > count:
        lines.append(f"and {len(shown) - count} more: {nox} -s status -- --runs {len(shown)}")
    return lines or ["none yet"]


def lines_of(record: Record, place: str, here: Path, is_at_work: bool, nox: str) -> list[str]:
    """What became of one task's last run."""
    said = record.read()
    tag, _, flow_path = record.place.removeprefix(f"{place}/luigi/").partition("/")
    flow_path = flow_path.rpartition("/")[0]
    run_id, took = said.get("run_id"), said.get("seconds")
    state, colour, hint, why = "succeeded", "32", "", ""
    if not record.is_marker:
        last = (inventory.dicts(said.get("runs")) or [{}])[-1]
        run_id, took = last.get("run_id"), None
        folder = here / said["flow"] / str(run_id)
        if folder.is_dir() and run_id:
            ended = time.time() if is_at_work else inventory.usage(folder).changed
            took = ended - record.written
        why = str(said.get("ended") or "")
        if is_at_work:
            state, colour = "running", "36"
        elif took is not None or place == str(here):
            state = "stopped" if why == "stopped" else "failed"
            colour, hint = "31", "retry: " + retry_of(said, nox)
        else:  # nobody here knows
            state, colour = "unfinished", "33"
            hint = "unless another machine is at it, retry: " + retry_of(said, nox)
        step = inventory.step_at(folder) if took is not None else ""
        state += f" at {step}" if step else ""
    seconds = f"  {took:.1f} s" if isinstance(took, (int, float)) and took >= 0 else ""
    ago = in_time(time.time() - record.written)
    its_run = f"{said['flow']}/{run_id}{seconds}" if run_id else "before there was a run"
    its_task = " ".join([flow_path, *named_values(said.get("parameters"))])
    line = f"{coloured(f'{state:<18}', colour)} {ago:>6} ago  {its_task}  {tag}  {its_run}"
    told_why = [f"  {why}"] if why and state.startswith("failed") else []
    return [line, *told_why, *([f"  {hint}"] if hint else [])]


def named_values(parameters: Any) -> list[str]:
    """What tells one task of a flow from another: `day=2026-11-20`; at most 60 letters of each."""
    if not isinstance(parameters, dict):
        return []
    texts = {
        name: value if isinstance(value, str) else json.dumps(value)
        for name, value in parameters.items()
        if name != "production"  # the tag says so
    }
    return [f"{name}={' '.join(text.split()):.60}" for name, text in texts.items()]


def retry_of(said: dict[str, Any], nox: str) -> str:
    """The command, for a shell in the repo's root, that resumes these attempts."""
    words = said.get("retry")
    if not (isinstance(words, list) and words):
        return "as it was started; no file below tasks/ has its task, or it was given secrets"
    env = said.get("env") or "dev"
    prefix = f"{paths.PACKAGE.name.upper()}__ENV"
    named = "" if env == environment_name(prefix) else f"{prefix}={shlex.quote(env)} "
    return f"{named}{nox} -s run -- {shlex.join(map(str, words))}"


def environment_name(variable: str) -> str:
    """The name of the environment that a command here would run in."""
    with contextlib.suppress(ImportError, PipelineError):
        from ..settings import settings

        return settings().env
    return os.environ.get(variable) or "dev"
