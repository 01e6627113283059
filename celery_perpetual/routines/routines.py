"""``perpetual.routines``: durable job records that run once, at an interval, or by a calendar."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import datetime
from functools import cached_property, partial
from typing import TYPE_CHECKING, Any

from celery_perpetual.errors import RoutineTerminal
from celery_perpetual.routines import listing
from celery_perpetual.routines.changing import MOST_TRIES, RoutineChanges, busy_store
from celery_perpetual.routines.creating import create_records
from celery_perpetual.routines.due import DueRuns
from celery_perpetual.routines.listing import checked_limit, checked_time
from celery_perpetual.routines.record import CANCELLED
from celery_perpetual.routines.rights import must_not_be_busy
from celery_perpetual.routines.routine import Routine, RoutineRun
from celery_perpetual.store.commands.routines import clear_routines, next_routine
from celery_perpetual.times import to_datetime

if TYPE_CHECKING:
    from typing_extensions import Unpack

    from celery_perpetual.routines.typed import Created

#: In a class that has a method of the name ``list``.
Found = list[Routine]
Started = list[RoutineRun]


class Routines(RoutineChanges):
    """The routines of one namespace. May be used from any process and thread that has the app.

    Every change is one step of the store. Every method raises StoreUnavailable if the store does not answer.
    """

    @cached_property
    def _due(self) -> DueRuns:
        return DueRuns(self._namespace.app, self._store, self._namespace.runner.publisher)

    def create(
        self,
        task: Any = None,
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
        **fields: Unpack[Created],
    ) -> Routine:
        """Create a routine; it is there, or nothing is.

        Args:
            task: the task, or its name.
            args: its positional arguments.
            kwargs: its keyword arguments.
            **fields: one of ``at`` (an aware datetime: run once), ``every`` (seconds or a ``timedelta``) and
                ``schedule`` (any other Celery schedule, with ``timezone``). With ``every`` and ``schedule``:
                ``start_at`` (the first slot; without it an interval begins at once), ``end_at``, ``max_runs``,
                ``catch_up`` and ``max_catch_up`` (run missed slots one by one), ``jitter`` (seconds). ``retries``
                (``Retries``; without it one attempt), ``options`` (of ``apply_async``), ``metadata`` (JSON), ``id``,
                ``idempotency_key``, ``paused``, ``next_run_at`` (instead of the first slot).

        Returns:
            The routine; ``created`` is False where its idempotency key had been used with the same fields before.

        Raises:
            InvalidRoutine: a field is unknown, or its value is impossible.
            AlreadyExists: there is a routine of this id, in whatever state.
            IdempotencyConflict: the idempotency key was used with other fields.
        """
        given: dict[str, Any] = {**fields}
        if task is not None:
            given["task"] = task
        if args != ():
            given["args"] = args
        if kwargs is not None:
            given["kwargs"] = kwargs
        return self.create_many([given])[0]

    def create_many(self, routines: Iterable[Mapping[str, Any]]) -> list[Routine]:
        """Create routines, each given as a dict of the fields of :meth:`create`; 500 at a time, all or none of them.

        Raises as :meth:`create`. All fields are checked before the first step. What an earlier step has created stays.
        """
        return create_records(self._namespace.app, self._store, routines, partial(self._must_be_allowed, "create"))

    def list(
        self,
        *,
        state: str | None = None,
        task: Any = None,
        id: str | None = None,  # noqa: A002  # the name of the field
        due_before: datetime | None = None,
        metadata: Mapping[str, Any] | None = None,
        limit: int | None = None,
    ) -> Found:
        """List routines that match every filter, the one that was changed last first, ties by id.

        Args:
            state: exactly this state.
            task: the task, or its name.
            id: exactly this one.
            due_before: those that run next at this time or before, paused ones too.
            metadata: those that have each of these values.
            limit: at most so many.

        Raises:
            InvalidRoutine: a filter has an impossible value.
        """
        return listing.find(
            self._store, state=state, task=task, routine_id=id, due_before=due_before, metadata=metadata, limit=limit
        )

    def list_due(self, at: datetime | None = None, limit: int | None = None, include_claimed: bool = False) -> Found:
        """List the routines that are due, the earliest first, ties by id.

        Args:
            at: due at this time, instead of now.
            limit: at most so many.
            include_claimed: those too that are being run.

        Raises:
            InvalidRoutine: an argument has an impossible value.
        """
        return listing.due(self._store, at, limit, include_claimed)

    due = list_due

    def next_due_at(self) -> datetime | None:
        """When the next routine is due; None if none is."""
        found = next_routine(self._store)
        return None if found is None else to_datetime(found)

    def run_due(self, at: datetime | None = None, limit: int | None = None, run_inline: bool = False) -> Started:
        """Start a run of each routine that is due, the earliest first. Needs no beat, and may run beside one.

        Args:
            at: start what is due at this time, instead of now.
            limit: at most so many.
            run_inline: execute the tasks here, one after the other, instead of enqueueing them.

        Returns:
            One result for each routine; one that fails does not hold up the others.

        Raises:
            InvalidRoutine: an argument has an impossible value.
        """
        return list(self.each_due(at, limit, run_inline))

    def each_due(
        self, at: datetime | None = None, limit: int | None = None, run_inline: bool = False
    ) -> Iterator[RoutineRun]:
        """As :meth:`run_due`, one result after the other while it works; what is not read any more is not started."""
        time, most = checked_time("at", at), checked_limit(limit)
        return self._due.run_inline(time, most) if run_inline else self._due.run(time, most)

    def run_now(self, routine_id: str) -> RoutineRun:
        """Enqueue a run besides the routine's times; state, cadence and attempts stay.

        Raises:
            NotFound: there is no such routine.
            RoutineBusy: it runs, or is to be tried again.
            RoutineTerminal: it is cancelled.
        """
        for _ in range(MOST_TRIES):
            record, now = self._read(routine_id)
            must_not_be_busy(record, "be run by hand")
            if record.state == CANCELLED:
                raise RoutineTerminal(f"routine {routine_id} is cancelled and runs no more; create another one")
            run = self._due.starter.start_by_hand(record, now)
            if run is not None:
                return run
        raise busy_store(routine_id)

    def clear(self) -> None:
        """Remove every routine, in whatever state, in one step. Runs that are under way end by themselves."""
        clear_routines(self._store)
