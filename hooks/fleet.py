"""`nox -s fleet`: which repos are behind the template, and an update of them all.

Each repo is updated as its own `nox -s update` would do it, by this template's copy of
hooks/update.py. What goes wrong in one repo stops no other, and the same command takes up what is
left.
"""

from __future__ import annotations

import argparse
import concurrent.futures
import contextlib
import functools
import json
import multiprocessing
import os
import re
import sys
import tempfile
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TypeVar

import update
from packaging.version import Version
from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table
from update import GitError, Repo, Template, UpdateError, git

COLOURS = {
    **dict.fromkeys(("up to date", "updated"), "green"),
    **dict.fromkeys(("behind", "would update"), "yellow"),
    **dict.fromkeys(("conflict", "would conflict", "not pushed", "failed", "refused"), "red"),
}

T = TypeVar("T")


@dataclass
class Line:
    """What there is to say of a repo."""

    repo: str
    version: str = ""
    newest: str = ""
    state: str = ""
    reason: str = ""
    """Why it failed or was refused, how far it is behind, or how many files change."""
    conflicts: dict[str, str] = field(default_factory=dict)
    answers: dict[str, str] = field(default_factory=dict)
    """What has become of answers that have changed."""
    branch: str = ""
    pushed: bool = False

    @property
    def text(self) -> str:
        """All but the names, versions and the state, for a table."""
        parts = [self.reason, *(f"{name}: {text}" for name, text in self.conflicts.items())]
        parts += [f"{name}: {text}" for name, text in self.answers.items()]
        parts += [f"on {self.branch}"] if self.branch else []
        parts += ["pushed"] if self.pushed else []
        return ", ".join(filter(None, parts))


def main(arguments: Sequence[str]) -> int:
    """Show or update the repos; 3 if there are conflicts, 1 if any repo fails or is refused."""
    options = parsed(arguments)
    try:
        folders = list(repos(options.repos))
    except (OSError, ValueError, RuntimeError) as error:
        print(f"fleet: cannot read the list of repos: {error}", file=sys.stderr)
        return 2
    if not folders:
        print("fleet: no repos are named", file=sys.stderr)
        return 2
    lines: list[Line] = []
    is_interrupted = False
    with tempfile.TemporaryDirectory(prefix=update.TEMPORARY) as temporary:
        try:
            for line in with_bar(states(folders, options, Path(temporary)), len(folders)):
                lines.append(line)
        except KeyboardInterrupt:
            is_interrupted = True
    lines.sort(key=lambda line: line.repo)
    show(lines)
    if options.report:
        is_json = options.report.suffix == ".json"
        text = as_json(lines) if is_json else as_markdown(lines)
        if unwritten := update.write_report(options.report, text.removesuffix("\n")):
            print(f"fleet: the report cannot be written: {unwritten}", file=sys.stderr)
    if is_interrupted:
        left = len(folders) - len(lines)
        print(f"fleet: interrupted, {left} left\nhint: the same command goes on", file=sys.stderr)
        return 130
    outcomes = {line.state for line in lines}
    if "conflict" in outcomes:
        print(
            "In a repo with conflicts: make one text of each file, git add it, nox -s setup lint "
            "test, git commit.\nUndo: git switch --force - && git branch -D BRANCH",
            file=sys.stderr,
        )
    if outcomes & {"conflict", "would conflict"}:
        return update.CONFLICT
    return update.FAILED if outcomes & {"not pushed", "failed", "refused"} else update.DONE


def parsed(arguments: Sequence[str]) -> argparse.Namespace:
    """The options, which include those of an update."""
    made = argparse.ArgumentParser(
        prog="nox -s fleet --",
        description="Show which repos are behind the template, or update them all, each on a "
        "branch of its own.",
        epilog="exit codes: 0 done; 1 a repo failed, was refused or not pushed; 2 wrong usage; "
        "3 a repo has conflicts",
    )
    made.add_argument(
        "repos",
        nargs="+",
        type=Path,
        metavar="FILE_OR_FOLDER",
        help="a repo, a folder of repos, or a file that names one of these in each line",
    )
    what = made.add_mutually_exclusive_group()
    what.add_argument("--preview", action="store_true", help="try each update, and change nothing")
    what.add_argument("--update", action="store_true", help="update each repo")
    made.add_argument(
        "--issue", type=update.issue_number, help="the issue that names the branches, e.g. 9"
    )
    made.add_argument("--to", metavar="VERSION", help="this version instead of the newest")
    made.add_argument("--check", action="store_true", help="run each repo's lint and tests first")
    made.add_argument("--template", metavar="ADDRESS", help="where the template is now")
    made.add_argument("--push", action="store_true", help="push the branches of the updates")
    made.add_argument(
        "--jobs",
        type=int,
        default=os.cpu_count() or 1,
        help="repos at a time (default: the number of CPUs, %(default)s)",
    )
    made.add_argument(
        "--report", type=Path, metavar="FILE", help="also write the table to a .md or .json file"
    )
    options = made.parse_args(arguments)
    if options.update and not options.issue:
        made.error("--update needs --issue, whose number names the branches")
    if not options.update and (options.push or options.check):
        made.error("--push and --check go with --update")
    if options.jobs < 1:
        made.error("--jobs is at least 1")
    update.check_options(made, options)
    if options.template and update.is_relative(options.template):
        options.template = str(Path(options.template).resolve())
    options.answers, options.diff = {}, False
    return options


