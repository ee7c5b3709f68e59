"""`nox -s clean`: frees this machine's disk of what is old and what nothing names any more.

What a marker or a retry names stays, and so does all of a flow that may be at work, and the markers
themselves. Nothing outside of `.metaflow` is touched but the Docker images that this checkout has
made and the containers that its tasks have made and never started, no link is followed to what is
deleted, and no bucket is looked at: who is at work on it elsewhere cannot be seen from here.
"""

from __future__ import annotations

import argparse
import contextlib
import gzip
import json
import os
import re
import shutil
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator
from functools import cache
from pathlib import Path
from typing import NamedTuple

from .. import paths
from ..console import counted, in_time, in_units
from ..container import engine
from ..errors import ImageError, PipelineError
from ..store.files import exclusive_lock
from . import inventory
from .inventory import Record

_UNITS = {"h": 3600.0, "d": 86400.0, "w": 7 * 86400.0}
_KEY = re.compile(rb"[0-9a-f]{40}")

RUN, ARTIFACT, OVERLAY, CACHED = "run", "artifact", "overlay", "cached file"
IMAGE, CONTAINER, ATTEMPTS, LEFT = "image", "container", "lost attempt", "left-over"

_REMOVERS = {CONTAINER: engine.remove_container, IMAGE: engine.remove}
_BEGINS_WITHIN = 3600.0
"""Seconds after which a container that was made and has not begun will not."""


class Item(NamedTuple):
    """Something that can be deleted, and what goes with it."""

    kind: str
    name: str
    """For a run and an artifact: FLOW/…"""
    paths: tuple[Path, ...]
    bytes: int
    used: float
    """When it was last written or used, in seconds since 1970."""

    @property
    def flow(self) -> str:
        """The flow that it is of; empty where it is of none."""
        return self.name.partition("/")[0] if self.kind in (RUN, ARTIFACT) else ""


class Seen(NamedTuple):
    """Who needs what, at one moment."""

    runs: set[str]
    """The runs there are, as FLOW/RUN_ID."""
    named: set[str]
    """Those that markers and attempts name."""
    busy: set[str]
    """The flows that may be at work."""
    images: set[str]
    """The Docker images that markers name."""
    lost: list[Record]
    """The attempts whose runs are all gone, so that there is nothing left to resume."""


class Plan(NamedTuple):
    """What would be deleted, the oldest first, and what is to be said of the rest."""

    items: list[Item]
    notes: list[str]
    seen: Seen | None
    """None where no run is looked at."""


def main(arguments: list[str]) -> int:
    """Show what is old, ask, and delete it; the exit code is as `--help` says."""
    parser = argparse.ArgumentParser(
        prog="nox -s clean --",
        description="Deletes what is older than a limit: runs with their artifacts and cards, "
        "overlays, cached files, and the Docker images that this checkout has made; shows it and "
        "asks first. What a marker names or a retry would resume is kept, and so are all markers, "
        "and all of a flow that may be at work. With the datastore on S3 it frees this machine's "
        "disk only: what is at work on other machines cannot be seen from here, so a bucket is "
        "left to whoever keeps it.",
        epilog="Exit codes: 0, also where nothing is deleted; 1 where something could not be "
        "deleted; 2 for a mistake, and where there is no terminal to ask at; 130 when stopped.",
    )
    parser.add_argument(
        "--older-than",
        type=age,
        default="30d",
        metavar="AGE",
        help="a number and h, d or w for hours, days or weeks; default: 30d",
    )
    parser.add_argument("--dry-run", action="store_true", help="show, and delete nothing")
    parser.add_argument("--yes", action="store_true", help="delete without asking")
    parser.add_argument("--nox", default="nox", help=argparse.SUPPRESS)  # as the user calls it
    options = parser.parse_args(arguments)
    place, here = inventory.datastore()
    with exclusive_lock(paths.metaflow_folder().resolve() / "clean.lock", refuse):
        return clean(place, here, options)


def age(text: str) -> float:
    """An age in seconds, from `30d`; an ArgumentTypeError says how it is written."""
    found = re.fullmatch(r"([0-9]{1,6})([hdw])", text)
    if not found:
        raise argparse.ArgumentTypeError(
            f"{text!r} is no age: a number and h, d or w for hours, days or weeks, e.g. 30d"
        )
    return int(found[1]) * _UNITS[found[2]]


