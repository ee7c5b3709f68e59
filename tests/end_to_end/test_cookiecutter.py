"""Cookiecutter makes the same repo as Copier, to byte and mode, and Copier can update it."""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

from ..conftest import (
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
    wait_until,
)

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
        """Run a command in the user's folder, which must exit so, and return its output."""
        variables = {"PWD": str(self.folder), **variables}
        return output(command, self.folder, self.root / "home", exit_code, typed, **variables)

    @property
    def folder(self) -> Path:
        return self.root / "work"

    def copier(self, source: str, *arguments: str) -> Path:
        """The repo that Copier makes."""
        repo = self.root / "copier" / "Sales.2026"
        self.run(*COPIER, "copy", "--defaults", "--quiet", *FOR_COPIER, *arguments, source, repo)
        return repo

    def cookiecutter(self, source: str, *arguments: str) -> Path:
        """The repo that Cookiecutter makes."""
        self.run(*COOKIECUTTER, "--no-input", *arguments, source, *FOR_COOKIECUTTER)
        return self.folder / "Sales.2026"


def doors_to(template: Path, root: Path) -> Doors:
    """A user at `root`, whose git reads the template's folder for some URLs."""
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
        "abbreviations:\n  company: https://git.example.org/team/{0}\n"
        f"  local: {template.parent}/{{0}}\n"
    )
    return Doors(root, template)


def release(template: Path, version: str | None) -> None:
    """Change the template, and tag it if there is a version."""
    with (template / "templates" / "{{ pipeline }}" / "AGENTS.md.jinja").open("a") as guide:
        guide.write(f"\nThis is {version or 'not released'}.\n")
    commit(template, f"Version {version}", tag=version)


