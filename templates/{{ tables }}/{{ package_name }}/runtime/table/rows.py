"""Rows of a load: what a CurateTask yields, checked against its model, as values for the driver.

A database may change a value in silence: SQLite stores any text in a column of numbers, NUMERIC
rounds, and a time zone is dropped. Types for which the rules here are enough are in `EXACT`; a
column of any other type is read back after it was written, and compared.
"""

from __future__ import annotations

import contextlib
import datetime
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from itertools import chain, islice
from operator import itemgetter
from types import NoneType
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Dialect
from sqlalchemy.orm import DeclarativeBase, Mapper

from ..errors import TableError

CHUNK = 1_000
"""Rows that are checked together: as many as fit into a processor's cache."""

_INTEGERS: dict[type[Any], int] = {
    **{sa.SmallInteger: 16, sa.SMALLINT: 16},
    **{sa.Integer: 32, sa.INTEGER: 32},
    **{sa.BigInteger: 64, sa.BIGINT: 64},
}
"""Bits of a column. SQLite would store more; then development accepts what production refuses."""

_TEXTS = {sa.String, sa.VARCHAR, sa.Text, sa.TEXT, sa.Unicode, sa.UnicodeText}
_EXACT = {*_INTEGERS, *_TEXTS, sa.Boolean, sa.BOOLEAN, sa.Date, sa.DATE, sa.LargeBinary}
_EXACT |= {sa.Double, sa.DOUBLE, sa.DOUBLE_PRECISION}
_EXACT_BUT_IN_MYSQL = {sa.Float, sa.FLOAT, sa.DateTime, sa.DATETIME, sa.TIMESTAMP}
"""In MySQL, FLOAT has 24 bits, and DATETIME whole seconds."""

_FREE = (sa.JSON, sa.Enum, sa.TypeDecorator)
"""Types that take values of several Python types: their own conversion refuses others."""


class MisfitError(Exception):
    """A value does not fit: the row's place among those that were checked, the column, and why."""

    def __init__(self, place: int, column: str, why: str) -> None:
        super().__init__(place, column, why)
        self.place, self.column, self.why = place, column, why


@dataclass(frozen=True)
class Rule:
    """What a column takes."""

    name: str
    """The model's attribute, and the key in a row that is a dict."""
    column: sa.Column[Any]
    kind: type | None
    """The type of the values; None if the column's own conversion decides."""
    smallest: int | Decimal | None
    largest: int | Decimal | None
    length: int | None
    """The most characters."""
    has_zone: bool
    """True if times have a time zone."""
    convert: Callable[[Any], Any] | None
    """Makes of a value what the driver takes; None if it takes the value."""
    is_exact: bool
    """True if the database surely returns each value that fits as it was."""

    def check(self, values: Sequence[Any]) -> None:
        """Raise MisfitError for the first value that does not fit."""
        if not self._surely_fit(values):
            for place, value in enumerate(values):
                if why := self._why_not(value):
                    raise MisfitError(place, self.name, why)

    def _surely_fit(self, values: Sequence[Any]) -> bool:
        """True if all fit: an answer for all of them at once takes a tenth of the time."""
        kinds = {*map(type, values)}
        if NoneType in kinds:
            if not self.column.nullable:
                return False
            kinds.discard(NoneType)
            values = [value for value in values if value is not None]
        if not kinds <= {self.kind} or self.kind is Decimal:  # NaN has no order
            return False
        if not values:
            return True
        if self.kind is datetime.datetime:
            return self.has_zone or not any(value.tzinfo for value in values)
        if self.smallest is not None and self.largest is not None:
            return bool(self.smallest <= min(values) and max(values) <= self.largest)
        if self.kind is float:
            return math.isfinite(sum(values))
        return self.length is None or max(map(len, values)) <= self.length

    def _why_not(self, value: Any) -> str:
        if value is None:
            return "" if self.column.nullable else "is None, and the column is NOT NULL"
        if (isinstance(value, float) and math.isnan(value)) or (
            isinstance(value, Decimal) and value.is_nan()
        ):
            return "is not a number (NaN)\nhint: None stands for a missing value"
        if self.kind is None:
            return ""
        if type(value) is not self.kind and not self._is_same_number(value):
            hint = ""
            if type(value).__module__.partition(".")[0] in ("numpy", "pandas"):
                hint = "\nhint: tolist() or item() makes Python's own values"
            return f"is {_shown(value)}, and the column takes {self.kind.__name__}{hint}"
        if self.smallest is not None and self.largest is not None:
            if not self.smallest <= value <= self.largest:
                is_small = self.kind is int and self.largest < 2**62
                hint = "\nhint: BigInteger holds 64 bits" if is_small else ""
                limits = f"{self.smallest} to {self.largest}"
                return f"is {value}, and the column takes {limits}{hint}"
        elif self.length is not None and len(value) > self.length:
            return f"has {len(value)} characters, and the column takes {self.length}"
        elif isinstance(value, datetime.datetime) and value.tzinfo and not self.has_zone:
            return (
                f"has a time zone, and the column has none: {value}\n"
                "hint: value.astimezone(datetime.UTC).replace(tzinfo=None) is the time in UTC"
            )
        return ""

    def _is_same_number(self, value: Any) -> bool:
        """True for a whole number in a column of other numbers that can hold it as it is."""
        if type(value) is not int or self.kind not in (float, Decimal):
            return False
        try:
            return bool(self.kind(value) == value)
        except OverflowError:
            return False

    def converted(self, values: Sequence[Any]) -> Sequence[Any]:
        """The values as the driver takes them. Raises MisfitError if one cannot be converted."""
        if self.convert is None:
            return values
        converted = []
        for place, value in enumerate(values):
            try:
                converted.append(self.convert(value))
            except Exception as error:  # of the type, which may be the user's own
                why = f"is {_shown(value)}: {type(error).__name__}: {error}"
                raise MisfitError(place, self.name, why) from error
        return converted


