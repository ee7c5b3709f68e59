"""A CurateTask as a part of a pipeline: when it is done, what interrupts it, what it shows."""

from __future__ import annotations

import contextlib
import os
import random
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import luigi
import pytest
import sqlalchemy as sa
from sales_pipelines.runtime import (
    CurateTask,
    MetaflowTask,
    ParameterError,
    TableError,
    paths,
    temporary_root,
)
from sales_pipelines.runtime.settings import settings
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from ..conftest import unshare
from ..databases import PASSWORD, Server
from .conftest import START, Pipeline, wait_until
from .tables import PREFIX, Database, sale

servers_only = pytest.mark.parametrize(
    "database",
    ["postgresql", pytest.param("mariadb", marks=pytest.mark.thorough)],
    indirect=True,
)

FOREACH = """
from metaflow import FlowSpec, step

from sales_pipelines.runtime import talk_to_luigi


@talk_to_luigi
class DaysFlow(FlowSpec):
    @step
    def start(self):
        self.shops = ["hull", "leeds", "york"]
        self.next(self.sum_up, foreach="shops")

    @step
    def sum_up(self):
        self.sales = [(self.input, day, day / 2) for day in range(1, 4)]
        self.next(self.join)

    @step
    def join(self, inputs):
        self.next(self.end)

    @step
    def end(self):
        self.luigi_result = {"shops": 3}


if __name__ == "__main__":
    DaysFlow()
"""


class Model(DeclarativeBase):
    pass


class Sum(Model):
    __tablename__ = "sums"

    shop: Mapped[str] = mapped_column(sa.String(10), primary_key=True)
    day: Mapped[int] = mapped_column(primary_key=True)
    total: Mapped[float]


class SumUp(MetaflowTask):
    flow_path = "days.py"


class LoadSums(CurateTask):
    model = Sum

    def requires(self) -> SumUp:
        return SumUp(flow_tag=self.flow_tag)

    def rows(self, run: Any) -> Iterable[Any]:
        for task in run["sum_up"]:
            yield [
                {"shop": shop, "day": day, "total": total}
                for shop, day, total in task["sales"].data
            ]


class After(luigi.Task):
    """Uses the table, as any task of Luigi's would."""

    done = False

    def requires(self) -> LoadSums:
        return LoadSums()

    def complete(self) -> bool:
        return type(self).done

    def run(self) -> None:
        with self.input().connect() as connection:
            type(self).done = connection.scalar(sa.select(sa.func.sum(Sum.total))) == 9.0


def fresh(task: type[Any], **parameters: Any) -> Any:
    """A new task: Luigi keeps one for the same parameters."""
    task.clear_instance_cache()
    return task(**parameters)


def build(*tasks: luigi.Task, **options: Any) -> bool:
    return luigi.build([*tasks], local_scheduler=True, log_level="WARNING", **options)


def test_a_table_is_the_end_of_a_pipeline_and_the_start_of_more(pipeline: Pipeline) -> None:
    pipeline.add_file("days.py", FOREACH)
    assert build(After())
    assert After.done
    task = fresh(LoadSums)
    assert task.output().result == {"inserted": 9, "updated": 0, "unchanged": 0}
    assert (pipeline.root / "databases" / "dev.sqlite").exists()
    loaded = task.output().load
    assert loaded.run == SumUp().output().marker.pathspec

    assert build(fresh(LoadSums)), "it is done"
    assert fresh(LoadSums).output().load == loaded
    assert build(fresh(LoadSums, force=True))
    assert fresh(LoadSums).output().result == {"inserted": 0, "updated": 0, "unchanged": 9}
    assert fresh(LoadSums).output().load.run == loaded.run, "the flow has not run again"
    assert build(fresh(LoadSums, force_upstream=True))
    assert fresh(LoadSums).output().load.run != loaded.run


@pytest.mark.thorough
def test_a_run_forced_as_a_whole_loads_again(
    pipeline: Pipeline, monkeypatch: pytest.MonkeyPatch
) -> None:
    pipeline.add_file("days.py", FOREACH)
    assert build(fresh(LoadSums))
    first = fresh(LoadSums).output().load
    monkeypatch.setenv("LUIGI_RUN_FORCED_AT", repr(time.time()))
    SumUp.clear_instance_cache()
    assert not fresh(LoadSums).complete()
    assert build(fresh(LoadSums), workers=2)
    assert fresh(LoadSums).complete()
    assert fresh(LoadSums).output().load.run != first.run


