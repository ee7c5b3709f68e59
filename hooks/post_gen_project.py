"""Passes Cookiecutter's answers to Copier, which generates the repo and can update it later.

Cookiecutter renders this file and runs it with its own Python in the new folder. If it fails,
Cookiecutter removes the folder, so an answer that Copier refuses leaves nothing behind.
"""

from __future__ import annotations

import importlib.util
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import NoReturn

CONTEXT = json.loads(r"""{{ cookiecutter | tojson }}""")
ANSWERS = {name: answer for name, answer in CONTEXT.items() if not name.startswith("_")}
PLACEHOLDER = Path(".headwater-placeholder")
# Copier recognizes these as git repos; other addresses need the prefix `git+`.
GIT_PREFIXES = (
    "git@",
    "git://",
    "git+",
    "gh:",
    "gl:",
    "https://github.com/",
    "https://gitlab.com/",
)
HOSTS = {"gh": "https://github.com/", "gl": "https://gitlab.com/"}


def main() -> int:
    """Generate the repo in the current folder, and return the exit code."""
    folder = Path.cwd()
    drop_variables_of_git()
    skip = not PLACEHOLDER.read_text()  # see pre_gen_project.py
    PLACEHOLDER.unlink()
    is_new = not any(folder.iterdir())
    try:
        return copy(folder, skip)
    except KeyboardInterrupt:  # Cookiecutter would leave the new folder
        if is_new:
            shutil.rmtree(folder)
        return 130


def copy(folder: Path, skip: bool) -> int:
    """Copy the template to the folder; existing files are overwritten, or skipped if `skip`."""
    source, version = template()
    with tempfile.TemporaryDirectory() as temporary:
        data = Path(temporary, "answers.yml")
        data.write_text(as_yaml(ANSWERS))
        command = [*copier(), "copy", "--defaults", "--data-file", str(data)]
        command += ["--skip", "*"] if skip else ["--overwrite"]
        command += ["--data", "kept="]  # in an existing folder, Cookiecutter's options decide
        command += ["--vcs-ref", version] if version else []
        # Not run in the folder, where Python could import a `yaml.py` of the user's.
        code = run([*command, "--", source, str(folder)], temporary)
    if code == 0 and not skip:
        name_ignored_answers()
    return code


def copier() -> list[str]:
    """The command that runs Copier: from Cookiecutter's environment, from PATH, or by uvx."""
    spec = importlib.util.find_spec("copier")
    if spec and spec.origin:  # not just a folder of that name, which is a namespace package
        return [sys.executable, "-m", "copier"]
    if shutil.which("copier"):
        return ["copier"]
    if shutil.which("uvx"):
        return ["uvx", "--python", sys.executable, "copier"]
    return fail(
        "this template needs Copier, but neither copier nor uvx is on PATH",
        "pipx install copier, or uv tool install copier",
    )


def run(command: list[str], cwd: str) -> int:
    """Run Copier and print its messages, with a traceback of a known error cut to one line."""
    traceback: list[str] = []
    with subprocess.Popen(
        command, cwd=cwd, stderr=subprocess.PIPE, text=True, errors="replace"
    ) as process:
        assert process.stderr
        try:
            for line in process.stderr:
                if traceback or line.startswith("Traceback "):
                    traceback.append(line)
                else:
                    print(line, end="", file=sys.stderr, flush=True)
        except KeyboardInterrupt:
            process.wait()  # it is interrupted too, and must not write any more
            raise
    print(shortened(traceback), end="", file=sys.stderr)
    return process.returncode


def shortened(traceback: list[str]) -> str:
    """The message alone if the answer was refused, the disk is full or the like."""
    known_error = (
        r"ValueError: (.* question '\w+'.*|Invalid choice for .*|Unknown revision: .*)"
        r"|\w+Error: (\[Errno \d+\] .*)"
    )
    match = re.fullmatch(known_error, "".join(traceback[-1:]), re.DOTALL)
    return (match[1] or match[2]) if match else "".join(traceback)


