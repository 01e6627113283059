"""Waiting for ends, without polling.

A wait reads the records, subscribes to those that are missing, reads these again, and then sleeps until messages come.
It reads again after a lost connection and every few seconds, so a lost message only delays it. At its time-out it reads
one last time.

No read keeps a wait longer than its time-out: readers of their own make it (:mod:`.readers`), and a wait whose time is
over leaves it behind. Only the last read, of a store that has answered so far, may take a moment longer.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import Future
from dataclasses import replace
from datetime import timedelta
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar

from celery_perpetual.completions.batches import BatchResult
from celery_perpetual.completions.completion import Completion, from_json
from celery_perpetual.errors import ContractError, StoreRefused, StoreUnavailable
from celery_perpetual.ledger.ids import id_of
from celery_perpetual.settings import seconds
from celery_perpetual.waiting.lookup import Lookup, pending
from celery_perpetual.waiting.steps import Answer, Found, Listen, Step, Steps, Watch

if TYPE_CHECKING:
    from celery_perpetual.ledger.ids import TaskRef

T = TypeVar("T")

#: A wait reads the records this often, even if messages come.
READ_AGAIN_SECONDS = 5.0
#: The same while the store does not answer.
RETRY_SECONDS = 0.2
#: How long a read may take where the time-out leaves less, so that a slow store can answer at all: the first read of a
#: wait, and any other of a store that has answered so far; and a little longer for each id.
FIRST_READ_SECONDS, LAST_READ_SECONDS = 1.0, 0.5
READ_SECONDS_PER_ID = 0.000_02
#: A wait does not listen while it asks Celery's result backend, so it asks no longer than this at a time.
BACKEND_SECONDS = 1.0


class TimedWait:
    """The time-out of one wait, when it reads again, and how long a read may take."""

    def __init__(self, lookup: Lookup, timeout: float | timedelta) -> None:
        self.deadline = time.monotonic() + seconds("timeout", timeout, error=ContractError)
        self.lookup = lookup
        self._next_read = 0.0
        self._has_answered = False
        self._silent: StoreUnavailable | None = None
        """Why the newest read had no answer, if it had none."""

    @property
    def is_late(self) -> bool:
        return time.monotonic() >= self.deadline

    @property
    def left(self) -> float:
        """Seconds that are left."""
        return max(0.0, self.deadline - time.monotonic())

    @property
    def pause(self) -> float:
        """Seconds until there is something to do without a message."""
        return max(0.0, min(self.deadline, self._next_read) - time.monotonic())

    def read_again_in(self, pause: float) -> None:
        self._next_read = time.monotonic() + pause

    def read(self, read: Callable[..., T], *arguments: Any, count: int = 1) -> Generator[Step, Any, T]:
        """Read from the store.

        Raises:
            StoreUnavailable: it did not answer, or not in time.
        """
        if self._silent is not None and self.is_late:
            raise self._silent
        patience = self._patience(count)
        future = self.lookup.readers.submit(partial(read, *arguments))
        try:
            yield Answer(future, patience)
            if not future.done():
                raise StoreUnavailable(f"store {self.lookup.store.shown} did not answer before the wait's time-out")
            found = future.result()
        except StoreUnavailable as error:
            self._silent = error
            raise
        finally:
            future.cancel()
        self._silent, self._has_answered = None, True
        return found

    def _patience(self, count: int = 1) -> float:
        """Seconds that a read of so many ids may take."""
        if self._silent is not None:
            return self.left
        least = LAST_READ_SECONDS if self._has_answered else FIRST_READ_SECONDS
        return max(self.left, least + count * READ_SECONDS_PER_ID)


class Wait(TimedWait):
    """One wait for some ids.

    Raises:
        ContractError: ids or timeout are none.
    """

    def __init__(self, lookup: Lookup, ids: Iterable[TaskRef], timeout: float | timedelta) -> None:
        super().__init__(lookup, timeout)
        self._pending = dict.fromkeys(_checked(ids))
        self._is_known = False
        """Whether the wait has found out once what is known of the ids."""
        self._question: Future[dict[str, Completion]] | None = None
        """To Celery's result backend, while it has no answer."""

    def steps(self, *, first: bool = False) -> Steps[list[Completion]]:
        """The whole wait.

        Args:
            first: whether the caller goes when the first tasks have ended; else a completion is found for every id.

        Raises:
            StoreUnavailable: the store has not answered once.
        """
        try:
            found = yield from self._read_ended()
            if self._pending and not (first and found) and not self.is_late:
                yield Watch([self.lookup.channel(task_id) for task_id in self._pending], self.deadline)
            yield Found(found + (yield from self._read_pending()))
            while self._pending and not self.is_late:
                messages = yield Listen(self.pause)
                if messages is not None:
                    yield Found(self._ended_by(messages))
                elif not self.is_late:
                    yield Found((yield from self._read_pending()))
            yield Found((yield from self._read_last()))
        finally:
            if self._question is not None:
                self._question.cancel()

    def now(self) -> Steps[list[Completion]]:
        """All that is known of the ids now; the time-out bounds the reading.

        Raises:
            StoreUnavailable: the store did not answer.
        """
        yield Found(self._ended((yield from self._read_answers())))

    def _read_ended(self) -> Generator[Step, Any, list[Completion]]:
        """Tasks that have ended before the wait, whose channels need no subscription."""
        try:
            return self._ended((yield from self._read(self.lookup.records)).values())
        except StoreRefused:
            raise
        except StoreUnavailable:
            return []

    def _read_pending(self) -> Generator[Step, Any, list[Completion]]:
        """Pending tasks that have ended by now; the first time also ids of this package that are not on record."""
        self.read_again_in(READ_AGAIN_SECONDS)
        if not self._pending:
            return []
        try:
            if not self._is_known or self._question is not None:
                return self._ended((yield from self._read_answers()))
            return self._ended((yield from self._read(self.lookup.records)).values())
        except StoreRefused:
            raise
        except StoreUnavailable:  # the store answers later, or the time-out comes
            self.read_again_in(RETRY_SECONDS)
            return []

    def _read_last(self) -> Generator[Step, Any, list[Completion]]:
        """The last read, and the state of the tasks that have not ended."""
        found: list[Completion] = []
        try:
            if self._pending and not self._is_known:
                found += self._ended((yield from self._read_answers()))
            elif self._pending:
                found += self._ended((yield from self._read(self.lookup.records)).values())
                found += self._ended(((yield from self._ask_celery(list(self._pending))) or {}).values())
        except StoreRefused:
            raise
        except StoreUnavailable:
            if not self._has_answered:
                raise
        rest, self._pending = list(self._pending), {}
        return [*found, *(pending(task_id).late() for task_id in rest)]

    def _read_answers(self) -> Generator[Step, Any, Iterable[Completion]]:
        """Ends by our records and by Celery's results, and ids of our form that neither knows."""
        found, rest = yield from self._read(self.lookup.records_and_strangers)
        if rest:
            by_celery = yield from self._ask_celery(rest)
            # Our record says more than Celery's result, and may have been stored meanwhile.
            found |= (by_celery or {}) | (yield from self.read(self.lookup.records, rest, count=len(rest)))
            if by_celery is not None:
                found |= self.lookup.unknown(rest, found)
        self._is_known = True
        return list(found.values())

    def _ask_celery(self, ids: list[str]) -> Generator[Step, Any, dict[str, Completion] | None]:
        """Ends that Celery's result backend knows; None while it has no answer."""
        is_new = self._question is None
        question = self._question = self._question or self.lookup.ask_celery(ids)
        yield Answer(question, min(self._patience(), BACKEND_SECONDS) if is_new else 0.0)
        if not question.done():
            self.read_again_in(BACKEND_SECONDS)
            return None
        self._question = None
        return question.result()

    def _read(self, read: Callable[[list[str]], T]) -> Generator[Step, Any, T]:
        ids = list(self._pending)
        return (yield from self.read(read, ids, count=len(ids)))

    def _ended_by(self, messages: Iterable[bytes]) -> list[Completion]:
        """The pending tasks whose ends these messages are. No generator: a waiter waits for this."""
        found, left = [], self._pending
        for message in messages:
            try:
                completion = from_json(message)
            except (ValueError, TypeError, AttributeError):  # no end: a batch's, or a foreign message
                self.read_again_in(0)
                continue
            if completion.task_id in left:
                del left[completion.task_id]
                found.append(completion)
        return found

    def _ended(self, completions: Iterable[Completion]) -> list[Completion]:
        found = []
        for completion in completions:
            if completion.task_id in self._pending:
                del self._pending[completion.task_id]
                found.append(completion)
        return found


