"""Every habit of Headwater's developers is a session; `python3 noxfile.py -l` lists them."""

if __name__ == "__main__":
    import bootstrap

    bootstrap.main()

import os
import shlex
import shutil
import sys
from pathlib import Path

import nox

ROOT = Path(__file__).resolve().parent
PYPROJECT = nox.project.load_toml(ROOT / "pyproject.toml")
DEFAULT_PYTHON = (3, 12)  # python_version's default in copier.yml

nox.needs_version = ">=2025.5.1"
nox.options.sessions = ["lint", "test"]
nox.options.default_venv_backend = "uv"


@nox.session
def test(session: nox.Session) -> None:
    """Run the tests; arguments go to pytest, e.g. -m 'not end_to_end' for the quick ones."""
    install(session, "test")
    session.run("pytest", *session.posargs)


@nox.session
def nightly(session: nox.Session) -> None:
    """Test every combination of choices to the end, and 1,000 sets of answers; an hour or more."""
    install(session, "test")
    # Each test's seconds are the figure for its combination.
    session.run(
        "pytest", "--nightly", "--dist", "worksteal", "--durations=0", "-vv", *session.posargs
    )


@nox.session
def lint(session: nox.Session) -> None:
    """Run all hooks on all files, and mend what can be mended; hooks' names select some."""
    install(session, "lint")
    session.run("prek", "run", "--all-files", "--stage", "manual", *session.posargs)


@nox.session
def hooks(session: nox.Session) -> None:
    """Let git run the hooks at commit, merge and push, with the tools of this environment."""
    session.run("hooks/install", external=True)


@nox.session
def release(session: nox.Session) -> None:
    """Give what is under Unreleased a version and a tag; `-- --push`, `-- --help`."""
    install(session, "release")
    session.run("python", "hooks/release.py", *session.posargs)


@nox.session
def demo(session: nox.Session) -> None:
    """Make a repo, `-- FOLDER` says where, and run its pipeline to the end."""
    named = session.posargs[0] if session.posargs else "demo/co2-pipelines"
    folder = Path(session.invoked_from, named).resolve()
    if (folder / ".copier-answers.yml").exists():
        session.log(f"{folder} is there already: its pipeline is run again")
    elif folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        session.error(f"{folder} is in use; name another: python3 noxfile.py -s demo -- FOLDER")
    elif not os.access(next(path for path in (folder, *folder.parents) if path.exists()), os.W_OK):
        session.error(f"{folder} cannot be written; name another: noxfile.py -s demo -- FOLDER")
    else:
        install(session, "copier")
        session.log(f"Making a repo in {folder}")
        python_version = ".".join(map(str, min(sys.version_info[:2], DEFAULT_PYTHON)))
        session.run(
            *("copier", "copy", "--defaults", "--quiet", "--vcs-ref", "HEAD"),
            *("--data", f"python_version={python_version}", str(ROOT), str(folder)),
        )
        session.run("git", "init", "--quiet", "--initial-branch=main", str(folder), external=True)
    # The repo's own commands, by the nox that runs already: in the repo's own environment, not this
    # session's, and locally, whatever Metaflow is set up for.
    repo_nox = (sys.executable, "-m", "nox", "-f", str(folder / "noxfile.py"))
    env = {
        "UV_PROJECT_ENVIRONMENT": None,
        "VIRTUAL_ENV": None,
        "METAFLOW_DEFAULT_DATASTORE": "local",
        "METAFLOW_DEFAULT_METADATA": "local",
    }
    session.run(*repo_nox, "-s", "setup", env=env, external=True)
    session.run(*repo_nox, "-s", "run", "--", "examples/co2_tasks.py", env=env, external=True)
    reports = "\n    ".join(map(str, sorted((folder / "reports").rglob("*.html"))))
    session.log(
        "The pipeline has run; its results are printed above.\n\n"
        f"The report, for a browser:\n    {reports}\n"
        f"The repo:\n    {folder}\n"
        "Go on there with:\n"
        f"    cd {shlex.quote(str(folder))}\n"
        "    python3 noxfile.py -s run      # again: what is done is not done twice\n"
        "    python3 noxfile.py -s test     # its own tests\n"
        "    less README.md                 # what is where, and whose file is which\n"
    )


@nox.session(python=False)
def picture(session: nox.Session) -> None:
    """Write docs/co2-card.png, the README's picture, from the report that `demo` has made."""
    report = ROOT / "demo" / "co2-pipelines" / "reports" / "dev" / "co2.html"
    if not report.exists():
        session.error(f"no report: {report}\nhint: python3 noxfile.py -s demo picture  # both")
    if not shutil.which("chromium"):
        session.error("no chromium on PATH\nhint: sudo apt-get install -y chromium  # Debian's")
    # The frame crops the page to its first chart. The page itself stays wide: in a narrow window
    # Metaflow's page shows no charts.
    frame = Path(session.create_tmp(), "frame.html").resolve()
    frame.write_text(
        '<body style="margin: 0; overflow: hidden">'
        f'<iframe src="{report.as_uri()}" style="border: 0; width: 1000px; height: 1000px; '
        'margin: -40px 0 0 -328px"></iframe>'
    )
    png = ROOT / "docs" / "co2-card.png"
    png.unlink(missing_ok=True)
    # Without the sandbox, because root has none; the page is the demo's own.
    session.run(
        *("chromium", "--headless=new", "--no-sandbox", "--disable-gpu", "--hide-scrollbars"),
        *("--window-size=672,606", "--force-device-scale-factor=1.5"),
        *("--virtual-time-budget=5000", f"--screenshot={png}", frame.as_uri()),
        external=True,
        silent=True,
    )
    session.log(f"{png.relative_to(ROOT)} has {png.stat().st_size / 1000:.0f} kB")


@nox.session
def derive(session: nox.Session) -> None:
    """Write cookiecutter.json anew, after a change of copier.yml's questions."""
    install(session, "copier")
    session.run("python", "cookiecutter_json.py")


@nox.session
def bench(session: nox.Session) -> None:
    """Print the figures that speed is judged by; names of benchmarks select some."""
    install(session, "test")
    session.run("python", "-m", "benchmarks", *session.posargs)


def install(session: nox.Session, *groups: str) -> None:
    """Install dependency groups of pyproject.toml into the session's environment."""
    session.install(*nox.project.dependency_groups(PYPROJECT, *groups))
