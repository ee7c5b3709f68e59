"""Metaflow's own configuration, as flows and the Metaflow client in this process see it."""

from __future__ import annotations

import contextlib
import getpass
import json
import math
import os
import re
import sysconfig
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path

from . import paths
from .errors import PipelineError
from .settings import dotenv_variables, settings
from .version import git_environment


def metaflow_environment() -> dict[str, str]:
    """This process's environment, with `.env` and the profile of the settings added.

    The programs of this Python's environment come first on its PATH, as in an activated one.
    """
    environment = _variables()
    programs = [sysconfig.get_path("scripts"), environment.get("PATH") or os.defpath]
    environment["PATH"] = os.pathsep.join(programs)
    environment.setdefault("METAFLOW_USER", _user())
    # Else Metaflow's client caches below /tmp, in a folder of the machine's first user, included
    # files lie beside `.metaflow`, and what is on S3 goes through the current folder.
    for name, folder in {
        "CLIENT_CACHE_PATH": paths.client_cache(),
        "DATATOOLS_LOCALROOT": local_root() / "data",
        "ARTIFACT_LOCALROOT": local_root(),
        "TEMPDIR": local_root(),
        **(s3_limits() if _is_s3(environment) else {}),
    }.items():
        value = _configured(f"METAFLOW_{name}", environment)
        environment[f"METAFLOW_{name}"] = value or str(folder)
    return environment


def _is_s3(environment: Mapping[str, str]) -> bool:
    return _configured("METAFLOW_DEFAULT_DATASTORE", environment) == "s3"


def s3_limits() -> dict[str, str | int]:
    """Metaflow's settings with which a step gives up on S3 within the setting `s3_timeout`.

    By default it tries again for more than an hour, without a word. After each attempt it pauses
    for 1, 2, 4 … seconds: half of the time. Of an S3 that takes connections and never answers, each
    attempt takes a minute more. A setting for that would break exports, which cannot write it.
    """
    retries = max(0, int(math.log2(settings().s3_timeout / 2 + 1)) - 1)
    return {
        "S3_RETRY_COUNT": retries,
        "S3_TRANSIENT_RETRY_COUNT": retries,
        "S3_CLIENT_RETRY_CONFIG": '{"max_attempts": 0}',
    }


def _variables() -> dict[str, str]:
    environment = dotenv_variables(paths.ROOT) | git_environment()  # Metaflow calls git, too
    if profile := settings().metaflow.profile:
        environment.setdefault("METAFLOW_PROFILE", profile)
    return environment


def export_environment() -> None:
    """Add its variables for Metaflow and AWS to this process, where boto3 looks for them."""
    for name, value in metaflow_environment().items():
        if name.startswith(("AWS_", "METAFLOW_")):
            os.environ.setdefault(name, value)


@lru_cache
def datastore_root() -> str:
    """The location of Metaflow's datastore: the path of a folder, or `s3://BUCKET/PREFIX`.

    By default the folder is `.metaflow` in the repo's root. It is looked up once for each process,
    because every task asks for it when Luigi checks whether the task is complete. Raises
    PipelineError where Metaflow is set to another kind of datastore, or to S3 without a bucket.
    """
    datastore = configured("METAFLOW_DEFAULT_DATASTORE") or "local"
    if datastore == "local":
        return str(local_root())
    if datastore != "s3":
        raise PipelineError(
            f"METAFLOW_DEFAULT_DATASTORE is {datastore!r}, and MetaflowTask keeps its markers in a "
            "local datastore or on S3\n"
            "hint: set METAFLOW_DEFAULT_DATASTORE to local or s3, e.g. in .env"
        )
    location = configured("METAFLOW_DATASTORE_SYSROOT_S3") or ""
    if not re.fullmatch(r"s3://[A-Za-z0-9._-]{3,}(/[^/]+)*/?", location):
        value = f"is {location!r}, not s3://BUCKET/PREFIX" if location else "is not set"
        raise PipelineError(
            f"METAFLOW_DEFAULT_DATASTORE is 's3', and METAFLOW_DATASTORE_SYSROOT_S3 {value}\n"
            "hint: set it to a bucket and a prefix, e.g. s3://my-bucket/metaflow, in .env"
        )
    return location.rstrip("/")


@lru_cache
def local_root() -> Path:
    """Metaflow's folder on this machine, by default `.metaflow` in the repo's root.

    It holds the local datastore, local metadata and whatever else is written on this machine, e.g.
    overlays and locks, whatever the datastore.
    """
    folder = paths.ROOT / (configured("METAFLOW_DATASTORE_SYSROOT_LOCAL") or "") / ".metaflow"
    return Path(os.path.normpath(folder))  # in a container there may be nothing to go up from


def metadata() -> str:
    """The location of the metadata of runs, as `metaflow.metadata()` takes it."""
    kind = configured("METAFLOW_DEFAULT_METADATA") or "local"
    if kind == "local":
        return f"local@{local_root().parent}"
    url = configured("METAFLOW_SERVICE_URL") if kind == "service" else None
    return f"{kind}@{url}" if url else kind


def configured(name: str) -> str | None:
    """The value of a variable of Metaflow's: from the environment, or else the profile's file."""
    return _configured(name, _variables())


def _configured(name: str, environment: Mapping[str, str]) -> str | None:
    if name in environment:
        return environment[name]
    profile = environment.get("METAFLOW_PROFILE")
    file = _configuration_file(environment)
    try:
        value = json.loads(file.read_text(encoding="utf-8")).get(name)
    except FileNotFoundError:
        if profile:
            raise PipelineError(
                f"METAFLOW_PROFILE is {profile!r}, and there is no {file}\n"
                f"hint: METAFLOW_PROFILE={profile} metaflow configure  # or unset the profile"
            ) from None
        return None
    except ValueError as error:
        raise PipelineError(f"{file} is not JSON: {error}") from error
    return None if value is None else str(value)


def configuration_file() -> Path:
    """The profile's file, which `metaflow configure` writes; it may not exist."""
    return _configuration_file(_variables())


def _configuration_file(environment: Mapping[str, str]) -> Path:
    # Unlike Path's, this is no error for a user without a home.
    home = Path(os.path.expanduser(environment.get("METAFLOW_HOME", "~/.metaflowconfig")))  # noqa: PTH111
    profile = environment.get("METAFLOW_PROFILE")
    return home / (f"config_{profile}.json" if profile else "config.json")


def _user() -> str:
    """A user name for Metaflow, which does not ask the system for one, and refuses `root`."""
    name = "root"
    with contextlib.suppress(KeyError, OSError):  # a container's user may have no name
        name = getpass.getuser()
    return f"uid{os.getuid()}" if name == "root" else name
