"""`nox -s status`: reports how the repo is, and the command that mends what is wrong.

It changes nothing and works without the repo's environment. Each line is looked up on its own, so
that one thing that is broken does not hide the others.
"""

from __future__ import annotations

import argparse
import contextlib
import errno
import json
import os
import re
import shlex
import shutil
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from threading import Thread
from typing import Any

from .. import paths, process, store
from ..console import as_called, coloured, counted, in_time, in_units, printable, reader_may_leave
from ..container import engine
from ..errors import PipelineError
from ..store import metaflow_files
from ..version import UNKNOWN, git_environment, in_repo, released
from . import records
from .records import Record

SHOWN = 10
"""Runs that are shown by default."""

TOOL_LIMIT, NETWORK_LIMIT, S3_LIMIT, DISK_LIMIT = 20.0, 5.0, 10.0, 2.0
"""Seconds to wait for a tool, the template, S3 and the sizes of files."""

GREEN, CYAN, RED, YELLOW, BOLD = "32", "36", "31", "33", "1"


def main(arguments: list[str]) -> int:
    """Print the report; `--help` explains the exit codes."""
    parser = argparse.ArgumentParser(
        prog=as_called("nox -s status --"),
        description="Shows versions of the repo and its template, git hooks, environment, disk "
        "use, and the last runs, on this machine or on S3, with the command that retries what "
        "failed.",
        epilog="Exit codes: 0 whatever it reports, 2 for a mistake in the command, 130 if stopped.",
    )
    parser.add_argument(
        "--runs", type=int, default=SHOWN, metavar="N", help=f"how many runs; default: {SHOWN}"
    )
    options = parser.parse_args(arguments)
    with reader_may_leave():
        report(options.runs)
    return 0


def report(count: int) -> None:
    """Look up everything at once, and print it line by line."""
    answers = {
        "repo": looked_up(repo),
        "template": looked_up(template),
        "hooks": looked_up(hooks),
        "environment": looked_up(environment),
    }
    local = paths.metaflow_folder().resolve()
    datastore, mistake = str(local), ""
    try:
        datastore, local = records.datastore()
    except PipelineError as error:
        mistake = str(error).splitlines()[0]
    except ImportError:  # reading the settings needs packages
        pass
    on_s3 = store.is_on_s3(datastore)
    if mistake or on_s3:
        answers["datastore"] = lambda: mistake or datastore
    answers["disk"] = looked_up(partial(disk, local, on_s3), DISK_LIMIT, f": du -sh {local}")
    if paths.images().is_dir():
        answers["images"] = looked_up(images, DISK_LIMIT)
    if not mistake:
        limit, source = (S3_LIMIT, f" from {datastore}") if on_s3 else (TOOL_LIMIT, "")
        runs = partial(last_runs, datastore, local, count)
        answers["last runs"] = looked_up(runs, limit, source)
    for name, answer in answers.items():
        show(name, answer())


def looked_up(
    look: Callable[[], Any], limit: float = TOOL_LIMIT, way_out: str = ""
) -> Callable[[], Any]:
    """Start to look something up, and return a function that waits for the answer or the reason.

    `way_out` ends the reason if there is no answer within `limit` seconds.
    """
    answers: list[Any] = []
    deadline = time.monotonic() + limit
    thread = Thread(target=lambda: answers.append(answer_or_reason(look)), daemon=True)
    thread.start()

    def answer() -> Any:
        thread.join(max(0, deadline - time.monotonic()))
        return answers[0] if answers else f"unknown: no answer within {limit:g} s{way_out}"

    return answer


def answer_or_reason(look: Callable[[], Any]) -> Any:
    """The answer, or the reason why there is none."""
    try:
        return look()
    except FileNotFoundError as error:
        return f"unknown: there is no {error.filename}"
    except Exception as error:  # a report with a gap says more than none
        lines = str(error).splitlines() or [type(error).__name__]
        return f"unknown: {without_password(lines[0])}"


def show(name: str, text: str | Sequence[str]) -> None:
    """Print the name and the lines that belong to it."""
    for number, line in enumerate([text] if isinstance(text, str) else text):
        heading = coloured(f"{'' if number else name:<12}", BOLD)
        print(heading, printable(as_called(line), colours=True), flush=True)


