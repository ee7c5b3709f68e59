"""The branch rule: which branches may be committed to, pushed, and be there at all."""

from __future__ import annotations

import os
import re
import shutil
import string
import subprocess
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from .conftest import ROOT, commit, git

SCRIPT = ROOT / "hooks" / "branch-name"
OLD = "a" * 40 + "b"  # whatever git says

# The rule once more, by other means than the script's.
RULE = re.compile(r"[1-9][0-9]*_[a-z0-9]([a-z0-9._-]*[a-z0-9])?")
BOTS = re.compile(
    r"(dependabot|renovate|gh-readonly-queue)/.*|pre-commit-ci-update-config|revert-[0-9].*-.*",
    re.DOTALL,
)


def is_allowed_in_ci(name: str) -> bool:
    """The oracle."""
    return bool(RULE.fullmatch(name) or BOTS.fullmatch(name) or name in ("main", "dev", "master"))


def said(
    *arguments: str, folder: Path, exit_code: int = 0, typed: str = "", **variables: str
) -> str:
    """Run the script, which must exit so, and return all that it prints."""
    kept = {"PATH": os.environ["PATH"]}
    done = subprocess.run(
        [str(SCRIPT), *arguments],
        cwd=folder,
        env={**kept, **variables},
        input=typed,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        encoding="utf-8",
        errors="surrogateescape",
        check=False,
    )
    assert done.returncode == exit_code, done.stdout
    return done.stdout


@pytest.fixture
def repo(tmp_path: Path) -> Path:
    """A git repo with one commit, on main."""
    git(tmp_path, "init", "--quiet", "--initial-branch=main")
    (tmp_path / "a.txt").write_text("a\n")
    commit(tmp_path, "A file")
    return tmp_path


@pytest.mark.parametrize(
    "name",
    ["6_readme", "1_a", "12_b2", "103_fix-the.thing_twice", "7_2026", "9_a--b", "6_" + "x" * 240],
)
def test_a_number_and_words_are_committed_to(repo: Path, name: str) -> None:
    git(repo, "switch", "--quiet", "--create", name)
    assert said(folder=repo) == ""


@pytest.mark.parametrize(
    ("name", "proposal"),
    [
        ("readme", "<issue>_readme"),
        ("6", "6_<desc>"),
        ("6_", "6_<desc>"),
        ("06_readme", "6_readme"),
        ("0_x", "<issue>_x"),
        ("6-readme", "6_readme"),
        ("6_Read-Me", "6_read-me"),
        ("6_readme_", "6_readme"),
        ("6__readme", "6_readme"),
        ("Fix/The.thing", "<issue>_fix-the.thing"),
        ("6_größe", "6_gr-e"),
        ("6_readm\u0435", "6_readm"),  # a Cyrillic letter
        ("\u0661_readme", "<issue>_readme"),  # an Arabic digit
    ],
)
def test_the_refusal_names_branch_rule_and_command(repo: Path, name: str, proposal: str) -> None:
    git(repo, "switch", "--quiet", "--create", name)
    refusal = said(folder=repo, exit_code=1)
    assert name in refusal
    assert "<issue>_<desc>" in refusal
    command = refusal.splitlines()[-1].strip()
    assert command.startswith("git branch -m ")
    assert command.endswith(f" {proposal}")


@pytest.mark.parametrize(
    "name",
    [
        "6_$(touch${IFS}pwned)",
        "6_`touch${IFS}pwned`",
        "$(touch${IFS}pwned)",
        "6_a;touch${IFS}pwned;'",
    ],
)
def test_no_name_is_run_not_even_by_who_pastes_the_command(repo: Path, name: str) -> None:
    git(repo, "switch", "--quiet", "--create", name)
    refusal = said(folder=repo, exit_code=1)
    said("--ci", folder=repo, exit_code=1, GITHUB_HEAD_REF=name)
    said("--push", folder=repo, exit_code=1, typed=f"refs/heads/x {OLD} refs/heads/{name} {OLD}\n")
    command = refusal.splitlines()[-1].strip()
    command = command.replace("<issue>", "6").replace("<desc>", "x")
    subprocess.run(["sh", "-c", command], cwd=repo, check=True)
    assert RULE.fullmatch(git(repo, "branch", "--show-current"))
    assert not (repo / "pwned").exists()


