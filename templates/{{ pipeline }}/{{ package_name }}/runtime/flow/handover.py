"""What a MetaflowTask and the flow that it runs tell each other, by variables and a file."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from metaflow import Run

PRODUCTION = "LUIGI_PRODUCTION"
"""Variable by which a task says what `production` is: `true` or `false`."""

RESULT_FILE = "LUIGI_RESULT_FILE"
"""Variable that names the file in which a task waits for the result."""

LARGEST = 64 * 1024
"""Bytes of JSON; data belongs in artifacts, the result says what became of them."""


def write_result(run_id: str, result: Any) -> None:
    """Write the result of a run where a task waits for it; without one, only check it.

    Raises TypeError where it is no JSON value, ValueError where it is larger than LARGEST. As in
    all JSON, the keys of a dict become text, and a tuple becomes a list.
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
    """The result of the run; LookupError where it left none, but a flow that it started perhaps."""
    writer, _, encoded = file.read_bytes().partition(b"\n") if file.exists() else (b"", b"", b"")
    if writer.decode() != run_id:
        raise LookupError(f"run {run_id} has left no result in {file}")
    return json.loads(encoded)


def result_from_artifacts(run: Run) -> Any:
    """The result of a run that has ended, from its artifacts; None where its flow does not talk.

    For a run that nobody waited for, or whose `end` was not run here: it has written no file.
    """
    data = run.data
    # `talk_to_luigi` adds `production`.
    return getattr(data, "luigi_result", None) if hasattr(data, "production") else None


def is_production(context: Any = None) -> bool:
    """Does a task say so? The default of the flow's parameter `production`."""
    return os.environ.get(PRODUCTION) == "true"
