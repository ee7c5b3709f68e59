"""What `python3 noxfile.py` does on a machine that has Python and git and nothing else.

It makes a private environment below `.nox/`, puts nox and uv into it from the package index that
pip is configured for, and hands the command line over to nox. Later runs find the environment made.
"""

import ast
import hashlib
import importlib.util
import os
import shutil
import subprocess
import sys
from pathlib import Path

# First of all, and in words that an older Python understands.
if sys.version_info < (3, 10):
    version = ".".join(map(str, sys.version_info[:3]))
    sys.stderr.write("noxfile.py: Python 3.10 or newer is needed; this is " + version + "\n")
    sys.exit(2)

REQUIREMENTS = ("nox>=2025.5.1", "uv>=0.9")
ROOT = Path(__file__).resolve().parent

# pip's settings that uv spells otherwise. Extra indexes are left out: pip takes the newest version
# of any index, which lets a stranger's package shadow a private one; uv asks for them by name.
UV_NAMES = {
    "index-url": "UV_DEFAULT_INDEX",
    "trusted-host": "UV_INSECURE_HOST",
    "cert": "SSL_CERT_FILE",
    "proxy": "ALL_PROXY",
}


def main() -> None:
    """Become nox with the same arguments; exit with code 2 where that cannot be."""
    if not shutil.which("git"):
        refuse(
            "git is needed and is not on PATH; install it, e.g. apt install git or brew install git"
        )
    python = environment()
    os.environ.update(uv_settings(python))
    os.environ["PATH"] = os.pathsep.join([str(python.parent), os.environ.get("PATH", os.defpath)])
    os.execv(python, [str(python), "-m", "nox", "-f", str(ROOT / "noxfile.py"), *sys.argv[1:]])


def environment() -> Path:
    """The Python of the private environment, which is made where it is not there yet."""
    content = hashlib.sha256(repr((REQUIREMENTS, sys.executable, sys.version)).encode()).hexdigest()
    home = ROOT / ".nox" / "bootstrap-{}.{}-{}".format(*sys.version_info[:2], content[:8])
    python, made = home / "bin" / "python", home / "made"
    if made.exists() and python.exists():
        return python
    if not (importlib.util.find_spec("venv") and importlib.util.find_spec("ensurepip")):
        refuse(
            f"{sys.executable} comes without venv; install it, e.g. apt install python3-venv, "
            "or use another Python"
        )
    print(
        f"Making {home.relative_to(ROOT)} with {' and '.join(REQUIREMENTS)}, once", file=sys.stderr
    )
    run(
        [sys.executable, "-m", "venv", "--clear", str(home)],
        f"no environment could be made at {home}; is the disk full, or the folder not yours?",
    )
    pip = [str(python), "-m", "pip", "install", "--no-user", "--quiet", *REQUIREMENTS]
    run(
        pip,
        "nox and uv could not be installed; pip takes its index, proxy and certificates from "
        "PIP_INDEX_URL, PIP_PROXY and PIP_CERT, or pip.conf",
    )
    run([str(python), "-c", "import nox, uv"], f"pip put nox and uv elsewhere than in {home}")
    made.touch()
    return python


def uv_settings(python: Path) -> dict[str, str]:
    """pip's index, proxy and certificates as uv's variables, where uv has no setting of its own."""
    settings = {}
    listed = subprocess.run(
        [str(python), "-m", "pip", "config", "list"], capture_output=True, text=True, check=False
    )
    # Lines such as global.index-url='https://example.org/simple', sorted so that the strongest, a
    # variable, comes last.
    for line in sorted(
        listed.stdout.splitlines(),
        key=lambda line: (line.startswith(":env:"), line.startswith("install.")),
    ):
        key, _, quoted = line.partition("=")
        name = UV_NAMES.get(key.rpartition(".")[2])
        value = ast.literal_eval(quoted) if name else None
        if name and value and not os.environ.get(name):
            settings[name] = " ".join(str(value).split())  # pip lists hosts by lines
    own = Path(os.environ.get("XDG_CONFIG_HOME") or Path.home() / ".config", "uv", "uv.toml")
    if own.exists() or any(os.environ.get(f"UV_{name}") for name in ("INDEX", "INDEX_URL")):
        settings.pop("UV_DEFAULT_INDEX", None)
    return settings


def run(command: list[str], refusal: str) -> None:
    """Run the command; exit with code 2, its output and the refusal where it fails."""
    done = subprocess.run(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False
    )
    if done.returncode:
        sys.stderr.write(done.stdout)
        refuse(refusal)


def refuse(why: str) -> None:
    """Exit with code 2 and the reason."""
    print(f"noxfile.py: {why}", file=sys.stderr)
    raise SystemExit(2)
