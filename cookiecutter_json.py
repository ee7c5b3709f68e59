"""Derives cookiecutter.json from copier.yml, so that each question is written once.

`python3 noxfile.py -s derive` runs it. A question that Cookiecutter cannot ask is an error.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import yaml
from jinja2 import Environment, StrictUndefined, TemplateError, meta

ROOT = Path(__file__).resolve().parent
FILE = ROOT / "cookiecutter.json"
# Copier takes the default name from the destination folder; Cookiecutter does not have one yet.
FOLDER = "my-pipelines"
# The folder that Cookiecutter makes. Copier refuses a bad name only later and in this folder, so
# any name must give one that can be made and removed again.
NAME_OF_FOLDER = (
    "{{ cookiecutter.repo_name.encode('ascii', 'replace').decode().replace('/', '_')[:64] }}"
)
# Asked only where older files are in the way; Cookiecutter has options for that.
OVER_AN_OLDER_REPO = "kept"
INCLUDE = re.compile(r"\{%-? include '(\S+)' -?%\}")
IMPORT = re.compile(r"\{%-? from '(\S+)' import (\w+) -?%\}")


def questions_of(configuration: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """The questions that copier.yml asks about a new repo, without settings and computed values."""
    return {
        name: question
        for name, question in configuration.items()
        if not name.startswith("_")
        and question.get("when") is not False
        and name != OVER_AN_OLDER_REPO
    }


def derive(copier_yml: str) -> str:
    """The text of cookiecutter.json for the text of copier.yml.

    Raises:
        ValueError: Cookiecutter cannot ask one of the questions.
    """
    questions = questions_of(yaml.safe_load(copier_yml))
    answers: dict[str, Any] = {}
    for name, question in questions.items():
        if name in ("template", "templates"):
            raise ValueError(f"{name}: Cookiecutter reserves this name")
        if question["type"] not in ("str", "bool") or {"multiselect", "secret", "when"} & {
            *question
        }:
            raise ValueError(f"{name}: Cookiecutter has no question of this kind")
        try:
            answers[name] = default(question, list(questions))
        except (TemplateError, ValueError) as error:
            raise ValueError(f"{name}: Cookiecutter cannot ask this: {error}") from error
    prompts = {name: question["help"] for name, question in questions.items()}
    contents = {**answers, "__folder": NAME_OF_FOLDER, "__prompts__": prompts}
    return json.dumps(contents, indent=2, ensure_ascii=False) + "\n"


def default(question: dict[str, Any], names: list[str]) -> Any:
    """The default in Cookiecutter's form; for choices a list with the default first."""
    value = question["default"]
    if "choices" in question:
        jinja = Environment(undefined=StrictUndefined)
        # Cookiecutter only makes new repos, and does not say which Python runs it.
        value = jinja.from_string(str(value)).render(previous_answers={}, python_of_copier="")
        choices = question["choices"]
        if not isinstance(choices, list) or value not in choices:
            raise ValueError("its choices must be a list, and the default one of them")
        return [value, *(choice for choice in choices if choice != value)]
    if not isinstance(value, str):
        return value
    return FOLDER if "_copier_conf.dst_path" in value else translate(value, names)


def translate(template: str, names: list[str]) -> str:
    """The Jinja template for Cookiecutter: its names for answers, and nothing left to include."""
    translated, previous = "", ""
    for _, kind, text in Environment().lex(template):
        if kind == "name" and text in names and previous != ".":
            translated += f"cookiecutter.{text}"
        else:
            translated += text
        previous = text if text.strip() else previous
    translated = INCLUDE.sub(words, IMPORT.sub(macro, translated))
    jinja = Environment()
    jinja.from_string(translated)  # fails on Copier's own filters, as Cookiecutter would
    if unknown := meta.find_undeclared_variables(jinja.parse(translated)) - {"cookiecutter"}:
        raise ValueError(f"its default uses what only Copier knows: {', '.join(sorted(unknown))}")
    return translated


def macro(statement: re.Match[str]) -> str:
    """The definition of the macro that the statement imports."""
    file, name = statement.groups()
    definition = rf"\{{% macro {name}\(.*?\{{%-? endmacro -?%\}}"
    matches = re.findall(definition, (ROOT / file).read_text(), re.DOTALL)
    if not matches:
        raise ValueError(f"{file} has no macro {name}")
    return " ".join(str(matches[0]).split())


def words(statement: re.Match[str]) -> str:
    """The words of the file that the statement includes."""
    return " ".join((ROOT / statement[1]).read_text().split())


if __name__ == "__main__":
    FILE.write_text(derive((ROOT / "copier.yml").read_text()))
