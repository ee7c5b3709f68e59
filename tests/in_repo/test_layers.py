"""Images of flows: what goes in, what they are named by, and what a real engine makes of it."""

from __future__ import annotations

import io
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tarfile
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from sales_pipelines.runtime import paths
from sales_pipelines.runtime.__main__ import main
from sales_pipelines.runtime.commands import clean, status
from sales_pipelines.runtime.commands import image as image_command
from sales_pipelines.runtime.console import counted, in_units
from sales_pipelines.runtime.container import build, engine, image
from sales_pipelines.runtime.container.image import image_for, images_for
from sales_pipelines.runtime.container.layers import repo_files
from sales_pipelines.runtime.errors import ImageError, RequirementsError
from sales_pipelines.runtime.metaflow_config import datastore_root, local_root
from sales_pipelines.runtime.settings import PREFIX, settings
from sales_pipelines.runtime.version import code

from ..conftest import git
from .conftest import wait_until

FLOW = "examples/co2/clean.py"
SETTINGS = Path("sales_pipelines/config/metaflowtask")
DOCKERFILE = "ARG BASE\nFROM ${BASE}\n"
# A base of a few bytes, for what is not about Python.
SMALL_BASE = "FROM scratch\nCOPY base /\n"


class Checkout:
    """A checkout of the repo of its own, whose flows may be edited."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.folder = root / "sales_pipelines" / "flows" / "own"

    def add(self, name: str, text: str, mode: int = 0o644) -> None:
        """Write a file, named from the repo's root, or from the flow's folder by `own/`."""
        file = self.folder / name[4:] if name.startswith("own/") else self.root / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
        file.chmod(mode)

    def python(self) -> str:
        """Python's image, of which the default base is made."""
        text = (self.root / SETTINGS / "Dockerfile-base").read_text()
        version = text.partition("PYTHON_VERSION=")[2].split()[0]
        return f"python:{version}-slim-bookworm"

    def git(self, *arguments: str) -> str:
        command = ("git", "-c", "user.name=T", "-c", "user.email=t@example.org", *arguments)
        done = subprocess.run(command, cwd=self.root, check=True, capture_output=True, text=True)
        return done.stdout.strip()

    def members(self, *, base: bool = False) -> list[tarfile.TarInfo]:
        """The members of the context of the flow's image, or of its base."""
        with images_for("own/flow.py") as both:
            packed = both[0 if base else 1].context.archive
            packed.seek(0)
            with tarfile.open(fileobj=packed) as archive:
                return archive.getmembers()

    def files(self, flow: str = "own/flow.py") -> dict[str, bytes]:
        """The files in the context of the flow's image, with their contents."""
        with images_for(flow) as (_, image):
            image.context.archive.seek(0)
            with tarfile.open(fileobj=image.context.archive) as archive:
                return {
                    each.name: file.read()
                    for each in archive
                    if each.isfile() and (file := archive.extractfile(each))
                }

    def small(self) -> str:
        """Give the flow an image of a few bytes, and return the flow's path."""
        self.add("own/Dockerfile-base", SMALL_BASE)
        self.add("own/base/hello.txt", "hello")
        self.add("own/Dockerfile", DOCKERFILE + "COPY sales_pipelines/flows/own/flow.py /\n")
        return "own/flow.py"

    def start(self, *arguments: str, **variables: str) -> subprocess.Popen[str]:
        """Start `nox -s image` in this checkout."""
        return subprocess.Popen(
            (sys.executable, "-m", "sales_pipelines.runtime", "image", *arguments),
            cwd=self.root,
            env={**os.environ, **variables},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )


