"""`nox -s clean`: frees the disk of what is old and what nothing names any more.

What a marker names stays, and so does what a retry would resume, what is at work, and the markers
themselves. Nothing outside of `.metaflow` is touched, and no link is followed to what is deleted.
"""

from __future__ import annotations

import argparse
import contextlib
import errno
import fcntl
import gzip
import itertools
import json
import os
import re
import shutil
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

from . import inventory
from .errors import PipelineError, SettingsError
from .files import alone
from .inventory import Record, Run, counted, in_time, in_units

_UNITS = {"h": 3600.0, "d": 86400.0, "w": 7 * 86400.0}
_KEY = re.compile(rb"[0-9a-f]{40}")

RUN, CARDS, ARTIFACT, INCLUDED = "run", "cards of a run", "artifact", "included file"
OVERLAY, ATTEMPTS, CACHED, LEFT = "overlay", "list of attempts", "cached file", "left-over file"
KINDS = (RUN, CARDS, ARTIFACT, INCLUDED, OVERLAY, ATTEMPTS, CACHED, LEFT)
PLURALS = {CARDS: "cards of runs", ATTEMPTS: "lists of attempts"}


class Item(NamedTuple):
    """Something that can be deleted, and what goes with it."""

    kind: str
    name: str
    paths: tuple[Path, ...]
    bytes: int
    used: float
    """When it was last written or used, in seconds since 1970."""


class Plan(NamedTuple):
    """What would be deleted, the oldest first, and what is to be said of the rest."""

    items: list[Item]
    notes: list[str]


class CleanError(PipelineError):
    """The command line cannot be followed, or another process is cleaning."""


def main(arguments: list[str]) -> int:
    """Show what is old, ask, and delete it.

    Returns 0, 1 where something could not be deleted, 2 for a user's mistake and where nobody can
    be asked, 130 after an interrupt.
    """
    options = parsed(arguments)
    try:
        return clean(options.older_than, options)
    except PipelineError as error:
        print(f"clean: {error}", file=sys.stderr)
    except ImportError as error:
        said = f"the environment lacks {error.name}: {options.nox} -s setup"
        print(f"clean: {said}", file=sys.stderr)
    except OSError as error:
        print(f"clean: {error.filename}: {error.strerror}", file=sys.stderr)
    except KeyboardInterrupt:
        print("clean: stopped", file=sys.stderr)
        return 130
    return 2