def broken(**attributes: Any) -> type[CurateTask]:
    return type("Broken", (CurateTask,), attributes)


@pytest.mark.parametrize(
    ("attributes", "message"),
    [
        ({}, "Broken.model must be a declarative class, not None"),
        ({"model": "sums"}, "Broken.model must be a declarative class, not 'sums'"),
        ({"model": Model}, "Broken.model must be a declarative class, not "),
        (
            {"model": Sum, "on_conflict": "insert"},
            "Broken.on_conflict is 'insert', not one of: update, skip, refuse",
        ),
    ],
)
def test_a_mistake_in_the_class_is_named_before_anything_runs(
    pipeline: Pipeline, attributes: dict[str, Any], message: str
) -> None:
    with pytest.raises(ParameterError) as refusal:
        broken(**attributes)()
    assert str(refusal.value).startswith(message)


@pytest.mark.parametrize("tags", [[], ["dev", "other"]])
def test_a_task_loads_the_run_of_one_flow(pipeline: Pipeline, tags: list[str]) -> None:
    pipeline.add_file("days.py", FOREACH)
    required = [SumUp(flow_tag=tag) for tag in tags]
    task = broken(model=Sum, requires=lambda self: required)()
    with pytest.raises(ParameterError, match=r"Broken requires [02] flows\nhint: requires\(\) ret"):
        task.run()


def test_a_wrong_tag_is_refused(pipeline: Pipeline) -> None:
    with pytest.raises(ParameterError, match=r"flow_tag '\.\./x' must be"):
        fresh(LoadSums, flow_tag="../x")