def run(*words: str, limit: float = TOOL_LIMIT, **variables: str) -> tuple[bool, list[str]]:
    """Run a command, for so many seconds at most: whether it succeeded, and what it printed."""
    if not shutil.which(words[0]):
        raise FileNotFoundError(errno.ENOENT, "", words[0])
    environment = {n: value for n, value in git_environment().items() if n != "VIRTUAL_ENV"}
    lines: list[str] = []
    try:
        exit_code = process.run(
            words,
            cwd=paths.ROOT,
            env=environment | variables,
            timeout=limit,
            on_line=lines.append,
        )
    except process.TimeLimitError:
        return False, [f"no answer within {limit:g} s"]
    if exit_code and not lines:
        lines = [process.describe_exit(exit_code)]
    return exit_code == 0, lines


def reason(printed: Sequence[str]) -> str:
    """The line that says why a command failed."""
    causes = [line for line in printed if line.startswith(("fatal:", "error:"))]
    return without_password((causes or printed)[0].strip())


def without_password(text: str) -> str:
    """The text without what stands before the `@` of an address."""
    return re.sub(r"://[^/@\s]+@", "://", text)


def repo() -> str:
    """Version, branch and commit, and how many files differ from it."""
    version = released()
    project = f"{paths.PACKAGE.name} {'of unknown version' if version == UNKNOWN else version}"
    try:
        how = ("--porcelain=v2", "--branch", "--untracked-files=normal")
        succeeded, lines = run("git", "--no-optional-locks", "status", *how)
    except FileNotFoundError:
        return f"{project}; git is not on PATH"
    if not succeeded:
        return f"{project}; {reason(lines) if in_repo() else 'no git repo'}"
    headers = dict(line.split(" ")[1:3] for line in lines if line.startswith("# branch."))
    changed = sum(line.startswith(("1 ", "2 ", "u ", "? ")) for line in lines)
    branch = headers["branch.head"].replace("(detached)", "no branch")
    if headers["branch.oid"] == "(initial)":
        return f"{project}, {branch}, no commit yet"
    uncommitted = f", and {counted(changed, 'file')} not committed" if changed else ""
    if unmerged := [line.split(" ", 10)[10] for line in lines if line.startswith("u ")]:
        uncommitted += f", in conflict: {', '.join(unmerged)}"
    return f"{project}, {branch}, {headers['branch.oid'][:7]}{uncommitted}"


def template() -> str:
    """The version of the template that the repo has, and whether there is a newer one."""
    source, version = template_answers()
    if not source:
        return "none: the repo follows no template (there is no .copier-answers.yml)"
    current = f"{version or 'a version without a number'} of {without_password(source)}"
    succeeded, lines = run(
        *("git", "ls-remote", "--tags", "--refs", "--", address(source)),
        limit=NETWORK_LIMIT,
        # Nobody is there to type a password, not in a window either.
        GIT_TERMINAL_PROMPT="0",
        GIT_ASKPASS="false",
        SSH_ASKPASS="false",
        GCM_INTERACTIVE="never",
    )
    if not succeeded:
        return f"{current}; newest unknown: {reason(lines)}"
    tags = [line.rpartition("refs/tags/")[2] for line in lines]
    newest = max((tag for tag in tags if version_key(tag)[1]), key=version_key, default="")
    if not newest:
        return f"{current}; the template has no release"
    tag = re.sub(r"-\d+-g[0-9a-f]+$", "", version)  # `git describe` says how far it is from a tag
    if version_key(newest) <= version_key(tag):
        return f"{current}, the newest"
    return f"{current}; {newest} is available: nox -s update -- --preview"


def template_answers() -> tuple[str, str]:
    """Where the template is, and its version here; empty if the repo does not say."""
    try:
        text = (paths.ROOT / ".copier-answers.yml").read_text(encoding="utf-8")
    except FileNotFoundError:
        return "", ""
    # Without an environment there is no YAML parser; Copier writes each of these in one line.
    pattern = r"""^(_src_path|_commit): *['"]?(.+?)['"]? *$"""
    answers = dict(re.findall(pattern, text, re.MULTILINE))
    return answers.get("_src_path", ""), answers.get("_commit", "")


def address(source: str) -> str:
    """The template's address as git takes it, from Copier's way to write it."""
    host = {"gh:": "https://github.com/", "gl:": "https://gitlab.com/"}.get(source[:3])
    if host:
        return f"{host}{source[3:].removesuffix('.git')}.git"
    return os.path.expanduser(source.removeprefix("git+"))  # noqa: PTH111 - an address is no path