def test_protected_branches_take_their_first_commit_and_merges_only(tmp_path: Path) -> None:
    git(tmp_path, "init", "--quiet", "--initial-branch=main")
    assert said(folder=tmp_path) == ""
    (tmp_path / "a.txt").write_text("a\n")
    commit(tmp_path, "A file")
    refusal = said(folder=tmp_path, exit_code=1)
    assert "main is protected" in refusal
    assert "git switch -c <issue>_<desc>" in refusal
    git(tmp_path, "switch", "--quiet", "--create", "6_b")
    (tmp_path / "a.txt").write_text("b\n")
    commit(tmp_path, "Another")
    git(tmp_path, "switch", "--quiet", "main")
    assert said("--merge", folder=tmp_path) == ""
    git(tmp_path, "merge", "--quiet", "--no-ff", "--no-commit", "6_b")
    assert said(folder=tmp_path) == ""
    git(tmp_path, "merge", "--abort")
    git(tmp_path, "switch", "--quiet", "--create", "readme")
    assert "readme is not" in said("--merge", folder=tmp_path, exit_code=1)


def test_the_first_commit_of_another_branch_has_to_follow_the_rule(tmp_path: Path) -> None:
    git(tmp_path, "init", "--quiet", "--initial-branch=trunk")
    assert "git branch -m trunk <issue>_trunk" in said(folder=tmp_path, exit_code=1)


def test_a_detached_head_and_a_bisect_are_committed_to(repo: Path) -> None:
    for number in range(3):
        (repo / "a.txt").write_text(f"{number}\n")
        commit(repo, str(number))
    git(repo, "switch", "--quiet", "--detach")
    assert said(folder=repo) == ""
    git(repo, "switch", "--quiet", "main")
    git(repo, "bisect", "start", "HEAD", "HEAD~3")
    assert said(folder=repo) == ""


def test_a_rebase_of_a_branch_with_a_bad_name_goes_on(repo: Path) -> None:
    git(repo, "switch", "--quiet", "--create", "readme")
    (repo / "a.txt").write_text("b\n")
    commit(repo, "b")
    git(repo, "switch", "--quiet", "main")
    (repo / "a.txt").write_text("c\n")
    commit(repo, "c")
    with pytest.raises(subprocess.CalledProcessError):
        git(repo, "rebase", "main", "readme")
    assert said(folder=repo) == ""
    git(repo, "rebase", "--abort")
    said(folder=repo, exit_code=1)


@pytest.mark.parametrize("what", ["cherry-pick", "revert"])
def test_a_protected_branch_says_the_way_out_of_what_is_picked_with_a_conflict(
    repo: Path, what: str
) -> None:
    for text in ("b\n", "c\n"):
        (repo / "a.txt").write_text(text)
        commit(repo, text)
    with pytest.raises(subprocess.CalledProcessError):
        git(repo, what, "HEAD~1")
    git(repo, "add", "--all")
    command = said(folder=repo, exit_code=1).splitlines()[-1].strip()
    command = command.replace("<issue>", "6").replace("<desc>", "x")
    subprocess.run(["sh", "-c", command], cwd=repo, check=True, capture_output=True)
    assert said(folder=repo) == ""
    assert git(repo, "branch", "--show-current") == "6_x"


