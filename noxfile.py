"""Commands for developing Headwater; `python3 noxfile.py -l` lists them."""

if __name__ == "__main__":
    import sys
    from pathlib import Path

    sys.path.insert(0, str(Path(__file__).resolve().parent))  # also with PYTHONSAFEPATH
    import bootstrap

    bootstrap.main()

import contextlib
import os
import shlex
import shutil
import sqlite3
import subprocess
import sys
from pathlib import Path

import nox
from nox.command import CommandFailed

ROOT = Path(__file__).resolve().parent
PYPROJECT = nox.project.load_toml(ROOT / "pyproject.toml")
DEFAULT_PYTHON = (3, 12)  # the default of python_version in copier.yml
QUERY = "SELECT year / 10 * 10 AS decade, round(avg(ppm), 1) AS ppm FROM co2_months GROUP BY decade"

nox.needs_version = ">=2025.5.1"
nox.options.sessions = ["lint", "test"]
nox.options.default_venv_backend = "uv"


@nox.session
def test(session: nox.Session) -> None:
    """Run the tests; arguments go to pytest, e.g. tests/quick tests/in_place for the quick ones."""
    install(session, "test")
    session.run("pytest", *session.posargs)


@nox.session
def thorough(session: nox.Session) -> None:
    """Run the tests that `test` leaves to CI: rarer cases, and 100 sets of answers."""
    install(session, "test")
    # hypothesis marks its own tests.
    more = ("-m", "(thorough or hypothesis) and not nightly", "--hypothesis-profile=thorough")
    session.run("pytest", *more, *session.posargs)


@nox.session
def nightly(session: nox.Session) -> None:
    """Run all tests, with every combination of choices and 1,000 sets of answers; takes hours."""
    install(session, "test")
    # Each test's seconds are the figure for its combination.
    every = ("-m", "", "--hypothesis-profile=nightly", "--durations=0", "-vv")
    session.run("pytest", *every, *session.posargs)


@nox.session
def lint(session: nox.Session) -> None:
    """Run all hooks on all files, which fixes some problems; `-- mypy` runs one hook."""
    install(session, "lint")
    session.run("prek", "run", "--all-files", "--stage", "manual", *session.posargs)


@nox.session
def hooks(session: nox.Session) -> None:
    """Make git run the hooks at commit, merge and push."""
    session.run("hooks/install", external=True)


@nox.session
def release(session: nox.Session) -> None:
    """Release the changes under Unreleased: a version, a commit, a tag; `-- --help`."""
    install(session, "release")
    session.run("python", "hooks/release.py", *session.posargs)


@nox.session
def fleet(session: nox.Session) -> None:
    """Show which generated repos are behind, or update them all; `-- FOLDER`, `-- --help`."""
    install(session, "fleet")
    session.chdir(session.invoked_from)  # the names are relative to it
    session.env["NOX_PYTHON"] = sys.executable  # for --check
    try:
        session.run("python", str(ROOT / "hooks" / "fleet.py"), *session.posargs)
    except CommandFailed as error:
        code = getattr(error, "return_code", None)  # newer versions of nox have it
        raise SystemExit(code or 1) from None


@nox.session
def demo(session: nox.Session) -> None:
    """Make a repo in demo/co2-pipelines or `-- FOLDER`, and run its pipeline."""
    name = session.posargs[0] if session.posargs else "demo/co2-pipelines"
    folder = Path(session.invoked_from, name).resolve()
    another = "choose another folder: python3 noxfile.py -s demo -- FOLDER"
    if (folder / ".copier-answers.yml").exists():
        session.log(f"Running the pipeline of {folder} again")
    elif folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        session.error(f"{folder} is not empty\nhint: {another}")
    elif not os.access(next(path for path in (folder, *folder.parents) if path.exists()), os.W_OK):
        session.error(f"cannot write to {folder}\nhint: {another}")
    else:
        install(session, "copier")
        session.log(f"Making a repo in {folder}")
        python_version = ".".join(map(str, min(sys.version_info[:2], DEFAULT_PYTHON)))
        session.run(
            *("copier", "copy", "--defaults", "--quiet", "--vcs-ref", "HEAD"),
            *("--data", f"python_version={python_version}", str(ROOT), str(folder)),
        )
        session.run("git", "init", "--quiet", "--initial-branch=main", str(folder), external=True)
    # This nox runs the repo's commands in the repo's own environment. Metaflow uses local storage,
    # whatever the user's settings are.
    repo_nox = (sys.executable, "-m", "nox", "-f", str(folder / "noxfile.py"))
    env = {
        "UV_PROJECT_ENVIRONMENT": None,
        "VIRTUAL_ENV": None,
        "METAFLOW_DEFAULT_DATASTORE": "local",
        "METAFLOW_DEFAULT_METADATA": "local",
    }
    session.run(*repo_nox, "-s", "setup", env=env, external=True)
    session.run(*repo_nox, "-s", "run", "--", "examples/co2_tasks.py", env=env, external=True)
    containers = (
        "    python3 noxfile.py -s run -- --runner container --force-upstream   # in containers\n"
        if docker_answers()
        else ""
    )
    reports = "\n    ".join(map(str, sorted((folder / "reports").rglob("*.html"))))
    database = folder / "databases" / "dev.sqlite"
    with contextlib.closing(sqlite3.connect(database)) as connection:
        rows = "\n    ".join(f"{decade}s  {ppm}" for decade, ppm in connection.execute(QUERY))
    session.log(
        "The pipeline has run.\n\n"
        f"The report, to open in a browser:\n    {reports}\n"
        f"The table co2_months in {database}, asked\n    {QUERY}\nanswers\n    {rows}\n"
        f"The repo:\n    {folder}\n"
        "Next:\n"
        f"    cd {shlex.quote(str(folder))}\n"
        "    python3 noxfile.py -s run      # again: skips finished tasks\n"
        f"{containers}"
        "    python3 noxfile.py -s test     # runs its tests\n"
        "    less README.md                 # explains the repo\n"
    )


def docker_answers() -> bool:
    """True if there is a Docker engine, and it answers at once."""
    if not shutil.which("docker"):
        return False
    try:
        done = subprocess.run(["docker", "version"], capture_output=True, timeout=3, check=False)
    except subprocess.TimeoutExpired:
        return False
    return done.returncode == 0


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
    """Write cookiecutter.json, after a change of the questions in copier.yml."""
    install(session, "copier")
    session.run("python", "cookiecutter_json.py")


@nox.session
def bench(session: nox.Session) -> None:
    """Measure speed; names of benchmarks select some."""
    install(session, "test")
    session.run("python", "-m", "benchmarks", *session.posargs)


def install(session: nox.Session, *groups: str) -> None:
    """Install dependency groups of pyproject.toml into the session's environment."""
    session.install(*nox.project.dependency_groups(PYPROJECT, *groups))


def drop_variables_of_git() -> None:
    """Drop the variables that choose a repo for git, which it sets for hooks and `rebase --exec`.

    They override the current folder for every git command of a session.
    """
    if shutil.which("git"):
        command = ["git", "rev-parse", "--local-env-vars"]
        for name in subprocess.check_output(command, text=True).split():
            if not name.startswith("GIT_CONFIG_"):  # settings, such as the credentials of CI
                os.environ.pop(name, None)


drop_variables_of_git()
