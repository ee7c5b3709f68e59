"""`nox -s status`: what a newcomer asks of a repo, and the command for what is not as it should be.

It reports and changes nothing, needs no environment of the repo, and whatever cannot be told is
told as that: one thing that is broken must not hide the others.
"""

from __future__ import annotations

import argparse
import contextlib
import datetime
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from . import inventory, paths
from .errors import PipelineError
from .inventory import Record, counted, in_time, in_units

SHOWN = 10
"""Runs that are shown, if nobody asks for more."""

NETWORK_LIMIT = 5.0
"""Seconds after which a template that does not answer is left alone."""

TOOL_LIMIT = 20.0
"""Seconds after which a tool of this machine is left alone."""

DISK_LIMIT = 2.0
"""Seconds for adding up what files take; `--exact` takes as long as it takes."""

HOOKS_CONFIGURATIONS = (".pre-commit-config.yaml", ".pre-commit-config.yml", "prek.toml")

_RELEASE = re.compile(
    r"v?(?:(?P<epoch>\d+)!)?(?P<release>\d+(?:\.\d+)*)"
    r"(?P<pre>[-_.]?(?:a|b|c|rc|alpha|beta|pre|preview)[-_.]?\d*)?"
    r"(?:[-_.]?post[-_.]?(?P<post>\d+))?(?P<dev>[-_.]?dev[-_.]?\d*)?"
)
_DESCRIBED = re.compile(r"-\d+-g[0-9a-f]+$")


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


class Command:
    """A command that runs while others are asked; it can ask nobody for anything."""

    def __init__(self, *words: str, limit: float, **variables: str) -> None:
        environment = {name: value for name, value in os.environ.items() if name != "VIRTUAL_ENV"}
        self._limit = limit
        self._began = time.monotonic()
        self._process = subprocess.Popen(
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

    def done(self) -> Done:
        """Wait for its end; raises TimeoutError where that takes longer than the limit."""
        try:
            left = max(0.1, self._limit - (time.monotonic() - self._began))
            out, err = self._process.communicate(timeout=left)
        except subprocess.TimeoutExpired:
            raise TimeoutError(f"no answer within {self._limit:.0f} s") from None
        finally:
            self.end()
        return Done(self._process.returncode, out, err)

    def end(self) -> None:
        """End it, and whatever it has started."""
        with contextlib.suppress(ProcessLookupError, PermissionError):
            if self._process.poll() is None:
                os.killpg(self._process.pid, signal.SIGKILL)


def main(arguments: list[str]) -> int:
    """Print the report; the exit code is 0 whatever it says."""
    options = parsed(arguments)
    try:
        report(options)
        sys.stdout.flush()
    except BrokenPipeError:  # `| head` has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except KeyboardInterrupt:
        return 130
    return 0


def parsed(arguments: list[str]) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog="nox -s status --",
        description="Says what is what: versions of the repo and of its template, git hooks, "
        "environment, the disk that runs take, and the last runs, with the command that retries "
        "what failed.",
    )
    parser.add_argument(
        "--runs", type=int, default=SHOWN, metavar="N", help=f"how many runs; default: {SHOWN}"
    )
    parser.add_argument(
        "--exact",
        action="store_true",
        help=f"add up all files; else what takes longer than {DISK_LIMIT:.0f} s is cut short",
    )
    parser.add_argument("--nox", default="nox", help=argparse.SUPPRESS)  # as the user calls it
    return parser.parse_args(arguments)


def report(options: argparse.Namespace) -> None:
    """Ask everything at once that takes its time, and print line by line."""
    setup = f"{options.nox} -s setup"
    template = told(Template)
    environment = told(lambda: Environment(setup))
    show("repo", told(repo))
    show("template", told(template.line) if isinstance(template, Template) else template)
    show("hooks", told(hooks))
    told_of = environment.line if isinstance(environment, Environment) else lambda: environment
    show("environment", told(told_of))
    root: Path | None = inventory.local()
    try:
        root = inventory.datastore()
    except PipelineError as error:
        show("datastore", str(error).splitlines()[0])
        root = None
    except ImportError:  # the settings need packages; without them this is where it is
        pass
    until = float("inf") if options.exact else time.monotonic() + DISK_LIMIT
    show("disk", told(lambda: disk(root, until, options.nox)))
    if root:
        show("last runs", told(lambda: last_runs(root, options.runs, options.nox)))


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
    for at, line in enumerate(listed(text)):
        encoding = sys.stdout.encoding or "utf-8"
        printable = line.encode(encoding, "replace").decode(encoding)
        print(coloured(f"{'' if at else name:<12}", "1"), printable, flush=True)


