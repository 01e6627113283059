"""How a poll ends: its outcome, and what the store is to change for it.

Nothing here writes. An end without items is left to be stored (:mod:`.closing`), for many polls in one call; a batch
stores its outcome with its commit.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import timedelta
from functools import lru_cache
from typing import Any

from celery_perpetual import events
from celery_perpetual.errors import described, readable
from celery_perpetual.failures.policies import Failure
from celery_perpetual.pauses import Paused, Scope
from celery_perpetual.polling import outcome as status
from celery_perpetual.polling.claims import Claim
from celery_perpetual.polling.gates import Closed
from celery_perpetual.polling.outcome import PollOutcome, object_of_texts
from celery_perpetual.polling.reading import ReadBatch
from celery_perpetual.tasks.items import Defer, Pause, Skip
from celery_perpetual.telemetry import emit
from celery_perpetual.times import format_time, ms, to_datetime

#: A unit whose ``next_batch`` hangs is asked for so many seconds later, at the least and at most.
SHORTEST_HANGING, LONGEST_HANGING = 1.0, 300.0
#: Polls that are claimed and end together share their times.
_at = lru_cache(256)(to_datetime)


@dataclass(frozen=True, slots=True)
class PollEnd:
    """The end of one poll in this process."""

    claim: Claim
    outcome: PollOutcome | None
    """None where the poll goes on in a worker."""
    row: tuple[str, str] | None = None
    """The end in the form that the script takes; None where there is nothing left to store."""
    on_grid: bool = False
    """Its unit is due at the next slot, which its claim has stored already, or later."""

    @property
    def stored(self) -> bool:
        """Whether the outcome is in the store, or is for a worker to bring there."""
        return self.row is None


def outcome_of(claim: Claim, how: str, cursor: str = "", **facts: Any) -> PollOutcome:
    """The outcome of a poll that ends now."""
    return PollOutcome(
        poll_id=claim.poll_id,
        unit=claim.unit.name,
        task=claim.contract.name,
        tenant=claim.unit.tenant,
        slot=_at(claim.slot),
        trigger=claim.trigger,
        status=how,
        started_at=_at(claim.now),
        finished_at=_at(claim.store_time),
        cursor=json.loads(cursor) if cursor else None,
        **facts,
    )


def to_store(
    claim: Claim,
    outcome: PollOutcome,
    failures: str,
    *,
    cursor: str = "",
    delay: int | None = None,
    trigger: str = "",
    pause: str = "",
    counts: Mapping[str, int] | None = None,
    hint: int = 0,
    may_rest: bool = False,
) -> PollEnd:
    """An end that is not stored yet.

    Args:
        failures: ``add``, ``reset`` or ``keep`` the count of failures in a row.
        cursor: JSON, or "" where the cursor stays.
        delay: the unit is due again after so many ms, instead of on the grid.
        trigger: why it is due then.
        pause: JSON of the pause that it asks for.
        counts: with ``add``, failures in a row by class or rule.
        hint: the unit's source is to be left alone for so many ms.
        may_rest: it found nothing; with ``max_interval`` the interval is stretched.
    """
    note = {
        "poll": claim.poll_id,
        "unit": claim.unit.name,
        "slot": str(claim.slot),
        "following": claim.following,
        # After a poll without failures before it, there are none to forget.
        "failures": "keep" if failures == "reset" and not claim.attempt else failures,
        "history": str(claim.contract.options.history),
        "sign": outcome.sign,
    }
    if delay is not None and not claim.by_hand:
        note |= {"delay": str(delay), "trigger": trigger}
    if cursor:
        note["cursor"] = cursor
    if pause:
        note["pause"] = pause
    if counts:
        note["counts"] = json.dumps(counts)
    if hint and (source := claim.contract.options.source_key):
        note |= {"source": source, "hint": str(hint)}
    if longest := claim.contract.options.max_interval:
        if may_rest and (every := claim.contract.cadence.every_ms):
            note |= {"every": str(every), "longest": str(ms(longest))}
        elif failures == "reset":
            note["moves"] = "1"
    on_grid = delay is None and not claim.by_hand
    return PollEnd(claim, outcome, (outcome.to_json(), object_of_texts(note)), on_grid)


def without_items(claim: Claim, result: ReadBatch | Skip | Defer | Pause) -> PollEnd:
    """The end of a poll that found nothing to enqueue."""
    if isinstance(result, ReadBatch):
        found_nothing = not (result.read or claim.by_hand)
        outcome = outcome_of(claim, status.EMPTY, **result.facts)
        return to_store(claim, outcome, "reset", cursor=result.cursor, may_rest=found_nothing)
    if isinstance(result, Skip):
        return to_store(claim, outcome_of(claim, status.SKIPPED, reason=readable(result.reason or "skipped")), "reset")
    if isinstance(result, Defer):
        return _deferred(claim, result)
    return _paused(claim, result)


def gate_closed(claim: Claim, closed: Closed, *, duplicates: int = 0, held_back: int = 0) -> PollEnd:
    """A gate keeps the poll, or its batch, out."""
    outcome = outcome_of(
        claim,
        status.SKIPPED,
        gate=closed.gate,
        value=closed.value,
        limit=closed.limit,
        duplicates=duplicates,
        held_back=held_back,
        reason=closed.reason,
    )
    delay = None if closed.until is None else max(0, closed.until - claim.store_time)
    return to_store(claim, outcome, "keep", delay=delay, trigger=closed.gate, hint=closed.hint)


def failed(claim: Claim, error: BaseException, failure: Failure) -> PollEnd:
    """``next_batch`` raised, or what it returned cannot be enqueued."""
    reason = failure.gives_up or None
    outcome = outcome_of(claim, status.FAILED, error=described(error), error_class=failure.kind, reason=reason)
    emit(events.POLL_FAILED, error=error, error_class=failure.kind, **about(outcome))
    return _after_failure(claim, outcome, failure)


def timed_out(claim: Claim, failure: Failure) -> PollEnd:
    """The poll ran out of its time: what it still brings is refused."""
    claim.abandoned = True
    limit = claim.contract.poll_timeout
    reason = f"{claim.doing} took longer than poll_timeout ({limit:g} s); its result is refused"
    outcome = outcome_of(claim, status.TIMED_OUT, reason=reason, error_class=failure.kind)
    emit(events.POLL_TIMED_OUT, limit=limit, **about(outcome))
    return _after_failure(claim, outcome, failure)


def _after_failure(claim: Claim, outcome: PollOutcome, failure: Failure) -> PollEnd:
    """The unit is tried again when its wait is over, or paused; resumed, it has its whole budget again."""
    if not failure.gives_up:
        counts = failure.counted(claim.failures)
        return to_store(
            claim, outcome, "add", delay=failure.poll_delay_ms, trigger="backoff", counts=counts, hint=failure.hint_ms
        )
    reason = f"{failure.gives_up}: {outcome.error or outcome.reason}"
    emit(events.POLL_GAVE_UP, unit=claim.unit.name, poll_id=claim.poll_id, reason=reason)
    return to_store(claim, outcome, "add", pause=_pause_of(claim, outcome, "error policy", reason))


def given_up(claim: Claim) -> PollEnd:
    """The process stops; the next leader need not wait for the claim to expire."""
    claim.abandoned = True
    outcome = outcome_of(claim, status.ABANDONED, reason="the beat that ran this poll was stopped")
    return to_store(claim, outcome, "keep", delay=0, trigger="retry")


def kept_waiting(claim: Claim) -> PollEnd:
    """The polls before it have become slow all at once; the unit is due again when a thread is free."""
    reason = "every poll thread was taken by a slow poll; perpetual_poll_threads sets their number"
    outcome = outcome_of(claim, status.SKIPPED, gate="poll_threads", value=round(claim.age, 3), reason=reason)
    trigger = "retry" if claim.trigger == "schedule" else claim.trigger  # a nudge remains one
    return to_store(claim, outcome, "keep", delay=0, trigger=trigger)


def still_hanging(claim: Claim, hanging: Claim) -> PollEnd:
    """An earlier ``next_batch`` of the unit has not returned yet: a second call would hang beside it.

    It may return at any moment, and the next slot may be a day away: the unit is due again when the call has hung for
    twice as long, or at its slot if that is sooner.
    """
    age = claim.started - hanging.started
    reason = f"{hanging.doing} of poll {hanging.poll_id} has not returned"
    outcome = outcome_of(claim, status.SKIPPED, gate="hanging", value=round(age), reason=reason)
    wait = ms(min(max(age, SHORTEST_HANGING), LONGEST_HANGING))
    at_slot = int(claim.following) - claim.store_time if claim.following else wait
    return to_store(claim, outcome, "keep", delay=wait if wait < at_slot else None, trigger="backoff")


def refused(claim: Claim) -> PollEnd:
    """The claim is lost; who has taken the unit over has recorded how this poll ended."""
    emit(events.POLL_SUPERSEDED, unit=claim.unit.name, poll_id=claim.poll_id)
    reason = "the claim was taken over or has expired; the batch was refused"
    return PollEnd(claim, outcome_of(claim, status.SUPERSEDED, reason=reason))


def about(outcome: PollOutcome) -> dict[str, Any]:
    """The fields that events about a poll carry."""
    return {"unit": outcome.unit, "poll_id": outcome.poll_id, "slot": format_time(outcome.slot)}


def _deferred(claim: Claim, defer: Defer) -> PollEnd:
    after = defer.after if isinstance(defer.after, timedelta) else timedelta(seconds=defer.after)
    outcome = outcome_of(claim, status.DEFERRED, reason=f"deferred for {after.total_seconds():g} s")
    return to_store(claim, outcome, "keep", delay=ms(after.total_seconds()), trigger="defer")


def _paused(claim: Claim, pause: Pause) -> PollEnd:
    reason = readable(pause.reason or "next_batch asked for it")
    outcome = outcome_of(claim, status.PAUSED, reason=reason)
    emit(events.POLL_PAUSED, unit=claim.unit.name, poll_id=claim.poll_id, reason=reason)
    return to_store(claim, outcome, "keep", pause=_pause_of(claim, outcome, "next_batch", reason))


def _pause_of(claim: Claim, outcome: PollOutcome, by: str, reason: str) -> str:
    return Paused(scope=Scope("unit", claim.unit.name), by=by, reason=reason, at=outcome.finished_at).to_json()
