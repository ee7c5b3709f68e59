"""Loads the rows of a model into its table, within the transaction of a connection.

Rows go into an empty table as they come. Else they go into a temporary table first, and a few
statements compare it with the table, whatever the number of rows: no database has a limit for
those, and each of them knows how to do that best.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Collection, Iterable, Iterator
from itertools import chain
from typing import Any, Literal, NamedTuple

import sqlalchemy as sa
from sqlalchemy.engine import Connection
from sqlalchemy.exc import DBAPIError, SQLAlchemyError
from sqlalchemy.orm import DeclarativeBase

from ..errors import TableError
from .database import reason, shown
from .rows import MisfitError, Rows, is_filled, rules

OnConflict = Literal["update", "skip", "refuse"]
ON_CONFLICT = ("update", "skip", "refuse")

Values = list[tuple[Any, ...]]

BATCH = 20_000
"""Rows that are written by one statement."""

_LOCK_NOT_AVAILABLE = "55P03"
"""PostgreSQL's code, see https://www.postgresql.org/docs/current/errcodes-appendix.html."""


class Counts(NamedTuple):
    """What a load did to the rows of a table."""

    inserted: int
    updated: int
    unchanged: int


def load(
    connection: Connection,
    model: type[DeclarativeBase],
    rows: Iterable[Any],
    on_conflict: OnConflict,
    on_progress: Callable[[int], None],
    on_wait: Callable[[], None],
) -> Counts:
    """Load the rows; if the table has one with the same primary key, `on_conflict` decides.

    `on_progress` gets the number of rows so far, and `on_wait` is called before a wait for others
    that write into the table. Raises TableError for a table that differs from its model and for a
    row that does not fit; the caller then rolls back.
    """
    return _Load(connection, model, on_conflict, on_wait).load(rows, on_progress)


class _Batch:
    """Rows that one statement writes, taken only when it asks for them.

    So PostgreSQL stores the first of them while the others are still made and checked.
    """

    def __init__(self, first: int, chunks: Iterable[tuple[Values, Values]]) -> None:
        self.first = first
        """The number of the first row."""
        self.values = Values()
        """The rows that have been taken, as their task has them."""
        self.error: Exception | None = None
        """What ended the rows."""
        self._chunks = chunks
        self._written = Values()

    def __iter__(self) -> Iterator[tuple[Any, ...]]:
        """The rows as they are written."""
        try:
            for values, written in self._chunks:
                self.values += values
                self._written += written
                yield from written
                if len(self.values) >= BATCH:
                    break
        except Exception as error:
            self.error = error
            raise

    def halves(self) -> Iterator[_Batch]:
        """Two batches of the rows that have been taken."""
        half = len(self.values) // 2
        for start, part in ((0, slice(half)), (half, slice(half, None))):
            yield _Batch(self.first + start, [(self.values[part], self._written[part])])


