"""One poll, from its claim to its end: gates, ``next_batch``, commit, publish.

Every poll ends in exactly one stored outcome. User code runs only here, never in the beat's own thread.
"""

from __future__ import annotations

import json
from functools import partial
from typing import TYPE_CHECKING

from celery.exceptions import SoftTimeLimitExceeded

from celery_perpetual import events
from celery_perpetual.errors import StoreUnavailable
from celery_perpetual.failures.policies import DEFAULTS, Policies
from celery_perpetual.faults import reach
from celery_perpetual.ledger.item import CheckedItem
from celery_perpetual.ledger.ledger import Closing, Ledger
from celery_perpetual.polling import in_worker
from celery_perpetual.polling import outcome as status
from celery_perpetual.polling.claims import Claim, Claims
from celery_perpetual.polling.closing import PollEnds
from celery_perpetual.polling.coroutines import Loop
from celery_perpetual.polling.current import polling
from celery_perpetual.polling.django_connections import close_old_connections
from celery_perpetual.polling.end import (
    PollEnd,
    about,
    failed,
    gate_closed,
    outcome_of,
    refused,
    timed_out,
    without_items,
)
from celery_perpetual.polling.follow_ups import found_follow_ups
from celery_perpetual.polling.gates import first_closed, full
from celery_perpetual.polling.outcome import HISTORY_TTL_MS, PollOutcome
from celery_perpetual.polling.poll import Poll, count_when_read
from celery_perpetual.polling.preflights import Preflights
from celery_perpetual.polling.reading import Abandoned, ReadBatch, read, sort_items
from celery_perpetual.polling.rows import Rows
from celery_perpetual.publishing.publisher import Publisher, publish_or_leave
from celery_perpetual.publishing.refused import Refused, is_refused
from celery_perpetual.store.chunks import CHUNK, chunks
from celery_perpetual.store.commands.failed_keys import left_out_count
from celery_perpetual.store.commands.follow_ups import drop_follow_ups
from celery_perpetual.store.connection import Store
from celery_perpetual.tasks.items import Defer, Pause, Skip
from celery_perpetual.telemetry import emit
from celery_perpetual.times import to_datetime

if TYPE_CHECKING:
    from celery import Celery


