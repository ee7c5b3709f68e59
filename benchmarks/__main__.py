"""Runs the benchmarks named, or all, and prints a line for each: figure, bound, verdict.

Each figure is the median of runs that take turns with what they are compared to, so that a noisy
machine disturbs both alike. Nothing here fails: the figures are for reading.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import copier

from tests.conftest import (
    HERE,
    SECOND,
    clean_environment,
    commit,
    git,
    make_template,
    noxfile,
    s3_server,
)
from tests.databases import PASSWORD, postgresql

ROOT = Path(__file__).resolve().parent.parent
IN_REPO = Path(__file__).with_name("in_repo.py")


def main(names: list[str]) -> int:
    """Run the benchmarks of these names; exit code 2 where there is none of a name."""
    unknown = [name for name in names if name not in BENCHMARKS]
    if unknown:
        print(f"no benchmark {', '.join(unknown)}; there are: {', '.join(BENCHMARKS)}")
        return 2
    for name in names or BENCHMARKS:
        BENCHMARKS[name]()
    return 0


def report(what: str, figure: float, bound: float, unit: str) -> None:
    """Print a figure beside its bound."""
    verdict = "ok" if figure <= bound else "OVER"
    print(f"{verdict:>4}  {what}: {figure:.3f} {unit} (at most {bound:.3f})", flush=True)


def copying() -> None:
    """`copier copy`, against a template of one file, and one of the same files, flat and plain."""
    with folder() as root:
        template = make_template(root / "template")
        destination = root / "made" / "sales-pipelines"
        copier.run_copy(str(template), destination, defaults=True, quiet=True)
        files = [path for path in destination.rglob("*") if path.is_file()]
        one, flat = root / "one", root / "flat"
        for source, contents in ((one, files[:1]), (flat, files)):
            source.mkdir()
            (source / "copier.yml").write_text("name: {type: str, default: x}\n")
            for number, path in enumerate(contents):
                shutil.copy(path, source / f"file-{number}")
            git(source, "init", "--quiet", "--initial-branch=main")
            commit(source, "Files", tag="2026.11.0")
        times: dict[Path, list[float]] = {one: [], flat: [], template: []}
        for _ in range(9):
            for source, taken in times.items():
                shutil.rmtree(destination)
                command = ("copier", "copy", "--defaults", "--quiet", str(source), str(destination))
                taken.append(seconds(command))
    floor, plain, ours = (statistics.median(taken) for taken in times.values())
    each = 1000 / len(files)
    what = f"copier copy of {len(files)} files"
    print(f"      {what}, over one file ({floor:.3f} s), a file: {(ours - floor) * each:.3f} ms")
    print(f"      the same files flat and plain, a file: {(plain - floor) * each:.3f} ms")
    report(f"{what}, over the same files flat and plain ({plain:.3f} s)", ours / plain, 1.25, "x")


def door() -> None:
    """`cookiecutter`, against the Copier command that gives the same repo."""
    with folder() as root:
        template = make_template(root / "template")
        home = root / "home"
        home.mkdir()
        destination = root / "my-pipelines"
        copy = ("-m", "copier", "copy", "--defaults", str(template), str(destination))
        cut = ("-m", "cookiecutter", "--no-input", "--output-dir", str(root), str(template))
        times: list[list[float]] = [[], []]
        for _ in range(9):
            for command, taken in zip((copy, cut), times, strict=True):
                shutil.rmtree(destination, ignore_errors=True)
                taken.append(seconds((sys.executable, *command), clean_environment(home)))
    copier_takes, cookiecutter_takes = (statistics.median(taken) for taken in times)
    report(
        f"cookiecutter over copier copy ({copier_takes:.3f} s), or 0.4 s more",
        cookiecutter_takes / copier_takes,
        max(1.6, 1 + 0.4 / copier_takes),
        "x",
    )


def fleet() -> None:
    """`nox -s fleet`, for each repo, against `copier update` called for each."""
    with folder() as root:
        template, first = make_template(root / "template"), root / "first"
        home = root / "home"
        home.mkdir()
        environment = clean_environment(home)
        copier.run_copy(str(template), first, defaults=True, quiet=True)
        git(first, "init", "--quiet", "--initial-branch=main")
        git(first, "config", "user.name", "Tester")
        git(first, "config", "user.email", "t@example.org")
        commit(first, "Generate the repo")
        for name in ("errors.py", "settings.py", "console.py"):
            (file,) = (template / "templates").glob(f"*/*/runtime/{name}")
            file.write_text(file.read_text() + "\n# More.\n")
        commit(template, "More", tag=SECOND)

        def repos(number: int) -> Path:
            made = root / "repos"
            shutil.rmtree(made, ignore_errors=True)
            for each in range(number):
                shutil.copytree(first, made / f"repo-{each}", symlinks=True)
            return made

        one = (sys.executable, "-m", "copier", "update", "--defaults", "--quiet")
        all_of_them = (sys.executable, str(ROOT / "hooks" / "fleet.py"), "--update", "--issue", "9")
        times: list[list[float]] = [[], []]
        for _ in range(3):
            for each in repos(4).iterdir():
                times[0].append(seconds(one, environment, each))
            times[1].append(seconds((*all_of_them, str(repos(20))), environment) / 20)
        copier_takes, ours = map(statistics.median, times)
        few = peak_memory((*all_of_them, str(repos(10))), environment)
        started = time.monotonic()
        many = peak_memory((*all_of_them, str(repos(100))), environment)
        hundred = (time.monotonic() - started) / 100
        show = (sys.executable, str(ROOT / "hooks" / "fleet.py"), str(repos(100)))
        behind = seconds(show, environment) / 100
    print(f"      copier update: {copier_takes:.3f} s; a repo of a fleet of 20: {ours:.3f} s")
    report("a repo of a fleet of 100 over copier update", hundred / copier_takes, 1 / 5, "x")
    report("a repo of a fleet of 100 over one of 20", hundred / ours, 1.2, "x")
    report("the largest process, 100 repos over 10", many / few, 1.1, "x")
    report("to see if a repo is behind", 1000 * behind, 50, "ms")


def peak_memory(command: Sequence[str], environment: dict[str, str]) -> float:
    """The most memory that one process of the command has at a time, in kilobytes."""
    code = (
        "import resource, subprocess, sys; "
        "subprocess.run(sys.argv[1:], check=True, stdout=subprocess.DEVNULL); "
        "print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)"
    )
    measured = [sys.executable, "-c", code, *command]
    return float(subprocess.check_output(measured, env=environment, stderr=subprocess.DEVNULL))


def task() -> None:
    """MetaflowTask, against a bare Luigi task that starts the same process."""
    with repo() as (python, environment):
        found = in_repo("task", python, environment)
    report(
        f"MetaflowTask over a bare task ({found['bare']:.3f} s)",
        found["task"] - found["bare"],
        0.1,
        "s",
    )


def importing() -> None:
    """Importing the runtime, against importing Luigi."""
    with repo() as (python, environment):
        codes = ["import luigi", "from sales_pipelines.runtime import MetaflowTask"]
        times: list[list[float]] = [[], []]
        for _ in range(15):
            for code, taken in zip(codes, times, strict=True):
                taken.append(seconds((python, "-c", code), environment))
        nothing = statistics.median(seconds((python, "-c", ""), environment) for _ in range(15))
    luigi, runtime = (statistics.median(taken) - nothing for taken in times)
    report(
        f"import of the runtime over import of luigi ({luigi:.3f} s)", runtime / luigi, 1.25, "x"
    )


def rechecking() -> None:
    """A RootTask over finished tasks: how long until Luigi knows that there is nothing to do."""
    with repo() as (python, environment):
        found = in_repo("recheck", python, environment)
        with folder() as root, s3_server(root / "moto.log") as address:
            on_s3 = in_repo("recheck_on_s3", python, environment | s3_variables(address))
    report("re-check of 1,000 finished tasks", found["1000"], 1.0, "s")
    # Linear, and a quarter for chance.
    report("re-check of 2,000 over 1,000", found["2000"] / found["1000"], 2.5, "x")
    report(
        f"re-check of 10,000 ({found['10000']:.3f} s) over 1,000",
        found["10000"] / found["1000"],
        12.5,
        "x",
    )
    for count in ("1000", "10000"):
        what = f"re-check of {int(count):,} finished tasks on S3"
        # A listing has 1,000 names, and what it has yet to show is asked for once.
        report(f"{what}, requests", on_s3["requests"][count], int(count) / 500 + 1, "requests")
        # moto takes some 0.2 s for a listing; Amazon takes less.
        report(f"{what}, over local", on_s3[count] - found[count], int(count) / 1000, "s")


def s3_variables(address: str) -> dict[str, str]:
    """What puts Metaflow's datastore on the S3 at the address."""
    return {
        "AWS_ACCESS_KEY_ID": "testing",
        "AWS_SECRET_ACCESS_KEY": "testing",
        "AWS_DEFAULT_REGION": "us-east-1",
        "METAFLOW_DEFAULT_DATASTORE": "s3",
        "METAFLOW_DATASTORE_SYSROOT_S3": "s3://pipelines/metaflow",
        "METAFLOW_S3_ENDPOINT_URL": address,
    }