def template() -> tuple[str, str | None]:
    """The template for Copier as the user named it, and the version if the user named one."""
    named = str(CONTEXT["_template"])
    if "_commit" in CONTEXT:  # from Cruft, which resolves paths itself and pins a commit
        folder = Path(named)
        return for_copier(str(folder.resolve()) if folder.exists() else named), CONTEXT["_commit"]
    if "_checkout" not in CONTEXT:
        fail(
            "this template needs Cookiecutter 2.4 or newer",
            "uvx cookiecutter, or pipx run cookiecutter",
        )
    folder = template_folder()
    if named.lower().endswith(".zip") or not (folder / ".git").exists():
        fail(
            f"{named} has no git history of its own, so the repo could not be updated later",
            "name the template by its git URL, or by the folder of a clone",
        )
    # From the file, so that the user's `insteadOf` does not change it; a clone has one remote, of
    # any name.
    origin = git(folder, "config", "--get-regexp", r"^remote\..*\.url$").partition(" ")[2]
    local = Path(CONTEXT["_repo_dir"]).expanduser() == Path(named).expanduser()
    if local:
        source = named if Path(named).is_absolute() else str(folder)
    elif re.match(r"(git\+)?(\w+://|[\w.-]+@)", named):
        source = named
    elif origin == HOSTS.get(named[:2], "") + named[3:] + ".git":
        source = named  # Copier has the same gh: and gl:
    else:  # an abbreviation, or the name of a clone that Cookiecutter keeps
        source = origin if folder.parent == clones() else str(folder)
    return for_copier(source), CONTEXT["_checkout"]


def template_folder() -> Path:
    """The folder of the template, which is Cookiecutter's working folder during this hook."""
    parent = Path(f"/proc/{os.getppid()}/cwd")
    folder = parent if parent.exists() else Path(os.environ.get("PWD", "."), CONTEXT["_repo_dir"])
    if not (folder / "cookiecutter.json").is_file():
        fail(f"cannot find the template {CONTEXT['_template']}", "give its absolute path")
    return folder.resolve()


def clones() -> Path:
    """The folder where Cookiecutter keeps its clones."""
    from cookiecutter.config import get_user_config

    return Path(get_user_config()["cookiecutters_dir"]).expanduser().resolve()


def for_copier(source: str) -> str:
    """The same address in a form that Copier recognizes as a git repo."""
    known = source.endswith(".git") or source.startswith(GIT_PREFIXES)
    return source if known or Path(source).expanduser().exists() else f"git+{source}"


def git(folder: Path, *arguments: str) -> str:
    """The output of git; empty if it fails."""
    if not shutil.which("git"):
        return fail("git is not on PATH", "apt install git, or brew install git")
    process = subprocess.run(
        ["git", "-C", str(folder), *arguments], capture_output=True, text=True, check=False
    )
    return process.stdout.strip()


def drop_variables_of_git() -> None:
    """Drop the variables that choose a repo for git and Copier, which git sets for its hooks."""
    for name in git(Path.cwd(), "rev-parse", "--local-env-vars").split():
        if not name.startswith("GIT_CONFIG_"):  # settings, such as the credentials of CI
            os.environ.pop(name, None)


def as_yaml(answers: dict[str, str | bool]) -> str:
    """The answers as JSON that is also YAML, which escapes other than ASCII letters differently."""
    text = json.dumps(answers, ensure_ascii=False)
    return re.sub(r"[^ -~]", lambda letter: rf"\U{ord(letter[0]):08x}", text)


def name_ignored_answers() -> None:
    """Print the answers to questions that an older, released version does not ask."""
    lines = Path(".copier-answers.yml").read_text(encoding="utf-8").splitlines()
    questions = {line.partition(":")[0] for line in lines}
    ignored = ", ".join(name for name in ANSWERS if name not in questions)
    if ignored:
        print(
            f"headwater: ignored {ignored}, because this version does not ask for it\n"
            "hint: cookiecutter --checkout BRANCH-OR-TAG chooses another version",
            file=sys.stderr,
        )


def fail(message: str, hint: str) -> NoReturn:
    """Exit with code 1, after printing the message and the hint."""
    print(f"headwater: {message}\nhint: {hint}", file=sys.stderr)
    raise SystemExit(1)


if __name__ == "__main__":
    sys.exit(main())
