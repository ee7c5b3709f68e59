"""Cookiecutter's door: the same repo as Copier's, to byte and mode, and kept in step by Copier."""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from .conftest import (
    FIRST,
    SECOND,
    answers_of,
    clean_environment,
    commit,
    git,
    known,
    make_template,
    output,
    unshare,
)

pytestmark = pytest.mark.end_to_end

ANSWERS = known(
    {
        "repo_name": "Sales.2026",
        "description": "Ünï \"quoted\" 'single' \\ {braces} #1: <b> & \U0001f600",
        "author_name": "O'Neill, Ann & 李",
        "license": "Apache-2.0",
        "python_version": "3.11",
        "ci": "none",
        "with_examples": "no",
    }
)
FOR_COPIER = [f"--data={name}={answer}" for name, answer in ANSWERS.items()]
FOR_COOKIECUTTER = [f"{name}={answer}" for name, answer in ANSWERS.items()]
COPIER = (sys.executable, "-m", "copier")
COOKIECUTTER = (sys.executable, "-m", "cookiecutter")
CRUFT = (sys.executable, "-m", "cruft")


@dataclass
class Doors:
    """A user with an empty home, and a template with two releases and an unreleased commit."""

    root: Path
    template: Path

    def run(self, *command: object, exit_code: int = 0, typed: str = "", **variables: str) -> str:
        """Run a command in the user's folder, which must exit so, and return what it prints."""
        here = {"PWD": str(self.folder), **variables}
        return output(command, self.folder, self.root / "home", exit_code, typed, **here)

    @property
    def folder(self) -> Path:
        return self.root / "work"

    def copier(self, source: str, *arguments: str) -> Path:
        """What Copier's own door gives."""
        repo = self.root / "copier" / "Sales.2026"
        self.run(*COPIER, "copy", "--defaults", "--quiet", *FOR_COPIER, *arguments, source, repo)
        return repo

    def cookiecutter(self, source: str, *arguments: str) -> Path:
        """What Cookiecutter's door gives."""
        self.run(*COOKIECUTTER, "--no-input", *arguments, source, *FOR_COOKIECUTTER)
        return self.folder / "Sales.2026"


def doors_to(template: Path, root: Path) -> Doors:
    """A user at `root`, for whom https://example.org/ and others lead to the template's folder."""
    for folder in ("home", "work"):
        (root / folder).mkdir()
    rewrites = "".join(
        f'[url "file://{template.parent}/"]\n    insteadOf = {host}\n'
        for host in (
            "https://git.example.org/team/",
            "https://github.com/team/",
            "https://gitlab.com/team/",
            "git@git.example.org:",
        )
    )
    identity = "[user]\n    name = Ann\n    email = ann@example.org\n"
    (root / "home" / ".gitconfig").write_text(rewrites + identity)
    (root / "home" / ".cookiecutterrc").write_text(
        "abbreviations:\n  ours: https://git.example.org/team/{0}\n"
        f"  local: {template.parent}/{{0}}\n"
    )
    return Doors(root, template)


def release(template: Path, version: str | None) -> None:
    """Change the template, and tag it where there is a version."""
    with (template / "templates" / "{{ pipeline }}" / "AGENTS.md.jinja").open("a") as guide:
        guide.write(f"\nThis is {version or 'not released'}.\n")
    commit(template, f"Version {version}", tag=version)


