"""The result on its way from a flow's `end` step to the MetaflowTask that waits for it."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

VARIABLE = "LUIGI_RESULT_FILE"
"""Environment variable that names the file in which a MetaflowTask waits for the result."""

LARGEST = 64 * 1024
"""Bytes of JSON; data belongs in artifacts, the result says what became of them."""


def hand_over(result: Any) -> None:
    """Write the result where a MetaflowTask waits for it; without one, only check it.

    Raises TypeError where it is no JSON value, ValueError where it is larger than LARGEST. As in
    all JSON, the keys of a dict become text, and a tuple becomes a list.
    """
    try:
        encoded = json.dumps(result, allow_nan=False, ensure_ascii=False).encode()
    except (TypeError, ValueError) as error:
        raise TypeError(
            "luigi_result must be a JSON value: dict, list, str, bool, None or a finite number; "
            f"{error}"
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
    return json.loads(file.read_bytes()) if file.exists() else None
