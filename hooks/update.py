"""`nox -s update`: brings what is new in the template into this repo, on a branch of its own.

Copier makes the repo twice from its answers: as the template was when the repo last took it, and as
it is now. git merges the difference into the last commit, in a work tree of its own, which follows
files that have moved and keeps what both sides changed. Only the result comes into the user's tree.
"""

from __future__ import annotations

import argparse
import contextlib
import datetime
import difflib
import fcntl
import functools
import io
import json
import math
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

try:
    import copier.errors
    import jinja2  # this and what follows come with Copier
    import plumbum
    import yaml
    from packaging.version import InvalidVersion, Version
    from pathspec import GitIgnoreSpec
except ImportError:
    sys.exit("update: Copier is not installed\nhint: nox -s update")

NOX = os.environ.get("NOX_CALLED", "nox")
"""How the user calls nox."""
ANSWERS = ".copier-answers.yml"
OTHER_ANSWERS = ".copier-answers.headwater.yml"
CHANGELOG = "CHANGELOG.md"
LOCK_FILE = "uv.lock"
TEMPORARY = "template-update-"
"""The prefix of temporary folders."""

DONE, FAILED, WRONG_USAGE, CONFLICT, REFUSED, NO_TEMPLATE, BAD_ANSWERS = range(7)
EXIT_CODES = """\
exit codes: 0 updated, or nothing to do; 1 failed, e.g. a check; 2 wrong usage; 3 updated, with
conflicts to resolve; 4 the repo cannot take an update now, e.g. with uncommitted changes; 5 the
template cannot be read, or has no such version; 6 the repo's answers are missing or wrong"""

GIT = (
    *("git", "-c", "core.quotePath=false", "-c", "core.hooksPath=/dev/null"),
    *("-c", "merge.renames=true", "-c", "merge.renameLimit=10000"),
    # The template moves its own files; what the user has added beside them stays.
    *("-c", "merge.directoryRenames=false"),
    # Line ends alone are no conflict, and each conflict shows in its file.
    *("-c", "merge.renormalize=true", "-c", "core.safecrlf=false", "-c", "rerere.enabled=false"),
)
"""git, with the settings on which the result depends, whatever the user's are."""

UNDER_WAY = {  # in a rebase, no branch is checked out
    **{"MERGE_HEAD": "merge", "CHERRY_PICK_HEAD": "cherry-pick", "REVERT_HEAD": "revert"},
    **{"rebase-apply": "am", "sequencer": "cherry-pick"},
}
"""What git is doing where it has such a file in its folder."""

Entries = dict[str, tuple[str, str]]
"""The files of a tree: the mode and blob of each path."""


class UpdateError(Exception):
    """Why there is no update, and a hint on what to do."""

    def __init__(self, code: int, message: str, hint: str = "") -> None:
        super().__init__(without_password(f"{message}\nhint: {hint}" if hint else message))
        self.code = code


@dataclass
class Report:
    """What an update does to a repo. Paths are relative to the repo's folder."""

    old: str
    new: str
    changelog: str = ""
    answers: dict[str, str] = field(default_factory=dict)
    """What has become of each answer that is new, gone or another one."""
    added: list[str] = field(default_factory=list)
    changed: list[str] = field(default_factory=list)
    merged: list[str] = field(default_factory=list)
    """Files that both the user and the template have changed."""
    moved: dict[str, str] = field(default_factory=dict)
    removed: list[str] = field(default_factory=list)
    stays_deleted: list[str] = field(default_factory=list)
    """Files that the user has deleted and the template has changed."""
    conflicts: dict[str, str] = field(default_factory=dict)
    """What is in conflict in each file."""
    kept: dict[str, str] = field(default_factory=dict)
    """Where the copy lies of each file that git ignored and that one of the template replaces."""
    notes: list[str] = field(default_factory=list)
    branch: str = ""

    @property
    def files(self) -> int:
        """The number of files that change."""
        return sum(map(len, (self.added, self.changed, self.merged, self.moved, self.removed)))

    @property
    def put_back(self) -> str:
        """What follows a command that undoes the update, to put the copies back."""
        copies = ((shlex.quote(copied), shlex.quote(name)) for name, copied in self.kept.items())
        return "".join(f" && cp -a {copied} {name}" for copied, name in copies)

    def markdown(self) -> str:
        """The report as text; it is Markdown, and reads well on a terminal."""
        parts = [f"# Template {self.old} → {self.new}" if self.old != self.new else "# New answers"]
        if self.changelog:
            parts.append(self.changelog)
        for title, entries in (
            ("In conflict", self.conflicts),
            ("Answers", self.answers),
            ("Merged with your changes", self.merged),
            ("Moved", self.moved),
            ("Added", self.added),
            ("Changed", self.changed),
            ("Removed", self.removed),
            ("Changed in the template; stays deleted here", self.stays_deleted),
            ("Ignored by git, and replaced; the copy", self.kept),
        ):
            if not entries:
                continue
            if isinstance(entries, dict):
                lines = [f"- `{name}`: {text}" for name, text in entries.items()]
            else:
                lines = [f"- `{name}`" for name in entries]
            parts.append("\n".join([f"## {title} ({len(entries)})", "", *lines]))
        parts += self.notes
        return "\n\n".join(parts)


