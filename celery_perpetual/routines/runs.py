"""Starts runs of routines: in one step their records say so, and their messages are in the ledger.

A run is an item of a batch that belongs to no poll. From there on it goes the way of every item: it is published from
the ledger, executed under a lease, and ended once. Each attempt of a slot has an id of its own. The step in which the
attempt begins writes it to the record, so it is the same however often the message is sent.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from celery import signals
from kombu.exceptions import OperationalError

from celery_perpetual.completions.completion import FAILURE, error_of
from celery_perpetual.errors import StoreUnavailable
from celery_perpetual.faults import reach
from celery_perpetual.ledger.ids import item_id, new_poll_id
from celery_perpetual.ledger.item import CheckedItem
from celery_perpetual.ledger.record import encode, read_item
from celery_perpetual.publishing.builder import Messages, Stamps, are_stamped
from celery_perpetual.publishing.publisher import Publisher, publish_or_leave
from celery_perpetual.routines.headers import header_of
from celery_perpetual.routines.record import BY_HAND, SCHEDULED, Record
from celery_perpetual.routines.routine import RoutineRun
from celery_perpetual.routines.steps import RunEnd, ended, started
from celery_perpetual.routines.storage import OK, Change, are_written, rows_of, words_of, write
from celery_perpetual.store.one_ahead import OneAhead
from celery_perpetual.store.scripts import script
from celery_perpetual.times import format_ms, ms, to_datetime

if TYPE_CHECKING:
    from celery_perpetual.store.connection import Store

#: The runs of all routines are in flight under this name, which no unit has.
UNIT = "routines"

#: Most runs that one step starts, so that it does not hold up the store.
MOST_RUNS = 100

#: The pauses that hold runs, as ``start_runs.lua`` knows them: of everything and of all routines, or only the latter.
ALL_PAUSES, PAUSE_OF_ROUTINES = "all", "routines"

#: Errors that say nothing about a run: the broker is away.
NOT_THE_RUNS = (StoreUnavailable, OperationalError)


class Run(NamedTuple):
    """A run that begins."""

    before: Record
    after: Record
    task_id: str
    slot: int
    attempt: int

    @property
    def change(self) -> Change:
        facts = {
            "task_id": self.task_id, "slot": format_ms(self.slot), "attempt": self.attempt,
        }  # fmt: skip
        return Change(self.before, self.after, "started", facts)

    @property
    def item(self) -> CheckedItem:
        """Its item: its key is the routine, and its message says which run it is."""
        run = header_of(self.before.id, self.slot, self.attempt)
        return read_item(self.before.item, "")._replace(key=self.before.id, run=run)

    def result(self, **facts: Any) -> RoutineRun:
        """As it is returned."""
        return RoutineRun(
            routine_id=self.before.id, slot=to_datetime(self.slot), task_id=self.task_id, attempt=self.attempt, **facts
        )


def run_of_slot(record: Record, task_id: str, now: int, at: int | None) -> Run:
    """The next attempt of the slot that is due."""
    after = started(record, task_id, now, at)
    return Run(record, after, task_id, record.due_slot, after.attempts)


def run_by_hand(record: Record, task_id: str, now: int) -> Run:
    """A run besides: state, times and attempts of the routine stay."""
    return Run(record, record.changed(now, last_run=task_id, last_at=now), task_id, now, 1)


class Batch(NamedTuple):
    """Runs that begin in one step."""

    poll_id: str
    runs: Sequence[Run]
    items: Sequence[CheckedItem]
    messages: Messages
    """As far as the step itself brings them to the broker."""


class Going(NamedTuple):
    """The facts that the steps of one start share."""

    now: int
    at: int | None
    owner: str
    obeys: str
    stamps: Stamps
    """Celery builds one message of each kind for all steps."""


def _batch_of(records: Sequence[Record], going: Going) -> Batch:
    """The runs of the slots that are due."""
    poll_id = new_poll_id(going.now)
    runs = [run_of_slot(each, item_id(poll_id, index), going.now, going.at) for index, each in enumerate(records)]
    return Batch(poll_id, runs, [run.item for run in runs], Messages.none())


def _runs_no_code(batch: Batch, going: Going) -> bool:
    """Whether no code of the user's runs to build these messages, nor after those before were published."""
    return are_stamped(going.stamps, batch.items) and not signals.after_task_publish.receivers


