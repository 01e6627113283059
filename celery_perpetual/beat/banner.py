"""The lines of beat's banner about perpetual tasks."""

from __future__ import annotations

from contextlib import closing
from typing import TYPE_CHECKING

from celery_perpetual.beat.scheduler_setting import other_scheduler
from celery_perpetual.errors import PerpetualError
from celery_perpetual.store.commands.leadership import leader_info
from celery_perpetual.store.health import store_warnings
from celery_perpetual.tasks.discovery import discover

if TYPE_CHECKING:
    from celery import Celery
    from celery.beat import Scheduler

    from celery_perpetual.settings import Settings
    from celery_perpetual.store.connection import Store


def banner(app: Celery, settings: Settings, store: Store, own: type[Scheduler], base: type[Scheduler]) -> str:
    """Store, leader, base scheduler and perpetual tasks, one line each, as Celery indents them."""
    with closing(store.clone(patient=False)) as asked:  # a start does not wait for its banner
        return _banner(app, settings, asked, own, base)


def _banner(app: Celery, settings: Settings, store: Store, own: type[Scheduler], base: type[Scheduler]) -> str:
    lines = [
        f"store -> {store.shown} (prefix {settings.key_prefix})",
        f"leader -> {_leader(store)}",
        f"base scheduler -> {base.__module__}:{base.__qualname__}",
    ]
    try:
        tasks = discover(app).tasks.values()
    except PerpetualError as error:
        return _indented([*lines, f"refused -> {error}"])
    lines += [f"perpetual -> {each.name}, {each.cadence}" for each in tasks]
    warnings = [*store_warnings(store), other_scheduler(app, own)]
    lines += [f"warning -> {warning}" for warning in warnings if warning]
    return _indented(lines if tasks else [*lines, "perpetual -> no task has poll_every and next_batch"])


def _leader(store: Store) -> str:
    try:
        info = leader_info(store)
    except PerpetualError:
        return "store not reached yet"
    return info["owner"] if info else "none yet"


def _indented(lines: list[str]) -> str:
    return "\n".join(f"    . {line}" for line in lines)
