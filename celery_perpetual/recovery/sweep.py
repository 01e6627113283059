"""The leader's part: leases of dead workers, and what dead workers had received and not begun."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from celery_perpetual import events
from celery_perpetual.errors import is_outage
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

#: So many dead workers may be passed over in one pass because taking their leases fails.
MOST_FAILURES = 10


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
        self._app: Any = app
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
            Exception: of a broker that did not answer; what does not need it is done.
        """
        swept = Swept()
        try:
            away = self._take_leases(swept)
        finally:
            if parked := swept.parked:
                emit(events.LEASE_PARKED, count=len(parked), tasks=some(parked))
        limit = self._grants.settings.sweep_limit
        swept.sent = self._courier.run(lambda: self._resender.send_all(limit))
        if away is not None:
            raise away
        if not swept.held_until:
            self._find_lost_messages(swept)
            if swept.missed or swept.restored:
                swept.sent += self._courier.run(lambda: self._resender.send_all(limit))
        recent = self._resender.recent
        swept.sent_ids = [recent.popleft() for _ in range(len(recent))]
        return swept

    def _take_leases(self, swept: Swept) -> Exception | None:
        """Take leases of all dead workers; one that cannot be dealt with is passed over until the next pass.

        Returns:
            The error of a broker that did not answer.
        """
        limit, passed, failures, away = self._grants.settings.sweep_limit, 0, 0, None
        while swept.leases < limit:
            try:
                taken = take_leases(self._grants, min(AT_ONCE, limit - swept.leases), passed_over=passed)
            except Exception as error:  # of any kind: it concerns this worker, unless it comes for many
                if is_outage(error) or failures == MOST_FAILURES:
                    raise
                emit(events.PART_FAILED, part="taking the leases of a dead worker", error=error)
                passed, failures = passed + 1, failures + 1
                continue
            worker = taken.worker
            swept.leases += taken.taken
            swept.parked += taken.parked
            swept.held_until = taken.held_until
            if not worker:
                break
            if taken.is_empty:
                is_forgotten, unanswered = (False, None) if away is not None else self._forget(worker, swept)
                passed += not is_forgotten
                away = away or unanswered
        return away

    def _forget(self, worker: str, swept: Swept) -> tuple[bool, Exception | None]:
        """Put back what a dead worker had received, and forget the worker.

        Returns:
            Whether it is forgotten, and the error of a broker that did not answer.
        """
        try:
            swept.restored += self._put_back(worker)
            if not self._grants.workers.forget(worker):
                return False, None
        except Exception as error:  # of any kind: the worker stays known, and with it what it had received
            if is_outage(error):
                raise
            emit(events.PART_FAILED, part=f"putting back what worker {worker} had received", error=error)
            # A broker that does not answer is asked for nothing more in this pass. Kombu lists KeyError too,
            # which is about one message.
            is_unanswered = isinstance(error, self._app.connection_for_write().connection_errors)
            return False, error if is_unanswered and not isinstance(error, LookupError) else None
        self._last_death = self._grants.store.now()
        emit(events.WORKER_LOST, worker=worker)
        return True, None

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