def overlay() -> None:
    """A flow's own requirements: what they cost when they are new, and each time from then on."""
    with repo() as (python, environment):
        found = in_repo("overlay", python, environment)
    report("overlay of a small package, first use", found["first"], 5, "s")
    report("overlay, later uses", found["later"], 0.03, "s")


def docker() -> None:
    """A flow's image: from nothing, after an edit, unchanged, its size; and a pipeline in them."""
    with repo() as (python, environment):
        made = Path(python).parents[2]
        found = in_repo("image", python, environment)
        times: dict[str, list[float]] = {"process": [], "container": []}
        pipeline = (python, "-m", "sales_pipelines.runtime", "run", "examples/co2_tasks.py")
        for number in range(4):
            for runner, taken in times.items():
                tag = f"{runner}-{number}"  # under which nothing has run before
                variables = {"SALES_PIPELINES__RUNNER": runner, "SALES_PIPELINES__FLOW_TAG": tag}
                taken.append(seconds(pipeline, environment | variables, made))
        seconds((python, "-c", FORGET_IMAGES), environment, made)
    # The first of each has built images and filled caches.
    processes, containers = (statistics.median(taken[1:]) for taken in times.values())
    report("image, cold", found["cold"], 60, "s")
    report("image after an edit of its flow", found["edited"], 3, "s")
    report("image, unchanged", found["unchanged"], 0.3, "s")
    report("size of the base", found["base"], 450, "MB")
    report("size of a flow's layer", found["layer"], 5, "MB")
    what = f"co2 pipeline in containers, over processes ({processes:.1f} s), each of its 2 flows"
    report(what, (containers - processes) / 2, 1, "s")


