"""Loads into the database of a test, by a CurateTask of which each test has its own."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator
from itertools import count
from typing import Any

import luigi
import sqlalchemy as sa
from sales_pipelines.runtime import CurateTask, MetaflowTask, TableTarget
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

PREFIX = "SALES_PIPELINES__DATABASE__"
NUMBERS = count()


class Base(DeclarativeBase):
    pass


class Sale(Base):
    __tablename__ = "sales"

    shop: Mapped[str] = mapped_column(sa.String(10), primary_key=True)
    day: Mapped[int] = mapped_column(primary_key=True)
    total: Mapped[float] = mapped_column(sa.Double)
    note: Mapped[str | None] = mapped_column(sa.String(20))


def sale(shop: str = "york", day: int = 1, total: float = 1.5, note: str | None = None) -> Any:
    return {"shop": shop, "day": day, "total": total, "note": note}


class Source(MetaflowTask):
    flow_path = "small.py"


class Curate(CurateTask):
    """Loads the rows that a test gives; which run they are from does not matter here."""

    model = Sale
    number = luigi.IntParameter()  # another task for each test's load
    given: Iterable[Any] = ()

    def requires(self) -> Source:
        return Source()

    def rows(self, run: Any) -> Iterable[Any]:
        return self.given


class Database:
    """The database of a test, for the model's table."""

    def __init__(self, kind: str) -> None:
        self.kind = kind

    def task(self, rows: Iterable[Any], model: Any = Sale, **attributes: Any) -> CurateTask:
        """A new task that loads the rows."""
        made = type("Curate", (Curate,), {"model": model, "given": rows, **attributes})
        return made(number=next(NUMBERS))

    def load(self, rows: Iterable[Any], model: Any = Sale, **attributes: Any) -> tuple[int, ...]:
        """Load the rows, and return how many were inserted, updated and unchanged."""
        task = self.task(rows, model, **attributes)
        task.run()
        return tuple(task.output().result.values())

    @contextlib.contextmanager
    def connect(self) -> Iterator[sa.Connection]:
        with TableTarget(Sale.__table__, "", "dev").connect() as connection:
            yield connection

    def rows(self, model: Any = Sale) -> list[Any]:
        """The rows of the table, in the order of their keys."""
        table = model.__table__
        with self.connect() as connection:
            return [*connection.execute(sa.select(table).order_by(*table.primary_key))]

    def tables(self) -> set[str]:
        with self.connect() as connection:
            return {*sa.inspect(connection).get_table_names()} - {"curate_task_loads"}

    def do(self, *statements: str) -> None:
        with self.connect() as connection:
            for statement in statements:
                connection.execute(sa.text(statement))
            connection.commit()
