"""Ownership, under a real `copier update` from one version of the template to the next."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import copier
import pytest

from ..conftest import FIRST, SECOND, commit, copier_prints, copy, git, known, make_template

PIPELINE = Path("templates", "{{ pipeline }}")
PACKAGE = PIPELINE / "{{ package_name }}"
YOURS = [
    "CHANGELOG.md",
    "LICENSE",
    "luigi.cfg",
    "sales_pipelines/config/base.yaml",
    "sales_pipelines/config/production.yaml",
]


@dataclass
class Upstream:
    """A template of which a first version is released, and a repo made from it."""

    template: Path
    repo: Path

    def release(self) -> None:
        """Release what was changed in the template."""
        commit(self.template, "What is new", tag=SECOND)

    def edit(self, file: Path | str, old: str, new: str) -> None:
        """Replace text in a file of the template."""
        replace(self.template / file, old, new)

    def update(self, **answers: bool) -> None:
        """Commit what the user has done, and update the repo."""
        commit(self.repo, "What I did")
        copier.run_update(
            self.repo, data=known(answers), defaults=True, overwrite=True, quiet=True, unsafe=False
        )


def replace(file: Path, old: str, new: str) -> None:
    text = file.read_text()
    assert old in text, f"{old!r} is not in {file}"
    file.write_text(text.replace(old, new))


@pytest.fixture
def upstream(tmp_path: Path) -> Upstream:
    made = Upstream(make_template(tmp_path / "template"), tmp_path / "sales-pipelines")
    copy(made.template, made.repo)
    git(made.repo, "init", "--quiet", "--initial-branch=main")
    (made.repo / "uv.lock").write_text("# locked\n")
    return made


@pytest.mark.thorough
def test_what_is_new_in_the_template_arrives(upstream: Upstream) -> None:
    upstream.edit(
        PACKAGE / "runtime" / "errors.py",
        '"""Errors that a user can',
        '"""All errors that a user can',
    )
    (upstream.template / PACKAGE / "runtime" / "new.py").write_text('"""New."""\n')
    upstream.release()
    upstream.update()
    assert (
        "All errors that a user can"
        in (upstream.repo / "sales_pipelines/runtime/errors.py").read_text()
    )
    assert (upstream.repo / "sales_pipelines/runtime/new.py").exists()
    assert f"_commit: {SECOND}" in (upstream.repo / ".copier-answers.yml").read_text()


def test_an_untouched_repo_updates_to_what_a_fresh_copy_gives(upstream: Upstream) -> None:
    upstream.edit("bootstrap.py", "Later runs reuse it", "Every later run reuses it")
    upstream.edit(PIPELINE / "README.md.jinja", "## Settings", "## The settings")
    upstream.edit(PIPELINE / "pyproject.toml.jinja", "line-length = 100", "line-length = 99")
    upstream.release()
    upstream.update()
    fresh = upstream.repo.parent / "fresh" / upstream.repo.name
    copy(upstream.template, fresh)
    listed = git(upstream.repo, "ls-files", "--cached", "--others", "--exclude-standard")
    names = set(listed.splitlines()) - {"uv.lock"}
    assert names == {
        path.relative_to(fresh).as_posix() for path in fresh.rglob("*") if path.is_file()
    }
    differing = [
        name for name in names if (upstream.repo / name).read_bytes() != (fresh / name).read_bytes()
    ]
    assert differing == []


@pytest.mark.thorough
def test_an_edit_of_a_template_s_file_is_merged_with_what_is_new(upstream: Upstream) -> None:
    theirs = upstream.repo / "sales_pipelines" / "runtime" / "process" / "__init__.py"
    replace(theirs, "GRACE = 5.0", "GRACE = 30.0")
    upstream.edit(
        PACKAGE / "runtime" / "process" / "__init__.py", '"""Runs a command', '"""Brings a command'
    )
    upstream.release()
    upstream.update()
    assert "GRACE = 30.0" in theirs.read_text()
    assert '"""Brings a command' in theirs.read_text()


