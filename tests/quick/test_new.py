"""`nox -s new`: what it makes, what it refuses, and that it touches nothing else."""

from __future__ import annotations

import functools
import importlib
import keyword
import re
import shutil
import string
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import copier
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from ..conftest import (
    CONFIGURATION,
    FIRST,
    ROOT,
    SECOND,
    commit,
    copier_prints,
    copy,
    first_by_day,
    git,
    make_template,
    output,
    parses,
)

KINDS = ("minimal", "foreach", "train-predict", "scrape", "curate")
PACKAGE = "sales_pipelines"
CLEAN = f"{PACKAGE}/tasks/stocks/clean_tasks.py"
TASKS = '''"""Tasks that stand here already."""

import luigi

from sales_pipelines.runtime import MetaflowTask


class Clean(MetaflowTask):
    flow_path = "stocks/clean/clean.py"
    day = luigi.DateParameter()


class Check(MetaflowTask):
    flow_path: str = "stocks/clean/check.py"


class Any(MetaflowTask):
    """Runs the flow that it is given."""


RootTask = Clean
'''

New = Callable[..., tuple[int, str]]


@functools.cache
def new_module() -> Any:
    """hooks/new.py."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(ROOT / "hooks"))
        return importlib.import_module("new")


@pytest.fixture(scope="module")
def repo(template: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A repo with a task of its own; tests leave it as it is."""
    folder = tmp_path_factory.mktemp("new") / "sales-pipelines"
    copy(template, folder)
    (folder / CLEAN).parent.mkdir()
    (folder / CLEAN).write_text(TASKS)
    git(folder, "init", "--quiet", "--initial-branch=main")
    commit(folder, "The repo")
    return folder


