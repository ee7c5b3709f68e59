"""`nox -s new -- sales/forecast`: makes one more flow, its task and its test, from the template.

Copier makes the files in a folder of its own, from the template in the version that the repo is on.
They come into the repo only if none of them is there already.
"""

from __future__ import annotations

import argparse
import ast
import contextlib
import os
import re
import signal
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

sys.path.insert(0, str(Path(__file__).resolve().parent))  # also with PYTHONSAFEPATH

import copier
import update
from update import NOX, GitError, Repo, Template, UpdateError

KINDS = {
    "minimal": "a parameter, three steps and a result; the default",
    "foreach": "works on each part of the data in parallel, and puts the results together",
    "train-predict": "one flow trains a model and shows its error on a card, one predicts with it",
    "scrape": "fetches the pages of a site, politely, and reads a row from each",
    "curate": "makes rows and loads them into a table of a database",
}


class FlowTask(NamedTuple):
    """A task that runs a flow."""

    file: str
    """Its module, below tasks/."""
    name: str
    flow_path: str
    is_root: bool
    """True if it is the module's RootTask."""

    @property
    def names(self) -> set[str]:
        """What a user may call it."""
        file, flow = self.file.removesuffix(".py"), self.flow_path.removesuffix(".py")
        folder = self.flow_path.rpartition("/")[0]
        return {self.name, str(self), file, f"{file}.py", flow, f"{flow}.py", folder}

    def __str__(self) -> str:
        return f"{self.file}:{self.name}"


def main(arguments: Sequence[str]) -> int:
    """Make the flow in the repo in the current folder; an exit code of update.EXIT_CODES."""
    options = parser().parse_args(arguments)
    try:
        repo = Repo.of(Path.cwd())
        package = repo.folder / repo.answers["package_name"]
        after = find_task(package, options.after) if options.after else ""
        data = {
            "new_flow": options.flow,
            "kind": options.kind,
            "after": str(after),
            "in_container": options.in_container,
        }
        with tempfile.TemporaryDirectory(prefix="new-flow-") as folder:
            made = render(repo, template_of(repo, Path(folder)), Path(folder, "made"), data)
            names = sorted(
                path.relative_to(made).as_posix() for path in made.rglob("*") if path.is_file()
            )
            check_free(repo, package, options.flow, made, names)
            place(made, repo.folder, names)
    except UpdateError as error:
        print(f"new: {error}", file=sys.stderr)
        return error.code
    except (GitError, OSError) as error:
        print(f"new: {error}", file=sys.stderr)
        return update.FAILED
    except KeyboardInterrupt:
        print("new: interrupted, and nothing is made", file=sys.stderr)
        return 130
    test = next(name for name in names if name.startswith("tests/"))
    print(
        *("These files are yours now; no update touches them:\n", *(f"  {name}" for name in names)),
        *(f"\nNext:\n\n  {NOX} -s run -- {options.flow}_tasks.py", f"  {NOX} -s test -- {test}"),
        sep="\n",
    )
    return 0


