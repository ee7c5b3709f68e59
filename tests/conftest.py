"""A template to copy from: this working tree, what is not committed included, as a tagged repo."""

from __future__ import annotations

import ast
import contextlib
import fcntl
import functools
import io
import json
import os
import pty
import re
import shutil
import signal
import subprocess
import sys
import termios
import threading
import time
import tomllib
import warnings
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from types import CodeType
from typing import Any

import copier
import jinja2
import pytest
import yaml
from copier.__main__ import CopierApp  # type: ignore[attr-defined]
from copier.errors import CopierWarning
from hypothesis import settings
from xdist.scheduler import LoadScopeScheduling

from cookiecutter_json import questions_of

ROOT = Path(__file__).resolve().parent.parent
FIRST, SECOND = "2026.11.0", "2026.11.1"
HERE = f"{sys.version_info[0]}.{sys.version_info[1]}"

Generate = Callable[..., Path]

# git sets these for a hook or `git rebase --exec`. In a test they would choose this repo for every
# git command, wherever it runs.
for variable in subprocess.check_output(
    ["git", "rev-parse", "--local-env-vars"], text=True
).split():
    if not variable.startswith("GIT_CONFIG_"):  # settings
        os.environ.pop(variable, None)


def folder_for_repos() -> Path:
    """Where tests make repos: not below /tmp, which each container has of its own."""
    folder = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache").resolve()
    # Root's home is closed to the other user that a test in a container becomes.
    if folder.is_relative_to(Path("/tmp").resolve()) or os.geteuid() == 0:
        folder = Path("/var/tmp")
    folder /= "headwater-tests"
    folder.mkdir(parents=True, exist_ok=True)
    return folder


os.environ.setdefault("PYTEST_DEBUG_TEMPROOT", str(folder_for_repos()))  # pytest's own variable

CONFIGURATION: dict[str, Any] = yaml.safe_load((ROOT / "copier.yml").read_text())
QUESTIONS = questions_of(CONFIGURATION)


# Copier compiles each part of each path again: most of a copy's time. Here each text is compiled
# once. The key is all that decides what it becomes.
COMPILED: dict[tuple[object, ...], str | CodeType] = {}
compile_template = jinja2.Environment.compile


def compile_once(self: jinja2.Environment, source: Any, *names: Any, **more: Any) -> Any:
    key = (type(self), self.lexer, *self.extensions, source, *names, *more.items())
    if key not in COMPILED:
        COMPILED[key] = compile_template(self, source, *names, **more)
    return COMPILED[key]


jinja2.Environment.compile = compile_once  # type: ignore[method-assign]

# What a shell runs in the background ignores Ctrl-C and Ctrl-\, and under nohup the end of the
# terminal; so would the commands that tests start.
signal.signal(signal.SIGINT, signal.default_int_handler)
for number in (signal.SIGQUIT, signal.SIGHUP):
    signal.signal(number, signal.SIG_DFL)


# Each time the same sets; `nox -s nightly` looks further, at other sets each time.
settings.register_profile("default", max_examples=30, derandomize=True, deadline=None)
settings.register_profile("thorough", max_examples=100, derandomize=True, deadline=None)
settings.register_profile("nightly", max_examples=1000, deadline=None, print_blob=True)
settings.load_profile("default")


