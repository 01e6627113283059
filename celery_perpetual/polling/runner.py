"""One poll, from its claim to its outcome: gates, ``next_batch``, commit, publish.

Every poll ends in exactly one stored outcome. User code runs only here, never in the beat's own thread.
"""

from __future__ import annotations

import sys
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from celery.exceptions import SoftTimeLimitExceeded
from celery.utils.log import get_logger

from celery_perpetual.errors import StoreUnavailable
from celery_perpetual.faults import reach
from celery_perpetual.ledger import CHUNK, Closing, Ledger, decode, encode
from celery_perpetual.polling import outcome as status
from celery_perpetual.polling import travel
from celery_perpetual.polling.batch import Abandoned, Found, read
from celery_perpetual.polling.claims import Claim, Claims
from celery_perpetual.polling.coroutines import Loop
from celery_perpetual.polling.ends import End, Ends, end_of, outcome_of, refused
from celery_perpetual.polling.history import HISTORY_TTL_MS
from celery_perpetual.polling.outcome import PollOutcome, format_time, readable
from celery_perpetual.polling.pauses import Paused
from celery_perpetual.polling.poll import Poll
from celery_perpetual.publishing import Publisher, publish_or_leave
from celery_perpetual.store import Store
from celery_perpetual.tasks import Defer, Pause, Skip, to_datetime
from celery_perpetual.tasks.work import Work

if TYPE_CHECKING:
    from celery import Celery

