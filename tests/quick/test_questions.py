"""The questions: which answers they accept, refuse and suggest."""

from __future__ import annotations

import ast
import keyword
import sys
from pathlib import Path

import pytest

from ..conftest import QUESTIONS, ROOT, Generate, answers_of, copy


def test_the_questions_come_in_this_order() -> None:
    assert list(QUESTIONS) == [
        *("repo_name", "package_name", "description", "author_name", "author_email"),
        *("repo_url", "license", "python_version", "ci"),
        *("protected_branches", "with_examples", "with_tables", "with_airflow"),
    ]


@pytest.mark.parametrize("name", QUESTIONS)
def test_every_question_has_a_help_text_and_a_default(name: str) -> None:
    question = QUESTIONS[name]
    assert len(question["help"]) > 20
    assert "default" in question
    if question["type"] == "str" and "choices" not in question:
        assert question["placeholder"]
        assert question["validator"]


def test_by_default_the_folder_names_the_repo_and_the_repo_names_the_package(
    generate: Generate,
) -> None:
    answers = answers_of(generate("sales-pipelines"))
    assert answers["repo_name"] == "sales-pipelines"
    assert answers["package_name"] == "sales_pipelines"
    assert answers["with_examples"] is True


@pytest.mark.parametrize(
    ("python", "default"),
    [("3.11", "3.11"), ("3.12", "3.12"), ("3.13", "3.12"), ("3.10", "3.12"), ("", "3.12")],
)
def test_the_default_python_is_no_newer_than_copier_s(
    questions_only: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    python: str,
    default: str,
) -> None:
    (tmp_path / f"python{python}").touch()
    (tmp_path / "python3").symlink_to(f"python{python}")
    monkeypatch.setattr(sys, "executable", str(tmp_path / "python3"))
    answers = answers_of(copy(questions_only, tmp_path / "sales"))
    assert answers["python_version"] == default


FOLDERS = [
    ("My Project!", "My-Project", "my_project"),
    ("2026-sales", "2026-sales", "sales"),
    ("json", "json", "json_pipelines"),
    ("test", "test", "test_pipelines"),
    ("class", "class", "class_pipelines"),
    ("tests", "tests", "tests_pipelines"),
    ("---", "my-pipelines", "my_pipelines"),
    ("42", "42", "pipelines"),
    ("luigi", "luigi-pipelines", "luigi_pipelines"),
    ("a.b_c-d", "a.b_c-d", "a_b_c_d"),
    ("x" * 100, "x" * 64, "x" * 40),
    ("\u6570\u636e", "my-pipelines", "my_pipelines"),
    ("\u00fcn\u00efcode", "my-pipelines", "my_pipelines"),
]


@pytest.mark.parametrize(("folder", "repo_name", "package_name"), FOLDERS)
def test_any_folder_name_becomes_valid_names(
    generate: Generate, folder: str, repo_name: str, package_name: str
) -> None:
    answers = answers_of(generate(folder))
    assert (answers["repo_name"], answers["package_name"]) == (repo_name, package_name)


REFUSED = [
    ("repo_name", "", "must have 1 to 64 characters, not 0"),
    ("repo_name", "-sales", "a letter or digit at both ends"),
    ("repo_name", "sales pipelines", "e.g. sales-pipelines"),
    ("repo_name", "s" * 65, "must have 1 to 64 characters, not 65"),
    ("repo_name", "sales\n", "must have only A-Z"),
    ("repo_name", "Luigi", "try Luigi-pipelines"),
    ("repo_name", "python_dotenv", "is a dependency of every repo"),
    ("package_name", "", "must have 1 to 40 characters, not 0"),
    ("package_name", "Sales", "only a-z, 0-9"),
    ("package_name", "2sales", "begin with a letter"),
    ("package_name", "sales-x", "e.g. sales_pipelines"),
    ("package_name", "\u00fcn\u00efcode", "must have only a-z, 0-9 and"),
    ("package_name", "s" * 41, "1 to 40"),
    ("package_name", "class", "try class_pipelines"),
    ("package_name", "json", "try json_pipelines"),
    ("package_name", "luigi", "is taken by Python, a dependency"),
    ("package_name", "yaml", "is taken by Python"),
    ("package_name", "test", "is taken by Python"),
    ("package_name", "tests", "is taken by Python"),
    ("repo_name", "annotated.Types", "is a dependency of every repo"),
    ("package_name", "botocore", "is taken by Python"),
    ("description", " ", "must not be blank"),
    ("description", "\u200b \u202e\ufeff", "must not be blank"),
    ("description", "a\nb", "one line"),
    ("description", "a\udcff", "without control characters"),
    ("description", "x" * 201, "at most 200 characters, not 201"),
    ("description", "a\x85b", "without control characters"),
    ("description", "a\u2028b", "one line"),
    ("author_name", "", "must not be blank"),
    ("author_name", "x" * 101, "at most 100 characters, not 101"),
    ("author_name", ".", "must contain a letter or a digit"),
    ("author_name", "\u200b.\ufe0f", "must contain a letter or a digit"),
    ("author_name", "a\x1b[31mb", "without control characters"),
    ("author_email", "nobody", "must be an email address or empty, e.g. forecasting@example.org"),
    ("author_email", "a b@example.org", "an email address or empty"),
    ("author_email", "a@example.org\n", "an email address or empty"),
    ("author_email", 'a@example"x.org', "an email address or empty"),
    ("author_email", f"a@{'x' * 250}.org", "an email address or empty"),
    ("author_email", "a@example-.org", "an email address or empty"),
    ("author_email", "a@example..org", "an email address or empty"),
    ("repo_url", "https://example.org/x\n", "must be a web address"),
    ("repo_url", f"https://example.org/{'x' * 200}", "must be a web address"),
    ("repo_url", "example.org", "must be a web address"),
    ("repo_url", 'https://example.org/"x', "must be a web address"),
    ("repo_url", "https://.", "must be a web address"),
    ("repo_url", "https://example.org:999999/", "must be a web address"),
    ("repo_url", "https://example.org/%zz", "must be a web address"),
    ("repo_url", "https://ann:secret@example.org/x", "without a password, or empty"),
    ("license", "GPL", "GPL"),
    ("python_version", "3.10", "3.10"),
    ("python_version", "3.9", "3.9"),
    ("ci", "jenkins", "jenkins"),
    ("protected_branches", "", "must be branch names"),
    ("protected_branches", "main  dev", "one space between, e.g. main dev"),
    ("protected_branches", " main", "must be branch names"),
    ("protected_branches", "main,dev", "must be branch names"),
    ("protected_branches", "-main", "must be branch names"),
    ("protected_branches", "a..b", "must be branch names"),
    ("protected_branches", "a.lock", "must be branch names"),
    ("protected_branches", "a//b", "must be branch names"),
    ("protected_branches", "HEAD", "must be branch names"),
    ("protected_branches", "$(id)", "must be branch names"),
    ("protected_branches", "main\n", "must be branch names"),
    ("protected_branches", "x" * 201, "must be branch names"),
    ("with_examples", "flase", "must be yes or no"),
    ("with_tables", "maybe", "must be yes or no"),
    ("with_airflow", "maybe", "must be yes or no"),
]