# The folders of tests in the order in which they begin: what takes longest comes first.
FOLDERS = ("end_to_end", "in_repo", "quick", "in_place")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begin with the tests that take longest, and ask for Docker before what starts containers."""
    for item in items:
        if isinstance(item, pytest.Function) and item.get_closest_marker("docker"):
            item.fixturenames.insert(0, "needs_docker")
    items.sort(key=lambda item: FOLDERS.index(item.path.parent.name))


class Scheduling(LoadScopeScheduling):
    """Gives a worker one test at a time; of end_to_end/ a file, whose tests share a repo."""

    def _split_scope(self, nodeid: str) -> str:
        file = nodeid.partition("::")[0]
        return file if file.startswith("tests/end_to_end/") else nodeid


def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Scheduling:
    return Scheduling(config, log)


def first_by_day(*cases: Any) -> list[Any]:
    """The first case for any run of a test, and the others for those of `thorough`."""
    first, *others = cases
    rest = [each if isinstance(each, tuple) else (each,) for each in others]
    return [first, *(pytest.param(*each, marks=pytest.mark.thorough) for each in rest)]


def git(folder: Path, *arguments: str) -> str:
    """Run git in the folder and return what it prints."""
    command = ["git", "-C", str(folder), "-c", "user.name=Tester", "-c", "user.email=t@example.org"]
    return subprocess.run(
        [*command, *arguments], check=True, capture_output=True, text=True
    ).stdout.strip()


def commit(folder: Path, message: str, tag: str | None = None) -> None:
    """Commit everything in the folder, and tag it."""
    git(folder, "add", "--all")
    git(folder, "commit", "--quiet", "--message", message)
    if tag:
        git(folder, "tag", tag)


def copy_working_tree(folder: Path) -> Path:
    """Copy what git tracks here, or would track, into the folder."""
    listed = git(ROOT, "ls-files", "--cached", "--others", "--exclude-standard", "-z")
    for name in filter(None, listed.split("\0")):
        if (ROOT / name).is_file():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, folder / name)
    return folder


def make_template(folder: Path) -> Path:
    """The working tree as a git repo with one commit, tagged FIRST."""
    copy_working_tree(folder)
    git(folder, "init", "--quiet", "--initial-branch=main")
    commit(folder, "The template", tag=FIRST)
    return folder


@pytest.fixture(scope="session")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The template as a tagged git repo; shared, so never changed by a test."""
    return make_template(tmp_path_factory.mktemp("template"))


def known(answers: dict[str, Any]) -> dict[str, Any]:
    """The answers, which must be to questions that there are: Copier passes over others."""
    unknown = set(answers) - set(QUESTIONS)
    assert not unknown, f"no question: {unknown}"
    return answers


def copy(template: Path, destination: Path, **answers: Any) -> Path:
    """Copy the template with these answers."""
    data = known(answers)
    copier.run_copy(
        str(template), destination, data=data, defaults=True, quiet=True, overwrite=True
    )
    return destination


def copier_prints(folder: Path, *arguments: object) -> str:
    """What Copier's command prints in the folder; it must succeed, and warn of nothing.

    It runs in this process, which has compiled the templates.
    """
    printed = io.StringIO()
    with (
        contextlib.chdir(folder),
        contextlib.redirect_stdout(printed),
        contextlib.redirect_stderr(printed),
        warnings.catch_warnings(action="error", category=CopierWarning),
    ):
        _, exit_code = CopierApp.run(["copier", *map(str, arguments)], exit=False)
    assert exit_code == 0, printed.getvalue()
    return printed.getvalue()


@pytest.fixture(scope="session")
def plain_template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The template as a folder without git, from which copying is quicker."""
    return copy_working_tree(tmp_path_factory.mktemp("plain"))


@pytest.fixture(scope="session")
def rendered_only(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The template without the files that no answer can change, from which copying is quicker."""
    template = copy_working_tree(tmp_path_factory.mktemp("rendered"))
    for path in (template / "templates").rglob("*"):
        if path.is_file() and path.suffix != ".jinja":
            path.unlink()
    return template


