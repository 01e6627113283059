"""Locks of cached properties, which a pool process must not inherit from a thread that it does not have.

kombu computes a connection's channels and clients in cached properties, and a cached property has one lock for all
objects of its class. The heartbeat's threads connect to the broker at times. A pool process that is forked in that
moment gets the lock as held, and the thread that would release it is not there: the first message that its task
publishes waits for ever, under a lease that its worker renews. So a new process gets new locks.
"""

from __future__ import annotations

import gc
import os
from functools import cached_property
from threading import RLock
from typing import Any

_known: list[Any] = []
"""Cached properties that have a lock. Before Python 3.12 those of functools have one, kombu's always."""


def watch() -> None:
    """Let processes that are forked from now on have new locks, for the classes that are there by now."""
    if not _known:
        os.register_at_fork(after_in_child=_renew)
    # Not isinstance, which asks proxies for what is behind them.
    found: list[Any] = [each for each in gc.get_objects() if issubclass(type(each), cached_property)]
    _known[:] = [each for each in found if hasattr(each, "lock")]


def _renew() -> None:
    for each in _known:
        each.lock = RLock()