class Runner:
    """Runs polls of one app. Safe to share between threads."""

    def __init__(
        self, app: Celery, store: Store, policies: Policies = DEFAULTS, preflights: Preflights | None = None
    ) -> None:
        self.app = app
        self.store = store
        self.policies = policies
        self.preflights = preflights or Preflights(store, policies, {}, 0, fatal=False)
        self.ledger = Ledger(store)
        self.ends = PollEnds(store)
        self.publisher = Publisher(app, store)

    def poll_and_store(self, claim: Claim) -> PollOutcome | None:
        """Run a claimed poll to its stored outcome, or send it to the workers (None).

        Raises:
            StoreUnavailable: the store went away; the claim expires by itself.
        """
        if claim.error is not None:
            return self.ends.store_one(failed(claim, claim.error, self.policies.unknown(claim.failures)))
        return self.ends.store_one(self.poll(claim))

    def poll(self, claim: Claim) -> PollEnd:
        """Run a claimed poll to its end: gates, then ``next_batch``, then the commit.

        An end without items is not stored yet, so that the caller may store many at once.

        Raises:
            StoreUnavailable: the store went away; the claim expires by itself.
        """
        reach("poll.claimed")
        if claim.runs_in_worker:
            return self._send_to_worker(claim)
        closed = first_closed(claim)
        if closed is not None:
            return gate_closed(claim, closed)
        closed = self.preflights.closed(claim)
        if closed is not None:
            return gate_closed(claim, closed)
        try:
            result = self.evaluate(claim)
        except (Abandoned, SoftTimeLimitExceeded):
            return timed_out(claim, self.policies.unknown(claim.failures))
        except BaseException as error:  # user code may raise anything, even SystemExit
            return self._failed(claim, error)
        reach("poll.read")
        if isinstance(result, ReadBatch) and result.closed is not None:
            return gate_closed(claim, result.closed, duplicates=result.duplicates, held_back=result.held_back)
        if isinstance(result, ReadBatch) and result.items:
            return self._commit(claim, result)
        if isinstance(result, ReadBatch) and result.follow_ups:
            drop_follow_ups(self.store, claim.unit.name, claim.poll_id, result.follow_ups)
        return without_items(claim, result)

    def enqueue(self, claim: Claim, items: list[CheckedItem]) -> tuple[PollEnd, list[CheckedItem]]:
        """Enqueue items that are given, as a claimed poll does what ``next_batch`` has found; returns which it took.

        Keys that are in flight or parked are left out, and what does not fit; back-offs are passed over.

        Raises:
            StoreUnavailable: the store went away; the claim expires by itself.
        """
        if claim.error is not None:
            return failed(claim, claim.error, self.policies.unknown(claim.failures)), []
        closed = first_closed(claim)
        if closed is not None:
            return gate_closed(claim, closed), []
        found, seen = ReadBatch(read=len(items)), set[str]()
        for part in chunks(items):
            found.add(sort_items(self.ledger, claim, part, seen, backs_off=False))
        most = min(claim.contract.options.limit, claim.contract.max_in_flight - claim.in_flight)
        found.left_out = max(0, len(found.items) - most)
        del found.items[most:]
        return self._commit(claim, found) if found.items else without_items(claim, found), found.items

    def evaluate(self, claim: Claim) -> ReadBatch | Skip | Defer | Pause:
        """Call ``next_batch`` and reduce its result to what is new. Runs user code; writes nothing."""
        if claim.abandoned:
            raise Abandoned  # a preflight took all of its time
        claim.rows = self._rows_worth_reading(claim)
        if (follow_ups := found_follow_ups(self.ledger, claim)) is not None:
            return follow_ups
        contract, loop = claim.contract, Loop(claim.contract.poll_timeout)
        close_old_connections()
        try:
            with polling(claim.unit):
                result = contract.next_batch(self._poll_of(claim)) if contract.takes_poll else contract.next_batch()
                return read(self.app, self.ledger, claim, loop.resolve(result))
        finally:
            loop.close()
            close_old_connections()

    def _failed(self, claim: Claim, error: BaseException) -> PollEnd:
        """Classify, which may run code of the user's."""
        rules = claim.contract.options.error_rules
        return failed(claim, error, self.policies.after(error, claim.failures, rules, claim.unit.name))

    def _send_to_worker(self, claim: Claim) -> PollEnd:
        if claim.overdue:  # it has waited behind others while the broker took none; its unit is polled again
            return PollEnd(claim, None)
        try:
            commands = self.publisher.captured(partial(in_worker.send, self.app, claim))
        except Exception as error:
            if not is_refused(error):  # a worker may have it all the same
                raise
            # No class of the user's own: this thread runs none of the user's code.
            end = failed(claim, Refused(1, 0), self.policies.unknown(claim.failures))
            return PollEnd(claim, self.ends.store_one(end))
        Claims(self.store).sent_to_worker(claim, in_worker.MARK, *commands.packed())
        return PollEnd(claim, None)

    def _rows_worth_reading(self, claim: Claim) -> Rows:
        """With those that will be left out. With a cursor there are none: its batch is enqueued as a whole."""
        contract = claim.contract
        if not contract.takes_poll:
            return Rows(contract.options.limit)
        new = max(0, min(contract.options.limit, contract.max_in_flight - claim.in_flight))
        if claim.cursor:
            return Rows(new)
        return Rows(new, partial(left_out_count, self.store, claim.unit.name, claim.store_time))

    def _poll_of(self, claim: Claim) -> Poll:
        contract = claim.contract
        poll = Poll(
            task=contract.name,
            tenant=claim.unit.copied_tenant,
            poll_id=claim.poll_id,
            slot=to_datetime(claim.slot),
            trigger=claim.trigger,
            cursor=json.loads(claim.cursor) if claim.cursor else None,
            room=contract.max_in_flight - claim.in_flight,
            attempt=claim.attempt,
            late_by=max(0, claim.store_time - claim.slot) / 1000,
            last_polled_at=None if claim.polled is None else to_datetime(claim.polled),
            keys=lambda: self.ledger.left_out_keys(claim.unit.name, claim.store_time),
        )
        return count_when_read(poll, claim.rows)

    def _commit(self, claim: Claim, found: ReadBatch) -> PollEnd:
        """Bring the items into the ledger and the outcome with them; then publish."""
        items, in_flight = found.items, claim.in_flight + len(found.items)
        if len(items) > CHUNK and not self.ledger.stage(claim.unit, claim.poll_id, items):
            return refused(claim)
        try:
            messages = self.publisher.build(claim.poll_id, items)
        except StoreUnavailable:
            raise
        except Exception as error:  # a route, a queue or a header of the user's
            return self._failed(claim, error)
        outcome = outcome_of(claim, status.ENQUEUED, count=len(items), **found.facts)
        reach("poll.committing")
        closing, commands = _closing(claim, found, outcome), messages.commands.packed()
        destinations = messages.destinations.to_json()
        verdict = self.ledger.commit(
            claim.unit, closing, items, *commands, destinations=destinations, has_failed=found.has_failed
        )
        reach("poll.committed")
        if verdict == "full":
            return gate_closed(claim, full(claim, in_flight))
        if verdict == "missing":
            return self._failed(claim, RuntimeError("records of this batch expired before its commit"))
        if verdict == "refused":
            return refused(claim)
        claim.committed, claim.doing = True, "publishing the batch"
        emit(events.POLL_ENQUEUED, count=outcome.count, **about(outcome))
        if messages.commands:
            messages.after_publish.send()
        else:
            publish_or_leave(self.publisher, claim.poll_id, items)
        return PollEnd(claim, outcome)


def _closing(claim: Claim, found: ReadBatch, outcome: PollOutcome) -> Closing:
    """The commit's values beside the ledger.

    The unit is polled again at once where there may be more to read, and where few items are in flight all the same: no
    end of a task would fall below ``low_water`` then.
    """
    contract, in_flight = claim.contract, claim.in_flight + len(found.items)
    is_read_whole = bool(found.follow_ups) or found.read < claim.rows.count
    may_be_more = found.more or not is_read_whole or len(found.items) >= contract.options.limit
    is_low = in_flight < contract.options.low_water
    goes_on = not claim.by_hand and in_flight < contract.max_in_flight and (may_be_more or is_low)
    trigger = "drain" if may_be_more else "refill"
    return Closing(
        poll_id=claim.poll_id,
        outcome=outcome.to_json(),
        slot=claim.slot,
        following=claim.following,
        delay="0" if goes_on else "",
        trigger=trigger if goes_on else "",
        cursor=found.cursor,
        follow_ups=found.follow_ups,
        history_ttl=HISTORY_TTL_MS,
    )