class _Load:
    def __init__(
        self,
        connection: Connection,
        model: type[DeclarativeBase],
        on_conflict: OnConflict,
        on_wait: Callable[[], None],
    ) -> None:
        self._on_wait = on_wait
        self._connection = connection
        self._dialect = connection.dialect
        self._model = model
        self._on_conflict = on_conflict
        self._table = table_of(model)
        self._rules = rules(model, connection.dialect)
        taken = {column.name.lower() for column in self._table.columns}
        self._number = sa.Column(_new_name("row_number", taken), sa.BigInteger, nullable=False)
        self._is_exact = all(rule.is_exact for rule in self._rules)
        self._types: list[int] = []
        self._number.index = not self._is_exact  # rows are read back by it
        self._temporary = sa.Table(
            _new_name("rows_to_load", {self._table.name.lower()}),
            sa.MetaData(),
            self._number,
            *map(_copy, self._table.columns),
            prefixes=["TEMPORARY"],
            postgresql_on_commit="DROP",
        )
        self._pairs = {
            column.name: (column, self._temporary.columns[column.name])
            for column in self._table.columns
        }

    def load(self, rows: Iterable[Any], on_progress: Callable[[int], None]) -> Counts:
        self._temporary.create(self._connection)
        try:
            self._check_table()
            return self._load(Rows(rows, self._model, self._rules), on_progress)
        finally:
            if is_mysql(self._connection) and not self._connection.invalidated:
                # It would be there for as long as the connection.
                name = self._sql_name(self._temporary)
                self._connection.exec_driver_sql(f"DROP TEMPORARY TABLE {name}")

    def _check_table(self) -> None:
        """Raise TableError if the table has other columns than the model, named one by one.

        The database describes the model by the temporary table, in its own terms.
        """
        name, inspector = (self._table.name, self._table.schema), sa.inspect(self._connection)
        there, wanted = self._described(self._table), self._described(self._temporary)
        del wanted[self._number.name]
        differences = [
            f"{column} is {in_table} in the table and {in_model} in the model"
            for column in {**wanted, **there}
            if (in_table := there.get(column, "missing"))
            != (in_model := wanted.get(column, "missing"))
        ]
        keys = inspector.get_pk_constraint(*name)["constrained_columns"]
        if {*keys} != {column.name for column in self._table.primary_key}:
            differences.append(f"the primary key of the table is {', '.join(keys) or 'missing'}")
        if differences:
            raise TableError(
                f"the table {self._table.fullname} in {shown(self._connection.engine.url)} differs "
                f"from {self._model.__name__}: {'; '.join(differences)}\n"
                "hint: docs/tables.md says how to bring the table to what the model is"
            )
        if is_mysql(self._connection):
            options = inspector.get_table_options(*name)
            if (kind := options.get(f"{self._dialect.name}_engine", "InnoDB")) != "InnoDB":
                table = self._sql_name(self._table)
                raise TableError(
                    f"the table {table} is of {kind}, which has no transactions\n"
                    f"hint: ALTER TABLE {table} ENGINE=InnoDB"
                )

    def _described(self, table: sa.Table) -> dict[str, str]:
        """The table's columns as the database describes them, e.g. `INTEGER NOT NULL`."""
        columns = sa.inspect(self._connection).get_columns(table.name, schema=table.schema)
        filled = {column.name for column in self._table.columns if is_filled(column)}
        return {
            column["name"]: column["type"].compile(self._dialect)
            + ("" if column["nullable"] or column["name"] in filled else " NOT NULL")
            for column in columns
        }

    def _load(self, rows: Rows, on_progress: Callable[[int], None]) -> Counts:
        # MySQL cannot keep other loads out of a table that is empty.
        is_direct = self._is_exact and not is_mysql(self._connection) and self._is_empty()
        into = self._table if is_direct else self._temporary
        chunks, count = self._checked(rows, is_direct), 0
        for first in chunks:
            batch = _Batch(count + 1, chain([first], chunks))
            self._write(into, rows, batch)
            if not is_direct:
                self._compare_with_written(rows, batch)
            count += len(batch.values)
            on_progress(count)
        return Counts(count, 0, 0) if is_direct else self._merge(rows, count)

    def _checked(self, rows: Rows, is_direct: bool) -> Iterator[tuple[Values, Values]]:
        """The values of some rows, and what is written of them."""
        for number, values in rows.chunks():
            try:
                written = rows.converted(values)
            except MisfitError as misfit:
                where = self._row(number + misfit.place, rows, values[misfit.place])
                raise TableError(f"{where}: {misfit.column} {misfit.why}") from misfit
            yield values, written if is_direct else [*map(_numbered, enumerate(written, number))]

    def _is_empty(self) -> bool:
        """True if the table has no row, and gets none from others for this transaction."""
        has_rows = sa.select(sa.exists(sa.select(1).select_from(self._table)))
        if self._connection.scalar(has_rows):
            return False
        self._lock_table()
        return not self._connection.scalar(
            has_rows
        )  # before it was locked, others may have written

    def _lock_table(self) -> None:
        """Let others read the table, and not write. SQLite does so anyway, and MySQL cannot."""
        if self._dialect.name == "postgresql":
            lock = f"LOCK TABLE {self._sql_name(self._table)} IN SHARE ROW EXCLUSIVE MODE"
            try:
                with self._connection.begin_nested():
                    self._connection.exec_driver_sql(f"{lock} NOWAIT")
            except DBAPIError as error:
                if getattr(error.orig, "sqlstate", None) != _LOCK_NOT_AVAILABLE:
                    raise
                self._on_wait()
                self._connection.exec_driver_sql(lock)

    def _write(self, into: sa.Table, rows: Rows, batch: _Batch) -> None:
        """Insert the rows; if the database refuses them, half by half, to name the first."""
        savepoint = self._connection.begin_nested()
        try:
            self._insert(into, rows, batch)
            savepoint.commit()
        except Exception as error:  # also those of the driver, and what it cannot encode
            if error is batch.error:  # of the rows themselves
                raise
            try:
                savepoint.rollback()
            except SQLAlchemyError:  # the whole transaction is gone, as with a full disk
                raise error from None
            if self._connection.invalidated:
                raise
            if len(batch.values) == 1:
                (values,) = batch.values
                why = reason(error, self._connection.engine.url)
                if self._is_in(into, rows, values):
                    why = "an earlier row of the load has the same key"
                raise TableError(f"{self._row(batch.first, rows, values)}: {why}") from error
            for half in batch.halves():
                self._write(into, rows, half)

    def _insert(self, into: sa.Table, rows: Rows, batch: _Batch) -> None:
        names = [rule.column.name for rule in rows.rules]
        names = names if into is self._table else [self._number.name, *names]
        columns = ", ".join(map(self._dialect.identifier_preparer.quote, names))
        table = self._sql_name(into)
        if self._dialect.name == "postgresql":
            self._copy_in(f"{table} ({columns})", f"SELECT {columns} FROM {table} LIMIT 0", batch)
            return
        mark = "?" if self._dialect.paramstyle == "qmark" else "%s"
        marks = ", ".join([mark] * len(names))
        statement = f"INSERT INTO {table} ({columns}) VALUES ({marks})"
        self._connection.exec_driver_sql(statement, [*batch])

    def _copy_in(self, where: str, none: str, batch: _Batch) -> None:
        """Insert by PostgreSQL's COPY, in binary if the driver knows each of the types."""
        raw: Any = self._connection.connection.driver_connection
        # SQLAlchemy doubles each % for statements with values, of which these are none.
        how = f"COPY {where} FROM STDIN{' (FORMAT BINARY)' if self._is_exact else ''}"
        with raw.cursor() as cursor:
            if self._is_exact and not self._types:  # all of a load's rows go into one table
                description = cursor.execute(none.replace("%%", "%")).description
                self._types = [column.type_code for column in description]
            with cursor.copy(how.replace("%%", "%")) as copy:
                if self._is_exact:
                    copy.set_types(self._types)
                for row in batch:
                    copy.write_row(row)

    def _is_in(self, table: sa.Table, rows: Rows, value: tuple[Any, ...]) -> bool:
        given = {rule.column.name: each for rule, each in zip(rows.rules, value, strict=True)}
        is_temporary = table is self._temporary
        keys = [
            self._pairs[column.name][is_temporary] == given.get(column.name)
            for column in self._table.primary_key
        ]
        try:
            return self._connection.scalar(sa.select(1).select_from(table).where(*keys)) is not None
        except Exception:  # the key is what the database refuses
            return False

    def _compare_with_written(self, rows: Rows, batch: _Batch) -> None:
        """Raise TableError for the first value that comes back as another than it was."""
        inexact = [at for at, rule in enumerate(rows.rules) if not rule.is_exact]
        columns = [self._pairs[rows.rules[at].column.name][1] for at in inexact]
        if not columns:
            return
        query = sa.select(*columns).where(self._number >= batch.first).order_by(self._number)
        back = iter(self._connection.execute(query))
        for number, row in enumerate(batch.values, batch.first):
            try:
                stored = next(back)
            except Exception as error:  # of the type, which may be the user's own
                why = f"the database cannot return it: {type(error).__name__}: {error}"
                raise TableError(f"{self._row(number, rows, row)}: {why}") from error
            for at, value in zip(inexact, stored, strict=True):
                if value != row[at]:
                    what = f"{rows.rules[at].name} is {row[at]!r:.60}"
                    raise TableError(
                        f"{self._row(number, rows, row)}: {what}, and the column would hold "
                        f"{value!r:.60}"
                    )

    def _merge(self, rows: Rows, count: int) -> Counts:
        """Bring the rows of the temporary table into the table."""
        table = self._table
        self._lock_table()
        keys = [self._pairs[column.name] for column in table.primary_key]
        pairs = [self._pairs[rule.column.name] for rule in rows.rules]
        others = [pair for pair in pairs if not pair[0].primary_key]
        same_key = sa.and_(*(ours == theirs for ours, theirs in keys))
        other_texts = [self._differ(*pair) for pair in keys if _is_text(pair[0])]
        if other_texts and self._dialect.name != "postgresql":
            self._refuse_if(
                sa.and_(same_key, sa.or_(*other_texts)),
                "has a row whose key is another text, which the database takes for the same\n"
                "hint: a collation tells them apart, such as String(20, collation='utf8mb4_bin')",
            )
        updated = 0
        if self._on_conflict == "refuse":
            self._refuse_if(
                same_key,
                'has a row with this key\nhint: on_conflict = "update" or "skip" takes such rows',
            )
        elif self._on_conflict == "update" and others:
            updated = self._connection.execute(
                sa.update(table)
                .values(dict(others))
                .where(same_key, sa.or_(*(self._differ(*pair) for pair in others)))
            ).rowcount
        inserted = self._connection.execute(
            sa.insert(table).from_select(
                [ours for ours, _ in pairs],
                sa.select(*(theirs for _, theirs in pairs))
                .where(~sa.exists(sa.select(1).select_from(table).where(same_key)))
                .order_by(self._number),
                include_defaults=False,  # those of Python; an empty table has not got them either
            ),
            execution_options={"preserve_rowcount": True},
        ).rowcount
        return Counts(inserted, updated, count - inserted - updated)

    def _refuse_if(self, holds: sa.ColumnElement[bool], why: str) -> None:
        """Raise TableError for the first row for which the condition holds in the table."""
        keys = [self._pairs[column.name][1] for column in self._table.primary_key]
        found = self._connection.execute(
            sa.select(self._number, *keys)
            .where(sa.exists(sa.select(1).select_from(self._table).where(holds)))
            .order_by(self._number)
            .limit(1)
        ).first()
        if found:
            values = zip(keys, found[1:], strict=True)
            key = ", ".join(f"{column.name}={value!r:.60}" for column, value in values)
            raise TableError(f"row {found[0]} ({key}): {self._table.fullname} {why}")

    def _differ(self, ours: sa.Column[Any], theirs: sa.Column[Any]) -> sa.ColumnElement[bool]:
        """A condition: the values differ, in case and blanks at the end, too."""
        as_types: list[type[Any]] = []
        if _is_text(ours):
            as_types = (
                [sa.Text] if self._dialect.name == "postgresql" else [sa.Text, sa.LargeBinary]
            )
        left: Any = ours
        right: Any = theirs
        for each in as_types:
            left, right = sa.cast(left, each), sa.cast(right, each)
        differ: sa.ColumnElement[bool] = left.is_distinct_from(right)
        return differ

    def _row(self, number: int, rows: Rows, values: tuple[Any, ...]) -> str:
        key = [
            f"{rule.name}={value!r:.60}"
            for rule, value in zip(rows.rules, values, strict=True)
            if rule.column.primary_key
        ]
        return f"row {number} ({', '.join(key)})"

    def _sql_name(self, table: sa.Table) -> str:
        return self._dialect.identifier_preparer.format_table(table)


