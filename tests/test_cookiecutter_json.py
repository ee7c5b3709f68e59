"""cookiecutter.json asks what copier.yml asks."""

from __future__ import annotations

import json

import pytest

from cookiecutter_json import FILE, derive

from .conftest import QUESTIONS, ROOT


def test_it_is_what_is_derived_from_copier_yml() -> None:
    assert FILE.read_text() == derive((ROOT / "copier.yml").read_text()), (
        "python3 noxfile.py -s derive writes it anew"
    )


def test_it_asks_the_same_questions_in_the_same_words_with_the_same_choices() -> None:
    asked = json.loads(FILE.read_text())
    assert [name for name in asked if name[0] != "_"] == list(QUESTIONS)
    assert asked["__prompts__"] == {name: it["help"] for name, it in QUESTIONS.items()}
    for name, question in QUESTIONS.items():
        if "choices" in question:
            assert sorted(asked[name]) == sorted(question["choices"])
            assert asked[name][0] == question["default"], "Cookiecutter takes the first"


@pytest.mark.parametrize(
    ("question", "told"),
    [
        ("template: {type: str, default: x, help: x}", "template: Cookiecutter keeps this name"),
        ("which: {type: yaml, default: x, help: x}", "which: Cookiecutter has no question of"),
        ("some: {type: str, multiselect: true, choices: [a], default: a, help: x}", "some: "),
        ("key: {type: str, secret: true, default: x, help: x}", "key: Cookiecutter has no"),
        ("last: {type: str, default: x, help: x, when: '{{ ci }}'}", "last: Cookiecutter has no"),
        ("ci: {type: str, choices: {A: a}, default: a, help: x}", "ci: .* choices must be a list"),
        ("ci: {type: str, choices: [a], default: '{{ a }}', help: x}", "ci: .* the default one of"),
        ("who: {type: str, default: '{{ 1 | to_json }}', help: x}", "who: .*'to_json'"),
        (
            "who: {type: str, default: '{{ _folder_name }}', help: x}",
            "who: .* Copier .*_folder_name",
        ),
        ("who: {type: str, default: '{{ 1', help: x}", "who: Cookiecutter cannot ask this"),
    ],
)
def test_a_question_without_a_counterpart_is_named(question: str, told: str) -> None:
    with pytest.raises(ValueError, match=told):
        derive(question)


def test_answers_in_a_default_are_found_where_cookiecutter_has_them() -> None:
    questions = """
        repo_name: {type: str, default: x, help: x}
        title: {type: str, default: "repo_name {{ repo_name | upper }} {{ ''.repo_name }}", help: x}
    """
    title = json.loads(derive(questions))["title"]
    assert title == "repo_name {{ cookiecutter.repo_name | upper }} {{ ''.repo_name }}"
