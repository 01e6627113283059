"""Runs what is due: called by beat, and by any process that calls ``run_due``."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from celery_perpetual import events
from celery_perpetual.completions.batches import do_follow_ups, waiting_follow_ups
from celery_perpetual.publishing.publisher import Publisher
from celery_perpetual.routines.inline import Inline
from celery_perpetual.routines.record import ACTIVE, RETRY_WAITING, RUNNING, Record, decode
from celery_perpetual.routines.routine import RoutineRun
from celery_perpetual.routines.runs import MOST_RUNS, Starter
from celery_perpetual.routines.storage import read
from celery_perpetual.store.commands.routines import DueRoutines, due_ids, due_routines
from celery_perpetual.telemetry import emit

if TYPE_CHECKING:
    from celery import Celery

    from celery_perpetual.store.connection import Store


#: Most ends that one call of ``run_due`` follows up.
MOST_FOLLOW_UPS = 1000


class DueRuns:
    """The due routines of one app."""

    def __init__(self, app: Celery, store: Store, publisher: Publisher) -> None:
        self._app = app
        self._store = store
        self.starter = Starter(store, publisher)
        self._unreadable: set[str] = set()
        """Routines that this process cannot read; they are passed over."""
        self._inline = Inline(app, store)

    def read(self) -> DueRoutines:
        """The routines that are due now, for beat; none while everything is paused."""
        found = due_routines(self._store, None, MOST_RUNS + len(self._unreadable), obeys_pauses=True)
        return found._replace(records=[each for each in found.records if each[0] not in self._unreadable])

    def start(self, due: DueRoutines, at: int | None = None) -> list[RoutineRun]:
        """Start what is due, and end the runs whose callers are gone."""
        records = self._decoded(due)
        now = due.now if at is None else at
        self._lose([record for record in records if record.state == RUNNING], now)
        waiting = [_marked(record, due.now, now) for record in records if record.state != RUNNING]
        return self.starter.start_due(waiting, now)

    def follow_ends(self) -> None:
        """Do what follows ends of runs and was left by processes that are gone: there may be no leader."""
        do_follow_ups(self._app, self._store, waiting_follow_ups(self._store), MOST_FOLLOW_UPS)

    def run(self, at: int | None, limit: int | None) -> list[RoutineRun]:
        """Start every routine that is due, each once."""
        self.follow_ends()
        results: list[RoutineRun] = []
        seen: set[str] = set()
        while limit is None or len(results) < limit:
            most = MOST_RUNS if limit is None else min(MOST_RUNS, limit - len(results))
            due = due_routines(self._store, at, most, obeys_pauses=False)
            fresh = [(name, text) for name, text in due.records if name not in seen]
            if not fresh:
                break
            seen.update(name for name, _ in fresh)
            results += self.start(due._replace(records=fresh), at)
        return results

    def run_inline(self, at: int | None, limit: int | None) -> list[RoutineRun]:
        """Run every routine that is due in this process, each once, one after the other."""
        self.follow_ends()
        first = due_routines(self._store, at, MOST_RUNS, obeys_pauses=False)
        self._lose([record for record in self._decoded(first) if record.state == RUNNING], first.now)
        results: list[RoutineRun] = []
        until = first.now if at is None else at
        for routine_id, _ in due_ids(self._store, until, None, running=False):
            if limit is not None and len(results) >= limit:
                break
            found = self._run_one(routine_id, at, until)
            if found is not None:
                results.append(found)
        return results

    def _lose(self, records: list[Record], now: int) -> None:
        for record in records:
            self._inline.lose(record, now)

    def _run_one(self, routine_id: str, at: int | None, until: int) -> RoutineRun | None:
        record, now = read(self._store, routine_id)
        if record is None or not is_due(record, until):
            return None
        at = now if at is None else at
        return self._inline.run(_marked(record, now, at), at)

    def _decoded(self, due: DueRoutines) -> list[Record]:
        """The records that this release can read; one that it cannot does not hold up the others."""
        found = []
        for routine_id, text in due.records:
            try:
                found.append(decode(routine_id, text))
            except Exception as error:  # of another release
                self._unreadable.add(routine_id)
                emit(events.ROUTINE_UNREADABLE, routine_id=routine_id, error=error)
        return found


def _marked(record: Record, now: int, at: int) -> Record:
    """A record that says whether its times are to lie ahead.

    Args:
        record: that is run.
        now: the store's time, ms.
        at: the time for which it is run.
    """
    ran_ahead = at > now or (record.ran_ahead and record.updated > now)
    return record if record.ran_ahead == ran_ahead else replace(record, ran_ahead=ran_ahead)


def is_due(record: Record, until: int) -> bool:
    """Whether a routine is to be run at a time."""
    return record.state in (ACTIVE, RETRY_WAITING) and record.next is not None and record.next <= until