def refuse(process: str) -> None:
    """Say who is at it already."""
    raise PipelineError(f"process {process} is cleaning already; try again when it is done")


def clean(place: str, here: Path, options: argparse.Namespace) -> int:
    """Do what the command line says; see `main`."""
    before = time.time() - options.older_than
    plan = plan_for(place, here, before)
    show(plan, options.older_than)
    if not plan.items or options.dry_run:
        return 0
    if not options.yes and not sys.stdin.isatty():
        raise PipelineError(
            "nothing is deleted, for there is no terminal to ask at; without being asked: "
            f"{options.nox} -s clean -- --yes"
        )
    if not options.yes and not agreed():
        print("Nothing is deleted.")
        return 0
    return delete(plan, here)


def show(plan: Plan, older_than: float) -> None:
    """Print what would be deleted, a line for each kind."""
    if plan.items:
        print(f"Older than {in_time(older_than)}, and named by nothing:")
    else:
        print(f"Nothing to delete that is older than {in_time(older_than)}.")
    for kind in (RUN, ARTIFACT, OVERLAY, IMAGE, CONTAINER, CACHED, ATTEMPTS, LEFT):
        if items := [item for item in plan.items if item.kind == kind]:
            size = in_units(sum(item.bytes for item in items))
            some = [f"{each.name} ({in_time(time.time() - each.used)})" for each in items[:2]]
            more = ", …" if items[2:] else ""
            print(f"  {counted(len(items), kind):<24}{size:>8}   {', '.join(some) + more}")
    if plan.items:
        print(f"  {'in all':<24}{in_units(sum(item.bytes for item in plan.items)):>8}")
    print(*plan.notes, sep="\n", end="\n" if plan.notes else "", flush=True)


def agreed() -> bool:
    """Does the user say yes?"""
    try:
        return input("Delete it? [y/N] ").strip().lower() in ("y", "yes")
    except EOFError:
        print()
        return False


def plan_for(place: str, here: Path, before: float) -> Plan:
    """What can go: last used before then, in seconds since 1970."""
    found: list[Item] = []
    notes: list[str] = []
    seen = None
    if place != str(here):
        notes.append(
            f"Left to whoever keeps the bucket: {place}, for what is at work there on other "
            "machines cannot be seen from here."
        )
    else:
        try:
            seen = look(here)
        except (PipelineError, OSError) as error:
            notes.append(f"No run is touched: {error}, so which runs it names is unknown.")
    if seen:
        if kept := len(seen.runs & seen.named):
            those = counted(kept, "run")
            notes.append(f"Kept for markers, and for the retry of what failed: {those}.")
        if seen.busy:
            notes.append(f"May be at work, so left alone: {', '.join(sorted(seen.busy))}.")
        for flow in inventory.flows(here):
            if flow.name not in seen.busy:
                try:
                    found += [*of_flow(here, flow, seen.named, before)]
                except (OSError, ValueError) as error:
                    notes.append(f"{flow.name} is left alone: {error}.")
        found += [item_of(ATTEMPTS, each.task_id, Path(each.place)) for each in seen.lost]
    if seen or place != str(here):
        found += of_engine(seen.images if seen else set(), notes)
    # A task uses its overlay when it starts; what it has used since then is at work.
    since = min([before, *(begun - 1 for begun in inventory.tasks_at_work(here).values())])
    overlays = [item_of(OVERLAY, each.name, each) for each in inventory.overlays()]
    found += [item for item in overlays if item.used < since]
    for folder, _, names in os.walk(paths.client_cache().resolve()):
        found += [item_of(CACHED, name[:8], Path(folder, name)) for name in names]
    found = [each for each in found if (each.paths or each.kind == IMAGE) and each.used < before]
    found += unstarted_containers()
    for base in {here, paths.metaflow_folder().resolve()}:
        found += [item_of(LEFT, each.name, each) for each in inventory.inside(base / "trash")]
    return Plan(sorted(found, key=lambda each: each.used), notes, seen)


