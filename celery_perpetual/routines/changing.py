"""Changes of one routine: each is one step of the store, made to the record as it is then."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime
from typing import TYPE_CHECKING, Any, Literal, TypeVar

from celery_perpetual.errors import (
    IdempotencyConflict,
    InvalidRoutine,
    NotFound,
    RoutineBusy,
    StaleVersion,
    StoreUnavailable,
    described,
    readable,
)
from celery_perpetual.pauses import operator
from celery_perpetual.routines.checks import a_count, refusal
from celery_perpetual.routines.fields import Reader
from celery_perpetual.routines.listing import checked_time, due
from celery_perpetual.routines.record import ACTIVE, Record
from celery_perpetual.routines.rights import must_be_open
from celery_perpetual.routines.routine import Routine, shown
from celery_perpetual.routines.steps import cancelled, paused, without_missed
from celery_perpetual.routines.storage import KEY, Change, are_written, read, write
from celery_perpetual.times import format_time, to_datetime

if TYPE_CHECKING:
    from typing_extensions import Unpack

    from celery_perpetual.namespace import Namespace
    from celery_perpetual.routines.typed import Patch
    from celery_perpetual.store.connection import Store

#: Called before a routine is stored, with ``create`` or ``update`` and the routine as it would be.
Check = Callable[[str, Routine], object]
C = TypeVar("C", bound=Check)

#: A change is made to the record that was read; where another one comes in between, it is read again, so many times.
MOST_TRIES = 50


class RoutineChanges:
    """The part of ``perpetual.routines`` that is about one routine that there is."""

    def __init__(self, namespace: Namespace) -> None:
        """Read and connect nothing yet."""
        self._namespace = namespace
        self._checks: list[Check] = []

    @property
    def _store(self) -> Store:
        return self._namespace.store

    def authorize(self, check: C) -> C:
        """A decorator: let a function refuse what programs of this app create and change.

        It is called before anything is stored, as ``check(action, routine)``: the action is ``create`` or ``update``,
        the routine as it would be. What it raises is the reason of the ``InvalidRoutine`` that the caller gets; what it
        returns does not count.
        """
        self._checks.append(check)
        return check

    def _must_be_allowed(self, action: str, record: Record) -> None:
        for check in self._checks:
            try:
                check(action, shown(record))
            except Exception as error:
                name = getattr(check, "__qualname__", repr(check))
                message = f"routine {record.id}: {action} was refused by {name}: {described(error)}"
                raise InvalidRoutine(message, "authorize", action) from error

    def get(self, routine_id: str) -> Routine:
        """Read a routine.

        Raises:
            NotFound: there is none of this id.
        """
        return shown(self._read(routine_id)[0])

    def update(self, routine_id: str, if_version: int | None = None, **patch: Unpack[Patch]) -> Routine:
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
            InvalidRoutine: a field is unknown, or its value is impossible; or ``if_version`` is no version.
            IdempotencyConflict: another routine has this idempotency key.
        """
        if if_version is not None:
            a_count("if_version", if_version, "")
        reader = Reader(self._namespace.app)

        def patched(record: Record, now: int) -> Change:
            must_be_open(record, "be changed")
            after = reader.patched(record, patch, now)
            self._must_be_allowed("update", after)
            return Change(record, after, "updated", {"fields": sorted(patch)})

        return shown(self._change(routine_id, patched, if_version))

    def pause(self, routine_id: str, *, reason: str = "", until: datetime | None = None) -> Routine:
        """Stop running it until it is resumed; its next run keeps its time. Pausing again replaces reason and end.

        Args:
            routine_id: which one.
            reason: shown wherever the routine is.
            until: when the pause ends by itself; a time with a zone, after now.

        Raises:
            NotFound, RoutineBusy, RoutineTerminal: as :meth:`update`.
            InvalidRoutine: ``until`` has no time zone, or is over.
        """
        end, facts = checked_time("until", until), _by(reason)
        if end is not None:
            facts["until"] = end

        def change(record: Record, now: int) -> Change:
            must_be_open(record, "be paused")
            if end is not None and end <= now:
                seen, here = format_time(to_datetime(end)), format_time(to_datetime(now))
                message = f"until must be in the future, got {seen}; the store's clock says {here}"
                raise InvalidRoutine(message, "until", until)
            return Change(record, paused(record, now, **facts), "updated", {"fields": ["paused"]})

        return shown(self._change(routine_id, change))

    def resume(self, routine_id: str, *, from_: Literal["now", "kept"] = "now") -> Routine:
        """Let it run again. Raises as :meth:`update`, and InvalidRoutine for another ``from_``.

        Args:
            routine_id: which one.
            from_: what becomes of a slot whose time has passed meanwhile: ``now`` runs it at once, ``kept`` leaves it
                out where there is a later one.
        """
        if from_ not in ("now", "kept"):
            raise refusal("from_", from_, "'now' or 'kept'", "")
        reader = Reader(self._namespace.app)

        def change(record: Record, now: int) -> Change:
            must_be_open(record, "be resumed")
            after = reader.patched(record, {"paused": False}, now)
            if from_ == "kept":
                after = without_missed(after, now)
            return Change(record, after, "updated", {"fields": ["paused"]})

        return shown(self._change(routine_id, change))

    def leave_out_missed(self) -> int:
        """Let every active routine that is due go on with its first slot after now; returns how many did.

        Those that have no later slot stay due. Each routine is one step.

        Raises:
            StoreUnavailable: the store did not answer; those that have gone on stay so.
        """
        moved, until = 0, self._store.now()
        for routine in due(self._store, to_datetime(until), None, include_claimed=False):
            record, now = read(self._store, routine.id)
            if record is None or record.state != ACTIVE:
                continue
            after = without_missed(record, now)
            if after is not record:
                after = record.changed(now, next=after.next, slot=after.slot)
                change = Change(record, after, "updated", {"fields": ["next_run_at"]})
                moved += are_written(write(self._store, [change]))  # if it was changed meanwhile, that counts
        return moved

    def cancel(self, routine_id: str, *, revoke: bool = False, terminate: bool = False) -> Routine:
        """Let it run no more; what it has run stays on record. One that has ended stays as it is, and is returned.

        Args:
            revoke: revoke the run that is under way, too, if no worker has begun it. Without that it ends by itself,
                and its end changes nothing.
            terminate: end the run even if it has begun.

        Raises:
            NotFound: there is no such routine.
        """
        runs: list[str] = []

        def change(record: Record, now: int) -> Change | None:
            if record.is_terminal:
                runs.clear()
                return None
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

    def _read(self, routine_id: str) -> tuple[Record, int]:
        if not isinstance(routine_id, str):
            raise NotFound(f"there is no routine {routine_id!r}: the id of a routine is text")
        record, now = read(self._store, routine_id)
        if record is None:
            raise NotFound(f"there is no routine {routine_id!r}; it was never created, or was deleted, or has expired")
        return record, now

    def _change(
        self, routine_id: str, change: Callable[[Record, int], Change | None], if_version: int | None = None
    ) -> Record:
        """Make a change to the record as it is now; returns what it has become.

        Of one that is removed, and of one that there is nothing to change about, it returns what it was.
        """
        for _ in range(MOST_TRIES):
            record, now = self._read(routine_id)
            if if_version is not None and record.version != if_version:
                raise StaleVersion(
                    f"routine {routine_id} has version {record.version} by now, not {if_version}; read it again"
                )
            made = change(record, now)
            if made is None:
                return record
            (word,) = write(self._store, [made])
            if are_written([word]):
                return made.after or record
            if word.startswith(KEY):
                key, holder = getattr(made.after, "key", ""), word.removeprefix(KEY)
                raise IdempotencyConflict(f"routine {routine_id}: idempotency key {key!r} belongs to routine {holder}")
        raise busy_store(routine_id)


def _by(reason: str) -> dict[str, Any]:
    return {"by": operator(), "reason": readable(reason)} if reason else {"by": operator()}


def busy_store(routine_id: str) -> StoreUnavailable:
    return StoreUnavailable(f"routine {routine_id} was changed {MOST_TRIES} times by others meanwhile; try again")
