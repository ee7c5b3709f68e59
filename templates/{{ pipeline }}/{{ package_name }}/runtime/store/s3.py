"""Small files on S3. Imported only when S3 is in use: boto3 takes longer to import than Luigi.

boto3 comes with Metaflow, and is called directly: `luigi.contrib.s3` makes four requests for a
missing file, and Metaflow's own client would import all of Metaflow into Luigi's process.
"""

from __future__ import annotations

import contextlib
import errno
import logging
import os
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any

import boto3
from botocore import exceptions
from botocore.config import Config

from .. import paths
from ..errors import PipelineError
from ..metaflow_config import configured, export_environment
from ..settings import settings

KEPT = 60.0
"""Seconds for which a name in a listing counts as existing."""

CONNECT = 10.0
"""Seconds to wait for a connection, before another attempt."""

ATTEMPTS = 3
"""Attempts, unless AWS_MAX_ATTEMPTS says another number."""

SILENT = 5.0
"""Seconds after which a line says what is waited for."""

logger = logging.getLogger("luigi-interface")


@dataclass
class Listing:
    """The URLs in a folder, as far as they were fetched: 1,000 with each request."""

    started: float
    """By time.monotonic()."""
    pages: Iterator[dict[str, float]]
    """The rest of the folder, fetched page by page."""
    urls: set[str] = field(default_factory=set)


def check(folder: str) -> None:
    """Raise PipelineError where the folder cannot be listed."""
    next(_pages(folder, PaginationConfig={"MaxItems": 1}), None)


def exists(url: str) -> bool:
    """True if there is an object at the URL.

    The first question about a folder is one request for the object. Thousands of tasks ask about
    one folder, and a request for each would take minutes. So each later question that the known
    names cannot answer first fetches the next 1,000 names of the folder, and asks for the object
    only if it is not among them. That is one request for 1,000 finished tasks, and at most two
    for each unfinished one.

    A listed name counts as existing for KEPT seconds, even if another process deletes the object
    meanwhile; what this process deletes is forgotten at once. S3 lists only complete objects. A
    name that is not listed is always asked for, so an object that exists is never missed.
    """
    folder = url.rpartition("/")[0]
    listings = _listings_of(os.getpid(), paths.ROOT)
    listing = listings.get(folder)
    now = time.monotonic()
    if listing is None or now - listing.started > KEPT:
        listings[folder] = Listing(now, _pages(folder, Delimiter="/"))  # no request yet
    elif url in listing.urls:
        return True
    else:
        try:
            listing.urls.update(next(listing.pages, ()))
        except PipelineError:
            del listings[folder]  # a generator that has raised is exhausted
            raise
        if url in listing.urls:
            return True
    try:
        read(url)
    except FileNotFoundError:
        return False
    return True


def read(url: str) -> bytes:
    """The contents of the object. Raises FileNotFoundError where there is none."""
    bucket, key = _bucket_and_key(url)
    with _explained(url):
        try:
            contents: bytes = _client().get_object(Bucket=bucket, Key=key)["Body"].read()
        except exceptions.ClientError as error:
            if error.response["Error"]["Code"] != "NoSuchKey":
                raise
            raise FileNotFoundError(errno.ENOENT, "there is no such object", url) from None
    return contents


def write(url: str, contents: bytes) -> None:
    """Write the object in one request, so that a reader gets the old object or the new one."""
    bucket, key = _bucket_and_key(url)
    encryption = configured("METAFLOW_S3_SERVER_SIDE_ENCRYPTION")
    options = {"ServerSideEncryption": encryption} if encryption else {}
    with _explained(url):
        _client().put_object(Bucket=bucket, Key=key, Body=contents, **options)


def remove(url: str) -> None:
    """Delete the object if it exists."""
    bucket, key = _bucket_and_key(url)
    if listing := _listings_of(os.getpid(), paths.ROOT).get(url.rpartition("/")[0]):
        listing.urls.discard(url)
    with _explained(url):
        _client().delete_object(Bucket=bucket, Key=key)


def written_below(folder: str) -> Iterator[tuple[str, float]]:
    """The URLs of all objects below the folder, and when each was written, as a Unix time."""
    for page in _pages(folder):
        yield from page.items()


