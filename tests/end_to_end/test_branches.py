"""Every branch of every template is taken, measured in Jinja while Copier renders."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import copier
import pytest
from jinja2 import Environment, nodes

from .. import conftest
from ..conftest import CONFIGURATION, ROOT, commit, copy, git, known
from ..quick import test_new
from ..quick.test_questions import FOLDERS, REFUSED
from .test_adopting import OLDER, PACKAGE, write
from .test_combinations import COMBINATIONS

SEEN: set[tuple[str, str]] = set()  # (text of a template, one of its branches)


def see(template: str, branch: str, value: Any = "") -> Any:
    """Record that the branch is taken, and return the value. The templates call this."""
    SEEN.add((template, branch))
    return value


def mark(source: str, tree: nodes.Template) -> set[tuple[str, str]]:
    """Make each branch of the template call `see`, and return all branches."""
    branches: set[tuple[str, str]] = set()

    def call(node: nodes.Node, kind: str, *value: nodes.Expr) -> nodes.Call:
        branch = f"line {node.lineno}, branch {len(branches)}: {kind}"
        branches.add((source, branch))
        arguments = [nodes.Const(source), nodes.Const(branch), *value]
        return nodes.Call(nodes.ImportedName(f"{__name__}.see"), arguments, [], None, None)

    ifs = list(tree.find_all(nodes.If))
    elifs = {id(each) for branching in ifs for each in branching.elif_}
    for branching in ifs:
        branching.body.insert(0, nodes.ExprStmt(call(branching, "then")))
        if id(branching) not in elifs:  # an `if` with its `elif`s has one `else`, written or not
            branching.else_.insert(0, nodes.ExprStmt(call(branching, "else")))
    for loop in tree.find_all(nodes.For):
        loop.body.insert(0, nodes.ExprStmt(call(loop, "for")))
        if loop.else_:
            loop.else_.insert(0, nodes.ExprStmt(call(loop, "else")))
    for choice in tree.find_all(nodes.CondExpr):
        choice.expr1 = call(choice, "if", choice.expr1)
        choice.expr2 = call(choice, "else", choice.expr2 or nodes.Const(""))
    return branches


@pytest.fixture
def marking(monkeypatch: pytest.MonkeyPatch) -> None:
    """Mark each template that Jinja compiles."""
    parse = Environment._parse

    def parse_and_mark(
        self: Environment, source: str, name: str | None, filename: str | None
    ) -> nodes.Template:
        tree = parse(self, source, name, filename)
        mark(source, tree)
        return tree

    monkeypatch.setattr(Environment, "_parse", parse_and_mark)
    monkeypatch.setattr(conftest, "COMPILED", {})  # none of the templates compiled without marks
    SEEN.clear()


def texts(value: Any) -> Iterator[str]:
    """All strings in a value from YAML."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict | list):
        for each in value.values() if isinstance(value, dict) else value:
            yield from texts(each)


def all_branches() -> dict[tuple[str, str], str]:
    """The branches of all templates, each with its file."""
    included = filter(Path.is_file, (ROOT / "includes").rglob("*"))
    files = [*(ROOT / "templates").rglob("*.jinja"), *included, ROOT / "bootstrap.py"]
    sources = {path.read_text(): path.name for path in files}
    sources |= {
        text: f"copier.yml, {name}"
        for name, value in CONFIGURATION.items()
        for text in texts(value)
    }
    return {
        branch: file
        for source, file in sources.items()
        for branch in mark(source, Environment().parse(source))
    }


