"""What a MetaflowTask and its flow pass to each other, through variables and a file."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from metaflow import Run

PRODUCTION = "LUIGI_PRODUCTION"
"""Variable with which the task sets the flow's `production`: `true` or `false`."""

RESULT_FILE = "LUIGI_RESULT_FILE"
"""Variable that names the file in which the task expects the result."""

LARGEST = 64 * 1024
"""Bytes of JSON; data belongs in artifacts, the result says what became of them."""


def write_result(run_id: str, result: Any) -> None:
    """Write the result of a run to the task's file; without a task, only check it.

    Raises TypeError if it is not a JSON value, ValueError if it is larger than LARGEST. As in all
    JSON, the keys of a dict become text, and a tuple becomes a list.
    """
    try:
        encoded = json.dumps(result, allow_nan=False, ensure_ascii=False).encode()
    except (TypeError, ValueError) as error:
        raise TypeError(
            "luigi_result must be a JSON value: dict, list, str, bool, None or a finite number; "
            f"{error}"
        ) from None
    if len(encoded) > LARGEST:
        raise ValueError(
            f"luigi_result is {len(encoded):,} bytes of JSON and may have {LARGEST:,}; "
            "keep data in artifacts, which `self.input().run` reads downstream"
        )
    if RESULT_FILE in os.environ:
        Path(os.environ[RESULT_FILE]).write_bytes(run_id.encode() + b"\n" + encoded)


def read_result(run_id: str, file: Path) -> Any:
    """The result in the file; LookupError if the run has left none.

    A flow that the run has started itself may have written the file.
    """
    writer, _, encoded = file.read_bytes().partition(b"\n") if file.exists() else (b"", b"", b"")
    if writer.decode() != run_id:
        raise LookupError(f"run {run_id} has left no result in {file}")
    return json.loads(encoded)


def result_from_artifacts(run: Run) -> Any:
    """The result of a run from its artifacts; None if its flow has no `talk_to_luigi`.

    For a run that has written no file: it was started by hand, or its last step ran elsewhere.
    """
    data = run.data
    # `talk_to_luigi` adds `production`.
    return getattr(data, "luigi_result", None) if hasattr(data, "production") else None


def is_production(context: Any = None) -> bool:
    """The default of the flow's parameter `production`, as the task has set it."""
    return os.environ.get(PRODUCTION) == "true"