def of_engine(named: set[str], notes: list[str]) -> list[Item]:
    """The images that this checkout has made and that nothing names."""
    try:
        made = engine.images()
    except ImageError as error:
        if paths.images().is_dir():  # it has made some
            notes.append(f"No image is touched: {error}.")
        return []
    return [
        Item(IMAGE, each.name, (), each.bytes, each.used) for each in made if each.name not in named
    ]


def unstarted_containers() -> list[Item]:
    """The containers that a task was killed over, whatever the limit: nothing can need them."""
    try:
        made = engine.unstarted_containers()
    except ImageError:  # as `of_engine` has said
        return []
    before = time.time() - _BEGINS_WITHIN
    return [
        Item(CONTAINER, each.name, (), each.bytes, each.used) for each in made if each.used < before
    ]


def item_of(kind: str, name: str, *its: Path) -> Item:
    """The item, without what of it lies behind a link, for that is somebody else's."""
    real = tuple(path for path in its if is_real(path.parent))
    return Item(kind, name, real, *inventory.usage(*real))


@cache
def is_real(folder: Path) -> bool:
    """Does no link lead to the folder?"""
    return folder.resolve() == folder


def look(here: Path) -> Seen:
    """Who needs what, now. Raises PipelineError or OSError where a marker cannot be read."""
    # In this order: what is not at work has written its marker before they are read.
    at_work = inventory.tasks_at_work(here)
    records = inventory.records(str(here))
    runs = {f"{run.parent.name}/{run.name}": run for run in inventory.runs(here)}
    processes = inventory.run_ids_at_work()
    busy = {
        run.parent.name
        for run in runs.values()
        if run.name in processes or inventory.may_be_at_work(run)
    }
    named: set[str] = set()
    images: set[str] = set()
    lost: list[Record] = []
    flow_of: dict[str, str] = {}
    for record in records:
        its = record.named()
        named |= its
        if record.is_marker:
            images.add(str(record.read().get("image")))
        if not record.is_marker and record.task_id in at_work:
            flow_of[record.task_id] = record.read()["flow"]
        elif not record.is_marker and not its & runs.keys():
            lost.append(record)
    busy |= {flow_of.get(task_id, "") for task_id in at_work}
    if "" in busy:  # a task that has yet to say its flow may have any
        busy = {flow.name for flow in inventory.flows(here)}
    return Seen({*runs}, named, busy, images, lost)


def of_flow(here: Path, flow: Path, named: set[str], before: float) -> Iterator[Item]:
    """The runs that nothing names, and the artifacts that none of the others names.

    A run that was resumed, and one that made the same thing, share artifacts.
    """
    where: dict[str, list[Path]] = {}
    cards = here / "mf.cards" / flow.name / "runs"
    for folder in (*inventory.inside(flow), *inventory.inside(cards)):
        if folder.name not in inventory.NO_RUNS and f"{flow.name}/{folder.name}" not in named:
            where.setdefault(folder.name, []).append(folder)
    items = {name: item_of(RUN, f"{flow.name}/{name}", *its) for name, its in where.items()}
    going = {name: item for name, item in items.items() if item.used < before}
    # Behind links, too: what a run names is named wherever that lies.
    left = [run for run in flow.iterdir() if run.is_dir() and run.name not in inventory.NO_RUNS]
    left = [run for run in left if run.name not in going]
    for run in left:  # and then those whose finished steps it has taken over
        for origin in inventory.origins(run) & going.keys():
            del going[origin]
            left.append(flow / origin)
    yield from going.values()
    keys = keys_of(flow, left)
    for folder in (*inventory.inside(flow / "data"), here / "data" / flow.name):
        for file in inventory.inside(folder, files=True):
            if file.name not in keys and not file.name.endswith("_meta"):
                meta = file.with_name(f"{file.name}_meta")
                yield item_of(ARTIFACT, f"{flow.name}/{file.name[:8]}", file, meta)