def test_a_test_has_a_database_of_its_own_whatever_the_settings_say(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config, root = tmp_path / "config", tmp_path / "root"
    for folder in (config, root):
        folder.mkdir()
    (config / "base.yaml").write_text("database:\n  url: postgresql://etl@127.0.0.1:9/sales\n")
    monkeypatch.setattr(paths, "CONFIG", config)
    with temporary_root(root):
        assert not fresh(LoadSums).complete()
    assert (root / "databases" / "dev.sqlite").exists()


def planted(text: str) -> str:
    """The text, which must not have the password."""
    assert PASSWORD not in text
    return text


@pytest.mark.parametrize(
    ("url", "message"),
    [
        (f"no address {PASSWORD}", "database.url is no address of a database\nhint: e.g."),
        (f"postgresql://etl:{PASSWORD}@x:port/d", "database.url is no address of a database"),
        (f"postgresql://etl:pa@{PASSWORD}@127.0.0.1/d", "database.url is no address of a database"),
        (f"mysql://etl:pa@SEC/{PASSWORD}@127.0.0.1/d", "database.url is no address of a database"),
        (f"postgresql://etl@h/d;password={PASSWORD}", "database.url is no address of a database"),
        ("mysql://etl@127.0.0.1:9/d?foo=1", "mysql://etl@127.0.0.1:9/d: "),
        ("postgresql://etl@127.0.0.1/d?port=abc", "postgresql://etl@127.0.0.1/d: "),
        (f"oracle://etl:{PASSWORD}@x/d", "database.url begins with oracle; it can begin with sql"),
        (f"postgresql+asyncpg://e:{PASSWORD}@x/d", "database.url begins with postgresql+asyncpg;"),
        (f"postgresql://etl:{PASSWORD}@x", "database.url names no database, e.g. postgresql://"),
        ("sqlite://", "database.url names no file, e.g. sqlite:///databases/dev.sqlite"),
        ("sqlite:///:memory:", "database.url names no file"),
        (
            f"postgresql://etl:{PASSWORD}@127.0.0.1:9/d?sslpassword={PASSWORD}",
            "postgresql://etl@127.0.0.1:9/d: connection failed",
        ),
        (f"mysql://etl:{PASSWORD}@127.0.0.1:9/d", "mysql://etl@127.0.0.1:9/d: Can't connect to"),
        ("sqlite:////proc/none/x.sqlite", "/proc/none/x.sqlite: "),
    ],
)
def test_a_database_that_cannot_be_used_is_named_without_its_password(
    pipeline: Pipeline, url: str, message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(f"{PREFIX}URL", url)
    settings.cache_clear()
    with pytest.raises(TableError) as refusal:
        fresh(LoadSums).complete()
    assert planted(str(refusal.value)).startswith(message)


def test_a_password_for_a_server_does_not_disturb_sqlite(
    pipeline: Pipeline, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(f"{PREFIX}PASSWORD", PASSWORD)
    settings.cache_clear()
    assert not fresh(LoadSums).complete()


def test_a_missing_driver_is_named(pipeline: Pipeline, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(f"{PREFIX}URL", "postgresql://127.0.0.1:9/none")
    monkeypatch.setitem(sys.modules, "psycopg", None)
    settings.cache_clear()
    with pytest.raises(TableError) as refusal:
        fresh(LoadSums).complete()
    assert str(refusal.value).endswith(
        "needs a driver, which is not installed\nhint: uv add 'psycopg[binary]'"
    )


@servers_only
def test_a_wrong_password_is_not_shown(database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(f"{PREFIX}PASSWORD", f"{PASSWORD}-2")
    settings.cache_clear()
    with pytest.raises(TableError, match=r"etl@127\.0\.0\.1") as refusal:
        database.task([]).complete()
    planted(str(refusal.value))


# A process that loads rows 0 to N - 1 for the task Big, from a run that does not matter.
BIG = """
import sys
from unittest import mock

import sqlalchemy as sa
from sales_pipelines.runtime import CurateTask, MetaflowTask, paths
from sales_pipelines.runtime.task.target import FlowTarget, Marker
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column


class Base(DeclarativeBase):
    pass


class Number(Base):
    __tablename__ = "numbers"
    id: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    half: Mapped[float] = mapped_column(sa.Double)


class Source(MetaflowTask):
    flow_path = "small.py"


class Big(CurateTask):
    model = Number

    def requires(self):
        return Source()

    def rows(self, run):
        print("begins", flush=True)
        for number in range(N):
            yield {"id": number, "half": number / 2}


Source().output().write(Marker(flow="SmallFlow", path="small.py", run_id="1"))
FlowTarget.run = None
task = Big()
if not task.complete():
    task.run()
    print("loaded", flush=True)
"""


def start_big(root: Path, rows: int) -> subprocess.Popen[str]:
    """Start the load, in a session of its own."""
    given = START.partition("if sys.argv")[0]
    return subprocess.Popen(
        [sys.executable, "-c", f"{given}\nN = {rows}\n{BIG}"],
        cwd=root,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )


def state_of_big(database: Database) -> tuple[int, int]:
    """How many rows are in the table, and how many loads are recorded."""
    with database.connect() as connection:
        counts = []
        for table in ("numbers", "curate_task_loads"):
            there = sa.inspect(connection).has_table(table)
            query = sa.select(sa.func.count()).select_from(sa.table(table))
            counts.append(int(connection.scalar(query) or 0) if there else 0)
        return counts[0], counts[1]


@pytest.mark.parametrize("kills", [pytest.param(3), pytest.param(20, marks=pytest.mark.thorough)])
def test_a_kill_leaves_all_rows_and_the_record_or_neither(
    database: Database, pipeline: Pipeline, kills: int
) -> None:
    chance = random.Random(kills)
    rows = 60_000
    seen = set()
    took = 2.0
    for _ in range(kills):
        process = start_big(pipeline.root, rows)
        assert process.stdout
        assert process.stdout.readline() == "begins\n"
        begun = time.monotonic()
        time.sleep(chance.uniform(0, took))
        process.kill()
        output = process.communicate()[0]
        if "loaded" in output:
            took = min(took, time.monotonic() - begun)
        there = state_of_big(database)
        assert there in {(0, 0), (rows, 1)}, output
        seen.add(there)
        if there == (rows, 1):
            database.do("DROP TABLE numbers", "DELETE FROM curate_task_loads")
    process = start_big(pipeline.root, rows)
    assert "loaded" in process.communicate()[0], "the next run loads them"
    assert state_of_big(database) == (rows, 1)


def test_of_two_loads_of_a_task_at_once_one_loads(
    database: Database, pipeline: Pipeline, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """On one machine, and on two, which share the database and nothing else."""
    roots = [pipeline.root, pipeline.root]
    if database.kind != "sqlite":
        other = tmp_path_factory.mktemp("other")
        for folder in ("flows", "config"):
            (other / folder).mkdir()
        (other / "flows" / "small.py").write_text((pipeline.flows / "small.py").read_text())
        roots[1] = other
    processes = [start_big(root, 20_000) for root in roots]
    outputs = [process.communicate()[0] for process in processes]
    assert [process.returncode for process in processes] == [0, 0], outputs
    assert state_of_big(database) == (20_000, 1)
    assert sum("20,000 inserted" in output for output in outputs) == 1, outputs


def test_ctrl_c_ends_a_load(database: Database, pipeline: Pipeline) -> None:
    process = start_big(pipeline.root, 10_000_000)
    assert process.stdout
    assert process.stdout.readline() == "begins\n"
    time.sleep(0.5)
    os.killpg(process.pid, signal.SIGINT)
    process.communicate(timeout=20)
    assert process.returncode
    assert state_of_big(database) == (0, 0)


@pytest.mark.thorough
def test_a_reader_of_sqlite_is_waited_for(pipeline: Pipeline, capfd: Any) -> None:
    pipeline.add_file("days.py", FOREACH)
    assert build(fresh(LoadSums))
    script = textwrap.dedent("""
        import sqlite3, sys, time
        connection = sqlite3.connect(sys.argv[1], isolation_level=None)
        connection.execute("BEGIN IMMEDIATE")
        print("locked", flush=True)
        time.sleep(3)
        connection.execute("COMMIT")
    """)
    command = [sys.executable, "-c", script, str(pipeline.root / "databases" / "dev.sqlite")]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as locking:
        assert locking.stdout
        assert locking.stdout.readline() == "locked\n"
        fresh(LoadSums, force=True).run()
    assert "waits for another process that uses databases/dev.sqlite" in capfd.readouterr().out
    assert fresh(LoadSums).output().result["unchanged"] == 9


@servers_only
def test_a_server_that_stops_midway_leaves_nothing(
    database: Database, servers: Callable[[str], Server], pipeline: Pipeline
) -> None:
    server = servers(database.kind)

    def rows() -> Iterable[Any]:
        yield [sale(day=day) for day in range(20_000)]
        server.stop()
        yield [sale(day=day) for day in range(20_000, 40_000)]

    task = database.task(rows())
    try:
        with pytest.raises(TableError, match=rf"{database.kind}://etl@127.0.0.1:\d+/test_\d+: "):
            task.run()
        with pytest.raises(
            TableError, match=r"hint: the address is the setting database\.url, or SA"
        ):
            task.complete()
    finally:
        server.start()

    def answers() -> bool:  # a server that has crashed first looks what it has
        with contextlib.suppress(TableError):
            return not task.complete()
        return False

    wait_until(answers, 30)
    assert "sales" not in database.tables() or database.rows() == []
    assert database.load([sale()]) == (1, 0, 0)


def test_a_full_disk_leaves_nothing(pipeline: Pipeline) -> None:
    pipeline.add_flow()
    folder = pipeline.root / "databases"
    folder.mkdir()
    mount = (
        'mount -t tmpfs -o size=700k tmpfs "$0"; "$1" -c "$2"; exec "$1" -c "$3" "$0/dev.sqlite"'
    )
    load = f"{START.partition('if sys.argv')[0]}\nN = 200_000\n{BIG}"
    look = """if True:
        import sqlite3, sys
        connection = sqlite3.connect(sys.argv[1])
        print([name for name, in connection.execute("SELECT name FROM sqlite_schema")])
        print(connection.execute("SELECT count(*) FROM curate_task_loads").fetchone())
    """
    command = [*unshare("--mount", "--map-root-user"), "sh", "-c", mount, str(folder)]
    done = subprocess.run(
        [*command, sys.executable, load, look],
        cwd=pipeline.root,
        capture_output=True,
        text=True,
        check=False,
    )
    assert "databases/dev.sqlite: database or disk is full" in done.stderr
    assert "numbers" not in done.stdout.partition("begins")[2], done.stdout
    assert done.stdout.endswith("(0,)\n"), done.stdout


def test_rows_are_counted_while_they_load(pipeline: Pipeline) -> None:
    process = start_big(pipeline.root, 400_000)
    pipeline.add_flow()
    output = process.communicate()[0]
    lines = [line for line in output.splitlines() if line.startswith("Big | ")]
    assert lines[-1] == (
        "Big | 400,000 rows into numbers in databases/dev.sqlite: 400,000 inserted, 0 updated, "
        "0 unchanged"
    ), output
    assert any(line.endswith(",000 rows") for line in lines[:-1]), output


def test_a_load_holds_one_chunk_in_memory(database: Database) -> None:
    import tracemalloc

    def peak(rows: int) -> int:
        tracemalloc.start()
        try:
            task = database.task(sale(day=day) for day in range(rows))
            task.run()
            return tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()
            database.do("DROP TABLE sales")

    peak(10_000)  # what is imported and compiled once
    assert peak(100_000) < 1.3 * peak(25_000)
