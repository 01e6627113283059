"""One poll, from its claim to its outcome: gates, ``next_batch``, commit, publish.

Every poll ends in exactly one stored outcome. User code runs only here, never in the beat's own thread.
"""

from __future__ import annotations

import sys
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from celery.exceptions import SoftTimeLimitExceeded

from celery_perpetual import events
from celery_perpetual.errors import StoreUnavailable, readable
from celery_perpetual.faults import reach
from celery_perpetual.ledger.item import CheckedItem
from celery_perpetual.ledger.ledger import Closing, Ledger
from celery_perpetual.ledger.record import decode, encode
from celery_perpetual.pauses import Paused
from celery_perpetual.polling import in_worker as travel
from celery_perpetual.polling import outcome as status
from celery_perpetual.polling.claims import Claim, Claims
from celery_perpetual.polling.closing import PollEnd, PollEnds, outcome_of, poll_end, refused
from celery_perpetual.polling.coroutines import Loop
from celery_perpetual.polling.outcome import HISTORY_TTL_MS, PollOutcome
from celery_perpetual.polling.poll import Poll
from celery_perpetual.polling.reading import Abandoned, ReadBatch, read
from celery_perpetual.publishing.publisher import Publisher, publish_or_leave
from celery_perpetual.store.chunks import CHUNK
from celery_perpetual.store.connection import Store
from celery_perpetual.tasks.items import Defer, Pause, Skip
from celery_perpetual.telemetry import emit
from celery_perpetual.times import format_time, to_datetime

if TYPE_CHECKING:
    from celery import Celery

#: Where the keys of a commit's broker commands begin.
FIRST_TARGET = 11

#: Polls that raise are tried again after 30 s, then twice as long each time, up to five minutes.
FIRST_BACKOFF_MS, LONGEST_BACKOFF_MS = 30_000, 300_000