class Template:
    """A clone of the template in a temporary folder."""

    def __init__(self, source: str, folder: Path) -> None:
        self.source = source
        self._folder = folder
        self.clone = folder / ".clone"
        try:
            git(folder, "clone", "--quiet", "--bare", "--", address(source), str(self.clone))
        except GitError as error:
            raise UpdateError(
                NO_TEMPLATE,
                f"cannot read the template {source}: {error}",
                f"if it has moved: {NOX} -s update -- --template ADDRESS",
            ) from None

    @functools.cached_property
    def versions(self) -> list[str]:
        """The tags that are versions, the oldest first."""
        tags = git(self.clone, "for-each-ref", "--format=%(refname:lstrip=2)", "refs/tags")
        return versions_of(tags.split())

    @property
    def newest(self) -> str:
        """The newest version that is no pre-release; the last commit if there is none."""
        return next(filter(is_release, reversed(self.versions)), "HEAD")

    def commit(self, version: str) -> str:
        """The commit of a version, which may be a tag, a branch, a commit or what git describes."""
        with contextlib.suppress(GitError):
            return git(self.clone, "rev-parse", "--verify", "--quiet", f"{version}^0")
        hint = f"its last versions: {', '.join(self.versions[-5:][::-1]) or 'none'}"
        if (self.clone / "shallow").exists():
            hint += "; it is a shallow clone, which git fetch --unshallow completes"
        raise UpdateError(NO_TEMPLATE, f"the template {self.source} has no version {version}", hint)

    def name(self, commit: str) -> str:
        """The commit's name in a repo's answers, as Copier writes it."""
        return git(self.clone, "describe", "--tags", "--always", commit)

    def is_older(self, commit: str, other: str) -> bool:
        """True if the commit is part of the other's history."""
        with contextlib.suppress(GitError):
            return commit != other and git(self.clone, "merge-base", commit, other) == commit
        return False

    def files(self, commit: str) -> Path:
        """A folder with the files of the commit."""
        folder = self._folder / commit
        if not folder.exists():
            making = Path(tempfile.mkdtemp(dir=self._folder))
            env = {"GIT_INDEX_FILE": str(making) + ".index"}
            plain = ("-c", "core.autocrlf=false", "-c", "core.eol=lf", f"--git-dir={self.clone}")
            try:
                git(making, *plain, "--work-tree=.", "checkout", commit, "--", ".", env=env)
            except GitError as error:  # e.g. of a clone that lacks files
                reason = f"cannot read the template {self.source}: {error}"
                raise UpdateError(NO_TEMPLATE, reason) from None
            with contextlib.suppress(OSError):  # another process has made it
                making.rename(folder)
        return folder


class GitError(Exception):
    """What git says when it fails."""


@dataclass(frozen=True)
class Repo:
    """A generated repo, or a folder of a git repo that was generated."""

    folder: Path
    top: Path
    prefix: str
    """The folder's path below `top`, with a slash at its end; empty if it is the whole repo."""

    @classmethod
    def of(cls, folder: Path) -> Repo:
        """The repo in this folder, which must have a commit."""
        try:
            top = git(folder, "rev-parse", "--show-toplevel")
            git(folder, "rev-parse", "--verify", "--quiet", "HEAD")
        except GitError as error:
            reason = str(error) or "the git repo has no commit"
            is_new = not str(error) or "not a git repository" in str(error)
            hint = f"{NOX} -s setup makes the repo's first commit" if is_new else ""
            raise UpdateError(REFUSED, reason, hint) from None
        # Relative to the top as git writes it, where a folder of the path is a link.
        prefix = git(folder, "rev-parse", "--show-prefix")
        return cls(folder, Path(top), prefix)

    @functools.cached_property
    def entries(self) -> Entries:
        """The files of the last commit."""
        listed = git(self.top, "ls-tree", "-r", "-z", "--full-tree", "HEAD").split("\0")
        entries = {}
        for line in filter(None, listed):
            mode, _, rest = line.partition(" ")
            blob, path = rest.partition(" ")[2].split("\t", 1)
            entries[path] = (mode, blob)
        return entries

    @functools.cached_property
    def answers_file(self) -> str:
        """The name of the answers file, which is another one beside that of another template."""
        return OTHER_ANSWERS if self.prefix + OTHER_ANSWERS in self.entries else ANSWERS

    @functools.cached_property
    def answers_text(self) -> str:
        """The answers file of the last commit."""
        return git(self.top, "show", f"HEAD:{self.prefix}{self.answers_file}") + "\n"

    @functools.cached_property
    def answers(self) -> dict[str, Any]:
        """The repo's answers, and where its template is."""
        if self.prefix + self.answers_file not in self.entries:
            raise UpdateError(
                BAD_ANSWERS,
                f"no {ANSWERS} in the last commit: no template knows this repo",
                f"if it is gone, `git log -- {ANSWERS}` finds it",
            )
        try:
            answers = yaml.safe_load(self.answers_text)
            for name, value in answers.items():
                check_answer(name, value)
            for name in ("_src_path", "_commit"):
                answers[name] = str(answers[name])
        except (ValueError, yaml.YAMLError, AttributeError, TypeError, KeyError) as error:
            reason = f"it has no {error}" if isinstance(error, KeyError) else error
            raise UpdateError(
                BAD_ANSWERS,
                f"{self.answers_file} is not as Copier writes it: {reason}",
                f"git log -p -- {self.answers_file}",
            ) from None
        if "package_name" not in answers:
            source = answers["_src_path"]
            raise UpdateError(BAD_ANSWERS, f"{self.answers_file} is of another template, {source}")
        return dict(answers)

    def check_state(self) -> None:
        """Check that nothing can be lost, and nothing is under way."""
        if not self.branch:
            raise UpdateError(REFUSED, "no branch is checked out", "git switch BRANCH")
        if unmerged := self.unmerged:
            hint = "make one text of each, git add it, and git commit; or git switch --force -"
            raise UpdateError(REFUSED, f"still in conflict: {', '.join(unmerged)}", hint)
        folder = git_folder(self.top)
        for name, what in UNDER_WAY.items():
            if (folder / name).exists():
                hint = f"git {what} --abort, or finish it"
                raise UpdateError(REFUSED, f"git {what} is under way", hint)
        for lock in (folder / "index.lock", folder / "HEAD.lock", self.common / "packed-refs.lock"):
            if lock.exists():
                hint = f"wait until it has ended; if it is none, rm {shlex.quote(str(lock))}"
                raise UpdateError(REFUSED, f"another git command has made {lock}", hint)
        if changed := self.uncommitted:
            names = ", ".join(changed[:3]) + (", …" if changed[3:] else "")
            hint = "commit them, or git stash"
            raise UpdateError(REFUSED, f"uncommitted changes in {names}", hint)
        try:
            git(self.top, "var", "GIT_COMMITTER_IDENT")
        except GitError:
            raise UpdateError(
                REFUSED,
                "git does not know who you are",
                "git config --global user.name NAME; git config --global user.email ADDRESS",
            ) from None

    def absolute(self, source: str) -> str:
        """The address of a template, of which a relative path is one from the repo's folder."""
        return str(self.folder / source) if is_relative(source) else source

    @property
    def unmerged(self) -> list[str]:
        """The files in conflict."""
        names = git(self.top, "diff", "--name-only", "--diff-filter=U", "-z")
        return list(filter(None, names.split("\0")))

    @property
    def uncommitted(self) -> list[str]:
        """The files with changes that are not committed."""
        status = ("status", "--porcelain", "--untracked-files=no", "--ignore-submodules=dirty")
        lines = git(self.top, *status, "-z").split("\0")
        return [line[3:] for line in lines if line[2:3] == " "]

    @functools.cached_property
    def branch(self) -> str:
        """The branch that is checked out; empty if none is."""
        with contextlib.suppress(GitError):
            return git(self.top, "symbolic-ref", "--quiet", "HEAD").removeprefix("refs/heads/")
        return ""

    @contextlib.contextmanager
    def locked(self, work_tree: Path) -> Iterator[None]:
        """Keep other updates from this repo, and remove the work tree in the end."""
        with (self.common / "template-update.lock").open("a+") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:
                raise UpdateError(
                    REFUSED, "another update of this repo is running", "wait until it has ended"
                ) from None
            # The file names the work tree of an update that was killed.
            lock.seek(0)
            if left := lock.read():
                self.remove(Path(left))
                shutil.rmtree(Path(left).parent, ignore_errors=True)
            lock.truncate(0)
            lock.write(str(work_tree))
            lock.flush()
            try:
                yield
            finally:
                self.remove(work_tree)
                lock.truncate(0)

    def remove(self, work_tree: Path) -> None:
        """Remove a work tree."""
        with contextlib.suppress(GitError):
            # Twice, because git locks a work tree until it is complete.
            git(self.top, "worktree", "remove", "--force", "--force", str(work_tree))

    @functools.cached_property
    def common(self) -> Path:
        """The folder .git of the main work tree."""
        return self.top / git(self.top, "rev-parse", "--git-common-dir")

    def written(self, folder: Path) -> Entries:
        """The files in a folder, as entries of a tree in this repo's database."""
        paths = sorted(path for path in folder.rglob("*") if path.is_symlink() or path.is_file())
        files = [path for path in paths if not path.is_symlink()]
        given = "".join(f"{path}\n" for path in files)
        blobs = git(
            self.top, "hash-object", "-w", "--no-filters", "--stdin-paths", given=given
        ).splitlines()
        entries = {
            path: ("100755" if path.stat().st_mode & 0o100 else "100644", blob)
            for path, blob in zip(files, blobs, strict=True)
        }
        for path in set(paths) - set(files):
            blob = git(self.top, "hash-object", "-w", "--stdin", given=str(path.readlink()))
            entries[path] = ("120000", blob)
        return {
            self.prefix + path.relative_to(folder).as_posix(): entry
            for path, entry in entries.items()
        }

    def tree(self, entries: Entries, index: Path) -> str:
        """A tree of these files."""
        given = "".join(f"{mode} {blob}\t{path}\0" for path, (mode, blob) in entries.items())
        env = {"GIT_INDEX_FILE": str(index)}
        git(self.top, "update-index", "-z", "--index-info", given=given, env=env)
        return git(self.top, "write-tree", env=env)


