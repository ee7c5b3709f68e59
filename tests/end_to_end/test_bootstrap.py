"""`python3 noxfile.py` on a bare machine, on one that lacks something, and behind an index."""

from __future__ import annotations

import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from ..conftest import ROOT, clean_environment, copy_working_tree


class Index(ThreadingHTTPServer):
    """A package index that has no packages and records the paths that are requested."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), IndexHandler)
        self.requested: list[str] = []

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}/simple"


class IndexHandler(BaseHTTPRequestHandler):
    server: Index

    def do_GET(self) -> None:
        self.server.requested.append(self.path)
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
    """Run the noxfile as on a machine that has only this Python."""
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


def at_start(checkout: Path, statement: str) -> dict[str, str]:
    """Variables that make every Python run the statement at its start."""
    (checkout.parent / "site").mkdir()
    (checkout.parent / "site" / "sitecustomize.py").write_text(statement)
    return {"PYTHONPATH": str(checkout.parent / "site")}


def failure(process: subprocess.CompletedProcess[str]) -> str:
    """The last lines of a failure with exit code 2: what is wrong, and a hint."""
    assert process.returncode == 2, process.stderr
    assert "Traceback" not in process.stderr
    return "\n".join(process.stderr.splitlines()[-2:])


@pytest.mark.parametrize("module", ["ensurepip", "venv"])
def test_a_python_without_venv_fails_with_a_hint(checkout: Path, module: str) -> None:
    variables = at_start(checkout, f"import sys\nsys.modules[{module!r}] = None\n")
    process = bare(checkout, "-l", **variables)
    assert failure(process) == (
        f"noxfile.py: {sys.executable} has no venv module\n"
        "hint: apt install python3-venv, or use another Python"
    )
    assert len(process.stderr.splitlines()) == 2
    assert not (checkout / ".nox").exists()


def test_an_old_python_fails_and_names_the_version_that_is_needed(checkout: Path) -> None:
    variables = at_start(checkout, "import sys\nsys.version_info = (3, 10, 18, 'final', 0)\n")
    assert "Python 3.11 or newer is needed, not 3.10.18" in failure(
        bare(checkout, "-l", **variables)
    )


def test_a_machine_without_git_fails_with_a_hint(checkout: Path) -> None:
    empty = checkout.parent / "empty"
    empty.mkdir()
    process = bare(checkout, "-l", PATH=str(empty))
    assert "noxfile.py: git is not on PATH\nhint: apt install git" in failure(process)


@pytest.mark.thorough
def test_the_index_is_the_one_in_pip_s_settings(checkout: Path, index: Index) -> None:
    pip_conf = checkout.parent / "pip.conf"
    pip_conf.write_text(f"[global]\nindex-url = {index.url}\n")
    process = bare(checkout, "-l", PIP_CONFIG_FILE=str(pip_conf), PIP_RETRIES="0")
    assert "noxfile.py: pip cannot install nox and uv\nhint: set pip's index" in failure(process)
    assert "/simple/nox/" in index.requested
    again = bare(checkout, "-l", PIP_CONFIG_FILE=str(pip_conf), PIP_RETRIES="0")
    assert again.returncode == 2, "a half-made environment is not reused"


@pytest.fixture(scope="module")
def python_with_pip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Python with pip, as the bootstrap's environment has; that of the tests has none."""
    folder = tmp_path_factory.mktemp("with-pip")
    subprocess.run([sys.executable, "-m", "venv", folder], check=True)
    return folder / "bin" / "python"


def settings_for_uv(python: Path, checkout: Path, **variables: str) -> dict[str, str]:
    """The variables that the bootstrap would set for uv."""
    code = "import bootstrap, sys; print(bootstrap.uv_settings(sys.executable))"
    printed = subprocess.check_output(
        [python, "-c", code],
        cwd=checkout,
        env=clean_environment(checkout.parent, **variables),
        text=True,
    )
    settings: dict[str, str] = eval(printed)
    return settings


