"""django-celery-beat: the schedule is in the tables of a Django project.

Rows say when an entry ran last, but the scheduler writes that every few minutes, so the later one of row and store
counts: else a take-over would repeat what the last leader has sent. Rows are asked for changes once a second, and not
at every tick; a database that is away leaves the schedule as it was read. The perpetual tasks have rows too, which are
no entries of the schedule (:mod:`.task_rows`).
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from datetime import datetime, timezone
from typing import Any

from celery.utils.time import maybe_make_aware
from django.db import Error, connections
from django_celery_beat.schedulers import DatabaseScheduler

from celery_perpetual import events
from celery_perpetual.beat.admin_name import fails_in_admin
from celery_perpetual.beat.bases.base import Base
from celery_perpetual.beat.bases.task_rows import TaskRows, is_task_row
from celery_perpetual.beat.engine import Beside
from celery_perpetual.beat.entry_runs import FURTHEST_AHEAD
from celery_perpetual.call_apart import CallApart
from celery_perpetual.errors import SettingsError
from celery_perpetual.telemetry import emit

#: How often the database is asked whether rows have changed, in seconds.
CHECK_EVERY = 1.0
#: How long the end of beat waits for the database.
CLOSE_SECONDS = 3.0


class DatabaseBase(Base, DatabaseScheduler):  # type: ignore[misc]  # it ships no types
    """``django_celery_beat.schedulers.DatabaseScheduler``."""

    #: A signal may interrupt a query, and another one on the same connection would wait for its end for ever.
    _perpetual_closes_in_ticks = False
    _perpetual_check_at = 0.0
    _perpetual_refused: Mapping[str, str] = {}
    """Rows that no entry can be made of, and why: said once."""
    _schedule: Any

    def __init__(self, app: Any, **options: Any) -> None:
        """Set up.

        Raises:
            SettingsError: ``CELERY_BEAT_SCHEDULER`` is a name that makes the admin fail.
        """
        if reason := fails_in_admin():
            raise SettingsError(reason)
        super().__init__(app, **options)

    def _perpetual_beside(self, beside: Beside) -> Sequence[TaskRows]:
        return [TaskRows(self.Model, beside, self._perpetual_engine.namespace.pauses)]

    def _perpetual_begin(self) -> None:
        self._schedule = None
        self._perpetual_read_anew()
        super()._perpetual_begin()
        for entry in self._schedule.values():
            self._perpetual_restore(entry)
        self._heap_invalidated = False  # there is no heap yet

    def _perpetual_end(self) -> None:
        self._dirty.clear()  # the next leader's runs are newer
        super()._perpetual_end()

    def close(self) -> None:
        """Write the last runs to the rows, and let go; the database gets a moment for that.

        A frozen one says nothing, and SIGTERM must end beat. So another thread waits for it, on another connection.

        Raises:
            TimeoutError: it did not answer. The rows do not show the last runs; the store has them.
        """
        close = super().close

        def close_base() -> None:
            try:
                close()
            finally:
                connections.close_all()

        call = CallApart(close_base, "perpetual-close")
        if not call.is_over(CLOSE_SECONDS):
            self._finalize.cancel()  # it would try once more when the process exits
            raise TimeoutError(f"the database has not answered for {CLOSE_SECONDS:g} s")
        call.answer()

    def _perpetual_names(self) -> set[str]:
        return set(self.Model.objects.values_list("name", flat=True))

    @property
    def schedule(self) -> Any:  # type: ignore[override]  # as the base has it
        """The entries by name, as they were read last."""
        before, now = self._schedule, time.monotonic()
        if before is not None and now < self._perpetual_check_at:
            return before
        self._perpetual_check_at = now + CHECK_EVERY
        try:
            after = super().schedule
        except Error as error:
            self._perpetual_read_anew()
            if before is None:
                raise
            emit(events.BASE_SCHEDULE_KEPT, error=error)
            return before
        if after is not before:
            self._heap_invalidated = True
        return after

    def all_as_schedule(self) -> dict[str, Any]:
        """Read the rows; one that no entry can be made of is left out, and the others are not."""
        schedule, refused = {}, {}
        for row in self.enabled_models():
            if is_task_row(row.name):
                continue
            try:
                entry = schedule[row.name] = self.Entry(row, app=self.app)
            except Error:
                raise
            except Exception as error:
                refused[row.name] = str(error)
                if self._perpetual_refused.get(row.name) != refused[row.name]:
                    emit(events.BASE_ROW_REFUSED, row=row.name, error=error)
            else:
                self._perpetual_restore(entry)
        self._perpetual_refused = refused
        return schedule

    def reserve(self, entry: Any) -> Any:
        """Move an entry to its next run; the schedule keeps the moved one, from which a heap may be made again."""
        moved = super().reserve(entry)
        self._schedule[moved.name] = moved
        return moved

    def schedules_equal(self, *args: Any, **kwargs: Any) -> bool:
        """Whether the rows are those that were read before; entries need not be compared."""
        old, new = (*args, *kwargs.values())
        changed, self._heap_invalidated = self._heap_invalidated, False
        return not changed and old is not None and len(old) == len(new)

    def _perpetual_read_anew(self) -> None:
        self._initial_read = True
        self._perpetual_check_at = 0.0

    def _perpetual_restore(self, entry: Any) -> None:
        """Set last run and count from the store, if they are later than those of the row, or the row's lies ahead."""
        run = self._perpetual_engine.entry_runs.of(entry.name)
        by_row = maybe_make_aware(entry.last_run_at).timestamp()
        if run is None or run.at <= by_row <= time.time() + FURTHEST_AHEAD:
            return
        at = datetime.fromtimestamp(run.at, tz=self.app.timezone)
        if entry.last_run_at.tzinfo is None:  # a project without time zones, whose naive times are UTC
            at = at.astimezone(timezone.utc).replace(tzinfo=None)
        entry.last_run_at = entry.model.last_run_at = at
        entry.total_run_count = entry.model.total_run_count = run.count
        self._dirty.add(entry.name)
