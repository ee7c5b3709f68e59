"""Small files that are kept by name, whole or not at all: in a folder, or on S3.

A place is a file's path or an `s3://` address. On S3 each of these functions raises PipelineError
where the bucket, the credentials, the rights or the connection are missing.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from .files import write_whole


def is_on_s3(place: str) -> bool:
    """Is the place on S3?"""
    return place.startswith("s3://")


def check(folder: str) -> None:
    """Raise PipelineError where nothing in the folder could be looked up."""
    if is_on_s3(folder):
        from . import s3  # boto3 takes longer to import than Luigi

        s3.check(folder)


def read(place: str) -> bytes:
    """What is at the place. Raises FileNotFoundError where nothing is."""
    if is_on_s3(place):
        from . import s3

        return s3.read(place)
    return Path(place).read_bytes()


def write(place: str, contents: bytes) -> None:
    """Put it there, so that any reader, also after a crash, finds it whole or not at all."""
    if is_on_s3(place):
        from . import s3

        s3.write(place, contents)
    else:
        write_whole(Path(place), contents)


def remove(place: str) -> None:
    """Let nothing be there."""
    if is_on_s3(place):
        from . import s3

        s3.remove(place)
    else:
        Path(place).unlink(missing_ok=True)


def list_below(folder: str) -> Iterator[str]:
    """The places of all that is below the folder, in no order; none where it is not there."""
    if is_on_s3(folder):
        from . import s3

        yield from s3.list_below(folder)
    else:
        yield from (path.as_posix() for path in Path(folder).rglob("*") if path.is_file())