def listed(text: str | Sequence[str]) -> list[str]:
    """The lines, or the one line there is."""
    return [text] if isinstance(text, str) else list(text)


def coloured(text: str, code: str) -> str:
    """The text in a colour, or bold, where that can be seen."""
    if sys.stdout.isatty() and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb":
        return f"\033[{code}m{text}\033[0m"
    return text


def without_password(text: str) -> str:
    """The text without what stands before the `@` of an address."""
    return re.sub(r"://[^/@\s]+@", "://", text)


def git(*arguments: str) -> Done:
    """Ask git about the repo."""
    return Command("git", *arguments, limit=TOOL_LIMIT, GIT_OPTIONAL_LOCKS="0").done()


def repo() -> str:
    """Version, branch and commit, and whether files differ from it."""
    project = f"{paths.PACKAGE.name} {version()}"
    try:
        inside = git("rev-parse", "--is-inside-work-tree")
    except FileNotFoundError:
        return f"{project}; git is not on PATH"
    if inside.code:
        nowhere = "not a git repository" in inside.err
        return f"{project}; " + ("no git repo" if nowhere else f"git says {inside.why}")
    branch = git("branch", "--show-current").out.strip() or "no branch"
    commit = git("rev-parse", "--short", "--verify", "--quiet", "HEAD").out.strip()
    if not commit:
        return f"{project}, {branch}, no commit yet"
    changed = len(git("status", "--porcelain").out.splitlines())
    return f"{project}, {branch}, {commit}" + (
        f", and {counted(changed, 'file')} not committed" if changed else ""
    )


def version() -> str:
    """The version that is installed, or that of pyproject.toml where nothing is."""
    from .. import __version__

    if not __version__.endswith("+unknown"):
        return __version__
    text = (paths.ROOT / "pyproject.toml").read_text(encoding="utf-8")
    found = re.search(r'^version\s*=\s*"([^"]+)"', text, re.MULTILINE)
    return found[1] if found else "of unknown version"


class Template:
    """The template that the repo is from, asked for its newest version from here on."""

    def __init__(self) -> None:
        self._source, self._have = answers()
        self._asked: Command | None = None
        if self._source:
            self._asked = Command(
                *("git", "ls-remote", "--tags", "--refs", "--", address(self._source)),
                limit=NETWORK_LIMIT,
                # Nobody is there to be asked for a password, not in a window either.
                GIT_TERMINAL_PROMPT="0",
                GIT_ASKPASS="false",
                SSH_ASKPASS="false",
                GCM_INTERACTIVE="never",
            )

    def line(self) -> str:
        """The version that is here, and whether there is a newer one."""
        if not self._asked:
            return "none: the repo has left it, or never had one (no .copier-answers.yml)"
        have = self._have or "a version without a number"
        here = f"{have} of {without_password(self._source)}"
        try:
            done = self._asked.done()
        except TimeoutError as error:
            return f"{here}; newest unknown: {error}"
        if done.code:
            return f"{here}; newest unknown: {done.why}"
        tags = [line.rpartition("refs/tags/")[2] for line in done.out.splitlines()]
        newest = max(filter(is_final, tags), key=order, default="")
        if not newest:
            return f"{here}; it has no release"
        held = _DESCRIBED.sub("", self._have)
        if _RELEASE.fullmatch(held) and order(newest) <= order(held):
            return f"{here}, the newest"
        return f"{here}; {newest} is there: uvx copier update --skip-answered"


def answers() -> tuple[str, str]:
    """Where the template is, and its version here; empty where the repo does not say."""
    try:
        text = (paths.ROOT / ".copier-answers.yml").read_text(encoding="utf-8")
    except FileNotFoundError:
        return "", ""
    # Without an environment there is nothing that reads YAML; Copier writes these in one line.
    found = dict(re.findall(r"^(_src_path|_commit):[ \t]*(.+?)[ \t]*$", text, re.MULTILINE))
    source, commit = (
        value[1:-1].replace("''", "'") if value[:1] == value[-1:] == "'" else value.strip('"')
        for value in (found.get("_src_path", ""), found.get("_commit", ""))
    )
    return source, commit


