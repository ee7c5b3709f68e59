"""What a generated repo holds, for every combination of answers."""

from __future__ import annotations

import json
import re
import stat
from pathlib import Path

import copier
import pytest
import yaml
from jinja2 import UndefinedError

from ..conftest import ROOT, Generate, copy_working_tree, git, known, parses, project_of

TEMPLATES = ROOT / "templates"
SCRIPTS = {"branch-name", "calver", "git-hook", "install", "staged-files", "tool"}
EVERYWHERE = {
    *(".devcontainer/Dockerfile", ".devcontainer/devcontainer.json"),
    *(".copier-answers.yml", ".dockerignore", ".editorconfig", ".gitattributes", ".gitignore"),
    *(".pre-commit-config.yaml", "hooks/branches"),
    *("hooks/pushed_secrets.py", "hooks/new.py", "hooks/release.py", "hooks/update.py"),
    *(f"hooks/{name}" for name in SCRIPTS),
    *("AGENTS.md", "CHANGELOG.md", "LICENSE", "README.md", "bootstrap.py", "luigi.cfg"),
    *(f"docs/{name}.md" for name in ("containers", "how-a-flow-runs", "new-flows", "own-packages")),
    *(f"docs/{name}.md" for name in ("releases-and-hooks", "s3", "updating")),
    *("noxfile.py", "pyproject.toml", "tests/__init__.py"),
    *(f"sales_pipelines/{name}" for name in ("__init__.py", "py.typed")),
    *(f"sales_pipelines/config/{name}.yaml" for name in ("base", "production")),
    *(f"sales_pipelines/config/metaflowtask/{name}" for name in ("Dockerfile", "Dockerfile-base")),
    "sales_pipelines/config/metaflowtask/launch.sh",
    *(f"sales_pipelines/{folder}/__init__.py" for folder in ("flows", "tasks", "runtime")),
}


def files_of(repo: Path) -> set[str]:
    return {path.relative_to(repo).as_posix() for path in repo.rglob("*") if path.is_file()}


def without(files: set[str], *prefixes: str) -> set[str]:
    return {name for name in files if not name.startswith(prefixes)}


def test_the_layout_is_that_of_the_design(generate: Generate) -> None:
    examples = (
        "sales_pipelines/flows/examples/",
        "sales_pipelines/tasks/examples/",
        "tests/examples/",
    )
    everything = files_of(generate())
    assert "sales_pipelines/flows/examples/co2/clean.py" in everything
    assert ".github/workflows/ci.yml" in everything
    least = files_of(
        generate(
            "least",
            package_name="sales_pipelines",
            ci="none",
            with_examples=False,
            with_tables=False,
        )
    )
    github = (".github/", "hooks/update_pull_request.py")
    tables = ("docs/tables.md", "sales_pipelines/tables.py", "sales_pipelines/runtime/table/")
    assert least == without(everything, *examples, *github, *tables)
    runtime = ("sales_pipelines/runtime/", "tests/runtime/")
    assert without(least, *runtime) == without(EVERYWHERE, *runtime)
    steps = ("__init__", "features", "train", "predict")
    with_airflow = files_of(
        generate("scheduled", package_name="sales_pipelines", with_airflow=True)
    )
    assert with_airflow - everything == {
        *("airflow/local.py", "airflow/pyproject.toml", "docs/airflow.md", "tests/test_graphs.py"),
        *("dags/.airflowignore", "dags/co2.py", "dags/forecast.py"),
        *("dags/graphs/co2.json", "dags/graphs/forecast.json", "airflow/plugins/files_of_runs.py"),
        *(f"sales_pipelines/flows/examples/forecast/{name}.py" for name in steps),
        *("sales_pipelines/tasks/examples/forecast_tasks.py", "tests/examples/test_forecast.py"),
        *(f"airflow/{name}" for name in ("Dockerfile", "Dockerfile.dockerignore", "compose.yaml")),
        *("airflow/stack.py", "docs/airflow-stack.md"),
        "dags/sales_pipelines_airflow.py",
        *(f"sales_pipelines/runtime/commands/{name}.py" for name in ("graph", "node", "export")),
    }


