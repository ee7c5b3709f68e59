"""An update to a version with other questions works, and names every answer that it changes."""

from __future__ import annotations

from pathlib import Path

import pytest

from ..conftest import (
    FIRST,
    HERE,
    ROOT,
    SECOND,
    answers_of,
    commit,
    copier_prints,
    copy,
    git,
    make_template,
)
from ..quick.test_update import replace

NEW = "\nwith_spark:\n  type: bool\n  help: Spark too?\n  default: true\n"
ANSWERS = {
    "license": "Apache-2.0",
    "ci": "none",
    "description": 'Sales: \U0001f600 "by" shop, week, country and product',
}


class Template:
    """A released template, and a repo made from that release."""

    def __init__(self, folder: Path, *edits: tuple[str, str], **answers: str) -> None:
        self.folder = make_template(folder / "template")
        for edit in edits:  # of the first release
            self.edit(*edit)
            commit(self.folder, "An older template")
            git(self.folder, "tag", "--force", FIRST)
        self.repo = folder / "sales [1]"  # brackets are special in glob patterns
        copy(self.folder, self.repo, repo_name="sales", **{**ANSWERS, **answers})
        git(self.repo, "init", "--quiet")
        commit(self.repo, "The repo")

    def edit(self, old: str, new: str, file: str = "copier.yml") -> None:
        replace(self.folder / file, old, new)

    def update(self, *arguments: str) -> str:
        """Release the edits, update the repo with `--defaults`, and return Copier's output."""
        (self.folder / "CHANGELOG.md").write_text("# Changed\n")
        commit(self.folder, "Changes", tag=SECOND)
        printed = copier_prints(self.repo, "update", "--defaults", *arguments)
        assert answers_of(self.repo)["_commit"] == SECOND
        return printed


@pytest.fixture
def template(tmp_path: Path) -> Template:
    return Template(tmp_path)


@pytest.mark.thorough
def test_an_update_without_new_questions_does_not_mention_answers(template: Template) -> None:
    answers = answers_of(template.repo)
    printed = template.update()
    assert "sales is updated. Review the changes" in printed
    assert "Changed answers" not in printed
    assert "New questions" not in printed
    assert answers_of(template.repo) == {**answers, "_commit": SECOND}


@pytest.mark.thorough
def test_a_new_question_is_named_with_its_answer(template: Template) -> None:
    template.edit("\npipeline:\n", f"{NEW}\npipeline:\n")
    printed = template.update()
    assert "New questions, and their answers:\n\n  with_spark: True\n" in printed
    assert "Changed answers" not in printed
    answers = answers_of(template.repo)
    assert answers["with_spark"] is True
    assert {name: answers[name] for name in ANSWERS} == ANSWERS


ASK_CI = [
    str(file.relative_to(ROOT))
    for file in sorted((ROOT / "templates").rglob("*.jinja"))
    if "if ci ==" in file.read_text()
]


@pytest.mark.thorough
def test_a_renamed_question_keeps_its_answer(template: Template) -> None:
    template.edit("\nci:\n", "\nchecks:\n")
    template.edit("default: github", "default: \"{{ ci if ci is defined else 'github' }}\"")
    template.edit("'.' if ci == 'github'", "'.' if checks == 'github'")
    for file in ASK_CI:
        template.edit("if ci ==", "if checks ==", file)
    printed = template.update()
    assert "  checks: none\n" in printed
    answers = answers_of(template.repo)
    assert answers["checks"] == "none"
    assert "ci" not in answers
    assert not (template.repo / ".github").exists()
    fresh = template.repo.parent / "fresh"
    copy(template.folder, fresh)
    assert answers_of(fresh)["checks"] == "github"


@pytest.mark.thorough
def test_a_removed_choice_becomes_the_default_and_the_update_names_it(template: Template) -> None:
    template.edit("choices: [MIT, BSD-3-Clause, Apache-2.0, Proprietary]", "choices: [MIT]")
    printed = template.update()
    assert "Changed answers; choose others with `copier update --data NAME=ANSWER`:" in printed
    assert "\n\n  license: Apache-2.0 -> MIT\n" in printed
    assert answers_of(template.repo)["license"] == "MIT"
    assert 'license = "MIT"' in (template.repo / "pyproject.toml").read_text()