@pytest.mark.parametrize(("question", "answer", "reason"), REFUSED)
def test_a_wrong_answer_is_refused_with_the_rule_and_leaves_no_folder(
    generate: Generate, tmp_path: Path, question: str, answer: str, reason: str
) -> None:
    with pytest.raises(ValueError, match=question) as error:
        generate("new", **{question: answer})
    assert reason in str(error.value)
    assert not (tmp_path / "new").exists()
    _, is_a_rule, message = str(error.value).partition(f"question '{question}': ")
    if is_a_rule:  # not a choice that is not there
        assert len(message) <= 79, "Copier's prompt cuts it at the terminal's width"


def test_the_longest_name_that_is_taken_is_refused_in_one_line(questions_only: Path) -> None:
    for question, file in (("repo_name", "distributions"), ("package_name", "module-names")):
        longest = max((ROOT / "includes" / f"{file}.txt").read_text().split(), key=len)
        with pytest.raises(ValueError, match=question) as error:
            copy(questions_only, questions_only / "new", **{question: longest})
        message = str(error.value).partition(f"question '{question}': ")[2]
        assert longest in message
        assert len(message) <= 79


@pytest.mark.parametrize(
    ("question", "answer"),
    [
        ("repo_name", "Sales.2026_x"),
        ("package_name", "s"),
        ("description", 'Ünï "quoted" \\ {braces} #1 <b> & \U0001f600'),
        ("author_name", "O'Neill, Ann & 李"),
        ("description", "\U0001f680"),
        ("author_email", "first.o'neill+tag@mail.example.org"),
        ("author_email", "a@xn--mnchen-3ya.example.org"),
        ("repo_url", "https://example.org:8443/team/sales-pipelines"),
        ("repo_url", "https://team@example.org/team/_git/sales%20pipelines"),
        ("repo_url", "https://example.org/?p=sales.git;a=tree#readme"),
        ("protected_branches", "trunk release/2026.11 _x"),
    ],
)
def test_an_unusual_answer_is_kept_as_it_was_given(
    generate: Generate, question: str, answer: str
) -> None:
    assert answers_of(generate(**{question: answer}))[question] == answer


@pytest.mark.parametrize(
    ("text", "answer"), [("yes", True), ("on", True), ("1", True), ("No", False), ("0", False)]
)
def test_yes_and_no_can_be_written_in_many_ways(
    generate: Generate, text: str, answer: bool
) -> None:
    answers = answers_of(generate(with_examples=text))
    assert answers["with_examples"] is answers["with_tables"] is answer


@pytest.mark.parametrize("answer", [True, False])
def test_tables_can_be_had_without_the_example_and_the_other_way_round(
    generate: Generate, answer: bool
) -> None:
    repo = generate(with_examples=answer, with_tables=not answer)
    assert answers_of(repo)["with_tables"] is not answer
    assert (repo / "sales_pipelines" / "tables.py").exists() is not answer


def test_no_package_can_shadow_python() -> None:
    taken = (ROOT / "includes" / "module-names.txt").read_text().split()
    public = {name for name in sys.stdlib_module_names if name[0] != "_" and name == name.lower()}
    keywords = {word for word in keyword.kwlist if word == word.lower()}
    assert (public | keywords) - set(taken) == set()


def test_no_package_can_shadow_a_module_that_the_generated_code_imports(generate: Generate) -> None:
    repo = generate()
    taken = {*(ROOT / "includes" / "module-names.txt").read_text().split(), "sales_pipelines"}
    imported = set()
    for file in repo.rglob("*.py"):
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.Import):
                imported |= {alias.name.partition(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
                imported.add(node.module.partition(".")[0])
    # hooks/new.py imports hooks/update.py, and puts its own folder before all others.
    assert imported - taken - {"__future__", "update"} == set()
    assert {path.name for path in repo.iterdir() if path.is_dir() and path.name[0] != "."} <= taken


def test_an_address_that_begins_with_git_is_recorded_as_it_is(
    template: Path, tmp_path: Path
) -> None:
    repo = copy(Path(f"git+{template}"), tmp_path / "sales-pipelines")
    assert answers_of(repo)["_src_path"] == f"git+{template}"
