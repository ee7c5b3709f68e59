"""The branch rule: which branches can be committed to, pushed, and exist in CI."""

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

from ..conftest import ROOT, commit, git

SCRIPT = ROOT / "hooks" / "branch-name"
HASH = "a" * 40 + "b"

# The rule, written independently of the script.
RULE = re.compile(r"[1-9][0-9]*_[a-z0-9]([a-z0-9._-]*[a-z0-9])?")
BOTS = re.compile(
    r"(dependabot|renovate|gh-readonly-queue)/.*|pre-commit-ci-update-config|revert-[0-9].*-.*",
    re.DOTALL,
)


def is_allowed_in_ci(name: str) -> bool:
    """True if the name is valid in CI, by an independent implementation."""
    return bool(RULE.fullmatch(name) or BOTS.fullmatch(name) or name in ("main", "dev", "master"))


def check(
    *arguments: str, folder: Path, exit_code: int = 0, typed: str = "", **variables: str
) -> str:
    """Run the script, which must exit with this code, and return its output."""
    process = subprocess.run(
        [str(SCRIPT), *arguments],
        cwd=folder,
        env={"PATH": os.environ["PATH"], **variables},
        input=typed,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        encoding="utf-8",
        errors="surrogateescape",
        check=False,
    )
    assert process.returncode == exit_code, process.stdout
    return process.stdout


def hint_in(failure: str) -> str:
    """The command in the last line of a failure."""
    assert "\nhint: " in failure
    return failure.splitlines()[-1].removeprefix("hint: ").strip()


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
def test_a_branch_of_issue_and_description_takes_commits(repo: Path, name: str) -> None:
    git(repo, "switch", "--quiet", "--create", name)
    assert check(folder=repo) == ""