@pytest.fixture(scope="module")
def released(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A template with two releases and a commit that is not released; never changed by a test."""
    template = make_template(tmp_path_factory.mktemp("released") / "headwater.git")
    release(template, SECOND)
    release(template, None)
    return template


@pytest.fixture
def doors(released: Path, tmp_path: Path) -> Doors:
    return doors_to(released, tmp_path)


@pytest.fixture
def own_doors(tmp_path: Path) -> Doors:
    """Doors to a template of one release, which the test may change."""
    return doors_to(make_template(tmp_path / "template" / "headwater"), tmp_path)


def tree(folder: Path) -> dict[str, tuple[int, bytes]]:
    """Mode and bytes of everything in the folder, and of the folder itself."""
    return {
        path.relative_to(folder).as_posix(): (
            path.lstat().st_mode,
            path.read_bytes() if path.is_file() else b"",
        )
        for path in [folder, *folder.rglob("*")]
    }


SOURCES = {
    "a URL": ("https://git.example.org/team/headwater.git",) * 2,
    "a URL that only `git+` tells to be git's": (
        "https://git.example.org/team/headwater",
        "git+https://git.example.org/team/headwater",
    ),
    "a URL with `git+`": ("git+https://git.example.org/team/headwater.git",) * 2,
    "an address of ssh": ("git@git.example.org:headwater.git",) * 2,
    "a URL of GitHub": ("https://github.com/team/headwater",) * 2,
    "an abbreviation of both": ("gh:team/headwater",) * 2,
    "another abbreviation of both": ("gl:team/headwater",) * 2,
    "an abbreviation of the user's": (
        "ours:headwater",
        "git+https://git.example.org/team/headwater",
    ),
    "an abbreviation of the user's for a folder": ("local:{template.name}", "{template}"),
    "an absolute path": ("{template}",) * 2,
    "a relative path": ("{relative}",) * 2,
}
NIGHTLY = pytest.mark.nightly
BY_DAY = ("a URL that only `git+` tells to be git's", "an abbreviation of both", "a relative path")


@pytest.mark.parametrize(
    "source",
    [pytest.param(each, marks=[] if each in BY_DAY else NIGHTLY) for each in SOURCES],
)
def test_both_doors_give_the_same_tree(doors: Doors, source: str) -> None:
    relative = os.path.relpath(doors.template, doors.folder)
    typed, for_copier = (
        text.format(template=doors.template, relative=relative) for text in SOURCES[source]
    )
    ours = doors.cookiecutter(typed)
    assert tree(ours) == tree(doors.copier(for_copier))
    answers = answers_of(ours)
    assert answers["_commit"] == SECOND, "the last release, not what is on the branch"
    recorded = str(doors.template) if typed == relative else for_copier
    assert answers["_src_path"] == recorded, "as it was given, or whole where it was relative"
    assert answers["description"] == ANSWERS["description"]


@pytest.mark.parametrize(
    ("source", "version"),
    [
        ("https://git.example.org/team/headwater.git", FIRST),
        ("{template}", "main"),
        pytest.param("{template}", FIRST, marks=NIGHTLY),
    ],
)
def test_a_version_is_chosen_by_checkout(doors: Doors, source: str, version: str) -> None:
    source = source.format(template=doors.template)
    ours = doors.cookiecutter(source, "--checkout", version)
    assert tree(ours) == tree(doors.copier(source, "--vcs-ref", version))
    assert str(answers_of(ours)["_commit"]).startswith(FIRST if version == FIRST else f"{SECOND}-1")


def test_with_no_answer_at_all_both_doors_agree(doors: Doors) -> None:
    copied = doors.root / "copier" / "my-pipelines"
    doors.run(*COPIER, "copy", "--defaults", "--quiet", doors.template, copied)
    doors.run(*COOKIECUTTER, "--no-input", doors.template)
    assert tree(doors.folder / "my-pipelines") == tree(copied)


def test_typed_answers_arrive_and_a_replay_repeats_them(doors: Doors) -> None:
    typed = ["Sales.2026", "", 'A "{{ 7 * 7 }}" \\ é', "", "", "", "3", "", "2", "", "n"]
    said = doors.run(*COOKIECUTTER, doors.template, typed="\n".join([*typed, ""]))
    assert "Name of the repo and of its distribution" in said
    assert "(sales_2026)" in said, "what the package would be called"
    assert "Sales.2026 is ready" in said, "what Copier says is passed on"
    assert "Left out" not in said
    repo = doors.folder / "Sales.2026"
    answers = answers_of(repo)
    assert answers["description"] == 'A "{{ 7 * 7 }}" \\ é'
    assert (answers["license"], answers["ci"]) == ("Apache-2.0", "none")
    assert answers["with_examples"] is False
    before = tree(repo)
    shutil.rmtree(repo)
    doors.run(*COOKIECUTTER, "--replay", doors.template)
    assert tree(repo) == before


def test_copier_updates_what_came_through_cookiecutter_s_door(own_doors: Doors) -> None:
    for name, source in {
        "by-url": "https://git.example.org/team/headwater",
        "by-path": str(own_doors.template),
        "by-relative-path": os.path.relpath(own_doors.template, own_doors.folder),
    }.items():
        own_doors.run(*COOKIECUTTER, "--no-input", source, f"repo_name={name}")
    release(own_doors.template, SECOND)
    for repo in own_doors.folder.iterdir():
        git(repo, "init", "--quiet")
        commit(repo, "The repo")
        own_doors.run(*COPIER, "update", "--defaults", "--quiet", repo)
        assert f"This is {SECOND}." in (repo / "AGENTS.md").read_text()
        assert answers_of(repo)["_commit"] == SECOND


@pytest.mark.nightly
def test_cruft_creates_checks_and_updates(own_doors: Doors) -> None:
    source = "https://git.example.org/team/headwater"
    own_doors.run(*CRUFT, "create", source, "--no-input", "--extra-context", json.dumps(ANSWERS))
    repo = own_doors.folder / "Sales.2026"
    assert without_cruft(repo) == tree(own_doors.copier(f"git+{source}"))
    git(repo, "init", "--quiet")
    commit(repo, "The repo")
    here = ("--project-dir", str(repo))
    own_doors.run(*CRUFT, "check", *here)
    release(own_doors.template, None)
    own_doors.run(*CRUFT, "check", *here, exit_code=1)
    own_doors.run(*CRUFT, "update", "--skip-apply-ask", *here)
    own_doors.run(*CRUFT, "check", *here)
    shutil.rmtree(own_doors.root / "copier")
    head = own_doors.copier(f"git+{source}", "--vcs-ref", "main")
    assert without_cruft(repo) == tree(head), "Cruft goes by branches"
    commit(repo, "What is new")
    release(own_doors.template, SECOND)
    own_doors.run(*COPIER, "update", "--defaults", "--quiet", repo)
    assert f"This is {SECOND}." in (repo / "AGENTS.md").read_text(), "Copier goes on from there"


def without_cruft(repo: Path) -> dict[str, tuple[int, bytes]]:
    """The repo's tree without what Cruft and git keep there."""
    return {
        name: it for name, it in tree(repo).items() if not re.match(r"\.git/|\.git$|\.cruft", name)
    }


@pytest.mark.parametrize(
    ("question", "answer", "told"),
    [
        ("package_name", "class", "'package_name': is taken by Python"),
        ("package_name", "Ünïcode", "'package_name': must be 1 to 40 of a-z"),
        ("repo_name", "team/sales", "'repo_name': must be 1 to 64"),
        ("repo_name", "x" * 300, "'repo_name': must be 1 to 64"),
        pytest.param("description", " ", "'description': must not be blank", marks=NIGHTLY),
        pytest.param("repo_name", "\U0001f600" * 64, "'repo_name': must be 1 to 64", marks=NIGHTLY),
        pytest.param("repo_name", "-x", "'repo_name': must be 1 to 64", marks=NIGHTLY),
    ],
)
def test_what_copier_refuses_is_told_as_it_is_and_leaves_nothing(
    doors: Doors, question: str, answer: str, told: str
) -> None:
    said = doors.run(
        *COOKIECUTTER, "--no-input", doors.template, f"{question}={answer}", exit_code=1
    )
    assert f"Validation error for question {told}" in said
    assert "copier" not in said.lower().replace(str(doors.template), ""), "nor a traceback of it"
    assert list(doors.folder.iterdir()) == []


def environment(folder: Path, *requirements: str) -> Path:
    """The folder of programs of a new environment with these packages."""
    uv = shutil.which("uv") or "uv"
    for command in (
        [uv, "venv", "--quiet", "--python", sys.executable, str(folder)],
        [
            uv,
            "pip",
            "install",
            "--quiet",
            "--python",
            str(folder / "bin" / "python"),
            *requirements,
        ],
    ):
        subprocess.run(command, check=True)
    return folder / "bin"


def test_a_version_that_is_not_there_is_named(doors: Doors) -> None:
    command = (*COOKIECUTTER, "--no-input", doors.template, "--checkout", "nosuch")
    said = doors.run(*command, exit_code=1)
    assert "Unknown revision: 'nosuch'" in said
    assert 'copier/_main.py"' not in said, "a sentence, no traceback of Copier's"
    assert list(doors.folder.iterdir()) == []


@pytest.fixture(scope="module")
def bare(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An environment that has Cookiecutter and no Copier."""
    return environment(tmp_path_factory.mktemp("bare") / "venv", "cookiecutter")


def path_with(folder: Path, *programs: str) -> str:
    """A PATH with all that there is, but of copier and uvx only these."""
    folder.mkdir()
    path = [sys.prefix + "/bin", *os.environ["PATH"].split(os.pathsep)]
    for program in (each for part in path if Path(part).is_dir() for each in Path(part).iterdir()):
        if program.name in programs or program.name not in ("copier", "uvx"):
            with contextlib.suppress(FileExistsError):
                (folder / program.name).symlink_to(program)
    return str(folder)


@pytest.mark.parametrize("program", ["copier", "uvx"])
def test_where_copier_is_no_neighbour_it_is_looked_for(
    doors: Doors, bare: Path, program: str
) -> None:
    path = path_with(doors.root / "path", program)
    command = (bare / "cookiecutter", "--no-input", doors.template, *FOR_COOKIECUTTER)
    doors.run(*command, PATH=path)
    assert tree(doors.folder / "Sales.2026") == tree(doors.copier(str(doors.template)))


def test_where_there_is_no_git_one_sentence_says_so(doors: Doors) -> None:
    path = path_with(doors.root / "path", "copier")
    (doors.root / "path" / "git").unlink()
    said = doors.run(*COOKIECUTTER, "--no-input", doors.template, PATH=path, exit_code=1)
    assert "git is needed and is not on PATH; " in said
    assert list(doors.folder.iterdir()) == []


def test_a_relative_path_is_found_whatever_the_shell_says(doors: Doors) -> None:
    relative = os.path.relpath(doors.template, doors.folder)
    doors.run(*COOKIECUTTER, "--no-input", relative, PWD="/")
    assert answers_of(doors.folder / "my-pipelines")["_src_path"] == str(doors.template)


def test_a_relative_path_is_found_without_proc(doors: Doors) -> None:
    """As on macOS, where the shell says in which folder it is."""
    command = unshare("--map-root-user", "--mount")
    script = 'mount -t tmpfs tmpfs /proc; exec "$@"'
    relative = os.path.relpath(doors.template, doors.folder)
    cookiecutter = (*COOKIECUTTER, "--no-input", relative)
    doors.run(*command, "sh", "-c", script, "sh", *cookiecutter)
    assert answers_of(doors.folder / "my-pipelines")["_src_path"] == str(doors.template)
    command = [*command, "sh", "-c", script, "sh", "env", "PWD=/"]
    said = doors.run(*command, *cookiecutter, "repo_name=other", exit_code=1)
    assert f"{relative} cannot be found from here; give the template's whole path" in said


def test_where_there_is_no_copier_one_sentence_says_so(doors: Doors, bare: Path) -> None:
    path = path_with(doors.root / "path")
    said = doors.run(bare / "cookiecutter", "--no-input", doors.template, PATH=path, exit_code=1)
    assert "This template needs Copier, and there is neither copier nor uvx on PATH; " in said
    assert list(doors.folder.iterdir()) == []


@pytest.mark.parametrize(
    ("requirement", "told"),
    [
        ("cookiecutter==2.3.0", "This template needs Cookiecutter 2.4 or newer"),
        ("copier==9.4.1", "This template requires Copier version >= 9.19.0"),
    ],
)
def test_one_that_is_too_old_is_told_so(doors: Doors, requirement: str, told: str) -> None:
    programs = environment(doors.root / "venv", "cookiecutter", requirement)
    said = doors.run(programs / "cookiecutter", "--no-input", doors.template, exit_code=1)
    assert told in said
    assert list(doors.folder.iterdir()) == []


def test_a_template_without_git_is_refused(doors: Doors) -> None:
    archive = doors.root / "headwater.zip"
    git(doors.template, "archive", f"--output={archive}", "--prefix=headwater-main/", "HEAD")
    said = doors.run(*COOKIECUTTER, "--no-input", archive, exit_code=1)
    assert f"{archive} came without a git history of its own" in said
    assert "name the template by its git URL" in said
    assert list(doors.folder.iterdir()) == []


def test_a_zip_is_refused_though_it_holds_a_history(doors: Doors) -> None:
    archive = shutil.make_archive(
        str(doors.root / "headwater"), "zip", doors.template.parent, doors.template.name
    )
    said = doors.run(*COOKIECUTTER, "--no-input", archive, exit_code=1)
    assert f"{archive} came without a git history of its own" in said
    assert list(doors.folder.iterdir()) == []


def test_a_clone_s_remote_may_have_another_name(doors: Doors) -> None:
    with (doors.root / "home" / ".gitconfig").open("a") as config:
        config.write("[clone]\n    defaultRemoteName = upstream\n")
    repo = doors.cookiecutter("ours:headwater")
    assert answers_of(repo)["_src_path"] == "git+https://git.example.org/team/headwater"


def test_a_temporary_folder_may_hold_anything_and_run_nothing(doors: Doors, bare: Path) -> None:
    folder = doors.root / "tmp"
    folder.mkdir()
    command = unshare("--map-root-user", "--mount")
    script = 'mount -t tmpfs -o noexec tmpfs "$TMPDIR"; mkdir "$TMPDIR/copier"; exec "$@"'
    cookiecutter = (bare / "cookiecutter", "--no-input", doors.template)
    path = path_with(doors.root / "path", "copier")
    doors.run(*command, "sh", "-c", script, "sh", *cookiecutter, TMPDIR=str(folder), PATH=path)
    assert (doors.folder / "my-pipelines" / "AGENTS.md").exists()


def test_a_folder_that_is_there_is_left_alone_overwritten_or_filled(doors: Doors) -> None:
    repo = doors.folder / "Sales.2026"
    repo.mkdir()
    for name in ("AGENTS.md", "mine.txt"):
        (repo / name).write_text("mine\n")
    command = (*COOKIECUTTER, "--no-input", doors.template, *FOR_COOKIECUTTER)
    assert "already exists" in doors.run(*command, exit_code=1)
    assert sorted(path.name for path in repo.iterdir()) == ["AGENTS.md", "mine.txt"]
    said = doors.run(*command, "--overwrite-if-exists", "--skip-if-file-exists")
    assert "Left out" not in said
    assert (repo / "AGENTS.md").read_text() == "mine\n"
    doors.run(*command, "--overwrite-if-exists")
    assert (repo / "mine.txt").read_text() == "mine\n"
    (repo / "mine.txt").unlink()
    assert tree(repo) == tree(doors.copier(str(doors.template)))


def test_what_is_in_a_folder_that_is_there_is_not_run(doors: Doors) -> None:
    repo = doors.folder / "Sales.2026"
    (repo / "copier").mkdir(parents=True)
    for module in ("yaml.py", "logging.py", "copier/__init__.py"):
        (repo / module).write_text("raise SystemExit('this must not run')\n")
    command = (*COOKIECUTTER, "--no-input", doors.template, *FOR_COOKIECUTTER)
    doors.run(*command, "--overwrite-if-exists")
    assert (repo / "AGENTS.md").exists()


def test_a_refusal_over_a_folder_that_is_there_changes_nothing_in_it(doors: Doors) -> None:
    repo = doors.folder / "class"
    repo.mkdir()
    (repo / "mine.txt").write_text("mine\n")
    before = tree(repo)
    command = (*COOKIECUTTER, "--no-input", doors.template, "repo_name=class", "description= ")
    said = doors.run(*command, "--overwrite-if-exists", exit_code=1)
    assert "must not be blank" in said
    assert tree(repo) == before


def test_an_answer_to_a_question_that_is_not_released_is_named(own_doors: Doors) -> None:
    for name in ("copier.yml", "cookiecutter.json"):
        file = own_doors.template / name
        new = "with_airflow: {type: bool, help: Airflow too?, default: false}\n\nrepo_name:"
        text = file.read_text().replace("\nrepo_name:", f"\n{new}", 1)
        file.write_text(text.replace("{\n", '{\n  "with_airflow": false,\n', 1))
    commit(own_doors.template, "Ask for Airflow")
    said = own_doors.run(*COOKIECUTTER, "--no-input", own_doors.template, "with_airflow=yes")
    assert "Left out, for the version that was taken does not ask it: with_airflow" in said
    assert answers_of(own_doors.folder / "my-pipelines")["_commit"] == FIRST


def test_a_choice_that_is_not_released_is_refused(own_doors: Doors) -> None:
    for name, old in (("copier.yml", "[github, none]"), ("cookiecutter.json", '"none"')):
        file = own_doors.template / name
        text = file.read_text()
        assert old in text
        new = old.replace("none]", "none, other]").replace('"none"', '"none", "other"')
        file.write_text(text.replace(old, new))
    commit(own_doors.template, "Another choice")
    said = own_doors.run(*COOKIECUTTER, "--no-input", own_doors.template, "ci=other", exit_code=1)
    assert "Invalid choice for 'ci': 'other' is not in ['github', 'none']" in said
    assert 'copier/_main.py"' not in said, "a sentence, no traceback of Copier's"


def test_an_interrupt_leaves_nothing(doors: Doors) -> None:
    repo = doors.folder / "my-pipelines"
    # As at a terminal: what a shell runs in the background is deaf to Ctrl-C, these tests perhaps.
    hears = "import os, signal, sys; signal.signal(signal.SIGINT, signal.SIG_DFL); os.execv"
    running = subprocess.Popen(
        [
            *(sys.executable, "-c", f"{hears}(sys.argv[1], sys.argv[1:])"),
            *(*COOKIECUTTER, "--no-input", str(doors.template)),
        ],
        cwd=doors.folder,
        env=clean_environment(doors.root / "home"),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    wait_until((repo / ".copier-answers.yml").exists)
    os.killpg(running.pid, signal.SIGINT)  # as a terminal does at Ctrl-C
    assert running.wait(30) != 0
    wait_until(lambda: not repo.exists())


def wait_until(holds: Callable[[], bool]) -> None:
    """Wait until it holds, for at most 30 s."""
    end = time.monotonic() + 30
    while not holds():
        assert time.monotonic() < end
        time.sleep(0.01)