NEW_CHOICES = 'choices: ["3.11", "3.12", "3.13", "3.14"]'
OLD_CHOICES = 'choices: ["3.10", "3.11", "3.12", "3.13", "3.14"]'


THOROUGH = pytest.mark.thorough


@pytest.mark.thorough
@pytest.mark.parametrize("answer", ["3.10", "3.11", "3.14"])
def test_a_repo_on_python_3_10_moves_to_3_11_and_others_keep_their_version(
    tmp_path: Path, answer: str
) -> None:
    template = Template(tmp_path, (NEW_CHOICES, OLD_CHOICES), python_version=answer)
    assert f'">={answer}"' in (template.repo / "pyproject.toml").read_text()
    template.edit(OLD_CHOICES, NEW_CHOICES)
    printed = template.update()
    kept = "3.11" if answer == "3.10" else answer
    assert answers_of(template.repo)["python_version"] == kept
    assert f'requires-python = ">={kept}"' in (template.repo / "pyproject.toml").read_text()
    why = "  python_version: 3.10 -> 3.11 (Python 3.10 has reached its end of life)\n"
    assert (why in printed) is (answer == "3.10")
    assert ("Changed answers" in printed) is (answer == "3.10")
    fresh = copy(template.folder, tmp_path / "fresh")
    assert answers_of(fresh)["python_version"] == ("3.11" if HERE == "3.11" else "3.12")


@pytest.mark.thorough
def test_an_answer_that_a_stricter_rule_refuses_is_named(template: Template) -> None:
    template.edit("one_line(description, 200)", "one_line(description, 39)")
    printed = template.update()
    new = "Data pipelines with Metaflow and Luigi"
    assert f"  description: {ANSWERS['description']} -> {new}\n" in printed
    assert answers_of(template.repo)["description"] == new


@pytest.mark.thorough
def test_a_removed_question_loses_its_answer(template: Template) -> None:
    template.edit("'.' if ci == 'github' and not new_flow else ''", "''")
    for file in ASK_CI:
        template.edit('ci == "github"', "false", file)
    text = (template.folder / "copier.yml").read_text()
    start = text.index("ci:\n  type")
    template.edit(text[start : text.index("protected_branches:\n  type")], "")
    assert "Changed answers" not in template.update()
    assert "ci" not in answers_of(template.repo)


@pytest.mark.thorough
def test_an_answer_that_the_user_changes_is_not_named(template: Template) -> None:
    printed = template.update("--data", "license=MIT", "--data", "with_examples=no")
    assert "Changed answers" not in printed
    answers = answers_of(template.repo)
    assert (answers["license"], answers["with_examples"]) == ("MIT", False)


@pytest.mark.parametrize("path", ["..", "link"])
def test_a_recopy_names_changed_answers_by_any_path_to_the_repo(
    template: Template, path: str
) -> None:
    template.edit("choices: [MIT, BSD-3-Clause, Apache-2.0, Proprietary]", "choices: [MIT]")
    commit(template.folder, "Changes", tag=SECOND)
    elsewhere = template.repo.parent / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "link").symlink_to(template.repo)
    repo = {"..": f"../{template.repo.name}", "link": "link"}[path]
    printed = copier_prints(elsewhere, "recopy", "--defaults", "--overwrite", repo)
    assert "\n\n  license: Apache-2.0 -> MIT\n" in printed
    assert "New questions" not in printed
    assert answers_of(template.repo)["license"] == "MIT"


def test_a_new_repo_has_no_changed_answers(template: Template) -> None:
    command = ("copy", "--defaults", "--data=with_examples=no")
    printed = copier_prints(template.repo.parent, *command, template.folder, "new")
    assert "new is ready" in printed
    assert "Changed answers" not in printed
