"""The database of CurateTasks: where it is, how it is opened, and how its errors read."""

from __future__ import annotations

import contextlib
import os
import sqlite3
import time
from collections.abc import Callable, Iterator
from functools import lru_cache
from pathlib import Path
from typing import Any, TypeVar

import sqlalchemy as sa
from sqlalchemy.engine import URL, Connection, Engine, make_url
from sqlalchemy.exc import (
    ArgumentError,
    DBAPIError,
    NoSuchModuleError,
    OperationalError,
    SQLAlchemyError,
)
from sqlalchemy.pool import NullPool

from .. import paths
from ..errors import TableError
from ..settings import PREFIX, settings

Result = TypeVar("Result")

DRIVERS = {
    "sqlite": "sqlite",
    "postgresql": "postgresql+psycopg",
    "mysql": "mysql+pymysql",
    "mariadb": "mariadb+pymysql",
}
"""The driver for each database, the only one with which loads are tested."""

NO_ADDRESS = (
    "database.url is no address of a database\n"
    "hint: e.g. postgresql://NAME@HOST/DATABASE; write @ and / in a password as %40 and %2F"
)

PACKAGES = {"postgresql+psycopg": "psycopg[binary]"}

# ruff formats `except (A, B):` in two ways, by the lowest Python; the runtime is one for all.
_NO_ADDRESS = (ArgumentError, ValueError)

_WAIT = 1.0
"""Seconds for which SQLite itself waits for a lock; Ctrl-C has to wait for it, too."""


def database_url(flow_tag: str) -> URL:
    """The database of tasks with this tag, as the setting `database.url` has it.

    Raises TableError for an address that is none, or of a kind of database that is not supported.
    """
    setting = settings().database
    try:
        url = make_url(setting.url.replace("{flow_tag}", flow_tag))
    except _NO_ADDRESS:  # with the address, which may have a password
        raise TableError(NO_ADDRESS) from None
    kind = url.get_backend_name()
    shown_parts = f"{url.username}{url.host}{url.database}"
    if kind != "sqlite" and any(mark in shown_parts for mark in "@;"):
        raise TableError(NO_ADDRESS)  # a part of a password may have come to be one of these
    if url.drivername not in {*DRIVERS, *DRIVERS.values()}:
        known = ", ".join(dict.fromkeys([*DRIVERS, *DRIVERS.values()]))
        raise TableError(f"database.url begins with {url.drivername}; it can begin with {known}")
    url = url.set(drivername=DRIVERS[kind])
    if kind == "sqlite":
        if url.database in (None, "", ":memory:"):
            raise TableError("database.url names no file, e.g. sqlite:///databases/dev.sqlite")
        return url.set(database=str(paths.ROOT / str(url.database)))
    if not url.database:
        raise TableError(f"database.url names no database, e.g. {kind}://NAME@HOST/DATABASE")
    return url.set(password=setting.password) if setting.password else url


def shown(url: URL) -> str:
    """The database for people: SQLite's file, else the address without its password."""
    if url.get_backend_name() == "sqlite":
        return paths.shown(Path(str(url.database)))
    bare = url._replace(password=None).set(drivername=url.get_backend_name(), query={})
    return bare.render_as_string()


def engine(url: URL) -> Engine:
    """The engine for the database; each process has its own, because connections cannot be shared.

    Raises TableError if the database's driver is not installed.
    """
    return _engine(url, os.getpid())


@lru_cache(maxsize=8)
def _engine(url: URL, _process: int) -> Engine:
    is_sqlite = url.get_backend_name() == "sqlite"
    more: dict[str, Any] = {"isolation_level": "READ COMMITTED", "pool_size": 1}
    more["pool_pre_ping"] = True  # the server may have ended the connection since
    if "connect_timeout" not in url.query:  # PostgreSQL's driver would wait for minutes
        more["connect_args"] = {"connect_timeout": 10}
    if is_sqlite:
        try:
            Path(str(url.database)).parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise unusable(url, f"{error.filename}: {error.strerror}") from error
        more = {"connect_args": {"timeout": _WAIT}, "poolclass": NullPool}
    try:
        made = sa.create_engine(url, hide_parameters=True, **more)
    except (ArgumentError, TypeError, ValueError) as error:
        raise unusable(url, reason(error, url)) from error
    except (ImportError, NoSuchModuleError) as error:
        package = PACKAGES.get(url.drivername, url.drivername.partition("+")[2])
        raise TableError(
            f"{url.drivername} needs a driver, which is not installed\nhint: uv add '{package}'"
        ) from error
    if is_sqlite:
        sa.event.listen(made, "connect", _set_up_sqlite)
    elif url.get_backend_name() in ("mysql", "mariadb"):
        sa.event.listen(made, "connect", _set_up_mysql)
    return made


def _set_up_sqlite(raw: Any, _: Any) -> None:
    """Let others read during a load, and refuse references to rows that are not there."""
    # The driver begins no transaction of its own: a load begins one before it reads.
    # https://docs.sqlalchemy.org/en/20/dialects/sqlite.html#pysqlite-serializable
    raw.isolation_level = None
    raw.execute("PRAGMA foreign_keys = ON")
    with contextlib.suppress(sqlite3.OperationalError):  # another process has begun to use it
        raw.execute("PRAGMA journal_mode = WAL")


def _set_up_mysql(raw: Any, _: Any) -> None:
    """Refuse what MySQL would else cut to fit, and wait for another load like other databases."""
    with raw.cursor() as cursor:
        cursor.execute("SET SESSION sql_mode = CONCAT(@@sql_mode, ',STRICT_ALL_TABLES')")
        cursor.execute("SET SESSION innodb_lock_wait_timeout = 86400")


@contextlib.contextmanager
def connected(url: URL) -> Iterator[Connection]:
    """A connection to the database; its errors, also those within, are TableErrors."""
    made = engine(url)
    try:
        opened = made.connect()
    except Exception as error:  # also those of an option in the address
        raise unusable(url, reason(error, url)) from error
    try:
        with opened as connection:
            yield connection
    except (SQLAlchemyError, made.dialect.loaded_dbapi.Error) as error:
        raise TableError(f"{shown(url)}: {reason(error, url)}") from error


def unusable(url: URL, why: str) -> TableError:
    """The error for a database that cannot be used."""
    where = f"the setting database.url, or {PREFIX}DATABASE__URL"
    return TableError(f"{shown(url)}: {why}\nhint: the address is {where}")


def reason(error: BaseException, url: URL) -> str:
    """What the database or its driver says, in a line without statement, values and password."""
    original = error.orig if isinstance(error, DBAPIError) and error.orig else error
    text = str(
        original.args[1] if len(original.args) == 2 else original
    )  # MySQL has a number first
    line = " ".join(next((line for line in text.splitlines() if line.strip()), "").split())
    return line.replace(str(url.password), "***") if url.password else line or str(type(original))


def patiently(do: Callable[[], Result], on_wait: Callable[[], None]) -> Result:
    """Do it when no other process locks the SQLite database; before the first wait, `on_wait`."""
    is_waiting = False
    while True:
        try:
            return do()
        except OperationalError as error:
            if getattr(error.orig, "sqlite_errorcode", None) != sqlite3.SQLITE_BUSY:
                raise
        if not is_waiting:
            on_wait()
            is_waiting = True
        time.sleep(0.05)
