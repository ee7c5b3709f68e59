"""What CurateTask loads into a table of SQLite, PostgreSQL and MariaDB, and what it refuses."""

from __future__ import annotations

import contextlib
import datetime
import enum
import math
import threading
import uuid
from collections.abc import Iterator
from decimal import Decimal
from typing import Any

import pytest
import sqlalchemy as sa
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sales_pipelines.runtime import TableError
from sales_pipelines.runtime.settings import settings as repo_settings
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from .conftest import mark_done
from .tables import NUMBERS, PREFIX, Base, Database, Sale, Source, sale


class Colour(enum.Enum):
    RED = "r"
    BLUE = "b"


class Wide(Base):
    """A column of each type, with names that need quotes."""

    __tablename__ = "order"

    id: Mapped[int] = mapped_column(sa.BigInteger, primary_key=True)
    name: Mapped[str | None] = mapped_column('select "%s"', sa.String(20))
    text: Mapped[str | None] = mapped_column(sa.Text)
    small: Mapped[int | None] = mapped_column(sa.SmallInteger)
    number: Mapped[int | None]
    value: Mapped[float | None] = mapped_column(sa.Double)
    short: Mapped[float | None] = mapped_column(sa.Float)
    price: Mapped[Decimal | None] = mapped_column(sa.Numeric(12, 3))
    day: Mapped[datetime.date | None]
    at: Mapped[datetime.datetime | None]
    zoned: Mapped[datetime.datetime | None] = mapped_column(sa.DateTime(timezone=True))
    flag: Mapped[bool | None]
    raw: Mapped[bytes | None]
    document: Mapped[Any | None] = mapped_column(sa.JSON)
    colour: Mapped[Colour | None]
    uid: Mapped[uuid.UUID | None]
    took: Mapped[datetime.timedelta | None]


NAMES = [attribute.key for attribute in sa.inspect(Wide).column_attrs]


def wide(**values: Any) -> dict[str, Any]:
    """A row with these values, and None in the other columns."""
    return dict.fromkeys(NAMES) | {"id": 1} | values


def refused(database: Database, *rows: Any, model: Any = Sale, **attributes: Any) -> str:
    """Why the database refuses the rows, of which it has none afterwards."""
    before = database.tables()
    task = database.task(rows, model, **attributes)
    with pytest.raises(TableError) as refusal:
        task.run()
    assert not task.complete()
    assert database.tables() == before
    return str(refusal.value)


def test_rows_are_inserted_then_updated_or_left(database: Database) -> None:
    assert database.load([sale("york", 1), sale("leeds", 1), sale("leeds", 2)]) == (3, 0, 0)
    again = [sale("york", 1), sale("leeds", 1, 9.5), sale("hull", 1, note="new")]
    assert database.load(again) == (1, 1, 1)
    assert database.rows() == [
        ("hull", 1, 1.5, "new"),
        ("leeds", 1, 9.5, None),
        ("leeds", 2, 1.5, None),
        ("york", 1, 1.5, None),
    ]


@pytest.mark.parametrize("note", ["X", "x ", "", None, "é"])
def test_a_small_difference_is_an_update(database: Database, note: str | None) -> None:
    database.load([sale(note="x")])
    assert database.load([sale(note=note)]) == (0, 1, 0)
    assert database.rows()[0].note == note
    assert database.load([sale(note=note)]) == (0, 0, 1)


def test_rows_with_known_keys_are_skipped_or_refused(database: Database) -> None:
    database.load([sale("york", 1)])
    rows = [sale("hull", 1), sale("york", 1, 7.5)]
    message = refused(database, *rows, on_conflict="refuse")
    assert message.startswith("row 2 (shop='york', day=1): sales has a row with this key\nhint:")
    assert database.load(rows, on_conflict="skip") == (1, 0, 1)
    assert [row.total for row in database.rows()] == [1.5, 1.5]
    assert database.load([sale("bath", 1)], on_conflict="refuse") == (1, 0, 0)


