"""Cookiecutter's door: hands the answers to Copier, which makes the repo and can update it later.

Cookiecutter renders this file, then runs it with its own Python in the folder it has made; where
that fails, Cookiecutter removes what it has made. So whatever Copier refuses is refused here too.
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
# What Copier knows for a git repo by its name alone; others are told so by `git+`.
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
    """Run Copier on the folder, and return its exit code."""
    folder = Path.cwd()
    skip = not PLACEHOLDER.read_text()  # see pre_gen_project.py
    PLACEHOLDER.unlink()
    is_new = not any(folder.iterdir())
    try:
        return copy(folder, skip)
    except KeyboardInterrupt:  # here Cookiecutter leaves what it has made
        if is_new:
            shutil.rmtree(folder)
        return 130


def copy(folder: Path, skip: bool) -> int:
    """Copy the template to the folder, over what is there, or beside it where files are skipped."""
    source, version = template()
    with tempfile.TemporaryDirectory() as elsewhere:
        data = Path(elsewhere, "answers.yml")
        data.write_text(as_yaml(ANSWERS))
        command = [*copier(), "copy", "--defaults", "--data-file", str(data)]
        command += ["--skip", "*"] if skip else ["--overwrite"]
        command += ["--vcs-ref", version] if version else []
        # Not in the folder: Python would take a `yaml.py` of the user's for the library.
        code = run([*command, "--", source, str(folder)], elsewhere)
    if code == 0 and not skip:
        tell_what_was_left_out()
    return code


def copier() -> list[str]:
    """The command that runs Copier: Cookiecutter's neighbour, the one on PATH, or by way of uvx."""
    found = importlib.util.find_spec("copier")
    if found and found.origin:  # a folder of that name would do for a namespace
        return [sys.executable, "-m", "copier"]
    if shutil.which("copier"):
        return ["copier"]
    if shutil.which("uvx"):
        return ["uvx", "--python", sys.executable, "copier"]
    return refuse(
        "This template needs Copier, and there is neither copier nor uvx on PATH; "
        "install one, e.g. python3 -m pip install copier"
    )


def run(command: list[str], cwd: str) -> int:
    """Run Copier and pass on what it tells, in short where that is a traceback over a refusal."""
    traceback: list[str] = []
    with subprocess.Popen(
        command, cwd=cwd, stderr=subprocess.PIPE, text=True, errors="replace"
    ) as running:
        assert running.stderr
        try:
            for line in running.stderr:
                if traceback or line.startswith("Traceback "):
                    traceback.append(line)
                else:
                    print(line, end="", file=sys.stderr, flush=True)
        except KeyboardInterrupt:
            running.wait()  # it was interrupted too, and must not write any more
            raise
    print(in_short(traceback), end="", file=sys.stderr)
    return running.returncode


def in_short(traceback: list[str]) -> str:
    """Of a refused answer, a full disk and the like the last line: the rest is no use to a user."""
    refusal = (
        r"ValueError: (.* question '\w+'.*|Invalid choice for .*|Unknown revision: .*)"
        r"|\w+Error: (\[Errno \d+\] .*)"
    )
    told = re.fullmatch(refusal, "".join(traceback[-1:]), re.DOTALL)
    return (told[1] or told[2]) if told else "".join(traceback)


def template() -> tuple[str, str | None]:
    """What Copier is to copy from, as the user named it, and which version, where one was named."""
    named = str(CONTEXT["_template"])
    if "_commit" in CONTEXT:  # Cruft, which resolves paths itself and keeps to a commit
        folder = Path(named)
        return for_copier(str(folder.resolve()) if folder.exists() else named), CONTEXT["_commit"]
    if "_checkout" not in CONTEXT:
        refuse("This template needs Cookiecutter 2.4 or newer, which says what it was asked for")
    folder = template_folder()
    if named.lower().endswith(".zip") or not (folder / ".git").exists():
        refuse(
            f"{named} came without a git history of its own, so the repo could never be updated; "
            "name the template by its git URL, or by a folder that is a clone of it"
        )
    # What is in the file, not what the user's `insteadOf` makes of it; a clone has one remote,
    # whatever it is called.
    origin = git(folder, "config", "--get-regexp", r"^remote\..*\.url$").partition(" ")[2]
    local = Path(CONTEXT["_repo_dir"]).expanduser() == Path(named).expanduser()
    if local:
        source = named if Path(named).is_absolute() else str(folder)
    elif re.match(r"(git\+)?(\w+://|[\w.-]+@)", named):
        source = named
    elif origin == HOSTS.get(named[:2], "") + named[3:] + ".git":
        source = named  # gh: and gl: mean the same to Copier
    else:  # an abbreviation, or the name of a clone that Cookiecutter has kept
        source = origin if folder.parent == clones() else str(folder)
    return for_copier(source), CONTEXT["_checkout"]


def template_folder() -> Path:
    """The folder of the template: Cookiecutter says what was typed, and works in it just now."""
    here = Path(f"/proc/{os.getppid()}/cwd")
    folder = here if here.exists() else Path(os.environ.get("PWD", "."), CONTEXT["_repo_dir"])
    if not (folder / "cookiecutter.json").is_file():
        refuse(f"{CONTEXT['_template']} cannot be found from here; give the template's whole path")
    return folder.resolve()


def clones() -> Path:
    """The folder in which Cookiecutter keeps what it has cloned."""
    from cookiecutter.config import get_user_config

    return Path(get_user_config()["cookiecutters_dir"]).expanduser().resolve()


def for_copier(source: str) -> str:
    """The same address in a form that Copier knows for a git repo."""
    known = source.endswith(".git") or source.startswith(GIT_PREFIXES)
    return source if known or Path(source).expanduser().exists() else f"git+{source}"


def git(folder: Path, *arguments: str) -> str:
    """What git prints; nothing where it fails or is not there."""
    if not shutil.which("git"):
        return refuse("git is needed and is not on PATH; install it, e.g. apt install git")
    done = subprocess.run(
        ["git", "-C", str(folder), *arguments], capture_output=True, text=True, check=False
    )
    return done.stdout.strip()


def as_yaml(answers: dict[str, str | bool]) -> str:
    """The answers as JSON that is YAML too, which spells what is not ASCII in a way of its own."""
    text = json.dumps(answers, ensure_ascii=False)
    return re.sub(r"[^ -~]", lambda letter: rf"\U{ord(letter[0]):08x}", text)


def tell_what_was_left_out() -> None:
    """Name the answers that the copied version has no question for: it is older than this file."""
    recorded = Path(".copier-answers.yml").read_text(encoding="utf-8").splitlines()
    asked = {line.partition(":")[0] for line in recorded}
    left_out = ", ".join(name for name in ANSWERS if name not in asked)
    if left_out:
        print(
            f"Left out, for the version that was taken does not ask it: {left_out}. "
            "Another version: cookiecutter --checkout BRANCH-OR-TAG",
            file=sys.stderr,
        )


def refuse(why: str) -> NoReturn:
    """Exit with code 1 and the reason; Cookiecutter removes the folder."""
    print(why, file=sys.stderr)
    raise SystemExit(1)


if __name__ == "__main__":
    sys.exit(main())