def test_every_file_is_a_text_that_ends_as_texts_do(generate: Generate) -> None:
    repo = generate()
    parses(repo)
    for path in filter(Path.is_file, repo.rglob("*")):
        text = path.read_text()
        assert text == "" or re.search(r"[^\n]\n\Z", text), path
        assert "\r" not in text, path
        assert "\n\n\n\n" not in text, path
        assert not re.search(r"(?<!\$)\{\{|\{%|\{#", text), path


def test_an_answer_to_no_question_fails_a_test(generate: Generate) -> None:
    with pytest.raises(AssertionError, match="with_exmaples"):
        generate(with_exmaples=False)


def test_the_metadata_are_exactly_what_was_answered(generate: Generate) -> None:
    description = "Ünï \"quoted\" \\ {braces} 'single' #1 <b> & \U0001f600"
    repo = generate(
        description=description,
        author_name='Ann "A" O\'Neill \\ 李',
        author_email="a@example.org",
        repo_url="https://example.org/sales",
    )
    project = project_of(repo)
    assert project["description"] == description
    assert project["authors"] == [{"name": 'Ann "A" O\'Neill \\ 李', "email": "a@example.org"}]
    assert project["urls"] == {"Repository": "https://example.org/sales"}
    assert re.fullmatch(r"20\d\d\.([1-9]|1[0-2])\.0", project["version"])


@pytest.mark.parametrize(
    ("license", "spdx", "words", "lines"),
    [
        ("MIT", "MIT", "Permission is hereby granted, free of charge", 21),
        ("BSD-3-Clause", "BSD-3-Clause", "Neither the name of the copyright holder", 28),
        ("Apache-2.0", "Apache-2.0", "END OF TERMS AND CONDITIONS", 202),
        ("Proprietary", "LicenseRef-Proprietary", "All rights reserved", 4),
    ],
)
def test_the_licence_is_there_in_full(
    generate: Generate, license: str, spdx: str, words: str, lines: int
) -> None:
    repo = generate(license=license, author_name="Ann")
    text = (repo / "LICENSE").read_text()
    assert words in text
    assert len(text.splitlines()) == lines
    assert "Ann" in text or license == "Apache-2.0", "Apache's names no owner"
    project = project_of(repo)
    assert project["license"] == spdx


def test_the_hooks_are_executable_nothing_else_is_and_nothing_is_a_link(
    generate: Generate,
) -> None:
    repo = generate()
    executable = set()
    for path in repo.rglob("*"):
        assert not path.is_symlink()
        if path.is_file() and path.stat().st_mode & stat.S_IXUSR:
            executable.add(path.relative_to(repo).as_posix())
    launch = "sales_pipelines/config/metaflowtask/launch.sh"
    assert executable == {launch, *(f"hooks/{name}" for name in SCRIPTS)}


def test_the_hooks_are_the_templates_own(generate: Generate) -> None:
    repo = generate()
    for name in (*SCRIPTS, "new.py", "pushed_secrets.py", "release.py", "update.py"):
        assert (repo / "hooks" / name).read_bytes() == (ROOT / "hooks" / name).read_bytes()


def test_files_end_in_jinja_if_and_only_if_there_is_something_to_render() -> None:
    for path in TEMPLATES.rglob("*"):
        if path.is_file() and "__pycache__" not in path.parts:
            renders = bool(re.search(r"\{\{|\{%|\{#", path.read_text()))
            assert renders is (path.suffix == ".jinja"), path


def test_no_code_is_formatted_in_two_ways_by_the_lowest_python() -> None:
    """From 3.14 on, ruff writes `except A, B:`; what repos get is the same for all of them."""
    for path in [*TEMPLATES.rglob("*.py*"), *(ROOT / "hooks").glob("*.py")]:
        if path.suffix in (".py", ".jinja"):
            assert not re.search(r"^\s*except \(.*\):", path.read_text(), re.MULTILINE), path


def test_no_file_or_folder_has_a_condition_in_its_name() -> None:
    for path in TEMPLATES.rglob("*"):
        assert not re.search(r"\{%|\sif\s", path.name), path


def test_each_folder_of_templates_is_switched_by_one_computed_answer() -> None:
    configuration = yaml.safe_load((ROOT / "copier.yml").read_text())
    kinds = filter(Path.is_dir, (TEMPLATES / "{{ flow }}").iterdir())
    for folder in [*filter(Path.is_dir, TEMPLATES.iterdir()), *kinds]:
        name = re.fullmatch(r"\{\{ (\w+) \}\}", folder.name)
        assert name, folder
        assert configuration[name[1]]["when"] is False


