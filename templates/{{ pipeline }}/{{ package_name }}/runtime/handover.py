"""The result on its way from a flow's `end` step to the MetaflowTask that waits for it."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import msgspec

VARIABLE = "LUIGI_RESULT_FILE"
"""Environment variable that names the file in which a MetaflowTask waits for the result."""

LARGEST = 64 * 1024
"""Bytes of JSON; data belongs in artifacts, the result says what became of them."""


def hand_over(result: Any) -> None:
    """Write the result where a MetaflowTask waits for it; without one, only check it.

    Raises TypeError where it is no JSON value, ValueError where it is larger than LARGEST.
    """
    try:
        encoded = msgspec.json.encode(result)
    except (TypeError, ValueError) as error:
        raise TypeError(
            f"luigi_result must be a JSON value (dict, list, str, number, bool, None): {error}"
        ) from error
    if len(encoded) > LARGEST:
        raise ValueError(
            f"luigi_result is {len(encoded):,} bytes of JSON and may have {LARGEST:,}; "
            "keep data in artifacts, which `self.input().run` reads downstream"
        )
    if VARIABLE in os.environ:
        Path(os.environ[VARIABLE]).write_bytes(encoded)


def taken_over(file: Path) -> Any:
    """The result in the file; None where no flow has left one."""
    return msgspec.json.decode(file.read_bytes()) if file.exists() else None