def keys_of(flow: Path, runs: Iterable[Path]) -> set[str]:
    """The keys of the artifacts that runs name, and of the files that they have included.

    Raises OSError or ValueError where that cannot be read.
    """
    keys: set[str] = set()
    descriptors: set[str] = set()
    for run in runs:
        for told in run.glob("*/*/*.data.json"):
            said = json.loads(told.read_bytes())
            objects, info = said.get("objects", {}), said.get("info", {})
            keys |= set(objects.values())
            is_file = {name for name in objects if "IncludedFile" in str(info.get(name))}
            descriptors |= {objects[name] for name in is_file}
        for told in run.glob("*/*/_meta/*code-package*"):
            keys |= {found.decode() for found in _KEY.findall(told.read_bytes())}
    for key in descriptors:
        blob = (flow / "data" / key[:2] / key).read_bytes()
        plain = gzip.decompress(blob) if blob[:2] == b"\x1f\x8b" else blob
        keys |= {found.decode() for found in _KEY.findall(plain)}
    return keys


def delete(plan: Plan, here: Path) -> int:
    """Delete what is planned, and say what that has freed; 1 where something could not be.

    All of it is moved aside first, and then who needs what is looked at once more. A run has its
    folder before it looks for an artifact: one that has begun is seen by then, and one that begins
    later finds none, and writes it anew. So what turns out to be needed is put back in time.
    """
    moved: dict[Item, list[tuple[Path, Path]]] = {}
    failed: set[Item] = set()
    going: set[Item] = set()
    with contextlib.ExitStack() as stack:
        trash = {
            base: stack.enter_context(trash_in(base))
            for base in {here, paths.metaflow_folder().resolve()}
        }
        try:
            for item in (each for each in plan.items if each.kind not in _REMOVERS):
                base = (
                    here
                    if item.paths[0].is_relative_to(here)
                    else paths.metaflow_folder().resolve()
                )
                its = moved[item] = []
                with explained(item, failed):
                    for number, path in enumerate(item.paths):
                        target = trash[base] / f"{len(moved)}.{number}"
                        with contextlib.suppress(FileNotFoundError):
                            path.rename(target)
                            its.append((path, target))
            stirred: set[str] = set()
            named: set[str] = set()
            if plan.seen:
                now = look(here)
                named = now.images
                new = (now.runs - plan.seen.runs) | (now.named - plan.seen.named)
                stirred = now.busy | {each.partition("/")[0] for each in new}
            for item, its in moved.items():
                used = inventory.usage(*(target for _, target in its)).changed
                if item not in failed and used <= item.used and item.flow not in stirred:
                    going.add(item)
        finally:
            back = [item for item in moved if item not in going]
            for item in back:
                with explained(item, failed):
                    for path, target in moved[item]:
                        if not path.exists():
                            target.rename(path)
        for item in going:
            with explained(item, failed):
                for _, target in moved[item]:
                    if target.is_dir() and not target.is_symlink():
                        shutil.rmtree(target)
                    else:
                        target.unlink()
    of_docker = [item for item in plan.items if item.kind in _REMOVERS]
    for item in sorted(of_docker, key=lambda each: each.kind):  # containers hold images
        said = "named" if item.name in named else _REMOVERS[item.kind](item.name)
        if not said:
            going.add(item)
        elif said == "named" or "container" in said:  # one is made of it, and may be at work
            back.append(item)
        else:
            failed.add(item)
            print(f"clean: {item.name}: {said}", file=sys.stderr)
    if used_meanwhile := sorted({item.flow or item.name for item in back if item not in failed}):
        print(f"Used meanwhile, so left alone: {', '.join(used_meanwhile)}.")
    print(f"Freed {in_units(sum(item.bytes for item in going if item not in failed))}.")
    return 1 if failed else 0


@contextlib.contextmanager
def trash_in(base: Path) -> Iterator[Path]:
    """A new folder of the same file system, which goes with the last thing in it."""
    (base / "trash").mkdir(parents=True, exist_ok=True)
    folder = Path(tempfile.mkdtemp(dir=base / "trash"))
    try:
        yield folder
    finally:
        for each in (folder, folder.parent):
            with contextlib.suppress(OSError):
                each.rmdir()


@contextlib.contextmanager
def explained(item: Item, failed: set[Item]) -> Iterator[None]:
    """Say what of the item cannot be deleted, and go on with the others."""
    try:
        yield
    except OSError as error:
        failed.add(item)
        print(f"clean: {error.filename}: {error.strerror}", file=sys.stderr)