@pytest.fixture(scope="module")
def released(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A template with two releases and an unreleased commit; no test changes it."""
    template = make_template(tmp_path_factory.mktemp("released") / "headwater.git")
    release(template, SECOND)
    release(template, None)
    return template


@pytest.fixture
def doors(released: Path, tmp_path: Path) -> Doors:
    return doors_to(released, tmp_path)


@pytest.fixture
def own_doors(tmp_path: Path) -> Doors:
    """Doors to a template of one release, which the test can change."""
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
    "a URL that needs `git+`": (
        "https://git.example.org/team/headwater",
        "git+https://git.example.org/team/headwater",
    ),
    "a URL with `git+`": ("git+https://git.example.org/team/headwater.git",) * 2,
    "an address of ssh": ("git@git.example.org:headwater.git",) * 2,
    "a URL of GitHub": ("https://github.com/team/headwater",) * 2,
    "an abbreviation of both": ("gh:team/headwater",) * 2,
    "another abbreviation of both": ("gl:team/headwater",) * 2,
    "an abbreviation of the user's": (
        "company:headwater",
        "git+https://git.example.org/team/headwater",
    ),
    "an abbreviation of the user's for a folder": ("local:{template.name}", "{template}"),
    "an absolute path": ("{template}",) * 2,
    "a relative path": ("{relative}",) * 2,
}
THOROUGH, NIGHTLY = pytest.mark.thorough, pytest.mark.nightly
WHEN = {
    "a URL that needs `git+`": [],
    "an abbreviation of both": [THOROUGH],
    "a relative path": [THOROUGH],
}


@pytest.mark.parametrize(
    "source", [pytest.param(each, marks=WHEN.get(each, [NIGHTLY])) for each in SOURCES]
)
def test_both_doors_give_the_same_tree(doors: Doors, source: str) -> None:
    relative = os.path.relpath(doors.template, doors.folder)
    typed, for_copier = (
        text.format(template=doors.template, relative=relative) for text in SOURCES[source]
    )
    repo = doors.cookiecutter(typed)
    assert tree(repo) == tree(doors.copier(for_copier))
    answers = answers_of(repo)
    assert answers["_commit"] == SECOND, "the last release, not the last commit"
    recorded = str(doors.template) if typed == relative else for_copier
    assert answers["_src_path"] == recorded, "as given, but absolute"
    assert answers["description"] == ANSWERS["description"]


@pytest.mark.thorough
@pytest.mark.parametrize(
    ("source", "version"),
    [
        ("https://git.example.org/team/headwater.git", FIRST),
        ("{template}", "main"),
        pytest.param("{template}", FIRST, marks=NIGHTLY),
    ],
)
def test_checkout_chooses_the_version(doors: Doors, source: str, version: str) -> None:
    source = source.format(template=doors.template)
    repo = doors.cookiecutter(source, "--checkout", version)
    assert tree(repo) == tree(doors.copier(source, "--vcs-ref", version))
    assert str(answers_of(repo)["_commit"]).startswith(FIRST if version == FIRST else f"{SECOND}-1")


@pytest.mark.thorough
def test_both_doors_have_the_same_defaults(doors: Doors) -> None:
    copied = doors.root / "copier" / "my-pipelines"
    # Copier's default for the Python depends on the one at hand.
    python = ("--data", "python_version=3.12")
    doors.run(*COPIER, "copy", "--defaults", "--quiet", *python, doors.template, copied)
    doors.run(*COOKIECUTTER, "--no-input", doors.template)
    assert tree(doors.folder / "my-pipelines") == tree(copied)


@pytest.mark.thorough
def test_typed_answers_are_kept_and_a_replay_repeats_them(doors: Doors) -> None:
    typed = ["Sales.2026", "", 'A "{{ 7 * 7 }}" \\ é', "", "", "", "3", "", "2", "", "n", "n", "n"]
    printed = doors.run(*COOKIECUTTER, doors.template, typed="\n".join([*typed, ""]))
    assert "The name of the repo and of its distribution" in printed
    assert "(sales_2026)" in printed, "the default of package_name"
    assert "Sales.2026 is ready" in printed, "Copier's message is shown"
    assert "headwater: ignored" not in printed
    repo = doors.folder / "Sales.2026"
    answers = answers_of(repo)
    assert answers["description"] == 'A "{{ 7 * 7 }}" \\ é'
    assert (answers["license"], answers["ci"]) == ("Apache-2.0", "none")
    assert answers["with_examples"] is False
    before = tree(repo)
    shutil.rmtree(repo)
    doors.run(*COOKIECUTTER, "--replay", doors.template)
    assert tree(repo) == before


@pytest.mark.parametrize(
    "source",
    [
        "https://git.example.org/team/headwater",
        pytest.param("{template}", marks=NIGHTLY),
        pytest.param("{relative}", marks=NIGHTLY),
    ],
)
def test_copier_updates_a_repo_that_cookiecutter_made(own_doors: Doors, source: str) -> None:
    relative = os.path.relpath(own_doors.template, own_doors.folder)
    source = source.format(template=own_doors.template, relative=relative)
    own_doors.run(*COOKIECUTTER, "--no-input", source)
    release(own_doors.template, SECOND)
    (repo,) = own_doors.folder.iterdir()
    git(repo, "init", "--quiet")
    commit(repo, "The repo")
    own_doors.run(*COPIER, "update", "--defaults", "--quiet", repo)
    assert f"This is {SECOND}." in (repo / "AGENTS.md").read_text()
    assert answers_of(repo)["_commit"] == SECOND


@pytest.mark.nightly
def test_nox_updates_a_repo_that_cookiecutter_made(own_doors: Doors) -> None:
    own_doors.run(*COOKIECUTTER, "--no-input", own_doors.template)
    release(own_doors.template, SECOND)
    (repo,) = own_doors.folder.iterdir()
    git(repo, "init", "--quiet")
    git(repo, "config", "user.name", "Tester")
    git(repo, "config", "user.email", "t@example.org")
    commit(repo, "The repo")
    output([sys.executable, "hooks/update.py", "--issue", "9"], repo, own_doors.root / "home")
    assert f"This is {SECOND}." in (repo / "AGENTS.md").read_text()
    assert answers_of(repo)["_commit"] == SECOND
    assert not git(repo, "status", "--porcelain")


@pytest.mark.nightly
def test_cruft_creates_checks_and_updates(own_doors: Doors) -> None:
    source = "https://git.example.org/team/headwater"
    own_doors.run(*CRUFT, "create", source, "--no-input", "--extra-context", json.dumps(ANSWERS))
    repo = own_doors.folder / "Sales.2026"
    assert without_cruft(repo) == tree(own_doors.copier(f"git+{source}"))
    git(repo, "init", "--quiet")
    commit(repo, "The repo")
    project = ("--project-dir", str(repo))
    own_doors.run(*CRUFT, "check", *project)
    release(own_doors.template, None)
    own_doors.run(*CRUFT, "check", *project, exit_code=1)
    own_doors.run(*CRUFT, "update", "--skip-apply-ask", *project)
    own_doors.run(*CRUFT, "check", *project)
    shutil.rmtree(own_doors.root / "copier")
    head = own_doors.copier(f"git+{source}", "--vcs-ref", "main")
    assert without_cruft(repo) == tree(head), "Cruft follows the branch"
    commit(repo, "Changes")
    release(own_doors.template, SECOND)
    own_doors.run(*COPIER, "update", "--defaults", "--quiet", repo)
    assert f"This is {SECOND}." in (repo / "AGENTS.md").read_text(), "Copier can take over"


def without_cruft(repo: Path) -> dict[str, tuple[int, bytes]]:
    """The repo's tree without the files of Cruft and git."""
    return {
        name: entry
        for name, entry in tree(repo).items()
        if not re.match(r"\.git/|\.git$|\.cruft", name)
    }


@pytest.mark.parametrize(
    ("question", "answer", "message"),
    [
        ("package_name", "class", "'package_name': is taken by Python, a dependency"),
        ("repo_name", "x" * 300, "'repo_name': must have 1 to 64"),
        pytest.param(
            *("package_name", "Ünïcode", "'package_name': must have only a-z, 0-9"),
            marks=THOROUGH,
        ),
        pytest.param("repo_name", "team/sales", "'repo_name': must have only A-Z", marks=THOROUGH),
        pytest.param("description", " ", "'description': must not be blank", marks=NIGHTLY),
        pytest.param(
            "repo_name", "\U0001f600" * 64, "'repo_name': must have only A-Z", marks=NIGHTLY
        ),
        pytest.param("repo_name", "-x", "'repo_name': must have a letter or digit", marks=NIGHTLY),
    ],
)
def test_copier_s_refusal_is_shown_unchanged_and_leaves_nothing(
    doors: Doors, question: str, answer: str, message: str
) -> None:
    printed = doors.run(
        *COOKIECUTTER, "--no-input", doors.template, f"{question}={answer}", exit_code=1
    )
    assert f"Validation error for question {message}" in printed
    assert "copier" not in printed.lower().replace(str(doors.template), ""), (
        "Copier's traceback is not shown"
    )
    assert list(doors.folder.iterdir()) == []


def environment(folder: Path, *requirements: str) -> Path:
    """The bin folder of a new environment with these packages."""
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


def test_an_unknown_version_is_named(doors: Doors) -> None:
    command = (*COOKIECUTTER, "--no-input", doors.template, "--checkout", "nosuch")
    printed = doors.run(*command, exit_code=1)
    assert "Unknown revision: 'nosuch'" in printed
    assert 'copier/_main.py"' not in printed, "Copier's traceback is not shown"
    assert list(doors.folder.iterdir()) == []


@pytest.fixture(scope="module")
def bare(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An environment with Cookiecutter, but without Copier."""
    return environment(tmp_path_factory.mktemp("bare") / "venv", "cookiecutter")


def path_with(folder: Path, *programs: str) -> str:
    """A PATH with all programs, except that it has copier and uvx only if named."""
    folder.mkdir()
    path = [sys.prefix + "/bin", *os.environ["PATH"].split(os.pathsep)]
    for program in (each for part in path if Path(part).is_dir() for each in Path(part).iterdir()):
        if program.name in programs or program.name not in ("copier", "uvx"):
            with contextlib.suppress(FileExistsError):
                (folder / program.name).symlink_to(program)
    return str(folder)


@pytest.mark.nightly
@pytest.mark.parametrize("program", ["copier", "uvx"])
def test_copier_can_be_outside_cookiecutter_s_environment(
    doors: Doors, bare: Path, program: str
) -> None:
    path = path_with(doors.root / "path", program)
    command = (bare / "cookiecutter", "--no-input", doors.template, *FOR_COOKIECUTTER)
    doors.run(*command, PATH=path)
    assert tree(doors.folder / "Sales.2026") == tree(doors.copier(str(doors.template)))


@pytest.mark.nightly
def test_in_a_hook_of_another_repo_the_same_repo_is_made(doors: Doors) -> None:
    other = doors.root / "other"
    git(doors.root, "init", "--quiet", str(other))
    before = git(other, "config", "--local", "--list"), sorted(other.rglob("*"))
    command = (*COOKIECUTTER, "--no-input", doors.template, *FOR_COOKIECUTTER)
    doors.run(*command, GIT_DIR=str(other / ".git"), GIT_INDEX_FILE=str(other / ".git" / "index"))
    assert tree(doors.folder / "Sales.2026") == tree(doors.copier(str(doors.template)))
    assert (git(other, "config", "--local", "--list"), sorted(other.rglob("*"))) == before


def test_a_missing_git_is_named(doors: Doors) -> None:
    path = path_with(doors.root / "path", "copier")
    (doors.root / "path" / "git").unlink()
    printed = doors.run(*COOKIECUTTER, "--no-input", doors.template, PATH=path, exit_code=1)
    assert "headwater: git is not on PATH\nhint: apt install git" in printed
    assert list(doors.folder.iterdir()) == []


@pytest.mark.nightly
def test_a_relative_path_works_whatever_pwd_says(doors: Doors) -> None:
    relative = os.path.relpath(doors.template, doors.folder)
    doors.run(*COOKIECUTTER, "--no-input", relative, PWD="/")
    assert answers_of(doors.folder / "my-pipelines")["_src_path"] == str(doors.template)


@pytest.mark.nightly
def test_a_relative_path_works_without_proc(doors: Doors) -> None:
    """As on macOS, where only the variable PWD names the folder."""
    command = unshare("--map-root-user", "--mount")
    script = 'mount -t tmpfs tmpfs /proc; exec "$@"'
    relative = os.path.relpath(doors.template, doors.folder)
    cookiecutter = (*COOKIECUTTER, "--no-input", relative)
    doors.run(*command, "sh", "-c", script, "sh", *cookiecutter)
    assert answers_of(doors.folder / "my-pipelines")["_src_path"] == str(doors.template)
    command = [*command, "sh", "-c", script, "sh", "env", "PWD=/"]
    printed = doors.run(*command, *cookiecutter, "repo_name=other", exit_code=1)
    assert f"cannot find the template {relative}\nhint: give its absolute path" in printed


def test_a_missing_copier_is_named(doors: Doors, bare: Path) -> None:
    path = path_with(doors.root / "path")
    printed = doors.run(bare / "cookiecutter", "--no-input", doors.template, PATH=path, exit_code=1)
    assert (
        "headwater: this template needs Copier, but neither copier nor uvx is on PATH\nhint: "
        in printed
    )
    assert list(doors.folder.iterdir()) == []


@pytest.mark.thorough
@pytest.mark.parametrize(
    ("requirement", "message"),
    [
        ("cookiecutter==2.3.0", "this template needs Cookiecutter 2.4 or newer"),
        ("copier==9.4.1", "This template requires Copier version >= 9.19.0"),
    ],
)
def test_a_cookiecutter_or_copier_that_is_too_old_is_named(
    doors: Doors, requirement: str, message: str
) -> None:
    programs = environment(doors.root / "venv", "cookiecutter", requirement)
    printed = doors.run(programs / "cookiecutter", "--no-input", doors.template, exit_code=1)
    assert message in printed
    assert list(doors.folder.iterdir()) == []


def test_a_template_without_git_is_refused(doors: Doors) -> None:
    archive = doors.root / "headwater.zip"
    git(doors.template, "archive", f"--output={archive}", "--prefix=headwater-main/", "HEAD")
    printed = doors.run(*COOKIECUTTER, "--no-input", archive, exit_code=1)
    assert f"{archive} has no git history of its own" in printed
    assert "hint: name the template by its git URL" in printed
    assert list(doors.folder.iterdir()) == []


def test_a_zip_is_refused_even_with_a_git_history(doors: Doors) -> None:
    archive = shutil.make_archive(
        str(doors.root / "headwater"), "zip", doors.template.parent, doors.template.name
    )
    printed = doors.run(*COOKIECUTTER, "--no-input", archive, exit_code=1)
    assert f"{archive} has no git history of its own" in printed
    assert list(doors.folder.iterdir()) == []


@pytest.mark.nightly
def test_a_clone_s_remote_can_have_another_name(doors: Doors) -> None:
    with (doors.root / "home" / ".gitconfig").open("a") as config:
        config.write("[clone]\n    defaultRemoteName = upstream\n")
    repo = doors.cookiecutter("company:headwater")
    assert answers_of(repo)["_src_path"] == "git+https://git.example.org/team/headwater"


@pytest.mark.nightly
def test_the_temporary_folder_can_be_noexec_and_have_a_folder_copier(
    doors: Doors, bare: Path
) -> None:
    folder = doors.root / "tmp"
    folder.mkdir()
    command = unshare("--map-root-user", "--mount")
    script = 'mount -t tmpfs -o noexec tmpfs "$TMPDIR"; mkdir "$TMPDIR/copier"; exec "$@"'
    cookiecutter = (bare / "cookiecutter", "--no-input", doors.template)
    path = path_with(doors.root / "path", "copier")
    doors.run(*command, "sh", "-c", script, "sh", *cookiecutter, TMPDIR=str(folder), PATH=path)
    assert (doors.folder / "my-pipelines" / "AGENTS.md").exists()


@pytest.mark.thorough
def test_an_existing_folder_is_refused_or_filled_or_overwritten(doors: Doors) -> None:
    repo = doors.folder / "Sales.2026"
    repo.mkdir()
    for name in ("AGENTS.md", "mine.txt"):
        (repo / name).write_text("mine\n")
    command = (*COOKIECUTTER, "--no-input", doors.template, *FOR_COOKIECUTTER)
    assert "already exists" in doors.run(*command, exit_code=1)
    assert sorted(path.name for path in repo.iterdir()) == ["AGENTS.md", "mine.txt"]
    printed = doors.run(*command, "--overwrite-if-exists", "--skip-if-file-exists")
    assert "headwater: ignored" not in printed
    assert (repo / "AGENTS.md").read_text() == "mine\n"
    doors.run(*command, "--overwrite-if-exists")
    assert (repo / "mine.txt").read_text() == "mine\n"
    (repo / "mine.txt").unlink()
    assert tree(repo) == tree(doors.copier(str(doors.template)))


@pytest.mark.nightly
def test_modules_in_an_existing_folder_are_not_imported(doors: Doors) -> None:
    repo = doors.folder / "Sales.2026"
    (repo / "copier").mkdir(parents=True)
    for module in ("yaml.py", "logging.py", "copier/__init__.py"):
        (repo / module).write_text("raise SystemExit('this must not run')\n")
    command = (*COOKIECUTTER, "--no-input", doors.template, *FOR_COOKIECUTTER)
    doors.run(*command, "--overwrite-if-exists")
    assert (repo / "AGENTS.md").exists()


def test_a_refusal_changes_nothing_in_an_existing_folder(doors: Doors) -> None:
    repo = doors.folder / "class"
    repo.mkdir()
    (repo / "mine.txt").write_text("mine\n")
    before = tree(repo)
    command = (*COOKIECUTTER, "--no-input", doors.template, "repo_name=class", "description= ")
    printed = doors.run(*command, "--overwrite-if-exists", exit_code=1)
    assert "must not be blank" in printed
    assert tree(repo) == before


@pytest.mark.thorough
def test_an_answer_to_an_unreleased_question_is_named(own_doors: Doors) -> None:
    for name in ("copier.yml", "cookiecutter.json"):
        file = own_doors.template / name
        new = "with_spark: {type: bool, help: Spark too?, default: false}\n\nrepo_name:"
        text = file.read_text().replace("\nrepo_name:", f"\n{new}", 1)
        file.write_text(text.replace("{\n", '{\n  "with_spark": false,\n', 1))
    commit(own_doors.template, "Ask for Airflow")
    printed = own_doors.run(*COOKIECUTTER, "--no-input", own_doors.template, "with_spark=yes")
    assert "headwater: ignored with_spark, because this version" in printed
    assert answers_of(own_doors.folder / "my-pipelines")["_commit"] == FIRST


@pytest.mark.thorough
def test_an_unreleased_choice_is_refused(own_doors: Doors) -> None:
    for name, old in (("copier.yml", "[github, none]"), ("cookiecutter.json", '"none"')):
        file = own_doors.template / name
        text = file.read_text()
        assert old in text
        new = old.replace("none]", "none, other]").replace('"none"', '"none", "other"')
        file.write_text(text.replace(old, new))
    commit(own_doors.template, "Another choice")
    printed = own_doors.run(
        *COOKIECUTTER, "--no-input", own_doors.template, "ci=other", exit_code=1
    )
    assert "Invalid choice for 'ci': 'other' is not in ['github', 'none']" in printed
    assert 'copier/_main.py"' not in printed, "Copier's traceback is not shown"


def test_an_interrupt_leaves_nothing(doors: Doors) -> None:
    repo = doors.folder / "my-pipelines"
    process = subprocess.Popen(
        [*COOKIECUTTER, "--no-input", str(doors.template)],
        cwd=doors.folder,
        env=clean_environment(doors.root / "home"),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    wait_until((repo / ".copier-answers.yml").exists)
    os.killpg(process.pid, signal.SIGINT)  # as a terminal does at Ctrl-C
    assert process.wait(30) != 0
    wait_until(lambda: not repo.exists())