@pytest.mark.parametrize("is_first", [True, False])
@pytest.mark.parametrize("other", [0, 11_000])
def test_a_key_that_a_load_has_twice_is_refused(
    database: Database, is_first: bool, other: int
) -> None:
    if not is_first:
        database.load([sale("hull", 5)])
    rows = [sale(day=day) for day in range(max(other, 3))]
    message = refused(database, *rows, sale(day=other and 10_500))
    day = other and 10_500
    number = len(rows) + 1
    assert message == (
        f"row {number} (shop='york', day={day}): an earlier row of the load has the same key"
    )


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"id": None}, "id is None, and the column is NOT NULL"),
        ({"id": "5"}, "id is str '5', and the column takes int"),
        ({"id": 2**63}, "id is 9223372036854775808, and the column takes"),
        ({"number": 2**31}, "number is 2147483648, and the column takes -2147483648 to 2147483647"),
        ({"small": -(2**15) - 1}, "small is -32769, and the column takes -32768 to 32767"),
        ({"number": True}, "number is bool True, and the column takes int"),
        ({"number": 1.0}, "number is float 1.0, and the column takes int"),
        ({"flag": 1}, "flag is int 1, and the column takes bool"),
        ({"name": "x" * 21}, "name has 21 characters, and the column takes 20"),
        ({"name": 5}, "name is int 5, and the column takes str"),
        ({"text": "\ud800"}, "surrogates not allowed"),
        ({"value": math.nan}, "value is not a number (NaN)\nhint: None stands for"),
        ({"value": "1"}, "value is str '1', and the column takes float"),
        ({"value": 2**53 + 1}, "value is int 9007199254740993, and the column takes float"),
        ({"price": Decimal("NaN")}, "price is not a number (NaN)"),
        ({"price": 1.5}, "price is float 1.5, and the column takes Decimal"),
        ({"price": Decimal("1.0005")}, "price is Decimal('1.0005'), and the column would hold"),
        ({"price": Decimal("1e9")}, "price is 1E+9, and the column takes -999999999.999 to"),
        ({"day": datetime.datetime(2026, 1, 1)}, "day is datetime datetime.datetime(2026, 1, 1"),
        ({"day": "2026-01-01"}, "day is str '2026-01-01', and the column takes date"),
        ({"at": datetime.date(2026, 1, 1)}, "and the column takes datetime"),
        (
            {"at": datetime.datetime(2026, 1, 1, tzinfo=datetime.UTC)},
            "at has a time zone, and the column has none",
        ),
        ({"raw": "text"}, "raw is str 'text', and the column takes bytes"),
        ({"document": {1: "x"}}, "document is {1: 'x'}, and the column would hold {'1': 'x'}"),
        ({"document": {"x": (1,)}}, "document is {'x': (1,)}, and the column would hold"),
        ({"document": {"x": {1}}}, "Object of type set is not JSON serializable"),
        ({"colour": "GREEN"}, "row 2 (id=2): "),
        ({"uid": "x"}, "uid is str 'x', and the column takes UUID"),
    ],
)
def test_a_value_that_does_not_fit_is_refused(
    database: Database, values: dict[str, Any], message: str
) -> None:
    printed = refused(database, wide(id=1), wide(id=2) | values, model=Wide)
    assert printed.startswith(f"row 2 (id={values.get('id', 2)!r}): ")
    assert message in printed


def test_a_number_of_numpy_is_refused_with_the_way_out(database: Database) -> None:
    numpy = pytest.importorskip("numpy")
    message = refused(database, sale(day=numpy.int64(5)))
    assert "day is int64 np.int64(5), and the column takes int\nhint: tolist() or" in message
    message = refused(database, sale(total=numpy.float64(5)))
    assert "total is float64 np.float64(5.0), and the column takes float\nhint: tolist()" in message