class Versions(NamedTuple):
    """Commits of the template: the repo's, and the one to update to."""

    old: str
    new: str


def update(
    repo: Repo,
    template: Template,
    options: argparse.Namespace,
    temporary: Path,
) -> tuple[int, Report | None]:
    """Update the repo as the options say; the exit code, and the report if there is an update."""
    answers = repo.answers
    versions = Versions(
        template.commit(answers["_commit"]), template.commit(options.to or template.newest)
    )
    is_moved = options.template is not None and options.template != answers["_src_path"]
    if template.is_older(versions.new, versions.old):
        if options.to:
            raise UpdateError(
                NO_TEMPLATE,
                f"{options.to} is older than the repo's version, {answers['_commit']}",
                "an update goes forward only; git revert takes one back",
            )
        versions = Versions(versions.old, versions.old)  # the repo follows a branch
    if versions.old == versions.new and not options.answers and not is_moved:
        return DONE, None
    with repo.locked(temporary / repo.top.name):
        branch = "" if options.preview else branch_of(repo, template.name(versions.new), options)
        result = merged(repo, template, versions, options, temporary)
        report = result.report()
        if options.preview:
            if repo.uncommitted:
                report.notes.append("Your uncommitted changes are not part of this preview.")
            if options.diff:
                result.show_diff()
            return DONE, report
        report.branch = branch
        result.keep_ignored(report)
        if report.conflicts:
            result.bring_in(report, result.base)
            return CONFLICT, report
        commit = result.commit(report)
        if options.check:
            result.check()
        if options.diff:
            result.show_diff()
        result.bring_in(report, commit)
        return DONE, report


def branch_of(repo: Repo, version: str, options: argparse.Namespace) -> str:
    """The branch of the update, which must not exist."""
    repo.check_state()
    issue = options.issue
    if not issue and is_watched():
        print("The issue of this update, which names its branch, e.g. 9: ", end="", file=sys.stderr)
        sys.stderr.flush()
        with contextlib.suppress(argparse.ArgumentTypeError):
            issue = issue_number(sys.stdin.readline().strip())
    if not issue:
        hint = f"{NOX} -s update -- --issue 9"
        raise UpdateError(WRONG_USAGE, "the branch needs an issue's number", hint)
    branch = branch_name(issue, version, repo.prefix)
    # The branch, or one below it, beside which git cannot make it.
    listed = ("for-each-ref", "--format=%(refname:lstrip=2)\t%(worktreepath)")
    if found := git(repo.top, *listed, f"refs/heads/{branch}"):
        name, _, there = found.splitlines()[0].partition("\t")
        hint = f"git switch {name}; or git branch -D {name}, and again"
        if there:
            hint = f"it is checked out in {there}"
        raise UpdateError(REFUSED, f"the branch {name} exists already", hint)
    return branch


def branch_name(issue: str, version: str, prefix: str) -> str:
    """The branch of an update to a version, and of one folder if the git repo may have others."""
    name = f"{version}-{prefix}".lower()
    return f"{issue}_template-" + re.sub(r"[^a-z0-9]+", "-", name).strip("-")


def issue_number(text: str) -> str:
    """The number of an issue."""
    if not re.fullmatch(r"[1-9][0-9]*", text):
        raise argparse.ArgumentTypeError(f"{text!r} is no issue's number, such as 9")
    return text