@pytest.mark.nightly
def test_uv_gets_pip_s_settings(checkout: Path, python_with_pip: Path) -> None:
    pip_conf = checkout.parent / "pip.conf"
    pip_conf.write_text(
        "[global]\nindex-url = https://pip.example.org/simple\nproxy = http://proxy.example.org\n"
        "cert = /etc/company.pem\nextra-index-url = https://extra.example.org/simple\n"
        "[install]\ntrusted-host =\n    pip.example.org\n    other.example.org\n"
    )
    unset = {"PIP_CERT": "", "SSL_CERT_FILE": ""}
    settings = settings_for_uv(python_with_pip, checkout, PIP_CONFIG_FILE=str(pip_conf), **unset)
    assert settings == {
        "UV_DEFAULT_INDEX": "https://pip.example.org/simple",
        "ALL_PROXY": "http://proxy.example.org",
        "SSL_CERT_FILE": "/etc/company.pem",
        "UV_INSECURE_HOST": "pip.example.org other.example.org",
    }
    by_variable = {"PIP_INDEX_URL": "https://variable.example.org/simple"}
    settings = settings_for_uv(
        python_with_pip, checkout, PIP_CONFIG_FILE=str(pip_conf), **by_variable
    )
    assert settings["UV_DEFAULT_INDEX"] == "https://variable.example.org/simple"


@pytest.mark.thorough
@pytest.mark.parametrize("name", ["UV_DEFAULT_INDEX", "UV_INDEX", "UV_INDEX_URL", "uv.toml"])
def test_uv_s_own_index_takes_precedence_over_pip_s(
    checkout: Path, python_with_pip: Path, name: str
) -> None:
    variables = {
        "PIP_INDEX_URL": "https://pip.example.org/simple",
        "PIP_PROXY": "http://proxy.example.org",
        "XDG_CONFIG_HOME": str(checkout.parent),
    }
    if name == "uv.toml":
        (checkout.parent / "uv").mkdir()
        uv_toml = checkout.parent / "uv" / "uv.toml"
        uv_toml.write_text('index-url = "https://uv.example.org/simple"\n')
    else:
        variables[name] = "https://uv.example.org/simple"
    settings = settings_for_uv(python_with_pip, checkout, **variables)
    assert "UV_DEFAULT_INDEX" not in settings
    assert settings["ALL_PROXY"] == "http://proxy.example.org"


OWN = 'url = "https://own.example.org/simple"\n'


@pytest.mark.parametrize(
    ("file", "text", "stands"),
    [
        ("pyproject.toml", f"[[tool.uv.index]]\n{OWN}default = true\n", True),
        ("pyproject.toml", f"[tool.uv]\nindex-{OWN}", True),
        ("pyproject.toml", f"[[tool.uv.index]]\n{OWN}", False),  # one more, which uv asks first
        ("pyproject.toml", "[project\n", False),
        ("uv.toml", f"[[index]]\n{OWN}[[index]]\n{OWN}default = true\n", True),
        ("uv.toml", f"index-{OWN}", True),
        ("uv.toml", "offline = true\n", False),
        ("named.toml", f"[[index]]\n{OWN}default = true\n", True),
    ],
)
def test_the_repo_s_own_index_stands(checkout: Path, file: str, text: str, stands: bool) -> None:
    (checkout / file).write_text(text)
    named = {"UV_CONFIG_FILE": str(checkout / file)} if file == "named.toml" else {}
    code = "import bootstrap; print(bootstrap.has_own_index())"
    env = clean_environment(checkout.parent, **named)
    command = [sys.executable, "-c", code]
    assert subprocess.check_output(command, cwd=checkout, env=env, text=True) == f"{stands}\n"


@pytest.mark.thorough
def test_a_bare_machine_installs_its_tools_once(checkout: Path) -> None:
    first = bare(checkout, "-l")
    assert first.returncode == 0, first.stderr
    assert "into .nox/bootstrap-" in first.stderr
    assert "* test ->" in first.stdout
    second = bare(checkout, "-l")
    assert second.returncode == 0
    assert "Installing" not in second.stderr
    assert second.stdout == first.stdout
    third = bare(checkout, "-l", PYTHONSAFEPATH="1")
    assert (third.returncode, third.stdout) == (0, first.stdout), third.stderr


def test_generated_repos_have_the_same_bootstrap() -> None:
    source = ROOT / "templates" / "{{ pipeline }}" / "bootstrap.py.jinja"
    assert source.read_text() == '{% include "bootstrap.py" -%}\n'
