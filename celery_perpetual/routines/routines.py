"""``perpetual.routines``: durable job records that run once, at an interval, or by a calendar."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import datetime
from functools import cached_property
from typing import TYPE_CHECKING, Any

from celery_perpetual.errors import (
    IdempotencyConflict,
    NotFound,
    RoutineBusy,
    RoutineTerminal,
    StaleVersion,
    StoreUnavailable,
)
from celery_perpetual.routines import listing
from celery_perpetual.routines.creating import create_records
from celery_perpetual.routines.due import DueRuns
from celery_perpetual.routines.fields import Reader
from celery_perpetual.routines.listing import checked_limit, checked_time
from celery_perpetual.routines.record import CANCELLED, Record
from celery_perpetual.routines.rights import must_be_open, must_not_be_busy
from celery_perpetual.routines.routine import Routine, RoutineRun, shown
from celery_perpetual.routines.steps import cancelled
from celery_perpetual.routines.storage import KEY, Change, are_written, read, write
from celery_perpetual.store.commands.routines import clear_routines, next_routine
from celery_perpetual.times import to_datetime

if TYPE_CHECKING:
    from celery_perpetual.namespace import Namespace
    from celery_perpetual.store.connection import Store

#: In a class that has a method of the name ``list``.
Found = list[Routine]
Started = list[RoutineRun]

#: A change is made to the record that was read; where another one comes in between, it is read again, so many times.
MOST_TRIES = 50


class Routines:
    """The routines of one namespace. May be used from any process and thread that has the app.

    Every change is one step of the store. Every method raises StoreUnavailable if the store does not answer.
    """

    def __init__(self, namespace: Namespace) -> None:
        """Read and connect nothing yet."""
        self._namespace = namespace

    @property
    def _store(self) -> Store:
        return self._namespace.store

    @cached_property
    def _due(self) -> DueRuns:
        return DueRuns(self._namespace.app, self._store, self._namespace.runner.publisher)

    def create(self, task: Any = None, args: Sequence[Any] = (), kwargs: Any = None, **fields: Any) -> Routine:
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
        given = {**fields}
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
        return create_records(self._namespace.app, self._store, routines)

    def get(self, routine_id: str) -> Routine:
        """Read a routine.

        Raises:
            NotFound: there is none of this id.
        """
        return shown(self._read(routine_id)[0])

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
            must_not_be_busy(record, "run now")
            if record.state == CANCELLED:
                raise RoutineTerminal(f"routine {routine_id} is cancelled and runs no more; create another one")
            run = self._due.starter.start_by_hand(record, now)
            if run is not None:
                return run
        raise _busy_store(routine_id)

    def update(self, routine_id: str, if_version: int | None = None, **patch: Any) -> Routine:
        """Change fields of an active or paused routine, in one step; what is not named stays.

        Another schedule computes the next run anew, also while paused; ``next_run_at=None`` takes the next run away.

        Args:
            routine_id: which one.
            if_version: change it only if this is still its version.
            **patch: fields of :meth:`create` but ``id``.

        Raises:
            NotFound: there is no such routine.
            RoutineBusy: it runs, or is to be tried again.
            RoutineTerminal: it has ended.
            StaleVersion: it has another version by now.
            InvalidRoutine: a field is unknown, or its value is impossible.
            IdempotencyConflict: another routine has this idempotency key.
        """
        reader = Reader(self._namespace.app)

        def patched(record: Record, now: int) -> Change:
            must_be_open(record, "be changed")
            return Change(record, reader.patched(record, patch, now), "updated", {"fields": sorted(patch)})

        return shown(self._change(routine_id, patched, if_version))

    def pause(self, routine_id: str) -> Routine:
        """Stop running it until it is resumed; its next run keeps its time. Raises as :meth:`update`."""
        return self.update(routine_id, paused=True)

    def resume(self, routine_id: str) -> Routine:
        """Let it run again; if its time has passed meanwhile, it is due at once. Raises as :meth:`update`."""
        return self.update(routine_id, paused=False)

    def cancel(self, routine_id: str, *, revoke: bool = False, terminate: bool = False) -> Routine:
        """Let it run no more, in whatever state it is; what it has run stays on record.

        Args:
            revoke: revoke the run that is under way, too, if no worker has begun it. Without that it ends by itself,
                and its end changes nothing.
            terminate: end the run even if it has begun.

        Raises:
            NotFound: there is no such routine.
        """
        runs: list[str] = []

        def change(record: Record, now: int) -> Change:
            runs[:] = [record.run] if record.run else []
            return Change(record, cancelled(record, now), "cancelled", {"task_id": record.run or None})

        found = self._change(routine_id, change)
        if runs and (revoke or terminate):
            self._namespace.app.control.revoke(runs[0], terminate=terminate)
        return shown(found)

    def delete(self, routine_id: str) -> None:
        """Remove a routine that has ended.

        Raises:
            NotFound: there is no such routine.
            RoutineBusy: it has not ended; cancel it first.
        """

        def change(record: Record, _: int) -> Change:
            if not record.is_terminal:
                raise RoutineBusy(f"routine {routine_id} is {record.state} and cannot be deleted; cancel it first")
            return Change(record, None, "deleted")

        self._change(routine_id, change)

    def clear(self) -> None:
        """Remove every routine, in whatever state, in one step. Runs that are under way end by themselves."""
        clear_routines(self._store)

    def _read(self, routine_id: str) -> tuple[Record, int]:
        if not isinstance(routine_id, str):
            raise NotFound(f"there is no routine {routine_id!r}: the id of a routine is text")
        record, now = read(self._store, routine_id)
        if record is None:
            raise NotFound(f"there is no routine {routine_id!r}; it was never created, or was deleted, or has expired")
        return record, now

    def _change(
        self, routine_id: str, change: Callable[[Record, int], Change], if_version: int | None = None
    ) -> Record:
        """Make a change to the record as it is now; returns what it has become, or what it was if it is removed."""
        for _ in range(MOST_TRIES):
            record, now = self._read(routine_id)
            if if_version is not None and record.version != if_version:
                raise StaleVersion(
                    f"routine {routine_id} has version {record.version} by now, not {if_version}; read it again"
                )
            made = change(record, now)
            (word,) = write(self._store, [made])
            if are_written([word]):
                return made.after or record
            if word.startswith(KEY):
                key, holder = getattr(made.after, "key", ""), word.removeprefix(KEY)
                raise IdempotencyConflict(f"routine {routine_id}: idempotency key {key!r} belongs to routine {holder}")
        raise _busy_store(routine_id)


def _busy_store(routine_id: str) -> StoreUnavailable:
    return StoreUnavailable(f"routine {routine_id} was changed {MOST_TRIES} times by others meanwhile; try again")