def merged(
    repo: Repo,
    template: Template,
    versions: Versions,
    options: argparse.Namespace,
    temporary: Path,
) -> Result:
    """Merge the difference between two versions of the template in a work tree."""
    new_files = template.files(versions.new)
    check_answers(new_files, options.answers)
    source = options.template or repo.answers["_src_path"]
    commit = template.name(versions.new)
    folders = [temporary / name for name in (".old", ".new")]
    render(template.files(versions.old), folders[0], repo, {}, "", "")
    render(new_files, folders[1], repo, options.answers, source, commit)
    old, new = (repo.written(folder) for folder in folders)
    ours = repo.entries
    base = {path: entry for path, entry in ours.items() if not path.startswith(repo.prefix)} | old
    theirs = {path: entry for path, entry in ours.items() if not path.startswith(repo.prefix)} | new

    # Files that are the user's once they exist, and the answers, which only Copier writes.
    users = users_files(new_files)
    for path in [*base, *(path for path in new if path in ours)]:
        if path.startswith(repo.prefix) and users.match_file(path.removeprefix(repo.prefix)):
            for side in (base, theirs):
                side.pop(path, None)
                if path in ours:
                    side[path] = ours[path]
    answers_file = repo.prefix + repo.answers_file
    base[answers_file] = ours[answers_file]
    # What the user has deleted stays deleted; what the user has renamed is merged.
    base_tree = repo.tree(base, temporary / ".base")
    deleted = git(
        repo.top,
        *("diff-tree", "-r", "-z", "--name-only", "--diff-filter=D", "--find-renames"),
        *("-l10000", base_tree, "HEAD"),
    )
    stays_deleted = []
    for path in filter(None, deleted.split("\0")):
        before, now = base.pop(path), theirs.pop(path, None)
        if now not in (None, before):
            stays_deleted.append(path)

    message = f"Update the template to {commit}"
    if versions.old == versions.new:
        message = "Change answers to the template"
    parent = repo_commit(repo, repo.tree(base, temporary / ".less"), "The template before")
    pick = repo_commit(repo, repo.tree(theirs, temporary / ".theirs"), message, parent)
    work_tree = temporary / repo.top.name
    env = {"GIT_LFS_SKIP_SMUDGE": "1"}
    git(repo.top, "worktree", "add", "--quiet", "--detach", str(work_tree), "HEAD", env=env)
    head = git(work_tree, "rev-parse", "HEAD")
    with contextlib.suppress(GitError):  # conflicts, which the index lists
        git(work_tree, "cherry-pick", "--no-commit", pick, env=env)
    return Result(repo, template, versions, work_tree, head, message, theirs, stays_deleted)


def render(
    template: Path, folder: Path, repo: Repo, data: Mapping[str, str], source: str, commit: str
) -> None:
    """Make the repo in the folder from its answers, with those in `data` changed."""
    folder.mkdir()
    answers = folder / repo.answers_file
    answers.write_text(repo.answers_text, encoding="utf-8")
    try:
        with quick_copies():
            copier.run_copy(
                str(template),
                folder,
                data=dict(data),
                answers_file=repo.answers_file,
                defaults=True,
                overwrite=True,
                quiet=True,
            )
    except copier.errors.UnsafeTemplateError as error:
        raise UpdateError(
            NO_TEMPLATE,
            f"no update runs what the template brings: {str(error).partition(chr(10))[0]}",
            "Headwater has no such template, so the address may be another's: "
            f"{NOX} -s update -- --template ADDRESS",
        ) from None
    except Exception as error:  # of Copier, of Jinja, of a template's own
        raise UpdateError(
            BAD_ANSWERS if isinstance(error, ValueError) else FAILED,
            f"Copier cannot make the repo from its answers: {error}",
        ) from None
    if commit:
        lines = yaml.safe_dump(
            {"_commit": commit, "_src_path": source}, allow_unicode=True, indent=4
        )
        text = answers.read_text(encoding="utf-8")
        text = re.sub(r"^_commit: .*\n", "", text, flags=re.MULTILINE)
        pattern = re.compile(r"^_src_path: .*\n(?: .*\n)*", re.MULTILINE)
        answers.write_text(pattern.sub(lambda _: lines, text, count=1), encoding="utf-8")


COMPILED: dict[tuple[object, ...], Any] = {}
"""The texts of templates that are compiled."""


@contextlib.contextmanager
def quick_copies() -> Iterator[None]:
    """Make a copy take a quarter of its time, which goes into two things that change nothing in it.

    Copier compiles each part of each path again for each file; here each text is compiled once. And
    it asks git about each file, in case that the folder is a git repo; here it finds no git.
    """
    compile_template = jinja2.Environment.compile

    def compile_once(self: jinja2.Environment, source: Any, *names: Any, **more: Any) -> Any:
        key = (type(self), self.lexer, *self.extensions, source, *names, *more.items())
        if key not in COMPILED:
            COMPILED[key] = compile_template(self, source, *names, **more)
        return COMPILED[key]

    jinja2.Environment.compile = compile_once  # type: ignore[method-assign]
    try:
        with plumbum.local.env(PATH=""):
            yield
    finally:
        jinja2.Environment.compile = compile_template  # type: ignore[method-assign]


def users_files(template: Path) -> GitIgnoreSpec:
    """The patterns of the files that are the user's once they exist."""
    patterns = configuration(template).get("yours", {}).get("default", [])
    return GitIgnoreSpec.from_lines(patterns)


def configuration(template: Path) -> dict[str, Any]:
    """The template's questions and settings."""
    for name in ("copier.yml", "copier.yaml"):
        if (template / name).exists():
            try:
                loaded = yaml.safe_load((template / name).read_text(encoding="utf-8"))
            except (yaml.YAMLError, UnicodeDecodeError) as error:
                raise UpdateError(
                    FAILED, f"the template's {name} cannot be read: {error}"
                ) from None
            return loaded if isinstance(loaded, dict) else {}
    return {}


def check_answer(name: object, value: object) -> None:
    """Check what stands in an answers file: a text, a number, or yes or no."""
    is_number = isinstance(value, float) and math.isfinite(value)
    if not isinstance(name, str) or not (isinstance(value, str | int) or is_number):
        kind = "null" if value is None else f"of the type {type(value).__name__}"
        raise TypeError(f"{name} is {value}, {kind}; if it is meant as text, put it in quotes")