def test_whole_numbers_fit_a_column_of_other_numbers(database: Database) -> None:
    assert database.load([wide(value=3, price=4), wide(id=2, value=0.5)], Wide) == (2, 0, 0)
    row = database.rows(Wide)[0]
    assert (row.value, row.price) == (3.0, Decimal(4))


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"shop": "a", "day": 1, "note": None}, "row 2 has no total, which Sale has"),
        (sale() | {"colour": 1}, "row 2 has 'colour', and Sale has no such column"),
        ({}, "row 2 has no shop"),
        (5, "row 2 is int 5\nhint: rows() yields dicts or Sale objects"),
        ("text", "row 2 is str 'text'"),
        (None, "row 2 is NoneType None"),
        (Wide(id=1), "row 2 is Wide "),
    ],
)
def test_what_is_no_row_of_the_model_is_refused(database: Database, row: Any, message: str) -> None:
    assert refused(database, sale("hull"), row).startswith(message)


def test_the_first_row_is_checked_like_the_others(database: Database) -> None:
    assert refused(database, {"shop": "a"}).startswith("row 1 has no day")
    assert refused(database, 5).startswith("row 1 is int 5")


def test_rows_can_be_dicts_objects_and_lists_of_them(database: Database) -> None:
    rows = [
        sale(day=1),
        Sale(**sale(day=2)),
        [sale(day=3), Sale(**sale(day=4))],
        [],
        (sale(day=5),),
    ]
    assert database.load(iter(rows)) == (5, 0, 0)
    assert [row.day for row in database.rows()] == [1, 2, 3, 4, 5]
    assert refused(database, sale(), Sale(shop="x", day=9)) == "row 2 has no total, which Sale has"


def test_a_load_of_no_rows_is_done(database: Database) -> None:
    assert database.load([]) == (0, 0, 0)
    assert database.rows() == []


def test_nothing_of_a_failed_load_stays(database: Database) -> None:
    def fail() -> Iterator[Any]:
        yield from (sale(day=day) for day in range(24_000))
        raise ValueError("the source has ended early")

    task = database.task(fail())
    with pytest.raises(ValueError, match="has ended early"):
        task.run()
    assert not task.complete()
    assert database.tables() == set()
    database.load([sale("hull", 1)])
    refused(database, sale("york", 1), sale("hull", 1, 2.5), sale("york", "x"))  # type: ignore[arg-type]
    assert database.rows() == [("hull", 1, 1.5, None)]


VALUES: dict[str, st.SearchStrategy[Any]] = {
    "name": st.text(max_size=20),
    "text": st.text(),
    "small": st.integers(-(2**15), 2**15 - 1),
    "number": st.integers(-(2**31), 2**31 - 1),
    "value": st.floats(),
    "short": st.floats(),
    "price": st.decimals(allow_nan=False, allow_infinity=False),
    "day": st.dates(),
    "at": st.datetimes(),
    "zoned": st.datetimes(timezones=st.just(datetime.UTC)),
    "flag": st.booleans(),
    "raw": st.binary(),
    "document": st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
        max_leaves=5,
    ),
    "colour": st.sampled_from(Colour),
    "uid": st.uuids(),
    "took": st.timedeltas(),
}


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.dictionaries(st.sampled_from([*VALUES]), st.integers(0, 2**32), max_size=4), st.data())
def test_a_row_comes_back_as_it_went_in_or_is_refused(
    database: Database, chosen: dict[str, int], data: st.DataObject
) -> None:
    row = wide(id=next(NUMBERS), **{name: data.draw(VALUES[name], name) for name in chosen})
    with contextlib.suppress(TableError):
        database.load([row], Wide)
        with database.connect() as connection:
            table = Wide.__table__
            stored = connection.execute(sa.select(table).where(table.c.id == row["id"])).one()
        assert [*stored] == [row[name] for name in NAMES]