class Runner:
    """Runs polls of one app. Safe to share between threads."""

    def __init__(self, app: Celery, store: Store, events_maxlen: int) -> None:
        self.app = app
        self.store = store
        self.events_maxlen = events_maxlen
        self.ledger = Ledger(store, events_maxlen)
        self.ends = PollEnds(store, events_maxlen)
        self.publisher = Publisher(app, store)

    def run(self, claim: Claim) -> PollOutcome | None:
        """Run a claimed poll to its stored outcome, or send it to the workers (None).

        Raises:
            StoreUnavailable: the store went away; the claim expires by itself.
        """
        ended = self.poll(claim)
        return self.ends.store_one(ended) if isinstance(ended, PollEnd) else ended

    def poll(self, claim: Claim) -> PollEnd | PollOutcome | None:
        """Run a claimed poll up to its end, which is left to be stored unless the poll has enqueued something.

        Raises:
            StoreUnavailable: the store went away; the claim expires by itself.
        """
        reach("poll.claimed")
        contract = claim.contract
        if claim.runs_in_worker:
            travel.send(self.app, claim)
            Claims(self.store, self.events_maxlen).sent_to_worker(claim)
            return None
        if claim.in_flight >= contract.max_in_flight:
            return self._skip_full(claim, claim.in_flight)
        try:
            result = self.evaluate(claim)
        except (Abandoned, SoftTimeLimitExceeded):
            return self._timed_out(claim)
        except BaseException as error:  # user code may raise anything, even SystemExit
            return self._fail(claim, error)
        reach("poll.read")
        if isinstance(result, ReadBatch):
            return self._enqueue(claim, result)
        if isinstance(result, Skip):
            return poll_end(
                claim, outcome_of(claim, status.SKIPPED, reason=readable(result.reason or "skipped")), "reset"
            )
        if isinstance(result, Defer):
            return self._defer(claim, result)
        return self._pause(claim, result)

    def evaluate(self, claim: Claim) -> ReadBatch | Skip | Defer | Pause:
        """Call ``next_batch`` and reduce its result to what is new. Runs user code; writes nothing."""
        loop = Loop(claim.contract.poll_timeout)
        _close_old_connections()
        try:
            return read(self.app, self.ledger, claim, loop.settle(self._call(claim)))
        finally:
            loop.close()
            _close_old_connections()

    def arguments(self, item: CheckedItem) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """Arguments of an item, as its task will get them."""
        record = decode(encode(item, item.task), item.task)
        return record.args, record.kwargs

    def time_out(self, claim: Claim) -> PollOutcome:
        """Abandon a poll that ran out of its time: whatever it still brings is refused."""
        return self.ends.store_one(self._timed_out(claim))

    def _timed_out(self, claim: Claim) -> PollEnd:
        claim.abandoned = True
        limit = claim.contract.poll_timeout
        reason = f"next_batch took longer than poll_timeout ({limit:g} s); its result is refused"
        outcome = outcome_of(claim, status.TIMED_OUT, reason=reason)
        emit(events.POLL_TIMED_OUT, limit=limit, **_about(outcome))
        return poll_end(claim, outcome, "add", delay=_backoff(claim), trigger="backoff")

    def give_up(self, claim: Claim) -> PollOutcome:
        """End a poll whose process stops, so that the next leader need not wait for the claim to expire."""
        claim.abandoned = True
        outcome = outcome_of(claim, status.ABANDONED, reason="the beat that ran this poll was stopped")
        return self.ends.store_one(poll_end(claim, outcome, "keep", delay=0, trigger="retry"))

    def skip_hanging(self, claim: Claim, hanging: Claim) -> PollOutcome:
        """Skip a unit whose earlier ``next_batch`` has not returned yet: a second call would hang beside it."""
        since = round(claim.started - hanging.started)
        reason = f"next_batch of poll {hanging.poll_id} has not returned"
        outcome = outcome_of(claim, status.SKIPPED, gate="hanging", value=since, reason=reason)
        return self.ends.store_one(poll_end(claim, outcome, "keep"))

    def _call(self, claim: Claim) -> Any:
        contract = claim.contract
        return contract.next_batch(self._poll(claim)) if contract.takes_poll else contract.next_batch()

    def _poll(self, claim: Claim) -> Poll:
        contract = claim.contract
        return Poll(
            task=contract.name,
            tenant=claim.unit.tenant,
            poll_id=claim.poll_id,
            slot=to_datetime(claim.slot),
            trigger=claim.trigger,
            cursor=claim.cursor,
            limit=contract.limit,
            room=contract.max_in_flight - claim.in_flight,
            attempt=claim.attempt,
            late_by=max(0, claim.store_time - claim.slot) / 1000,
            last_polled_at=None if claim.polled is None else to_datetime(claim.polled),
            keys=lambda: self.ledger.in_flight_keys(claim.unit.name),
        )

    def _enqueue(self, claim: Claim, found: ReadBatch) -> PollEnd | PollOutcome:
        contract, items = claim.contract, found.items
        counts = {"duplicates": found.duplicates, "left_out": found.left_out, "watermark": found.watermark}
        if found.overflow:
            return self._skip_full(claim, claim.in_flight + len(items), duplicates=found.duplicates)
        outcome = outcome_of(claim, status.EMPTY, cursor=found.cursor, **counts)
        if not items:
            return poll_end(claim, outcome, "reset", cursor=found.cursor)
        outcome = outcome_of(claim, status.ENQUEUED, cursor=found.cursor, count=len(items), **counts)
        if len(items) > CHUNK and not self.ledger.stage(claim.unit, claim.poll_id, items):
            return refused(claim)
        try:
            self.publisher.rehearse(items)
            messages = self.publisher.build(claim.poll_id, items)
        except StoreUnavailable:
            raise
        except Exception as error:  # a route, a queue or a header of the user's
            return self._fail(claim, error)
        full = claim.in_flight + len(items) >= contract.max_in_flight
        drain = not claim.by_hand and not full and (found.more or found.read >= contract.limit)
        closing = Closing(
            poll_id=claim.poll_id,
            outcome=outcome.to_json(),
            slot=claim.slot,
            following=claim.following,
            delay="0" if drain else "",
            trigger="drain" if drain else "",
            cursor=found.cursor,
            history_ttl=HISTORY_TTL_MS,
        )
        reach("poll.committing")
        verdict = self.ledger.commit(claim.unit, closing, items, *messages.commands.packed(FIRST_TARGET))
        reach("poll.committed")
        if verdict == "full":
            return self._skip_full(claim, claim.in_flight + len(items))
        if verdict == "missing":
            return self._fail(claim, RuntimeError("records of this batch expired before its commit"))
        if verdict == "refused":
            return refused(claim)
        claim.committed = True
        emit(events.POLL_ENQUEUED, count=outcome.count, **_about(outcome))
        if messages.commands:
            messages.after_publish.send()
        else:
            publish_or_leave(self.publisher, claim.poll_id, items)
        return outcome

    def _skip_full(self, claim: Claim, value: int, duplicates: int = 0) -> PollEnd:
        limit = claim.contract.max_in_flight
        outcome = outcome_of(
            claim, status.SKIPPED, gate="max_in_flight", value=value, limit=limit, duplicates=duplicates
        )
        return poll_end(claim, outcome, "keep")

    def _fail(self, claim: Claim, error: BaseException) -> PollEnd:
        outcome = outcome_of(claim, status.FAILED, error=f"{type(error).__name__}: {readable(error)}")
        emit(events.POLL_FAILED, error=error, **_about(outcome))
        return poll_end(claim, outcome, "add", delay=_backoff(claim), trigger="backoff")

    def _defer(self, claim: Claim, defer: Defer) -> PollEnd:
        after = defer.after if isinstance(defer.after, timedelta) else timedelta(seconds=defer.after)
        outcome = outcome_of(claim, status.DEFERRED, reason=f"deferred for {after.total_seconds():g} s")
        return poll_end(claim, outcome, "keep", delay=round(after.total_seconds() * 1000), trigger="defer")

    def _pause(self, claim: Claim, pause: Pause) -> PollEnd:
        reason = readable(pause.reason or "next_batch asked for it")
        outcome = outcome_of(claim, status.PAUSED, reason=reason)
        paused = Paused(scope=claim.unit.name, by="next_batch", reason=reason, at=outcome.finished_at)
        return poll_end(claim, outcome, "keep", pause=paused.to_json())


def _backoff(claim: Claim) -> int:
    return int(min(FIRST_BACKOFF_MS * 2 ** min(claim.attempt, 10), LONGEST_BACKOFF_MS))


def _about(outcome: PollOutcome) -> dict[str, Any]:
    return {"unit": outcome.unit, "poll_id": outcome.poll_id, "slot": format_time(outcome.slot)}


def _close_old_connections() -> None:
    """Django leaves the life of connections in other threads than a request's to us."""
    conf, database = sys.modules.get("django.conf"), sys.modules.get("django.db")
    if conf is None or database is None or not conf.settings.configured:
        return  # a package may bring Django along without anybody using it
    try:
        database.close_old_connections()
    except Exception as error:  # what is wrong with them concerns who uses them
        emit(events.DJANGO_CONNECTIONS_KEPT, error=error)