def test_a_linked_work_tree_and_a_submodule_have_branches_of_their_own(
    repo: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    linked = tmp_path_factory.mktemp("linked") / "tree"
    git(repo, "worktree", "add", "--quiet", "-b", "readme", str(linked))
    assert "readme is not" in said(folder=linked, exit_code=1)
    outer = tmp_path_factory.mktemp("outer")
    git(outer, "init", "--quiet", "--initial-branch=6_outer")
    allowed = ("-c", "protocol.file.allow=always")
    git(outer, *allowed, "submodule", "--quiet", "add", str(repo), "inner")
    assert "main is protected" in said(folder=outer / "inner", exit_code=1)
    assert said(folder=outer) == ""


def test_a_tag_of_the_same_name_does_not_change_the_branch(repo: Path) -> None:
    git(repo, "switch", "--quiet", "--create", "6_readme")
    git(repo, "tag", "6_readme")
    assert said(folder=repo) == ""


@pytest.mark.parametrize(
    ("refs", "exit_code"),
    [
        ([f"refs/heads/6_a {OLD} refs/heads/6_a {OLD}"], 0),
        ([f"refs/heads/main {OLD} refs/heads/main {OLD}"], 0),  # the server's to refuse
        ([f"HEAD {OLD} refs/heads/readme {OLD}"], 1),
        ([f"refs/heads/6_a {OLD} refs/heads/6_a {OLD}", f"HEAD {OLD} refs/heads/b {OLD}"], 1),
        ([f"(delete) {'0' * 40} refs/heads/readme {OLD}"], 0),
        ([f"(delete) {'0' * 64} refs/heads/readme {OLD}"], 0),
        ([f"refs/tags/v1 {OLD} refs/tags/v1 {OLD}"], 0),
        ([f"HEAD {OLD} refs/for/main {OLD}", f"HEAD {OLD} refs/notes/x {OLD}"], 0),
        ([f"HEAD {OLD} refs/heads/dependabot/pip/x {OLD}"], 1),  # bots do not push from here
        ([f"HEAD^{{/two words}} {OLD} refs/heads/readme {OLD}"], 1),
        ([f"HEAD^{{/two words}} {OLD} refs/heads/6_a {OLD}"], 0),
        ([], 0),
    ],
)
def test_what_is_pushed_counts_not_what_is_checked_out(
    repo: Path, refs: list[str], exit_code: int
) -> None:
    said("--push", folder=repo, exit_code=exit_code, typed="".join(f"{ref}\n" for ref in refs))


@pytest.mark.parametrize(
    ("pushed", "way_out"),
    [
        ("refs/heads/readme", "git branch -m readme <issue>_readme"),
        ("HEAD", "git push <remote> HEAD:refs/heads/<issue>_readme"),
        ("refs/heads/6_other", "git push <remote> 6_other:refs/heads/<issue>_readme"),
        ("HEAD^{/$(x)}", "git push <remote> 'HEAD^{/$(x)}':refs/heads/<issue>_readme"),
    ],
)
def test_a_name_that_only_a_push_gives_is_given_by_another_push(
    repo: Path, pushed: str, way_out: str
) -> None:
    refs = f"{pushed} {OLD} refs/heads/readme {OLD}\n"
    assert said("--push", folder=repo, exit_code=1, typed=refs).endswith(f"    {way_out}\n")


@pytest.mark.parametrize(
    ("variables", "exit_code"),
    [
        ({"GITHUB_HEAD_REF": "6_readme", "GITHUB_REF": "refs/pull/7/merge"}, 0),
        ({"GITHUB_HEAD_REF": "readme", "GITHUB_REF": "refs/pull/7/merge"}, 1),
        ({"GITHUB_HEAD_REF": "", "GITHUB_REF": "refs/heads/main"}, 0),
        ({"GITHUB_REF": "refs/heads/readme"}, 1),
        ({"GITHUB_REF": "refs/tags/2026.11.0"}, 0),
        ({"GITHUB_HEAD_REF": "dependabot/pip/ruff-1.0"}, 0),
        ({"GITHUB_HEAD_REF": "renovate/ruff"}, 0),
        ({"GITHUB_HEAD_REF": "dependabotx/pip"}, 1),
        ({"BRANCH_NAME": "6_readme"}, 0),
        ({"BRANCH_NAME": "readme"}, 1),
        ({}, 2),
    ],
)
def test_in_ci_the_name_comes_from_the_environment(
    tmp_path: Path, variables: dict[str, str], exit_code: int
) -> None:
    said("--ci", folder=tmp_path, exit_code=exit_code, **variables)


def test_a_repo_says_which_branches_it_has_besides(repo: Path) -> None:
    (repo / "hooks").mkdir()
    told = "# what we have\nprotected trunk\n\nbot robot/*\nallow gh-pages"
    (repo / "hooks" / "branches").write_text(told)
    (repo / "robot").mkdir()
    (repo / "robot" / "2").touch()  # a pattern is for branches, not for files
    assert said("--protected", folder=repo) == "trunk\n"
    assert "main is not" in said(folder=repo, exit_code=1)
    said("--ci", folder=repo, GITHUB_HEAD_REF="robot/1")
    said("--ci", folder=repo, exit_code=1, GITHUB_HEAD_REF="dependabot/1")
    git(repo, "switch", "--quiet", "--create", "gh-pages")
    assert said(folder=repo) == ""
    said("--ci", folder=repo, GITHUB_HEAD_REF="gh-pages")
    said("--push", folder=repo, typed=f"HEAD {OLD} refs/heads/gh-pages {OLD}\n")
    git(repo, "switch", "--quiet", "--create", "robot/1")
    said(folder=repo, exit_code=1)


def test_a_name_does_not_reach_the_terminal_as_more_than_letters(repo: Path) -> None:
    refusal = said("--ci", folder=repo, exit_code=1, GITHUB_HEAD_REF="6_\x1b[31m\x7f\rx")
    assert not set(refusal) & set("\x1b\x7f\r")


@pytest.mark.parametrize("line", ["protect main", "protected", "protected main dev"])
def test_settings_that_mean_nothing_are_an_error(repo: Path, line: str) -> None:
    (repo / "hooks").mkdir()
    (repo / "hooks" / "branches").write_text(f"{line}\n")
    assert "hooks/branches: " in said(folder=repo, exit_code=2)


def test_what_cannot_be_done_is_one_sentence(tmp_path: Path) -> None:
    assert "no git repo" in said(folder=tmp_path, exit_code=2)
    assert "no option" in said("--pull", folder=tmp_path, exit_code=2)
    assert "branch-name --push" in said("--help", folder=tmp_path)


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """In the nightly session in every shell."""
    if "shell" in metafunc.fixturenames:
        nightly = metafunc.config.getoption("nightly")
        metafunc.parametrize("shell", ["sh", "dash", "bash"] if nightly else ["sh"])


LETTERS = st.sampled_from(string.ascii_lowercase + string.digits + "._-AZ/ \n$`'\"\\*é\u0435\u0661")
NEARLY = st.builds(
    "{}{}{}".format,
    st.one_of(
        st.integers(-2, 200).map(str), st.sampled_from(["", "0", "00", "01", "1_", "\u0661"])
    ),
    st.sampled_from(["_", "_", "_", "-", "", "__", "/"]),
    st.text(LETTERS, max_size=8),
)
ANY = st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=20)
EXACT = st.from_regex(RULE, fullmatch=True)


@example(names=["6_" + "x" * 250, "-h", "--help", "-n", "6_x\n", "\n6_x", "6_x\ny", "main\n"])
@given(names=st.lists(st.one_of(NEARLY, EXACT, ANY).filter(bool), min_size=10, max_size=10))
def test_the_rule_is_that_of_the_oracle(shell: str, names: list[str]) -> None:
    """Over 1,000 names by day, and 10,000 in each shell at night."""
    if not shutil.which(shell):
        pytest.skip(f"no {shell} on this machine")
    loop = """
        script=$1 shell=$2; shift 2
        for name; do
            BRANCH_NAME=$name "$shell" "$script" --ci 2> /dev/null && echo yes || echo no
        done
    """
    command = ["sh", "-c", loop, "sh", str(SCRIPT), shell, *names]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True, cwd="/")
    assert done.stdout.split() == ["yes" if is_allowed_in_ci(name) else "no" for name in names]