def test_nothing_asks_for_trust() -> None:
    configuration = yaml.safe_load((ROOT / "copier.yml").read_text())
    assert not {"_tasks", "_jinja_extensions", "_migrations"} & set(configuration)


@pytest.mark.parametrize(
    ("name", "permissions"),
    [
        ("ci", [{"contents": "read"}, {}]),
        ("release", [{}, {"contents": "write"}]),
        (
            "template-update",
            [{}, dict.fromkeys(("contents", "issues", "pull-requests"), "write")],
        ),
    ],
)
def test_actions_are_pinned_by_commit_and_may_do_no_more_than_they_must(
    generate: Generate, name: str, permissions: list[dict[str, str]]
) -> None:
    workflow = yaml.safe_load((generate() / f".github/workflows/{name}.yml").read_text())
    (job,) = workflow["jobs"].values()
    assert [workflow["permissions"], job.get("permissions", {})] == permissions
    for step in job["steps"]:
        assert re.fullmatch(r"[\w/-]+@[0-9a-f]{40}", step.get("uses", "a/b@" + "0" * 40))
        assert "${{" not in step.get("run", "")


def test_no_advice_installs_into_a_python_that_the_system_keeps() -> None:
    """Debian's pip refuses that: PEP 668."""
    for name in git(ROOT, "ls-files", "-z").split("\0"):
        if not name.startswith(("tests/", "includes/")) and "Dockerfile" not in name:
            text = (ROOT / name).read_bytes().decode(errors="replace") if name else ""
            assert not re.search(r"(?<!bin/)(?<!uv )\bpip3? install\b", text), name


def test_dependabot_leaves_the_workflows_of_the_template_to_copier(generate: Generate) -> None:
    folder = generate() / ".github"
    updates = yaml.safe_load((folder / "dependabot.yml").read_text())["updates"]
    by_ecosystem = {update["package-ecosystem"]: update for update in updates}
    assert set(by_ecosystem) == {"uv", "github-actions"}
    assert by_ecosystem["uv"]["versioning-strategy"] == "lockfile-only", "pyproject.toml is shared"
    left_alone = {f".github/workflows/{path.name}" for path in (folder / "workflows").iterdir()}
    assert set(by_ecosystem["github-actions"]["exclude-paths"]) == left_alone


@pytest.mark.parametrize("python_version", ["3.11", "3.14"])
def test_the_dev_container_has_the_python_of_the_images_and_no_secret(
    generate: Generate, python_version: str
) -> None:
    repo = generate(python_version=python_version)
    (base,) = re.findall("(?m)^FROM (.*)$", (repo / ".devcontainer" / "Dockerfile").read_text())
    assert base == f"python:{python_version}-slim-bookworm"
    images = (repo / "sales_pipelines/config/metaflowtask/Dockerfile-base").read_text()
    assert f"PYTHON_VERSION={python_version}\n" in images
    assert "python:${PYTHON_VERSION}-slim-bookworm" in images
    container = json.loads((repo / ".devcontainer" / "devcontainer.json").read_text())
    assert container["postCreateCommand"] == "python3 noxfile.py -s setup"
    assert container["containerEnv"] == {"UV_PROJECT_ENVIRONMENT": "/home/dev/.venv"}
    assert not {"mounts", "runArgs", "remoteEnv", "secrets"} & set(container)


def test_the_main_branch_is_the_first_of_the_protected_ones(generate: Generate) -> None:
    repo = generate(protected_branches="1.0 release/next")
    branches = repo / "hooks" / "branches"
    assert re.findall("(?m)^protected (.*)", branches.read_text()) == ["1.0", "release/next"]
    for name in ("ci", "release"):
        workflow = yaml.safe_load((repo / f".github/workflows/{name}.yml").read_text())
        assert workflow[True]["push"]["branches"] == ["1.0"]
    update = yaml.safe_load((repo / ".github/workflows/template-update.yml").read_text())
    assert update["jobs"]["update"]["steps"][0]["with"]["ref"] == "1.0"
    assert "--initial-branch=1.0" in (repo / "noxfile.py").read_text()
    page = (repo / "docs" / "releases-and-hooks.md").read_text()
    assert "`1.0` and `release/next` are protected" in page


