"""The template laid over a repo that was never made from it, and the updates after that."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import copier
import pytest

from ..conftest import (
    SECOND,
    answers_of,
    commit,
    copier_prints,
    copy,
    git,
    make_template,
    output,
)

PACKAGE = "skills_pipelines"
DOCKER = [f"{PACKAGE}/config/metaflowtask/{name}" for name in ("Dockerfile", "Dockerfile-base")]
OLDER = {
    ".gitattributes": f"{PACKAGE}/VERSION merge=always-ours\n",
    ".githooks/pre-commit": "#!/bin/bash\ngit add skills_pipelines/VERSION\n",
    ".gitignore": "*~\n/data/\n",
    ".pre-commit-config.yaml": "repos: []\n",
    ".travis.yml": "language: python\n",
    "README.md": "# Skills\n\nOurs.\n",
    "setup.py": "from setuptools import setup\n\nsetup(name='skills_pipelines')\n",
    "requirements.txt": "toolz\n",
    "tests/test_adverts.py": "def test_nothing():\n    assert 1 + 1 == 2\n",
    f"{PACKAGE}/VERSION": "22.03.01.dev",
    f"{PACKAGE}/__init__.py": "from .__initplus__ import load_config\n\nconfig = load_config()\n",
    f"{PACKAGE}/__initplus__.py": "def load_config():\n    return {}\n",
    f"{PACKAGE}/config/base.config": "[adverts]\nrows = 100\n",
    DOCKER[0]: "FROM metaflowbase:latest\n",
    DOCKER[1]: "FROM amazonlinux:2\n",
    f"{PACKAGE}/config/metaflowtask/launch.sh": "#!/bin/bash\npython flow.py run\n",
    f"{PACKAGE}/flows/adverts/Dockerfile": "FROM metaflowbase:latest\r\n",
    f"{PACKAGE}/flows/adverts/adverts.py": "from daps_utils import DapsFlowMixin\n",
    f"{PACKAGE}/tasks/adverts_tasks.py": "from daps_utils import MetaflowTask\n",
}
KEPT = sorted(
    [
        *(".gitattributes", ".gitignore", ".pre-commit-config.yaml", "README.md", *DOCKER),
        *(f"{PACKAGE}/__init__.py", f"{PACKAGE}/config/metaflowtask/launch.sh"),
    ]
)

Older = Callable[..., Path]


def write(folder: Path, files: dict[str, str]) -> None:
    for name, text in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(text.encode())


def files_of(folder: Path) -> dict[str, tuple[int, bytes]]:
    """The mode and content of every file outside .git, by name."""
    found = (path for path in folder.rglob("*") if path.is_file())
    names = {path.relative_to(folder).as_posix(): path for path in found}
    return {
        name: (path.stat().st_mode, path.read_bytes())
        for name, path in names.items()
        if not name.startswith(".git/")
    }


def tree(folder: Path) -> dict[str, object]:
    """Everything outside .git, by name: a link's target, a file's content, True for a folder."""
    return {
        path.relative_to(folder).as_posix(): (
            path.readlink() if path.is_symlink() else path.is_dir() or path.read_bytes()
        )
        for path in folder.rglob("*")
        if ".git" not in path.relative_to(folder).parts
    }


@pytest.fixture
def older(tmp_path: Path) -> Older:
    """A function that makes an older pipeline repo, with these files in addition or instead."""

    def older(folder: str = "skills_pipelines", **more: str) -> Path:
        repo = tmp_path / folder
        repo.mkdir()
        git(repo, "init", "--quiet", "--initial-branch=dev")
        write(repo, OLDER)
        (repo / ".githooks" / "pre-commit").chmod(0o755)
        write(repo, more)
        commit(repo, "Count skills")
        return repo

    return older


@pytest.fixture
def upstream(tmp_path: Path) -> Path:
    """A template of this test's own, whose next version it can release."""
    return make_template(tmp_path / "template")


def lay(template: Path, repo: Path, *arguments: str) -> str:
    """Lay the template over the repo by Copier's command, without a terminal."""
    return copier_prints(repo, "copy", "--defaults", *arguments, template, ".")


