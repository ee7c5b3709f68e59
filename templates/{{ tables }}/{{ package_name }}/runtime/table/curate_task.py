"""The task that brings the rows of a flow's run into a table of a database."""

from __future__ import annotations

import time
from collections.abc import Iterable
from functools import partial
from typing import TYPE_CHECKING, Any, ClassVar

import luigi
from luigi.task import flatten
from sqlalchemy.engine import Connection
from sqlalchemy.orm import DeclarativeBase

from .. import paths
from ..console import show_line
from ..errors import ParameterError, TableError
from ..flow.output import Progress
from ..metaflow_config import local_root
from ..settings import PREFIX, settings
from ..store.files import locked
from ..task.forcing import run_forced_at, time_of_forcing
from ..task.metaflow_task import MetaflowTask, check_flow_tag, iso
from ..task.pipeline_task import PipelineTask
from ..task.run_arguments import named_values, own_values
from ..task.target import FlowTarget
from ..version import code
from .database import connected, database_url, patiently, shown
from .loading import (
    ON_CONFLICT,
    OnConflict,
    drop_if_empty,
    has_table,
    is_mysql,
    load,
    make_table,
    table_of,
)
from .target import TableTarget, make_loads

if TYPE_CHECKING:
    from metaflow import Run

_INTERVAL = 0.5
"""Seconds between two reports of how many rows there are."""


