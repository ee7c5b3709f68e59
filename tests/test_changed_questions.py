"""Questions change between versions: an update goes through, and no answer is lost unsaid."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from .conftest import SECOND, answers_of, commit, copy, git, make_template, output
from .test_update import replace

pytestmark = pytest.mark.end_to_end

NEW = "\nwith_airflow:\n  type: bool\n  help: Airflow too?\n  default: true\n"
ANSWERS = {
    "license": "Apache-2.0",
    "ci": "none",
    "description": 'Sales: \U0001f600 "by" shop, week, country and product',
}


class Template:
    """A template that is released, and a repo made from it that has not seen what is to come."""

    def __init__(self, folder: Path) -> None:
        self.folder = make_template(folder / "template")
        self.repo = folder / "sales [1]"  # a folder with a name that globs take for a pattern
        self.home = folder / "home"
        self.home.mkdir()
        copy(self.folder, self.repo, repo_name="sales", **ANSWERS)
        git(self.repo, "init", "--quiet")
        commit(self.repo, "The repo")

    def edit(self, old: str, new: str, file: str = "copier.yml") -> None:
        replace(self.folder / file, old, new)

    def update(self, *arguments: str) -> str:
        """Release what was edited, and update the repo with defaults. What Copier says."""
        (self.folder / "CHANGELOG.md").write_text("# Changed\n")
        commit(self.folder, "What is new", tag=SECOND)
        command = [sys.executable, "-m", "copier", "update", "--defaults", *arguments]
        said = output(command, self.repo, self.home)
        assert "Warning" not in said, said
        assert answers_of(self.repo)["_commit"] == SECOND
        return said


@pytest.fixture
def template(tmp_path: Path) -> Template:
    return Template(tmp_path)


def test_where_no_question_changed_nothing_is_said_of_answers(template: Template) -> None:
    before = answers_of(template.repo)
    said = template.update()
    assert "sales has what is new" in said
    assert "Answers that have changed" not in said
    assert "Questions that are new" not in said
    assert answers_of(template.repo) == {**before, "_commit": SECOND}


def test_a_question_that_is_new_is_named_with_its_answer(template: Template) -> None:
    template.edit("\npipeline:\n", f"{NEW}\npipeline:\n")
    said = template.update()
    assert "Questions that are new, and how they were answered:\n\n  with_airflow: True\n" in said
    assert "Answers that have changed" not in said
    answers = answers_of(template.repo)
    assert answers["with_airflow"] is True
    assert {name: answers[name] for name in ANSWERS} == ANSWERS


ASK_CI = [
    f"templates/{{{{ pipeline }}}}/{name}.jinja"
    for name in (
        *("README.md", "docs/releases-and-hooks.md", "pyproject.toml"),
        ".pre-commit-config.yaml",
    )
]


def test_a_question_with_a_new_name_goes_on_from_the_old_answer(template: Template) -> None:
    template.edit("\nci:\n", "\nchecks:\n")
    template.edit("default: github", "default: \"{{ ci if ci is defined else 'github' }}\"")
    template.edit("'.' if ci == 'github'", "'.' if checks == 'github'")
    for file in ASK_CI:
        template.edit("if ci ==", "if checks ==", file)
    said = template.update()
    assert "  checks: none\n" in said
    answers = answers_of(template.repo)
    assert answers["checks"] == "none"
    assert "ci" not in answers
    assert not (template.repo / ".github").exists()
    fresh = template.repo.parent / "fresh"
    copy(template.folder, fresh)
    assert answers_of(fresh)["checks"] == "github"


def test_a_choice_that_is_gone_becomes_the_default_and_that_is_said(template: Template) -> None:
    template.edit("choices: [MIT, BSD-3-Clause, Apache-2.0, Proprietary]", "choices: [MIT]")
    said = template.update()
    assert "Answers that have changed; `copier update --data NAME=ANSWER` gives others:" in said
    assert "\n\n  license: Apache-2.0 -> MIT\n" in said
    assert answers_of(template.repo)["license"] == "MIT"
    assert 'license = "MIT"' in (template.repo / "pyproject.toml").read_text()


def test_an_answer_that_a_stricter_rule_refuses_is_said(template: Template) -> None:
    template.edit("one_line(description, 200)", "one_line(description, 39)")
    said = template.update()
    new = "Data pipelines with Metaflow and Luigi"
    assert f"  description: {ANSWERS['description']} -> {new}\n" in said
    assert answers_of(template.repo)["description"] == new


def test_a_question_that_is_gone_takes_its_answer_with_it(template: Template) -> None:
    template.edit("'.' if ci == 'github' else ''", "''")
    for file in ASK_CI:
        template.edit('ci == "github"', "false", file)
    text = (template.folder / "copier.yml").read_text()
    start = text.index("ci:\n  type")
    template.edit(text[start : text.index("protected_branches:\n  type")], "")
    assert "Answers that have changed" not in template.update()
    assert "ci" not in answers_of(template.repo)


def test_what_the_user_changes_is_not_told_to_the_user(template: Template) -> None:
    said = template.update("--data", "license=MIT", "--data", "with_examples=no")
    assert "Answers that have changed" not in said
    answers = answers_of(template.repo)
    assert (answers["license"], answers["with_examples"]) == ("MIT", False)


@pytest.mark.parametrize("way", ["..", "link"])
def test_a_recopy_says_so_too_whatever_way_leads_to_the_repo(template: Template, way: str) -> None:
    template.edit("choices: [MIT, BSD-3-Clause, Apache-2.0, Proprietary]", "choices: [MIT]")
    commit(template.folder, "What is new", tag=SECOND)
    elsewhere = template.repo.parent / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "link").symlink_to(template.repo)
    repo = {"..": f"../{template.repo.name}", "link": "link"}[way]
    command = [sys.executable, "-m", "copier", "recopy", "--defaults", "--overwrite", repo]
    said = output(command, elsewhere, template.home)
    assert "\n\n  license: Apache-2.0 -> MIT\n" in said
    assert "Questions that are new" not in said
    assert answers_of(template.repo)["license"] == "MIT"


def test_a_new_repo_has_no_answers_that_changed(template: Template) -> None:
    command = [sys.executable, "-m", "copier", "copy", "--defaults", "--data=with_examples=no"]
    said = output([*command, template.folder, "new"], template.home, template.home)
    assert "new is ready" in said
    assert "Answers that have changed" not in said