@pytest.mark.parametrize(
    ("name", "valid_name"),
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
def test_a_failure_names_the_branch_the_rule_and_a_command(
    repo: Path, name: str, valid_name: str
) -> None:
    git(repo, "switch", "--quiet", "--create", name)
    failure = check(folder=repo, exit_code=1)
    assert name in failure
    assert "<issue>_<desc>" in failure
    command = hint_in(failure)
    assert command.startswith("git branch -m ")
    assert command.endswith(f" {valid_name}")


@pytest.mark.parametrize(
    "name",
    [
        "6_$(touch${IFS}pwned)",
        "6_`touch${IFS}pwned`",
        "$(touch${IFS}pwned)",
        "6_a;touch${IFS}pwned;'",
    ],
)
def test_no_part_of_a_name_is_run_even_if_the_hint_is_pasted(repo: Path, name: str) -> None:
    git(repo, "switch", "--quiet", "--create", name)
    failure = check(folder=repo, exit_code=1)
    check("--ci", folder=repo, exit_code=1, GITHUB_HEAD_REF=name)
    check(
        "--push", folder=repo, exit_code=1, typed=f"refs/heads/x {HASH} refs/heads/{name} {HASH}\n"
    )
    command = hint_in(failure)
    command = command.replace("<issue>", "6").replace("<desc>", "x")
    subprocess.run(["sh", "-c", command], cwd=repo, check=True)
    assert RULE.fullmatch(git(repo, "branch", "--show-current"))
    assert not (repo / "pwned").exists()


def test_protected_branches_only_take_their_first_commit_and_merges(tmp_path: Path) -> None:
    git(tmp_path, "init", "--quiet", "--initial-branch=main")
    assert check(folder=tmp_path) == ""
    (tmp_path / "a.txt").write_text("a\n")
    commit(tmp_path, "A file")
    failure = check(folder=tmp_path, exit_code=1)
    assert "main is protected" in failure
    assert "git switch -c <issue>_<desc>" in failure
    git(tmp_path, "switch", "--quiet", "--create", "6_b")
    (tmp_path / "a.txt").write_text("b\n")
    commit(tmp_path, "Another")
    git(tmp_path, "switch", "--quiet", "main")
    assert check("--merge", folder=tmp_path) == ""
    git(tmp_path, "merge", "--quiet", "--no-ff", "--no-commit", "6_b")
    assert check(folder=tmp_path) == ""
    git(tmp_path, "merge", "--abort")
    git(tmp_path, "switch", "--quiet", "--create", "readme")
    assert "readme is not" in check("--merge", folder=tmp_path, exit_code=1)


def test_the_first_commit_of_another_branch_must_follow_the_rule(tmp_path: Path) -> None:
    git(tmp_path, "init", "--quiet", "--initial-branch=trunk")
    assert "git branch -m trunk <issue>_trunk" in check(folder=tmp_path, exit_code=1)


def test_a_detached_head_and_a_bisect_take_commits(repo: Path) -> None:
    for number in range(3):
        (repo / "a.txt").write_text(f"{number}\n")
        commit(repo, str(number))
    git(repo, "switch", "--quiet", "--detach")
    assert check(folder=repo) == ""
    git(repo, "switch", "--quiet", "main")
    git(repo, "bisect", "start", "HEAD", "HEAD~3")
    assert check(folder=repo) == ""


def test_a_rebase_of_a_branch_with_a_bad_name_continues(repo: Path) -> None:
    git(repo, "switch", "--quiet", "--create", "readme")
    (repo / "a.txt").write_text("b\n")
    commit(repo, "b")
    git(repo, "switch", "--quiet", "main")
    (repo / "a.txt").write_text("c\n")
    commit(repo, "c")
    with pytest.raises(subprocess.CalledProcessError):
        git(repo, "rebase", "main", "readme")
    assert check(folder=repo) == ""
    git(repo, "rebase", "--abort")
    check(folder=repo, exit_code=1)


@pytest.mark.parametrize("command", ["cherry-pick", "revert"])
def test_a_protected_branch_gives_a_hint_for_a_conflict_in_a_cherry_pick_or_revert(
    repo: Path, command: str
) -> None:
    for text in ("b\n", "c\n"):
        (repo / "a.txt").write_text(text)
        commit(repo, text)
    with pytest.raises(subprocess.CalledProcessError):
        git(repo, command, "HEAD~1")
    git(repo, "add", "--all")
    hint = hint_in(check(folder=repo, exit_code=1)).replace("<issue>", "6").replace("<desc>", "x")
    subprocess.run(["sh", "-c", hint], cwd=repo, check=True, capture_output=True)
    assert check(folder=repo) == ""
    assert git(repo, "branch", "--show-current") == "6_x"


def test_a_linked_work_tree_and_a_submodule_are_checked_by_their_own_branch(
    repo: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    linked = tmp_path_factory.mktemp("linked") / "tree"
    git(repo, "worktree", "add", "--quiet", "-b", "readme", str(linked))
    assert "readme is not" in check(folder=linked, exit_code=1)
    outer = tmp_path_factory.mktemp("outer")
    git(outer, "init", "--quiet", "--initial-branch=6_outer")
    allowed = ("-c", "protocol.file.allow=always")
    git(outer, *allowed, "submodule", "--quiet", "add", str(repo), "inner")
    assert "main is protected" in check(folder=outer / "inner", exit_code=1)
    assert check(folder=outer) == ""


def test_a_tag_of_the_same_name_does_not_change_the_branch(repo: Path) -> None:
    git(repo, "switch", "--quiet", "--create", "6_readme")
    git(repo, "tag", "6_readme")
    assert check(folder=repo) == ""


@pytest.mark.parametrize(
    ("refs", "exit_code"),
    [
        ([f"refs/heads/6_a {HASH} refs/heads/6_a {HASH}"], 0),
        ([f"refs/heads/main {HASH} refs/heads/main {HASH}"], 0),  # for the server to reject
        ([f"HEAD {HASH} refs/heads/readme {HASH}"], 1),
        ([f"refs/heads/6_a {HASH} refs/heads/6_a {HASH}", f"HEAD {HASH} refs/heads/b {HASH}"], 1),
        ([f"(delete) {'0' * 40} refs/heads/readme {HASH}"], 0),
        ([f"(delete) {'0' * 64} refs/heads/readme {HASH}"], 0),
        ([f"refs/tags/v1 {HASH} refs/tags/v1 {HASH}"], 0),
        ([f"HEAD {HASH} refs/for/main {HASH}", f"HEAD {HASH} refs/notes/x {HASH}"], 0),
        ([f"HEAD {HASH} refs/heads/dependabot/pip/x {HASH}"], 1),  # bots do not use this hook
        ([f"HEAD^{{/two words}} {HASH} refs/heads/readme {HASH}"], 1),
        ([f"HEAD^{{/two words}} {HASH} refs/heads/6_a {HASH}"], 0),
        ([], 0),
    ],
)
def test_a_push_checks_the_pushed_refs_and_not_the_current_branch(
    repo: Path, refs: list[str], exit_code: int
) -> None:
    check("--push", folder=repo, exit_code=exit_code, typed="".join(f"{ref}\n" for ref in refs))


@pytest.mark.parametrize(
    ("pushed", "hint"),
    [
        ("refs/heads/readme", "git branch -m readme <issue>_readme"),
        ("HEAD", "git push <remote> HEAD:refs/heads/<issue>_readme"),
        ("refs/heads/6_other", "git push <remote> 6_other:refs/heads/<issue>_readme"),
        ("HEAD^{/$(x)}", "git push <remote> 'HEAD^{/$(x)}':refs/heads/<issue>_readme"),
    ],
)
def test_the_hint_for_a_name_given_in_a_push_is_another_push(
    repo: Path, pushed: str, hint: str
) -> None:
    refs = f"{pushed} {HASH} refs/heads/readme {HASH}\n"
    assert check("--push", folder=repo, exit_code=1, typed=refs).endswith(f"\nhint: {hint}\n")


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
    check("--ci", folder=tmp_path, exit_code=exit_code, **variables)


def test_a_repo_can_list_other_branches(repo: Path) -> None:
    (repo / "hooks").mkdir()
    lines = "# other branches\nprotected trunk\n\nbot robot/*\nallow gh-pages"
    (repo / "hooks" / "branches").write_text(lines)
    (repo / "robot").mkdir()
    (repo / "robot" / "2").touch()  # patterns match branches, not files
    assert check("--protected", folder=repo) == "trunk\n"
    assert "main is not" in check(folder=repo, exit_code=1)
    check("--ci", folder=repo, GITHUB_HEAD_REF="robot/1")
    check("--ci", folder=repo, exit_code=1, GITHUB_HEAD_REF="dependabot/1")
    git(repo, "switch", "--quiet", "--create", "gh-pages")
    assert check(folder=repo) == ""
    check("--ci", folder=repo, GITHUB_HEAD_REF="gh-pages")
    check("--push", folder=repo, typed=f"HEAD {HASH} refs/heads/gh-pages {HASH}\n")
    git(repo, "switch", "--quiet", "--create", "robot/1")
    check(folder=repo, exit_code=1)


@pytest.mark.parametrize(
    "text",
    [
        b"protected trunk\r\n# others\r\n\r\nbot robot/*\r\nallow gh-pages\r\n",
        b"\xef\xbb\xbfprotected trunk\nbot robot/*\nallow gh-pages\n",
        b"\xef\xbb\xbf# others\r\nprotected\ttrunk \r\nbot robot/*\r\nallow gh-pages",
    ],
)
def test_the_list_can_be_saved_by_an_editor_of_windows(repo: Path, text: bytes) -> None:
    (repo / "hooks").mkdir()
    (repo / "hooks" / "branches").write_bytes(text)
    assert check("--protected", folder=repo) == "trunk\n"
    check("--ci", folder=repo, GITHUB_HEAD_REF="robot/1")
    check("--ci", folder=repo, GITHUB_HEAD_REF="gh-pages")


def test_a_name_cannot_send_control_characters_to_the_terminal(repo: Path) -> None:
    failure = check("--ci", folder=repo, exit_code=1, GITHUB_HEAD_REF="6_\x1b[31m\x7f\rx")
    assert not set(failure) & set("\x1b\x7f\r")


@pytest.mark.parametrize("line", ["protect main", "protected", "protected main dev"])
def test_invalid_settings_are_an_error(repo: Path, line: str) -> None:
    (repo / "hooks").mkdir()
    (repo / "hooks" / "branches").write_text(f"{line}\n")
    assert "in hooks/branches\nhint: " in check(folder=repo, exit_code=2)


def test_a_missing_repo_and_an_unknown_option_fail_with_a_hint(tmp_path: Path) -> None:
    assert f"git reads no repo in {tmp_path}\nhint: " in check(folder=tmp_path, exit_code=2)
    assert "unknown option '--pull'\nhint: " in check("--pull", folder=tmp_path, exit_code=2)
    assert "branch-name --push" in check("--help", folder=tmp_path)


LETTERS = st.sampled_from(string.ascii_lowercase + string.digits + "._-AZ/ \n$`'\"\\*é\u0435\u0661")
ALMOST_VALID = st.builds(
    "{}{}{}".format,
    st.one_of(
        st.integers(-2, 200).map(str), st.sampled_from(["", "0", "00", "01", "1_", "\u0661"])
    ),
    st.sampled_from(["_", "_", "_", "-", "", "__", "/"]),
    st.text(LETTERS, max_size=8),
)
ANY = st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=20)
VALID = st.from_regex(RULE, fullmatch=True)


NIGHTLY = pytest.mark.nightly


@pytest.mark.parametrize(
    "shell", ["sh", pytest.param("dash", marks=NIGHTLY), pytest.param("bash", marks=NIGHTLY)]
)
@example(names=["6_" + "x" * 250, "-h", "--help", "-n", "6_x\n", "\n6_x", "6_x\ny", "main\n"])
@given(names=st.lists(st.one_of(ALMOST_VALID, VALID, ANY).filter(bool), min_size=10, max_size=10))
def test_the_script_and_an_independent_implementation_agree(shell: str, names: list[str]) -> None:
    """On 300 names, in the thorough session 1,000, and at night 10,000 in each shell."""
    if not shutil.which(shell):
        pytest.skip(f"no {shell} on this machine")
    loop = """
        script=$1 shell=$2; shift 2
        for name; do
            BRANCH_NAME=$name "$shell" "$script" --ci 2> /dev/null && echo yes || echo no
        done
    """
    command = ["sh", "-c", loop, "sh", str(SCRIPT), shell, *names]
    process = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True, cwd="/")
    assert process.stdout.split() == ["yes" if is_allowed_in_ci(name) else "no" for name in names]