def rules(model: type[DeclarativeBase], dialect: Dialect) -> list[Rule]:
    """A rule for each column of the model, in the order of the model."""
    mapper: Mapper[Any] = sa.inspect(model)
    return [
        _rule(attribute.key, attribute.columns[0], dialect) for attribute in mapper.column_attrs
    ]


def _rule(name: str, column: Any, dialect: Dialect) -> Rule:
    kind: type | None = None
    if not isinstance(column.type, _FREE):
        with contextlib.suppress(NotImplementedError):
            kind = column.type.python_type if column.type.python_type is not object else None
    largest: int | Decimal | None = None
    if bits := _INTEGERS.get(type(column.type)):
        largest = 2 ** (bits - 1) - 1
    elif kind is Decimal and column.type.precision is not None:
        step = Decimal(1).scaleb(-(column.type.scale or 0))
        largest = Decimal(10) ** (column.type.precision - (column.type.scale or 0)) - step
    return Rule(
        name,
        column,
        kind,
        None if largest is None else -largest - isinstance(largest, int),
        largest,
        getattr(column.type, "length", None) if kind is str else None,
        bool(getattr(column.type, "timezone", False)),
        column.type.dialect_impl(dialect).bind_processor(dialect),
        _is_exact(column.type, dialect.name),
    )


def _is_exact(column_type: Any, database: str) -> bool:
    kind = type(column_type)
    if kind in _EXACT_BUT_IN_MYSQL and database not in ("mysql", "mariadb"):
        names = ("timezone", "asdecimal", "precision")
        return not any(getattr(column_type, name, None) for name in names)
    return kind in _EXACT


class Rows:
    """The rows of a load, in chunks of at most CHUNK."""

    def __init__(
        self, rows: Iterable[Any], model: type[DeclarativeBase], known: Sequence[Rule]
    ) -> None:
        self._model = model
        chunks = _chunks(rows)
        first = next(chunks, [])
        self._chunks = chain([first] if first else [], chunks)
        names = {*self._as_dict(first[0], 1)} if first else {rule.name for rule in known}
        # A column that the database fills may be left out, by all rows, unless it is in the key.
        self.rules = [
            rule
            for rule in known
            if rule.name in names or rule.column.primary_key or not is_filled(rule.column)
        ]
        self._names = [rule.name for rule in self.rules]

    def chunks(self) -> Iterator[tuple[int, list[tuple[Any, ...]]]]:
        """The values of the rows, in the order of the rules, with the number of the first row.

        Raises TableError for a row that is none of the model, or has not all of its columns.
        """
        number = 1
        for chunk in self._chunks:
            yield number, self._values(chunk, number)
            number += len(chunk)

    def converted(self, values: list[tuple[Any, ...]]) -> list[tuple[Any, ...]]:
        """The values as the driver takes them. Raises MisfitError for one that does not fit."""
        columns = []
        for rule, column in zip(self.rules, zip(*values, strict=True), strict=True):
            rule.check(column)
            columns.append(rule.converted(column))
        is_same = not any(rule.convert for rule in self.rules)
        return values if is_same else [*zip(*columns, strict=True)]

    def _values(self, chunk: list[Any], number: int) -> list[tuple[Any, ...]]:
        names = self._names
        get = itemgetter(*names) if len(names) > 1 else lambda row: (row[names[0]],)
        if {*map(type, chunk)} == {dict} and {*map(len, chunk)} == {len(names)}:
            try:
                return [*map(get, chunk)]
            except KeyError:
                pass  # which row has it not is said below
        values = []
        for place, row in enumerate(chunk, number):
            as_dict = self._as_dict(row, place)
            for name in (*names, *as_dict):
                if name not in as_dict:
                    raise TableError(f"row {place} has no {name}, which {self._model.__name__} has")
                if name not in names:
                    known = ", ".join(names)
                    raise TableError(
                        f"row {place} has {name!r}, and {self._model.__name__} has no such column "
                        f"or row 1 has not set it\nhint: the columns are {known}"
                    )
            values.append(get(as_dict))
        return values

    def _as_dict(self, row: Any, place: int) -> Mapping[Any, Any]:
        if type(row) is self._model:  # one of a subclass may have more columns
            mapper: Mapper[Any] = sa.inspect(self._model)
            return {key: value for key, value in vars(row).items() if key in mapper.column_attrs}
        if isinstance(row, Mapping):
            return row
        raise TableError(
            f"row {place} is {_shown(row)}\nhint: rows() yields dicts or {self._model.__name__} "
            "objects, or lists of them"
        )


def _chunks(items: Iterable[Any]) -> Iterator[list[Any]]:
    """At most CHUNK rows at a time, from rows and lists of rows."""
    rest = iter(items)
    for item in rest:
        # A list that a generator yields may be all that fits into memory.
        some = [item] if _is_list(item) else [item, *islice(rest, CHUNK - 1)]
        if not any(map(_is_list, {type(each): each for each in some}.values())):
            yield some
            continue
        rows = chain.from_iterable(each if _is_list(each) else (each,) for each in some)
        while chunk := [*islice(rows, CHUNK)]:
            yield chunk


def _is_list(item: Any) -> bool:
    return isinstance(item, (list, tuple, Iterator))


def is_filled(column: sa.Column[Any]) -> bool:
    """True if the database gives the column a value where a row has none."""
    return bool(column.server_default is not None or column.computed or column.identity)


def _shown(value: Any) -> str:
    return f"{type(value).__name__} {value!r:.60}"
