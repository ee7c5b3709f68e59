"""Runs as Metaflow's client shows them."""

from __future__ import annotations

import contextlib
import hashlib
import os
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import msgspec

from ..errors import PipelineError
from ..metaflow_config import datastore_root, export_environment, local_root, metadata

if TYPE_CHECKING:
    from metaflow import Run


def metaflow_run(pathspec: str) -> Run:
    """The run with this name, `FLOW/RUN_ID`, whoever made it.

    Raises PipelineError if there is none, or the metadata of runs cannot be read.
    """
    export_environment()
    local_root().mkdir(parents=True, exist_ok=True)  # also for what comes from S3
    import metaflow

    # Metaflow has read its configuration, if somebody has imported it before. These names are its
    # own; a version without them keeps its cache where it was, and a test fails.
    with contextlib.suppress(ImportError, AttributeError):
        from metaflow.client import core, filecache

        cache = os.environ["METAFLOW_CLIENT_CACHE_PATH"]
        if cache != filecache.CLIENT_CACHE_PATH:
            filecache.CLIENT_CACHE_PATH, core.filecache = cache, None
    metaflow.metadata(metadata())
    metaflow.namespace(None)
    try:
        return metaflow.Run(pathspec)
    except metaflow.exception.MetaflowNotFound as error:
        raise PipelineError(
            f"there is no run {pathspec} in Metaflow's metadata, {metadata()}\n"
            "hint: nox -s status  # lists the runs"
        ) from error
    except metaflow.exception.MetaflowException as error:
        raise PipelineError(
            f"{pathspec} cannot be looked up in Metaflow's metadata, {metadata()}: {error}"
        ) from error


def artifacts_of(run: Run, read: Callable[[Run], Any]) -> Any:
    """What `read` returns for the run; PipelineError if its artifacts cannot be read."""
    try:
        return read(run)
    except Exception as error:  # Metaflow's client has no error of its own for what is missing
        raise PipelineError(
            f"the artifacts of {run.pathspec} cannot be read from {datastore_root()}: "
            f"{type(error).__name__}: {error}"
        ) from error


def parameters_of(run: Run) -> tuple[dict[str, Any], set[str]]:
    """The parameters that the run was started with, by name, as JSON values.

    The names returned second are those of included files. Their values are `sha256:` and the hash
    of the contents.
    """
    graph = run["_parameters"].task["_graph_info"].data
    values = {each["name"]: getattr(run.data, each["name"]) for each in graph["parameters"]}
    types = {each["name"]: each["type"] for each in graph["parameters"]}
    files = {name for name, value in values.items() if value and types[name] == "IncludeFile"}
    for name in files:
        contents = values[name]
        values[name] = sha256(contents.encode() if isinstance(contents, str) else contents)
    parameters: dict[str, Any] = msgspec.to_builtins(values, enc_hook=str)
    return parameters, files


def sha256(contents: bytes) -> str:
    """The hash of a file's contents, as `parameters_of` returns it."""
    return f"sha256:{hashlib.sha256(contents).hexdigest()}"