def check_answers(template: Path, answers: Mapping[str, str]) -> None:
    """Check that these are answers to questions of the template."""
    questions = {
        name: question
        for name, question in configuration(template).items()
        if name[0] != "_" and not (isinstance(question, dict) and question.get("when") is False)
    }
    for name in answers:
        if name not in questions:
            near = difflib.get_close_matches(name, questions, 1) or sorted(questions)
            raise UpdateError(
                BAD_ANSWERS, f"the template has no question {name}", f"it has {', '.join(near)}"
            )
    if "package_name" in answers:
        raise UpdateError(
            BAD_ANSWERS,
            "an update does not change package_name: what is yours would stay in the old package",
            "make a repo with the new name, and move your flows, tasks and settings there",
        )


def repo_commit(repo: Repo, tree: str, message: str, *parents: str) -> str:
    """A commit that is on no branch; git deletes it some weeks later."""
    who = {
        f"GIT_{role}_{what}": value
        for role in ("AUTHOR", "COMMITTER")
        for what, value in (("NAME", "template"), ("EMAIL", "template@localhost"))
    }
    options = [f"-p{parent}" for parent in parents]
    return git(repo.top, "commit-tree", "-m", message, *options, tree, env=who)


@dataclass
class Result:
    """The result of a merge, in a work tree of its own."""

    repo: Repo
    template: Template
    versions: Versions
    work_tree: Path
    base: str
    """The user's last commit."""
    message: str
    theirs: Entries
    stays_deleted: list[str]

    @functools.cached_property
    def stages(self) -> list[str]:
        """The lines of the index for the files in conflict."""
        return list(filter(None, git(self.work_tree, "ls-files", "-u", "-z").split("\0")))

    @functools.cached_property
    def unmerged(self) -> dict[str, set[str]]:
        """The paths in conflict, each with its stages in the index: 1 base, 2 user, 3 template."""
        found: dict[str, set[str]] = {}
        for line in self.stages:
            head, path = line.split("\t", 1)
            found.setdefault(path, set()).add(head.split()[2])
        return found

    @functools.cached_property
    def entries(self) -> Entries:
        """The files of the result, without those in conflict."""
        entries = {}
        for line in filter(None, git(self.work_tree, "ls-files", "-s", "-z").split("\0")):
            head, path = line.split("\t", 1)
            mode, blob, stage = head.split()
            if stage == "0":
                entries[path] = (mode, blob)
        return entries

    def report(self) -> Report:
        """What the update does."""
        report = Report(
            self.repo.answers["_commit"],
            self.template.name(self.versions.new),
            changelog_between(*(self.template.files(commit) for commit in self.versions)),
        )
        answers_file = self.repo.prefix + self.repo.answers_file
        answers = yaml.safe_load(git(self.work_tree, "show", f":{answers_file}"))
        for name in sorted({*answers, *self.repo.answers}):
            before, after = self.repo.answers.get(name), answers.get(name)
            if name == "_commit" or before == after:
                continue
            if name not in self.repo.answers:
                report.answers[name] = f"{after}, the default of a new question"
            elif name not in answers:
                report.answers[name] = "not asked any more"
            else:
                report.answers[name] = without_password(f"{before} → {after}")
        ours, result = self.repo.entries, self.entries
        renamed = git(
            self.work_tree,
            *("diff", "--cached", "--name-status", "-z", "--find-renames", "-l10000"),
            *("--diff-filter=R", "HEAD"),
        ).split("\0")
        moved = dict(zip(renamed[1::3], renamed[2::3], strict=False))
        short = self._short
        report.stays_deleted = [short(path) for path in self.stays_deleted]
        report.moved = {short(old): short(new) for old, new in moved.items()}
        for path in sorted({*ours, *result} - {*self.unmerged, answers_file}):
            if path not in ours:
                if path not in moved.values():
                    report.added.append(short(path))
            elif path not in result:
                if path not in moved:
                    report.removed.append(short(path))
            elif result[path] != ours[path]:
                is_merged = result[path] != self.theirs.get(path)
                (report.merged if is_merged else report.changed).append(short(path))
        for path, stages in sorted(self.unmerged.items()):
            report.conflicts[short(path)] = self._conflict(path, stages)
        return report

    def _short(self, path: str) -> str:
        return path.removeprefix(self.repo.prefix)

    def _conflict(self, path: str, stages: set[str]) -> str:
        name = self._short(path)
        if stages == {"1", "2"}:
            return f"changed by you, gone from the template: git add {name} keeps it, or git rm"
        if stages == {"1"}:
            return f"moved by you, and elsewhere in the template: git rm {name}"
        if len(stages) == 1:
            whose = "yours" if "2" in stages else "the template's"
            return f"{whose}, moved or in the way of a folder: git add {name} keeps it, or git rm"
        if "2" not in stages:
            return f"removed by you, changed in the template: git rm {name}, or git add keeps it"
        file = self.work_tree / path
        numbers = []
        if file.is_file() and not file.is_symlink():
            lines = file.read_bytes().splitlines()
            numbers = [str(i) for i, line in enumerate(lines, 1) if line.startswith(b"<<<<<<< ")]
        if numbers:
            return f"line{'s' if numbers[1:] else ''} {', '.join(numbers)}"
        return f"git add {name} keeps yours; git checkout --theirs {name} takes the template's"

    def keep_ignored(self, report: Report) -> None:
        """Copy files that git ignores and that a file of the template would replace."""
        in_the_way = set()
        for path in {*self.entries, *self.unmerged} - {*self.repo.entries}:
            for part in (*(str(parent) for parent in Path(path).parents[-2::-1]), path):
                file = self.repo.top / part
                if file.is_dir() and not file.is_symlink():
                    others = ("ls-files", "--others", "--", part)
                    is_here = part == path and bool(git(self.repo.top, *others))
                else:
                    is_here = os.path.lexists(file) and part not in self.repo.entries
                if is_here:
                    in_the_way.add(part)
                    break
        now = datetime.datetime.now().strftime("%Y-%m-%d-%H%M%S-%f")
        for path in sorted(in_the_way):
            with contextlib.suppress(GitError):
                git(self.repo.top, "check-ignore", "--quiet", "--", path)
                file = self.repo.top / path
                kept = self.repo.common / "replaced-by-update" / now / path
                try:
                    copy(file, kept)
                except OSError as error:
                    reason = f"{path} is in the way, and cannot be copied: {cause(error)}"
                    raise UpdateError(REFUSED, reason, "move it away") from None
                report.kept[self._short(path)] = str(kept)
                continue
            raise UpdateError(
                REFUSED,
                f"{path} is in the way: the template brings a file of this name",
                f"git add {path}, and commit it; or move it away",
            )

    def commit(self, report: Report) -> str:
        """Commit the result, with a lock file that fits, and return the commit."""
        prefix = self.repo.prefix
        project = prefix + "pyproject.toml"
        is_locked = prefix + LOCK_FILE in self.repo.entries
        if is_locked and self.entries.get(project) != self.repo.entries.get(project):
            uv = os.environ.get("UV") or shutil.which("uv") or "uv"
            env = own_environment()
            command = [uv, "lock", "--quiet", "--project", str(self.work_tree / prefix)]
            try:
                subprocess.run(command, check=True, capture_output=True, text=True, env=env)
                git(self.work_tree, "add", "--", prefix + LOCK_FILE)
                if git(self.work_tree, "diff", "--cached", "--name-only", "--", prefix + LOCK_FILE):
                    report.changed.append(LOCK_FILE)
            except (OSError, subprocess.CalledProcessError) as error:
                stderr = str(getattr(error, "stderr", "") or "").strip()
                reason = (stderr or str(error)).splitlines()[-1]
                hint = f"{NOX} -s setup updates it"
                report.notes.append(f"{LOCK_FILE} is as it was ({reason}); {hint}.")
        try:
            git(self.work_tree, "commit", "--quiet", "--no-verify", "--message", self.message)
        except GitError as error:
            hint = ""
            with contextlib.suppress(GitError):
                if git(self.work_tree, "config", "--type=bool", "commit.gpgSign") == "true":
                    hint = (
                        "git signs commits here: mend the key, or git config commit.gpgSign false"
                    )
            raise UpdateError(FAILED, f"git cannot make the commit: {error}", hint) from None
        return git(self.work_tree, "rev-parse", "HEAD")

    def check(self) -> None:
        """Run the repo's lint and tests on the result, and if they fail, on what it was before."""
        if self._passes():
            return
        print("update: the updated repo fails; now without the update", file=sys.stderr)
        git(self.work_tree, "checkout", "--quiet", "--force", "--detach", "HEAD^")
        git(self.work_tree, "clean", "--quiet", "-ffdx")
        before = "passes without the update" if self._passes() else "failed before the update, too"
        raise UpdateError(
            FAILED,
            f"the updated repo fails its lint or tests, so nothing has changed; it {before}",
            "without --check it is updated all the same, and can be mended there",
        )

    def _passes(self) -> bool:
        nox = (os.environ.get("NOX_PYTHON", sys.executable), "-m", "nox", "-s", "lint", "test")
        folder, env = self.work_tree / self.repo.prefix, own_environment()
        done = subprocess.run(nox, cwd=folder, env=env, stdout=sys.stderr, check=False)
        return done.returncode == 0

    def bring_in(self, report: Report, commit: str) -> None:
        """Make the branch at this commit, with the result; if that fails, all is as before."""
        top, base, branch = self.repo.top, self.base, report.branch
        tree = self._tree_of_conflicts() if self.stages else commit
        listed = ("diff-tree", "-r", "-z", "--name-status", "--no-renames", base, tree)
        words = git(top, *listed).split("\0")
        changed = dict(zip(words[1::2], words[::2], strict=False))
        lines = [f"0 {line.split()[1]}\t{line.partition(chr(9))[2]}" for line in self.stages]
        stages = self.work_tree.with_name(".stages")
        stages.write_bytes(os.fsencode("".join(f"{line}\0" for line in lines + self.stages)))
        # One process, so that nothing comes between; `"$@"` is git with its settings. Whatever is
        # refused is refused before the first file changes, and HEAD, one small file, comes last.
        script = """
            before=$1 base=$2 branch=$3 commit=$4 tree=$5 stages=$6 from=$7 to=$8; shift 8
            [ "$("$@" rev-parse HEAD)" = "$base" ] || { echo "HEAD has moved"; exit 9; }
            "$@" read-tree -n -m -u "$base" "$tree" || exit 9
            "$@" branch --quiet --no-track "$branch" "$commit" || exit 9
            "$@" read-tree -m -u "$base" "$tree" || exit
            if [ -s "$stages" ]; then
                "$@" update-index -z --index-info <"$stages" && cp "$from" "$to" || exit
            fi
            "$@" symbolic-ref -m "checkout: moving from $before to $branch" HEAD \
                "refs/heads/$branch"
        """
        messages = (str(git_folder(folder) / "MERGE_MSG") for folder in (self.work_tree, top))
        arguments = (self.repo.branch, base, branch, commit, tree, str(stages), *messages, *GIT)
        code, reason = detached(top, ["sh", "-c", script, "sh", *arguments])
        if not code:
            removed = [path for path, kind in changed.items() if kind == "D"]
            others = ("--literal-pathspecs", "ls-files", "--others", "-z", "--", *removed)
            left = {*removed} & {*(git(top, *others) if removed else "").split("\0")}
            if not left:
                return
            reason = f"cannot remove {', '.join(sorted(left))}"
        message, hint = f"git cannot bring the update in: {reason}", ""
        if code != 9:
            try:
                self._take_back(report, commit, changed)
            except (GitError, OSError) as error:
                message += f"\nand the repo is half updated: {error}"
                hint = (
                    f"mend that, then git symbolic-ref HEAD {shlex.quote(self._head)} && "
                    f"git read-tree --reset {tree} && git read-tree --reset -u {base} && "
                    f"git update-ref -d refs/heads/{branch}{report.put_back}"
                )
        raise UpdateError(FAILED, message, hint)

    @property
    def _head(self) -> str:
        return f"refs/heads/{self.repo.branch}"

    def _tree_of_conflicts(self) -> str:
        """The tree of the result, whose files in conflict are as the merge has left them."""
        for line in self.stages:
            head, path = line.split("\t", 1)
            if head.startswith("160000"):  # a submodule, of which git finds no commit here
                entry = f"160000,{head.split()[1]},{path}"
                git(self.work_tree, "update-index", "--cacheinfo", entry)
        git(self.work_tree, "add", "--update")
        return git(self.work_tree, "write-tree")

    def _take_back(self, report: Report, commit: str, changed: Mapping[str, str]) -> None:
        """Make the user's files, index and branches what they were, without any other file."""
        top = self.repo.top
        if git(top, "symbolic-ref", "HEAD") != self._head:
            git(top, "symbolic-ref", "HEAD", self._head)
        try:
            if git(top, "diff-index", "--cached", "--name-only", self.base):
                git(top, "read-tree", "--reset", self.base)
                with contextlib.suppress(GitError):  # it fails if it finds changes
                    git(top, "update-index", "-q", "--refresh")
            if self.stages:
                (git_folder(top) / "MERGE_MSG").unlink(missing_ok=True)
            kept = {self.repo.prefix + name: Path(there) for name, there in report.kept.items()}
            lost = {path: there for path, there in kept.items() if not is_copy(there, top / path)}
            intact = kept.keys() - lost.keys()
            for path in (path for path, kind in changed.items() if kind == "A"):
                file = top / path
                if path in intact:
                    continue
                if not any(each.is_symlink() for each in file.parents if top in each.parents):
                    if os.path.lexists(file) and (file.is_symlink() or not file.is_dir()):
                        file.unlink()
                    with contextlib.suppress(OSError):
                        os.removedirs(file.parent)
            given = "".join(f"{path}\0" for path, kind in changed.items() if kind != "A")
            git(top, "checkout-index", "--force", "-z", "--stdin", given=given)
            for path, there in lost.items():
                copy(there, top / path)
        finally:
            git(top, "update-ref", "-d", f"refs/heads/{report.branch}", commit)

    def show_diff(self) -> None:
        """Print the whole difference to the last commit."""
        last = git(self.repo.top, "rev-parse", "HEAD")
        sys.stdout.flush()
        command = [*GIT, "--no-pager", "diff", "--find-renames", last]
        subprocess.run(command, cwd=self.work_tree, env=environment(), check=False)


