"""Files that several processes use at once, and that survive the end of any of them."""

from __future__ import annotations

import contextlib
import fcntl
import os
from collections.abc import Callable, Iterator
from pathlib import Path


def write_whole(file: Path, contents: bytes) -> None:
    """Write the file so that any reader, also after a crash, finds it whole or not at all."""
    file.parent.mkdir(parents=True, exist_ok=True)
    written = file.with_name(f"{file.name}.{os.getpid()}.tmp")
    try:
        with written.open("wb") as opened:
            opened.write(contents)
            opened.flush()
            os.fsync(opened.fileno())
        written.replace(file)
    except BaseException:
        written.unlink(missing_ok=True)
        raise


@contextlib.contextmanager
def locked(file: Path, on_wait: Callable[[str], None], *, shared: bool = False) -> Iterator[int]:
    """Hold the lock that is the file, and yield its descriptor.

    Another process that holds it is waited for, after a call of `on_wait` with its id, which may
    raise what it likes instead. The lock ends with the last process that holds the descriptor,
    however that ends. The file is deleted afterwards, unless the lock is shared with others.
    """
    kind = fcntl.LOCK_SH if shared else fcntl.LOCK_EX
    file.parent.mkdir(parents=True, exist_ok=True)
    while True:
        descriptor = os.open(file, os.O_RDWR | os.O_CREAT, 0o644)
        try:
            try:
                fcntl.flock(descriptor, kind | fcntl.LOCK_NB)
            except BlockingIOError:
                on_wait(os.read(descriptor, 20).decode() or "unknown")
                fcntl.flock(descriptor, kind)
            # Whoever held it before has deleted it, and perhaps a third one made it anew.
            if not _is_still(descriptor, file):
                continue
            if shared:
                yield descriptor
                return
            os.ftruncate(descriptor, 0)
            with contextlib.suppress(OSError):  # a full disk, which `clean` is there to free
                os.pwrite(descriptor, str(os.getpid()).encode(), 0)
            try:
                yield descriptor
            finally:
                file.unlink(missing_ok=True)
            return
        finally:
            os.close(descriptor)


def _is_still(descriptor: int, file: Path) -> bool:
    with contextlib.suppress(FileNotFoundError):
        return os.path.samestat(os.fstat(descriptor), file.stat())
    return False