def parser() -> argparse.ArgumentParser:
    """The options."""
    made = argparse.ArgumentParser(
        prog="nox -s new --",
        description="Make one more flow, with its task and its test, which run at once.",
        epilog="kinds:\n" + "\n".join(f"  {name:15}{line}" for name, line in KINDS.items()),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    made.add_argument("flow", metavar="GROUP/NAME", help="its name, e.g. sales/forecast")
    made.add_argument("--kind", choices=KINDS, default="minimal", help="what it is a model of")
    made.add_argument(
        "--after",
        metavar="FLOW",
        help="the flow or task whose result it takes, e.g. sales/clean, or "
        "sales/clean_tasks.py:Clean",
    )
    made.add_argument(
        "--in-container",
        action="store_true",
        help="its task runs it in a container, by a Dockerfile of its own",
    )
    return made


def find_task(package: Path, text: str) -> FlowTask:
    """The one task that the user means."""
    tasks = list(tasks_in(package / "tasks"))
    name = re.sub(rf"^\./|^({re.escape(package.name)}/)?(flows|tasks)/|/$", "", text)
    matches = [task for task in tasks if name in task.names]
    if len({task.file for task in matches}) == 1 and len(matches) > 1:
        matches = [task for task in matches if task.is_root] or matches
    if len(matches) == 1:
        return matches[0]
    what = "more than one task" if matches else "no task of a flow"
    known = ", ".join(map(str, matches or tasks)) or "none"
    raise UpdateError(update.WRONG_USAGE, f"--after {text} is {what}", f"the tasks are {known}")


def tasks_in(folder: Path) -> Iterator[FlowTask]:
    """The tasks below the folder whose class says which flow they run."""
    for file in sorted(folder.rglob("*.py")):
        body: list[ast.stmt] = []
        with contextlib.suppress(SyntaxError, ValueError):
            body = ast.parse(file.read_bytes()).body
        # RootTask is a class, or a name for one.
        roots = {"RootTask"} | {
            node.value.id
            for node in body
            if isinstance(node, ast.Assign) and isinstance(node.value, ast.Name)
            if any(isinstance(each, ast.Name) and each.id == "RootTask" for each in node.targets)
        }
        for node in body:
            if isinstance(node, ast.ClassDef) and (flow_path := flow_path_of(node)):
                name = file.relative_to(folder).as_posix()
                yield FlowTask(name, node.name, flow_path, node.name in roots)


def flow_path_of(task: ast.ClassDef) -> str:
    """The `flow_path` that the class sets; empty if it sets none."""
    for node in task.body:
        targets = node.targets if isinstance(node, ast.Assign) else []
        targets = [node.target] if isinstance(node, ast.AnnAssign) else targets
        value = getattr(node, "value", None)
        if any(isinstance(each, ast.Name) and each.id == "flow_path" for each in targets):
            path = value.value if isinstance(value, ast.Constant) else ""
            return path if isinstance(path, str) else ""
    return ""


def template_of(repo: Repo, folder: Path) -> Path:
    """The template's files in the repo's version, from Copier's cache if that has them."""
    source, version = repo.absolute(repo.answers["_src_path"]), repo.answers["_commit"]
    with contextlib.suppress(UpdateError, ImportError):  # it is not there, or without this version
        from copier._vcs import _get_mirror_path  # Copier has no public name for it

        cache = folder / "cache"
        cache.mkdir()
        template = Template(str(_get_mirror_path(update.address(source))), cache)
        return template.files(template.commit(version))
    try:
        template = Template(source, folder)
    except UpdateError as error:
        hint = f"hint: without a network, version {version} must be in Copier's cache"
        raise UpdateError(error.code, f"{error}\n{hint}") from None
    return template.files(template.commit(version))


def render(repo: Repo, template: Path, made: Path, data: Mapping[str, object]) -> Path:
    """Make the flow in the folder, with the repo's answers, and return the folder."""
    if "new_flow" not in update.configuration(template):
        version = repo.answers["_commit"]
        reason = f"version {version} of the template makes no flows"
        raise UpdateError(update.NO_TEMPLATE, reason, f"{NOX} -s update")
    made.mkdir()
    answers = made / repo.answers_file
    answers.write_text(repo.answers_text, encoding="utf-8")
    try:
        with update.quick_copies():
            copier.run_copy(
                *(str(template), made, dict(data)),
                answers_file=repo.answers_file,
                defaults=True,
                quiet=True,
            )
    except Exception as error:  # of Copier, of Jinja, of a template's own
        wrong = re.fullmatch(r"Validation error for question '(\w+)': (.*)", str(error))
        if wrong and wrong[1] in data:
            raise UpdateError(update.WRONG_USAGE, f"{data[wrong[1]]} {wrong[2]}") from None
        raise UpdateError(update.FAILED, f"Copier cannot make the flow: {error}") from None
    answers.unlink()
    return made


def check_free(repo: Repo, package: Path, flow: str, made: Path, names: list[str]) -> None:
    """Check that the flow replaces no file, takes no flow's name and hides no package from it."""
    flows, name = package / "flows", flow.rpartition("/")[2]
    taken = [flows / flow, flows / f"{flow}.py", *(repo.folder / each for each in names)]
    for path in taken:
        if os.path.lexists(path):
            where = path.relative_to(repo.folder)
            raise UpdateError(
                update.REFUSED, f"{flow} exists already: {where}", "take another name"
            )
    new = {each for file in made.rglob("*.py") for each in classes_in(file)}
    for file in sorted(flows.rglob("*.py")):
        if same := new & classes_in(file):
            where = file.relative_to(repo.folder)
            reason = f"{flow} would have a flow {min(same)}, and {where} has one"
            hint = "take another name, because Metaflow knows a flow by its class"
            raise UpdateError(update.REFUSED, reason, hint)
    environment = repo.folder / os.environ.get("UV_PROJECT_ENVIRONMENT", ".venv")
    for pattern in (name, f"{name}.py", f"{name}.*.so"):
        if any(environment.glob(f"lib/python*/site-packages/{pattern}")):
            reason = f"{flow} would hide the package {name} from the flow"
            raise UpdateError(update.WRONG_USAGE, reason, f"{NOX} -s new -- {flow}_flow")


def classes_in(file: Path) -> set[str]:
    """The names of the file's classes that are called flows."""
    text = file.read_text(encoding="utf-8", errors="replace")
    return set(re.findall(r"^class (\w+Flow)\b", text, re.MULTILINE))


def place(made: Path, folder: Path, names: Sequence[str]) -> None:
    """Put the files into the folder; all of them, or none."""
    new: list[Path] = []
    try:
        for name in names:
            for parent in reversed(Path(name).parents):
                if not (folder / parent).is_dir():
                    (folder / parent).mkdir()
                    new.append(folder / parent)
            with (folder / name).open("xb") as file:
                new.append(folder / name)
                file.write((made / name).read_bytes())
    except BaseException:
        for path in reversed(new):
            with contextlib.suppress(OSError):
                path.rmdir() if path.is_dir() else path.unlink()
        raise


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # it leaves nothing half-made
    sys.exit(main(sys.argv[1:]))