def test_a_variable_that_nobody_defines_fails_the_copy(tmp_path: Path) -> None:
    broken = copy_working_tree(tmp_path / "broken")
    with (broken / "templates" / "{{ pipeline }}" / "README.md.jinja").open("a") as readme:
        readme.write("{{ nobody_defines_this }}\n")
    with pytest.raises(UndefinedError, match="nobody_defines_this"):
        copier.run_copy(str(broken), tmp_path / "repo", defaults=True, quiet=True)
    assert not (tmp_path / "repo").exists()


def test_ci_uses_the_developers_commands_with_the_lock_file_as_it_is(generate: Generate) -> None:
    (job,) = yaml.safe_load((generate() / ".github/workflows/ci.yml").read_text())["jobs"].values()
    assert job["env"]["UV_LOCKED"] == "1"
    assert [step["run"] for step in job["steps"] if "run" in step] == [
        "hooks/branch-name --ci",
        "python noxfile.py -s lint test",
    ]


def test_secrets_and_results_are_not_for_git_nor_for_images(generate: Generate) -> None:
    repo = generate()
    git(repo, "init", "--quiet")
    for name in (".env", ".metaflow/CleanFlow/1", "reports/dev/co2.html", ".venv/bin/python"):
        assert git(repo, "check-ignore", name) == name
    not_in_images = (repo / ".dockerignore").read_text().split()
    assert {".git", ".env", ".metaflow", ".venv", "reports"} <= set(not_in_images)


@pytest.mark.parametrize("with_examples", [True, False])
def test_the_guide_for_coding_agents_is_short_and_has_commands_owners_and_an_example(
    generate: Generate, with_examples: bool
) -> None:
    folder = "with" if with_examples else "without"
    repo = generate(folder, package_name="sales_pipelines", with_examples=with_examples)
    guide = (repo / "AGENTS.md").read_text()
    assert len(guide.splitlines()) <= 30
    commands = ("nox -s setup", "nox -s lint test", "nox -s run")
    for words in (*commands, "nox -s test -- tests/test_x.py -k", "sales_pipelines/runtime/"):
        assert words in guide
    example = "sales_pipelines/tasks/examples/co2_tasks.py"
    assert (example in guide) is (repo / example).is_file() is with_examples


@pytest.mark.parametrize("with_examples", [True, False])
def test_the_readme_is_short_and_all_pages_are_reached_from_it(
    generate: Generate, with_examples: bool
) -> None:
    repo = generate("with" if with_examples else "without", with_examples=with_examples)
    readme = (repo / "README.md").read_text()
    assert len(readme.splitlines()) <= 130
    pages = {path.relative_to(repo).as_posix() for path in (repo / "docs").iterdir()}
    assert set(re.findall(r"\]\((docs/[^)#]+)", readme)) == pages


def test_links_within_the_repo_lead_to_pages_and_headings(generate: Generate) -> None:
    repo = generate()
    for page in (repo / "README.md", *(repo / "docs").iterdir()):
        for link in re.findall(r"\]\((?!https?:)([^)]+)\)", page.read_text()):
            name, _, anchor = link.partition("#")
            target = page.parent / name if name else page
            assert target.exists(), f"{page.name}: {link}"
            text = target.read_text() if target.is_file() else ""
            headings = re.findall(r"(?m)^#+ (.*)", text.lower())
            anchors = [re.sub(r"[^a-z0-9 -]", "", each).replace(" ", "-") for each in headings]
            assert anchor in ("", *anchors), f"{page.name}: {link}"


@pytest.mark.parametrize("with_examples", [True, False])
def test_what_to_do_next_is_what_there_is_to_do(
    plain_template: Path,
    tmp_path: Path,
    with_examples: bool,
    capfd: pytest.CaptureFixture[str],
) -> None:
    folder = tmp_path / "a folder"
    data = known({"with_examples": with_examples})
    copier.run_copy(str(plain_template), folder, data=data, defaults=True)
    said = capfd.readouterr().err
    assert f"cd '{folder}'\n  python3 noxfile.py -s setup\n" in said
    assert ("python3 noxfile.py -s run" in said) is with_examples