def _pages(folder: str, **options: Any) -> Iterator[dict[str, float]]:
    bucket, key = _bucket_and_key(folder)
    prefix = f"{key}/" if key else ""
    with _explained(folder):
        paginator = _client().get_paginator("list_objects_v2")
        pages = iter(paginator.paginate(Bucket=bucket, Prefix=prefix, **options))
    while True:
        with _explained(folder):  # not while the caller has the page
            page = next(pages, None)
        if page is None:
            return
        yield {
            f"s3://{bucket}/{entry['Key']}": entry["LastModified"].timestamp()
            for entry in page.get("Contents", ())
        }


def _bucket_and_key(url: str) -> tuple[str, str]:
    bucket, _, key = url.removeprefix("s3://").partition("/")
    return bucket, key


def _client() -> Any:
    return _client_of(os.getpid(), paths.ROOT)


# Kept for each process, because a forked one must not share a connection with its parent.
@lru_cache(maxsize=1)
def _listings_of(process: int, root: Path) -> dict[str, Listing]:
    return {}


@lru_cache(maxsize=1)
def _client_of(process: int, root: Path) -> Any:
    export_environment()
    # Metaflow gives these options to its own client.
    variables = {
        "endpoint_url": "METAFLOW_S3_ENDPOINT_URL",
        "verify": "METAFLOW_S3_VERIFY_CERTIFICATE",
    }
    options = {option: configured(variable) for option, variable in variables.items()}
    attempts = int(os.environ.get("AWS_MAX_ATTEMPTS") or ATTEMPTS)
    each = 0.9 * settings().s3_timeout / attempts  # boto3 pauses between them
    config = Config(
        connect_timeout=min(CONNECT, each),
        read_timeout=each,
        retries={"total_max_attempts": attempts},
    )
    return boto3.session.Session().client("s3", config=config, **options)


@contextlib.contextmanager
def _explained(url: str) -> Iterator[None]:
    """Turn boto3's errors into a PipelineError with the cause and the way out; say if it waits."""
    up_to = f"{settings().s3_timeout:g} s"
    waiting = threading.Timer(SILENT, logger.warning, ("%s: waiting for S3, up to %s", url, up_to))
    waiting.daemon = True
    waiting.start()
    try:
        yield
    except exceptions.ClientError as error:
        raise PipelineError(f"{url}: {_refusal(url, error)}") from error
    except (exceptions.ConnectionError, exceptions.HTTPClientError) as error:
        raise PipelineError(
            f"{url}: S3 cannot be reached: {_one_line(error)}\n"
            "hint: check the network, and METAFLOW_S3_ENDPOINT_URL if S3 is not Amazon's"
        ) from error
    except exceptions.BotoCoreError as error:
        raise PipelineError(
            f"{url}: {_one_line(error)}\n"
            "hint: set AWS_PROFILE, or AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, e.g. in .env"
        ) from error
    except ValueError as error:  # boto3's, of an invalid address
        raise PipelineError(f"{url}: {error}\nhint: correct METAFLOW_S3_ENDPOINT_URL") from error
    finally:
        waiting.cancel()


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split()).rstrip(".")


def _refusal(url: str, error: exceptions.ClientError) -> str:
    code = error.response["Error"]["Code"]
    answer = f"S3 says {code}: {error.response['Error'].get('Message', '')}".rstrip(": .")
    bucket = _bucket_and_key(url)[0]
    if code == "NoSuchBucket":
        return (
            f"there is no bucket {bucket!r}\n"
            "hint: create it, or name another in METAFLOW_DATASTORE_SYSROOT_S3"
        )
    if code in ("AccessDenied", "AllAccessDisabled", "403"):
        return (
            f"{answer}\nhint: give these credentials s3:ListBucket on {bucket!r}, and "
            "s3:GetObject, s3:PutObject and s3:DeleteObject on its objects"
        )
    if code in ("ExpiredToken", "InvalidAccessKeyId", "InvalidToken", "SignatureDoesNotMatch"):
        return f"{answer}\nhint: renew the credentials that boto3 finds, see AWS_PROFILE or .env"
    return answer