def address(source: str) -> str:
    """The template's address as git takes it, from Copier's way to write it."""
    source = source.removeprefix("git+")
    for short, host in (("gh:", "https://github.com/"), ("gl:", "https://gitlab.com/")):
        if source.startswith(short):
            return f"{host}{source.removeprefix(short).removesuffix('.git')}.git"
    return os.path.expanduser(source)  # noqa: PTH111 - an address is no path


def is_final(tag: str) -> bool:
    """Is the tag a version by PEP 440, and neither a pre-release nor one for developers?"""
    found = _RELEASE.fullmatch(tag)
    return bool(found and not found["pre"] and not found["dev"])


def order(tag: str) -> tuple[int, tuple[int, ...], int, int]:
    """What sorts a version among others; one before a release comes before it."""
    found = _RELEASE.fullmatch(tag)
    assert found
    release = [int(part) for part in found["release"].split(".")]
    while release and not release[-1]:
        release.pop()
    stage = 0 if not (found["pre"] or found["dev"]) else -1
    return int(found["epoch"] or 0), tuple(release), stage, int(found["post"] or -1)


def hooks() -> str:
    """Which git hooks are installed, and what installs those that are configured."""
    try:
        asked = git("rev-parse", "--git-path", "hooks")
    except FileNotFoundError:
        return "none: git is not on PATH"
    if asked.code:
        return "none: no git repo"
    folder = paths.ROOT / asked.out.strip()
    installed = {
        file.name
        for file in (folder.iterdir() if folder.is_dir() else ())
        if not file.suffix and file.is_file() and os.access(file, os.X_OK)
    }
    missing = configured_hooks() - installed
    there = ", ".join(sorted(installed)) or "none"
    if missing:
        return f"{there}; {', '.join(sorted(missing))} to be installed: uvx prek install"
    return there


def configured_hooks() -> set[str]:
    """The hooks that the repo's configuration wants installed; none without a configuration."""
    for name in HOOKS_CONFIGURATIONS:
        with contextlib.suppress(FileNotFoundError):
            text = (paths.ROOT / name).read_text(encoding="utf-8")
            named = re.search(r"^default_install_hook_types\s*[:=]\s*([^#:=]+)", text, re.MULTILINE)
            words = re.findall(r"[a-z]+(?:-[a-z]+)+", named[1]) if named else []
            return set(words) or {"pre-commit"}
    return set()


class Environment:
    """The repo's environment, compared with lock file and pyproject.toml from here on."""

    def __init__(self, setup: str) -> None:
        self._setup = setup
        self._folder = paths.ROOT / os.environ.get("UV_PROJECT_ENVIRONMENT", ".venv")
        self._uv = shutil.which(os.environ.get("UV") or "uv")
        if not self._uv:
            return
        quiet = ("--offline", "--color=never", "--no-progress")
        self._lock = Command(self._uv, "lock", "--check", *quiet, limit=TOOL_LIMIT)
        self._sync = Command(self._uv, "sync", "--check", "--locked", *quiet, limit=TOOL_LIMIT)

    def line(self) -> str:
        """Is there one, and is it what the files say?"""
        there = (self._folder / "bin" / "python").exists()
        if not self._uv:
            return f"{'there' if there else 'none'}; uv is not on PATH, and cannot be asked"
        lock, sync = self._lock.done(), self._sync.done()
        if "Failed to parse" in lock.err:
            return "unknown: pyproject.toml or uv.lock is no TOML, conflict markers perhaps" + (
                " (" + ", ".join(re.findall(r"line \d+", lock.err)[:1]) + ")"
            )
        if not there:
            return f"none yet: {self._setup}"
        if not (paths.ROOT / "uv.lock").is_file():
            return f"without a lock file: {self._setup}"
        if lock.code:
            return f"outdated, uv.lock does not fit pyproject.toml: {self._setup}"
        if sync.code == 0:
            return "fresh: it is what uv.lock says"
        if "is outdated" not in sync.err:
            return f"unknown: {sync.why}"
        # ` + numpy==2.4.6`, ` - numpy==2.4.5`
        names = sorted(set(re.findall(r"^ [-+~] ([\w.-]+)", sync.err, re.MULTILINE)))
        some = ", ".join(names[:3]) + (" and others" if names[3:] else "")
        return f"outdated, {some} would change: {self._setup}"