@pytest.mark.parametrize(
    ("statement", "message"),
    [
        (
            "ALTER TABLE sales ADD COLUMN more DATE",
            "more is DATE in the table and missing in the",
        ),
        ("ALTER TABLE sales DROP COLUMN note", "note is missing in the table and VARCHAR(20) in"),
        ("ALTER TABLE sales RENAME COLUMN note TO notes", "notes is VARCHAR(20) in the table and"),
        (
            "DROP TABLE sales; CREATE TABLE sales (shop VARCHAR(10) NOT NULL, day INTEGER NOT NULL,"
            " total DATE NOT NULL, note VARCHAR(20), PRIMARY KEY (shop, day))",
            "total is DATE NOT NULL in the table and DOUBLE",
        ),
        (
            "DROP TABLE sales; CREATE TABLE sales (shop VARCHAR(10) NOT NULL, day INTEGER NOT NULL,"
            " total DOUBLE PRECISION, note VARCHAR(20), PRIMARY KEY (shop))",
            "the primary key of the table is shop",
        ),
    ],
)
def test_a_table_that_differs_from_its_model_is_refused(
    database: Database, statement: str, message: str
) -> None:
    database.load([sale()])
    database.do(*statement.split("; "))
    printed = refused(database, sale(day=2))
    assert printed.startswith("the table sales in ")
    assert message in printed
    assert printed.endswith(
        "\nhint: docs/tables.md says how to bring the table to what the model is"
    )


def test_the_database_fills_what_rows_leave_out(database: Database) -> None:
    class Filled(DeclarativeBase):
        pass

    class Visit(Filled):
        __tablename__ = "visits"
        page: Mapped[str] = mapped_column(sa.String(10), primary_key=True)
        kind: Mapped[str] = mapped_column(sa.String(10), server_default="page")
        count: Mapped[int]

    assert database.load([{"page": "a", "count": 1}], Visit) == (1, 0, 0)
    assert database.load([{"page": "b", "count": 1}, {"page": "a", "count": 2}], Visit) == (1, 1, 0)
    assert database.rows(Visit) == [("a", "page", 2), ("b", "page", 1)]
    assert database.load([{"page": "c", "kind": "file", "count": 1}], Visit) == (1, 0, 0)
    assert database.rows(Visit)[2] == ("c", "file", 1)
    rows = [{"page": "d", "count": 1}, {"page": "e", "kind": "file", "count": 1}]
    assert "row 2 has 'kind', and Visit has no such column or row 1" in refused(
        database, *rows, model=Visit
    )


def test_a_rule_of_the_table_is_kept(database: Database) -> None:
    class Ruled(DeclarativeBase):
        pass

    class Part(Ruled):
        __tablename__ = "parts"
        __table_args__ = (sa.CheckConstraint("weight > 0"), sa.UniqueConstraint("code"))
        id: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
        code: Mapped[str] = mapped_column(sa.String(5))
        weight: Mapped[int]

    def part(number: int, code: str, weight: int = 1) -> dict[str, Any]:
        return {"id": number, "code": code, "weight": weight}

    # MySQL's rows come to the table last.
    where = "parts" if database.kind == "mariadb" else "row 2 (id=2): "
    assert where in refused(database, part(1, "a"), part(2, "b", -1), model=Part)
    where = "code" if database.kind == "mariadb" else "row 2 (id=2): "
    assert where in refused(database, part(1, "a"), part(2, "a"), model=Part)
    database.load([part(1, "a")], Part)
    assert refused(database, part(2, "a"), model=Part)
    assert refused(database, part(2, "b", -1), model=Part)
    assert database.rows(Part) == [(1, "a", 1)]


def test_a_reference_to_a_row_that_is_not_there_is_refused(database: Database) -> None:
    class Referring(DeclarativeBase):
        pass

    class Shop(Referring):
        __tablename__ = "shops"
        id: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)

    class Visit(Referring):
        __tablename__ = "visits"
        id: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
        shop: Mapped[int] = mapped_column(sa.ForeignKey("shops.id"))

    database.load([{"id": 1}], Shop)
    database.load([{"id": 1, "shop": 1}], Visit)
    assert "foreign key" in refused(database, {"id": 2, "shop": 2}, model=Visit).lower()
    assert database.rows(Visit) == [(1, 1)]