def lay_over_older_repos(template: Path, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Copy the template over repos that were not made from it, as far as it lets itself."""
    runtime = {f"{PACKAGE}/runtime/__init__.py": ""}
    for name, files in (
        ("much", OLDER),
        ("here", OLDER),
        ("little", {"README.md": "# Ours\n"}),
        ("one", {"AGENTS.md": "# Ours\n"}),
        ("runtime", OLDER | runtime),
        ("file for folder", {"docs": "Ours.\n"}),
        ("folder for file", {"README.md/ours": ""}),
        ("src", {f"src/{PACKAGE}/__init__.py": ""}),
        ("another", {".copier-answers.yml": "_commit: 1.0\n_src_path: /elsewhere\n"}),
    ):
        repo = folder / name / PACKAGE
        write(repo, files)
        if name == "folder for file":
            (repo / "hooks").symlink_to("gone")
        monkeypatch.chdir(repo)
        destination = Path() if name == "here" else repo
        with contextlib.suppress(ValueError):
            copier.run_copy(str(template), destination, defaults=True)
    for kept in ("a  b", "README.md AGENTS.md"):
        with contextlib.suppress(ValueError):
            copier.run_copy(
                str(template), folder / "much" / PACKAGE, data={"kept": kept}, defaults=True
            )


def make_flows(template: Path, repo: Path) -> None:
    """Make a flow of each kind in the repo, and some that the template refuses."""
    (task,) = repo.glob("*/tasks/*/co2_tasks.py")
    after = f"examples/{task.name}:CleanCo2"
    package = task.parents[2].name
    options: list[dict[str, object]] = [{}, {"after": after, "in_container": True}]
    made = [
        {"new_flow": f"sales/{kind.replace('-', '_')}{number}", "kind": kind, **more}
        for kind in test_new.KINDS
        for number, more in enumerate(options)
    ]
    names = [name.replace(test_new.PACKAGE, package) for name, _ in test_new.REFUSED]
    refused = [dict[str, object](new_flow=name) for name in names]
    refused += [made[0], {"kind": "x"}, {"after": "x"}, {"kind": "curate", "with_tables": False}]
    for data in made:
        copier.run_copy(str(template), repo, data=data, defaults=True)
    places = [*((repo, data) for data in refused), (repo / "no repo", made[0])]
    for folder, data in places:
        with pytest.raises(ValueError, match="Validation error"):
            copier.run_copy(str(template), folder, data=data, defaults=True)
    with pytest.raises(ValueError, match="overwrite"):
        copier.run_copy(str(template), repo, data=made[0], defaults=True, overwrite=True)


@pytest.mark.thorough
def test_every_branch_of_every_template_is_taken(
    marking: None,
    template: Path,
    rendered_only: Path,
    questions_only: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for number, combination in enumerate(COMBINATIONS[::7]):
        addresses = {
            "repo_url": "https://example.org",
            "author_email": "a@example.org",
            "description": "See https://example.org/a_b",
            "protected_branches": "trunk",
        }
        more = addresses if number % 2 else {}
        copy(rendered_only, tmp_path / "combinations" / str(number), **combination, **more)
    for folder, _, _ in FOLDERS:
        copy(questions_only, tmp_path / "folders" / folder)
    for question, answer, _ in REFUSED:
        with contextlib.suppress(ValueError):
            copy(questions_only, tmp_path / "refused", **{question: answer})
    with monkeypatch.context() as changed:
        changed.setattr(sys, "executable", "/usr/bin/python3.12")  # Copier's
        copy(questions_only, tmp_path / "with another Python")
    monkeypatch.chdir(questions_only.parent)
    copy(Path(questions_only.name), tmp_path / "by a relative path")
    for with_examples in (True, False):
        repo = tmp_path / "updated" / str(with_examples)
        data = known({"with_examples": with_examples, "python_version": "3.12"})
        copier.run_copy(str(template), repo, data=data, defaults=True)
        git(repo, "init", "--quiet")
        commit(repo, "The repo")
        answers = repo / ".copier-answers.yml"  # as if an older version asked fewer questions
        text = answers.read_text().replace("ci: github\n", "").replace("author_email: ''\n", "")
        answers.write_text(text)
        if with_examples:  # as in 2026.11.0
            (runtime,) = repo.glob("*/runtime/__main__.py")
            runtime.with_name("supervisor.py").touch()
        commit(repo, "Fewer questions")
        other = known({"with_examples": not with_examples})
        copier.run_update(repo, data=other, defaults=True, overwrite=True)
        text = answers.read_text()  # and as if it had other choices
        answers.write_text(text.replace("MIT", "GPL").replace("3.12", "3.10"))
        copier.run_recopy(repo, defaults=True, overwrite=True)
    lay_over_older_repos(template, tmp_path / "older", monkeypatch)
    make_flows(template, copy(template, tmp_path / "flows", with_examples=True))
    branches = all_branches()
    assert len(branches) > 50, "the templates were not read"
    missed = [
        f"{file}: {branch}"
        for (text, branch), file in branches.items()
        if (text, branch) not in SEEN
    ]
    assert missed == []