def repos(paths: Iterable[Path]) -> Iterator[Path]:
    """The folders of the repos that are named, each once."""
    seen = set()
    for path in paths:
        named = [path] if path.is_dir() else listed(path)
        for folder in named:
            below = sorted(found.parent for found in folder.glob(f"*/{update.ANSWERS}"))
            is_repo = (folder / update.ANSWERS).exists() or not below
            for repo in [folder] if is_repo else below:
                if (resolved := repo.resolve()) not in seen:
                    seen.add(resolved)
                    yield resolved


def listed(file: Path) -> list[Path]:
    """The folders that the file names, relative to its own."""
    lines = file.read_text(encoding="utf-8-sig").splitlines()
    names = [re.sub(r"(^|\s)#.*", "", line).strip() for line in lines]
    folders = [file.parent / Path(name).expanduser() for name in names if name]
    missing = [folder for folder in folders if not folder.is_dir()]
    if len(missing) > 0.9 * len(folders):
        raise ValueError(f"{file} is no list of folders: there is no {missing[0]}")
    return folders


def states(folders: Sequence[Path], options: argparse.Namespace, temporary: Path) -> Iterator[Line]:
    """The line of each repo, as soon as it is known."""
    todo: dict[Path, list[tuple[Line, Template]]] = {}
    newest = once(released)
    template = once(lambda source: Template(source, Path(tempfile.mkdtemp(dir=temporary))))
    for folder in folders:
        line = Line(str(folder))
        try:
            repo = Repo.of(folder)
            line.version = repo.answers["_commit"]
            source = options.template or repo.absolute(repo.answers["_src_path"])
            line.newest = options.to or newest(source)[-1]
            line.state, line.reason = behind(line.version, newest(source), line.newest)
            if options.preview or options.update:
                todo.setdefault(repo.common, []).append((line, template(source)))
                continue
        except (UpdateError, GitError, OSError) as error:
            line.state, line.reason = state_of(error)
        yield line
    with concurrent.futures.ProcessPoolExecutor(
        options.jobs, mp_context=multiprocessing.get_context("spawn")
    ) as pool:
        futures = [pool.submit(all_updated, each, options, temporary) for each in todo.values()]
        try:
            for future in concurrent.futures.as_completed(futures):
                yield from future.result()
        except BaseException:
            pool.shutdown(wait=True, cancel_futures=True)
            raise


def once(function: Callable[[str], T]) -> Callable[[str], T]:
    """The function, which is called once for each source, also if it fails."""

    @functools.cache
    def outcome(source: str) -> T | UpdateError:
        try:
            return function(source)
        except UpdateError as error:
            return error

    def known(source: str) -> T:
        result = outcome(source)
        if isinstance(result, UpdateError):
            raise result
        return result

    return known


def released(source: str) -> list[str]:
    """The released versions of a template, the oldest first."""
    try:
        listed = git(Path.cwd(), "ls-remote", "--tags", "--refs", "--", update.address(source))
    except GitError as error:
        raise UpdateError(
            update.NO_TEMPLATE, f"cannot read the template {source}: {error}"
        ) from None
    tags = [line.rpartition("refs/tags/")[2] for line in listed.splitlines()]
    versions = list(filter(update.is_release, update.versions_of(tags)))
    if not versions:
        raise UpdateError(update.NO_TEMPLATE, f"the template {source} has no version")
    return versions


def behind(version: str, versions: Sequence[str], newest: str) -> tuple[str, str]:
    """The state of a repo of this version, and how far it is behind."""
    last = update.version_of(version.partition("-")[0])  # 2026.11.0-3-gab12cd0 is after 2026.11.0
    if version == newest:
        return "up to date", ""
    if last is None:
        return "behind", "at a commit that is no version"
    newer = [tag for tag in versions if last < Version(tag)]
    if not newer:
        return "up to date", "past the newest version"
    return "behind", f"{len(newer)} version{'s' if newer[1:] else ''} behind"


def all_updated(
    folders: Sequence[tuple[Line, Template]], options: argparse.Namespace, temporary: Path
) -> list[Line]:
    """Update the folders of a git repo, one after the other, or try it; their lines."""
    return [updated(line, template, options, temporary) for line, template in folders]


