"""Locks of cached properties and signals, which a pool process must not inherit from a thread that it does not have.

kombu computes a connection's channels and clients in cached properties, and a cached property has one lock for all
objects of its class. The heartbeat's threads connect to the broker at times, and send Celery's signals. A pool process
that is forked in that moment gets the lock as held, and the thread that would release it is not there: the first
message that its task publishes waits for ever, under a lease that its worker renews. So a new process gets new locks.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from functools import cached_property
from threading import Lock, RLock
from typing import Any

from celery import signals
from celery.utils.dispatch import Signal

_known: list[Any] = []
"""Cached properties that have a lock. Before Python 3.12 those of functools have one, kombu's always."""
_signals: list[Any] = [each for each in vars(signals).values() if isinstance(each, Signal)]


def watch() -> None:
    """Let processes that are forked from now on have new locks, for the classes that are there by now."""
    if not _known:
        os.register_at_fork(after_in_child=_renew)
    _known[:] = [each for each in _cached_properties() if hasattr(each, "lock")]


def _cached_properties() -> Iterator[Any]:
    """Those of every class. The garbage collector would not show them all: programs may have frozen it (gc.freeze)."""
    seen, left = set[int](), [object]
    while left:
        for cls in type.__subclasses__(left.pop()):
            if id(cls) in seen:
                continue
            seen.add(id(cls))
            left.append(cls)
            # Not isinstance, which asks proxies for what is behind them.
            yield from (each for each in list(vars(cls).values()) if issubclass(type(each), cached_property))


def _renew() -> None:
    for each in _known:
        each.lock = RLock()
    for each in _signals:
        each.lock = Lock()
