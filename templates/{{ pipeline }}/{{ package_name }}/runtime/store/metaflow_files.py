"""Metaflow's own files in a datastore: where runs, artifacts and cards are, and what they say.

Below the datastore's folder Metaflow 2.19 writes

    FLOW/RUN_ID/STEP/TASK_ID/       a task's logs and keys of artifacts; last, `*.DONE.lock`
    FLOW/RUN_ID/_parameters/        a task as well: it exists as soon as the run has its parameters
    FLOW/data/KE/KEY and KEY_meta   artifacts and code, named by their content, which runs share
    data/FLOW/KEY                   files that runs include
    mf.cards/FLOW/runs/RUN_ID/      cards

and in FLOW and in each folder of a run, step and task the metadata, in `_meta`.
"""

from __future__ import annotations

import contextlib
import gzip
import io
import json
import pickle
import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple

from . import list_below, read

_NO_RUNS = {"_meta", "data"}
_KEY = re.compile(rb"[0-9a-f]{40}")
_GZIP = b"\x1f\x8b"
_UNREADABLE = (LookupError, ValueError, TypeError, pickle.UnpicklingError)
"""What reading an artifact raises if there is none, or if it is no plain value."""


def folders_in(folder: Path) -> list[Path]:
    """The folders in a folder; no links, because what they lead to belongs to somebody else."""
    return sorted(path for path in _entries(folder) if path.is_dir() and not path.is_symlink())


def _entries(folder: Path) -> Iterable[Path]:
    # ruff formats `except (A, B):` in two ways, by the lowest Python; the runtime is one for all.
    with contextlib.suppress(FileNotFoundError, NotADirectoryError):
        return [*folder.iterdir()]
    return ()


def all_folders(root: Path) -> list[Path]:
    """All folders in which Metaflow keeps what runs have made."""
    return [*flows(root), root / "mf.cards", root / "data"]


def flows(root: Path) -> list[Path]:
    """The folder of each flow that has run."""
    return [folder for folder in folders_in(root) if (folder / "_meta" / "_self.json").is_file()]


def runs(root: Path) -> list[Path]:
    """The folder of each run, FLOW/RUN_ID."""
    return [run for flow in flows(root) for run in folders_in(flow) if run.name not in _NO_RUNS]


def runs_of(flow: Path) -> list[Path]:
    """The runs of a flow, also behind links: they name artifacts wherever they are."""
    return [run for run in flow.iterdir() if run.is_dir() and run.name not in _NO_RUNS]


def folders_of_runs(flow: Path) -> dict[str, list[Path]]:
    """The folders of each run of a flow, by its id: of the run itself, and of its cards."""
    folders: dict[str, list[Path]] = {}
    cards = flow.parent / "mf.cards" / flow.name / "runs"
    for folder in (*folders_in(flow), *folders_in(cards)):
        if folder.name not in _NO_RUNS:
            folders.setdefault(folder.name, []).append(folder)
    return folders


def cards_of(root: str, run: str, *resumed: str) -> list[str]:
    """Where the cards of the run FLOW/RUN_ID are; those of steps it has resumed are in these."""
    flow, run_id = run.split("/")
    folders = [f"{root}/mf.cards/{flow}/runs/{each}" for each in (run_id, *resumed)]
    return [
        file for folder in folders for file in sorted(list_below(folder)) if file.endswith(".html")
    ]


def artifacts(flow: Path) -> Iterator[tuple[Path, Path]]:
    """Each artifact and included file of a flow, by its key, and the file with its metadata."""
    for folder in (*folders_in(flow / "data"), flow.parent / "data" / flow.name):
        for file in _entries(folder):
            if not file.name.endswith("_meta") and file.is_file() and not file.is_symlink():
                yield file, file.with_name(f"{file.name}_meta")


def keys_in(flow: Path, runs: Iterable[Path]) -> set[str]:
    """The keys of all that these runs use: artifacts, code packages and included files.

    Raises OSError or ValueError if they cannot be read.
    """
    keys: set[str] = set()
    descriptors: set[str] = set()  # artifacts that name the key of an included file
    for run in runs:
        for file in run.glob("*/*/*.data.json"):
            contents = json.loads(file.read_bytes())
            objects, info = contents.get("objects", {}), contents.get("info", {})
            keys |= set(objects.values())
            descriptors |= {
                key for name, key in objects.items() if "IncludedFile" in str(info.get(name))
            }
        for file in run.glob("*/*/_meta/*code-package*"):
            keys |= _keys_named_in(file.read_bytes())
    for key in descriptors:
        blob = (flow / "data" / key[:2] / key).read_bytes()
        keys |= _keys_named_in(gzip.decompress(blob) if blob.startswith(_GZIP) else blob)
    return keys


