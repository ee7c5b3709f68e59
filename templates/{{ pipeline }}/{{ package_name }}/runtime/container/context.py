"""What an image is built from: the files, packed so that the same files give the same bytes."""

from __future__ import annotations

import hashlib
import io
import os
import re
import stat
import tarfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path, PurePosixPath
from typing import IO

from .. import paths
from ..errors import ImageError
from ..packages.requirements import Line
from ..version import git

_PACKAGES = (".whl", ".gz", ".zip", ".bz2", ".xz", ".tgz")
_NAMES_A_PATH = re.compile(
    r"^\s*(?:-r|-c|-f|--requirement|--constraint|--find-links)[ \t=]*(?P<path>[^\s#]+)",
    re.MULTILINE,
)


class Context:
    """Files by their place in it; their times and owners, and the umask, do not count."""

    def __init__(self) -> None:
        self._files: dict[str, tuple[int, bytes | Path]] = {}
        """Mode, and the contents, or the file that has them, or the link."""

    def add_text(self, place: str, text: str | bytes, mode: int = 0o644) -> None:
        """Add a file of these contents."""
        self._files[place] = (mode, text.encode() if isinstance(text, str) else text)

    def add_file(self, place: str, file: Path) -> None:
        """Add the file as it is on disk, or the link."""
        executable = not file.is_symlink() and file.stat().st_mode & stat.S_IXUSR
        self._files[place] = (0o755 if executable else 0o644, file)

    def add_folder(self, place: str) -> None:
        """Add a folder, which may stay empty."""
        self._files[f"{place}/"] = (0o755, b"")

    def digest(self) -> str:
        """A hash of it all, in hexadecimal digits."""
        told = hashlib.sha256()
        for place, (mode, contents) in sorted(self._files.items()):
            is_link = isinstance(contents, Path) and contents.is_symlink()
            told.update(os.fsencode(f"{place}\0{mode:o}\0{is_link}\0{_digest(contents)}\0"))
        return told.hexdigest()

    def largest(self) -> str:
        """The place of the largest file."""
        files = {place: file for place, (_, file) in self._files.items() if isinstance(file, Path)}
        return max(files, key=lambda place: files[place].lstat().st_size)

    def write(self, to: IO[bytes]) -> None:
        """Write it as a tar archive, as `docker build -` takes it."""
        with tarfile.open(fileobj=to, mode="w", format=tarfile.PAX_FORMAT) as archive:
            for place, (mode, contents) in sorted(self._files.items()):
                entry = tarfile.TarInfo(place.rstrip("/"))
                entry.mode = mode
                if place.endswith("/"):
                    entry.type = tarfile.DIRTYPE
                    archive.addfile(entry)
                elif isinstance(contents, bytes):
                    entry.size = len(contents)
                    archive.addfile(entry, io.BytesIO(contents))
                elif contents.is_symlink():
                    entry.type, entry.linkname = tarfile.SYMTYPE, str(contents.readlink())
                    archive.addfile(entry)
                else:
                    with contents.open("rb") as opened:
                        entry.size = os.fstat(opened.fileno()).st_size
                        archive.addfile(entry, opened)


def repo_files() -> list[str]:
    """The files of the repo that images may have: their paths from its root, sorted.

    They are those that git tracks or would track, as they are on disk, those of repos within the
    repo included, or where there is no git those of the package; without what the repo's
    `.dockerignore` names.

    Raises ImageError where git does not say what it tracks, or `.dockerignore` cannot be read.
    """
    found = set(_of_git())
    if not any(name.startswith(f"{paths.PACKAGE.name}/") for name in found):
        is_git = any((each / ".git").exists() for each in (paths.ROOT, *paths.ROOT.parents))
        if is_git and not git("rev-parse", "--git-dir"):  # an image must not have more for that
            raise ImageError(
                "git does not say which files it tracks, and an image gets no others: "
                f"`git -C {paths.ROOT} status` says why"
            )
        found = set(_of_package())
    links = {name for name in found if (paths.ROOT / name).is_symlink()}
    ignored = _ignored(paths.ROOT / ".dockerignore")
    return sorted(
        name
        for name in found
        if not ignored(name)
        and PurePosixPath(name).name != ".env"
        and (name in links or (paths.ROOT / name).is_file())
        and not any(str(folder) in links for folder in PurePosixPath(name).parents)
    )


