"""The values of a flow's parameters, as JSON."""

from __future__ import annotations

import datetime
import math
from typing import Any

import pytest
from runtime.errors import ParameterError
from runtime.flow.parameter_values import DEEPEST, json_values

DAY = datetime.date(2026, 11, 20)
NOON = datetime.datetime(2026, 11, 20, 12, 0, 30, 250, datetime.UTC)
UNCHANGED: list[Any] = ["", "--tag=x", None, True, -7, 0.1 + 0.2, 2**64 - 1, [], {}]


def nested(depth: int) -> Any:
    return [nested(depth - 1)] if depth else 1


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        *((value, value) for value in UNCHANGED),
        ((1, (2,)), [1, [2]]),
        (DAY, "2026-11-20"),
        (
            {"at": [NOON, NOON.time()]},
            {"at": ["2026-11-20T12:00:30.000250+00:00", "12:00:30.000250"]},
        ),
        # As a parameter's own value, a number that the marker's JSON cannot hold becomes text.
        (math.inf, "Infinity"),
        (-(10**30), str(-(10**30))),
    ],
)
def test_a_value_becomes_json_and_keeps_its_type(value: Any, expected: Any) -> None:
    converted = json_values({"n": value}, "flow_kwargs")["n"]
    assert (converted, type(converted)) == (expected, type(expected))


@pytest.mark.parametrize(
    ("value", "where"),
    [
        (object(), "n is"),
        ([{"a": b"b"}], r"n\[0\]\['a'\] is"),
        ([math.nan], r"n\[0\] is nan"),
        ({"a": {1: 2}}, r"n\['a'\] has the key 1"),
        ("a\ud800", "n has half a character"),
        (nested(DEEPEST + 1), rf"n\[0\].* more than {DEEPEST} deep"),
    ],
)
def test_a_value_that_json_cannot_hold_is_refused_with_its_position(value: Any, where: str) -> None:
    with pytest.raises(ParameterError, match=rf"^flow_kwargs: {where}"):
        json_values({"n": value}, "flow_kwargs")


@pytest.mark.parametrize("name", ["", "-x", "a b", "2x", "max-workers", "run_id_file", 1])
def test_a_name_that_no_flow_can_have_is_refused(name: Any) -> None:
    with pytest.raises(ParameterError, match=rf"^flow_kwargs: {name!r} is"):
        json_values({name: 1}, "flow_kwargs")