def own_environment() -> dict[str, str]:
    """The variables for commands in the work tree, which have its own environment of packages."""
    others = ("VIRTUAL_ENV", "UV_PROJECT_ENVIRONMENT")
    return {name: value for name, value in environment().items() if name not in others}


def copy(source: Path, to: Path) -> None:
    """Copy a file, a link or a folder to a place that may have it already."""
    to.parent.mkdir(parents=True, exist_ok=True)
    if source.is_dir() and not source.is_symlink():
        shutil.copytree(source, to, symlinks=True, dirs_exist_ok=True)
    else:
        to.unlink(missing_ok=True)
        shutil.copy2(source, to, follow_symlinks=False)


def cause(error: OSError) -> str:
    """What went wrong, and with which file; the first of many of a folder."""
    if isinstance(error, shutil.Error) and error.args and isinstance(error.args[0], list):
        return str(error.args[0][0][2])
    return f"{error.strerror}: {error.filename}" if error.filename else str(error)


def is_copy(copied: Path, file: Path) -> bool:
    """True if the file, link or folder is still the one that `copy` has copied."""
    with contextlib.suppress(OSError):
        one, other = copied.lstat(), file.lstat()
        return (one.st_mode, one.st_mtime_ns) == (other.st_mode, other.st_mtime_ns)
    return False


