"""Secrets, which a flow looks up by their names and never gets as parameters."""

from __future__ import annotations

import os

from .. import paths
from ..errors import PipelineError


def secret(name: str) -> str:
    """The value of the variable, from the environment or else from `.env` in the repo's root.

    Metaflow's `@secrets` puts what it fetches into the environment of its step. Pass the name as a
    parameter if you like, but never the value: parameters are in markers, logs and command lines.

    Raises PipelineError if the variable is not set or empty.
    """
    if not (value := os.environ.get(name)):
        from ..settings import dotenv_variables  # most steps do not need its packages

        value = dotenv_variables(paths.ROOT).get(name)
    if not value:
        raise PipelineError(
            f"there is no secret {name} in the environment, nor in {paths.ROOT / '.env'}\n"
            f"hint: add {name}=… to .env, which git ignores, or put Metaflow's @secrets on the step"
        )
    return value