class BatchWait(TimedWait):
    """One wait for a batch."""

    def __init__(self, lookup: Lookup, poll_id: str, timeout: float | timedelta) -> None:
        super().__init__(lookup, timeout)
        self._poll_id = poll_id
        self._known: BatchResult | None = None

    def steps(self) -> Steps[BatchResult]:
        """The whole wait; it finds one result.

        Raises:
            NotFound: no batch of this id is known.
            StoreUnavailable: the store has not answered once.
        """
        result = yield from self._read_counters()
        if result is None:
            yield Watch([self.lookup.channel(self._poll_id)], self.deadline)
            while (result := (yield from self._read_counters())) is None:
                yield Listen(self.pause)
        yield Found(result)

    def _read_counters(self) -> Generator[Step, Any, BatchResult | None]:
        """The counters when the batch is finished or the time is over, else None."""
        is_late = self.is_late
        self.read_again_in(READ_AGAIN_SECONDS)
        try:
            self._known = yield from self.read(self.lookup.batch, self._poll_id)
        except StoreRefused:
            raise
        except StoreUnavailable:
            self.read_again_in(RETRY_SECONDS)
            if is_late and self._known is None:
                raise
        if self._known is None or self._known.finished:
            return self._known
        return replace(self._known, timed_out=True) if is_late else None


def _checked(ids: Iterable[TaskRef]) -> Iterator[str]:
    if isinstance(ids, str) or not isinstance(ids, Iterable):
        raise ContractError(f"ids must be a list of task ids, got {ids!r}")
    yield from map(id_of, ids)
