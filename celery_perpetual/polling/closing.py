"""The ends of polls that enqueued nothing: what the store is told, for one poll or for several in one call.

The ends of one call have nothing to do with each other. Where the store refuses one, because its claim is somebody
else's, the rest is as if it had come alone; and where the call fails as a whole, over a key of a wrong type, nothing
has been written and each is tried by itself.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Any, NamedTuple

from celery_perpetual import events
from celery_perpetual.errors import StoreRefused, StoreUnavailable
from celery_perpetual.polling.claims import Claim
from celery_perpetual.polling.outcome import HISTORY_TTL_MS, SUPERSEDED, PollOutcome
from celery_perpetual.store.connection import Store
from celery_perpetual.store.scripts import script
from celery_perpetual.telemetry import emit
from celery_perpetual.times import to_datetime

#: Polls that are claimed and end together share their times.
_at = lru_cache(256)(to_datetime)


class PollEnd(NamedTuple):
    """How a poll ended that enqueued nothing; it is not stored yet."""

    claim: Claim
    outcome: PollOutcome
    row: tuple[str, str]
    """As the script ``end`` takes it."""


class PollEnds:
    """Stores ends in one namespace. Safe to share between threads."""

    def __init__(self, store: Store, events_maxlen: int) -> None:
        self.store = store
        self.events_maxlen = events_maxlen

    def store_one(self, end: PollEnd) -> PollOutcome:
        """Store an end; its outcome, or ``superseded`` if somebody else has the unit by now.

        Raises:
            StoreUnavailable: the store did not answer; the claim expires by itself.
        """
        return self._store([end])[0]

    def begin(self, ends: Sequence[PollEnd]) -> Callable[[], None]:
        """Send ends that came at about the same time, and return what waits until they are stored.

        What cannot be stored is logged: its claim expires by itself.
        """
        reply = script("close_polls").begin(self.store, **self._slots(ends))

        def finish() -> None:
            try:
                self._told(ends, reply())
            except Exception as error:  # whatever it is, every poll is told about
                if len(ends) == 1 or (isinstance(error, StoreUnavailable) and not isinstance(error, StoreRefused)):
                    for end in ends:
                        broke_off(end.claim, error)
                else:
                    for end in ends:
                        self.begin([end])()

        return finish

    def _store(self, ends: Sequence[PollEnd]) -> list[PollOutcome]:
        return self._told(ends, script("close_polls")(self.store, **self._slots(ends)))

    def _slots(self, ends: Sequence[PollEnd]) -> dict[str, Any]:
        keys = self.store.keys
        return {
            "due": keys.due, "events": keys.events, "paused": keys.paused, "cursors": keys.cursors,
            "unit_prefix": keys.unit_prefix, "polls_prefix": keys.polls_prefix, "maxlen": self.events_maxlen,
            "ttl": HISTORY_TTL_MS, "tail": [field for end in ends for field in end.row],
        }  # fmt: skip

    def _told(self, ends: Sequence[PollEnd], verdicts: Sequence[bytes]) -> list[PollOutcome]:
        return [
            refused(end.claim) if verdict == b"refused" else end.outcome
            for end, verdict in zip(ends, verdicts, strict=True)
        ]


def poll_end(
    claim: Claim,
    outcome: PollOutcome,
    failures: str,
    *,
    cursor: str = "",
    delay: int | None = None,
    trigger: str = "",
    pause: str = "",
) -> PollEnd:
    """The end of a poll.

    Args:
        failures: ``add``, ``reset`` or ``keep`` the count of failures in a row.
        cursor: JSON, or "" where the cursor stays.
        delay: the unit is due again after so many ms, instead of on the grid.
        trigger: why it is due then.
        pause: JSON of the pause that it asks for.
    """
    note = {
        "poll": claim.poll_id,
        "unit": claim.unit.name,
        "slot": str(claim.slot),
        "following": claim.following,
        "failures": failures,
        "history": str(claim.contract.options.history),
        "sign": outcome.sign,
    }
    if delay is not None and not claim.by_hand:
        note |= {"delay": str(delay), "trigger": trigger}
    if cursor:
        note["cursor"] = cursor
    if pause:
        note["pause"] = pause
    return PollEnd(claim, outcome, (outcome.to_json(), json.dumps(note)))


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


def refused(claim: Claim) -> PollOutcome:
    """Somebody else has the unit by now and has recorded how this poll ended."""
    emit(events.POLL_SUPERSEDED, unit=claim.unit.name, poll_id=claim.poll_id)
    reason = "the claim was taken over or has expired; the batch was refused"
    return outcome_of(claim, SUPERSEDED, reason=reason)


def broke_off(claim: Claim, error: BaseException) -> None:
    """The outcome could not be stored: the claim expires, and the unit is polled again."""
    emit(events.POLL_NOT_STORED, unit=claim.unit.name, poll_id=claim.poll_id, error=error)
