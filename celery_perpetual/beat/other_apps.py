"""Another app on the same prefix: its beat refuses to start, and its worker says so.

A worker goes on, because an app may have been given another name while workers of the old one still run.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from celery_perpetual import events
from celery_perpetual.errors import StoreUnavailable
from celery_perpetual.leases.workers import Workers, app_name
from celery_perpetual.store.commands.leadership import leader_info
from celery_perpetual.telemetry import emit

if TYPE_CHECKING:
    from celery import Celery

    from celery_perpetual.store.connection import Store


def explain(store: Store, mine: str, other: str, owner: Any) -> str:
    """The error for a process of another app that uses this app's prefix, with its mend."""
    return (
        f"perpetual_key_prefix {store.keys.prefix!r} on {store.shown} is in use by the app {other!r} ({owner}), and "
        f"this app is {mine!r}; give each app a prefix of its own, and queues of its own (task_default_queue) or a "
        "broker database of its own: apps that share the queue 'celery' receive each other's messages: items are "
        "put back, and other messages of tasks that an app does not know are discarded"
    )


def warn_of_other_app(app: Celery, store: Store) -> None:
    """Say that a beat or a worker of another app uses this prefix; nothing where the store does not answer."""
    mine = app_name(app)
    try:
        found = next(((owner, name) for owner, name in _apps(store) if name != mine), None)
    except StoreUnavailable:
        return  # the heartbeat reports it
    if found is not None:
        owner, other = found
        emit(events.APP_OTHER, warning=explain(store, mine, other, owner))


def _apps(store: Store) -> Iterator[tuple[str, str]]:
    """Each process that lives and says to which app it belongs, and that app."""
    leader = leader_info(store)
    if leader is not None and "app" in leader:
        yield f"leader {leader.get('owner')}", leader["app"]
    for worker in Workers(store).all():
        if "app" in worker.info:
            yield f"worker {worker.info['hostname']}", worker.info["app"]
