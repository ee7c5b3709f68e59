"""`python3 noxfile.py` on a bare machine, where things are missing, and behind an index."""

from __future__ import annotations

import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from .conftest import ROOT, clean_environment, copy_working_tree


class Index(ThreadingHTTPServer):
    """A package index that has no packages and remembers what it was asked for."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), IndexHandler)
        self.asked: list[str] = []

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}/simple"


class IndexHandler(BaseHTTPRequestHandler):
    server: Index

    def do_GET(self) -> None:
        self.server.asked.append(self.path)
        self.send_error(404)

    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.fixture
def index() -> Iterator[Index]:
    with Index() as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield server
        server.shutdown()
        thread.join()


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    return copy_working_tree(tmp_path / "checkout")


def bare(checkout: Path, *arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
    """Run the noxfile as on a machine that has nothing but this Python."""
    home = checkout.parent / "home"
    home.mkdir(exist_ok=True)
    return subprocess.run(
        [sys.executable, "noxfile.py", *arguments],
        cwd=checkout,
        env=clean_environment(home, **variables),
        capture_output=True,
        text=True,
        check=False,
    )


def with_hidden(checkout: Path, statement: str) -> dict[str, str]:
    """Variables by which every Python runs the statement as it starts."""
    (checkout.parent / "site").mkdir()
    (checkout.parent / "site" / "sitecustomize.py").write_text(statement)
    return {"PYTHONPATH": str(checkout.parent / "site")}


def refused(done: subprocess.CompletedProcess[str]) -> str:
    """What a refusal says: one line, and exit code 2."""
    assert done.returncode == 2, done.stderr
    assert "Traceback" not in done.stderr
    return done.stderr.splitlines()[-1]


@pytest.mark.parametrize("module", ["ensurepip", "venv"])
def test_a_python_without_venv_is_told_how_to_get_it(checkout: Path, module: str) -> None:
    hidden = with_hidden(checkout, f"import sys\nsys.modules[{module!r}] = None\n")
    done = bare(checkout, "-l", **hidden)
    assert "comes without venv; install it, e.g. apt install python3-venv" in refused(done)
    assert len(done.stderr.splitlines()) == 1
    assert not (checkout / ".nox").exists()


def test_an_old_python_is_told_which_is_needed(checkout: Path) -> None:
    hidden = with_hidden(checkout, "import sys\nsys.version_info = (3, 9, 18, 'final', 0)\n")
    assert "Python 3.10 or newer is needed; this is" in refused(bare(checkout, "-l", **hidden))


def test_a_machine_without_git_is_told_so(checkout: Path) -> None:
    empty = checkout.parent / "empty"
    empty.mkdir()
    done = bare(checkout, "-l", PATH=str(empty))
    assert "git is needed and is not on PATH" in refused(done)


@pytest.mark.end_to_end
def test_pip_s_own_settings_say_which_index_is_asked(checkout: Path, index: Index) -> None:
    settings = checkout.parent / "pip.conf"
    settings.write_text(f"[global]\nindex-url = {index.url}\n")
    done = bare(checkout, "-l", PIP_CONFIG_FILE=str(settings), PIP_RETRIES="0")
    assert "nox and uv could not be installed; pip takes its index" in refused(done)
    assert "/simple/nox/" in index.asked
    again = bare(checkout, "-l", PIP_CONFIG_FILE=str(settings), PIP_RETRIES="0")
    assert again.returncode == 2, "half an environment is not taken for a whole one"


@pytest.fixture(scope="module")
def python_with_pip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Python like that of the bootstrap's own environment; the tests' has no pip."""
    folder = tmp_path_factory.mktemp("with-pip")
    subprocess.run([sys.executable, "-m", "venv", folder], check=True)
    return folder / "bin" / "python"


def settings_for_uv(python: Path, checkout: Path, **variables: str) -> dict[str, str]:
    """What the bootstrap would hand to uv."""
    code = "import bootstrap, sys; print(bootstrap.uv_settings(sys.executable))"
    printed = subprocess.check_output(
        [python, "-c", code],
        cwd=checkout,
        env=clean_environment(checkout.parent, **variables),
        text=True,
    )
    found: dict[str, str] = eval(printed)
    return found


@pytest.mark.end_to_end
def test_uv_is_given_what_pip_is_configured_with(checkout: Path, python_with_pip: Path) -> None:
    settings = checkout.parent / "pip.conf"
    settings.write_text(
        "[global]\nindex-url = https://pip.example.org/simple\nproxy = http://proxy.example.org\n"
        "cert = /etc/ours.pem\nextra-index-url = https://extra.example.org/simple\n"
        "[install]\ntrusted-host =\n    pip.example.org\n    other.example.org\n"
    )
    unset = {"PIP_CERT": "", "SSL_CERT_FILE": ""}
    found = settings_for_uv(python_with_pip, checkout, PIP_CONFIG_FILE=str(settings), **unset)
    assert found == {
        "UV_DEFAULT_INDEX": "https://pip.example.org/simple",
        "ALL_PROXY": "http://proxy.example.org",
        "SSL_CERT_FILE": "/etc/ours.pem",
        "UV_INSECURE_HOST": "pip.example.org other.example.org",
    }
    by_variable = {"PIP_INDEX_URL": "https://variable.example.org/simple"}
    found = settings_for_uv(python_with_pip, checkout, PIP_CONFIG_FILE=str(settings), **by_variable)
    assert found["UV_DEFAULT_INDEX"] == "https://variable.example.org/simple"


@pytest.mark.end_to_end
@pytest.mark.parametrize("name", ["UV_DEFAULT_INDEX", "UV_INDEX", "UV_INDEX_URL", "uv.toml"])
def test_uv_s_own_index_is_left_alone(checkout: Path, python_with_pip: Path, name: str) -> None:
    variables = {
        "PIP_INDEX_URL": "https://pip.example.org/simple",
        "PIP_PROXY": "http://proxy.example.org",
        "XDG_CONFIG_HOME": str(checkout.parent),
    }
    if name == "uv.toml":
        (checkout.parent / "uv").mkdir()
        (checkout.parent / "uv" / "uv.toml").touch()
    else:
        variables[name] = "https://uv.example.org/simple"
    found = settings_for_uv(python_with_pip, checkout, **variables)
    assert "UV_DEFAULT_INDEX" not in found
    assert found["ALL_PROXY"] == "http://proxy.example.org"


@pytest.mark.end_to_end
def test_a_bare_machine_gets_its_tools_once(checkout: Path) -> None:
    first = bare(checkout, "-l")
    assert first.returncode == 0, first.stderr
    assert "Making .nox/bootstrap-" in first.stderr
    assert "* test ->" in first.stdout
    second = bare(checkout, "-l")
    assert second.returncode == 0
    assert "Making" not in second.stderr
    assert second.stdout == first.stdout


def test_generated_repos_bring_the_same_bootstrap() -> None:
    source = ROOT / "templates" / "{{ pipeline }}" / "bootstrap.py.jinja"
    assert source.read_text() == '{% include "bootstrap.py" -%}\n'
