"""Runs the noxfile on a machine that has only Python and git: `python3 noxfile.py`.

The first run makes a private environment below `.nox/` and installs nox and uv into it, from the
package index that pip is configured for. Later runs reuse it.
"""

import ast
import hashlib
import importlib.util
import os
import shutil
import subprocess
import sys
from pathlib import Path

# Checked first, in syntax that an older Python understands.
if sys.version_info < (3, 11):
    version = ".".join(map(str, sys.version_info[:3]))
    sys.stderr.write("noxfile.py: Python 3.11 or newer is needed, not " + version + "\n")
    sys.stderr.write("hint: run noxfile.py with a newer Python, e.g. python3.12 noxfile.py -l\n")
    sys.exit(2)

REQUIREMENTS = ("nox>=2025.5.1", "uv>=0.9")
ROOT = Path(__file__).resolve().parent
MADE_OF = hashlib.sha256(repr((REQUIREMENTS, sys.executable, sys.version)).encode()).hexdigest()
ENVIRONMENT = ROOT / ".nox" / "bootstrap-{}.{}-{}".format(*sys.version_info[:2], MADE_OF[:8])

# pip's settings under uv's names. Extra indexes are left out: pip takes the newest version from any
# index, so that a stranger's package can replace a private one; uv has safer settings for them.
UV_NAMES = {
    "index-url": "UV_DEFAULT_INDEX",
    "trusted-host": "UV_INSECURE_HOST",
    "cert": "SSL_CERT_FILE",
    "proxy": "ALL_PROXY",
}


def main() -> None:
    """Replace this process by nox with the same arguments; exit with code 2 if that fails."""
    if not shutil.which("git"):
        fail("git is not on PATH", "apt install git, or brew install git")
    python = environment()
    os.environ.update(uv_settings(python))
    os.environ["PATH"] = os.pathsep.join([str(python.parent), os.environ.get("PATH", os.defpath)])
    os.execv(python, [str(python), "-m", "nox", "-f", str(ROOT / "noxfile.py"), *sys.argv[1:]])


def environment() -> Path:
    """The Python of the private environment, which is made if it does not exist yet."""
    python, complete = ENVIRONMENT / "bin" / "python", ENVIRONMENT / "made"
    if complete.exists() and python.exists():
        return python
    if not (importlib.util.find_spec("venv") and importlib.util.find_spec("ensurepip")):
        fail(
            f"{sys.executable} has no venv module",
            "apt install python3-venv, or use another Python",
        )
    print(
        f"Installing {' and '.join(REQUIREMENTS)} into {ENVIRONMENT.relative_to(ROOT)}, once",
        file=sys.stderr,
    )
    run(
        [sys.executable, "-m", "venv", "--clear", str(ENVIRONMENT)],
        f"cannot make an environment in {ENVIRONMENT}",
        "free some disk space, or make the folder yours",
    )
    pip = [str(python), "-m", "pip", "install", "--no-user", "--quiet", *REQUIREMENTS]
    run(
        pip,
        "pip cannot install nox and uv",
        "set pip's index, proxy and certificates: PIP_INDEX_URL, PIP_PROXY, PIP_CERT, or pip.conf",
    )
    run(
        [str(python), "-c", "import nox, uv"],
        f"pip installed nox and uv somewhere else than in {ENVIRONMENT}",
        "remove `target` or `prefix` from pip.conf, which `pip config list` shows",
    )
    complete.touch()
    return python


def uv_settings(python: Path) -> dict[str, str]:
    """pip's index, proxy and certificates as variables for uv, if uv has no setting of its own."""
    settings = {}
    config = subprocess.run(
        [str(python), "-m", "pip", "config", "list"], capture_output=True, text=True, check=False
    )
    # Lines such as global.index-url='https://example.org/simple'. They are sorted so that the one
    # with the highest precedence, a variable, comes last.
    for line in sorted(
        config.stdout.splitlines(),
        key=lambda line: (line.startswith(":env:"), line.startswith("install.")),
    ):
        key, _, quoted = line.partition("=")
        name = UV_NAMES.get(key.rpartition(".")[2])
        value = ast.literal_eval(quoted) if name else None
        if name and value and not os.environ.get(name):
            settings[name] = " ".join(str(value).split())  # pip lists hosts on several lines
    if has_own_index():
        settings.pop("UV_DEFAULT_INDEX", None)
    return settings


def has_own_index() -> bool:
    """True if uv is set to another default index than PyPI, which a variable would override."""
    import tomllib  # not at the top: an older Python, which has none, gets this file's message

    if any(os.environ.get(f"UV_{name}") for name in ("INDEX", "INDEX_URL")):
        return True
    user = Path(os.environ.get("XDG_CONFIG_HOME") or Path.home() / ".config", "uv", "uv.toml")
    files = [ROOT / "pyproject.toml", ROOT / "uv.toml", user, Path("/etc/uv/uv.toml")]
    if os.environ.get("UV_CONFIG_FILE"):
        files = [Path(os.environ["UV_CONFIG_FILE"])]  # uv reads no other
    for file in files:
        if not file.is_file():
            continue
        try:
            settings = tomllib.loads(file.read_text(encoding="utf-8"))
        except ValueError:  # uv names the mistake
            continue
        if file.name == "pyproject.toml":
            settings = settings.get("tool", {}).get("uv", {})
        # An index beside the default one stands anyway: uv asks it first.
        if "index-url" in settings or any(i.get("default") for i in settings.get("index", ())):
            return True
    return False


def run(command: list[str], failure: str, hint: str) -> None:
    """Run the command; if it fails, exit with its output, the failure and the hint."""
    process = subprocess.run(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False
    )
    if process.returncode:
        sys.stderr.write(process.stdout)
        fail(failure, hint)


def fail(failure: str, hint: str) -> None:
    """Exit with code 2, after printing the failure and the hint."""
    print(f"noxfile.py: {failure}\nhint: {hint}", file=sys.stderr)
    raise SystemExit(2)
