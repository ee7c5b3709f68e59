"""Derives cookiecutter.json from copier.yml: both doors ask the same questions, written once.

`python3 noxfile.py -s derive` runs it. What Cookiecutter cannot ask is refused here, by name.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import yaml
from jinja2 import Environment, TemplateError, meta

ROOT = Path(__file__).resolve().parent
FILE = ROOT / "cookiecutter.json"
# Copier names a repo after the folder that it is copied to; Cookiecutter has none to go by yet.
FOLDER = "my-pipelines"
# A name with a slash, or one that is too long, is refused by Copier, in this folder: it must be one
# that can be made, and removed without a trace.
NAME_OF_FOLDER = (
    "{{ cookiecutter.repo_name.encode('ascii', 'replace').decode().replace('/', '_')[:64] }}"
)


def questions_of(configuration: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """What copier.yml asks: neither its settings nor what it computes."""
    return {
        name: question
        for name, question in configuration.items()
        if not name.startswith("_") and question.get("when") is not False
    }


def derive(copier_yml: str) -> str:
    """The text of cookiecutter.json for that of copier.yml.

    Raises:
        ValueError: for a question that Cookiecutter has no counterpart for.
    """
    questions = questions_of(yaml.safe_load(copier_yml))
    answers: dict[str, Any] = {}
    for name, question in questions.items():
        if name in ("template", "templates"):
            raise ValueError(f"{name}: Cookiecutter keeps this name for itself")
        if question["type"] not in ("str", "bool") or {"multiselect", "secret", "when"} & {
            *question
        }:
            raise ValueError(f"{name}: Cookiecutter has no question of this kind")
        try:
            answers[name] = default(question, list(questions))
        except (TemplateError, ValueError) as error:
            raise ValueError(f"{name}: Cookiecutter cannot ask this; {error}") from error
    prompts = {name: question["help"] for name, question in questions.items()}
    contents = {**answers, "__folder": NAME_OF_FOLDER, "__prompts__": prompts}
    return json.dumps(contents, indent=2, ensure_ascii=False) + "\n"


def default(question: dict[str, Any], names: list[str]) -> Any:
    """The default as Cookiecutter writes it; of choices it takes the first."""
    value = question["default"]
    if "choices" in question:
        choices = question["choices"]
        if not isinstance(choices, list) or value not in choices:
            raise ValueError("its choices must be a list, and the default one of them")
        return [value, *(choice for choice in choices if choice != value)]
    if not isinstance(value, str):
        return value
    return FOLDER if "_copier_conf.dst_path" in value else translate(value, names)


def translate(template: str, names: list[str]) -> str:
    """A Jinja template of Copier's, with the answers and the files where Cookiecutter has them."""
    translated, before = "", ""
    for _, kind, text in Environment().lex(template):
        if kind == "name" and text in names and before != ".":
            translated += f"cookiecutter.{text}"
        else:
            translated += text
        before = text if text.strip() else before
    translated = re.sub(
        r"\{%-? include '(.+?)' -?%\}",
        lambda include: " ".join((ROOT / include[1]).read_text().split()),
        translated,
    )
    jinja = Environment()
    jinja.from_string(translated)  # which knows Copier's own filters as little as Cookiecutter does
    if unknown := meta.find_undeclared_variables(jinja.parse(translated)) - {"cookiecutter"}:
        raise ValueError(f"its default takes what only Copier knows: {', '.join(sorted(unknown))}")
    return translated


if __name__ == "__main__":
    FILE.write_text(derive((ROOT / "copier.yml").read_text()))
