"""What goes into an image: its files, packed once; the same files give the same bytes."""

from __future__ import annotations

import hashlib
import io
import os
import re
import stat
import tarfile
from collections.abc import Sequence
from pathlib import Path
from typing import IO, NamedTuple

from .. import paths
from ..errors import ImageError
from .layers import Layers

Files = dict[str, Path | bytes]
"""A context's files by name: the file or link to pack, or the contents. `NAME/` is a folder."""

_PACKAGES = (".whl", ".gz", ".zip", ".bz2", ".xz", ".tgz")
_NAMED_PATH = re.compile(
    r"(?m)^\s*(?:-r|-c|-f|--requirement|--constraint|--find-links)[ \t=]*([^\s#]+)"
)
_TABLE = re.compile(r"(?m)^(?=\[+[^\[\]\n]+\]+\s*(?:#.*)?$)")


class Context(NamedTuple):
    """A packed context."""

    archive: IO[bytes]
    """A tar archive, as `docker build -` reads it."""
    digest: str
    """The hash of the archive, in hexadecimal digits."""
    largest: str
    """The name of its largest file."""


def pack(files: Files, archive: IO[bytes]) -> Context:
    """Pack the files into the archive, which is empty.

    Times, owners and the umask are left out, and so are files that were deleted after being listed.
    """
    sizes: dict[str, int] = {}
    with tarfile.open(fileobj=archive, mode="w", format=tarfile.PAX_FORMAT) as tar:
        for name, source in sorted(files.items()):
            try:
                entry, contents = _entry(name, source)
            except FileNotFoundError:
                continue
            sizes[name] = entry.size = len(contents)
            tar.addfile(entry, io.BytesIO(contents))
    archive.seek(0)
    digest = hashlib.file_digest(archive, "sha256").hexdigest()  # type: ignore[arg-type]
    return Context(archive, digest, max(sizes, key=sizes.__getitem__))


def _entry(name: str, source: Path | bytes) -> tuple[tarfile.TarInfo, bytes]:
    """The header and the contents of a file, a link or a folder."""
    entry = tarfile.TarInfo(name.rstrip("/"))
    entry.mode = 0o644
    if name.endswith("/"):
        entry.type, entry.mode = tarfile.DIRTYPE, 0o755
    elif isinstance(source, bytes):
        return entry, source
    elif source.is_symlink():
        entry.type, entry.linkname = tarfile.SYMTYPE, str(source.readlink())
    else:
        if source.stat().st_mode & stat.S_IXUSR:
            entry.mode = 0o755
        return entry, source.read_bytes()
    return entry, b""


def base_files(layers: Layers, names: Sequence[str]) -> Files:
    """The files that the base is built from: no code, and no version, which change often."""
    lock = paths.ROOT / "uv.lock"
    if not lock.is_file():
        raise ImageError(f"there is no {lock}, which lists an image's packages\nhint: nox -s setup")
    own_version = r'(\nversion = )"[^"\n]*"(\nsource = \{ (?:editable|virtual) = "\." \})'
    text = re.sub(own_version, r'\1"0"\2', lock.read_text(encoding="utf-8"))
    files: Files = {
        "pyproject.toml": _dependencies(),
        "uv.lock": text.encode(),
        # No links, whose targets are not in the context.
        ".layer/Dockerfile": layers.dockerfile_base.resolve(),
        "base/": b"",
    }
    folder = f"{layers.dockerfile_base.with_name('base').relative_to(paths.ROOT).as_posix()}/"
    for name in names:
        if name.startswith(folder):
            file = paths.ROOT / name
            files[f"base/{name.removeprefix(folder)}"] = file.resolve() if file.is_file() else file
    return files


def flow_files(layers: Layers, names: Sequence[str], project: str, version: str) -> Files:
    """The files that the flow's image is built from, on its base."""
    dist_info = f".layer/version/{project.replace('-', '_')}-{version}.dist-info"
    metadata = f"Metadata-Version: 2.1\nName: {project}\nVersion: {version}\n"
    files: Files = {
        **{name: paths.ROOT / name for name in names},
        ".layer/Dockerfile": layers.dockerfile.resolve(),
        ".layer/launch.sh": layers.launch.resolve(),
        ".layer/requirements/": b"",
        f"{dist_info}/METADATA": metadata.encode(),
    }
    if layers.requirements:
        files |= _requirements(layers.requirements.file)
    return files


def _requirements(file: Path) -> Files:
    """The `requirements.txt`, and all files that it includes, at their paths in the repo.

    Raises ImageError if one of them is outside the repo, or does not exist.
    """
    to = ".layer/requirements"
    files: Files = {
        # uv's settings, as for a flow in a process.
        f"{to}/pyproject.toml": _dependencies(),
        f"{to}/requirements.txt": f"-r {file.relative_to(paths.ROOT).as_posix()}\n".encode(),
    }
    todo = [file]
    for each in todo:
        path = Path(os.path.normpath(each))
        if not path.is_relative_to(paths.ROOT):
            raise ImageError(
                f"{paths.shown(file)} names {path}, which is outside the repo and so not in the "
                "image\nhint: move it into the repo"
            )
        name = f"{to}/{path.relative_to(paths.ROOT).as_posix()}"
        if not path.exists():
            raise ImageError(f"{paths.shown(file)} names {paths.shown(path)}, which does not exist")
        if path.is_dir():  # of --find-links, which looks for packages in it, and not below
            todo += [inner for inner in path.iterdir() if inner.suffix in _PACKAGES]
        elif name not in files:
            files[name] = path.resolve()
            if path.suffix not in _PACKAGES:
                named = _NAMED_PATH.findall(path.read_text(encoding="utf-8-sig"))
                todo += [path.parent / other for other in named if "://" not in other]
    return files


def _dependencies() -> bytes:
    """The tables of pyproject.toml that say which packages there are, with version 0."""
    kept = []
    for table in _TABLE.split((paths.ROOT / "pyproject.toml").read_text(encoding="utf-8")):
        header = table.partition("\n")[0]
        if re.match(r"\[project\s*\]", header):
            table = re.sub(r"(?m)^version\s*=.*", 'version = "0"', table)
        if re.match(r"\[+\s*(?:project|dependency-groups|tool\.uv)\b", header):
            kept.append(table)
    return "".join(kept).encode()