FORGET_IMAGES = """
from sales_pipelines.runtime.container import engine
for image in engine.images():
    engine.remove(image.name)
"""


def tables() -> None:
    """A million narrow rows by a CurateTask, against the fastest way that the drivers have."""
    with repo() as (python, environment), postgresql() as server:
        install = ("uv", "pip", "install", "--quiet", "--python", python, "psycopg[binary]")
        seconds(install, environment)
        environment["SALES_PIPELINES__DATABASE__PASSWORD"] = PASSWORD
        command = [python, str(Path(__file__).with_name("tables.py"))]
        done = subprocess.run(
            [*command, f"postgresql://{server.address}/postgres"],
            env=environment,
            check=True,
            stdout=subprocess.PIPE,
        )
        found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    for kind, bare, bound in (("sqlite", "executemany", 3), ("postgresql", "COPY", 1.5)):
        times: dict[str, float] = found[kind]
        what = f"{kind}: 1,000,000 rows over a bare {bare} ({times['bare']:.1f} s)"
        report(what, times["fresh"] / times["bare"], bound, "x")
        print(f"      the same rows again, all unchanged: {times['again']:.1f} s")
    report("memory for 400,000 rows over that for 50,000", found["memory"], 1.1, "x")


SMALL_TASKS = """
from sales_pipelines.runtime import MetaflowTask


class RootTask(MetaflowTask):
    flow_path = "small.py"
"""

PARSING = """
import importlib.util, json, statistics, sys, time
from pathlib import Path
sys.path.insert(0, sys.argv[1])
from airflow.sdk import DAG
empty = Path(sys.argv[1], "empty.py")
empty.write_text("from airflow.sdk import DAG\\nwith DAG('empty'): pass\\n")
times = {"empty.py": [], "co2.py": []}
for _ in range(30):
    for name, taken in times.items():
        sys.modules.pop("sales_pipelines_airflow", None)
        started = time.perf_counter()
        spec = importlib.util.spec_from_file_location("dag", Path(sys.argv[1], name))
        spec.loader.exec_module(importlib.util.module_from_spec(spec))
        taken.append(time.perf_counter() - started)
print(json.dumps([statistics.median(taken) for taken in times.values()]))
"""


def airflow() -> None:
    """What Airflow has to read for a DAG, and what a task of a graph costs over `nox -s run`."""
    with repo(with_airflow=True) as (python, environment):
        made = Path(python).parents[2]
        package = made / "sales_pipelines"
        shutil.copy(Path(__file__).with_name("small_flow.py"), package / "flows" / "small.py")
        (package / "tasks" / "small_tasks.py").write_text(SMALL_TASKS)
        runtime = (python, "-m", "sales_pipelines.runtime")
        names = hashlib.sha256(b"RootTask").hexdigest()[:16]
        by = ("--node", "RootTask", "--graph", names, "--by", "bench/1", "--task", "RootTask")
        result = ("--result", str(made / "result.json"), "--", "small_tasks.py")
        times: tuple[list[float], list[float]] = ([], [])
        for number in range(1, 8):
            alone = ("run", "small_tasks.py", "--force")
            tried = ("--try", str(number), "--instance", str(number))
            in_dag = ("node", *by, *tried, *result)
            times[0].append(seconds((*runtime, *alone), environment, made))
            times[1].append(seconds((*runtime, *in_dag), environment, made))
        run, node = map(statistics.median, times)
        own = {**environment, "UV_PROJECT_ENVIRONMENT": str(made / "airflow" / ".venv")}
        parsing = (str(made / "airflow" / ".venv" / "bin" / "python"), "-c", PARSING)
        seconds(("uv", "sync", "--quiet", "--project", str(made / "airflow")), own, made)
        done = subprocess.run(
            [*parsing, str(made / "dags")],
            env={**own, "AIRFLOW_HOME": str(made / "airflow" / "home")},
            check=True,
            stdout=subprocess.PIPE,
        )
        empty, ours = json.loads(done.stdout.splitlines()[-1])
    report("a flow as a task of Airflow over `nox -s run`", node - run, 0.5, "s")
    report("to parse the DAG co2 over an empty one", 1000 * (ours - empty), 50, "ms")


