"""Small files, each read and written whole: in a folder, or on S3.

A location is a path or an `s3://` URL. On S3 each of these functions raises PipelineError where
the bucket, the credentials, the rights or the connection are missing.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from .files import write_whole


def is_on_s3(location: str) -> bool:
    """True if the location is on S3."""
    return location.startswith("s3://")


def check(folder: str) -> None:
    """Raise PipelineError where the folder is on S3 and cannot be listed."""
    if is_on_s3(folder):
        from . import s3  # boto3 takes longer to import than Luigi

        s3.check(folder)


def read(location: str) -> bytes:
    """The contents of the file. Raises FileNotFoundError where there is none."""
    if is_on_s3(location):
        from . import s3

        return s3.read(location)
    return Path(location).read_bytes()


def write(location: str, contents: bytes) -> None:
    """Write the file so that a reader, even after a crash, gets the whole file or none."""
    if is_on_s3(location):
        from . import s3

        s3.write(location, contents)
    else:
        write_whole(Path(location), contents)


def remove(location: str) -> None:
    """Delete the file if it exists."""
    if is_on_s3(location):
        from . import s3

        s3.remove(location)
    else:
        Path(location).unlink(missing_ok=True)


def list_below(folder: str) -> Iterator[str]:
    """The locations of all files below the folder, in no order; none where it does not exist."""
    if is_on_s3(folder):
        from . import s3

        yield from (url for url, _ in s3.written_below(folder))
    else:
        yield from (path.as_posix() for path in Path(folder).rglob("*") if path.is_file())