@pytest.fixture(scope="session")
def questions_only(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The template with no file but that of the answers: the quickest way to ask the questions."""
    template = copy_working_tree(tmp_path_factory.mktemp("questions"))
    for folder in filter(Path.is_dir, (template / "templates").iterdir()):
        shutil.rmtree(folder)
    return template


@pytest.fixture
def generate(plain_template: Path, tmp_path: Path) -> Generate:
    """A function that copies the template with the given answers, and returns the repo's folder."""

    def generate(folder: str = "sales-pipelines", **answers: Any) -> Path:
        return copy(plain_template, tmp_path / folder, **answers)

    return generate


@pytest.fixture
def repo(plain_template: Path, tmp_path: Path) -> Path:
    """A generated repo with one commit, on main; some modules have another."""
    folder = copy(plain_template, tmp_path / "sales-pipelines")
    git(folder, "init", "--quiet", "--initial-branch=main")
    commit(folder, "The repo")
    return folder


def parses(repo: Path) -> None:
    """Fail unless every Python, YAML, TOML and JSON file of the repo can be read as such."""
    readers: dict[str, Callable[[str], object]] = {
        ".py": ast.parse,
        ".yml": yaml.safe_load,
        ".yaml": yaml.safe_load,
        ".toml": tomllib.loads,
        ".json": json.loads,
    }
    for path in repo.rglob("*"):
        if path.suffix in readers and path.is_file():
            try:
                readers[path.suffix](path.read_text(encoding="utf-8"))
            except (SyntaxError, ValueError, yaml.YAMLError) as error:
                raise AssertionError(f"{path}: {error}") from error


def project_of(repo: Path) -> dict[str, Any]:
    """The [project] table of the repo's pyproject.toml."""
    text = (repo / "pyproject.toml").read_text(encoding="utf-8")
    table: dict[str, Any] = tomllib.loads(text)["project"]
    return table


def answers_of(repo: Path) -> dict[str, Any]:
    """What the repo's answers file records."""
    return dict(yaml.safe_load((repo / ".copier-answers.yml").read_text(encoding="utf-8")))


# What tells tools how to behave.
TELLING = (
    *(
        "CI",
        "COOKIECUTTER",
        "GIT_",
        "LUIGI",
        "METAFLOW",
        "NOX",
        "PYTHON",
        "UV_",
        "VIRTUAL_ENV",
        "XDG_",
    ),
)


def wait_until(holds: Callable[[], object], within: float = 60) -> None:
    """Wait until it holds, for at most so many seconds."""
    deadline = time.monotonic() + within
    while not holds():
        assert time.monotonic() < deadline, "it never came to hold"
        time.sleep(0.02)


def clean_environment(home: Path, **more: str) -> dict[str, str]:
    """This environment without what tells tools how to behave, and with an empty home."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(TELLING)}
    return {**kept, "HOME": str(home), "UV_CACHE_DIR": uv_cache(), **more}


def uv_cache() -> str:
    """uv's cache as it is here: what has been downloaded once serves every test."""
    return os.environ.get("UV_CACHE_DIR") or str(Path.home() / ".cache" / "uv")


def output(
    command: Iterable[object],
    folder: Path,
    home: Path,
    exit_code: int = 0,
    typed: str = "",
    **variables: str,
) -> str:
    """Run a command in the folder, which must exit so, and return all that it prints."""
    done = subprocess.run(
        list(map(str, command)),
        cwd=folder,
        env=clean_environment(home, **variables),
        input=typed,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    assert done.returncode == exit_code, done.stdout
    return done.stdout


def noxfile(
    folder: Path,
    home: Path,
    *arguments: str,
    python: str = sys.executable,
    exit_code: int = 0,
    **variables: str,
) -> str:
    """Run the folder's noxfile.py, which must exit so, and return what it prints."""
    return output([python, "noxfile.py", *arguments], folder, home, exit_code, **variables)


def take_terminal() -> None:
    """Let Ctrl-C on the standard input, a terminal, stop this process."""
    fcntl.ioctl(0, termios.TIOCSCTTY, 0)


class Terminal:
    """A command on a terminal of its own, as if somebody watched it.

    `text` is what it has printed so far without the codes that colour and move: what it draws
    again is there again.
    """

    def __init__(
        self,
        command: Iterable[object],
        folder: Path,
        environment: dict[str, str],
        size: tuple[int, int] = (40, 120),
    ) -> None:
        self._end, theirs = pty.openpty()
        termios.tcsetwinsize(theirs, size)
        self._printed = b""
        self._process = subprocess.Popen(
            list(map(str, command)),
            cwd=folder,
            env={"TERM": "xterm", **environment},
            stdin=theirs,
            stdout=theirs,
            stderr=theirs,
            start_new_session=True,
            preexec_fn=take_terminal,
        )
        os.close(theirs)
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        with contextlib.suppress(OSError):  # the last process that had it is gone
            while part := os.read(self._end, 65536):
                self._printed += part
        os.close(self._end)

    @property
    def printed(self) -> str:
        return self._printed.decode(errors="replace")

    @property
    def text(self) -> str:
        text = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", self.printed)
        return re.sub(r"\r*\n\r*|\r+", "\n", text)

    def resize(self, lines: int, columns: int) -> None:
        termios.tcsetwinsize(self._end, (lines, columns))

    def type(self, keys: str) -> None:
        os.write(self._end, keys.encode())

    def exit_code(self) -> int:
        """Wait for its end."""
        exit_code = self._process.wait(120)
        self._reader.join(10)
        return exit_code

    def shows_cursor(self) -> bool:
        return self.printed.rfind("\x1b[?25h") >= self.printed.rfind("\x1b[?25l")


def unshare(*arguments: str) -> list[str]:
    """The command that makes such a namespace; skips the test where that is not allowed."""
    command = ["unshare", *arguments]
    if not shutil.which("unshare"):
        pytest.skip("no unshare on this machine, which gives a process another view of it")
    tried = subprocess.run([*command, "true"], capture_output=True, text=True, check=False)
    if tried.returncode:
        pytest.skip(f"namespaces are not allowed here: {tried.stderr.strip()}")
    return command


@dataclass
class Repo:
    """A generated repo that has been set up."""

    folder: Path
    home: Path
    python: str

    def nox(self, *arguments: str, exit_code: int = 0, **variables: str) -> str:
        """Run the noxfile with the repo's Python and return what it prints."""
        name, made = bootstrapped(self.python)
        link = self.folder / ".nox" / name
        link.parent.mkdir(exist_ok=True)
        if made and not link.exists():
            link.symlink_to(made)
        return noxfile(
            self.folder, self.home, *arguments, python=self.python, exit_code=exit_code, **variables
        )


@functools.cache
def bootstrapped(python: str) -> tuple[str, Path | None]:
    """The name of the environment that bootstrap.py makes for this Python, and one to take.

    Making one takes ten seconds. That of this checkout serves the repos of the same Python.
    """
    code = "import bootstrap; print(bootstrap.ENVIRONMENT.name)"
    name = subprocess.check_output([python, "-c", code], cwd=ROOT, text=True).strip()
    version = name.rpartition("-")[0]
    made = sorted((ROOT / ".nox").glob(f"{version}-*/made"), key=lambda file: file.stat().st_mtime)
    return name, made[-1].parent if made else None


SetUp = Callable[..., Repo]


@functools.cache
def pythons() -> dict[str, str]:
    """The Pythons of this machine that the template supports, by version; the one at hand too."""
    pyenv = Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv"), "versions")
    found = {HERE: sys.executable}
    for version in QUESTIONS["python_version"]["choices"]:
        installed = sorted(pyenv.glob(f"{version}.*/bin/python"))
        candidates = [shutil.which(f"python{version}"), *map(str, reversed(installed))]
        for python in filter(None, candidates):
            asked = subprocess.run([python, "-c", ""], capture_output=True, check=False)
            if asked.returncode == 0:
                found.setdefault(version, python)
    return found


@pytest.fixture(scope="module")
def set_up(template: Path, tmp_path_factory: pytest.TempPathFactory) -> SetUp:
    """A function that makes a repo and runs its `setup`."""

    def set_up(name: str, python: str = sys.executable, **answers: object) -> Repo:
        root = tmp_path_factory.mktemp("repo")
        repo = Repo(root / name, root / "home", python)
        repo.home.mkdir()
        copy(template, repo.folder, **answers)
        repo.nox("-s", "setup")
        return repo

    return set_up


@pytest.fixture(scope="session")
def needs_docker() -> None:
    """Skips a test where no Docker engine answers; fails it where REQUIRE_DOCKER=1 asks for one."""
    why = "there is no docker command"
    if shutil.which("docker"):
        asked = subprocess.run(["docker", "info"], capture_output=True, text=True, check=False)
        if asked.returncode == 0:
            return
        why = f"no Docker engine answers: {asked.stderr.strip()}"
    if os.environ.get("REQUIRE_DOCKER") == "1":
        pytest.fail(f"REQUIRE_DOCKER=1, and {why}")
    pytest.skip(why)


@contextlib.contextmanager
def s3_server(log: Path) -> Iterator[str]:
    """The address of an S3 with nothing in it, moto's server on a free port of loopback."""
    command = [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", "0"]
    with log.open("w") as said:
        server = subprocess.Popen(command, stdout=said, stderr=subprocess.STDOUT)
    try:
        deadline = time.monotonic() + 60
        while not (found := re.search(r"Running on (http://\S+)", log.read_text())):
            assert server.poll() is None, log.read_text()
            assert time.monotonic() < deadline, "moto's server does not say its port"
            time.sleep(0.05)
        yield found[1]
    finally:
        server.terminate()
        server.wait()