def test_rows_can_be_made_from_what_is_in_the_database(database: Database) -> None:
    database.load([wide(id=7)], Wide)

    def rows() -> Iterator[Any]:
        for day in range(60_000):  # more than SQLite keeps in memory before it writes
            yield sale(day=day, note="x" * 20)
        with database.connect() as connection:
            yield sale("hull", connection.scalar(sa.select(Wide.id)) or 0)

    assert database.load(rows()) == (60_001, 0, 0)
    assert database.rows()[0][:2] == ("hull", 7)


# SQLite has a test of its own, and MySQL's tables are not locked.
@pytest.mark.parametrize("database", ["postgresql"], indirect=True)
def test_a_wait_for_a_lock_is_shown(database: Database, capfd: Any) -> None:
    database.load([sale()])
    with database.connect() as other:
        other.exec_driver_sql("INSERT INTO sales VALUES ('hull', 1, 1.5, NULL)")
        ends = threading.Timer(2, other.commit)
        ends.start()
        assert database.load([sale("hull", 1, 2.5)]) == (0, 1, 0)
        ends.join()
    assert "waits for another process that uses postgresql://" in capfd.readouterr().out


def test_a_load_is_recorded_with_its_run(database: Database) -> None:
    task = database.task([sale()])
    assert not task.complete()
    task.run()
    assert task.complete()
    load = task.output().load
    assert (load.run, load.inserted, load.updated, load.unchanged) == ("SmallFlow/1", 1, 0, 0)
    assert task.output().result == {"inserted": 1, "updated": 0, "unchanged": 0}
    with database.connect() as connection:
        (record,) = connection.execute(sa.text("SELECT * FROM curate_task_loads")).mappings()
    assert record["package"] == "sales_pipelines"
    assert record["task_id"] == task.task_id
    assert (record["table_name"], record["flow_tag"]) == ("sales", "dev")
    database.do("DROP TABLE sales")
    assert not task.complete(), "the rows are gone"


