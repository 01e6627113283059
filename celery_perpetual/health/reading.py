"""The facts that the checks read: each part when it is asked for, and once."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from functools import cached_property
from typing import TYPE_CHECKING

from celery_perpetual.broker.destinations import Destination
from celery_perpetual.leases.workers import WorkerState
from celery_perpetual.store.commands.alerts import stored_alerts
from celery_perpetual.store.commands.leadership import Lead, lead
from celery_perpetual.store.commands.leases import ParkedTasks, all_parked
from celery_perpetual.store.commands.replaced import Replaced, long_replaced
from celery_perpetual.store.commands.workers import worker_deadlines
from celery_perpetual.store.health import ServerInfo, server_info
from celery_perpetual.times import parse_time, to_datetime

if TYPE_CHECKING:
    from celery_perpetual.namespace import Namespace
    from celery_perpetual.pauses import Paused, Scope
    from celery_perpetual.polling.outcome import PollOutcome
    from celery_perpetual.store.connection import Store


@dataclass(frozen=True, slots=True, kw_only=True)
class SeenUnit:
    """The facts on a unit that the checks need. Times are aware datetimes of the store's clock."""

    name: str
    task: str
    tenant: str | None
    state: str
    """``active, paused, backing_off, disabled`` or ``orphaned`` (no code that we know has it)."""
    next_poll_at: datetime | None
    last_poll: PollOutcome | None
    in_flight: int
    attempt: int
    """Polls that failed in a row."""
    poll_every: float | None = None
    """Seconds between two slots; None for a calendar, and where no leader has registered it yet."""
    parked_keys: int = 0
    """Item keys that are left out until an operator allows them."""
    pause: Paused | None = None
    """The pause that holds it, where it is paused: by whom, since when and until when."""


class Reading:
    """The store as it is now. Every property raises StoreUnavailable where the store does not answer."""

    def __init__(self, namespace: Namespace, store: Store | None = None) -> None:
        self.namespace = namespace
        self.store = store or namespace.store
        self.settings = namespace.settings
        self.destinations: dict[tuple[str, int], Mapping[int, Destination]] = {}
        """Where the items of chunks went, as far as it was asked."""

    @cached_property
    def now(self) -> int:
        """The store's time, ms."""
        return self.store.now()

    @cached_property
    def skew(self) -> float:
        """Seconds by which the store's clock is ahead of this machine's."""
        before = time.time()
        now = self.store.now()
        return now / 1000 - (before + time.time()) / 2

    @cached_property
    def server(self) -> ServerInfo | None:
        """The server's facts on itself, None where it may not be asked."""
        return server_info(self.store)

    @cached_property
    def lead(self) -> Lead:
        """The beat that leads."""
        return lead(self.store)

    @cached_property
    def pauses(self) -> dict[Scope, Paused]:
        """The pauses."""
        return self.namespace.pauses.now()

    @cached_property
    def workers(self) -> list[WorkerState]:
        """Workers whose deadline has not passed."""
        return self.namespace.grants.workers.all()

    @cached_property
    def dead_workers(self) -> dict[str, datetime]:
        """Workers whose deadline has passed and that no sweep has found yet, and when it did."""
        deadlines = worker_deadlines(self.store)
        return {name: to_datetime(at) for name, at in sorted(deadlines.items()) if at <= self.now}

    @cached_property
    def alerts_since(self) -> dict[str, datetime]:
        """The alerts that are on, by the id of their finding, and since when."""
        return {alert: parse_time(json.loads(data)["since"]) for alert, data in stored_alerts(self.store).items()}

    @cached_property
    def replaced(self) -> list[Replaced]:
        """The items that replaced themselves by several tasks and have not ended for long, the oldest first."""
        return long_replaced(self.store)

    @cached_property
    def parked(self) -> ParkedTasks:
        """The parked tasks together."""
        return all_parked(self.store)