def lay_again(repo: Path, *arguments: str) -> str:
    return lay(Path(answers_of(repo)["_src_path"]), repo, *arguments)


def update(repo: Path, *arguments: str) -> str:
    git(repo, "add", "--all")
    git(repo, "commit", "--quiet", "--allow-empty", "--message", "What I did")
    return copier_prints(repo, "update", "--defaults", *arguments)


def kept(repo: Path) -> list[str]:
    return str(answers_of(repo).get("kept", "")).split()


def conflicts(repo: Path) -> list[str]:
    return git(repo, "diff", "--name-only", "--diff-filter=U").splitlines()


@pytest.mark.parametrize("arguments", [(), ("--overwrite",)], ids=["", "overwrite"])
def test_every_file_of_the_repo_is_as_it_was_and_what_is_missing_comes(
    plain_template: Path, older: Older, arguments: tuple[str, ...]
) -> None:
    repo = older()
    before = files_of(repo)
    lay(plain_template, repo, *arguments)
    after = files_of(repo)
    assert {name: after[name] for name in before} == before
    fresh = files_of(copy(plain_template, repo.parent / "fresh" / repo.name))
    assert after.keys() - before.keys() == fresh.keys() - before.keys()
    # These say which files are kept.
    same = after.keys() - before.keys() - {".copier-answers.yml", "docs/updating.md"}
    assert [name for name in same if after[name] != fresh[name]] == []
    assert kept(repo) == KEPT


def test_a_link_is_as_it_was_also_one_that_leads_nowhere(
    plain_template: Path, older: Older, tmp_path: Path
) -> None:
    (tmp_path / "shared").write_text("ours\n")
    repo = older(**{"docs/ours.md": "Ours.\n"})
    links = {
        ".editorconfig": "../shared",
        "AGENTS.md": "gone",
        "bootstrap.py": "hooks",
        "docs/s3.md": "../../gone/s3.md",
    }
    for name, target in links.items():
        (repo / name).symlink_to(target)
    lay(plain_template, repo, "--overwrite")
    assert {name: str((repo / name).readlink()) for name in links} == links
    assert kept(repo) == sorted([*KEPT, *links])
    assert (tmp_path / "shared").read_text() == "ours\n"