def changelog_between(old: Path, new: Path) -> str:
    """The sections of the new changelog that the old one lacks, or has with another text."""
    before, after = (
        dict(re.findall(r"^## (.+)\n((?:(?!## ).*\n)*)", text, re.MULTILINE))
        for text in (
            (folder / CHANGELOG).read_text("utf-8") + "\n" if (folder / CHANGELOG).exists() else ""
            for folder in (old, new)
        )
    )
    return "\n\n".join(
        f"## {title}\n\n{text.strip()}"
        for title, text in after.items()
        if text.strip() and before.get(title, "").strip() != text.strip()
    )


def address(source: str) -> str:
    """The address for git of a template, as Copier understands it."""
    for short, host in (("gh:", "https://github.com/"), ("gl:", "https://gitlab.com/")):
        if source.startswith(short):
            return f"{host}{source.removeprefix(short).removesuffix('.git')}.git"
    return os.path.expanduser(source.removeprefix("git+"))  # noqa: PTH111 - it may be a URL


def without_password(text: str) -> str:
    """The text, in which addresses have no user and no password."""
    return re.sub(r"(?<=://)[^/@\s]+@", "", text)


def versions_of(tags: Iterable[str]) -> list[str]:
    """The tags that are versions, the oldest first."""
    versions = [(version, tag) for tag in tags if (version := version_of(tag))]
    return [tag for _, tag in sorted(versions)]


def is_release(tag: str) -> bool:
    """True if the tag is a version, and no pre-release."""
    version = version_of(tag)
    return version is not None and not version.is_prerelease


def version_of(tag: str) -> Version | None:
    """The tag as a version; None if it is not one."""
    with contextlib.suppress(InvalidVersion):
        return Version(tag)
    return None


def git(
    folder: Path, *arguments: str, given: str | None = None, env: Mapping[str, str] | None = None
) -> str:
    """The output of git in the folder; GitError with its messages if it fails."""
    done = subprocess.run(
        [*GIT, *arguments],
        cwd=folder,
        env={**environment(), **(env or {})},
        input=given,
        stdin=subprocess.DEVNULL if given is None else None,
        capture_output=True,
        encoding="utf-8",
        errors="surrogateescape",
        check=False,
        restore_signals=False,  # where a file may grow no more, git says so instead of being killed
    )
    if done.returncode:
        lines = [line.strip() for line in done.stderr.splitlines()]
        causes = ("error: ", "fatal: ", "ssh: ", "remote: error: ", "! [")
        lines = [line for line in lines if line.startswith(causes)] or lines
        reason = " ".join(line.removeprefix("fatal: ") for line in lines[:5]).strip()
        if done.returncode < 0:
            reason += f"git {arguments[0]} was killed: {signal.strsignal(-done.returncode)}"
        raise GitError(without_password(reason))
    return done.stdout.removesuffix("\n")


def git_folder(work_tree: Path) -> Path:
    """git's own folder for the work tree."""
    return work_tree / git(work_tree, "rev-parse", "--git-dir")


@functools.cache
def environment() -> dict[str, str]:
    """The variables of this process, without those that choose a repo for git."""
    command = ["git", "rev-parse", "--local-env-vars"]
    listed = subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()
    kept = {
        name: value
        for name, value in os.environ.items()
        if name not in listed or name.startswith("GIT_CONFIG_")
    }
    return {"GIT_TERMINAL_PROMPT": str(int(is_watched())), **kept}