def version_key(tag: str) -> tuple[list[int], bool]:
    """A version's numbers, and whether it is a release; no numbers if the tag is no version."""
    match = re.fullmatch(r"v?(\d+(?:\.\d+)*)((?:a|b|rc|\.dev)\d+)?", tag)
    return ([int(part) for part in match[1].split(".")], not match[2]) if match else ([], False)


def hooks() -> str:
    """Which git hooks are installed, and which of the configured ones are not."""
    succeeded, lines = run("git", "rev-parse", "--git-path", "hooks")
    if not succeeded:
        return f"unknown: {reason(lines)}" if in_repo() else "none: no git repo"
    folder = paths.ROOT / lines[-1]
    files = folder.iterdir() if folder.is_dir() else ()
    installed = {file.name for file in files if not file.suffix and os.access(file, os.X_OK)}
    names = ", ".join(sorted(installed)) or "none"
    configured: set[str] = set()
    with contextlib.suppress(FileNotFoundError):
        text = (paths.ROOT / ".pre-commit-config.yaml").read_text(encoding="utf-8")
        match = re.search(r"^default_install_hook_types:\s*([^#:]+)", text, re.MULTILINE)
        configured = set(re.findall(r"[a-z]+(?:-[a-z]+)+", match[1] if match else "pre-commit"))
    if missing := ", ".join(sorted(configured - installed)):
        return f"{names}; to install {missing}: nox -s setup"
    return names


def environment() -> str:
    """Whether there is an environment, and whether it matches pyproject.toml and uv.lock."""
    folder = paths.ROOT / os.environ.get("UV_PROJECT_ENVIRONMENT", ".venv")
    if not (folder / "bin" / "python").exists():
        return "none yet: nox -s setup"
    uv = os.environ.get("UV") or "uv"
    succeeded, lines = run(
        *(uv, "sync", "--check", "--locked", "--offline", "--color=never", "--no-progress")
    )
    if succeeded:
        return "up to date with uv.lock"
    printed = "\n".join(lines)
    if re.search("needs to be updated|No solution found|Unable to find lockfile", printed):
        return "outdated, uv.lock does not match pyproject.toml: nox -s setup"
    if "is outdated" not in printed:
        return f"unknown: {reason(lines)}"
    # ` + numpy==2.4.6`, ` - numpy==2.4.5`
    names = sorted(set(re.findall(r"^ [-+~] ([\w.-]+)", printed, re.MULTILINE)))
    some = ", ".join(names[:3]) + (" and others" if names[3:] else "")
    return f"outdated, {some} would change: nox -s setup"


def disk(local: Path, on_s3: bool) -> list[str]:
    """The disk that each kind of thing uses on this machine."""
    overlays, runs = records.overlays(), counted(len(metaflow_files.runs(local)), "run")
    kinds = {
        "markers": [local / "luigi"],
        f"{runs}, {'metadata only' if on_s3 else 'with artifacts'}": metaflow_files.all_folders(
            local
        ),
        counted(len(overlays), "overlay"): overlays,
        "logs": [local / "logs"],
        "client cache": [records.with_real_parent(paths.client_cache())],
    }
    lines = [
        f"{kind:<26}{in_units(records.usage(*folders).bytes):>8}" for kind, folders in kinds.items()
    ]
    free = in_units(shutil.disk_usage(local if local.is_dir() else paths.ROOT).free)
    return [*lines, f"{'free on that disk':<26}{free:>8}", "to delete what is old: nox -s clean"]


def images() -> str:
    """How many Docker images this checkout has made, and the disk that they use."""
    made = engine.images()
    size = in_units(engine.size(made))
    return f"{counted(len(made), 'image')}, {size}; to delete old ones: nox -s clean"


