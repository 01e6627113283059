"""Stores the outcomes of polls that enqueued nothing, for one poll or for several in one call.

The outcomes of one call do not affect each other. The store may refuse one of them, because its claim belongs to
another beat by now, and stores the others. A call that fails as a whole, over a key of a wrong type, has
written nothing, and each outcome is then stored by itself.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from celery_perpetual import events
from celery_perpetual.errors import is_outage
from celery_perpetual.polling.claims import Claim
from celery_perpetual.polling.end import PollEnd, refused
from celery_perpetual.polling.outcome import HISTORY_TTL_MS, PollOutcome
from celery_perpetual.store.connection import Store
from celery_perpetual.store.scripts import script
from celery_perpetual.telemetry import emit


class PollEnds:
    """Stores ends in one namespace. Safe to share between threads."""

    def __init__(self, store: Store) -> None:
        self.store = store

    def store_one(self, end: PollEnd) -> PollOutcome | None:
        """Store an end, unless it is stored; its outcome, or ``superseded`` if another poll has the unit by now.

        Raises:
            StoreUnavailable: the store did not answer; the claim expires by itself.
        """
        if end.row is None:
            return end.outcome
        return self._outcomes([end], script("close_polls")(self.store, ttl=HISTORY_TTL_MS, ends=_rows([end])))[0]

    def begin(self, ends: Sequence[PollEnd]) -> Callable[[], bool]:
        """Send ends that came at about the same time, and return what waits until they are stored.

        That returns whether all their units are due on their grids, and none of them now. What cannot be stored is
        logged: its claim expires by itself.
        """
        reply = script("close_polls").begin(self.store, ttl=HISTORY_TTL_MS, ends=_rows(ends))

        def finish() -> bool:
            try:
                verdicts = reply()
                self._outcomes(ends, verdicts)
            except Exception as error:  # whatever it is, every poll is reported
                if len(ends) == 1 or is_outage(error):
                    for end in ends:
                        broke_off(end.claim, error)
                else:
                    for end in ends:
                        self.begin([end])()
                return False
            return all(end.on_grid for end in ends) and set(verdicts) == {b"ended"}

        return finish

    def _outcomes(self, ends: Sequence[PollEnd], verdicts: Sequence[bytes]) -> list[PollOutcome | None]:
        return [
            (refused(end.claim) if verdict == b"refused" else end).outcome
            for end, verdict in zip(ends, verdicts, strict=True)
        ]


def _rows(ends: Sequence[PollEnd]) -> list[str]:
    return [text for end in ends for text in end.row or ()]


def broke_off(claim: Claim, error: BaseException) -> None:
    """The end of a poll cannot be stored: its claim expires, and the unit is polled again."""
    emit(events.POLL_NOT_STORED, unit=claim.unit.name, poll_id=claim.poll_id, error=error)