@pytest.fixture
def new(repo: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Any:
    """A function that makes a flow in the repo: the exit code, and what is printed."""

    def new(*arguments: str, folder: Path = repo) -> tuple[int, str]:
        with monkeypatch.context() as patch:
            patch.chdir(folder)
            patch.delenv("UV_PROJECT_ENVIRONMENT", raising=False)  # nox sets it
            try:
                code = new_module().main(arguments)
            except SystemExit as stop:
                code = stop.code
        printed = capsys.readouterr()
        return code, printed.out + printed.err

    yield new
    git(repo, "reset", "--quiet", "--hard")
    git(repo, "clean", "-fdxq")


def changes(repo: Path) -> list[str]:
    """What is not as it was committed, in git's words; git ignores nothing."""
    arguments = ("status", "--porcelain", "--untracked-files=all", "--ignored")
    return sorted(git(repo, *arguments).splitlines())


def made_in(repo: Path) -> list[Path]:
    """The files that are new. Nothing else has changed, and nothing is staged."""
    assert all(line.startswith("?? ") for line in changes(repo)), changes(repo)
    return [repo / line.removeprefix("?? ") for line in changes(repo)]


def is_clean(repo: Path) -> None:
    """Check that ruff finds nothing in the new files, and would format nothing."""
    parses(repo)
    files = [file for file in made_in(repo) if file.suffix == ".py"]
    for command in (["check"], ["format", "--diff"]):
        ruff = [sys.executable, "-m", "ruff", *command, "--no-cache", "-q", *map(str, files)]
        done = subprocess.run(ruff, cwd=repo, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout + done.stderr


def flow_files(kind: str, name: str = "sales/forecast", in_container: bool = False) -> set[str]:
    group, _, last = name.partition("/")
    flows = {"train-predict": ("train.py", "predict.py")}.get(kind, (f"{last}.py",))
    pages = ("index.html", "apples.html", "pears.html") if kind == "scrape" else ()
    own = (*flows, *(f"pages/{page}" for page in pages), *(["Dockerfile"] * in_container))
    return {
        *(f"{PACKAGE}/flows/{name}/{file}" for file in own),
        f"{PACKAGE}/tasks/{name}_tasks.py",
        f"tests/test_{group}_{last}.py",
    }


def test_the_kinds_are_those_of_the_template(repo: Path, new: New) -> None:
    assert set(new_module().KINDS) == set(KINDS)
    assert str(list(KINDS)) in CONFIGURATION["kind"]["validator"]
    code, printed = new("--help")
    assert code == 0
    for kind in KINDS:
        assert re.search(rf"\n  {kind} +\w+", printed)


def test_a_table_needs_the_piece(repo: Path, new: New) -> None:
    answers = repo / ".copier-answers.yml"
    answers.write_text(answers.read_text().replace("with_tables: true", "with_tables: false"))
    commit(repo, "Without tables")
    try:
        code, printed = new("sales/forecast", "--kind", "curate")
    finally:
        git(repo, "reset", "--quiet", "--hard", "HEAD~1")
    assert code != 0
    assert "needs the tables, which the answer with_tables=true brings" in printed


@pytest.mark.parametrize(
    ("after", "in_container"),
    [
        ("stocks/clean", True),
        pytest.param("", False, marks=pytest.mark.thorough),
        pytest.param("", True, marks=pytest.mark.thorough),
        pytest.param("stocks/clean", False, marks=pytest.mark.thorough),
    ],
)
@pytest.mark.parametrize("kind", KINDS)
def test_a_flow_a_task_and_a_test_are_made_and_nothing_else(
    repo: Path, new: New, kind: str, after: str, in_container: bool
) -> None:
    options = [*(["--after", after] if after else ()), *(["--in-container"] * in_container)]
    code, printed = new("sales/forecast", "--kind", kind, *options)
    assert code == 0, printed
    names = {file.relative_to(repo).as_posix() for file in made_in(repo)}
    assert names == flow_files(kind, in_container=in_container)
    assert all(f"  {name}\n" in printed for name in names)
    assert printed.endswith(
        "Next:\n\n  nox -s run -- sales/forecast_tasks.py\n"
        "  nox -s test -- tests/test_sales_forecast.py\n"
    )
    is_clean(repo)
    tasks = (repo / PACKAGE / "tasks" / "sales" / "forecast_tasks.py").read_text()
    assert ("@requires(clean_tasks.Clean)" in tasks) is bool(after)
    assert ('runner = "container"' in tasks) is in_container
    for file in made_in(repo):
        assert not file.stat().st_mode & 0o111
        assert not re.search(r"\{\{|\{%|\n\n\n\n|\A\n|\n\n\Z", file.read_text()), file


def test_the_flow_s_dockerfile_is_the_repo_s_own(repo: Path, new: New) -> None:
    new("sales/forecast", "--in-container")
    own = repo / PACKAGE / "flows/sales/forecast/Dockerfile"
    assert own.read_bytes() == (repo / PACKAGE / "config/metaflowtask/Dockerfile").read_bytes()


REFUSED = [
    ("forecast", "must be GROUP/NAME"),
    ("sales/weekly/forecast", "must be GROUP/NAME"),
    ("sales/weekly-forecast", "must be GROUP/NAME"),
    ("sales/Forecast", "must be GROUP/NAME"),
    ("sales/2026", "must be GROUP/NAME"),
    ("sales/_hidden", "must be GROUP/NAME"),
    ("sales/two__bars", "must be GROUP/NAME"),
    ("sales/prévision", "must be GROUP/NAME"),
    ("sales/forecast\n", "must be GROUP/NAME"),
    ("../sales/forecast", "must be GROUP/NAME"),
    ("/sales/forecast", "must be GROUP/NAME"),
    ("sales/", "must be GROUP/NAME"),
    ("", "must be GROUP/NAME"),
    (f"sales/{'x' * 60}", "must have at most 40 characters, not 66"),
    ("sales/import", "would hide the module import"),
    ("class/forecast", "must not be in a group that is a keyword"),
    ("sales/random", "would hide the module random from the flow; try random_flow"),
    ("sales/metaflow", "would hide the module metaflow"),
    (f"sales/{PACKAGE}", f"would hide the module {PACKAGE}"),
    ("examples/forecast", "must be in another group"),
    ("sales/root_task", "is the name of a task"),
    ("sales/o", "would make a class O, which people take for a number; try o_flow"),
]


@pytest.mark.parametrize(("name", "reason"), REFUSED)
def test_a_name_that_cannot_be_is_refused(repo: Path, new: New, name: str, reason: str) -> None:
    code, printed = new(name)
    assert (code, changes(repo)) == (2, [])
    assert f"new: {name} {reason}" in printed


NAMES = st.one_of(
    st.text(string.ascii_lowercase + "_/", max_size=20),
    st.builds("{}/{}".format, *[st.from_regex(r"[a-z][a-z0-9_]{0,22}", fullmatch=True)] * 2),
    st.builds("{}/{}".format, *[st.sampled_from([*keyword.kwlist, *keyword.softkwlist, "x"])] * 2),
)


def is_acceptable(name: str) -> bool:
    """The rule, written independently of the template."""
    parts = name.split("/")
    words = [word for part in parts for word in part.split("_")]
    taken = (ROOT / "includes" / "module-names.txt").read_text().split()
    return (
        len(parts) == 2
        and len(name) <= min(40, 75 - len(PACKAGE))
        and all(word and word.isascii() and word.isalnum() for word in words)
        and all(part.isidentifier() and part == part.lower() for part in parts)
        and parts[0] not in (*keyword.kwlist, "examples", "runtime")
        and parts[1] not in (*taken, PACKAGE, "metaflow_task", "root_task", "i", "o")
    )


@pytest.mark.thorough
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(name=NAMES, kind=st.sampled_from(KINDS))
@example(name="a/" + "b" * 38, kind="minimal")
@example(name="a/" + "b" * 38, kind="foreach")
@example(name="a/" + "b" * 38, kind="train-predict")
@example(name="a/" + "b" * 38, kind="scrape")
@example(name="a/" + "b" * 38, kind="curate")
@example(name="a" * 38 + "/b", kind="curate")
@example(name="path/site", kind="scrape")
@example(name="o/l", kind="curate")
@example(name="pytest/flow", kind="scrape")
@example(name="x/train", kind="train-predict")
@example(name="match/case", kind="minimal")
def test_any_name_makes_files_that_lint_passes_or_is_refused(
    repo: Path, new: New, rendered_only: Path, name: str, kind: str
) -> None:
    data = {"new_flow": name, "kind": kind, "after": "stocks/clean_tasks.py:Clean"}
    try:
        if is_acceptable(name):
            copier.run_copy(str(rendered_only), repo, data=data, defaults=True, quiet=True)
            names = {file.relative_to(repo).as_posix() for file in made_in(repo)}
            assert names == {file for file in flow_files(kind, name) if ".html" not in file}
            is_clean(repo)
        else:
            with pytest.raises(ValueError, match="Validation error for question 'new_flow'"):
                copier.run_copy(str(rendered_only), repo, data=data, defaults=True, quiet=True)
            assert changes(repo) == []
    finally:
        git(repo, "clean", "-fdxq")


@pytest.mark.parametrize(
    "standing",
    [
        f"{PACKAGE}/flows/sales/forecast/README.md",
        f"{PACKAGE}/flows/sales/forecast.py",
        f"{PACKAGE}/tasks/sales/forecast_tasks.py",
        "tests/test_sales_forecast.py",
    ],
)
def test_a_name_that_exists_is_refused(repo: Path, new: New, standing: str) -> None:
    (repo / standing).parent.mkdir(parents=True, exist_ok=True)
    (repo / standing).write_text("# mine\n")
    code, printed = new("sales/forecast")
    assert (code, changes(repo)) == (4, [f"?? {standing}"])
    assert f"new: sales/forecast exists already: {standing.removesuffix('/README.md')}" in printed
    assert (repo / standing).read_text() == "# mine\n"


def test_a_second_run_is_refused_and_changes_nothing(repo: Path, new: New) -> None:
    new("sales/forecast")
    flow = repo / PACKAGE / "flows/sales/forecast/forecast.py"
    flow.write_text("# mine\n")
    before = changes(repo)
    assert new("sales/forecast", "--kind", "foreach")[0] == 4
    assert changes(repo) == before
    assert flow.read_text() == "# mine\n"


def test_two_flows_of_one_class_are_refused(repo: Path, new: New) -> None:
    """Metaflow would take their runs for runs of one flow."""
    other = f"{PACKAGE}/flows/other.py"
    (repo / other).write_text("class SalesForecastFlow(Base):\n    pass\n")
    code, printed = new("sales/forecast")
    assert (code, changes(repo)) == (4, [f"?? {other}"])
    assert f"sales/forecast would have a flow SalesForecastFlow, and {other} has one" in printed


@pytest.mark.parametrize("module", ["pandas/__init__.py", "pandas.py", "pandas.cpython-312.so"])
def test_a_package_that_the_user_has_installed_is_not_hidden(
    repo: Path, new: New, module: str
) -> None:
    file = repo / ".venv" / "lib" / "python3.12" / "site-packages" / module
    file.parent.mkdir(parents=True)
    file.touch()
    before = changes(repo)
    code, printed = new("sales/pandas")
    assert (code, changes(repo)) == (2, before)
    assert "would hide the package pandas from the flow\nhint: nox -s new -- sales/pandas_flow" in (
        printed
    )


@pytest.mark.parametrize(
    ("after", "task"),
    [
        ("Check", "Check"),
        ("stocks/clean_tasks.py:Check", "Check"),
        ("stocks/clean/check.py", "Check"),
        ("stocks/clean/check", "Check"),
        ("stocks/clean", "Clean"),
        (f"{PACKAGE}/flows/stocks/clean/", "Clean"),
        ("flows/stocks/clean/clean.py", "Clean"),
        (CLEAN, "Clean"),
        ("stocks/clean_tasks", "Clean"),
        ("CleanCo2", "co2"),
    ],
)
def test_after_takes_a_flow_or_a_task(repo: Path, new: New, after: str, task: str) -> None:
    assert new("sales/forecast", "--after", after)[0] == 0
    tasks = (repo / PACKAGE / "tasks" / "sales" / "forecast_tasks.py").read_text()
    module, name = ("co2_tasks", "CleanCo2") if task == "co2" else ("clean_tasks", task)
    package = "examples" if task == "co2" else "stocks"
    assert f"from {PACKAGE}.tasks.{package} import {module}\n" in tasks
    assert f"\n@requires({module}.{name})\nclass Forecast(MetaflowTask):" in tasks


def test_after_takes_a_module_that_lies_in_no_folder(repo: Path, new: New) -> None:
    shutil.copy(repo / CLEAN, repo / PACKAGE / "tasks" / "sales_tasks.py")
    assert new("sales/forecast", "--after", "sales_tasks.py")[0] == 0
    tasks = (repo / PACKAGE / "tasks" / "sales" / "forecast_tasks.py").read_text()
    assert f"from {PACKAGE}.tasks import sales_tasks\n" in tasks


def test_after_names_one_task(repo: Path, new: New) -> None:
    code, printed = new("sales/forecast", "--after", "sales/clean")
    assert code == 2
    assert "new: --after sales/clean is no task of a flow\nhint: the tasks are examples/" in printed
    shutil.copy(repo / CLEAN, repo / PACKAGE / "tasks" / "other_tasks.py")
    (repo / PACKAGE / "tasks" / "broken_tasks.py").write_text("class\n")
    code, printed = new("sales/forecast", "--after", "Clean")
    assert code == 2
    assert (
        "new: --after Clean is more than one task\nhint: the tasks are other_tasks.py:Clean, "
        in (printed)
    )
    assert not (repo / PACKAGE / "flows" / "sales").exists()


def test_a_run_that_fails_halfway_leaves_nothing(repo: Path, new: New) -> None:
    shutil.rmtree(repo / "tests")
    (repo / "tests").write_text("a file is in the way of the last one\n")
    before = changes(repo)
    code, printed = new("sales/forecast")
    assert (code, changes(repo)) == (1, before)
    assert "new: [Errno" in printed
    assert not (repo / PACKAGE / "flows" / "sales").exists()


def test_a_run_that_is_interrupted_leaves_nothing(
    repo: Path, new: New, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(path: Path) -> bytes:
        if path.name.startswith("test_"):
            raise KeyboardInterrupt
        return path.read_text().encode()

    monkeypatch.setattr(new_module().Path, "read_bytes", interrupted)
    code, printed = new("sales/forecast", "--kind", "scrape")
    assert (code, changes(repo)) == (130, [])
    assert "new: interrupted, and nothing is made" in printed
    assert not (repo / PACKAGE / "flows" / "sales").exists()


def test_the_tree_may_be_dirty_and_the_repo_a_folder_of_another(
    repo: Path, new: New, tmp_path: Path
) -> None:
    git(tmp_path, "init", "--quiet", "--initial-branch=main")
    inner = tmp_path / "pipelines"
    shutil.copytree(repo, inner, ignore=shutil.ignore_patterns(".git"))
    commit(tmp_path, "All projects")
    (inner / "README.md").write_text("mine\n")
    (inner / "noted.txt").touch()
    git(tmp_path, "add", "pipelines/noted.txt")
    code, printed = new("sales/forecast", folder=inner)
    assert code == 0, printed
    names = {f"pipelines/{name}" for name in flow_files("minimal")}
    assert set(git(tmp_path, "ls-files", "--others", "--exclude-standard").splitlines()) == names
    assert git(tmp_path, "diff", "--name-only") == "pipelines/README.md"
    assert git(tmp_path, "diff", "--cached", "--name-only") == "pipelines/noted.txt"


def test_a_repo_without_a_commit_or_answers_is_told_what_to_do(
    repo: Path, new: New, tmp_path: Path
) -> None:
    code, printed = new("sales/forecast", folder=tmp_path)
    assert (code, "hint: nox -s setup" in printed) == (4, True), printed
    git(tmp_path, "init", "--quiet")
    (tmp_path / "x").touch()
    commit(tmp_path, "x")
    code, printed = new("sales/forecast", folder=tmp_path)
    assert (code, "no .copier-answers.yml" in printed) == (6, True), printed


def test_an_older_template_that_has_no_flows_is_named(new: New, tmp_path: Path) -> None:
    template = make_template(tmp_path / "template")
    repo = copy(template, tmp_path / "repo")
    git(repo, "init", "--quiet")
    commit(repo, "The repo")
    file = template / "copier.yml"
    file.write_text(file.read_text().replace("\nnew_flow:", "\nold_flow:"))
    commit(template, "Older")
    git(template, "tag", "--force", FIRST)
    code, printed = new("sales/forecast", folder=repo)
    assert code == 5
    assert f"version {FIRST} of the template makes no flows\nhint: nox -s update" in printed


def test_no_network_is_needed_where_copier_s_cache_has_the_version(
    new: New, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COPIER_CACHE_DIR", str(tmp_path / "cache"))
    template = make_template(tmp_path / "template")
    repo = tmp_path / "repo"
    address = f"git+file://{template}"  # as Copier sees it, it is elsewhere
    copier.run_copy(address, repo, data={"package_name": PACKAGE}, defaults=True, quiet=True)
    git(repo, "init", "--quiet")
    commit(repo, "The repo")
    template.rename(tmp_path / "out of reach")
    code, printed = new("sales/forecast", folder=repo)
    assert code == 0, printed
    assert (repo / PACKAGE / "flows/sales/forecast/forecast.py").exists()
    (tmp_path / "cache").rename(tmp_path / "no cache")
    code, printed = new("sales/other", folder=repo)
    assert code == 5
    assert f"new: cannot read the template {address}" in printed
    assert f"hint: without a network, version {FIRST} must be in Copier's cache" in printed
    (tmp_path / "out of reach").rename(template)
    assert new("sales/other", folder=repo)[0] == 0


def test_the_version_is_the_repo_s_not_the_newest(new: New, tmp_path: Path) -> None:
    template = make_template(tmp_path / "template")
    repo = copy(template, tmp_path / "repo", package_name=PACKAGE)
    git(repo, "init", "--quiet")
    commit(repo, "The repo")
    (flow,) = template.glob("templates/*/*minimal*/*/flows/*/*/*.jinja")
    flow.write_text("# Newer\n" + flow.read_text())
    commit(template, "Newer", tag=SECOND)
    assert new("sales/forecast", folder=repo)[0] == 0
    assert "Newer" not in (repo / PACKAGE / "flows/sales/forecast/forecast.py").read_text()


def by_hand(template: Path, repo: Path, *data: str) -> str:
    options = [word for each in data for word in ("--data", each)]
    return copier_prints(repo, "copy", "--defaults", *options, template, ".")


@pytest.mark.parametrize("kind", KINDS)
def test_copier_makes_the_same_by_hand(
    repo: Path, new: New, plain_template: Path, kind: str
) -> None:
    new("sales/forecast", "--kind", kind, "--after", "Clean", "--in-container")
    texts = {file: file.read_bytes() for file in made_in(repo)}
    git(repo, "clean", "-fdxq")
    data = (f"kind={kind}", "after=stocks/clean_tasks.py:Clean", "in_container=true")
    printed = by_hand(plain_template, repo, "new_flow=sales/forecast", *data)
    assert {file: file.read_bytes() for file in made_in(repo)} == texts
    assert "python3 noxfile.py -s run -- sales/forecast_tasks.py" in printed


@pytest.mark.parametrize(
    ("data", "more", "reason"),
    [
        ({"new_flow": "forecast"}, {}, "must be GROUP/NAME"),
        ({"new_flow": "sales/forecast"}, {"overwrite": True}, "replaces no file"),
        ({"new_flow": "stocks/clean"}, {}, "exists already"),
        ({"new_flow": "sales/forecast", "kind": "all"}, {}, "must be one of: minimal, foreach"),
        ({"new_flow": "sales/forecast", "after": "Clean"}, {}, "must be FILE:TASK"),
    ],
)
def test_copier_refuses_by_hand_what_the_session_refuses(
    repo: Path,
    new: New,
    plain_template: Path,
    data: dict[str, str],
    more: dict[str, Any],
    reason: str,
) -> None:
    flow = repo / PACKAGE / "flows" / "stocks" / "clean" / "clean.py"
    flow.parent.mkdir(parents=True)
    flow.write_text("# mine\n")
    before = changes(repo)
    with pytest.raises(ValueError, match=reason):
        copier.run_copy(str(plain_template), repo, data=data, defaults=True, quiet=True, **more)
    assert changes(repo) == before


def test_copier_makes_no_flow_where_there_is_no_repo(plain_template: Path, tmp_path: Path) -> None:
    data = {"new_flow": "sales/forecast"}
    with pytest.raises(ValueError, match="needs a repo of this template"):
        copier.run_copy(str(plain_template), tmp_path / "x", data=data, defaults=True, quiet=True)
    assert not (tmp_path / "x").exists()


@pytest.mark.parametrize("door", first_by_day("session", "copier"))
def test_an_update_never_touches_what_was_made(new: New, tmp_path: Path, door: str) -> None:
    template = make_template(tmp_path / "template")
    repo = copy(template, tmp_path / "sales-pipelines")
    git(repo, "init", "--quiet", "--initial-branch=main")
    commit(repo, "The repo")
    for kind in KINDS:
        assert new(f"sales/{kind.replace('-', '_')}", "--kind", kind, folder=repo)[0] == 0
    mine = made_in(repo)
    mine[0].write_text("# mine\n")
    mine[-1].unlink()
    texts = {file: file.read_bytes() for file in mine if file.exists()}
    commit(repo, "New flows")
    for file in (template / "templates" / "{{ flow }}").rglob("*.jinja"):
        file.write_text("# Newer\n" + file.read_text())
    (template / "templates" / "{{ pipeline }}" / "docs" / "new.md").write_text("# New\n")
    commit(template, "Newer", tag=SECOND)
    if door == "copier":
        copier.run_update(repo, defaults=True, overwrite=True, quiet=True)
    else:
        git(repo, "config", "user.name", "Tester")
        git(repo, "config", "user.email", "t@example.org")
        command = [sys.executable, repo / "hooks" / "update.py", "--issue", "9"]
        output(command, repo, tmp_path / "home")
    assert (repo / "docs" / "new.md").exists(), "the update has come"
    assert {file: file.read_bytes() for file in mine if file.exists()} == texts
    assert not mine[-1].exists()


@pytest.mark.thorough
def test_an_update_takes_no_new_flow(new: New, tmp_path: Path) -> None:
    """It would take all other files away."""
    template = make_template(tmp_path / "template")
    repo = copy(template, tmp_path / "sales-pipelines")
    git(repo, "init", "--quiet", "--initial-branch=main")
    commit(repo, "The repo")
    with pytest.raises(ValueError, match="is for `copier copy` without --overwrite"):
        copier.run_update(repo, data={"new_flow": "a/b"}, defaults=True, overwrite=True, quiet=True)
    assert changes(repo) == []


def test_a_new_repo_is_told_of_no_flow(plain_template: Path, tmp_path: Path) -> None:
    repo = copy(plain_template, tmp_path / "repo")
    text = (repo / ".copier-answers.yml").read_text()
    for name in ("new_flow", "kind", "after", "in_container"):
        assert f"\n{name}:" not in text


def test_the_script_runs_by_itself(repo: Path, new: New, tmp_path: Path) -> None:
    (tmp_path / "home").mkdir()
    command = [sys.executable, repo / "hooks" / "new.py", "sales/forecast"]
    printed = output(
        command,
        repo,
        tmp_path / "home",
        PYTHONSAFEPATH="1",
        PYTHONDONTWRITEBYTECODE="1",
        NOX_CALLED="python3 noxfile.py",
    )
    assert "\n  python3 noxfile.py -s run -- sales/forecast_tasks.py\n" in printed
    assert {file.relative_to(repo).as_posix() for file in made_in(repo)} == flow_files("minimal")
