"""`container_kwargs` of a MetaflowTask: limits, network, folders and variables of a container."""

from __future__ import annotations

from typing import Annotated, Any

import msgspec

from ..errors import ParameterError


class ContainerKwargs(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What a flow's container may use."""

    memory: str | Annotated[int, msgspec.Meta(gt=0)] | None = None
    """Bytes, or with a unit, `4g`; a flow that wants more is killed. None: no limit."""

    cpus: Annotated[float, msgspec.Meta(gt=0)] | None = None
    """How many, e.g. 1.5. None: no limit."""

    gpus: str | Annotated[int, msgspec.Meta(gt=0)] | None = None
    """How many, `all`, or which, `device=0`. None: none."""

    network: str | None = None
    """Docker's `bridge`, `host`, `none`, or a network's name. None: Docker's default."""

    volumes: tuple[str, ...] = ()
    """`FOLDER:FOLDER_IN_CONTAINER`, followed by `:ro` to make it read-only."""

    env: dict[str, str | int | float | None] = {}
    """Variables and their values; None for the value outside the container."""


def container_kwargs(values: Any) -> ContainerKwargs:
    """The values, checked. Raises ParameterError for an unknown name or a wrong value."""
    try:
        return msgspec.convert(values, ContainerKwargs)
    except msgspec.ValidationError as error:
        known = ", ".join(ContainerKwargs.__struct_fields__)
        raise ParameterError(
            f"container_kwargs: {error}\nhint: container_kwargs may have {known}"
        ) from error