@pytest.mark.thorough
def test_shared_files_have_both_sides(upstream: Upstream) -> None:
    project = upstream.repo / "pyproject.toml"
    replace(project, "dependencies = [\n", 'dependencies = [\n    "duckdb",\n')
    replace(project, 'version = "20', 'version = "30')
    upstream.edit(PIPELINE / "pyproject.toml.jinja", "xfail_strict = true", "xfail_strict = false")
    upstream.release()
    upstream.update()
    text = project.read_text()
    assert '    "duckdb",\n' in text
    assert 'version = "30' in text
    assert "xfail_strict = false" in text
    assert "<<<<<<<" not in text


def change_all_of_yours(upstream: Upstream) -> None:
    """The next version has other words in every file that is the user's."""
    for file in (
        PIPELINE / "CHANGELOG.md",
        Path("includes", "licenses", "MIT"),
        PIPELINE / "luigi.cfg",
        PACKAGE / "config" / "base.yaml.jinja",
        PACKAGE / "config" / "production.yaml.jinja",
    ):
        with (upstream.template / file).open("a") as added:
            added.write("\n# What nobody asked for\n")
    (upstream.template / PIPELINE / "uv.lock").write_text("# the template's\n")
    (upstream.template / PACKAGE / "config" / "staging.yaml").write_text("{}\n")
    upstream.release()


@pytest.mark.thorough
def test_what_is_yours_is_never_touched(upstream: Upstream) -> None:
    change_all_of_yours(upstream)
    kept = {name: f"# mine: {name}\n" for name in [*YOURS, "uv.lock"]}
    for name, text in kept.items():
        (upstream.repo / name).write_text(text)
    upstream.update()
    assert {name: (upstream.repo / name).read_text() for name in kept} == kept
    assert not (upstream.repo / "sales_pipelines/config/staging.yaml").exists()


@pytest.mark.thorough
def test_what_is_yours_is_not_brought_back(upstream: Upstream) -> None:
    change_all_of_yours(upstream)
    for name in YOURS:
        (upstream.repo / name).unlink()
    upstream.update()
    assert [name for name in YOURS if (upstream.repo / name).exists()] == []


@pytest.mark.thorough
def test_what_is_yours_is_not_removed_with_the_template_s(upstream: Upstream) -> None:
    (upstream.template / PIPELINE / "luigi.cfg").unlink()
    (upstream.template / PACKAGE / "config" / "production.yaml.jinja").unlink()
    upstream.release()
    upstream.update()
    assert [name for name in YOURS if not (upstream.repo / name).exists()] == []


@pytest.mark.thorough
def test_your_flows_tasks_and_tests_are_left_alone(upstream: Upstream) -> None:
    mine = [
        "sales_pipelines/flows/sales/clean/clean.py",
        "sales_pipelines/tasks/sales_tasks.py",
        "tests/test_sales.py",
    ]
    for name in mine:
        (upstream.repo / name).parent.mkdir(parents=True, exist_ok=True)
        (upstream.repo / name).write_text("# mine\n")
    upstream.edit("bootstrap.py", "once", "one time")
    upstream.release()
    upstream.update()
    assert [(upstream.repo / name).read_text() for name in mine] == ["# mine\n"] * 3


def test_the_template_laid_over_a_standing_repo_keeps_what_is_yours(upstream: Upstream) -> None:
    standing = upstream.repo.parent / "standing"
    standing.mkdir()
    (standing / "LICENSE").write_text("mine\n")
    (standing / "luigi.cfg").write_text("[core]\n")
    copy(upstream.template, standing)
    assert (standing / "LICENSE").read_text() == "mine\n"
    assert (standing / "luigi.cfg").read_text() == "[core]\n"
    assert (standing / "CHANGELOG.md").exists()


@pytest.mark.thorough
def test_a_piece_is_switched_off_and_on_by_an_update(upstream: Upstream) -> None:
    upstream.edit("bootstrap.py", "once", "one time")
    upstream.release()
    upstream.update(with_examples=False)
    example = upstream.repo / "sales_pipelines" / "flows" / "examples" / "co2" / "clean.py"
    assert not example.exists()
    assert "numpy" not in (upstream.repo / "pyproject.toml").read_text()
    upstream.update(with_examples=True)
    assert example.exists()
    assert "numpy" in (upstream.repo / "pyproject.toml").read_text()


