"""Metaflow's own configuration, as a flow's process and Metaflow's client here are to see it."""

from __future__ import annotations

import contextlib
import getpass
import json
import os
from functools import lru_cache
from pathlib import Path

from . import paths
from .errors import PipelineError
from .settings import dotenv_variables, settings


def metaflow_environment() -> dict[str, str]:
    """This process's environment with `.env` and the settings' profile in it."""
    environment = dotenv_variables(paths.ROOT) | dict(os.environ)
    environment.setdefault("METAFLOW_USER", _user())
    environment.setdefault(*client_cache())
    profile = settings().metaflow.profile
    if profile:
        environment.setdefault("METAFLOW_PROFILE", profile)
    return environment


def datastore_root() -> Path:
    """The folder of Metaflow's local datastore, by default `.metaflow` in the repo's root.

    Like the settings it is looked up once for each process: every task asks for it when Luigi asks
    whether it is done. Raises PipelineError where Metaflow is set to another datastore than a local
    one.
    """
    return _datastore_root(paths.ROOT)


@lru_cache
def _datastore_root(root: Path) -> Path:
    environment = metaflow_environment()
    datastore = _configured("METAFLOW_DEFAULT_DATASTORE", environment) or "local"
    if datastore != "local":
        raise PipelineError(
            f"METAFLOW_DEFAULT_DATASTORE is {datastore!r}, and so far MetaflowTask keeps its "
            "markers in a local datastore only: set METAFLOW_DEFAULT_DATASTORE=local and "
            "METAFLOW_DEFAULT_METADATA=local, e.g. in .env"
        )
    sysroot = _configured("METAFLOW_DATASTORE_SYSROOT_LOCAL", environment) or root
    return root / sysroot / ".metaflow"


def client_cache() -> tuple[str, str]:
    """Variable and folder of the client's cache; Metaflow's own is one for all users, in /tmp."""
    return "METAFLOW_CLIENT_CACHE_PATH", str(paths.ROOT / ".metaflow" / "client-cache")


def _configured(name: str, environment: dict[str, str]) -> str | None:
    """A variable of Metaflow's: from the environment, or the profile's file, as Metaflow looks."""
    if name in environment:
        return environment[name]
    home = Path(environment.get("METAFLOW_HOME", "~/.metaflowconfig")).expanduser()
    profile = environment.get("METAFLOW_PROFILE")
    file = home / (f"config_{profile}.json" if profile else "config.json")
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


def _user() -> str:
    """A name for Metaflow, which takes none from the system, and refuses `root`."""
    name = "root"
    with contextlib.suppress(KeyError, OSError):  # a container's user may have no name
        name = getpass.getuser()
    return f"uid{os.getuid()}" if name == "root" else name
