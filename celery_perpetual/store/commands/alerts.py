"""Alerts: what is wrong now, each said once when it begins and once when it ends."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

from celery_perpetual.store.scripts import script

if TYPE_CHECKING:
    from celery_perpetual.store.connection import Store

#: Alerts that may be on at once; what is behind them begins when others have ended.
MOST_ALERTS = 1_000

BEGIN, END = "begin", "end"


class AlertChange(NamedTuple):
    """One alert that begins or ends."""

    change: str
    """``begin`` or ``end``."""
    alert: str
    """Its id."""
    kind: str
    data: str
    """JSON of the event."""


def stored_alerts(store: Store) -> dict[str, bytes]:
    """The alerts that are on, by id; JSON of the event that each began with."""
    with store.errors("alerts"):
        return {alert.decode(): data for alert, data in store.redis.hgetall(store.keys.alerts).items()}


def change_alerts(store: Store, changes: Sequence[AlertChange]) -> None:
    """Begin and end alerts, in one step; one that is on does not begin again."""
    if changes:
        rows = [text for change in changes for text in change]
        script("change_alerts")(store, most=MOST_ALERTS, changes=rows)
