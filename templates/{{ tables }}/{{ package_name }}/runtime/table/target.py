"""The record of a load, which is written in the same transaction as its rows."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any, NamedTuple

import luigi
import sqlalchemy as sa
from sqlalchemy.dialects.mysql import VARCHAR
from sqlalchemy.engine import Connection, Row
from sqlalchemy.exc import DBAPIError

from .. import paths
from ..errors import TableError
from .database import connected, database_url, patiently, shown


def _text(length: int) -> Any:
    """A type of text in which MySQL, too, tells apart what differs in case alone."""
    options = {"charset": "utf8mb4", "collation": "utf8mb4_bin"}
    return sa.String(length).with_variant(VARCHAR(length, **options), "mysql", "mariadb")


LOADS = sa.Table(
    "curate_task_loads",
    sa.MetaData(),
    sa.Column("package", _text(64), primary_key=True),
    sa.Column("task_id", _text(255), primary_key=True),
    sa.Column("task", sa.Text, nullable=False),
    sa.Column("table_name", sa.String(255), nullable=False),
    sa.Column("flow_tag", _text(255), nullable=False),
    sa.Column("run", sa.String(255), nullable=False),
    sa.Column("inserted", sa.BigInteger, nullable=False),
    sa.Column("updated", sa.BigInteger, nullable=False),
    sa.Column("unchanged", sa.BigInteger, nullable=False),
    sa.Column("seconds", sa.Double, nullable=False),
    sa.Column("finished", sa.String(25), nullable=False),
    sa.Column("written", sa.Double, nullable=False),
    sa.Column("version", sa.String(255), nullable=False),
    sa.Column("branch", sa.String(255)),
    sa.Column("commit", sa.String(64)),
    mysql_engine="InnoDB",
    mariadb_engine="InnoDB",
)
"""One row for each task that has loaded its rows."""


class Load(NamedTuple):
    """What is recorded of a load."""

    run: str
    """The run whose rows were loaded, as Metaflow names it."""
    inserted: int
    updated: int
    unchanged: int
    """Rows that were there already, as they are."""
    seconds: float
    finished: str
    """Date and time in UTC, as ISO 8601."""
    written: float
    """The same in seconds since 1970."""


class TableTarget(luigi.Target):
    """The output of a CurateTask: it exists if the rows are in the table.

    All of it raises TableError if the database does not answer.
    """

    def __init__(self, table: sa.Table, task_id: str, flow_tag: str) -> None:
        self.table = table
        self._key = {"package": paths.PACKAGE.name, "task_id": task_id}
        self._flow_tag = flow_tag

    def exists(self) -> bool:
        """True if the task has loaded its rows, and nobody has dropped the table since."""
        return self.read() is not None

    def read(self) -> Load | None:
        """What is recorded of the load; None if there was none."""
        with self.connect() as connection:
            names = [LOADS.c[name] for name in Load._fields]
            inspector = sa.inspect(connection)

            def find() -> Row[Any] | None:
                if not inspector.has_table(LOADS.name):
                    return None
                if not inspector.has_table(self.table.name, schema=self.table.schema):
                    return None
                return connection.execute(sa.select(*names).where(*self._is_own())).first()

            found = patiently(find, lambda: None)
            return Load._make(found) if found else None

    @contextlib.contextmanager
    def connect(self) -> Iterator[Connection]:
        """A connection of SQLAlchemy's to the database, for queries."""
        with connected(database_url(self._flow_tag)) as connection:
            yield connection

    @property
    def load(self) -> Load:
        """What is recorded of the load; TableError if there was none."""
        if (load := self.read()) is None:
            raise TableError(f"{self} has no rows of {self._key['task_id']} yet")
        return load

    @property
    def result(self) -> dict[str, int]:
        """The numbers of rows: `inserted`, `updated` and `unchanged`."""
        load = self.load
        return {name: getattr(load, name) for name in ("inserted", "updated", "unchanged")}

    def forget(self, connection: Connection) -> None:
        """Delete the records of all loads into the table, which is no more."""
        of_table = (
            LOADS.c.package == self._key["package"],
            LOADS.c.table_name == self.table.fullname,
        )
        connection.execute(sa.delete(LOADS).where(*of_table))

    def claim(self, connection: Connection, **values: Any) -> bool:
        """Write the record first, in the transaction; False if another process did meanwhile.

        A process that comes second waits here until the first has loaded its rows, or has failed.
        """
        connection.execute(sa.delete(LOADS).where(*self._is_own()))
        with contextlib.suppress(sa.exc.IntegrityError):
            connection.execute(sa.insert(LOADS).values(**self._key, **values))
            return True
        return False

    def finish(self, connection: Connection, **values: Any) -> None:
        """Complete the record, as soon as the rows are in the table."""
        connection.execute(sa.update(LOADS).where(*self._is_own()).values(**values))

    def other_tags(self, connection: Connection) -> list[str]:
        """The tags, other than its own, with which this repo has loaded rows into the database."""
        query = sa.select(LOADS.c.flow_tag).distinct()
        tags = connection.scalars(query.where(LOADS.c.package == self._key["package"]))
        return sorted({*tags} - {self._flow_tag})

    def _is_own(self) -> list[sa.ColumnElement[bool]]:
        return [LOADS.c[name] == value for name, value in self._key.items()]

    def __str__(self) -> str:
        return f"{self.table.fullname} in {shown(database_url(self._flow_tag))}"

    def __repr__(self) -> str:
        return f"TableTarget({self})"


def make_loads(connection: Connection) -> None:
    """Make the table of records if it is missing; another process may do the same."""
    if sa.inspect(connection).has_table(LOADS.name):
        return
    try:
        LOADS.create(connection)
        connection.commit()
    except DBAPIError:
        connection.rollback()
        if not sa.inspect(connection).has_table(LOADS.name):
            raise