class Starter:
    """Starts runs of one app. May be used from any thread."""

    def __init__(self, store: Store, publisher: Publisher) -> None:
        self._store = store
        self._publisher = publisher

    def start_due(
        self, records: Sequence[Record], now: int, at: int | None = None, owner: str = "", obeys: str = ALL_PAUSES,
        begins: Callable[[Sequence[Record]], object] = lambda _: None,
    ) -> Iterator[RoutineRun]:  # fmt: skip
        """Start a run of each of these that is still as it was read. A pause starts none.

        At most :data:`MOST_RUNS` start in one step. The next ones are made ready while the store works on it, unless
        code of the user's takes part: that runs for one step before it runs for the next one. A run whose message
        cannot be built counts as a failed attempt, and does not hold up the others. What is returned must be read to
        its end without delay: the next step waits for that.

        Args:
            now: when the first of them start, ms.
            at: the time that the caller has given instead.
            owner: the beat that starts it, "" for none.
            obeys: the pauses that hold them.
            begins: called with the routines of each step before code of the user's may run for them, and after it
                has run for those before. An error that it raises ends the start; what has begun has begun.

        Raises:
            StoreUnavailable: the store did not answer.
            kombu.exceptions.OperationalError: the broker did not; nothing of what is left has begun.
        """
        going, since = Going(now, at, owner, obeys, {}), time.monotonic()
        with OneAhead[list[RoutineRun]]() as call:
            for first in range(0, len(records), MOST_RUNS):
                if first:  # those before have taken their time
                    going = going._replace(now=now + ms(time.monotonic() - since))
                part = records[first : first + MOST_RUNS]
                batch = _batch_of(part, going)
                is_ahead = _runs_no_code(batch, going)
                if not is_ahead:
                    if call.is_owed:
                        yield from call.reply() or ()
                        going = going._replace(now=now + ms(time.monotonic() - since))
                        batch = _batch_of(part, going)
                    begins(part)
                try:
                    failed, batch = self._built(batch, going)
                finally:  # what has begun has begun, whatever becomes of these
                    yield from call.reply() or ()
                yield from failed
                if is_ahead:
                    begins(part)
                if batch.runs:
                    call.begin(self._begun(batch, going))
            yield from call.reply() or ()

    def start_by_hand(self, record: Record, now: int) -> RoutineRun | None:
        """Start a run besides the routine's times; None where the routine has changed since it was read.

        Raises:
            InvalidItem: its message cannot be built.
            StoreUnavailable: the store did not answer.
        """
        poll_id = new_poll_id(now)
        run = run_by_hand(record, item_id(poll_id, 0), now)
        items = [run.item]
        batch = Batch(poll_id, [run], items, self._publisher.build(poll_id, items))
        return run.result() if are_written(self._sent(batch, BY_HAND)()) else None

    def _built(self, batch: Batch, going: Going) -> tuple[list[RoutineRun], Batch]:
        """The runs whose messages cannot be built, which have failed, and the rest with its messages."""
        failed = list[RoutineRun]()
        while batch.runs:
            try:
                messages = self._publisher.build(batch.poll_id, batch.items, going.stamps)
            except NOT_THE_RUNS:
                raise
            except Exception:
                errors = {run.before.id: self._fault(batch.poll_id, run) for run in batch.runs}
                broken = {name: error for name, error in errors.items() if error is not None}
                failed += [self._fail(run, broken[run.before.id]) for run in batch.runs if run.before.id in broken]
                if not broken:
                    raise
                batch = _batch_of([run.before for run in batch.runs if run.before.id not in broken], going)
            else:
                return failed, batch._replace(messages=messages)
        return failed, batch

    def _begun(self, batch: Batch, going: Going) -> Callable[[], list[RoutineRun]]:
        """Send the step that starts these; what is returned waits for it, and starts anew those that did not change."""
        words_of_step = self._sent(batch, SCHEDULED, going)

        def finish() -> list[RoutineRun]:
            words = words_of_step()
            if are_written(words):
                return [run.result() for run in batch.runs]
            left = [run.before for run, word in zip(batch.runs, words, strict=True) if word == OK]
            failed, rest = self._built(_batch_of(left, going), going)
            return failed + (self._begun(rest, going)() if rest.runs else [])

        return finish

    def _sent(self, batch: Batch, each: str, going: Going | None = None) -> Callable[[], list[str]]:
        """Send the step; what is returned waits for its words, and sends what is due after the publish."""
        keys, (poll_id, runs, items, messages) = self._store.keys, batch
        owner, obeys, mark = ("", "", 0) if going is None else (going.owner, going.obeys, going.now)
        commands, targets = messages.commands.packed()
        rows = rows_of(self._store, [run.change for run in runs])
        reach("routine.starting")
        reply = script("start_runs").begin(
            self._store, unit_hash=keys.unit(UNIT), batch=keys.poll(poll_id), chunk=keys.chunk(poll_id, 0),
            targets=targets, poll=poll_id, unit=UNIT, each=each, owner=owner, mark=mark, obeys=obeys,
            count=len(runs), pushed=len(items) if commands else 0,
            destinations=messages.destinations.to_json() if commands else "",
            rest=[*rows, *(encode(item, "") for item in items), *commands],
        )  # fmt: skip

        def finish() -> list[str]:
            words = words_of(reply())
            reach("routine.started")
            if are_written(words):
                messages.after_publish.send()
                if not commands:
                    publish_or_leave(self._publisher, poll_id, items)
            return words

        return finish

    def _fault(self, poll_id: str, run: Run) -> Exception | None:
        try:
            self._publisher.build(poll_id, [run.item])
        except NOT_THE_RUNS:
            raise
        except Exception as error:  # of a router, or of a serializer that this process does not have
            return error
        return None

    def _fail(self, run: Run, error: Exception) -> RoutineRun:
        end = RunEnd(run.task_id, FAILURE, error=error_of(error))
        write(self._store, [change_of_end(run.before, run.after, end, run.after.updated)])
        return run.result(status=FAILURE, error=end.error)


def change_of_end(before: Record, running: Record, end: RunEnd, now: int, *, most_recoveries: int = 3) -> Change:
    """The change that the end of a run makes.

    Args:
        before: the record as it is stored.
        running: the record with the run under way; ``before``, unless it was never stored.
    """
    assert running.slot is not None
    after = ended(running, end, now, most_recoveries)
    facts = {
        "task_id": end.task_id, "slot": format_ms(running.slot), "attempt": running.attempts,
        "status": end.status, "error": end.error,
        "next_run_at": None if after.next is None else format_ms(after.next),
    }  # fmt: skip
    return Change(before, after, "run" if after.error is None else "failed", facts)
