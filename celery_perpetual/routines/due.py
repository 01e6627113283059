"""Runs what is due: called by beat, and by any process that calls ``run_due``."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Iterator, Sequence
from typing import TYPE_CHECKING

from celery_perpetual import events
from celery_perpetual.completions.batches import do_follow_ups, waiting_follow_ups
from celery_perpetual.errors import InvalidRoutine, described
from celery_perpetual.pauses import ALL_ROUTINES, Pauses
from celery_perpetual.publishing.publisher import Publisher
from celery_perpetual.routines.fields import Reader
from celery_perpetual.routines.inline import Inline
from celery_perpetual.routines.record import ACTIVE, PAUSED, RETRY_WAITING, RUNNING, Record, decode
from celery_perpetual.routines.routine import ENQUEUED, RoutineRun
from celery_perpetual.routines.runs import ALL_PAUSES, MOST_RUNS, PAUSE_OF_ROUTINES, Starter
from celery_perpetual.routines.steps import paused
from celery_perpetual.routines.storage import Change, write
from celery_perpetual.store.commands.leadership import Mark
from celery_perpetual.store.commands.routines import DueRoutines, due_ids, due_routines, routine_and_time
from celery_perpetual.telemetry import emit

if TYPE_CHECKING:
    from celery import Celery

    from celery_perpetual.store.connection import Store


#: Most routines that a beat reads at once; they start in several steps.
MOST_READ = 5 * MOST_RUNS
#: Most ends that one call of ``run_due`` follows up.
MOST_FOLLOW_UPS = 1000


class DueRuns:
    """The due routines of one app. For one thread."""

    def __init__(
        self, app: Celery, store: Store, publisher: Publisher, owner: str = "", mark: Mark | None = None
    ) -> None:  # fmt: skip
        """Do nothing yet.

        Args:
            app: that sends the messages.
            store: of the routines.
            publisher: of the app.
            owner: of the beat that starts what is due, "" where it is none.
            mark: the last one that the beat has left in the store.
        """
        self._app = app
        self._owner = owner
        self._mark = mark or Mark()
        self._store = store
        self.starter = Starter(store, publisher)
        self.release = publisher.release
        """Closes the connection of a thread to the broker."""
        self._unreadable: dict[str, bytes] = {}
        """Routine -> its text, where this process cannot read it; another text is tried."""
        self.aside: Callable[[], Collection[str]] = set
        """Further routines to pass over."""
        self._inline = Inline(app, store)

    def read(self, only: str = "") -> DueRoutines | None:
        """The routines that are due now; none while everything is paused. None: the store has gone back in time.

        Args:
            only: read no other one than this, also where it is one of those aside.
        """
        aside = self.aside()
        most = MOST_READ + len(self._unreadable) + len(aside)
        found = due_routines(self._store, None, most, obeys=True, owner=self._owner, mark=self._mark.value)
        if found is None:
            return None
        if only:
            return found._replace(records=[each for each in found.records if each[0] == only])
        if found.records:  # those that have gone, or been changed, are forgotten
            self._unreadable = {name: text for name, text in found.records if self._unreadable.get(name) == text}
        passed = self._unreadable.keys() | aside
        return found._replace(records=[each for each in found.records if each[0] not in passed])

    def start(
        self, due: DueRoutines, at: int | None = None, begins: Callable[[Sequence[Record]], object] = lambda _: None
    ) -> list[RoutineRun]:
        """Start what is due; end the runs whose callers are gone, and the pauses that are over.

        Args:
            at: the time that the caller has given instead of now.
            begins: called with some of the routines each time before code of the user's may run for them.
        """
        return self._start(self._by_state(due), due.now, at, MOST_READ, ALL_PAUSES, begins)

    def _start(
        self, states: dict[str, list[Record]], now: int, at: int | None, most: int, obeys: str,
        begins: Callable[[Sequence[Record]], object] = lambda _: None,
    ) -> list[RoutineRun]:  # fmt: skip
        begun = time.monotonic()
        self._tidy(states, now)
        wanted = [record for state in (ACTIVE, RETRY_WAITING) for record in states.get(state, [])]
        wanted.sort(key=lambda record: (record.next or 0, record.id))
        started = list[RoutineRun]()
        try:
            for run in self.starter.start_due(wanted[:most], now, at, self._owner, obeys, begins):
                started.append(run)
        finally:  # some may have started before an error
            if self._owner and any(run.status == ENQUEUED for run in started):
                self._mark.was_left(now)  # or a later one, with the start
        emit(events.ROUTINES_DUE, due=len(wanted), started=len(started), seconds=time.monotonic() - begun)
        return started

    def follow_ends(self) -> None:
        """Do what follows ends of runs and was left by processes that are gone: there may be no leader."""
        do_follow_ups(self._app, self._store, waiting_follow_ups(self._store), MOST_FOLLOW_UPS)

    def run(self, at: int | None, limit: int | None) -> Iterator[RoutineRun]:
        """Start every routine that is due, each once."""
        self.follow_ends()
        count, seen = 0, set[str]()
        while limit is None or count < limit:
            most = MOST_RUNS if limit is None else min(MOST_RUNS, limit - count)
            due = due_routines(self._store, at, most + len(self._unreadable))
            assert due is not None
            fresh = [each for each in due.records if each[0] not in seen]
            states = self._by_state(due._replace(records=fresh))
            unreadable = {each for each, _ in fresh if each in self._unreadable}
            seen |= unreadable
            if not states and unreadable:
                continue  # behind those that this process cannot read
            if not states:
                break
            # One whose pause is over may be due afterwards.
            seen.update(record.id for state, records in states.items() if state != PAUSED for record in records)
            for run in self._start(states, due.now, at, most, PAUSE_OF_ROUTINES):
                count += 1
                yield run

    def run_inline(self, at: int | None, limit: int | None) -> Iterator[RoutineRun]:
        """Run every routine that is due in this process, each once, one after the other."""
        self.follow_ends()
        first = due_routines(self._store, at, MOST_RUNS)
        assert first is not None
        self._tidy(self._by_state(first), first.now)
        if ALL_ROUTINES in Pauses(self._store).now():
            return
        count, until = 0, first.now if at is None else at
        for routine_id, _ in due_ids(self._store, until, None, running=False):
            if limit is not None and count >= limit:
                break
            found = self._run_one(routine_id, at, until)
            if found is not None:
                count += 1
                yield found

    def _tidy(self, states: dict[str, list[Record]], now: int) -> None:
        """End the runs whose callers are gone, and the pauses that are over."""
        for record in states.get(RUNNING, []):
            self._inline.lose(record, now)
        for record in states.get(PAUSED, []):
            after, facts = resumed(self._app, record, now), {"fields": ["paused"]}
            write(self._store, [Change(record, after, "updated", facts)])  # if it was changed meanwhile, that counts

    def _run_one(self, routine_id: str, at: int | None, until: int) -> RoutineRun | None:
        text, now = routine_and_time(self._store, routine_id)
        record = None if text is None else self._decoded(routine_id, text)
        if record is None or not is_due(record, until):
            return None
        return self._inline.run(record, now, at)

    def _by_state(self, due: DueRoutines) -> dict[str, list[Record]]:
        """The records that this release can read; one that it cannot does not hold up the others."""
        found: dict[str, list[Record]] = {}
        for routine_id, text in due.records:
            record = self._decoded(routine_id, text)
            if record is not None:
                found.setdefault(record.state, []).append(record)
        return found

    def _decoded(self, routine_id: str, text: bytes) -> Record | None:
        try:
            record = decode(routine_id, text)
        except Exception as error:  # of a form that this release does not know, or damaged
            if self._unreadable.get(routine_id) != text:
                emit(events.ROUTINE_UNREADABLE, routine_id=routine_id, error=error)
            self._unreadable[routine_id] = text
            return None
        self._unreadable.pop(routine_id, None)
        return record


def is_due(record: Record, until: int) -> bool:
    """Whether a routine is to be run at a time."""
    return record.state in (ACTIVE, RETRY_WAITING) and record.next is not None and record.next <= until


def resumed(app: Celery, record: Record, now: int) -> Record:
    """A paused routine whose pause is over."""
    try:
        return Reader(app).patched(record, {"paused": False}, now)
    except InvalidRoutine as error:  # it had no next run, and the code of its schedule raises
        return paused(record, now, by="celery-perpetual", reason=f"its schedule fails: {described(error)}")
