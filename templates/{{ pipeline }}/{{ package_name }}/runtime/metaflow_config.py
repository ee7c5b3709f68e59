"""Metaflow's own configuration, as a flow's process and Metaflow's client here are to see it."""

from __future__ import annotations

import contextlib
import getpass
import json
import os
import re
from functools import lru_cache
from pathlib import Path

from . import paths
from .errors import PipelineError
from .settings import dotenv_variables, settings


def metaflow_environment() -> dict[str, str]:
    """This process's environment with `.env` and the settings' profile in it."""
    environment = dotenv_variables(paths.ROOT) | dict(os.environ)
    environment.setdefault("METAFLOW_USER", _user())
    environment.setdefault("METAFLOW_CLIENT_CACHE_PATH", str(paths.client_cache()))
    profile = settings().metaflow.profile
    if profile:
        environment.setdefault("METAFLOW_PROFILE", profile)
    return environment


def export_environment() -> None:
    """Let this process have of it what Metaflow's client and boto3 look up: `.env` may say it."""
    for name, value in metaflow_environment().items():
        if name.startswith(("AWS_", "METAFLOW_")):
            os.environ.setdefault(name, value)


def datastore_root() -> str:
    """Where Metaflow's datastore is: the path of a folder, or `s3://BUCKET/PREFIX`.

    By default the folder is `.metaflow` in the repo's root. Like the settings it is looked up once
    for each process: every task asks for it when Luigi asks whether it is done. Raises
    PipelineError where Metaflow is set to a datastore that is neither, and where nothing says in
    which bucket it is.
    """
    return _datastore_root(paths.ROOT)


@lru_cache
def _datastore_root(root: Path) -> str:
    datastore = configured("METAFLOW_DEFAULT_DATASTORE") or "local"
    if datastore == "local":
        return str(local_root())
    if datastore != "s3":
        raise PipelineError(
            f"METAFLOW_DEFAULT_DATASTORE is {datastore!r}, and MetaflowTask keeps its markers in a "
            "local datastore or on S3: set METAFLOW_DEFAULT_DATASTORE to local or s3, e.g. in .env"
        )
    sysroot = configured("METAFLOW_DATASTORE_SYSROOT_S3") or ""
    if not re.fullmatch(r"s3://[A-Za-z0-9._-]{3,}(/[^/]+)*/?", sysroot):
        raise PipelineError(
            "METAFLOW_DEFAULT_DATASTORE is 's3', and METAFLOW_DATASTORE_SYSROOT_S3 "
            f"{f'is {sysroot!r}' if sysroot else 'does not say where'}: set it to the bucket and a "
            "prefix in it, e.g. s3://my-bucket/metaflow, in .env for instance"
        )
    return sysroot.rstrip("/")


def local_root() -> Path:
    """Metaflow's folder on this machine, by default `.metaflow` in the repo's root.

    It holds the local datastore and local metadata, and whatever the datastore the locks.
    """
    return _local_root(paths.ROOT)


@lru_cache
def _local_root(root: Path) -> Path:
    return root / (configured("METAFLOW_DATASTORE_SYSROOT_LOCAL") or root) / ".metaflow"


def metadata() -> str:
    """Where the metadata of runs is, as `metaflow.metadata()` takes it."""
    kind = configured("METAFLOW_DEFAULT_METADATA") or "local"
    if kind == "local":
        return f"local@{local_root().parent}"
    url = configured("METAFLOW_SERVICE_URL") if kind == "service" else None
    return f"{kind}@{url}" if url else kind


def configured(name: str) -> str | None:
    """A variable of Metaflow's: from the environment, or the profile's file, as Metaflow looks."""
    environment = metaflow_environment()
    if name in environment:
        return environment[name]
    profile = environment.get("METAFLOW_PROFILE")
    file = configuration_file()
    try:
        value = json.loads(file.read_text(encoding="utf-8")).get(name)
    except FileNotFoundError:
        if profile:
            raise PipelineError(
                f"METAFLOW_PROFILE is {profile!r}, and there is no {file}; make it with "
                f"`METAFLOW_PROFILE={profile} metaflow configure`, or unset it"
            ) from None
        return None
    except ValueError as error:
        raise PipelineError(f"{file} is not JSON: {error}") from error
    return None if value is None else str(value)


def configuration_file() -> Path:
    """The file of the profile, as `metaflow configure` makes it; there may be none."""
    environment = metaflow_environment()
    home = Path(environment.get("METAFLOW_HOME", "~/.metaflowconfig")).expanduser()
    profile = environment.get("METAFLOW_PROFILE")
    return home / (f"config_{profile}.json" if profile else "config.json")


def _user() -> str:
    """A name for Metaflow, which takes none from the system, and refuses `root`."""
    name = "root"
    with contextlib.suppress(KeyError, OSError):  # a container's user may have no name
        name = getpass.getuser()
    return f"uid{os.getuid()}" if name == "root" else name
