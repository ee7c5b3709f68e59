"""Small files on S3. Imported where S3 is in force only: boto3 takes longer than Luigi itself.

boto3 comes with Metaflow. It is used as it is: `luigi.contrib.s3` asks four times for a file that
is not there, and Metaflow's own client brings all of Metaflow into Luigi's process.
"""

from __future__ import annotations

import contextlib
import errno
import os
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

KEPT = 60.0
"""Seconds for which a name that has been listed is taken to be there still."""

CONNECT = 10
"""Seconds until a connection must stand; boto3 tries again, as AWS_MAX_ATTEMPTS says."""


@dataclass
class Listing:
    """The names in a folder, as far as they have been fetched: 1,000 by each request."""

    begun: float
    """When, by time.monotonic()."""
    urls: set[str] = field(default_factory=set)
    pages: Iterator[list[str]] | None = None
    """What is to come; None before the first question."""


def check(folder: str) -> None:
    """Raise PipelineError where nothing in the folder could be looked up."""
    next(_pages(folder, PaginationConfig={"MaxItems": 1}), None)


def exists(url: str) -> bool:
    """Is there an object at the address?

    For one task that is one request. Where tasks of a flow ask by the thousand, a request for each
    would take minutes; so from the second question about a folder on, each that cannot be answered
    from what is known fetches the next 1,000 names first. This costs at most twice the requests,
    and one for each 1,000 tasks where they are finished.

    It is no lie. S3 shows an object when it is whole, to listings too, so the name says all. A
    name is believed for KEPT seconds: somebody else may have deleted it, and what this process
    deletes it forgets. A name that is not known is always asked for, so nothing that is there is
    ever missed, and nothing is run again for that.
    """
    folder = url.rpartition("/")[0]
    listings = _listings_of(os.getpid(), paths.ROOT)
    listing = listings.get(folder)
    now = time.monotonic()
    if listing is None or now - listing.begun > KEPT:
        listing = listings[folder] = Listing(now)
    if url in listing.urls:
        return True
    if listing.pages is None:
        listing.pages = _pages(folder, Delimiter="/")
    else:
        try:
            listing.urls.update(next(listing.pages, ()))
        except PipelineError:
            del listings[folder]  # it cannot be gone on with
            raise
        if url in listing.urls:
            return True
    try:
        read(url)
    except FileNotFoundError:
        return False
    return True


def read(url: str) -> bytes:
    """The object at the address. Raises FileNotFoundError where there is none."""
    bucket, key = _parts(url)
    with _explained(url):
        try:
            contents: bytes = _client().get_object(Bucket=bucket, Key=key)["Body"].read()
        except exceptions.ClientError as error:
            if error.response["Error"]["Code"] != "NoSuchKey":
                raise
            raise FileNotFoundError(errno.ENOENT, "there is no such object", url) from None
    return contents


def write(url: str, contents: bytes) -> None:
    """Make the object, in one request: who reads has the one before, or this one."""
    bucket, key = _parts(url)
    encryption = configured("METAFLOW_S3_SERVER_SIDE_ENCRYPTION")
    more = {"ServerSideEncryption": encryption} if encryption else {}
    with _explained(url):
        _client().put_object(Bucket=bucket, Key=key, Body=contents, **more)


def remove(url: str) -> None:
    """Delete the object, where there is one."""
    bucket, key = _parts(url)
    listing = _listings_of(os.getpid(), paths.ROOT).get(url.rpartition("/")[0])
    if listing:
        listing.urls.discard(url)
    with _explained(url):
        _client().delete_object(Bucket=bucket, Key=key)


def list_below(folder: str) -> Iterator[str]:
    """The addresses of all objects below the folder."""
    for page in _pages(folder):
        yield from page


def written_below(folder: str) -> Iterator[tuple[str, float]]:
    """These addresses, and when each object was written, in seconds since 1970."""
    for page in _listed(folder):
        for url, found in page.items():
            yield url, found["LastModified"].timestamp()


def _pages(folder: str, **more: Any) -> Iterator[list[str]]:
    for page in _listed(folder, **more):
        yield [*page]


def _listed(folder: str, **more: Any) -> Iterator[dict[str, Any]]:
    bucket, key = _parts(folder)
    with _explained(folder):
        pages = _client().get_paginator("list_objects_v2")
        for page in pages.paginate(Bucket=bucket, Prefix=f"{key}/" if key else "", **more):
            yield {f"s3://{bucket}/{found['Key']}": found for found in page.get("Contents", ())}


def _parts(url: str) -> tuple[str, str]:
    """Bucket and key."""
    bucket, _, key = url.removeprefix("s3://").partition("/")
    return bucket, key


def _client() -> Any:
    return _client_of(os.getpid(), paths.ROOT)


# A forked process needs its own of both: two may not write to one connection.
@lru_cache(maxsize=1)
def _listings_of(process: int, root: Path) -> dict[str, Listing]:
    return {}


@lru_cache(maxsize=1)
def _client_of(process: int, root: Path) -> Any:
    export_environment()
    # What Metaflow gives its own client.
    own = {"endpoint_url": "METAFLOW_S3_ENDPOINT_URL", "verify": "METAFLOW_S3_VERIFY_CERTIFICATE"}
    options = {option: configured(variable) for option, variable in own.items()}
    return boto3.session.Session().client("s3", config=Config(connect_timeout=CONNECT), **options)


@contextlib.contextmanager
def _explained(url: str) -> Iterator[None]:
    """Say what is wrong, and the way out, where S3 does not answer or refuses."""
    try:
        yield
    except exceptions.ClientError as error:
        raise PipelineError(f"{url}: {_refusal(url, error)}") from error
    except (exceptions.ConnectionError, exceptions.HTTPClientError) as error:
        raise PipelineError(
            f"{url}: S3 cannot be reached, {_line(error)}; check the network, and "
            "METAFLOW_S3_ENDPOINT_URL where S3 is not Amazon's"
        ) from error
    except exceptions.BotoCoreError as error:
        raise PipelineError(
            f"{url}: {_line(error)}; boto3 takes credentials from AWS_PROFILE, or from "
            "AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, in .env too"
        ) from error
    except ValueError as error:  # what it says of an address
        raise PipelineError(f"{url}: {error}; see METAFLOW_S3_ENDPOINT_URL") from error


def _line(error: Exception) -> str:
    return " ".join(str(error).split()).rstrip(".")


def _refusal(url: str, error: exceptions.ClientError) -> str:
    code = error.response["Error"]["Code"]
    told = f"S3 says {code}: {error.response['Error'].get('Message', '')}".rstrip(": .")
    bucket = _parts(url)[0]
    if code == "NoSuchBucket":
        return (
            f"there is no bucket {bucket!r}; make it, or name another in "
            "METAFLOW_DATASTORE_SYSROOT_S3"
        )
    if code in ("AccessDenied", "AllAccessDisabled", "403"):
        return (
            f"{told}; these credentials need s3:ListBucket on {bucket!r}, and s3:GetObject, "
            "s3:PutObject and s3:DeleteObject on what is in it"
        )
    if code in ("ExpiredToken", "InvalidAccessKeyId", "InvalidToken", "SignatureDoesNotMatch"):
        return f"{told}; renew the credentials that boto3 finds, see AWS_PROFILE or .env"
    return told