def hooks() -> None:
    """A commit of one Python file with the repo's hooks on, against one with none."""
    with repo() as (python, environment):
        made = Path(python).parents[2]
        rule = str(made / "hooks" / "branch-name")
        env = {**environment, **{f"GIT_{who}_{what}": "bench@example.org" for who, what in PEOPLE}}

        def git(*arguments: str) -> float:
            return seconds(("git", "-C", str(made), *arguments), env)

        git("switch", "--quiet", "--create", "6_bench")
        times: dict[str, list[float]] = {"none": [], "prek": [], "pre-commit": [], "rule": []}
        for number in range(15):
            for runner, taken in times.items():
                if runner == "rule":
                    taken.append(seconds((rule,), env, made) - seconds(("sh", "-c", ":"), env))
                    continue
                seconds(INSTALL[runner == "pre-commit"], env, made)
                (made / "a.py").write_text(f'"""{runner}, {number}."""\n')
                git("add", "a.py")
                off = ("-c", "core.hooksPath=/dev/null") if runner == "none" else ()
                taken.append(git(*off, "commit", "--quiet", "--message", runner))
    none, prek, pre_commit, own = (statistics.median(taken) * 1000 for taken in times.values())
    report(f"commit with hooks under prek, over one without ({none:.0f} ms)", prek - none, 80, "ms")
    print(f"      the same under pre-commit: {pre_commit - none:.0f} ms")
    report("the branch rule, over a shell that does nothing", own, 5, "ms")


INSTALL = [("hooks/install",), (sys.executable, "-m", "pre_commit", "install", "--overwrite")]
PEOPLE = [(who, what) for who in ("AUTHOR", "COMMITTER") for what in ("NAME", "EMAIL")]


def tests() -> None:
    """The template's own tests, whole and without those that run end to end."""
    pytest = (sys.executable, "-m", "pytest", "--quiet")
    report("tests, quick", seconds((*pytest, "tests/quick", "tests/in_place")), 120, "s")
    report("tests, all", seconds(pytest), 540, "s")


BENCHMARKS: dict[str, Callable[[], None]] = {
    "copying": copying,
    "door": door,
    "fleet": fleet,
    "task": task,
    "importing": importing,
    "rechecking": rechecking,
    "overlay": overlay,
    "docker": docker,
    "tables": tables,
    "airflow": airflow,
    "hooks": hooks,
    "tests": tests,
}


def seconds(
    command: tuple[str, ...], environment: dict[str, str] | None = None, folder: Path = ROOT
) -> float:
    """Run the command, which must succeed, and return how long it took."""
    started = time.perf_counter()
    subprocess.run(
        command,
        env=environment,
        cwd=folder,
        check=True,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    return time.perf_counter() - started


def in_repo(name: str, python: str, environment: dict[str, str]) -> dict[str, Any]:
    """Run a part of in_repo.py with a generated repo's Python, and return what it found."""
    command = [python, str(IN_REPO), name]
    done = subprocess.run(
        command, env=environment, check=True, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
    )
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


@contextmanager
def folder() -> Iterator[Path]:
    """A folder that is gone afterwards."""
    with tempfile.TemporaryDirectory(prefix="headwater-bench-") as name:
        yield Path(name)


@contextmanager
def repo(**answers: object) -> Iterator[tuple[str, dict[str, str]]]:
    """The Python of a generated repo that is set up, and the environment to run it in."""
    with folder() as root:
        template = make_template(root / "template")
        made, home = root / "sales-pipelines", root / "home"
        home.mkdir()
        data = {"python_version": HERE, **answers}
        copier.run_copy(str(template), made, data=data, defaults=True, quiet=True)
        noxfile(made, home, "-s", "setup")
        python = str(made / ".venv" / "bin" / "python")
        subprocess.run([python, "-m", "compileall", "-q", made / ".venv"], check=False)
        yield python, clean_environment(home)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