def updated(line: Line, template: Template, options: argparse.Namespace, temporary: Path) -> Line:
    """Update the repo, or try it; its line."""
    line.reason = ""
    with tempfile.TemporaryDirectory(prefix=update.TEMPORARY, dir=temporary) as folder:
        try:
            repo = Repo.of(Path(line.repo))
            if unmerged := in_conflict(repo):
                line.state, line.branch, line.conflicts = "conflict", repo.branch, unmerged
                return line
            code, report = update.update(repo, template, options, Path(folder))
            if report is None:
                line.state, line.reason = "up to date", ""
            elif code == update.CONFLICT or report.conflicts:
                line.state = "conflict" if options.update else "would conflict"
                line.conflicts = report.conflicts
            else:
                line.state = "updated" if options.update else "would update"
                line.reason = f"{report.files} file{'s' if report.files != 1 else ''}"
                line.answers = report.answers
            line.branch = report.branch if report else ""
            if options.push and line.state in ("updated", "up to date"):
                version = template.name(template.commit(options.to or template.newest))
                push(repo, line, update.branch_name(options.issue, version, repo.prefix))
        except Exception as error:  # one repo's trouble stops no other
            line.state, line.reason = state_of(error)
    return line


def state_of(error: Exception) -> tuple[str, str]:
    """The state of a repo that had this error, and the reason."""
    if isinstance(error, UpdateError):
        is_refused = error.code in (update.REFUSED, update.BAD_ANSWERS)
        text, _, hint = str(error).partition("\nhint: ")
        text = " ".join(text.splitlines()) + (f" ({hint})" if hint else "")
        return "refused" if is_refused else "failed", text
    text = update.cause(error) if isinstance(error, OSError) else str(error).partition("\n")[0]
    is_known = isinstance(error, GitError | OSError)
    return "failed", text if is_known else f"{type(error).__name__}: {text}"


def in_conflict(repo: Repo) -> dict[str, str]:
    """The files in conflict, where an earlier update has left them."""
    if "_template-" not in repo.branch:
        return {}
    names = (name for name in repo.unmerged if name.startswith(repo.prefix))
    return dict.fromkeys(names, "left by an earlier update")


def push(repo: Repo, line: Line, branch: str) -> None:
    """Push the update's branch, without hooks: the repo may not be set up here; CI checks it."""
    if git(repo.top, "symbolic-ref", "--quiet", "HEAD") != f"refs/heads/{branch}":
        return  # not the branch of this update
    remotes = git(repo.top, "remote").split()
    line.branch = branch
    try:
        if not remotes:
            raise GitError("no remote (git remote add origin ADDRESS)")
        remote = "origin" if "origin" in remotes else remotes[0]
        git(repo.top, "push", "--quiet", "--no-verify", "--set-upstream", remote, branch)
        line.pushed = True
    except GitError as error:
        line.state, line.reason = "not pushed", str(error)


def with_bar(lines: Iterable[Line], total: int) -> Iterator[Line]:
    """The lines, with a bar on a terminal that shows how many there have been."""
    console = Console(stderr=True)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
    is_seen = console.is_terminal
    with Progress(
        *columns, TimeElapsedColumn(), console=console, transient=True, disable=not is_seen
    ) as bar:
        task = bar.add_task("Repos", total=total)
        for line in lines:
            bar.update(task, advance=1, description=Path(line.repo).name)
            yield line


def show(lines: Sequence[Line]) -> None:
    """Print a table of the lines on a terminal, or else a line for each with tabs."""
    console = Console()
    states = Counter(line.state for line in lines)
    counts = ", ".join(f"{states[state]} {state}" for state in COLOURS if states[state])
    if not console.is_terminal:
        for line in lines:
            print("\t".join([line.state, line.repo, line.version, line.newest, line.text]))
        sys.stdout.flush()
        print(f"fleet: {counts}", file=sys.stderr)
        return
    table = Table(box=None, pad_edge=False)
    for title in ("Repo", "Version", "Newest", "State", ""):
        table.add_column(title, overflow="fold")
    common = os.path.commonpath([str(Path(line.repo).parent) for line in lines])
    for line in lines:
        name = escape(os.path.relpath(line.repo, common))
        state = f"[{COLOURS[line.state]}]{line.state}[/]"
        table.add_row(name, line.version, line.newest, state, escape(line.text))
    console.print(table)
    console.print(f"[bold]{counts}[/], in {escape(common)}", highlight=False)


def as_json(lines: Sequence[Line]) -> str:
    """The lines as JSON."""
    return json.dumps([asdict(line) for line in lines], indent=2, ensure_ascii=False) + "\n"


def as_markdown(lines: Sequence[Line]) -> str:
    """The lines as a table in Markdown."""
    rows = [("Repo", "Version", "Newest", "State", ""), ("---",) * 5]
    rows += [(line.repo, line.version, line.newest, line.state, line.text) for line in lines]
    return "".join(f"| {' | '.join(cell.replace('|', '/') for cell in row)} |\n" for row in rows)


if __name__ == "__main__":
    with contextlib.suppress(BrokenPipeError):
        sys.exit(main(sys.argv[1:]))
