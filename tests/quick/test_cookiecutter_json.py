"""cookiecutter.json asks what copier.yml asks."""

from __future__ import annotations

import json

import pytest

from cookiecutter_json import FILE, derive

from ..conftest import QUESTIONS, ROOT, Generate, answers_of


def test_it_is_what_is_derived_from_copier_yml() -> None:
    assert FILE.read_text() == derive((ROOT / "copier.yml").read_text()), (
        "cookiecutter.json is out of date: python3 noxfile.py -s derive"
    )


def test_it_asks_the_same_questions_in_the_same_words_with_the_same_choices(
    generate: Generate,
) -> None:
    asked = json.loads(FILE.read_text())
    assert [name for name in asked if name[0] != "_"] == list(QUESTIONS)
    assert asked["__prompts__"] == {name: question["help"] for name, question in QUESTIONS.items()}
    # Copier's default for it depends on the Python at hand.
    answers = {**answers_of(generate()), "python_version": "3.12"}
    for name, question in QUESTIONS.items():
        if "choices" in question:
            assert sorted(asked[name]) == sorted(question["choices"])
            assert asked[name][0] == answers[name], "Cookiecutter's default is the first choice"


@pytest.mark.parametrize(
    ("question", "message"),
    [
        ("template: {type: str, default: x, help: x}", "template: Cookiecutter reserves this name"),
        ("which: {type: yaml, default: x, help: x}", "which: Cookiecutter has no question of"),
        ("some: {type: str, multiselect: true, choices: [a], default: a, help: x}", "some: "),
        ("key: {type: str, secret: true, default: x, help: x}", "key: Cookiecutter has no"),
        ("last: {type: str, default: x, help: x, when: '{{ ci }}'}", "last: Cookiecutter has no"),
        ("ci: {type: str, choices: {A: a}, default: a, help: x}", "ci: .* choices must be a list"),
        ("ci: {type: str, choices: [a], default: b, help: x}", "ci: .* the default one of"),
        ("ci: {type: str, choices: [a], default: '{{ a }}', help: x}", "ci: .* 'a' is undefined"),
        ("who: {type: str, default: '{{ 1 | to_json }}', help: x}", "who: .*'to_json'"),
        (
            "who: {type: str, default: '{{ _folder_name }}', help: x}",
            "who: .* Copier .*_folder_name",
        ),
        ("who: {type: str, default: '{{ 1', help: x}", "who: Cookiecutter cannot ask this"),
    ],
)
def test_a_question_that_cookiecutter_cannot_ask_is_named(question: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        derive(question)


def test_a_default_takes_other_answers_by_cookiecutter_s_names() -> None:
    questions = """
        repo_name: {type: str, default: x, help: x}
        title: {type: str, default: "repo_name {{ repo_name | upper }} {{ ''.repo_name }}", help: x}
    """
    title = json.loads(derive(questions))["title"]
    assert title == "repo_name {{ cookiecutter.repo_name | upper }} {{ ''.repo_name }}"


def test_a_default_of_choices_is_that_of_a_new_repo() -> None:
    default = "{{ 'old' if previous_answers.get('ci') else 'new' }}"
    questions = f'ci: {{type: str, choices: [old, new], default: "{default}", help: x}}'
    assert json.loads(derive(questions))["ci"] == ["new", "old"]


def test_a_default_with_an_unknown_macro_is_refused() -> None:
    default = "{% from 'includes/free-names.jinja' import free_name %}{{ free_name('x') }}"
    with pytest.raises(ValueError, match=r"who: .*free-names\.jinja has no macro free_name"):
        derive(f'who: {{type: str, default: "{default}", help: x}}')