def has_table(connection: Connection, table: sa.Table) -> bool:
    """True if the database has a table of this name."""
    return sa.inspect(connection).has_table(table.name, schema=table.schema)


def make_table(connection: Connection, table: sa.Table) -> bool:
    """Make the table if it is missing, and return whether that was so.

    It is a part of the transaction, but not in MySQL, where this also commits.
    """
    inspector = sa.inspect(connection)
    if has_table(connection, table):
        return False
    try:
        with contextlib.nullcontext() if is_mysql(connection) else connection.begin_nested():
            table.create(connection)
    except DBAPIError:
        inspector.clear_cache()
        if not inspector.has_table(table.name, schema=table.schema):
            raise
        return False  # another load has made it meanwhile
    return True


def drop_if_empty(connection: Connection, table: sa.Table) -> None:
    """Drop a table of MySQL that was made for a load which failed; others may have filled it."""
    connection.rollback()
    name = connection.dialect.identifier_preparer.format_table(table)
    connection.exec_driver_sql(f"LOCK TABLES {name} WRITE")
    try:
        if not connection.exec_driver_sql(f"SELECT EXISTS (SELECT 1 FROM {name})").scalar():
            connection.exec_driver_sql(f"DROP TABLE {name}")
    finally:
        connection.exec_driver_sql("UNLOCK TABLES")