def disk(root: Path | None, until: float, nox: str) -> list[str]:
    """What each kind of thing takes."""
    overlays, cache = inventory.overlays(), inventory.local() / "client-cache"
    lines = []
    if root:
        markers = [record.file for record in inventory.records(root)]
        runs = inventory.runs(root)
        stored = [*inventory.flows(root), root / "mf.cards", root / "data"]
        succeeded = sum(file.suffix == ".json" for file in markers)
        lines.append(sized(counted(succeeded, "marker"), markers, until))
        lines.append(sized(f"{counted(len(runs), 'run')}, with artifacts", stored, until))
    lines.append(sized(counted(len(overlays), "overlay"), overlays, until))
    lines.append(sized("client cache", [cache], until))
    return [*lines, f"what is old goes with: {nox} -s clean"]


def sized(what: str, of: list[Path], until: float) -> str:
    """A line for what these files and folders take."""
    try:
        size = in_units(inventory.usage(*of, until=until).bytes)
    except TimeoutError:
        size = "many (-- --exact adds up)"
    return f"{what:<26}{size:>8}"


def last_runs(root: Path, count: int, nox: str) -> list[str]:
    """The newest runs, and for what failed the command that retries it."""
    at_work = inventory.tasks_at_work(root)
    found = inventory.records(root)
    succeeded = {record.file.with_suffix("") for record in found if record.is_marker}
    shown = [
        record
        for record in found
        if record.is_marker
        or record.task_id in at_work
        or record.file.with_suffix("") not in succeeded
    ]
    if not shown:
        return ["none yet"]
    lines: list[str] = []
    for record in shown[: max(count, 0)]:
        of_it = partial(lines_of, record, root, record.task_id in at_work, nox)
        lines += listed(told(of_it))
    if len(shown) > count:
        lines.append(f"and {len(shown) - count} more: {nox} -s status -- --runs {len(shown)}")
    return lines


def lines_of(record: Record, root: Path, is_at_work: bool, nox: str) -> list[str]:
    """What became of one task's last run."""
    try:
        said = record.read()
    except PipelineError as error:
        return [f"{coloured('unreadable', '33')} {str(error).splitlines()[0]}"]
    tag, *path = record.file.parent.relative_to(root / "luigi").parts
    flow_path = "/".join(path)
    if record.is_marker:
        when = seconds_of(said.get("finished"), record.written)
        took, state, retry = said.get("seconds"), "succeeded", ""
        run_id = said.get("run_id")
    else:
        last = (inventory.dicts(said.get("runs")) or [{}])[-1]
        run_id, when = last.get("run_id"), seconds_of(last.get("started"), record.written)
        folder = root / said["flow"] / run_id if run_id else None
        ended = inventory.usage(folder).changed if folder and not is_at_work else time.time()
        took = ended - when if folder else None
        state = "running" if is_at_work else "failed"
        step = inventory.step_at(folder) if folder else ""
        state += f" at {step}" if step else ""
        retry = "" if is_at_work else retry_of(said, nox)
    code = {"succeeded": "32", "running": "36"}.get(state.split()[0], "31")
    seconds = f"{took:.1f} s" if isinstance(took, (int, float)) and took >= 0 else "gone"
    run = f"{said['flow']}/{run_id}  {seconds}" if run_id else "before there was a run"
    line = (
        f"{coloured(f'{state:<18}', code)} {in_time(time.time() - when):>6} ago  {flow_path}  "
        f"{tag}  {run}"
    )
    return [line, f"  retry: {retry}"] if retry else [line]


def seconds_of(text: Any, otherwise: float) -> float:
    """A time that is written as ISO 8601, in seconds since 1970."""
    with contextlib.suppress(TypeError, ValueError):
        return datetime.datetime.fromisoformat(text).timestamp()
    return otherwise


def retry_of(said: dict[str, Any], nox: str) -> str:
    """The command, for a shell in the repo's root, that resumes these attempts."""
    words = said.get("retry")
    if not (isinstance(words, list) and words):
        return "as it was started; no file below tasks/ has its task"
    env = said.get("env") or "dev"
    prefix = f"{paths.PACKAGE.name.upper()}__ENV"
    named = "" if env == environment_name(prefix) else f"{prefix}={shlex.quote(env)} "
    return f"{named}{nox} -s run -- {shlex.join(map(str, words))}"


def environment_name(variable: str) -> str:
    """The name of the environment that a command here would run in."""
    with contextlib.suppress(ImportError, PipelineError):
        from .settings import settings

        return settings().env
    return os.environ.get(variable) or "dev"


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