def test_a_conflict_is_marked_and_nothing_is_lost(upstream: Upstream) -> None:
    theirs = upstream.repo / "sales_pipelines" / "runtime" / "process" / "__init__.py"
    replace(theirs, "GRACE = 5.0", "GRACE = 30.0")
    upstream.edit(PACKAGE / "runtime" / "process" / "__init__.py", "GRACE = 5.0", "GRACE = 10.0")
    upstream.release()
    upstream.update()
    text = theirs.read_text()
    assert "<<<<<<<" in text
    assert "GRACE = 30.0" in text
    assert "GRACE = 10.0" in text


def last_words(upstream: Upstream, *arguments: str) -> list[str]:
    """What Copier prints at the end of an update by its command."""
    commit(upstream.repo, "What I did")
    printed = copier_prints(upstream.repo, "update", "--defaults", *arguments)
    return printed.partition("is updated.")[2].splitlines()


@pytest.mark.thorough
def test_the_last_words_of_an_update_lead_through_its_conflicts(upstream: Upstream) -> None:
    replace(upstream.repo / "docs" / "s3.md", "# ", "# My ")
    upstream.edit(PIPELINE / "docs" / "s3.md", "# ", "# Our ")
    replace(upstream.repo / "bootstrap.py", "Later runs", "My runs")
    upstream.edit("bootstrap.py", "Later runs", "Its runs")
    upstream.release()
    words = last_words(upstream)
    (lists_them,) = (line for line in words if "--diff-filter=U" in line)
    listed = subprocess.check_output(lists_them, shell=True, cwd=upstream.repo, text=True)
    conflicts = ["bootstrap.py", "docs/s3.md"]
    assert listed.split() == conflicts
    status = [sys.executable, "-m", "sales_pipelines.runtime", "status"]
    printed = subprocess.check_output(status, cwd=upstream.repo, text=True)
    assert f"in conflict: {', '.join(conflicts)}\n" in printed
    (switch,) = (line.rpartition(": ")[2] for line in words if "git switch -c" in line)
    assert "`main`, `dev` and `master` are protected" in "".join(words)
    checks = partial(subprocess.run, "hooks/branch-name", cwd=upstream.repo, check=False)
    assert checks().returncode == 1, "as the words say"
    for name in conflicts:
        git(upstream.repo, "checkout", "--theirs", name)
        git(upstream.repo, "add", name)
    subprocess.run(switch.replace("<issue>", "7"), shell=True, cwd=upstream.repo, check=True)
    assert checks().returncode == 0


@pytest.mark.thorough
def test_examples_that_are_switched_off_leave_nothing_that_the_last_words_do_not_mend(
    upstream: Upstream,
) -> None:
    places = ("flows/examples/co2", "flows/examples", "tasks/examples")
    folders = [upstream.repo / "sales_pipelines" / place for place in places]
    folders.append(upstream.repo / "tests" / "examples")
    for folder in folders:
        (folder / "__pycache__").mkdir()
        (folder / "__pycache__" / "cached.pyc").touch()
    words = last_words(upstream, "--data", "with_examples=false")
    assert "numpy" in "".join(words)
    assert "python3 noxfile.py -s setup lint test" in "".join(words), "setup removes packages"
    assert all(folder.exists() for folder in folders), "Copier leaves caches"
    commit(upstream.repo, "Without the example")
    (mends,) = (line for line in words if "git clean" in line)
    subprocess.run(mends, shell=True, cwd=upstream.repo, check=True)
    assert not any(folder.exists() for folder in folders)
    (upstream.repo / "mine.txt").touch()
    for data in ("ci=none", "with_examples=false"):
        assert "numpy" not in "".join(last_words(upstream, "--data", data)), "it was gone before"


def test_the_first_version_is_what_the_answers_record(upstream: Upstream) -> None:
    answers = (upstream.repo / ".copier-answers.yml").read_text()
    assert f"_commit: {FIRST}" in answers
    assert f"_src_path: {upstream.template}" in answers
