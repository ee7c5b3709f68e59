"""Any text is kept in the repo exactly as typed, or refused with the question and a reason."""

from __future__ import annotations

import json
import re
import string
import subprocess
import tempfile
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import pytest
import yaml
from cmarkgfm import github_flavored_markdown_to_html
from cookiecutter.hooks import run_script_with_context
from cookiecutter.prompt import prompt_for_config
from hypothesis import HealthCheck, assume, example, given, settings
from hypothesis import strategies as st

from ..conftest import QUESTIONS, ROOT, answers_of, copy, parses, project_of

# Text that breaks careless code, in many formats and languages.
PIECES = [
    *('"', "'", '"""', "'''", "\\", "\\n", "\\u0000", "\\x", "`", "```", "$(id)", "${HOME}", "%s"),
    *("{{ 7*7 }}", "{{", "}}", "{% raw %}", "{% endraw %}", "{#", "#}", "{", "}", "{0}", "{{{{"),
    *(
        ": ",
        "#",
        " #",
        "- ",
        "? ",
        "&a",
        "*a",
        "!!python/object",
        "|",
        ">",
        "---",
        "...",
        "~",
        "null",
    ),
    *("yes", "true", "1_000", "0x1F", "1e3", "2026-11-20", "[", "]", "=", "<<: *a", "@", "%", ","),
    *("https://example.org/_a_", "://", "www.", "a_b@example.org", "_", "&"),
    *("<script>", "<!--", "-->", "&amp;", "[a](b)", "![a](b)", "**a**", "__a__", "# ", "1. ", "+ "),
    *("é", "ü", "\u4e2d\u6587", "\u05e9\u05dc\u05d5\u05dd", "\u0645\u0631\u062d\u0628\u0627"),
    *("\u202e", "\u200b", "\ufeff", "\u00a0", "\u0301", "\ue000", "\ufffe", "\uffff"),
    *("\U0001f600", "\U0001f468\u200d\U0001f469\u200d\U0001f467", "\U0001f3f3\ufe0f", "\U000e0001"),
    *(
        "\n",
        "\r",
        "\t",
        "\0",
        "\x1b[31m",
        "\x7f",
        "\x85",
        "\u2028",
        " ",
        "  ",
        "a",
        "Sales",
        "x" * 60,
    ),
]
NASTY = st.one_of(
    st.lists(st.sampled_from(PIECES), max_size=8).map("".join),
    st.text(max_size=60),
    st.text("ab ", min_size=290, max_size=310),
)
WORD = st.text(string.ascii_letters + string.digits, min_size=1, max_size=12)
NAME = st.builds(
    "{}{}{}".format, WORD, st.sampled_from(["", ".", "-", "_", "--", "._", "_._"]), WORD
)
HOST = st.builds("{}.example.org".format, WORD)


def one_line(longest: int) -> st.SearchStrategy[str]:
    """Nasty text in one line of limited length."""
    return NASTY.map(
        lambda text: ("".join(c for c in text if not is_control(c)) or "x")[:longest].strip()
    )


# Default_Ignorable_Code_Point in Unicode's DerivedCoreProperties.txt.
INVISIBLE = {
    chr(point)
    for first, last in (
        *((0xAD, 0xAD), (0x34F, 0x34F), (0x61C, 0x61C), (0x115F, 0x1160), (0x17B4, 0x17B5)),
        *((0x180B, 0x180F), (0x200B, 0x200F), (0x202A, 0x202E), (0x2060, 0x206F)),
        *((0x3164, 0x3164), (0xFE00, 0xFE0F), (0xFEFF, 0xFEFF), (0xFFA0, 0xFFA0)),
        *((0xFFF0, 0xFFF8), (0x1BCA0, 0x1BCA3), (0x1D173, 0x1D17A), (0xE0000, 0xE0FFF)),
    )
    for point in range(first, last + 1)
}


def is_control(letter: str) -> bool:
    return ord(letter) < 32 or 127 <= ord(letter) < 160 or letter in "\u2028\u2029"


def mostly(usual: st.SearchStrategy[str]) -> st.SearchStrategy[str]:
    """Usual text, and sometimes any text; rarely, because a refusal hides the answers after it."""
    return st.integers(0, 19).flatmap(lambda number: NASTY if number == 7 else usual)


ANSWERS = st.fixed_dictionaries(
    {
        "repo_name": mostly(NAME),
        "package_name": mostly(st.from_regex(r"[a-z][a-z0-9_]{0,39}", fullmatch=True)),
        "description": mostly(one_line(200)),
        "author_name": mostly(one_line(100)),
        "author_email": mostly(st.just("") | st.builds("{}+{}@{}".format, WORD, WORD, HOST)),
        "repo_url": mostly(st.just("") | st.builds("https://{}:80/~{}/%20".format, HOST, NAME)),
        "protected_branches": mostly(st.lists(NAME, min_size=1, max_size=3).map(" ".join)),
        "license": st.sampled_from(["MIT", "BSD-3-Clause", "Apache-2.0", "Proprietary"]),
        "with_examples": st.booleans(),
        "with_tables": st.booleans(),
        "with_airflow": st.booleans(),
    }
)