def in_the_way(path: Path, kind: str) -> None:
    """Make a file, an empty folder or a link out of the repo."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if kind == "file":
        path.write_text("ours\n")
    elif kind == "folder":
        path.mkdir()
    else:
        path.symlink_to({"link": "../elsewhere", "broken link": "../../nothing"}[kind])


@pytest.mark.parametrize("kind", ["file", "link", "broken link"])
@pytest.mark.parametrize("name", ["hooks", ".github", f"{PACKAGE}/runtime/flow"])
def test_what_has_the_name_of_a_folder_is_refused_before_anything_is_written(
    plain_template: Path, older: Older, name: str, kind: str
) -> None:
    repo = older("a[1]*")
    (repo.parent / "elsewhere").mkdir()
    in_the_way(repo / name, kind)
    before = tree(repo)
    rule = f"needs a folder, not your {kind.split()[-1]} {name}: rename it"
    for arguments in ((), ("--overwrite",), ("--data", "kept=")):
        with pytest.raises(ValueError, match=f"{re.escape(rule)}$"):
            lay(plain_template, repo, "--data", f"package_name={PACKAGE}", *arguments)
        assert tree(repo) == before


@pytest.mark.parametrize("name", ["README.md", "noxfile.py", "hooks/install", "docs/s3.md"])
def test_a_folder_that_has_the_name_of_a_file_is_refused_before_anything_is_written(
    plain_template: Path, older: Older, name: str
) -> None:
    repo = older("a[1]*", README="")
    (repo / name).unlink(missing_ok=True)
    in_the_way(repo / name, "folder")
    before = tree(repo)
    with pytest.raises(ValueError, match=f"needs a file, not your folder {name}: rename it"):
        lay(plain_template, repo, "--data", f"package_name={PACKAGE}")
    assert tree(repo) == before


@pytest.mark.thorough
def test_so_it_is_through_cookiecutter(template: Path, older: Older) -> None:
    repo = older("skills")
    (repo / "hooks").write_text("ours\n")
    before = tree(repo)
    command = [sys.executable, "-m", "cookiecutter", "--no-input", "--overwrite-if-exists"]
    for more in ([], ["--skip-if-file-exists"]):
        printed = output(
            [*command, *more, template, "repo_name=skills"], repo.parent, repo.parent, 1
        )
        assert "needs a folder, not your file hooks: rename it" in printed
        assert tree(repo) == before


def test_a_link_to_a_folder_of_the_repo_is_refused_because_updates_would_drop_edits_in_it(
    plain_template: Path, older: Older
) -> None:
    repo = older(**{"src/tests/test_more.py": ""})
    (repo / "tests" / "test_adverts.py").unlink()
    (repo / "tests").rmdir()
    (repo / "tests").symlink_to("src/tests")
    before = tree(repo)
    with pytest.raises(ValueError, match="needs a folder, not your link tests: rename it"):
        lay(plain_template, repo)
    assert tree(repo) == before


def test_a_package_in_src_is_refused_because_a_second_one_would_come_beside_it(
    plain_template: Path, older: Older
) -> None:
    repo = older("a[1]*", **{"src/skills/__init__.py": "", "docs": "ours"})
    before = tree(repo)
    with pytest.raises(ValueError, match=r"needs your package in the root: git mv src/skills \.\Z"):
        lay(plain_template, repo, "--data", "package_name=skills")
    assert tree(repo) == before


def test_every_file_of_the_template_can_be_one_of_the_repo_s(
    plain_template: Path, older: Older
) -> None:
    repo = older("a[1]*", README="")
    fresh = files_of(copy(plain_template, repo.parent / "fresh" / PACKAGE))
    del fresh[".copier-answers.yml"]
    names = [name for name in fresh if "/runtime/" not in name]
    write(repo, dict.fromkeys(names, "mine\n"))
    answers = ("--overwrite", "--data", f"package_name={PACKAGE}")
    lay(plain_template, repo, *answers)
    assert kept(repo) == sorted(names)
    assert [name for name in names if (repo / name).read_text() != "mine\n"] == []


def test_what_copier_prints_says_what_each_file_needs(plain_template: Path, older: Older) -> None:
    more = {"flows/old.py": "", "pyproject.toml": "[tool.black]\n"}
    words = lay(plain_template, older(**more)).partition("has the template now")[2]
    lines = dict(line.split(maxsplit=1) for line in words.splitlines() if line.count("  ") > 1)
    assert lines["pyproject.toml"] == lines[".gitignore"] == "merge"
    assert lines[DOCKER[0]] == "replace"
    assert "pyproject.toml" in lines["setup.py"]
    assert f"{PACKAGE}/flows/" in lines["flows/*"]
    assert [name for name in KEPT if f"  {name}" not in words] == []
    assert "docs/adopting.md" in words


def paste(words: str, repo: Path) -> None:
    """Run the commands that Copier has printed, as somebody who pastes them."""
    script = words[words.index("  git switch") : words.index("To undo")].replace("<issue>", "7")
    script = script.replace("uvx copier", f"{shlex.quote(sys.executable)} -m copier")
    names = {"user.name": "Tester", "user.email": "t@example.org"}
    for name, value in names.items():
        git(repo, "config", name, value)
    subprocess.run(["bash", "-euc", script], cwd=repo, check=True, capture_output=True)


@pytest.mark.thorough
def test_the_printed_commands_merge_what_both_have(template: Path, older: Older) -> None:
    repo = older(**{"pyproject.toml": "[project]\nname = 'skills'\n\n[tool.black]\n"})
    paste(lay(template, repo), repo)
    merged = [".gitignore", ".pre-commit-config.yaml", "pyproject.toml"]
    assert conflicts(repo) == merged
    for name in merged:
        text = (repo / name).read_text()
        for line in {**OLDER, "pyproject.toml": "[tool.black]\n"}[name].splitlines():
            assert line in text
    assert "/.venv/" in (repo / ".gitignore").read_text()
    assert "[tool.ruff]" in (repo / "pyproject.toml").read_text()
    fresh = copy(template, repo.parent / "fresh" / repo.name)
    for name in DOCKER:
        assert (repo / name).read_text() == (fresh / name).read_text()
    assert kept(repo) == [".gitattributes", "README.md", f"{PACKAGE}/__init__.py"]
    for name in kept(repo):
        assert (repo / name).read_text() == OLDER[name]


def test_the_printed_undo_leaves_the_repo_as_it_was(plain_template: Path, older: Older) -> None:
    repo = older()
    before = files_of(repo)
    words = lay(plain_template, repo)
    (undo,) = (line.rpartition(": ")[2] for line in words.splitlines() if "To undo" in line)
    subprocess.run(undo, shell=True, cwd=repo, check=True, capture_output=True)
    assert files_of(repo) == before


def test_lint_takes_a_task_s_flow_kwargs_as_daps_utils_writes_them(
    plain_template: Path, older: Older
) -> None:
    task = (
        f"from {PACKAGE}.runtime import MetaflowTask\n\n\n"
        'class Adverts(MetaflowTask):\n    flow_kwargs = {"rows": 10}\n'
    )
    repo = older(**{f"{PACKAGE}/tasks/adverts_tasks.py": task})
    lay(plain_template, repo)
    ruff = [sys.executable, "-m", "ruff", "check", "--no-cache", f"{PACKAGE}/tasks"]
    output(ruff, repo, repo.parent)


def change(template: Path) -> None:
    """The next version has other words in files of both sides, and lacks one."""
    pipeline = template / "templates" / "{{ pipeline }}"
    for name in (
        "README.md.jinja",
        ".gitignore",
        ".pre-commit-config.yaml.jinja",
        "AGENTS.md.jinja",
    ):
        with (pipeline / name).open("a") as file:
            file.write("# What is new\n")
    (pipeline / "{{ package_name }}" / "__init__.py.jinja").unlink()
    (pipeline / ".gitattributes").unlink()
    (template / "templates" / "{{ github }}" / ".github" / "dependabot.yml").unlink()
    commit(template, "What is new", tag=SECOND)


@pytest.mark.thorough
def test_an_update_brings_what_is_new_and_leaves_kept_files_alone(
    upstream: Path, older: Older
) -> None:
    repo = older()
    lay(upstream, repo)
    before = {name: (repo / name).read_bytes() for name in OLDER}
    change(upstream)
    update(repo)
    assert f"_commit: {SECOND}" in (repo / ".copier-answers.yml").read_text()
    assert "What is new" in (repo / "AGENTS.md").read_text()
    assert not (repo / ".github" / "dependabot.yml").exists()
    assert {name: (repo / name).read_bytes() for name in OLDER} == before
    assert conflicts(repo) == []
    assert kept(repo) == KEPT


@pytest.mark.thorough
def test_a_kept_file_that_was_deleted_or_left_out_does_not_come(
    upstream: Path, older: Older
) -> None:
    repo = older()
    lay(upstream, repo, "--data", f"kept={' '.join([*KEPT, 'AGENTS.md'])}")
    assert not (repo / "AGENTS.md").exists()
    (repo / ".pre-commit-config.yaml").unlink()
    change(upstream)
    update(repo)
    assert not (repo / "AGENTS.md").exists()
    assert not (repo / ".pre-commit-config.yaml").exists()


@pytest.mark.thorough
def test_what_was_merged_is_merged_with_later_versions(upstream: Path, older: Older) -> None:
    repo = older()
    paste(lay(upstream, repo), repo)
    for name in conflicts(repo):
        lines = (repo / name).read_text().splitlines(keepends=True)
        both = [line for line in lines if line[:7] not in ("<<<<<<<", "=======", ">>>>>>>")]
        (repo / name).write_text("".join(both))
    change(upstream)
    update(repo)
    assert conflicts(repo) == []
    text = (repo / ".gitignore").read_text()
    assert "/data/" in text
    assert "# What is new" in text
    assert (repo / "README.md").read_text() == OLDER["README.md"]


@pytest.mark.thorough
@pytest.mark.parametrize("command", [update, lay_again])
def test_no_name_is_added_to_the_list_later(
    template: Path, older: Older, command: Callable[..., str]
) -> None:
    repo = older()
    lay(template, repo)
    commit(repo, "The template")
    with pytest.raises(ValueError, match=r"leave out AGENTS\.md"):
        command(repo, "--data", "kept=README.md AGENTS.md")
    assert git(repo, "status", "--porcelain") == ""


@pytest.mark.thorough
def test_nor_to_that_of_a_repo_made_from_the_template(template: Path, tmp_path: Path) -> None:
    repo = copy(template, tmp_path / "sales")
    git(repo, "init", "--quiet", "--initial-branch=main")
    commit(repo, "The repo")
    with pytest.raises(ValueError, match=r"leave out README\.md"):
        update(repo, "--data", "kept=README.md")
    assert git(repo, "status", "--porcelain") == ""


def test_a_copy_that_was_cut_off_is_finished_by_the_next(
    plain_template: Path, older: Older
) -> None:
    repo = older()
    lay(plain_template, repo)
    laid = files_of(repo)
    for name in ("noxfile.py", f"{PACKAGE}/runtime/paths.py", "hooks/calver"):
        (repo / name).unlink()
    lay(plain_template, repo)
    assert files_of(repo) == laid


def test_a_copy_that_was_cut_off_before_it_could_record_its_answers_is_refused_with_the_way_out(
    plain_template: Path, older: Older
) -> None:
    repo = older()
    lay(plain_template, repo)
    laid = files_of(repo)
    (repo / ".copier-answers.yml").unlink()
    with pytest.raises(ValueError, match="git clean -fd"):
        lay(plain_template, repo)
    git(repo, "clean", "-fd")
    lay(plain_template, repo)
    assert files_of(repo) == laid


def test_a_package_s_own_runtime_is_not_mixed_with_the_template_s(
    plain_template: Path, older: Older
) -> None:
    repo = older(**{f"{PACKAGE}/runtime/__init__.py": "# mine\n"})
    before = files_of(repo)
    with pytest.raises(ValueError, match="without runtime/"):
        lay(plain_template, repo)
    assert files_of(repo) == before


@pytest.mark.parametrize("name", ["/etc/passwd", "a  b", "a//b", "docs/", "*.md"])
def test_the_list_has_names_of_files_in_the_repo(
    questions_only: Path, older: Older, name: str
) -> None:
    repo = older()
    with pytest.raises(ValueError, match="must be names of files in the repo"):
        copier.run_copy(str(questions_only), repo, data={"kept": name}, defaults=True, quiet=True)


@pytest.mark.thorough
def test_with_an_empty_list_copier_asks_as_ever(plain_template: Path, older: Older) -> None:
    repo = older()
    command = [sys.executable, "-m", "copier", "copy", "--defaults", "--data", "kept="]
    printed = output([*command, plain_template, "."], repo, repo.parent, exit_code=1)
    assert "Consider using `--overwrite`" in printed
    lay(plain_template, repo, "--overwrite", "--data", "kept=")
    assert (repo / "README.md").read_text() != OLDER["README.md"]
    assert kept(repo) == []


def test_a_new_repo_is_not_asked(plain_template: Path, tmp_path: Path) -> None:
    assert "kept" not in answers_of(copy(plain_template, tmp_path / "sales"))


def test_the_answers_of_another_template_are_kept(plain_template: Path, older: Older) -> None:
    repo = older(**{".copier-answers.yml": "_src_path: gh:else/where\nproject: skills\n"})
    before = files_of(repo)
    with pytest.raises(ValueError, match=r"needs -a \.copier-answers\.headwater\.yml"):
        lay(plain_template, repo, "--overwrite")
    assert files_of(repo) == before
    lay(plain_template, repo, "--answers-file", ".copier-answers.headwater.yml")
    after = files_of(repo)
    assert {name: after[name] for name in before} == before
    assert f"{PACKAGE}/runtime/paths.py" in after
    assert ".copier-answers.headwater.yml" in after