def is_mysql(connection: Connection) -> bool:
    """True for MySQL and MariaDB, where making a table is no part of a transaction."""
    return connection.dialect.name in ("mysql", "mariadb")


def table_of(model: type[DeclarativeBase]) -> sa.Table:
    """The model's table. Raises TableError if it is none, such as a view or a join."""
    table = model.__table__
    if not isinstance(table, sa.Table):
        raise TableError(f"{model.__name__} has no table of its own")
    if not [*table.primary_key]:
        raise TableError(f"the table {table.fullname} of {model.__name__} has no primary key")
    return table


def _is_text(column: sa.Column[Any]) -> bool:
    """True if the database compares the values as text, perhaps without regard to case."""
    kind = column.type
    return isinstance(
        kind.impl if isinstance(kind, sa.TypeDecorator) else kind, sa.String | sa.JSON
    )


def _new_name(name: str, taken: Collection[str]) -> str:
    """The name, with as many underscores as it takes to be none of those, in lower case."""
    while name in taken:
        name += "_"
    return name


def _numbered(row: tuple[int, tuple[Any, ...]]) -> tuple[Any, ...]:
    number, values = row
    return (number, *values)


def _copy(column: sa.Column[Any]) -> sa.Column[Any]:
    """The column for the temporary table, without what fills it and what refers to it."""
    return sa.Column(
        column.name,
        column.type,
        primary_key=column.primary_key,
        autoincrement=False,
        nullable=column.nullable or is_filled(column),
    )