def is_one_line(text: str, longest: int) -> bool:
    """The rule for a description or a name, written independently of the template."""
    is_visible = any(not letter.isspace() and letter not in INVISIBLE for letter in text)
    return (
        is_visible
        and len(text) <= longest
        and text == text.strip()
        and not any(map(is_control, text))
    )


def is_acceptable(question: str, answer: Any) -> bool:
    """True if the question accepts the answer, by rules written independently of copier.yml."""
    taken = {
        name: (ROOT / "includes" / f"{name}.txt").read_text().split()
        for name in ("distributions", "module-names")
    }
    if question == "repo_name":
        allowed = set(string.ascii_letters + string.digits)
        ends = answer[:1] + answer[-1:]
        inside = allowed | set("._-")
        normal = re.sub("[._-]+", "-", answer).lower()
        return (
            0 < len(answer) <= 64
            and set(ends) <= allowed
            and set(answer) <= inside
            and normal not in taken["distributions"]
        )
    if question == "package_name":
        return (
            0 < len(answer) <= 40
            and answer.isascii()
            and answer.isidentifier()
            and answer == answer.lower()
            and answer[0] != "_"
            and answer not in taken["module-names"]
        )
    if question == "description":
        return is_one_line(answer, 200)
    if question == "author_name":
        return is_one_line(answer, 100) and any(
            not (c.isspace() or c in INVISIBLE or c in ".,:;<>\"\\'") for c in answer
        )
    if question == "protected_branches":
        names = answer.split(" ")
        beginnings = {part[:1] for name in names for part in name.split("/")}
        return (
            len(answer) <= 200
            and set(answer) <= set(string.ascii_letters + string.digits + "._-/ ")
            and not beginnings & {"", ".", "-"}
            and names[0] != "HEAD"
            and all(is_a_branch(name) for name in names)
        )
    return True  # addresses: test_questions.py has examples


def is_a_branch(name: str) -> bool:
    """True if git accepts the name for a branch."""
    command = ["git", "check-ref-format", f"refs/heads/{name}"]
    return subprocess.run(command, check=False).returncode == 0


def refused(error: ValueError) -> tuple[str, str]:
    """The question and the reason of a refusal."""
    match = re.fullmatch(r"Validation error for question '(\w+)': (.{10,79})", str(error))
    assert match, error
    return match[1], match[2]


@pytest.mark.thorough
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(answers=ANSWERS)
def test_any_set_of_answers_is_kept_exactly_or_refused(
    rendered_only: Path, answers: dict[str, Any]
) -> None:
    with tempfile.TemporaryDirectory() as folder:
        repo = Path(folder, "repo")
        try:
            copy(rendered_only, repo, **answers)
        except ValueError as error:
            question, reason = refused(error)
            assert not repo.exists()
            asked = list(QUESTIONS)
            before = asked[: asked.index(question)]
            assert all(is_acceptable(name, answers[name]) for name in before if name in answers)
            assert not is_acceptable(question, answers[question]) or question in (
                "author_email",
                "repo_url",
            ), reason
            return
        assert all(is_acceptable(name, answer) for name, answer in answers.items())
        assert_exact(repo, answers)


def assert_exact(repo: Path, answers: dict[str, Any]) -> None:
    """Check that every file parses, and has the answers as they were typed."""
    parses(repo)
    recorded = answers_of(repo)
    assert {name: recorded[name] for name in answers} == answers
    project = project_of(repo)
    assert project["name"] == answers["repo_name"]
    assert project["description"] == answers["description"]
    email = {"email": answers["author_email"]} if answers["author_email"] else {}
    assert project["authors"] == [{"name": answers["author_name"], **email}]
    assert project.get("urls", {}) == (
        {"Repository": answers["repo_url"]} if answers["repo_url"] else {}
    )
    assert (repo / answers["package_name"] / "__init__.py").is_file()
    licence = (repo / "LICENSE").read_text(encoding="utf-8")
    assert answers["author_name"] in licence or answers["license"] == "Apache-2.0"
    assert shown((repo / "README.md").read_text(encoding="utf-8"))[:2] == [
        ("h1", answers["repo_name"]),
        ("p", answers["description"]),
    ]