def add_requirements(context: Context, lines: Sequence[Line], flow_file: Path, to: str) -> None:
    """Add a flow's `requirements.txt` below the folder `to`, and the files that it includes.

    They lie there as they do in the repo, and `requirements.txt` in `to` includes the flow's.
    Raises ImageError where one of them is outside the repo, or not there.
    """
    context.add_folder(to)
    if not lines:
        return
    file = flow_file.with_name("requirements.txt")
    todo = [file]
    seen: set[Path] = set()
    while todo:
        each = Path(os.path.normpath(todo.pop()))
        if each in seen:
            continue
        seen.add(each)
        if not each.is_relative_to(paths.ROOT):
            raise ImageError(
                f"{paths.shown(file)} names {each}, which is outside the repo, and so not in its image; "
                "move it into the repo"
            )
        if not each.exists():
            raise ImageError(
                f"{paths.shown(file)} names {paths.shown(each)}, which is not there; correct it"
            )
        if each.is_dir():  # of --find-links, which looks for packages in it, and not below
            todo += [inner for inner in each.iterdir() if inner.suffix in _PACKAGES]
            continue
        context.add_file(f"{to}/{each.relative_to(paths.ROOT).as_posix()}", each.resolve())
        if each.suffix not in _PACKAGES:
            for found in _NAMES_A_PATH.finditer(each.read_text(encoding="utf-8-sig")):
                if "://" not in found["path"]:
                    todo.append(each.parent / found["path"])
    inner = file.relative_to(paths.ROOT).as_posix()
    context.add_text(f"{to}/requirements.txt", f"-r {inner}\n")


def _digest(contents: bytes | Path) -> str:
    if isinstance(contents, Path):
        if not contents.is_symlink():
            told = hashlib.sha256()
            with contents.open("rb") as opened:
                while block := opened.read(1 << 20):
                    told.update(block)
            return told.hexdigest()
        contents = os.fsencode(contents.readlink())
    return hashlib.sha256(contents).hexdigest()


def _of_git(folder: str = "") -> Iterator[str]:
    """What git tracks or would track there."""
    what = ("ls-files", "-z", "--cached", "--others", "--exclude-standard")
    for name in git("-C", folder or ".", *what).split("\0"):
        file = paths.ROOT / folder / name
        if name and file.is_dir() and not file.is_symlink():  # a submodule, say
            yield from _of_git(f"{folder}{name.rstrip('/')}/")
        elif name:
            yield folder + name


def _of_package() -> Iterator[str]:
    for folder, _, names in os.walk(paths.PACKAGE):
        for name in names:
            yield Path(folder, name).relative_to(paths.ROOT).as_posix()


def _ignored(file: Path) -> Callable[[str], bool]:
    """Says whether a `.dockerignore` leaves out a path, by its rules: the last that fits counts."""
    rules: list[tuple[re.Pattern[str], bool]] = []
    try:
        lines = file.read_text(encoding="utf-8-sig", errors="surrogateescape").splitlines()
    except FileNotFoundError:
        lines = []
    for line in lines:
        pattern = line.strip()
        if pattern and not line.startswith("#"):
            keeps = pattern.startswith("!")
            pattern = os.path.normpath(pattern.removeprefix("!").strip()).strip("/")
            try:
                rules.append((re.compile(_as_regex(pattern), re.DOTALL), keeps))
            except re.error as error:
                raise ImageError(
                    f"{paths.shown(file)}: {line.strip()!r} is no pattern: {error}"
                ) from error

    def ignored(name: str) -> bool:
        fits = [keeps for rule, keeps in rules if rule.fullmatch(name)]
        return bool(fits) and not fits[-1]

    return ignored


def _as_regex(pattern: str) -> str:
    """A pattern of `.dockerignore` for what it names and all that lies below."""
    pattern = re.sub(r"\*\*$", "*", pattern)  # at the end it says no more than that
    parts = re.findall(r"\*\*/?|\*|\?|\[[^\]]+\]|\\.|.", pattern, re.DOTALL)
    below = "(?:.*/)?"
    begins = re.fullmatch(r"\*\*[^*?[\\]+", pattern)  # `**.csv` is any name that ends so
    words = {"**/": below, "**": ".*" if begins else below, "*": "[^/]*", "?": "[^/]"}
    regex = "".join(
        words.get(part) or (part if part.startswith("[") and part[1:] else re.escape(part[-1]))
        for part in parts
    )
    return f"{regex}(?:/.*)?"
