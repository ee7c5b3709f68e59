"""Rejects a push that would publish secrets: pushed_secrets.py REMOTE, with refs as its input.

It reads what the pushed commits add, not the work tree: a secret stays in the history when a later
commit, or an edit that is not committed, takes it out. The hook `detect-secrets` of
.pre-commit-config.yaml does the same for the files as they are, and says which it leaves out.
"""

from __future__ import annotations

import codecs
import json
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

try:
    import detect_secrets  # noqa: F401
    import yaml  # comes with it
except ImportError:
    sys.exit("no secrets: detect-secrets is not installed\nhint: nox -s setup")

DETECT = (sys.executable, "-m", "detect_secrets.pre_commit_hook", "--json")
CHUNK = 1000
"""Files of one call: a command cannot be of any length."""


class Version(NamedTuple):
    """A file as a commit has made it, or as a tag has it; or a tag's message."""

    source: str
    path: str
    blob: str


def main(remote: str, refs: Sequence[str]) -> int:
    """Check the lines `LOCAL_REF COMMIT REMOTE_REF COMMIT`; 1 if what they push has a secret."""
    os.environ["GIT_NO_REPLACE_OBJECTS"] = "1"  # what others get
    pushed = [ref.split() for ref in refs if ref.strip()]
    tips = {commit: ref for ref, commit, _, _ in pushed if commit.strip("0")}
    there = [commit for *_, commit in pushed if commit.strip("0") and exists(commit + "^{commit}")]
    if not tips:
        return 0
    commits = [commit for commit in tips if exists(commit + "^{commit}")]
    left_out = [re.compile(pattern) for pattern in exclusions()]
    versions = [
        version
        for version in (*tagged(tips), *added(commits, f"--remotes={remote}", *there))
        if not any(pattern.search(version.path) for pattern in left_out)
    ]
    if len(versions) > CHUNK:
        print(f"no secrets: reads {len(versions):,} versions of files", file=sys.stderr)
    excused: set[str] | None = None
    first = ""
    for version, line, kind, text in found(versions):
        if excused is None:
            excused = excused_lines([tip for tip in tips if exists(tip + "^{tree}")])
        if text in excused:
            continue
        first = first or version.source
        where = f"{version.path}:{line} of {version.source}"
        print(f"no secrets: {where} looks like a secret ({kind})", file=sys.stderr)
    if first:
        what, name = first.split()
        out = "git tag --delete " + name + ", and make the tag without it"
        if what == "commit":
            out = f"take it out of its commit with git rebase -i {name}^"
        print(
            f"hint: {out}, and keep it in .env; if it is no secret, end the line with `# pragma: "
            "allowlist secret` in another commit",
            file=sys.stderr,
        )
    return int(bool(first))


def excused_lines(tips: Sequence[str]) -> set[str]:
    """The lines that a comment calls no secret; a comment in a later commit is enough."""
    if not tips:
        return set()
    same = git("grep", "-h", "-e", "pragma: allowlist secret", *tips, may_fail=True)
    below = git("grep", "-h", "-A1", "-e", "pragma: allowlist nextline", *tips, may_fail=True)
    lines = {re.split(r"\s*\S{1,4}\s*pragma: allowlist", line)[0] for line in same.split("\n")}
    return {line.strip() for line in lines | {*below.split("\n")}} - {""}


def git(*arguments: str, may_fail: bool = False, given: str | None = None) -> str:
    """What git prints."""
    command = ("git", "-c", "core.quotePath=false", *arguments)
    done = subprocess.run(
        command,
        input=given,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL if may_fail else None,
        encoding="utf-8",
        errors="surrogateescape",
        check=not may_fail,
    )
    return done.stdout


def exists(name: str) -> bool:
    """True if git has an object of this name."""
    return bool(git("rev-parse", "--verify", "--quiet", name, may_fail=True))