logger = get_logger(__name__)

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
        self.ends = Ends(store, events_maxlen)
        self.publisher = Publisher(app, store)

    def run(self, claim: Claim) -> PollOutcome | None:
        """Run a claimed poll to its stored outcome, or send it to the workers (None).

        Raises:
            StoreUnavailable: the store went away; the claim expires by itself.
        """
        ended = self.poll(claim)
        return self.ends.store_one(ended) if isinstance(ended, End) else ended

    def poll(self, claim: Claim) -> End | PollOutcome | None:
        """Run a claimed poll up to its end, which is left to be stored unless the poll has enqueued something.

        Raises:
            StoreUnavailable: the store went away; the claim expires by itself.
        """
        reach("poll.claimed")
        perpetuity = claim.perpetuity
        if claim.travels:
            travel.send(self.app, claim)
            Claims(self.store, self.events_maxlen).travelled(claim)
            return None
        if claim.in_flight >= perpetuity.max_in_flight:
            return self._skip_full(claim, claim.in_flight)
        try:
            result = self.evaluate(claim)
        except (Abandoned, SoftTimeLimitExceeded):
            return self._timed_out(claim)
        except BaseException as error:  # noqa: BLE001  # user code may raise anything, even SystemExit
            return self._fail(claim, error)
        reach("poll.read")
        if isinstance(result, Found):
            return self._enqueue(claim, result)
        if isinstance(result, Skip):
            return end_of(
                claim, outcome_of(claim, status.SKIPPED, reason=readable(result.reason or "skipped")), "reset"
            )
        if isinstance(result, Defer):
            return self._defer(claim, result)
        return self._pause(claim, result)

    def evaluate(self, claim: Claim) -> Found | Skip | Defer | Pause:
        """Call ``next_batch`` and reduce its result to what is new. Runs user code; writes nothing."""
        loop = Loop(claim.perpetuity.poll_timeout)
        _close_old_connections()
        try:
            return read(self.app, self.ledger, claim, loop.settle(self._call(claim)))
        finally:
            loop.close()
            _close_old_connections()

    def arguments(self, work: Work) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """Arguments of a work, as its task will get them."""
        record = decode(encode(work, work.task), work.task)
        return record.args, record.kwargs

    def time_out(self, claim: Claim) -> PollOutcome:
        """Abandon a poll that ran out of its time: whatever it still brings is refused."""
        return self.ends.store_one(self._timed_out(claim))

    def _timed_out(self, claim: Claim) -> End:
        claim.abandoned = True
        limit = claim.perpetuity.poll_timeout
        reason = f"next_batch took longer than poll_timeout ({limit:g} s); its result is refused"
        outcome = outcome_of(claim, status.TIMED_OUT, reason=reason)
        logger.error("perpetual: poll of %s timed out after %g s", claim.unit, limit, extra=_extra(outcome))
        return end_of(claim, outcome, "add", delay=_backoff(claim), trigger="backoff")

    def give_up(self, claim: Claim) -> PollOutcome:
        """End a poll whose process stops, so that the next leader need not wait for the claim to expire."""
        claim.abandoned = True
        outcome = outcome_of(claim, status.ABANDONED, reason="the beat that ran this poll was stopped")
        return self.ends.store_one(end_of(claim, outcome, "keep", delay=0, trigger="retry"))

    def skip_hanging(self, claim: Claim, hanging: Claim) -> PollOutcome:
        """Skip a unit whose earlier ``next_batch`` has not returned yet: a second call would hang beside it."""
        since = round(claim.started - hanging.started)
        reason = f"next_batch of poll {hanging.poll_id} has not returned"
        outcome = outcome_of(claim, status.SKIPPED, gate="hanging", value=since, reason=reason)
        return self.ends.store_one(end_of(claim, outcome, "keep"))

    def _call(self, claim: Claim) -> Any:
        perpetuity = claim.perpetuity
        return perpetuity.next_batch(self._poll(claim)) if perpetuity.takes_poll else perpetuity.next_batch()

    def _poll(self, claim: Claim) -> Poll:
        perpetuity = claim.perpetuity
        return Poll(
            task=perpetuity.name,
            poll_id=claim.poll_id,
            slot=to_datetime(claim.slot),
            trigger=claim.trigger,
            cursor=claim.cursor,
            limit=perpetuity.limit,
            room=perpetuity.max_in_flight - claim.in_flight,
            attempt=claim.attempt,
            late_by=max(0, claim.store_time - claim.slot) / 1000,
            last_polled_at=None if claim.polled is None else to_datetime(claim.polled),
            keys=lambda: self.ledger.in_flight_keys(perpetuity.unit),
        )

    def _enqueue(self, claim: Claim, found: Found) -> End | PollOutcome:
        perpetuity, works = claim.perpetuity, found.works
        counts = {"duplicates": found.duplicates, "left_out": found.left_out, "watermark": found.watermark}
        if found.overflow:
            return self._skip_full(claim, claim.in_flight + len(works), duplicates=found.duplicates)
        outcome = outcome_of(claim, status.EMPTY, cursor=found.cursor, **counts)
        if not works:
            return end_of(claim, outcome, "reset", cursor=found.cursor)
        outcome = outcome_of(claim, status.ENQUEUED, cursor=found.cursor, count=len(works), **counts)
        if len(works) > CHUNK and not self.ledger.stage(perpetuity, claim.poll_id, works):
            return refused(claim)
        try:
            self.publisher.rehearse(works)
            load = self.publisher.load(claim.poll_id, works)
        except StoreUnavailable:
            raise
        except Exception as error:  # noqa: BLE001  # a route, a queue or a header of the user's
            return self._fail(claim, error)
        full = claim.in_flight + len(works) >= perpetuity.max_in_flight
        drain = not claim.by_hand and not full and (found.more or found.read >= perpetuity.limit)
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
        verdict = self.ledger.commit(perpetuity, closing, works, *load.packed(FIRST_TARGET))
        reach("poll.committed")
        if verdict == "full":
            return self._skip_full(claim, claim.in_flight + len(works))
        if verdict == "missing":
            return self._fail(claim, RuntimeError("records of this batch expired before its commit"))
        if verdict == "refused":
            return refused(claim)
        claim.committed = True
        logger.info("perpetual: %s enqueued %d items", perpetuity.unit, len(works), extra=_extra(outcome))
        if load:
            load.aftermath.tell()
        else:
            publish_or_leave(self.publisher, claim.poll_id, works)
        return outcome

    def _skip_full(self, claim: Claim, value: int, duplicates: int = 0) -> End:
        limit = claim.perpetuity.max_in_flight
        outcome = outcome_of(
            claim, status.SKIPPED, gate="max_in_flight", value=value, limit=limit, duplicates=duplicates
        )
        return end_of(claim, outcome, "keep")

    def _fail(self, claim: Claim, error: BaseException) -> End:
        outcome = outcome_of(claim, status.FAILED, error=f"{type(error).__name__}: {readable(error)}")
        logger.error("perpetual: poll of %s failed", claim.unit, exc_info=error, extra=_extra(outcome))
        return end_of(claim, outcome, "add", delay=_backoff(claim), trigger="backoff")

    def _defer(self, claim: Claim, defer: Defer) -> End:
        after = defer.after if isinstance(defer.after, timedelta) else timedelta(seconds=defer.after)
        outcome = outcome_of(claim, status.DEFERRED, reason=f"deferred for {after.total_seconds():g} s")
        return end_of(claim, outcome, "keep", delay=round(after.total_seconds() * 1000), trigger="defer")

    def _pause(self, claim: Claim, pause: Pause) -> End:
        reason = readable(pause.reason or "next_batch asked for it")
        outcome = outcome_of(claim, status.PAUSED, reason=reason)
        paused = Paused(scope=claim.unit, by="next_batch", reason=reason, at=outcome.finished_at)
        return end_of(claim, outcome, "keep", pause=paused.to_json())


def _backoff(claim: Claim) -> int:
    return int(min(FIRST_BACKOFF_MS * 2 ** min(claim.attempt, 10), LONGEST_BACKOFF_MS))


def _extra(outcome: PollOutcome) -> dict[str, Any]:
    return {
        "event": f"perpetual.poll_{outcome.status}",
        "unit": outcome.unit,
        "poll_id": outcome.poll_id,
        "slot": format_time(outcome.slot),
        "count": outcome.count,
    }


def _close_old_connections() -> None:
    """Django leaves the life of connections in other threads than a request's to us."""
    if (database := sys.modules.get("django.db")) is not None:
        database.close_old_connections()