def test_tables_of_two_tags_are_kept_apart(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    database.load([sale()])
    other = database.task([sale("hull")])
    production = type(other)(number=1, flow_tag="production")
    mark_done(Source(flow_tag="production"))
    monkeypatch.setattr(type(other), "requires", lambda self: Source(flow_tag=self.flow_tag))
    if database.kind == "sqlite":  # each has its own file
        production.run()
        assert [row.shop for row in database.rows()] == ["york"]
        return
    with pytest.raises(
        TableError, match="has rows of dev, and these are of production\nhint: give"
    ):
        production.run()
    monkeypatch.setenv(f"{PREFIX}SHARED", "true")
    repo_settings.cache_clear()
    production.run()
    assert [row.shop for row in database.rows()] == ["hull", "york"]


def test_a_key_that_the_database_would_make_is_missing(database: Database) -> None:
    class Made(DeclarativeBase):
        pass

    class Event(Made):
        __tablename__ = "events"
        id: Mapped[int] = mapped_column(sa.Identity(), primary_key=True)
        text: Mapped[str] = mapped_column(sa.String(5))

    message = refused(database, {"text": "a"}, model=Event)
    assert message == "row 1 has no id, which Event has"


def test_a_table_without_a_key_is_refused(database: Database) -> None:
    class Keyless(DeclarativeBase):
        pass

    class Line(Keyless):
        __table__ = sa.Table("lines", Keyless.metadata, sa.Column("a", sa.Integer))
        __mapper_args__ = {"primary_key": [__table__.c.a]}  # noqa: RUF012 - as SQLAlchemy has it

    message = refused_early(database, {"a": 1}, Line)
    assert message == "the table lines of Line has no primary key"


def refused_early(database: Database, row: Any, model: Any) -> str:
    with pytest.raises(TableError) as refusal:
        database.task([row], model).run()
    return str(refusal.value)


def test_an_object_of_a_subclass_is_refused(database: Database) -> None:
    class Staff(DeclarativeBase):
        pass

    class Employee(Staff):
        __tablename__ = "staff"
        id: Mapped[int] = mapped_column(primary_key=True)
        kind: Mapped[str | None] = mapped_column(sa.String(9))
        __mapper_args__ = {"polymorphic_on": "kind"}  # noqa: RUF012 - as SQLAlchemy has it

    class Manager(Employee):
        bonus: Mapped[int | None] = mapped_column(use_existing_column=True)

    message = refused(database, {"id": 1, "kind": None}, Manager(id=2, bonus=5), model=Employee)
    assert message.startswith("row 2 is Manager ")


def test_a_change_of_case_in_other_kinds_of_text_is_an_update(database: Database) -> None:
    class Other(DeclarativeBase):
        pass

    class Quiet(sa.TypeDecorator[str]):
        impl = sa.String(10)
        cache_ok = True

    class Note(Other):
        __tablename__ = "notes"
        id: Mapped[int] = mapped_column("number", key="id_", primary_key=True, autoincrement=False)
        text: Mapped[str] = mapped_column(Quiet)
        document: Mapped[Any] = mapped_column(sa.JSON)

    database.load([{"id": 1, "text": "x", "document": {"a": "x"}}], Note)
    assert database.load([{"id": 1, "text": "X", "document": {"a": "x"}}], Note) == (0, 1, 0)
    assert database.load([{"id": 1, "text": "X", "document": {"a": "X"}}], Note) == (0, 1, 0)
    assert database.rows(Note) == [(1, "X", {"a": "X"})]


def test_keys_that_differ_in_case_stay_two(database: Database) -> None:
    database.load([sale("york")])
    if database.kind == "mariadb":  # by its default collation they are one
        message = refused(database, sale("hull"), sale("YORK", total=2.5))
        assert message.startswith(
            "row 2 (shop='YORK', day=1): sales has a row whose key is another"
        )
        assert database.rows() == [("york", 1, 1.5, None)]
        return
    assert database.load([sale("YORK", total=2.5)]) == (1, 0, 0)


def test_a_default_of_python_is_no_value_of_a_row(database: Database) -> None:
    class Defaults(DeclarativeBase):
        pass

    class Part(Defaults):
        __tablename__ = "defaults"
        id: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
        size: Mapped[int] = mapped_column(default=5, server_default="7")

    database.load([{"id": 1}], Part)
    database.load([{"id": 2}], Part)
    assert database.rows(Part) == [(1, 7), (2, 7)]


def test_whoever_filled_a_dropped_table_fills_it_again(database: Database) -> None:
    first = database.task([sale("york")])
    first.run()
    database.do("DROP TABLE sales")
    second = database.task([sale("hull")])
    second.run()
    assert not first.complete()
    first.run()
    assert [row.shop for row in database.rows()] == ["hull", "york"]


@pytest.mark.parametrize("rows", [None, 5])
def test_rows_that_are_none_are_named(database: Database, rows: Any) -> None:
    with pytest.raises(TableError) as refusal:
        database.task(rows).run()
    assert str(refusal.value) == (
        f"Curate.rows() returned {rows}\nhint: yield the rows, or return a list of them"
    )
    assert database.tables() == set()


@pytest.mark.parametrize(
    "database", [pytest.param("mariadb", marks=pytest.mark.thorough)], indirect=True
)
def test_a_table_of_mysql_without_transactions_is_refused(database: Database) -> None:
    database.load([sale()])
    database.do("ALTER TABLE sales ENGINE=MyISAM")
    message = refused(database, sale("hull"))
    assert message == (
        "the table sales is of MyISAM, which has no transactions\n"
        "hint: ALTER TABLE sales ENGINE=InnoDB"
    )


@pytest.mark.parametrize(
    "database",
    ["postgresql", pytest.param("mariadb", marks=pytest.mark.thorough)],
    indirect=True,
)
def test_tags_that_differ_in_case_are_two(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    database.load([sale()])
    task = database.task([sale("hull")])
    other = type(task)(number=1, flow_tag="DEV")
    mark_done(Source(flow_tag="DEV"))
    monkeypatch.setattr(type(task), "requires", lambda self: Source(flow_tag=self.flow_tag))
    with pytest.raises(TableError, match="has rows of dev, and these are of DEV"):
        other.run()