@pytest.fixture(scope="module")
def committed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The repo with one commit, to be copied."""
    root = tmp_path_factory.mktemp("committed") / "repo"
    kept = shutil.ignore_patterns(
        ".git", ".venv", ".metaflow", "reports", "__pycache__", ".*_cache"
    )
    shutil.copytree(paths.PACKAGE.parent, root, ignore=kept)
    made = Checkout(root)
    made.git("init", "--quiet", "--initial-branch=main")
    made.git("add", "--all")
    made.git("commit", "--quiet", "--message", "All")
    made.git("gc", "--quiet")  # few files to copy
    shutil.rmtree(root / ".git" / "hooks")
    return root


@pytest.fixture
def checkout(
    committed: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    request: pytest.FixtureRequest,
) -> Iterator[Checkout]:
    """A checkout with one commit, and a flow of its own; its images go with it."""
    root = tmp_path / "repo"
    shutil.copytree(committed, root, symlinks=True)
    made = Checkout(root)
    made.add("own/flow.py", (root / "sales_pipelines" / "flows" / FLOW).read_text())
    package = root / "sales_pipelines"
    for name, value in {
        **{"ROOT": root, "PACKAGE": package, "CONFIG": package / "config"},
        **{"FLOWS": package / "flows", "TASKS": package / "tasks"},
    }.items():
        monkeypatch.setattr(paths, name, value)
    for name in os.environ:
        if name.startswith(PREFIX):
            monkeypatch.delenv(name)
    for looked_up in (settings, local_root, datastore_root):
        looked_up.cache_clear()
    ours = f"--filter=label={engine.CHECKOUT}={engine.checkout()}"
    yield made
    monkeypatch.undo()
    settings.cache_clear()
    if request.node.get_closest_marker("docker") and shutil.which("docker"):
        form = "--format={{.Repository}}:{{.Tag}}"
        listed = engine.docker("image", "ls", ours, form).stdout.split()
        listed = [each for each in listed if "<none>" not in each]
        listed += engine.docker("image", "ls", "-q", ours, "--filter=dangling=true").stdout.split()
        listed = [each for each in listed if "/base:" not in each]  # others may be building on it
        if listed:
            engine.docker("image", "rm", *listed)


def names_of(flow: str = "own/flow.py") -> tuple[str, str]:
    """The names of the base and the image of the flow as it is on disk."""
    with images_for(flow) as (base, image):
        return base.name, image.name


def in_image(name: str, *command: str, options: tuple[str, ...] = ()) -> str:
    """What the command prints in a container of the image, whose root is read-only."""
    words = ("docker", "run", "--rm", "--pull=never", "--read-only", *options, name, *command)
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def fake_docker(folder: Path, monkeypatch: pytest.MonkeyPatch, script: str) -> None:
    """Let `docker` be this shell script."""
    program = folder / "fake" / "docker"
    program.parent.mkdir()
    program.write_text(f"#!/bin/sh\n{script}\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{program.parent}:{os.environ['PATH']}")


REFUSED: dict[str, tuple[dict[str, tuple[str, int]], str]] = {
    "base-alone": (
        {"Dockerfile-base": ("FROM scratch\n", 0o644)},
        r"own/Dockerfile-base has no Dockerfile beside it.*\n"
        r"hint: cp .*metaflowtask/Dockerfile \S+/own/",
    ),
    "base-in-a-comment": (
        {"Dockerfile": ("# ARG BASE\n# FROM ${BASE}\n", 0o644)},
        r"own/Dockerfile has no FROM\nhint: begin it with ARG BASE and FROM \$\{BASE\}$",
    ),
    "nothing-but-an-argument": (  # which crashes the engine
        {
            "Dockerfile-base": ("ARG FROM=scratch\n", 0o644),
            "Dockerfile": (DOCKERFILE, 0o644),
        },
        r"own/Dockerfile-base has no FROM\nhint: begin it with FROM and an image$",
    ),
    "not-executable": (
        {"launch.sh": ('#!/bin/sh\nexec "$@"\n', 0o644)},
        r"own/launch\.sh is not executable.*hint: chmod \+x sales_pipelines/flows/own/launch\.sh",
    ),
    "no-program": (
        {"launch.sh": ('exec "$@"\n', 0o755)},
        r"own/launch\.sh begins with 'exec .*no program to run it\nhint: begin it with #!/bin/sh",
    ),
    "line-ends": (
        {"launch.sh": ('#!/bin/sh\r\nexec "$@"\r\n', 0o755)},
        "use the line ends of Unix",
    ),
    "runs-nothing": (
        {"launch.sh": ('#!/bin/sh\n# exec "$@"\n"$@"\n', 0o755)},
        r"own/launch\.sh has no `exec \"\$@\"`.*\nhint: end it with exec",
    ),
    "runs-nothing-by-env": (
        {"launch.sh": ('#!/usr/bin/env bash\n"$@"\n', 0o755)},
        r"own/launch\.sh has no `exec \"\$@\"`.*\nhint: end it with exec",
    ),
    "good-and-bad": (
        {"Dockerfile": (DOCKERFILE, 0o644), "launch.sh": ('#!/bin/sh\nexec "$@"\n', 0o600)},
        "is not executable",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_files_that_do_not_fit_together_are_refused_before_docker_runs(
    checkout: Checkout, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    files, message = REFUSED[name]
    for file, (text, mode) in files.items():
        checkout.add(f"own/{file}", text, mode)
    monkeypatch.setattr(engine, "docker", lambda *_: pytest.fail("docker was asked"))
    with pytest.raises(ImageError, match=f"(?s){message}"):
        image_for("own/flow.py")


@pytest.mark.docker
@pytest.mark.parametrize(
    "text",
    [
        "\ufeffARG BASE\r\nFROM ${BASE}\r\nRUN true \\\r\n  && true\r\n",
        "# x\narg PACKAGE BASE\nfrom --platform=linux/amd64 $BASE as one\n",
        "ARG BASE=x\nFROM ${BASE:-y} AS One\nFROM scratch AS two\nCOPY .layer/launch.sh /a\n"
        "FROM one\nCOPY --from=two /a /\n",
        'ARG BASE\nFROM "${BASE}"\nCOPY <<EOF /a\nFROM two\nEOF\n',
        "ARG BASE\nFROM ${BASE}\nCOPY <<-'END' /a\n\tFROM two\n\tEND\nRUN echo \\\n# x\nFROM two\n",
    ],
)
def test_a_dockerfile_on_its_base_is_taken_however_it_is_written(
    checkout: Checkout, text: str
) -> None:
    checkout.add("own/Dockerfile-base", f"FROM {checkout.python()}\n")
    checkout.add("own/Dockerfile", text)
    assert engine.has_image(image_for("own/flow.py"))


NOT_ON_ITS_BASE = {
    "another": "FROM scratch\nCOPY .layer/launch.sh /\n",
    "another-at-last": f"{DOCKERFILE.rstrip()} AS one\nFROM scratch AS two\n"
    "COPY .layer/launch.sh /\nFROM two\n",
    "another-behind-a-heredoc": f"{DOCKERFILE}COPY <<-'END' /a\n\tFROM x\n\tEND\n"
    "FROM scratch\nCOPY .layer/launch.sh /\n",
    "no-argument": "FROM ${BASE}\n",
    "argument-below": "FROM ${BASE}\nARG BASE\n",
}


@pytest.mark.docker
@pytest.mark.parametrize("name", NOT_ON_ITS_BASE)
def test_an_image_that_does_not_stand_on_its_base_is_refused(checkout: Checkout, name: str) -> None:
    checkout.small()
    checkout.add("own/Dockerfile", NOT_ON_ITS_BASE[name])
    cause = (
        "own/Dockerfile does not build on its base"
        if "another" in name
        else "own/Dockerfile, line 1"
    )
    hint = r"hint: begin it with ARG BASE and FROM \$\{BASE\};.* Dockerfile-base beside it"
    with pytest.raises(ImageError, match=rf"(?s){cause}\n.*{hint}\Z"):
        image_for("own/flow.py")
    assert not engine.has_image(names_of()[1])


def test_the_context_is_what_git_tracks_or_would_track_as_it_is_on_disk(
    checkout: Checkout,
) -> None:
    checkout.add("sales_pipelines/__init__.py", "edited = True\n")
    checkout.add(".env", "PASSWORD=planted\n")
    checkout.add("own/.env", "PASSWORD=planted\n")
    checkout.git("add", "--force", "sales_pipelines/flows/own/.env")
    checkout.add(".gitignore", "ignored.csv\n")
    checkout.add("own/ignored.csv", "1,2\n")
    checkout.add("own/new.csv", "3,4\n")
    checkout.git("rm", "--quiet", "--cached", "sales_pipelines/py.typed")
    (checkout.root / "sales_pipelines" / "py.typed").unlink()
    (checkout.root / "sales_pipelines" / "tasks" / "__init__.py").unlink()  # git has it still
    files = checkout.files()
    assert files["sales_pipelines/__init__.py"] == b"edited = True\n"
    assert files["sales_pipelines/flows/own/new.csv"] == b"3,4\n"
    assert f"sales_pipelines/flows/{FLOW}" in files
    assert not {"sales_pipelines/py.typed", "sales_pipelines/tasks/__init__.py"} & set(files)
    outside = [name for name in files if not name.startswith("sales_pipelines/")]
    version = f".layer/version/sales_pipelines-{code().version}.dist-info/METADATA"
    assert outside == [".layer/Dockerfile", ".layer/launch.sh", version]
    assert not [name for name in files if "ignored" in name or ".env" in name or ".git/" in name]


def test_an_entry_point_may_be_no_shell_script_and_the_defaults_must_exist(
    checkout: Checkout,
) -> None:
    for text in ("#! /usr/bin/env python3\nif (True): print(1)\n", "#!/opt/bin/fish\n$argv\n"):
        checkout.add("own/launch.sh", text, 0o755)
        assert names_of()
    (checkout.root / SETTINGS / "Dockerfile").unlink()
    with pytest.raises(
        ImageError, match=r"there is no .*Dockerfile.*\nhint: git checkout HEAD -- "
    ):
        names_of()


def test_files_with_any_name_links_and_repos_within_the_repo_are_in_the_context(
    checkout: Checkout,
) -> None:
    odd = ['" x.txt', "-n.txt", "line\nend.txt", "größe.txt", os.fsdecode(b"\xff.txt")]
    for name in odd:
        checkout.add(f"own/{name}", "x")
    checkout.add(" first.txt", "")  # git names it first of all
    checkout.add("own/run.sh", "", 0o711)
    checkout.git("init", "--quiet", "sales_pipelines/flows/nested")
    checkout.add("sales_pipelines/flows/nested/.gitignore", "ignored\n")
    checkout.add("sales_pipelines/flows/nested/ignored", "")
    checkout.add("sales_pipelines/flows/nested/inner/a.py", "")
    (checkout.folder / "elsewhere").symlink_to("/etc")
    (checkout.folder / "dangling").symlink_to("nowhere")
    checkout.add("data/kept.csv", "")
    checkout.git("add", "data")
    shutil.rmtree(checkout.root / "data")
    (checkout.root / "data").symlink_to(checkout.root / "sales_pipelines")  # it was moved
    (checkout.root / "sales_pipelines" / "kept.csv").touch()
    members = {each.name: each for each in checkout.members()}
    own = "sales_pipelines/flows/own"
    assert {f"{own}/{name}" for name in odd} | {" first.txt"} <= set(members)
    assert [members[f"{own}/{name}"].mode for name in ("run.sh", "-n.txt")] == [0o755, 0o644]
    links = {each.name: each.linkname for each in members.values() if each.issym()}
    assert links[f"{own}/elsewhere"] == "/etc"
    assert links[f"{own}/dangling"] == "nowhere"
    assert "data" in links
    assert "data/kept.csv" not in members
    nested = sorted(name for name in members if "/nested/" in name)
    assert nested == [
        f"sales_pipelines/flows/nested/{name}" for name in (".gitignore", "inner/a.py")
    ]


def test_what_describes_layers_may_be_a_link_to_what_flows_share(checkout: Checkout) -> None:
    checkout.add("shared/Dockerfile", DOCKERFILE)
    checkout.add("shared/launch.sh", '#!/bin/sh\nexec "$@"\n', 0o755)
    checkout.add("shared/requirements.txt", "cowsay\n")
    checkout.add("shared/odbc.ini", "[x]\n")
    (checkout.folder / "base").mkdir()
    for name in ("Dockerfile-base", "Dockerfile", "launch.sh", "requirements.txt", "base/odbc.ini"):
        shared = "Dockerfile" if name == "Dockerfile-base" else Path(name).name
        (checkout.folder / name).symlink_to(checkout.root / "shared" / shared)
    files = checkout.files()
    assert files[".layer/Dockerfile"] == DOCKERFILE.encode()
    assert files[".layer/launch.sh"].startswith(b"#!/bin/sh")
    own = ".layer/requirements/sales_pipelines/flows/own/requirements.txt"
    assert files[own] == b"cowsay\n"
    base = {each.name: each for each in checkout.members(base=True)}
    assert all(base[name].isfile() for name in (".layer/Dockerfile", "base/odbc.ini"))


def test_a_base_gets_no_file_that_git_ignores(checkout: Checkout) -> None:
    folder = SETTINGS / "base"
    checkout.add(".gitignore", "*.key\n")
    checkout.add(f"{folder}/our.key", "planted\n")
    checkout.add(f"{folder}/.env", "planted\n")
    checkout.add(f"{folder}/etc/odbc.ini", "", 0o755)
    names = {each.name for each in checkout.members(base=True)}
    assert names == {"pyproject.toml", "uv.lock", ".layer/Dockerfile", "base", "base/etc/odbc.ini"}


def test_where_git_fails_no_image_gets_what_git_ignores(
    checkout: Checkout, monkeypatch: pytest.MonkeyPatch
) -> None:
    refused = r"git does not say which files.*: fatal: .*\nhint: git -C .* status"
    git(checkout.root, "config", "core.bare", "true")
    with pytest.raises(ImageError, match=refused):
        checkout.files()
    (checkout.root / ".git" / "HEAD").write_text("broken")
    with pytest.raises(ImageError, match=refused):
        checkout.files()


def test_without_git_the_context_is_the_package(checkout: Checkout) -> None:
    before = set(checkout.files())
    shutil.rmtree(checkout.root / ".git")
    checkout.add("sales_pipelines/__pycache__/x.pyc", "")
    checkout.add("sales_pipelines/.env", "PASSWORD=planted\n")
    after = {name for name in checkout.files() if "METADATA" not in name}
    assert after == {name for name in before if "METADATA" not in name}


@pytest.mark.parametrize(
    ("rules", "left"),
    [
        ("*.csv", {"a/b.csv", "a/c.txt", "a/d/e.csv"}),
        ("**/*.csv", {"a/c.txt"}),
        ("**/*.csv\n!a/d/*.csv", {"a/c.txt", "a/d/e.csv"}),
        ("# a\n/a/d/", {"a/b.csv", "a/c.txt", "top.csv"}),
        ("a/?.[a-c]sv", {"a/c.txt", "a/d/e.csv", "top.csv"}),
        ("**e.csv", {"a/b.csv", "a/c.txt", "top.csv"}),
        ("**.csv\n!a/**b.csv", {"a/b.csv", "a/c.txt"}),
        ("\ufeffa/**\r\n!a/c.txt\r\n", {"a/c.txt", "top.csv"}),
        ("*\n!a/d\n!sales_pipelines", {"a/d/e.csv"}),
        ("./a/../top.csv\n  # x\na//d", {"a/b.csv", "a/c.txt"}),
    ],
)
def test_dockerignore_leaves_out_what_it_names(
    checkout: Checkout, rules: str, left: set[str]
) -> None:
    for name in ("a/b.csv", "a/c.txt", "a/d/e.csv", "top.csv"):
        checkout.add(name, "")
    checkout.add(".dockerignore", rules)
    checkout.add(".gitignore", "# nothing\n")
    checkout.add("a/.env", "PASSWORD=planted\n")
    names = {"a/b.csv", "a/c.txt", "a/d/e.csv", "top.csv"}
    files = set(checkout.files())
    assert names & files == left
    assert "a/.env" not in files  # never


DOCKERIGNORES = (
    *("*.csv", "**/*.csv", "**.csv", "**e.csv", "a/**", "a/**/*.csv", "**/d", "a**", "**/d/**"),
    *("a/?.csv", "a/[b-d].*", "[^a]*", "\\[x\\].csv", "/a/d/", "./a/./d", "a/../top.csv", ".", "/"),
    *("*\n!a/d", "a\n!a/d/e.csv", "!a/c.txt\na", "a/d\n!a/d/f\na/d/f/g.csv", " #a\na/d ", "a/d\r"),
    *("! a/d\n", "**\n!**/*.txt", "*/*/*", "**/?.csv\n!**/g.csv", "a/*\n!a/**/e.csv"),
    *("a/**g.csv", "**[e-g].csv", "**t*.csv", "a**.csv", "**p.csv\n!**top*", "#a.csv"),
)


@pytest.mark.docker
@pytest.mark.nightly
def test_dockerignore_means_what_it_means_to_docker(checkout: Checkout) -> None:
    names = [
        "a/b.csv",
        "a/c.txt",
        "a/d/e.csv",
        "top.csv",
        "a/d/f/g.csv",
        "[x].csv",
        "ab/c.csv",
        "#a.csv",
    ]
    checkout.add(".gitignore", "# nothing\n")
    for name in names:
        checkout.add(name, "")
    for rules in DOCKERIGNORES:
        checkout.add(".dockerignore", f"{rules}\n")
        folder = checkout.root.parent / "context"
        shutil.rmtree(folder, ignore_errors=True)
        for name in names:
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).touch()
        (folder / ".dockerignore").write_text(f"{rules}\n")
        out = checkout.root.parent / "out"
        shutil.rmtree(out, ignore_errors=True)
        subprocess.run(
            ["docker", "build", "--quiet", "--file=-", f"--output={out}", folder],
            input=b"FROM scratch\nCOPY . /",
            check=True,
            capture_output=True,
        )
        expected = {str(each.relative_to(out)) for each in out.rglob("*") if each.is_file()}
        assert (rules, set(repo_files()) & {*names}) == (rules, expected & {*names})


@pytest.mark.parametrize("rules", ["[z-a].csv", "caf\udce9\n"])
def test_a_dockerignore_of_any_bytes_makes_no_traceback(checkout: Checkout, rules: str) -> None:
    (checkout.root / ".dockerignore").write_bytes(os.fsencode(rules))
    if rules.startswith("["):
        with pytest.raises(ImageError, match=r"\.dockerignore: '\[z-a\]\.csv' is no pattern: bad"):
            checkout.files()
    else:
        (checkout.root / rules.strip()).touch()
        assert rules.strip() not in checkout.files()


def test_an_image_is_named_by_what_is_in_it(
    checkout: Checkout, monkeypatch: pytest.MonkeyPatch
) -> None:
    def names() -> tuple[str, str]:
        base, flow = names_of()
        assert re.fullmatch(r"sales-pipelines/base:[0-9a-f]{16}", base)
        assert re.fullmatch(r"sales-pipelines/own-flow:[0-9a-f]{16}", flow)
        return base, flow

    (checkout.folder / "link").symlink_to("target")
    checkout.add("own/one", "")
    seen = [names()]
    assert names() == seen[0]
    os.utime(checkout.folder / "flow.py", (0, 0))
    assert names() == seen[0]
    for name, text in {
        "own/flow.py": "edited",
        "own/launch.sh": '#!/bin/sh\nexec "$@"\n',
        "own/Dockerfile": DOCKERFILE,
        "own/requirements.txt": "cowsay\n",
        "sales_pipelines/config/base.yaml": "timeout: 5\n",
    }.items():
        checkout.add(name, text, 0o755)
        seen.append(names())
    checkout.git("switch", "--quiet", "--create", "7_other")
    seen.append(names())
    (checkout.folder / "one").rename(checkout.folder / "one2")
    seen.append(names())
    (checkout.folder / "one2").chmod(0o755)
    seen.append(names())
    (checkout.folder / "link").unlink()
    checkout.add("own/link", "target")
    seen.append(names())
    assert len({base for base, _ in seen}) == 1
    assert len({flow for _, flow in seen}) == len(seen)
    monkeypatch.setenv("DOCKER_DEFAULT_PLATFORM", "linux/arm64")  # docker's own
    assert names()[0] != seen[0][0]
    long = "/".join(["own", *["x" * 100] * 3, "flow.py"])
    checkout.add(f"sales_pipelines/flows/{long}", "")
    assert len(names_of(long)[1]) <= 255  # docker's limit


def test_a_base_is_named_by_what_is_locked_and_not_by_version_or_tools(checkout: Checkout) -> None:
    def base() -> str:
        return names_of()[0]

    first = base()
    for name in ("pyproject.toml", "uv.lock"):
        file = checkout.root / name
        pattern = r'(?m)^(name = "sales-pipelines"\nversion = )".*"'
        text, count = re.subn(pattern, r'\1"2030.1.0"', file.read_text())
        assert count == 1
        file.write_text(text.replace("line-length = 100", "line-length = 90"))
    assert base() == first
    flow = names_of()[1]
    lock = checkout.root / "uv.lock"
    lock.write_text(
        lock.read_text().replace('name = "luigi"\nversion = "', 'name = "luigi"\nversion = "9')
    )
    second = base()
    assert second != first
    assert names_of()[1] != flow
    checkout.add("sales_pipelines/config/metaflowtask/base/odbc.ini", "[x]\n")
    assert base() not in (first, second)
    lock.unlink()
    with pytest.raises(ImageError, match=r"there is no .*uv\.lock.*\nhint: nox -s setup"):
        base()


def test_what_a_requirements_file_includes_goes_in_with_it(checkout: Checkout) -> None:
    checkout.add(
        "own/requirements.txt",
        "-r ../shared/more.txt\n--find-links wheels\n-f https://x.example.org\n",
    )
    checkout.add("own/wheels/x.whl", "")
    checkout.add("own/wheels/below/y.whl", "")
    checkout.add("own/wheels/.env", "planted")
    checkout.add(
        "sales_pipelines/flows/shared/more.txt",
        "cowsay  # -r nowhere.txt\n-c ../own/requirements.txt\n",
    )
    files = checkout.files()
    assert not [
        name for name in files if name.startswith(".layer/") and ("y.whl" in name or ".env" in name)
    ]
    assert files[".layer/requirements/requirements.txt"] == (
        b"-r sales_pipelines/flows/own/requirements.txt\n"
    )
    assert b"[tool.uv]" in files[".layer/requirements/pyproject.toml"]  # the index, say
    flows = ".layer/requirements/sales_pipelines/flows"
    assert {f"{flows}/shared/more.txt", f"{flows}/own/wheels/x.whl"} <= set(files)
    checkout.add("own/requirements.txt", "--find-links ../../../../outside\n")
    (checkout.root.parent / "outside").mkdir()
    with pytest.raises(ImageError, match=r"outside the repo.*\nhint: move it into the repo"):
        checkout.files()
    checkout.add("own/requirements.txt", "--find-links nowhere\n")
    with pytest.raises(
        ImageError, match=r"own/requirements\.txt names .*own/nowhere, which does not exist"
    ):
        checkout.files()
    checkout.add("own/requirements.txt", "-r nowhere.txt\n")
    with pytest.raises(RequirementsError, match=r"there is no .*nowhere\.txt"):
        checkout.files()


def test_the_message_for_no_engine_has_a_hint(
    checkout: Checkout, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with monkeypatch.context() as patch:
        git = shutil.which("git")
        assert git
        folder = checkout.root.parent / "without-docker"
        folder.mkdir()
        (folder / "git").symlink_to(git)
        patch.setenv("PATH", str(folder))
        assert main(["image", FLOW]) == 2
        assert re.fullmatch(
            r"image: there is no docker .*\nhint: install Docker.*\n", capsys.readouterr().err
        )
    stderr = "permission denied while trying to connect to the Docker daemon socket at unix:///x"
    fake_docker(checkout.root.parent, monkeypatch, f"echo '{stderr}' >&2; exit 1")
    assert main(["image", FLOW]) == 2
    assert re.fullmatch(r"image: you have no permi.*\nhint: .*usermod.*\n", capsys.readouterr().err)
    engine.use_record("x").parent.mkdir(parents=True)  # it has made some
    notes: list[str] = []
    assert clean.unused_images(set(), time.time(), notes) == clean.unstarted_containers() == []
    assert re.match("No image is touched: you have no permission", notes[0])


def test_the_message_for_a_full_disk_has_a_hint(
    checkout: Checkout, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    full = 'case "$1" in build) echo "write /var/x: no space left on device"; exit 1;; esac'
    fake_docker(checkout.root.parent, monkeypatch, f"{full}; echo 'No such image: x' >&2; exit 1")
    assert main(["image", FLOW]) == 2
    lines = capsys.readouterr().err.splitlines()
    assert re.fullmatch(
        r"image: the base of .* cannot be built: the engine's disk is full", lines[-2]
    )
    assert lines[-1].startswith("hint: `nox -s clean`")


def test_a_failed_build_shows_no_password_and_cuts_long_lines(
    checkout: Checkout,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv(f"{PREFIX}CONTAINER__INDEX_URL", "https://u:pl%40nted@[x/simple")
    monkeypatch.setenv(f"{PREFIX}CONTAINER__PROXY", "planted-user:planted/2@127.0.0.1:9")
    settings.cache_clear()
    line = "u:pl%40nted@x u:pl@nted pl@nted pl%40nted planted-user:planted/2 planted/2 "
    build = (
        f'case "$1" in build) echo "#7 [1/1] RUN {line}"; echo "{line}{"x" * 999}"; exit 1;; esac'
    )
    fake_docker(checkout.root.parent, monkeypatch, f"{build}; echo 'No such image: x' >&2; exit 1")
    assert main(["image", FLOW]) == 2
    out, err = capfd.readouterr()
    assert not re.search("planted|pl@nted|pl%40nted", out + err)
    assert "RUN ***" in err
    assert max(map(len, err.splitlines())) < 600


MOUNTS = "RUN --mount=type=cache,target=/root --mount=type=secret,id=network,required=true"


@pytest.mark.parametrize(
    ("instruction", "shown"),
    [
        (f"{MOUNTS} : install the packages of uv.lock && . /x && if [ ]; then", "install the "),
        ("RUN : fetch the model; curl -O https://example.org/model", "fetch the model\n"),
        ("RUN : compile && make", "compile\n"),
        (f"{MOUNTS} apt-get update", "RUN apt-get update\n"),
        ("COPY --link a: b && c", "COPY --link a: b && c\n"),
    ],
)
def test_a_step_of_a_build_is_shown_by_its_name_if_it_has_one(
    checkout: Checkout,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
    instruction: str,
    shown: str,
) -> None:
    build = f"case \"$1\" in build) echo '#7 [packages 2/3] {instruction}'; exit 1;; esac"
    fake_docker(checkout.root.parent, monkeypatch, f"{build}; echo 'No such image: x' >&2; exit 1")
    assert main(["image", FLOW]) == 2
    (line,) = (each for each in capfd.readouterr().err.splitlines() if "| [packages 2/3]" in each)
    assert f"{line}\n".partition("2/3] ")[2].startswith(shown)
    assert "mount" not in line


def test_every_step_of_the_shipped_dockerfiles_has_a_name() -> None:
    for file in (paths.CONFIG / "metaflowtask").glob("Dockerfile*"):
        instructions = file.read_text().replace("\\\n", " ")
        steps = re.findall(r"(?m)^RUN +(?:--\S+ +)*(.*)", instructions)
        assert steps
        assert [step for step in steps if not re.match(r": [a-zA-Z][^&;]{5,70} && ", step)] == []


def test_a_file_that_is_deleted_meanwhile_is_left_out(
    checkout: Checkout, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = repo_files()
    before = checkout.files()
    monkeypatch.setattr(image, "repo_files", lambda: ["gone.log", *names])
    assert checkout.files() == before


@pytest.mark.parametrize(
    ("registry", "message"),
    [
        (
            "r.example.org/team/",
            r"push r\.example\.org/team/a/b:1\nhint: `docker login r\.example\.org`.*",
        ),
        ("localhost", r"push localhost/a/b:1\nhint: `docker login localhost`.*"),
        ("someone", r"push someone/a/b:1\nhint: `docker login`.*"),
    ],
)
def test_the_message_for_a_registry_that_refuses_says_where_to_log_in(
    checkout: Checkout, monkeypatch: pytest.MonkeyPatch, registry: str, message: str
) -> None:
    answer = '[ "$2" != push ] || { echo "$@"; exit 1; }'
    fake_docker(checkout.root.parent, monkeypatch, answer)
    with pytest.raises(ImageError, match=f"(?s){message}$"):
        image.push("a/b:1", registry, print)


def test_the_command_takes_what_to_build_anew_and_reports_a_system_error(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    asked: list[tuple[bool, bool]] = []

    def made(_: str, *, rebuild_flow: bool, rebuild_base: bool) -> str:
        asked.append((rebuild_flow, rebuild_base))
        print("building")
        if rebuild_flow and rebuild_base:
            raise OSError(28, "No space left on device", "/tmp/x")
        return "an/image:1"

    monkeypatch.setattr(image_command, "image_for", made)
    assert main(["image", FLOW]) == 0
    assert main(["image", FLOW, "--rebuild-flow"]) == 0
    assert main(["image", FLOW, "--rebuild-base"]) == 0
    assert main(["image", FLOW, "--rebuild-flow", "--rebuild-base"]) == 2
    assert asked == [(False, False), (True, False), (False, True), (True, True)]
    out, err = capsys.readouterr()
    assert out == "an/image:1\n" * 3, "a script takes the name from there"
    assert err == "building\n" * 4 + "image: /tmp/x: No space left on device\n"


def test_an_index_without_its_scheme_is_refused_before_anything_is_built(
    checkout: Checkout, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake_docker(checkout.root.parent, monkeypatch, "echo 'No such image: x' >&2; exit 1")
    monkeypatch.setenv(f"{PREFIX}CONTAINER__INDEX_URL", "someone:secret@example.org/simple")
    settings.cache_clear()
    with pytest.raises(ImageError, match=r"^container\.index_url has to begin with https://[^@]*$"):
        image_for(FLOW)


def test_a_builder_that_keeps_what_it_builds_is_reported(
    checkout: Checkout, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("BUILDX_BUILDER", "elsewhere")  # is for what one builds by hand
    answer = '[ "$1,$BUILDX_BUILDER" = build, ] || { echo "No such image: x" >&2; exit 1; }'
    fake_docker(checkout.root.parent, monkeypatch, answer)
    with pytest.raises(
        ImageError, match=r"is not among the engine's images.*\nhint: docker buildx use"
    ):
        image_for("own/flow.py")


def test_large_files_are_reported(
    checkout: Checkout, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    fake_docker(checkout.root.parent, monkeypatch, "echo 'No such image: x' >&2; exit 1")
    checkout.add("all.csv", "1,2\n" * 1_000_000)
    monkeypatch.setattr(build, "_LARGE", 4e6)
    monkeypatch.setattr(image, "has_image", lambda name: "/base:" in name)
    with pytest.raises(ImageError):
        image_for("own/flow.py")
    assert re.search(
        r"\d MB of files, the largest is all\.csv; .*\.dockerignore", capsys.readouterr().out
    )


@pytest.mark.parametrize(
    ("folder", "name"),
    [
        *((".", "own/flow.py"), (".", "./own/flow.py"), (".", "own/../own/flow.py")),
        *(
            (".", "{root}/sales_pipelines/flows/own/flow.py"),
            ("sales_pipelines", "flows/own/flow.py"),
        ),
        *(("sales_pipelines/flows/own", "flow.py"), ("sales_pipelines/flows/own", "./flow.py")),
    ],
)
def test_a_flow_is_named_from_flows_or_from_the_current_folder(
    checkout: Checkout, monkeypatch: pytest.MonkeyPatch, folder: str, name: str
) -> None:
    monkeypatch.chdir(checkout.root / folder)
    assert image_command.flow_path(name.format(root=checkout.root)) == "own/flow.py"


@pytest.mark.docker
def test_the_message_for_an_engine_that_is_down_has_a_hint(
    checkout: Checkout, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DOCKER_HOST", f"unix://{checkout.root}/no.sock")
    with pytest.raises(ImageError, match=r"engine does not answer\nhint: start it.*DOCKER_HOST"):
        image_for(FLOW)


@pytest.mark.docker
def test_the_defaults_make_an_image_that_is_safe_and_small(checkout: Checkout) -> None:
    name = image_for("own/flow.py")
    base, _ = names_of()
    assert in_image(name, "id", "-u") == "1000"
    assert in_image(name, "id", "-u", options=("--user=4321:4321",)) == "4321"
    for program in ("gcc", "cc", "uv"):
        assert in_image(name, "sh", "-c", f"command -v {program} || echo none") == "none"
    assert in_image(name, "cat", "/proc/1/comm") == "dumb-init"
    script = "import sales_pipelines as s, luigi, metaflow; print(s.__version__, s.__file__)"
    version, file = in_image(name, "python", "-c", script, options=("--tmpfs=/tmp",)).split()
    assert (version, file) == (code().version, "/repo/sales_pipelines/__init__.py")
    assert version.endswith(".dirty")
    script = (
        "import json, msgspec, os; print([os.path.exists(m.__cached__) for m in (json, msgspec)])"
    )
    assert in_image(name, "python", "-c", script) == "[True, True]", "no step compiles them anew"
    text = in_image(name, "cat", "/repo/sales_pipelines/flows/own/flow.py")
    assert text == (checkout.folder / "flow.py").read_text().strip()
    sizes = [
        int(subprocess.check_output(["docker", "image", "inspect", "-f", "{{.Size}}", each]))
        for each in (base, name)
    ]
    assert sizes[0] <= 450e6
    assert sizes[1] - sizes[0] <= 5e6
    labels = json.loads(
        subprocess.check_output(
            ["docker", "image", "inspect", "-f", "{{json .Config.Labels}}", name]
        )
    )
    assert labels[image.VERSION] == version
    assert labels[image.REVISION] == checkout.git("rev-parse", "HEAD") + "-dirty"
    assert labels[image.BRANCH] == "main"
    assert str(checkout.root) not in json.dumps(labels)


@pytest.mark.docker
def test_a_signal_reaches_the_command(checkout: Checkout) -> None:
    name = image_for("own/flow.py")
    started = time.monotonic()
    container = subprocess.check_output(
        ["docker", "run", "--rm", "--detach", "--pull=never", name, "sleep", "600"], text=True
    ).strip()
    subprocess.run(["docker", "stop", container], check=True, capture_output=True)
    assert time.monotonic() - started < 9  # docker kills after 10 seconds


@pytest.mark.thorough
@pytest.mark.docker
def test_nothing_unchanged_is_built_again_and_a_rebuild_is(
    checkout: Checkout, monkeypatch: pytest.MonkeyPatch
) -> None:
    flow = checkout.small()
    built: list[tuple[str, bool]] = []
    build_image = build.build

    def note(of: build.Image, show: Callable[[str], None], *, anew: bool) -> None:
        built.append((of.name.partition(":")[0], anew))
        build_image(of, show, anew=anew)

    monkeypatch.setattr(image, "build", note)
    base, of_flow = "sales-pipelines/base", "sales-pipelines/own-flow"
    name = image_for(flow)
    assert built in ([(base, False), (of_flow, False)], [(of_flow, False)])  # of an earlier test
    assert (image_for(flow), len(built)) == (name, len(built))
    built.clear()
    assert image_for(flow) == name
    assert built == []
    assert image_for(flow, rebuild_flow=True) == name
    assert built == [(of_flow, True)]
    assert image_for(flow, rebuild_base=True) == name
    assert built[1:] == [(base, True), (of_flow, True)]
    built.clear()
    engine.docker("image", "tag", names_of(flow)[0], name)  # another has its name now
    assert image_for(flow) == name
    assert built == [(of_flow, False)]
    assert engine.has_image(name)
    checkout.add("own/flow.py", "# edited\n")
    assert image_for(flow) != name
    assert built == [(of_flow, False)] * 2


GOOD: dict[str, tuple[dict[str, str], str]] = {
    "launch": (
        {"launch.sh": '#!/bin/bash\nall=("$@")\nexport SAID="by ${all[0]}"\nexec "${all[@]}"\n'},
        'printenv SAID || echo "${SAID}"',
    ),
    "dockerfile": (
        {
            "Dockerfile": "ARG BASE=x\nFROM ${BASE:-y} AS first\nFROM first\nENV SAID=own\n"
            'ENTRYPOINT ["dumb-init", "--"]\n',
        },
        "printenv SAID",
    ),
    "base-and-dockerfile": (
        {
            "Dockerfile-base": "FROM {python}\nCOPY base/said /said\n",
            "base/said": "own base\n",
            "Dockerfile": DOCKERFILE + "USER 1000:1000\n",
        },
        "cat /said",
    ),
    "requirements": (
        {"requirements.txt": "-r more.txt\n", "more.txt": "cowsay==6.1\n"},
        "python -c 'import cowsay; print(cowsay.__version__)'",
    ),
    "launch-and-requirements": (
        {
            "launch.sh": '#!/bin/sh\nexport SAID=both\nexec "$@"\n',
            "requirements.txt": "cowsay==6.1\n",
        },
        "python -c 'import os, cowsay; print(os.environ[\"SAID\"])'",
    ),
}
SAID = {
    "launch": "by sh",
    "dockerfile": "own",
    "base-and-dockerfile": "own base",
    "requirements": "6.1",
    "launch-and-requirements": "both",
}


@pytest.mark.docker
@pytest.mark.parametrize("name", GOOD)
def test_a_flow_may_have_layers_of_its_own(checkout: Checkout, name: str) -> None:
    files, command = GOOD[name]
    for file, text in files.items():
        checkout.add(f"own/{file}", text.replace("{python}", checkout.python()), 0o755)
    made = image_for("own/flow.py")
    assert in_image(made, "sh", "-c", command) == SAID[name]


@pytest.mark.docker
def test_a_requirement_that_conflicts_with_the_repo_makes_no_image(checkout: Checkout) -> None:
    checkout.add("own/requirements.txt", "msgspec<0.1\n")
    message = (
        r"^\S+/own/requirements\.txt cannot be .*you require msgspec<0\.1 and msgspec==.*\nhint"
    )
    with pytest.raises(RequirementsError, match=message):
        image_for("own/flow.py")


def test_an_engine_that_never_answers_is_reported(
    checkout: Checkout, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake_docker(checkout.root.parent, monkeypatch, "exec sleep 60")
    monkeypatch.setattr(engine, "ANSWERS", 0.2)
    with pytest.raises(ImageError, match=r"not answered within 0\.2 seconds\nhint: `docker info`"):
        image_for(FLOW)


@pytest.mark.docker
def test_a_requirement_that_does_not_exist_is_reported_with_its_file(checkout: Checkout) -> None:
    checkout.add("own/requirements.txt", "cowsay==6.1\n-e ../no-such-folder\n")
    with pytest.raises(RequirementsError, match=r"(?s)own/requirements\.txt.* cannot be installed"):
        image_for("own/flow.py")


@pytest.mark.docker
@pytest.mark.parametrize(
    ("instruction", "message"),
    [
        (
            "RUN true && \\\n :1 && \\\n :2 && \\\n :3 && \\\n echo one && \\\n false".replace(
                ":", "true "
            ),
            r"line 3\nRUN true && \\\n true 1 && \\\n    …\n echo one && \\\n false\none\Z",
        ),
        (
            "COPY nowhere /",
            r"line 3\nCOPY nowhere /\n.*/nowhere.*not found\nhint: paths begin in the repo's root",
        ),
        (
            "RUN echo 'E: /var/lib/apt/lists/lock (13: Permission denied)'; false",
            r"Permission denied\)\nhint: the base ends as user 1000; .* below the line USER 0\Z",
        ),
        ("RUNN x", r"own/Dockerfile, line 3\nRUNN x\n.*unknown instruction: RUNN"),
    ],
)
def test_a_failed_build_is_reported_with_line_and_output(
    checkout: Checkout, instruction: str, message: str
) -> None:
    checkout.add("own/Dockerfile", f"{DOCKERFILE}{instruction}\n")
    with pytest.raises(ImageError, match=message) as error:
        image_for("own/flow.py")
    assert str(error.value).startswith("the image of own/flow.py cannot be built: sales_pipelines/")
    assert not engine.has_image(names_of()[1])


@pytest.mark.docker
@pytest.mark.parametrize(
    ("registry", "message"),
    [
        (
            "127.0.0.1:9/mirror/",
            r"(?s)the base of .*127\.0\.0\.1:9/mirror/python.*hint: set container\.registry",
        ),
        ("https://x.example.org", r"container\.registry begins it: HOST, HOST:PORT"),
    ],
)
def test_a_registry_that_does_not_answer_is_reported(
    checkout: Checkout, monkeypatch: pytest.MonkeyPatch, registry: str, message: str
) -> None:
    monkeypatch.setenv(f"{PREFIX}CONTAINER__REGISTRY", registry)
    settings.cache_clear()
    with pytest.raises(ImageError, match=message):
        image_for(FLOW)


@pytest.mark.thorough
@pytest.mark.docker
def test_a_build_gets_the_settings_and_no_layer_has_them(
    checkout: Checkout, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    certificates = checkout.root / 'our,"s.pem'
    certificates.write_text("-----BEGIN planted-certificate-----\n")
    values = {
        "INDEX_URL": "https://someone:planted-index@127.0.0.1:9/simple",
        "PROXY": "http://someone:planted-proxy'$HOME@127.0.0.1:9",
        "CERTIFICATES": certificates.name,
    }
    for name, value in values.items():
        monkeypatch.setenv(f"{PREFIX}CONTAINER__{name}", value)
    settings.cache_clear()
    mounts = "--mount=type=secret,id=network --mount=type=secret,id=certificates"
    checkout.add(".gitignore", "*.pem\n")
    checkout.add("own/Dockerfile-base", f"FROM {checkout.python()}\n")
    run = "(printenv UV_DEFAULT_INDEX HTTPS_PROXY | md5sum; md5sum <$SSL_CERT_FILE) >/said"
    checkout.add("own/Dockerfile", f"{DOCKERFILE}RUN {mounts} . /run/secrets/network; {run}\n")
    made = image_for("own/flow.py", rebuild_flow=True)  # what a secret says is not looked at
    shown = f"{values['INDEX_URL']}\n{values['PROXY']}\n"
    digests = [hash_of(text) for text in (shown, certificates.read_text())]
    assert in_image(made, "cat", "/said").split()[::2] == digests
    visible = subprocess.check_output(["docker", "image", "inspect", made], text=True)
    visible += subprocess.check_output(["docker", "history", "--no-trunc", made], text=True)
    visible += "".join(capfd.readouterr())
    assert "planted" not in visible
    saved = subprocess.check_output(["docker", "image", "save", made])
    with tarfile.open(fileobj=io.BytesIO(saved)) as archive:
        for member in archive:
            file = archive.extractfile(member)
            assert file is None or b"planted-" not in file.read(), member.name
    run = ". /run/secrets/network; printenv HTTPS_PROXY; false"
    checkout.add("own/Dockerfile", f"{DOCKERFILE}RUN {mounts} {run}\n")
    with pytest.raises(ImageError, match=r"http://\*\*\*@127") as error:
        image_for("own/flow.py")
    assert "planted" not in str(error.value) + "".join(capfd.readouterr())


def hash_of(text: str) -> str:
    return subprocess.check_output(["md5sum"], input=text, text=True).split()[0]


@pytest.mark.thorough
@pytest.mark.docker
def test_a_build_that_is_killed_leaves_no_process_and_no_image(checkout: Checkout) -> None:
    checkout.add("own/Dockerfile", f"{DOCKERFILE}RUN sleep 613\n")
    scratch = checkout.root.parent / "scratch"
    scratch.mkdir()
    build = checkout.start("own/flow.py", TMPDIR=str(scratch))
    assert build.stdout
    for line in build.stdout:
        if "RUN sleep 613" in line:
            break
    wait_until(lambda: processes("sleep 613"))
    build.kill()
    build.communicate()
    wait_until(lambda: not processes("sleep 613") and not processes("own-flow:"), within=15)
    assert not engine.has_image(names_of()[1])
    assert not [*scratch.iterdir()]
    checkout.add("own/Dockerfile", DOCKERFILE)
    assert image_for("own/flow.py")


def test_a_stopped_build_says_so(checkout: Checkout, monkeypatch: pytest.MonkeyPatch) -> None:
    build = 'case "$1" in build) sleep 614;; esac'
    fake_docker(checkout.root.parent, monkeypatch, f"{build}; echo 'No such image: x' >&2; exit 1")
    started = checkout.start(FLOW)
    wait_until(lambda: processes("sleep 614"))
    started.send_signal(signal.SIGTERM)
    output, _ = started.communicate(timeout=30)
    assert (started.returncode, output.splitlines()[-1]) == (130, "image: stopped")
    wait_until(lambda: not processes("sleep 614"), within=10)


def processes(words: str) -> list[str]:
    """The commands of this machine that have these words."""
    commands = []
    for file in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            line = file.read_bytes().replace(b"\0", b" ").decode(errors="replace")
        except OSError:
            continue
        commands += [line] if words in line else []
    return commands


@pytest.mark.docker
def test_two_at_once_build_once(checkout: Checkout) -> None:
    flow = checkout.small()
    both = [checkout.start(flow), checkout.start(flow)]
    printed = [each.communicate(timeout=120)[0] for each in both]
    assert [each.returncode for each in both] == [0, 0], printed
    assert len({text.splitlines()[-1] for text in printed}) == 1
    assert "".join(printed).count("| building sales-pipelines/own-flow:") == 1


@pytest.mark.docker
def test_an_image_has_what_its_name_is_of_though_files_are_edited_during_the_build(
    checkout: Checkout, monkeypatch: pytest.MonkeyPatch
) -> None:
    flow = checkout.small()
    checkout.add("own/flow.py", "# one\n")
    name = names_of(flow)[1]
    build_image = build.build

    def build_late(of: build.Image, show: Callable[[str], None], *, anew: bool) -> None:
        checkout.add("own/flow.py", "# another, and longer\n")
        build_image(of, show, anew=anew)

    monkeypatch.setattr(image, "build", build_late)
    assert image_for(flow) == name
    assert names_of(flow)[1] != name
    container = subprocess.check_output(["docker", "create", name, "x"], text=True).strip()
    try:
        packed = subprocess.check_output(["docker", "cp", f"{container}:/flow.py", "-"])
    finally:
        subprocess.run(["docker", "rm", container], check=True, capture_output=True)
    assert b"# one\n" in packed
    assert b"another" not in packed


class FakeEngine:
    """An engine with these images: the names of each, whether this checkout made it, its layers."""

    def __init__(self, *images: tuple[str, bool, dict[str, int]]) -> None:
        self.images = {f"sha256:{number}": image for number, image in enumerate(images)}

    def count(self) -> int:
        """The bytes of the images as `docker system df` has them: each layer once."""
        chains = {}
        for _, _, layers in self.images.values():
            below: tuple[str, ...] = ()
            for layer, size in layers.items():
                below = (*below, layer)
                chains[below] = size
        return sum(chains.values())

    def docker(self, *words: str) -> subprocess.CompletedProcess[str]:
        """What the docker command prints, of those that are used."""
        printed = ""
        if words[:2] == ("image", "ls"):
            is_filtered = any("label=" in word for word in words)
            ids = (each for each, image in self.images.items() if image[1] or not is_filtered)
            printed = "\n".join(ids)
        elif words[:2] == ("image", "inspect"):
            printed = json.dumps([self.inspected(each) for each in words[2:]])
        elif words[0] == "history":
            lines = [{"CreatedBy": "LABEL a=b", "Size": "0"}]
            for layer, size in reversed(self.images[words[-1]][2].items()):
                lines.append({"CreatedBy": f"RUN {layer}", "Size": str(size)})
            printed = "\n".join(map(json.dumps, lines))
        elif words[:2] == ("image", "rm"):
            for each in [each for each, image in self.images.items() if image[0] == words[2]]:
                del self.images[each]
        return subprocess.CompletedProcess(words, 0, printed, "")

    def inspected(self, each: str) -> dict[str, object]:
        """An image as `docker image inspect` shows it."""
        name, _, layers = self.images[each]
        return {
            **{"Id": each, "RepoTags": [name], "Created": "2026-01-01T00:00:00Z"},
            **{"Config": {"Labels": {engine.IMAGE: name}}, "Size": sum(layers.values())},
            "RootFS": {"Layers": [*layers]},
        }


BASE = {"python": 148_000_000, "venv": 139_000_000}


@pytest.mark.parametrize(
    ("images", "kept", "deleted"),
    [
        pytest.param(
            [("base:1", True, BASE), ("a:1", True, {**BASE, "a": 300_000})],
            {"a:1"},
            set[str](),
            id="a base that a kept image stands on",
        ),
        pytest.param(
            [
                ("a:1", True, {**BASE, "own": 90_000_000, "a": 300_000}),
                ("a:2", True, {**BASE, "own": 90_000_000, "a2": 0}),
                ("b:1", True, {**BASE, "b": 200_000}),
            ],
            {"b:1"},
            {"a:1", "a:2"},
            id="two that share more than their base, which has no name any more",
        ),
        pytest.param(
            [
                ("base:1", True, BASE),
                ("a:1", True, {**BASE, "a": 300_000}),
                ("base:2", True, {"python": 148_000_000, "venv2": 150_000_000}),
                ("another/base:1", False, {"python": 148_000_000, "other": 5}),
            ],
            set[str](),
            {"base:1", "a:1", "base:2"},
            id="one of another checkout, on the same Python",
        ),
        pytest.param(
            [("a:1", True, {"x": 5, "y": 7}), ("b:1", True, {"y": 7, "x": 5})],
            set[str](),
            {"a:1", "b:1"},
            id="the same layers in another order",
        ),
    ],
)
def test_images_count_and_free_what_docker_s_own_count_moves_by(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    images: list[tuple[str, bool, dict[str, int]]],
    kept: set[str],
    deleted: set[str],
) -> None:
    monkeypatch.setattr(paths, "ROOT", tmp_path)
    fake = FakeEngine(*images)
    monkeypatch.setattr(engine, "docker", fake.docker)
    before = fake.count()
    if all(image[1] for image in images):
        shown = f"{counted(len(images), 'image')}, {in_units(before)}; "
        assert status.images().startswith(shown)
    items = clean.unused_images(kept, time.time(), [])
    assert {item.name for item in items} == deleted
    assert clean.delete(items, items) == 0
    freed = before - fake.count()
    assert sum(item.bytes for item in items) == freed
    assert f"Freed {in_units(freed)}." in capsys.readouterr().out
    assert {name for name, *_ in fake.images.values()} == {name for name, *_ in images} - deleted


@pytest.mark.thorough
@pytest.mark.docker
def test_clean_takes_this_checkouts_old_images_but_those_that_a_marker_names(
    checkout: Checkout, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    flow = checkout.small()
    old = image_for(flow)
    checkout.add("own/flow.py", "# the next\n")
    named = image_for(flow)
    base = names_of(flow)[0]
    monkeypatch.setattr(image, "checkout", lambda: "another")
    checkout.add("own/flow.py", "# another's\n")
    others = image_for(flow)
    monkeypatch.undo()
    monkeypatch.setattr(paths, "ROOT", checkout.root)
    kept = "kept.example.org/by/hand:1"
    engine.docker("image", "tag", named, kept)
    try:
        images = {each.name: each for each in engine.images()}
        assert {old, named} <= set(images)
        size = in_units(engine.size(images.values()))
        assert status.images() == (
            f"{len(images)} images, {size}; to delete old ones: nox -s clean"
        )
        assert not {others, kept} & set(images)
        for each in (old, named):  # in Docker's own figures
            whole = engine.docker("image", "inspect", "-f", "{{.Size}}", each).stdout
            assert engine.size([images[each]]) == int(whole)
            assert len(images[each].layers) > 1
        assert engine.remove("no/such:image") == ""  # as where somebody was faster
        root = checkout.root / ".metaflow"
        marker = root / "luigi" / "dev" / "own" / "flow.py" / "x.json"
        marker.parent.mkdir(parents=True)
        marker.write_text(json.dumps({"flow": "F", "run_id": "1", "image": named}))
        soon = time.time() + 60
        plan = clean.plan_for(str(root), root, time.time() - 3600)
        assert clean.IMAGE not in {item.kind for item in plan.items}
        plan = clean.plan_for(str(root), root, soon)
        chosen = {item.name: item.bytes for item in plan.items if item.kind == clean.IMAGE}
        assert old in chosen
        assert base not in chosen, "the base on which the named one stands"
        assert 0 < chosen[old] < 10_000_000, "its own layers, and not the base's"
        assert not chosen.keys() & {named, others}
        used = engine.use_record(old)
        os.utime(used, (soon, soon))
        plan_then = clean.plan_for(str(root), root, soon)
        assert old not in {item.name for item in plan_then.items}
        os.utime(used)
        items = [item for item in plan.items if "/base:" not in item.name]
        meanwhile = marker.with_name("y.json")
        meanwhile.write_text(json.dumps({"flow": "F", "run_id": "2", "image": old}))
        assert clean.delete(items, clean.plan_for(str(root), root, soon).items) == 0
        assert f"left alone: {old}" in capfd.readouterr().out
        meanwhile.unlink()
        container = subprocess.check_output(["docker", "create", old, "x"], text=True).strip()
        assert clean.delete(items, items) == 0
        assert f"left alone: {old}" in capfd.readouterr().out
        subprocess.run(["docker", "rm", container], check=True, capture_output=True)
        assert clean.delete(items, items) == 0
        assert [engine.has_image(each) for each in (old, named, others)] == [False, True, True]
    finally:
        for each in (named, others, kept):
            engine.remove(each)


@pytest.mark.thorough
@pytest.mark.docker
def test_clean_takes_what_a_task_made_and_never_started(checkout: Checkout) -> None:
    label = f"--label={engine.CHECKOUT}={engine.checkout()}"
    python = checkout.python()
    made = image_for(checkout.small())

    def docker(*arguments: str) -> str:
        return subprocess.check_output(["docker", *arguments], text=True).strip()

    never = docker("create", "--rm", made, "x")
    running = docker("run", "--detach", "--rm", label, python, "sleep", "100")
    by_hand = docker("create", label, python)
    another = docker("create", "--rm", f"--label={engine.CHECKOUT}=x", python)
    try:
        root = checkout.root / ".metaflow"
        before = time.time() - 1e6  # however little is old
        assert not clean.plan_for(str(root), root, before).items  # it may be about to start
        plan = clean.plan_for(str(root), root, time.time() + 60)
        containers = [item for item in plan.items if item.kind == clean.CONTAINER]
        name = docker("inspect", "--format={{.Name}}", never).lstrip("/")
        assert [item.name for item in containers] == [name]
        both = [clean.Item(clean.IMAGE, made, (), 1, before), *containers]
        assert clean.delete(both, both) == 0
        assert not engine.has_image(made)
        assert engine.remove_container(name) == ""  # as where somebody was faster
        assert "running" in engine.remove_container(running)
        left = docker("ps", "--all", "--quiet", "--no-trunc").split()
        assert never not in left
        assert {running, by_hand, another} <= set(left)
    finally:
        engine.docker("rm", "--force", never, running, by_hand, another)


class Registry(BaseHTTPRequestHandler):
    """What of a registry a push needs."""

    protocol_version = "HTTP/1.1"
    manifests: dict[str, bytes]
    blobs: dict[str, bytes]

    def answer(self, code: int, **headers: str) -> None:
        self.send_response(code)
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def body(self) -> bytes:
        if self.headers.get("Transfer-Encoding") != "chunked":
            return self.rfile.read(int(self.headers.get("Content-Length", 0)))
        read = b""
        while size := int(self.rfile.readline(), 16):
            read += self.rfile.read(size)
            self.rfile.readline()
        self.rfile.readline()
        return read

    def do_GET(self) -> None:
        self.answer(200 if self.path == "/v2/" else 404)

    def do_HEAD(self) -> None:
        self.answer(200 if self.path.rpartition("/")[2] in self.blobs else 404)

    def do_POST(self) -> None:
        self.body()
        self.answer(202, Location=f"{self.path.rstrip('/')}/1-{time.monotonic_ns()}")

    def do_PATCH(self) -> None:
        path = self.path.partition("?")[0]
        self.blobs[path] = self.body()
        self.answer(202, Location=path, Range=f"0-{max(len(self.blobs[path]) - 1, 0)}")

    def do_PUT(self) -> None:
        contents = self.body()
        if "/manifests/" in self.path:
            self.manifests[self.path] = contents
        else:
            path, _, digest = self.path.partition("?digest=")
            digest = digest.replace("%3A", ":")
            self.blobs[digest] = self.blobs.pop(path, b"") + contents
        self.answer(201, Docker_Content_Digest="sha256:" + "0" * 64)

    def log_message(self, format: str, *args: object) -> None:
        """Say nothing."""


@pytest.fixture
def registry() -> Iterator[tuple[str, type[Registry]]]:
    """The address of a registry on loopback, and what it has got."""
    Registry.manifests, Registry.blobs = {}, {}
    with ThreadingHTTPServer(("127.0.0.1", 0), Registry) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"127.0.0.1:{server.server_port}", Registry
        server.shutdown()


@pytest.mark.docker
def test_an_image_is_pushed_with_version_branch_and_commit(
    checkout: Checkout,
    registry: tuple[str, type[Registry]],
    capsys: pytest.CaptureFixture[str],
) -> None:
    address, got = registry
    flow = checkout.small()
    assert main(["image", flow, "--push", f"{address}/team"]) == 0
    name = image_for(flow)
    out, err = capsys.readouterr()
    assert out == f"{address}/team/{name}\n"
    assert re.search(r"(?m)^\w+: Pushed$", err), "it says how far it is"
    repository, _, tag = name.partition(":")
    manifest = json.loads(got.manifests[f"/v2/team/{repository}/manifests/{tag}"])
    labels = json.loads(got.blobs[manifest["config"]["digest"]])["config"]["Labels"]
    now = code()
    assert [labels[each] for each in (image.VERSION, image.REVISION, image.BRANCH)] == [
        *(now.version, now.commit, "main")
    ]
    assert engine.has_image(name)
    assert engine.docker("image", "inspect", f"{address}/team/{name}").returncode
    assert main(["image", flow, "--push", "127.0.0.1:9"]) == 2
    assert "docker login 127.0.0.1:9" in capsys.readouterr().err
    for each in ("Not A Registry", ""):
        assert main(["image", flow, "--push", each]) == 2
        assert "is no name of an image" in capsys.readouterr().err