def detached(folder: Path, command: Sequence[str]) -> tuple[int, str]:
    """Run a command that changes the user's tree, to its end even if this process is killed.

    Returns its exit code, and what it prints.
    """
    process = subprocess.Popen(
        command,
        cwd=folder,
        env=environment(),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        encoding="utf-8",
        errors="replace",
        start_new_session=True,
        restore_signals=False,
    )
    while True:
        with contextlib.suppress(KeyboardInterrupt):
            printed, _ = process.communicate()
            return process.returncode, printed.strip()


def parser() -> argparse.ArgumentParser:
    """The options of an update."""
    made = argparse.ArgumentParser(
        prog="nox -s update --",
        description="Bring what is new in the template into this repo, as one commit on a branch "
        "of its own. What you have changed is kept and merged; nothing of yours is lost.",
        epilog=EXIT_CODES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    made.add_argument(
        "answers", nargs="*", metavar="NAME=VALUE", help="another answer, e.g. with_examples=false"
    )
    made.add_argument("--preview", action="store_true", help="show what would change, and stop")
    made.add_argument("--diff", action="store_true", help="show every line that changes")
    made.add_argument("--issue", type=issue_number, help="the issue that names the branch, e.g. 9")
    made.add_argument("--to", metavar="VERSION", help="this version instead of the newest")
    made.add_argument(
        "--check", action="store_true", help="run lint and tests on the result before it comes in"
    )
    made.add_argument("--template", metavar="ADDRESS", help="where the template is now")
    made.add_argument(
        "--report", type=Path, metavar="FILE", help="also write the report, to a .md or .json file"
    )
    return made


def parsed(arguments: Sequence[str]) -> argparse.Namespace:
    """The options, in which the answers are a dict."""
    made = parser()
    options = made.parse_intermixed_args(arguments)
    pairs = [answer.partition("=") for answer in options.answers]
    for name, equals, _ in pairs:
        if not equals:
            made.error(f"{name} is no answer; write NAME=VALUE, e.g. with_examples=false")
    options.answers = {name: value for name, _, value in pairs}
    check_options(made, options)
    return options


def check_options(parser: argparse.ArgumentParser, options: argparse.Namespace) -> None:
    """Check before the update that its report can be written after it, and what it is to."""
    if options.report and options.report.suffix not in (".md", ".json"):
        parser.error(f"--report {options.report}: the file's name ends in .md or .json")
    if options.report and options.report.is_dir():
        parser.error(f"--report {options.report}: it is a folder")
    if options.report:
        place = options.report if options.report.exists() else options.report.parent
        if not os.access(place, os.W_OK):
            parser.error(f"--report {options.report}: cannot write to {place}")
    if options.to == "":
        parser.error("--to: no version is named, e.g. 2026.12.0")


def main(arguments: Sequence[str]) -> int:
    """Update the repo in the current folder; see EXIT_CODES."""
    options = parsed(arguments)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")  # not every terminal has every character
    try:
        if not shutil.which("git"):
            raise UpdateError(FAILED, "git is not on PATH", "apt install git, or brew install git")
        repo = Repo.of(Path.cwd())
        if not options.preview:
            repo.check_state()
        with tempfile.TemporaryDirectory(prefix=TEMPORARY) as folder:
            source = options.template or repo.answers["_src_path"]
            if is_watched():
                print(f"Reading the template {without_password(source)}", file=sys.stderr)
            template = Template(repo.absolute(source), Path(folder))
            code, report = update(repo, template, options, Path(folder))
    except UpdateError as error:
        print(f"update: {error}", file=sys.stderr)
        return error.code
    except GitError as error:
        print(f"update: git failed: {error}", file=sys.stderr)
        return FAILED
    except KeyboardInterrupt:
        print("update: interrupted", file=sys.stderr)
        return 130
    if report is None:
        print(f"The repo has the template's newest version, {repo.answers['_commit']}")
        return code
    unwritten = None
    if options.report:
        written = json.dumps(asdict(report), indent=2, ensure_ascii=False)
        unwritten = write_report(
            options.report, written if options.report.suffix == ".json" else report.markdown()
        )
    back = f"git switch {'--force ' if report.conflicts else ''}{shlex.quote(repo.branch)}"
    undo = f"{back} && git branch -D {report.branch}{report.put_back}"
    if options.preview:
        again = [each for each in arguments if each not in ("--preview", "--diff")]
        words = shlex.join(again if options.issue else ["--issue", "NUMBER", *again])
        text = f"Nothing has changed. Next: {NOX} -s update -- {words}"
    elif report.conflicts:
        text = (
            f"You are on the branch {report.branch}. Make one text of what is between <<<<<<< and\n"
            f">>>>>>>, and git add each file in conflict.\n"
            f"Next: {NOX} -s setup lint test, then git add --all and git commit\nUndo: {undo}"
        )
    else:
        text = (
            f"You are on the branch {report.branch}, whose one commit is the update.\n"
            f"Next: {NOX} -s setup lint test, then git push -u origin {report.branch}\n"
            f"Undo: {undo}\nand after an undo: {NOX} -s setup"
        )
    try:
        print(f"{report.markdown()}\n\n{text}", flush=True)
    except OSError as error:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        if not isinstance(error, BrokenPipeError):  # else nobody reads, as in `| head`
            unwritten = error
            print(text, file=sys.stderr)
    if report.conflicts and not options.preview:
        names = ", ".join(report.conflicts)
        print(
            f"update: in conflict: {names}\n"
            "The update is there; its exit code 3 says that it has conflicts. nox calls each code "
            "but 0 a failure.",
            file=sys.stderr,
        )
    if unwritten:
        print(f"update: the report cannot be written: {unwritten}", file=sys.stderr)
    return code or (FAILED if unwritten else DONE)


def write_report(file: Path, text: str) -> OSError | None:
    """Write the report; why that failed, e.g. because the disk is full."""
    try:
        file.write_text(text + "\n", encoding="utf-8", errors="backslashreplace")
    except OSError as error:
        return error
    return None


def is_relative(source: str) -> bool:
    """True if the template's address is a path from the repo."""
    return not source.startswith(("/", "~")) and not re.match(r"[^/]+:", source)


def is_watched() -> bool:
    """True if somebody is at a terminal, who sees questions and can answer."""
    return all(stream is not None and stream.isatty() for stream in (sys.stdin, sys.stderr))


if __name__ == "__main__":
    code = DONE
    try:
        code = main(sys.argv[1:])
        sys.stdout.flush()
    except BrokenPipeError:  # nobody reads, as in `| head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except OSError as error:
        sys.exit(f"update: {error}")
    sys.exit(code)
