"""The leader's part: leases of dead workers, and what dead workers had received and not begun."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from celery_perpetual import events
from celery_perpetual.errors import StoreUnavailable
from celery_perpetual.publishing.courier import Courier
from celery_perpetual.recovery.losses import take_leases
from celery_perpetual.recovery.missing import MissingMessages
from celery_perpetual.recovery.resend import Resender
from celery_perpetual.recovery.unacked import UnackedMessages
from celery_perpetual.telemetry import emit, some

if TYPE_CHECKING:
    from celery import Celery

    from celery_perpetual.leases.grants import Grants


#: Leases per script, so that no call holds the server up.
AT_ONCE = 100


@dataclass(slots=True, kw_only=True)
class Swept:
    """The finds of one pass."""

    leases: int = 0
    """Leases of dead workers that were taken."""
    parked: list[str] = field(default_factory=list)
    """Their tasks that were parked, as a report names them."""
    restored: int = 0
    """Messages put back that dead workers had received and not begun."""
    missed: int = 0
    """Items whose message was nowhere any more."""
    sent: int = 0
    """Tasks resent."""
    sent_ids: list[str] = field(default_factory=list)
    """Ids of the last hundred of them."""
    held_until: int = 0
    """Until when nothing expires, because the store was away: ms of its time, 0 = not held."""


class Sweep:
    """Sweeps the leases of one app."""

    def __init__(self, app: Celery, grants: Grants) -> None:
        self._app = app
        self._grants = grants
        self._resender = Resender(app, grants.store, broker_is_redis=grants.broker_is_redis)
        # Any other broker puts back the messages of a connection that is gone.
        self._unacked = UnackedMessages(app, grants) if grants.broker_is_redis else None
        self._missing = MissingMessages(app, grants)
        self._courier, self._asker = Courier("resend", of_list=True), Courier("missing")
        self._last_death = 0

    def once(self) -> Swept:
        """One pass, at most ``perpetual_sweep_limit`` leases.

        Raises:
            StoreUnavailable: the store did not answer.
        """
        swept = Swept()
        try:
            self._take_leases(swept)
        finally:
            if parked := swept.parked:
                emit(events.LEASE_PARKED, count=len(parked), tasks=some(parked))
        limit = self._grants.settings.sweep_limit
        swept.sent = self._courier.run(lambda: self._resender.send_all(limit))
        if not swept.held_until:
            self._find_lost_messages(swept)
            if swept.missed or swept.restored:
                swept.sent += self._courier.run(lambda: self._resender.send_all(limit))
        recent = self._resender.recent
        swept.sent_ids = [recent.popleft() for _ in range(len(recent))]
        return swept

    def _take_leases(self, swept: Swept) -> None:
        limit = self._grants.settings.sweep_limit
        while swept.leases < limit:
            taken = take_leases(self._grants, min(AT_ONCE, limit - swept.leases))
            worker = taken.worker
            swept.leases += taken.taken
            swept.parked += taken.parked
            swept.held_until = taken.held_until
            if not worker:
                break
            if taken.is_empty:
                try:
                    swept.restored += self._put_back(worker)
                except StoreUnavailable:
                    raise
                except Exception as error:  # of the broker: the worker stays known, and with it what it had received
                    emit(events.PART_FAILED, part=f"putting back what worker {worker} had received", error=error)
                    break
                if not self._grants.workers.forget(worker):
                    break
                self._last_death = self._grants.store.now()
                emit(events.WORKER_LOST, worker=worker)

    def _put_back(self, worker: str) -> int:
        return 0 if self._unacked is None else self._unacked.died(self._grants.workers.tags_of(worker))

    def _find_lost_messages(self, swept: Swept) -> None:
        if self._unacked is None:
            # A death loses no message there.
            swept.missed = self._asker.run(lambda: self._missing.once(0, ()))
            return
        restored, received = self._unacked.restore()
        swept.restored += restored
        if received is not None:
            swept.missed = self._missing.once(self._last_death, received)