def parsed(arguments: list[str]) -> argparse.Namespace:
    """The command line; argparse exits with 2 and a sentence for what it cannot be."""
    parser = argparse.ArgumentParser(
        prog="nox -s clean --",
        description="Deletes runs with their artifacts and cards, overlays, caches and left-over "
        "files that are older than a limit, shows them and asks first. What a marker names, what "
        "a retry would resume and what is at work is kept, and so are all markers.",
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
    return parser.parse_args(arguments)


def age(text: str) -> float:
    """An age in seconds, from `30d`; an ArgumentTypeError says how it is written."""
    found = re.fullmatch(r"([0-9]{1,6})([hdw])", text)
    if not found:
        raise argparse.ArgumentTypeError(
            f"{text!r} is no age: a number and h, d or w for hours, days or weeks, e.g. 30d"
        )
    return int(found[1]) * _UNITS[found[2]]


def clean(older_than: float, options: argparse.Namespace) -> int:
    """Do what the command line says; see `main`."""
    note, root = "", None
    try:
        root = inventory.datastore()
    except SettingsError:
        raise
    except PipelineError as error:
        note = f"Only what is local is minded, and that is no run: {error}"
    before = time.time() - older_than
    with alone(inventory.local() / "clean.lock", refuse):
        plan = plan_for(root, before)
        show(plan, older_than, note)
        if not plan.items or options.dry_run:
            return 0
        if not options.yes and not sys.stdin.isatty():
            raise CleanError(
                "nothing is deleted, for there is no terminal to ask at; without being asked: "
                f"{options.nox} -s clean -- --yes"
            )
        if not options.yes and not agreed():
            print("Nothing is deleted.")
            return 0
        # Much may have happened while somebody was thinking.
        shown = {item.paths for item in plan.items}
        known = {run.folder for run in inventory.runs(root)} if root else set()
        now = plan_for(root, before)
        return delete([item for item in now.items if item.paths in shown], root, known)


def refuse(process: str) -> None:
    """Say who is at it already."""
    raise CleanError(f"process {process} is cleaning already; try again when it is done")


def show(plan: Plan, older_than: float, note: str) -> None:
    """Print what would be deleted, a line for each kind."""
    if note:
        print(note)
    if not plan.items:
        print(f"Nothing to delete that is older than {in_time(older_than)}.")
    else:
        print(f"Older than {in_time(older_than)}, and named by nothing:")
    for kind in KINDS:
        items = [item for item in plan.items if item.kind == kind]
        if not items:
            continue
        number = f"{len(items)} {PLURALS[kind]}" if kind in PLURALS else counted(len(items), kind)
        size = in_units(sum(item.bytes for item in items))
        some = [f"{each.name} ({in_time(time.time() - each.used)})" for each in items[:2]]
        more = ", …" if items[2:] else ""
        print(f"  {number:<24}{size:>8}   {', '.join(some) + more}")
    if plan.items:
        print(f"  {'in all':<24}{in_units(sum(item.bytes for item in plan.items)):>8}")
    for line in plan.notes:
        print(line)
    sys.stdout.flush()


def agreed() -> bool:
    """Does the user say yes?"""
    try:
        return input("Delete it? [y/N] ").strip().lower() in ("y", "yes")
    except EOFError:
        print()
        return False


def plan_for(root: Path | None, before: float) -> Plan:
    """What can go: last used before then, in seconds since 1970."""
    found: list[Item] = []
    notes: list[str] = []
    at_work = inventory.tasks_at_work(root) if root else {}
    if root:
        try:
            records = inventory.records(root)
            named = names(records)
        except (PipelineError, OSError) as error:
            notes.append(f"No run is touched: {error}, so which runs it names is unknown.")
        else:
            found += of_runs(root, before, named, records, set(at_work), notes)
            found += old_attempts(root, before, records)
        found += left_over(root, before)
    # A task uses its overlay when it starts; what it has used since then is at work.
    found += old_overlays(min([before, *(since - 1 for since in at_work.values())]))
    found += cached(before)
    return Plan(sorted(inside(found, root), key=lambda each: each.used), notes)


def inside(items: Iterable[Item], root: Path | None) -> Iterator[Item]:
    """The items without what lies behind a link, for that is somebody else's."""
    bases = [inventory.local(), *([root] if root else [])]
    known: dict[Path, bool] = {}
    for item in items:
        for folder in {path.parent for path in item.paths} - known.keys():
            real = folder.resolve()
            known[folder] = real == folder and any(map(real.is_relative_to, bases))
        if known[item.paths[0].parent]:
            its = tuple(path for path in item.paths if known[path.parent])
            yield item._replace(paths=its)


def names(records: Iterable[Record]) -> set[tuple[str, str]]:
    """Flow and id of the runs that markers and attempts name; a PipelineError where one is broken.

    Attempts that are gone since they were listed have led to a marker, which has their runs.
    """
    found: set[tuple[str, str]] = set()
    for record in records:
        try:
            found |= record.named()
        except PipelineError:
            if not record.is_marker and not record.file.exists():
                found |= Record(record.file.with_suffix(".json"), record.written).named()
            else:
                raise
    return found


def of_runs(
    root: Path,
    before: float,
    named: set[tuple[str, str]],
    records: list[Record],
    at_work: set[str],
    notes: list[str],
) -> Iterator[Item]:
    """The runs that nothing names, what is theirs alone, and what is left of earlier ones."""
    runs = inventory.runs(root)
    processes = inventory.run_ids_at_work()
    items: dict[Run, Item] = {}
    for run in runs:
        if (run.flow, run.run_id) in named or run.run_id in processes:
            continue
        its = tuple(filter(Path.is_dir, (run.folder, inventory.cards(root, run.flow, run.run_id))))
        usage = inventory.usage(*its)
        if usage.changed < before:
            items[run] = Item(RUN, run.pathspec, its, *usage)
    for kept in resumed_by([run for run in runs if run not in items], set(items)):
        del items[kept]
    yield from items.values()
    number = sum((run.flow, run.run_id) in named for run in runs)
    if number:
        notes.append(
            f"Kept for markers, and for the retry of what failed: {counted(number, 'run')}."
        )
    busy = flows_at_work(root, records, at_work, processes)
    if busy:
        notes.append(f"May be at work, so its artifacts are left alone: {', '.join(sorted(busy))}.")
    going = {run.folder for run in items}
    for flow in inventory.flows(root):
        if flow.name not in busy:
            try:
                yield from unnamed(root, flow, going, before)
            except (OSError, ValueError) as error:
                notes.append(f"The artifacts of {flow.name} are left alone: {error}.")
    there = {(run.flow, run.run_id) for run in runs}
    for flow in inventory.folders(root / "mf.cards"):
        for folder in inventory.folders(flow / "runs"):
            usage = inventory.usage(folder)
            if (flow.name, folder.name) not in there and usage.changed < before:
                yield Item(CARDS, f"{flow.name}/{folder.name}", (folder,), *usage)


def resumed_by(kept: Iterable[Run], others: set[Run]) -> set[Run]:
    """The others whose finished steps kept runs have taken over, but not their cards and logs."""
    by_name = {(run.flow, run.run_id): run for run in others}
    found: set[Run] = set()
    left = list(kept)
    while left:
        run = left.pop()
        for run_id in inventory.origins(run.folder):
            origin = by_name.get((run.flow, run_id))
            if origin and origin not in found:
                found.add(origin)
                left.append(origin)
    return found


def flows_at_work(
    root: Path, records: Iterable[Record], at_work: set[str], processes: set[str]
) -> set[str]:
    """The flows of which a run may be at work.

    Such a run may be about to name an artifact that it has found there, and so has not written. A
    task that has yet to say its flow may have any.
    """
    busy: set[str] = set()
    ended: set[tuple[str, str]] = set()
    said: set[str] = set()
    for record in records:
        with contextlib.suppress(PipelineError):
            if record.task_id not in at_work:
                ended |= record.named()
            elif not record.is_marker and record.read()["flow"]:
                said.add(record.task_id)
                busy.add(record.read()["flow"])
    if at_work - said:
        busy |= {flow.name for flow in inventory.flows(root)}
    for run in inventory.runs(root):
        is_fresh = (run.flow, run.run_id) not in ended and inventory.may_be_at_work(run.folder)
        if is_fresh or run.run_id in processes:
            busy.add(run.flow)
    return busy


def unnamed(root: Path, flow: Path, going: set[Path], before: float) -> Iterator[Item]:
    """The artifacts and included files of a flow that none of its runs names but those going.

    A run that was resumed, and one that made the same thing, share them.
    """
    # Behind links, too: what a run names is named wherever that lies.
    remaining = [each for each in flow.iterdir() if each.is_dir() and each not in going]
    keys, included = named_by(
        flow, [each for each in remaining if each.name not in inventory.NO_RUNS]
    )
    for folder in inventory.folders(flow / "data"):
        for file in files(folder):
            if _KEY.fullmatch(file.name.encode()) and file.name not in keys:
                its = (file, file.with_name(f"{file.name}_meta"))
                usage = inventory.usage(*its)
                if file.lstat().st_mtime < before:
                    yield Item(ARTIFACT, f"{flow.name}/{file.name[:8]}", its, *usage)
    for file in files(root / "data" / flow.name):
        usage = inventory.usage(file)
        if (
            _KEY.fullmatch(file.name.encode())
            and file.name not in included
            and usage.changed < before
        ):
            yield Item(INCLUDED, f"{flow.name}/{file.name[:8]}", (file,), *usage)


def named_by(flow: Path, runs: Iterable[Path]) -> tuple[set[str], set[str]]:
    """The keys of the artifacts that runs name, and those of the files they have included.

    Raises OSError or ValueError where that cannot be read.
    """
    keys: set[str] = set()
    descriptors: set[str] = set()
    for run in runs:
        for told in run.glob("*/*/*.data.json"):
            said = json.loads(told.read_bytes())
            objects, info = said.get("objects", {}), said.get("info", {})
            keys |= set(objects.values())
            descriptors |= {
                key
                for name, key in objects.items()
                if "IncludedFile" in str(info.get(name, {}).get("type"))
            }
        for told in run.glob("*/*/_meta/*code-package*"):
            keys |= {found.decode() for found in _KEY.findall(told.read_bytes())}
    included: set[str] = set()
    for key in descriptors:
        packed = (flow / "data" / key[:2] / key).read_bytes()
        plain = gzip.decompress(packed) if packed[:2] == b"\x1f\x8b" else packed
        included |= {found.decode() for found in _KEY.findall(plain)}
    return keys, included


def old_attempts(root: Path, before: float, records: Iterable[Record]) -> Iterator[Item]:
    """The attempts whose runs are all gone, so that there is nothing left to resume."""
    there = {(run.flow, run.run_id) for run in inventory.runs(root)}
    for record in records:
        if record.is_marker or record.written >= before or not record.file.exists():
            continue
        if not record.named() & there:
            yield Item(ATTEMPTS, record.task_id, (record.file,), *inventory.usage(record.file))


def old_overlays(before: float) -> Iterator[Item]:
    """The overlays that have not been used since."""
    for folder in inventory.overlays():
        used = last_use(folder)
        if used < before:
            yield Item(OVERLAY, folder.name, (folder,), inventory.usage(folder).bytes, used)


def last_use(overlay: Path) -> float:
    """When an overlay was last used, in seconds since 1970."""
    from .overlay import MADE_FROM

    with contextlib.suppress(FileNotFoundError):
        return (overlay / MADE_FROM).stat().st_mtime
    return overlay.stat().st_mtime  # somebody has deleted it in part


def cached(before: float) -> Iterator[Item]:
    """Old files of the client's cache, which gets them again where it needs them."""
    for folder, _, names in os.walk(inventory.local() / "client-cache"):
        for name in names:
            file = Path(folder, name)
            usage = inventory.usage(file)
            if usage.changed < before:
                yield Item(CACHED, file.name[:8], (file,), *usage)


def left_over(root: Path, before: float) -> Iterator[Item]:
    """What processes that were killed have left: half-written files, and locks nobody holds."""
    here = inventory.local()
    candidates = [
        *(each for each in walked(root / "luigi") if each.suffix == ".tmp"),
        *(each for each in files(root / "luigi-locks") if not inventory.is_held(each)),
        *(
            each
            for folder in inventory.folders(root / "luigi-locks")
            for each in files(folder)
            if each.suffix == ".pid" and not is_anybody_alive(each)
        ),
        *(
            each
            for flow in inventory.flows(root)
            for folder in inventory.folders(flow / "data")
            for each in files(folder)
            if each.name.startswith("tmp")
        ),
        *(
            each
            for each in inventory.folders(here / "overlays")
            if each.suffix == ".making"
            and not inventory.is_held(each.with_name(each.name.partition(".")[0] + ".lock"))
        ),
        *(
            each
            for each in files(here / "overlays")
            if each.suffix == ".lock"
            and not each.with_suffix("").exists()
            and not inventory.is_held(each)
        ),
    ]
    for path in candidates:
        usage = inventory.usage(path)
        if usage.changed < before:
            yield Item(LEFT, path.name, (path,), *usage)
    for trash in dict.fromkeys([root / "trash", here / "trash"]):  # of a clean that was killed
        for path in inventory.folders(trash):
            yield Item(LEFT, path.name, (path,), *inventory.usage(path))


def walked(folder: Path) -> Iterator[Path]:
    """The files below a folder; links are not followed."""
    for each, _, names in os.walk(folder):
        for name in names:
            yield Path(each, name)


def files(folder: Path) -> list[Path]:
    """The files in a folder, by name; no links."""
    try:
        with os.scandir(folder) as entries:
            return sorted(
                Path(each.path) for each in entries if each.is_file(follow_symlinks=False)
            )
    except OSError as error:
        if error.errno not in (errno.ENOENT, errno.ENOTDIR):
            raise
        return []


def is_anybody_alive(pid_file: Path) -> bool:
    """Is one of the processes in Luigi's own lock file alive?"""
    with contextlib.suppress(OSError, ValueError):
        for pid in pid_file.read_text().split():
            try:
                os.kill(int(pid), 0)
            except ProcessLookupError:
                continue
            except PermissionError:
                pass
            return True
    return False


def delete(items: list[Item], root: Path | None, known: set[Path]) -> int:
    """Delete what is planned, and say what that has freed; 1 where something could not be.

    `known` are the folders of the runs that there were when the plan was begun.
    """
    freed, failures = 0, 0
    artifacts: dict[str, list[Item]] = {}
    with contextlib.ExitStack() as stack:
        trashes = {
            base: stack.enter_context(Trash(base))
            for base in {inventory.local(), root or inventory.local()}
        }
        for item in items:
            in_root = root is not None and item.paths[0].is_relative_to(root)
            trash = trashes[root if root and in_root else inventory.local()]
            try:
                if item.kind in (ARTIFACT, INCLUDED):
                    artifacts.setdefault(item.name.partition("/")[0], []).append(item)
                elif item.kind == OVERLAY:
                    freed += item.bytes if take_overlay(item, trash) else 0
                elif item.paths[0].suffix == ".lock":
                    freed += item.bytes if take_lock(item.paths[0]) else 0
                else:
                    for path in item.paths:  # the run before its cards
                        trash.throw(path)
                    freed += item.bytes
            except OSError as error:
                failures += 1
                print(f"clean: {error.filename}: {error.strerror}", file=sys.stderr)
        for flow, its in artifacts.items():
            assert root
            try:
                if take_artifacts(root, flow, its, trashes[root], known):
                    freed += sum(item.bytes for item in its)
                else:
                    print(f"{flow} has begun a run, so its artifacts are left alone.")
            except OSError as error:
                failures += 1
                print(f"clean: {error.filename}: {error.strerror}", file=sys.stderr)
    print(f"Freed {in_units(freed)}.")
    return 1 if failures else 0


class Trash:
    """A folder of the same file system, into which things are moved before they are deleted.

    So nothing is ever there in part under its own name; what is left here goes with the next clean.
    """

    def __init__(self, base: Path) -> None:
        self._folder = base / "trash"
        self._numbers = itertools.count()

    def __enter__(self) -> Trash:
        self._folder.mkdir(parents=True, exist_ok=True)
        self._mine = Path(tempfile.mkdtemp(dir=self._folder))
        return self

    def __exit__(self, *_: object) -> None:
        shutil.rmtree(self._mine, ignore_errors=True)
        with contextlib.suppress(OSError):
            self._folder.rmdir()

    def throw(self, path: Path) -> Path | None:
        """Move what the path names in here, and return where; None where it was gone."""
        target = self._mine / str(next(self._numbers))
        try:
            path.rename(target)
        except FileNotFoundError:
            return None
        return target


def take_overlay(item: Item, trash: Trash) -> bool:
    """Delete the overlay, unless it has come to be used after all."""
    (folder,) = item.paths
    moved = trash.throw(folder)
    # Who uses it sets its time first: after the move there is no more doubt.
    if moved and last_use(moved) > item.used and not folder.exists():
        moved.rename(folder)
        return False
    return True


def take_lock(lock: Path) -> bool:
    """Delete the lock file, unless a process has come to hold it."""
    with lock.open("rb") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        lock.unlink(missing_ok=True)
        return True


def take_artifacts(
    root: Path, flow: str, items: list[Item], trash: Trash, known: set[Path]
) -> bool:
    """Delete artifacts, unless a run has begun that may name them; then they are put back.

    A run that finds an artifact there does not write it again. It has its folder before it looks,
    so they are moved first, and then runs are looked for: where there is no other than those that
    are known, whoever looks finds nothing, and writes anew.
    """
    moved: list[tuple[Path, Path]] = []
    is_safe = False
    try:
        for path in (path for item in items for path in item.paths):
            target = trash.throw(path)
            if target:
                moved.append((path, target))
        is_safe = all(run.folder in known for run in inventory.runs(root) if run.flow == flow)
    finally:
        if not is_safe:
            for path, target in moved:
                if not path.exists():
                    target.rename(path)
    return is_safe


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
