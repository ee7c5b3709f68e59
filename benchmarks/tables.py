"""Loads of a CurateTask, measured with the Python of a generated repo; prints figures as JSON.

They are compared with the fastest way that each database's driver has for the same rows, which
checks nothing and records nothing: `executemany` for SQLite, and `COPY` for PostgreSQL.
"""

from __future__ import annotations

import contextlib
import json
import os
import sqlite3
import statistics
import sys
import tempfile
import time
import tracemalloc
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from unittest import mock

import psycopg
from sales_pipelines.runtime import CurateTask, MetaflowTask, paths
from sales_pipelines.runtime.settings import settings
from sales_pipelines.runtime.task.target import FlowTarget, Marker
from sqlalchemy import BigInteger, Double, String
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

ROWS = 1_000_000
TABLE = (
    "CREATE TABLE bare (id BIGINT NOT NULL, name VARCHAR(20) NOT NULL, value DOUBLE PRECISION "
    "NOT NULL, PRIMARY KEY (id))"
)


class Base(DeclarativeBase):
    """The models here."""


class Narrow(Base):
    """Three columns of the usual kinds."""

    __tablename__ = "narrow"

    id: Mapped[int] = mapped_column(BigInteger, primary_key=True, autoincrement=False)
    name: Mapped[str] = mapped_column(String(20))
    value: Mapped[float] = mapped_column(Double)


class Source(MetaflowTask):
    """The run of which the rows are; it does not matter here."""

    flow_path = "small.py"


class Load(CurateTask):
    """Loads so many rows."""

    model = Narrow
    count = ROWS

    def requires(self) -> Source:
        return Source()

    def rows(self, run: Any) -> Iterator[dict[str, Any]]:
        return dicts(self.count)


def dicts(count: int = ROWS) -> Iterator[dict[str, Any]]:
    """So many rows."""
    for number in range(count):
        yield {"id": number, "name": f"name {number % 1000}", "value": number / 2}


def tuples() -> Iterator[tuple[Any, ...]]:
    """All rows as the drivers take them."""
    for row in dicts():
        yield row["id"], row["name"], row["value"]


def bare_sqlite() -> None:
    """Insert the rows with `executemany`."""
    with contextlib.closing(sqlite3.connect(paths.ROOT / "bare.sqlite")) as connection:
        connection.execute("DROP TABLE IF EXISTS bare")
        connection.execute(TABLE)
        connection.executemany("INSERT INTO bare VALUES (?, ?, ?)", tuples())
        connection.commit()


def bare_postgresql() -> None:
    """Insert the rows with `COPY`."""
    with psycopg.connect(settings().database.url, password=settings().database.password) as bare:
        bare.execute("DROP TABLE IF EXISTS bare")
        bare.execute(TABLE)
        with bare.cursor() as cursor, cursor.copy("COPY bare FROM STDIN") as copy:
            for row in tuples():
                copy.write_row(row)


def again(count: int) -> CurateTask:
    """A task whose rows are in the database already, which loads them again."""
    Load.clear_instance_cache()
    task = Load(force=True)
    task.count = count
    return task


def fresh() -> None:
    """Load the rows into a new table."""
    forget()
    again(ROWS).run()


def forget() -> None:
    """Drop the table and the records of loads."""
    with Load().output().connect() as connection:
        for name in ("narrow", "curate_task_loads"):
            connection.exec_driver_sql(f"DROP TABLE IF EXISTS {name}")
        connection.commit()


def compare(bare: Callable[[], None]) -> dict[str, float]:
    """Seconds of the bare load, of one into a new table, and of one of rows that are there."""
    times: dict[str, list[float]] = {"bare": [], "fresh": [], "again": []}
    parts = {"bare": bare, "fresh": fresh, "again": lambda: again(ROWS).run()}
    for _ in range(3):
        for name, part in parts.items():
            started = time.perf_counter()
            part()
            times[name].append(time.perf_counter() - started)
    return {name: statistics.median(taken) for name, taken in times.items()}


def peak(count: int) -> int:
    """The most memory that Python has during a load of so many rows, in bytes."""
    forget()
    tracemalloc.start()
    try:
        again(count).run()
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def main(address: str) -> None:
    """Measure SQLite, and PostgreSQL at the address."""
    found: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as root, mock.patch.object(FlowTarget, "run", None):
        os.chdir(root)
        paths.ROOT = Path(root)
        paths.FLOWS = paths.ROOT / "flows"
        paths.FLOWS.mkdir()
        (paths.FLOWS / "small.py").write_text("")
        Source().output().write(Marker(flow="SmallFlow", path="small.py", run_id="1"))
        peak(1000)  # what is imported and compiled once
        found["memory"] = peak(400_000) / peak(50_000)
        found["sqlite"] = compare(bare_sqlite)
        os.environ["SALES_PIPELINES__DATABASE__URL"] = address
        settings.cache_clear()
        found["postgresql"] = compare(bare_postgresql)
    print(json.dumps(found))


if __name__ == "__main__":
    main(sys.argv[1])
