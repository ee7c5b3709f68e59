"""`nox -s clean`: deletes from this machine's disk what is old and not needed.

It keeps what a marker or a retry names, all of a flow that may be running, and all markers. It
deletes only below `.metaflow`, follows no link there, and from Docker takes only images and
containers that this checkout made. A bucket is left alone, because runs of other machines cannot
be seen from here.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import shutil
import sys
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from functools import cache, partial
from pathlib import Path
from typing import NamedTuple, NoReturn

from .. import paths, store
from ..console import as_called, counted, in_time, in_units, seconds
from ..container import engine
from ..errors import ImageError, PipelineError
from ..packages.overlay import MADE_FROM
from ..store import metaflow_files
from ..store.files import locked
from . import records

RUN, ARTIFACT, OVERLAY, CONTAINER = "run", "artifact", "overlay", "container"
IMAGE, CACHED, LOG, ATTEMPTS, LEFT_OVER = "image", "cached file", "log", "lost attempt", "left-over"
# In the order in which they are deleted: a run that is still there must find its artifacts, and
# an image cannot go before its containers.
KINDS = (RUN, ARTIFACT, OVERLAY, CONTAINER, IMAGE, CACHED, LOG, ATTEMPTS, LEFT_OVER)

_REMOVERS = {CONTAINER: engine.remove_container, IMAGE: engine.remove}


@dataclass(frozen=True)
class Item:
    """Something that can be deleted; of two plans, items are equal if they are the same thing."""

    kind: str
    name: str
    """For a run and an artifact: FLOW/…"""
    paths: tuple[Path, ...]
    """In the order in which they are deleted."""
    bytes: int = field(compare=False)
    used: float = field(compare=False)
    """When it was last written or used, in seconds since 1970."""
    image: engine.Resource | None = field(default=None, compare=False)

    @property
    def flow(self) -> str:
        """The flow that it belongs to; empty if it belongs to none."""
        return self.name.partition("/")[0] if self.kind in (RUN, ARTIFACT) else ""


class Plan(NamedTuple):
    """What can be deleted, the oldest first, and what the user should know about the rest."""

    items: list[Item]
    notes: list[str]


def main(arguments: list[str]) -> int:
    """Show what is old, ask, and delete it; `--help` explains the exit codes."""
    parser = argparse.ArgumentParser(
        prog=as_called("nox -s clean --"),
        description="Deletes what is older than a limit: runs with their artifacts and cards, "
        "overlays, cached files, logs, and Docker images that this checkout made. Shows what would "
        "be deleted, and asks. Keeps what a marker names or a retry would resume, all markers, and "
        "all of a flow that may be running. Deletes nothing while a task of this checkout runs, "
        "and nothing in a bucket.",
        epilog="Exit codes: 0, also if nothing is deleted; 1 if something could not be deleted; "
        "2 for a mistake, if a task is running, or without a terminal to ask at; 130 if stopped.",
    )
    parser.add_argument(
        "--older-than",
        type=age,
        default="30d",
        metavar="AGE",
        help="a number and h, d or w for hours, days or weeks (or s, m); default: 30d",
    )
    parser.add_argument("--dry-run", action="store_true", help="show, and delete nothing")
    parser.add_argument("--yes", action="store_true", help="delete without asking")
    options = parser.parse_args(arguments)
    datastore, local = records.datastore()
    if not options.dry_run and records.running_tasks(local):
        refuse(local, "")
    make_plan = partial(plan_for, datastore, local, time.time() - options.older_than)
    plan = make_plan()
    show(plan, options.older_than)
    if not plan.items or options.dry_run:
        return 0
    if not options.yes and not sys.stdin.isatty():
        raise PipelineError(
            "nothing is deleted, because there is no terminal to ask at\n"
            "hint: without a question: nox -s clean -- --yes"
        )
    if not options.yes and not agreed():
        print("Nothing is deleted.")
        return 0
    with locked(local / paths.TASKS_LOCK, partial(refuse, local)):
        return delete(plan.items, make_plan().items)


def age(text: str) -> float:
    """An age in seconds, from `30d`; raises ArgumentTypeError for anything else."""
    with contextlib.suppress(ValueError):
        # A number alone would be seconds, which nobody means here.
        if text[-1:].isalpha() and (limit := seconds(text)) >= 0:
            return limit
    raise argparse.ArgumentTypeError(
        f"{text!r} is not an age: a number and s, m, h, d or w, e.g. 12h, 30d or 2w"
    )


def refuse(local: Path, _: str) -> NoReturn:
    """Raise PipelineError with the tasks that are running."""
    now = time.time()
    running = [
        f"{task} (for {in_time(now - since)})"
        for task, since in records.running_tasks(local).items()
    ]
    names = ", ".join(running) or "a task that has just started, or another clean"
    raise PipelineError(
        f"nothing is deleted, because this is running: {names}\nhint: when it is done: nox -s clean"
    )


def show(plan: Plan, older_than: float) -> None:
    """Print what would be deleted, a line for each kind."""
    if plan.items:
        print(f"Older than {in_time(older_than)}, and no marker or retry needs it:")
    else:
        print(f"Nothing to delete that is older than {in_time(older_than)}.")
    for kind in KINDS:
        if items := [item for item in plan.items if item.kind == kind]:
            size = in_units(sum(item.bytes for item in items))
            oldest = [f"{item.name} ({in_time(time.time() - item.used)})" for item in items[:2]]
            more = ", …" if items[2:] else ""
            print(f"  {counted(len(items), kind):<24}{size:>8}   {', '.join(oldest)}{more}")
    if plan.items:
        print(f"  {'in all':<24}{in_units(sum(item.bytes for item in plan.items)):>8}")
    print(*plan.notes, sep="\n", end="\n" if plan.notes else "", flush=True)


def agreed() -> bool:
    """True if the user says yes."""
    try:
        return input("Delete it? [y/N] ").strip().lower() in ("y", "yes")
    except EOFError:
        print()
        return False


def plan_for(datastore: str, local: Path, before: float) -> Plan:
    """What can be deleted and was last used before that time, in seconds since 1970."""
    notes: list[str] = []
    items: list[Item] = []
    if store.is_on_s3(datastore):
        notes.append(
            f"The bucket is left alone: {datastore}; runs of other machines cannot be seen here."
        )
        items += unused_images(set(), before, notes)
    else:
        try:
            items += list(unneeded(local, before, notes))  # all of it, or nothing
        except (PipelineError, OSError) as error:
            notes.append(f"No run is touched: {error}, so it is unknown which runs it names.")
    for overlay in records.overlays():
        # The next task installs an overlay anew if it lacks this file.
        items.append(item_of(OVERLAY, overlay.name, overlay / MADE_FROM, overlay))
    for client_cache in records.present_and_former(paths.client_cache()):
        for folder, _, names in os.walk(client_cache):
            items += [item_of(CACHED, name[:8], Path(folder, name)) for name in names]
    items += [item_of(LOG, path.name, path) for path in local.glob("logs/*.log")]
    items += [item_of(LEFT_OVER, path.name, path) for path in records.left_by_kills(local)]
    items += unstarted_containers()
    items = [
        item for item in items if (item.paths or item.kind in _REMOVERS) and item.used < before
    ]
    # Version 2026.11.0 moved things there before it deleted them.
    for base in {local, (paths.ROOT / ".metaflow").resolve()}:
        trash = metaflow_files.folders_in(base / "trash")
        items += [item_of(LEFT_OVER, path.name, path) for path in trash]
    return Plan(sorted(items, key=lambda item: item.used), notes)


def unneeded(local: Path, before: float, notes: list[str]) -> Iterator[Item]:
    """What no marker and no retry needs, of a datastore on this machine.

    Raises PipelineError or OSError if a marker cannot be read.
    """
    needed, over = set[str](), set[str]()
    images: set[str] = set()
    running_tasks = records.running_tasks(local)
    lost: list[Item] = []
    runs = {f"{run.parent.name}/{run.name}" for run in metaflow_files.runs(local)}
    for record in records.records(str(local)):
        named = record.runs()
        needed |= named
        if record.task_id not in running_tasks:  # whose lock would be held to the end of its run
            over |= named
        if record.is_marker:
            images.add(str(record.read().get("image")))
        elif not named & runs:  # there is nothing left to resume
            lost.append(item_of(ATTEMPTS, record.task_id, Path(record.address)))
    running = records.running_flows(local, over)
    if kept := len(runs & needed):
        notes.append(f"Kept for a marker, or to retry what failed: {counted(kept, 'run')}.")
    if running:
        notes.append(f"May be running, so left alone: {', '.join(sorted(running))}.")
    yield from lost
    for flow in metaflow_files.flows(local):
        if flow.name not in running:
            try:
                yield from list(of_flow(flow, needed, before))
            except (OSError, ValueError) as error:
                notes.append(f"{flow.name} is left alone: {error}.")
    yield from unused_images(images, before, notes)


def of_flow(flow: Path, needed: set[str], before: float) -> Iterator[Item]:
    """A flow's old runs that are not needed, and the artifacts that no other run names.

    Runs share artifacts: a resumed run with its origin, and any two that made the same value.
    """
    old = {}
    for run_id, folders in metaflow_files.folders_of_runs(flow).items():
        name = f"{flow.name}/{run_id}"
        if name not in needed and (item := item_of(RUN, name, *folders)).used < before:
            old[run_id] = item
    kept = [run for run in metaflow_files.runs_of(flow) if run.name not in old]
    for run in kept:  # which grows: a run needs those whose finished steps it took over
        for origin in metaflow_files.origins(run) & old.keys():
            del old[origin]
            kept.append(flow / origin)
    yield from old.values()
    keys = metaflow_files.keys_in(flow, kept)
    for file, metadata in metaflow_files.artifacts(flow):
        if file.name not in keys:
            yield item_of(ARTIFACT, f"{flow.name}/{file.name[:8]}", file, metadata)


def unused_images(needed: set[str], before: float, notes: list[str]) -> list[Item]:
    """The old images that this checkout made, no marker names, and no image that is kept stands on.

    A layer that several have counts for the first, and one that an image of anybody's keeps for
    none.
    """
    try:
        images = engine.images()
        kept = [image for image in images if image.name in needed or image.used >= before]
        old = [
            image
            for image in images
            if image not in kept and not any(image.layers.keys() <= k.layers.keys() for k in kept)
        ]
        counted_layers = engine.layers_of_all(but=[image.name for image in old])
    except ImageError as error:
        if paths.images().is_dir():  # the checkout has made some
            notes.append(f"No image is touched: {error}.")
        return []
    items = []
    for image in old:
        size = engine.size([image], without=counted_layers)
        items.append(Item(IMAGE, image.name, (), size, image.used, image))
        counted_layers |= image.layers.keys()
    return items


def unstarted_containers() -> list[Item]:
    """Containers of tasks that were killed before they started them."""
    try:
        containers = engine.unstarted_containers()
    except ImageError:  # which `unused_images` reports
        return []
    return [Item(CONTAINER, each.name, (), 0, each.used) for each in containers]


def item_of(kind: str, name: str, *files: Path) -> Item:
    """The item, without those files that are behind a link: they belong to somebody else."""
    own = tuple(file for file in files if is_real(file.parent))
    return Item(kind, name, own, *records.usage(*own))


@cache
def is_real(folder: Path) -> bool:
    """True if no link leads to the folder."""
    return folder.resolve() == folder


def delete(planned: Iterable[Item], confirmed: Iterable[Item]) -> int:
    """Delete what is in both plans, the second made when no task could run any more.

    Prints what is left alone, what fails and how much is freed. Returns 1 if something failed.
    """
    unneeded = set(confirmed)
    used: list[Item] = []
    failed: list[Item] = []
    freed, images = 0, list[engine.Resource]()
    for item in sorted(planned, key=lambda item: KINDS.index(item.kind)):
        if item not in unneeded:
            used.append(item)
        elif item.kind == ARTIFACT and item.flow in {run.flow for run in failed}:
            continue  # a run that could not be deleted may name it
        elif not (error := remove(item)):
            if item.image:
                images.append(item.image)
            else:
                freed += item.bytes
        elif item.kind in _REMOVERS and "container" in error:  # an image's container may run
            used.append(item)
        else:
            failed.append(item)
            print(f"clean: {item.name}: {error}", file=sys.stderr)
    if names := sorted({item.flow or item.name for item in used}):
        print(f"Used in the meantime, so left alone: {', '.join(names)}.")
    of_images = engine.size(images, without=engine.layers_of_all()) if images else 0
    print(f"Freed {in_units(freed + of_images)}.")
    if of_images:
        size = in_units(of_images)
        print(f"Docker's build cache may keep up to {size} of it: docker builder prune")
    return 1 if failed else 0


def remove(item: Item) -> str:
    """Delete one item; the reason if that fails, else an empty string."""
    if remover := _REMOVERS.get(item.kind):
        return remover(item.name)
    try:
        for path in item.paths:
            with contextlib.suppress(FileNotFoundError):
                if path.is_dir() and not path.is_symlink():
                    shutil.rmtree(path)
                else:
                    path.unlink()
    except OSError as error:
        return f"{error.filename}: {error.strerror}"
    return ""