class CurateTask(PipelineTask, luigi.Task):
    """A Luigi task that loads rows of a flow's run into a table, all of them or none.

    A subclass sets `model`, requires one MetaflowTask, and yields rows:

        class LoadSales(CurateTask):
            model = Sale

            def requires(self):
                return CleanSales(flow_tag=self.flow_tag)

            def rows(self, run):
                for day in run.data.days:
                    yield {"day": day.date, "total": day.total}

    The database is that of the setting `database.url`, a SQLite file by default. Its errors, and
    rows that do not fit, are TableErrors.
    """

    model: ClassVar[type[DeclarativeBase]]
    """The table, as a declarative class of SQLAlchemy."""

    on_conflict: ClassVar[OnConflict] = "update"
    """What becomes of a row whose primary key is in the table: "update", "skip" or "refuse"."""

    flow_tag: str = luigi.Parameter(  # type: ignore[assignment]
        default="", description="tag of the run; default: the environment's name"
    )
    force: bool = luigi.BoolParameter(  # type: ignore[assignment]
        default=False, significant=False, description="load the rows again"
    )
    force_upstream: bool = luigi.BoolParameter(  # type: ignore[assignment]
        default=False, significant=False, description="force this task and all that it requires"
    )

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        is_forced = self.force or self.force_upstream
        self.forced_at = time_of_forcing() if is_forced else run_forced_at()
        check_flow_tag(self.flow_tag)
        name, model = type(self).__name__, getattr(self, "model", None)
        if not (isinstance(model, type) and hasattr(model, "__table__")):
            raise ParameterError(f"{name}.model must be a declarative class, not {model!r}")
        if self.on_conflict not in ON_CONFLICT:
            known = ", ".join(ON_CONFLICT)
            raise ParameterError(f"{name}.on_conflict is {self.on_conflict!r}, not one of: {known}")

    @classmethod
    def get_param_values(cls, params: Any, args: Any, kwargs: Any) -> list[tuple[str, Any]]:
        """Luigi's, with the tag that the settings have."""
        values = dict(super().get_param_values(params, args, kwargs))
        values["flow_tag"] = values["flow_tag"] or settings().flow_tag
        return list(values.items())

    def rows(self, run: Run) -> Iterable[Any]:
        """The rows of the run: dicts by the model's attributes, objects of it, or lists of those.

        A generator holds one chunk of them in memory, however many there are.
        """
        raise NotImplementedError(f"{type(self).__name__} has no rows(self, run)")

    def output(self) -> TableTarget:
        """The rows in the table: `.result` has their numbers, `.connect()` is for queries."""
        return TableTarget(table_of(self.model), self.task_id, self.flow_tag)

    def complete(self) -> bool:
        """True if the rows have been loaded; with `force`, those from before do not count."""
        loaded = self.output().read()
        return loaded is not None and self.forced_at < loaded.written <= time.time()

    def run(self) -> None:
        """Load the rows and record that, in one transaction.

        Raises TableError if the database does not answer, has rows with another tag, or has a table
        that differs from the model, and for a row that does not fit: then nothing is changed.
        Several processes may run the task at once: one loads, and the others wait for it.
        """
        target, source = self.output(), self._source()
        lock = local_root() / paths.LOCKS / f"{self.task_id}.lock"
        no_clean = local_root() / paths.TASKS_LOCK
        with (
            locked(no_clean, partial(self._log_wait, "clean"), shared=True),
            locked(lock, partial(self._log_wait, "it")),
            connected(database_url(self.flow_tag)) as connection,
        ):
            patiently(partial(make_loads, connection), self._report_waiting)
            while not self.complete():
                if self._load(connection, target, source):
                    return
                connection.rollback()  # another machine has loaded it meanwhile, or has failed to

    def _source(self) -> FlowTarget:
        """The marker of the run whose rows are loaded."""
        required = [task for task in flatten(self.requires()) if isinstance(task, MetaflowTask)]
        if len(required) != 1:
            raise ParameterError(
                f"{type(self).__name__} requires {len(required)} flows\n"
                "hint: requires() returns one MetaflowTask, and other tasks if need be"
            )
        return required[0].output()

    def _load(self, connection: Connection, target: TableTarget, source: FlowTarget) -> bool:
        """Load the rows; False if another process has recorded a load meanwhile."""
        started = time.time()
        if connection.dialect.name == "sqlite":
            begin = partial(connection.exec_driver_sql, "BEGIN IMMEDIATE")
            patiently(begin, self._report_waiting)
        if is_mysql(connection) and target.table.schema:
            raise TableError(
                f"{type(self).__name__}.model has the schema {target.table.schema}, which in MySQL "
                "is another database\nhint: leave it out; database.url names the database"
            )
        if not has_table(connection, target.table):
            target.forget(connection)
            if is_mysql(connection):  # where making a table would end the transaction
                connection.commit()
        is_new = make_table(connection, target.table)
        try:
            return self._load_into(connection, target, source, started)
        except BaseException:
            if is_new and is_mysql(connection) and not connection.invalidated:
                drop_if_empty(connection, target.table)
            raise

    def _load_into(
        self, connection: Connection, target: TableTarget, source: FlowTarget, started: float
    ) -> bool:
        zeros = dict.fromkeys(("inserted", "updated", "unchanged", "seconds", "written"), 0)
        is_own = target.claim(
            connection,
            task=named_values(type(self).__name__, own_values(self, _OF_EVERY_TASK)),
            table_name=target.table.fullname,
            flow_tag=self.flow_tag,
            run=source.marker.pathspec,
            finished="",
            **zeros,
            **code()._asdict(),
        )
        if not is_own:
            return False
        self._check_tags(connection, target)
        rows = self.rows(source.run)
        if not isinstance(rows, Iterable):
            raise TableError(
                f"{type(self).__name__}.rows() returned {rows!r:.60}\nhint: yield the rows, or "
                "return a list of them"
            )
        report = (self._report_rows(), self._report_waiting)
        counts = load(connection, self.model, rows, self.on_conflict, *report)
        finished = time.time()
        target.finish(
            connection,
            **counts._asdict(),
            seconds=round(finished - started, 3),
            finished=iso(finished),
            written=max(finished, self.forced_at + 1e-6),
        )
        if connection.dialect.name == "sqlite":  # whose own commit does not wait for readers
            patiently(partial(connection.exec_driver_sql, "COMMIT"), self._report_waiting)
        connection.commit()
        self._report(f"{sum(counts):,} rows into {target}: {_described(counts._asdict())}")
        return True

    def _check_tags(self, connection: Connection, target: TableTarget) -> None:
        """Raise TableError if rows with different tags would be in one database."""
        if (others := target.other_tags(connection)) and not settings().database.shared:
            raise TableError(
                f"{shown(database_url(self.flow_tag))} has rows of {', '.join(others)}, and these "
                f"are of {self.flow_tag}\nhint: give each a database of its own, by "
                + "{flow_tag} in database.url; or if they are to share it, "
                + f"{PREFIX}DATABASE__SHARED=true"
            )

    def _report_rows(self) -> Any:
        reported = time.monotonic()

        def report(count: int) -> None:
            nonlocal reported
            if time.monotonic() - reported >= _INTERVAL:
                reported = time.monotonic()
                self._report(f"{count:,} rows")

        return report

    def _report_waiting(self) -> None:
        self._report(f"waits for another process that uses {shown(database_url(self.flow_tag))}")

    def _report(self, status: str) -> None:
        self._report_progress("", Progress(status))

    def _report_progress(self, run: str, progress: Progress) -> None:
        show_line(type(self).__name__, progress.status)
        super()._report_progress(run, progress)


_OF_EVERY_TASK = dict(CurateTask.get_params())


def _described(counts: dict[str, int]) -> str:
    return ", ".join(f"{number:,} {what}" for what, number in counts.items())