def parameters_of(run: str) -> set[str] | None:
    """The attributes in which the flow of the run at this address had parameters and configs.

    None if the run cannot tell.
    """
    try:
        info = _artifact(f"{run}/_parameters", "_graph_info")
        return {str(each["name"]) for each in info["parameters"]}
    except _UNREADABLE:
        return None


class StepException(NamedTuple):
    """The exception that ended a task."""

    summary: str
    """Its class and the first line of its message, as Python shows them."""
    traceback: str


def exception_of(task: str) -> StepException | None:
    """The exception of the last attempt of the task at this address, in a folder or on S3.

    None if the task kept none: its process was killed, or exited by itself.
    """
    try:
        exception = vars(_artifact(task, "_exception"))
        name = re.sub(r"^(builtins|__main__)\.", "", exception["type"])
        message = " ".join(exception["exception"].strip().splitlines()[:1])
        return StepException(f"{name}: {message}" if message else name, exception["stacktrace"])
    except _UNREADABLE:
        return None


def _artifact(folder: str, name: str) -> Any:
    """The artifact of the last attempt of the task or step at this address, plain values alone.

    Raises one of _UNREADABLE if there is none.
    """
    attempts = sorted(each for each in list_below(folder) if each.endswith(".data.json"))
    key = json.loads(read(attempts[-1]))["objects"][name]
    flow = attempts[-1].rsplit("/", 4)[0]
    blob = read(f"{flow}/data/{key[:2]}/{key}")
    pickled = gzip.decompress(blob) if blob.startswith(_GZIP) else blob
    return _TextOnly(io.BytesIO(pickled)).load()


class _TextOnly(pickle.Unpickler):
    """Reads the attributes of Metaflow's wrapper of an exception, and runs no code of a class."""

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) != ("metaflow.exception", "MetaflowExceptionWrapper"):
            raise pickle.UnpicklingError(f"{module}.{name} is no MetaflowExceptionWrapper")
        return lambda _: SimpleNamespace()


def _keys_named_in(contents: bytes) -> set[str]:
    return {key.decode() for key in _KEY.findall(contents)}


def origins(run: Path) -> set[str]:
    """The ids of the runs whose finished steps this run took over: they have its logs and cards."""
    ids = set()
    for step in folders_in(run):
        for file in step.glob("*/_meta/sysmeta_origin-run-id_*.json"):
            with contextlib.suppress(ValueError):
                ids.add(str(json.loads(file.read_bytes()).get("value")))
            break  # all tasks of a step have the same
    return ids


def has_succeeded(run: Path) -> bool:
    """True if the run has finished its last step."""
    return any((run / "end").glob("*/*.DONE.lock"))


def last_change(run: Path) -> float:
    """When the run last began a step or a task, in seconds since 1970."""
    return max(folder.stat().st_mtime for folder in (run, *folders_in(run)))


def step_of_end(run: Path) -> str:
    """The step at which the run stopped: one that failed, else one that did not finish."""
    unfinished = ""
    tasks = (task for task in run.glob("[!_]*/[!_]*") if task.is_dir())  # no `_meta`
    for task in sorted(tasks, key=lambda task: task.parent.stat().st_mtime):
        outcomes = sorted((task / "_meta").glob("sysmeta_attempt_ok_*.json"))
        if outcomes and b'"False"' in outcomes[-1].read_bytes():
            return task.parent.name
        if not outcomes and not list((task / "_meta").glob("sysmeta_origin-task-id_*.json")):
            unfinished = unfinished or task.parent.name
    return unfinished


def can_be_resumed(run: str, *, is_resumed: bool) -> bool:
    """True if the run at this address, in a folder or on S3, has all that a resume takes over.

    A run that was itself resumed must have taken over every finished task of its origin.
    """
    # Metaflow writes `_resume_done` when it has cloned the last finished task.
    ending = "/_resume_done" if is_resumed else ".DONE.lock"
    return any(address.endswith(ending) for address in list_below(f"{run}/_parameters"))