class Reader(HTMLParser):
    """Reads headings and paragraphs; markup stays visible, except for links to their own text."""

    def __init__(self) -> None:
        super().__init__()
        self.blocks: list[tuple[str, str]] = []
        self.text = self.address = ""

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        if tag == "a":
            self.address = dict(attributes)["href"] or ""
        else:
            self.text = "" if tag in ("h1", "p") else f"{self.text}<{tag}>"

    def handle_endtag(self, tag: str) -> None:
        if tag in ("h1", "p"):
            self.blocks.append((tag, self.text))

    def handle_data(self, text: str) -> None:
        links_to_text = unquote(self.address.removeprefix("mailto:")) in ("", unquote(text))
        self.text += text if links_to_text else f"[{text}]({self.address})"
        self.address = ""


def shown(markdown: str) -> list[tuple[str, str]]:
    """The headings and paragraphs of a Markdown text, as GitHub shows them."""
    reader = Reader()
    reader.feed(github_flavored_markdown_to_html(markdown))
    reader.close()
    return reader.blocks


@pytest.mark.parametrize(
    "description",
    [
        *(
            "- a",
            "+ a",
            "* a",
            "# a",
            "> a",
            "1. a",
            "12) a",
            "---",
            "=",
            "|a|b|",
            "    a b",
            "a  b",
        ),
        *("`a`", "*a*", "_a_", "__a__ b", "~~a~~", "[a](b)", "![a](b)", "<b>a</b>", "<!-- a"),
        *("&amp;", "&copy", "a\\", "\\*a*", "[a]: b", "```", "<https://example.org>", "[^1]"),
        *("see https://example.org/a_b?c=d&e~f~*g*_.", "a_b@example.org", "*https://a.org/*b*"),
        *("(https://example.org/_(a)_)", "https://example.org/&copy;_a_", "[a](https://b.org/_c_)"),
        *(
            "R&D for a_name and __init__, ~all~ of it",
            "ftp://example.org/_a_b",
            "\\https://a.org/_",
            "www.example.org/~a~*b*",
            "https://\u00fc_*",
        ),
    ],
)
def test_the_readme_shows_a_description_as_it_was_typed(
    rendered_only: Path, tmp_path: Path, description: str
) -> None:
    typed = description.strip()
    readme = copy(rendered_only, tmp_path / "repo", description=typed) / "README.md"
    assert shown(readme.read_text())[:2] == [("h1", "repo"), ("p", typed)]


def test_the_readme_shows_a_repo_s_name_as_it_was_typed(
    rendered_only: Path, tmp_path: Path
) -> None:
    readme = copy(rendered_only, tmp_path / "repo", repo_name="A._b_.C") / "README.md"
    assert shown(readme.read_text())[0] == ("h1", "A._b_.C")


@pytest.mark.parametrize("package", ["class", "json", "luigi", "test", "\u00dcn\u00efcode"])
def test_a_package_name_that_is_taken_or_invalid_is_refused(
    questions_only: Path, tmp_path: Path, package: str
) -> None:
    with pytest.raises(ValueError, match="package_name") as error:
        copy(questions_only, tmp_path / "repo", package_name=package)
    question, reason = refused(error.value)
    assert question == "package_name"
    assert f"try {package}_pipelines" in reason or "must have only a-z, 0-9" in reason
    assert not (tmp_path / "repo").exists()


@given(name=mostly(NAME) | st.sampled_from(["json", "9-lives", "x" * 64, "A--b", "42", "class"]))
@example("a_.b")
def test_both_doors_suggest_the_same_package(questions_only: Path, name: str) -> None:
    assume(is_acceptable("repo_name", name))
    context = {"cookiecutter": json.loads((ROOT / "cookiecutter.json").read_text())}
    context["cookiecutter"]["repo_name"] = name
    by_cookiecutter = prompt_for_config(context, no_input=True)["package_name"]
    with tempfile.TemporaryDirectory() as folder:
        by_copier = answers_of(copy(questions_only, Path(folder, "repo"), repo_name=name))[
            "package_name"
        ]
    assert by_cookiecutter == by_copier
    assert is_acceptable("package_name", by_copier)


@given(answers=st.dictionaries(st.sampled_from(["description", "author_name"]), NASTY | st.text()))
def test_cookiecutter_s_hook_passes_any_answer_unchanged(answers: dict[str, str]) -> None:
    """Cookiecutter renders and runs the hook, changed to write the answers to a file."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        hook = (ROOT / "hooks" / "post_gen_project.py").read_text()
        script = folder / "hook.py"
        script.write_text(
            hook.replace("sys.exit(main())", "Path('answers.yml').write_text(as_yaml(ANSWERS))")
        )
        context = {"cookiecutter": {**answers, "_template": "t"}}
        run_script_with_context(str(script), folder, context)
        assert yaml.safe_load((folder / "answers.yml").read_text()) == answers