def last_runs(datastore: str, local: Path, count: int) -> list[str]:
    """The newest runs, and for what failed the command that retries it.

    On S3 that takes one request for 1,000 markers, and one for each run that is shown.
    """
    if store.is_on_s3(datastore):
        os.environ.setdefault("AWS_MAX_ATTEMPTS", "1")  # a quick answer is better than a retry
    running = records.running_tasks(local)
    newest = records.records(datastore)
    succeeded = {record.task for record in newest if record.is_marker}
    shown = [
        record
        for record in newest
        if record.is_marker or record.task_id in running or record.task not in succeeded
    ]
    lines: list[str] = []
    for record in shown[: max(count, 0)]:
        is_running = record.task_id in running
        answer = answer_or_reason(partial(lines_of, record, datastore, local, is_running))
        lines += [answer] if isinstance(answer, str) else answer
    if len(shown) > count:
        lines.append(f"and {len(shown) - count} more: nox -s status -- --runs {len(shown)}")
    return lines or ["none yet"]


def lines_of(record: Record, datastore: str, local: Path, is_running: bool) -> list[str]:
    """A line on a task's last run, and those that belong to it."""
    contents = record.read()
    run_id, seconds, step, is_local = contents.get("run_id"), contents.get("seconds"), "", False
    cause, retry = contents.get("ended"), f"run it alone: {retry_command(contents)}"
    if not record.is_marker:
        run_id = (records.dicts_in(contents.get("runs")) or [{}])[-1].get("run_id")
        folder = local / contents["flow"] / str(run_id)
        is_local = bool(run_id) and folder.is_dir()
        if is_local:
            ended = record.written if cause else records.usage(folder).changed
            begun = contents.get("written") or record.written
            seconds = (time.time() if is_running else ended) - begun
            step = metaflow_files.step_of_end(folder)
    more: list[Any] = []
    if record.is_marker:
        state, colour = "succeeded", GREEN
    elif is_running:
        state, colour = "running", CYAN
    elif store.is_on_s3(datastore) and not is_local:
        state, colour = "unfinished", YELLOW
        more = [f"unless another machine is running it, {retry}"]
    elif cause == "stopped":  # attempts.STOPPED, which takes packages to import
        state, colour, more = "stopped", RED, ["by Ctrl-C or a signal", retry]
    elif cause == "":  # nobody could note why
        state, colour = "killed", RED
        more = ["by kill -9 or for lack of memory, or the machine went down", retry]
        if store.is_on_s3(datastore):
            more[0] = f"or stopped, {more[0]}"
    else:
        state, colour, more = "failed", RED, [*filter(None, [cause]), retry]
    state = coloured(f"{f'{state} at {step}' if step else state:<18}", colour)
    ago = in_time(time.time() - record.written)
    tag, _, file = record.address.removeprefix(f"{datastore}/luigi/").partition("/")
    task = " ".join([file.rpartition("/")[0], *named_values(contents)])
    run = f"{contents['flow']}/{run_id}" if run_id else "before there was a run"
    if isinstance(seconds, (int, float)) and seconds >= 0:
        run += f"  {seconds:.1f} s"
    first = f"{state} {ago:>6} ago  {printable(f'{task}  {tag}  {run}')}"
    return [first, *(f"  {printable(line)}" for line in more)]


def named_values(contents: dict[str, Any]) -> list[str]:
    """What distinguishes tasks of one flow: the task's name and values, and the flow's.

    Such as `Clean day=2026-11-20`; at most 60 letters of each value.
    """
    task, parameters = str(contents.get("task", "")), contents.get("parameters")
    texts = {
        name: value if isinstance(value, str) else json.dumps(value)
        for name, value in (parameters.items() if isinstance(parameters, dict) else ())
        # The tag shows whether it is in production.
        if name != "production" and f" {name}=" not in task
    }
    values = [f"{name}={' '.join(text.split()):.60}" for name, text in texts.items()]
    return [*filter(None, [" ".join(task.split())]), *values]


def retry_command(contents: dict[str, Any]) -> str:
    """The command, for a shell in the repo's root, that resumes these attempts."""
    words = contents.get("retry")
    if not (isinstance(words, list) and words):
        return "as it was started; no file below tasks/ has its task, or it was given secrets"
    env = contents.get("env") or "dev"
    variable = f"{paths.PACKAGE.name.upper()}__ENV"
    prefix = "" if env == environment_name(variable) else f"{variable}={shlex.quote(env)} "
    return f"{prefix}nox -s run -- {shlex.join(map(str, words))}"


def environment_name(variable: str) -> str:
    """The name of the environment in which a command would run."""
    with contextlib.suppress(ImportError, PipelineError):
        from ..settings import settings

        return settings().env
    return os.environ.get(variable) or "dev"