def exclusions() -> Iterator[str]:
    """The patterns of files in which the hook `detect-secrets` looks for none."""
    config = Path(".pre-commit-config.yaml")
    if config.exists():
        settings = yaml.safe_load(config.read_text(encoding="utf-8"))
        hooks = [hook for repo in settings.get("repos", []) for hook in repo["hooks"]]
        for hook in [settings, *(hook for hook in hooks if hook["id"] == "detect-secrets")]:
            if isinstance(hook.get("exclude"), str):
                yield hook["exclude"]


def tagged(tips: Mapping[str, str]) -> Iterator[Version]:
    """The messages of tags, and the files of tags that are of no commit."""
    for tip, ref in tips.items():
        name = ref.removeprefix("refs/tags/")
        kind = git("cat-file", "-t", tip).strip()
        while kind == "tag":  # which may be of another tag
            yield Version(f"tag {name}", "message", tip)
            _, tip, _, kind, *_ = git("cat-file", "tag", tip).split(maxsplit=4)
        if kind == "blob":
            yield Version(f"tag {name}", name, tip)
        for line in git("ls-tree", "-r", "-z", tip).split("\0") if kind == "tree" else ():
            if line.startswith("100"):  # no link and no submodule
                entry, path = line.split("\t", 1)
                yield Version(f"tag {name}", path, entry.split()[2])


def added(commits: Sequence[str], *there: str) -> Iterator[Version]:
    """Each file that one of the commits has made or changed, once for each of its contents."""
    seen = set()
    listed = git("rev-list", "--reverse", *commits, "--not", *there) if commits else ""
    options = ("-z", "-r", "-m", "--root", "--no-renames", "--diff-filter=AMT")
    fields = iter(git("diff-tree", "--stdin", *options, given=listed).split("\0"))
    commit = ""
    for field in fields:
        if not field.startswith(":"):
            commit = field or commit
            continue
        _, mode, _, blob, _ = field.split(" ")
        path = next(fields)
        if mode.startswith("100") and (path, blob) not in seen:  # no link and no submodule
            seen.add((path, blob))
            yield Version(f"commit {commit[:8]}", path, blob)


def as_utf_8(content: bytes) -> bytes:
    """The content, which detect-secrets reads only in UTF-8; from Latin-1 if it is other text."""
    if content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        return content.decode("utf-16", "replace").encode()
    try:
        content.decode()
    except UnicodeDecodeError:
        return content if b"\0" in content else content.decode("latin-1").encode()
    return content


def found(versions: Sequence[Version]) -> Iterator[tuple[Version, int, str, str]]:
    """The line, kind and text of each secret in these files."""
    for start in range(0, len(versions), CHUNK):
        with tempfile.TemporaryDirectory(prefix="pushed-") as folder:
            # Each in a folder of its own, with its path, by which detect-secrets knows its kind.
            files = {
                f"{number}/{version.path}": version
                for number, version in enumerate(versions[start : start + CHUNK])
            }
            with subprocess.Popen(
                ("git", "cat-file", "--batch"), stdin=subprocess.PIPE, stdout=subprocess.PIPE
            ) as objects:
                assert objects.stdin is not None
                assert objects.stdout is not None
                for name, version in files.items():
                    objects.stdin.write(f"{version.blob}\n".encode())
                    objects.stdin.flush()
                    _, kind, size = objects.stdout.readline().split()
                    content = objects.stdout.read(int(size) + 1)[:-1]
                    if kind == b"tag":
                        content = content.partition(b"\n\n")[2]
                    file = Path(folder, name)
                    file.parent.mkdir(parents=True, exist_ok=True)
                    file.write_bytes(as_utf_8(content))
                objects.stdin.close()
            done = subprocess.run(
                (*DETECT, *files), cwd=folder, stdout=subprocess.PIPE, text=True, check=False
            )
            results = json.loads(done.stdout)["results"] if done.returncode else {}
            for name, secrets in results.items():
                lines = Path(folder, name).read_text("utf-8", errors="replace").split("\n")
                for secret in secrets:
                    line = secret["line_number"]
                    yield files[name], line, secret["type"], lines[line - 1].strip()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1], sys.stdin.read().splitlines()))
