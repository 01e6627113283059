"""Polls out of turn: by hand, in a worker, and by a nudge of the leader."""

from __future__ import annotations

from typing import TYPE_CHECKING

from celery_perpetual import events
from celery_perpetual.call_apart import CallApart
from celery_perpetual.polling.claims import Claim, Claims, Refusal
from celery_perpetual.polling.end import timed_out
from celery_perpetual.polling.in_worker import in_pool_child
from celery_perpetual.polling.outcome import PollOutcome
from celery_perpetual.polling.runner import Runner
from celery_perpetual.store.scripts import script
from celery_perpetual.tasks.unit import TaskUnit
from celery_perpetual.telemetry import emit
from celery_perpetual.times import to_datetime

if TYPE_CHECKING:
    from celery_perpetual.store.connection import Store


def poll_by_hand(store: Store, runner: Runner, unit: TaskUnit) -> PollOutcome:
    """Evaluate ``next_batch`` and enqueue, now and in this process, without moving the unit's cadence.

    Raises:
        StoreUnavailable: the store did not answer.
    """
    answer = Claims(store).by_hand(unit)
    return busy(answer) if isinstance(answer, Refusal) else _run(runner, answer)


def nudge(store: Store, unit: TaskUnit) -> bool:
    """Let the leader poll a unit at once, out of turn; False if no leader has it in its clock.

    Raises:
        StoreUnavailable: the store did not answer.
    """
    return bool(script("nudge")(store, unit_hash=store.keys.unit(unit.name), unit=unit.name, trigger="nudge"))


def poll_in_worker(store: Store, runner: Runner, unit: TaskUnit, poll_id: str, following: str) -> str:
    """Evaluate a poll whose claim travelled here; its status, or ``stale`` if the claim has expired meanwhile."""
    claim = Claims(store).received_by_worker(unit, poll_id, following)
    if claim is None:
        emit(events.POLL_STALE, unit=unit.name, poll_id=poll_id)
        return "stale"
    outcome = runner.poll_and_store(claim) if in_pool_child() else _run(runner, claim)
    return "sent" if outcome is None else outcome.status


def _run(runner: Runner, claim: Claim) -> PollOutcome:
    """Run on a thread of its own, so that a ``next_batch`` that hangs costs its time limit and no more."""

    def work() -> PollOutcome | None:
        try:
            return runner.poll_and_store(claim)
        finally:
            runner.publisher.release()

    call = CallApart(work, "perpetual-poll")
    if not call.is_over(claim.contract.poll_timeout) and not claim.committed:
        outcome = runner.ends.store_one(timed_out(claim, runner.policies.unknown(claim.failures)))
        if outcome is not None and not claim.committed:  # it may have committed just now; then it only publishes
            return outcome
    outcome = call.answer()
    assert outcome is not None, "a poll by hand does not travel"
    return outcome


def busy(refusal: Refusal) -> PollOutcome:
    """A poll that did not take place: returned, but not stored."""
    now, unit = to_datetime(refusal.now), refusal.unit
    return PollOutcome(
        poll_id="",
        unit=unit.name,
        task=unit.contract.name,
        tenant=unit.tenant,
        slot=now,
        trigger="manual",
        status="skipped",
        gate="busy",
        reason="another poll of this unit is open",
        started_at=now,
        finished_at=now,
    )
