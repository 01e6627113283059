"""A worker of greenlets proves its life while a body that does not yield keeps all its greenlets from running.

gevent and eventlet turn threads into greenlets, the heartbeat's too. The pulse runs on a thread of the operating
system, which they leave in their originals, and steps in when the heartbeat is late. It says only that the worker
lives. It shares nothing with the greenlets that either side would wait for: it has connections of its own, made in its
thread, where patched sockets wait in an event loop of that thread; it takes no lock of theirs, sends nothing and logs
nothing. It does not say whether the worker's executions still hold their leases: the first report after the pause does,
and an execution that ends before asks the store.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from celery_perpetual.errors import StoreUnavailable
from celery_perpetual.store.scripts import script
from celery_perpetual.times import steady

if TYPE_CHECKING:
    from celery_perpetual.store.connection import Store

#: The heartbeat is late when its last report is older than so many of its intervals.
LATE = 1.25


def real_threads() -> tuple[Callable[..., Any], Callable[[float], Any]] | None:
    """Functions that start a thread of the operating system and let it sleep, where those of Python are patched."""
    gevent: Any = sys.modules.get("gevent.monkey")
    if gevent is not None and gevent.is_module_patched("threading"):
        start = gevent.get_original("_thread", "start_new_thread")
        return lambda run: start(run, ()), gevent.get_original("time", "sleep")
    eventlet: Any = sys.modules.get("eventlet.patcher")
    if eventlet is not None and eventlet.is_monkey_patched("thread"):
        threading = eventlet.original("threading")
        return lambda run: threading.Thread(target=run, daemon=True).start(), eventlet.original("time").sleep
    return None


class Pulse:
    """The thread, where there has to be one."""

    def __init__(self, store: Store, worker: str, interval: float, last_report: Callable[[], float]) -> None:
        """Start nothing yet.

        Args:
            store: whose address and namespace are used, over connections of the thread's own.
            worker: instance of the worker.
            interval: seconds between two reports of the heartbeat.
            last_report: when the heartbeat last reported, in seconds of the steady clock.
        """
        self._near = store
        self._worker = worker
        self._interval = interval
        self._last_report = last_report
        self._is_stopped = False

    def start(self) -> None:
        """Start the thread, where the heartbeat's own is a greenlet."""
        real = real_threads()
        if real is not None:
            start, sleep = real
            start(lambda: self._run(sleep))

    def stop(self) -> None:
        """Prove nothing any more."""
        self._is_stopped = True

    def _run(self, sleep: Callable[[float], Any]) -> None:
        store, at = self._near.clone(patient=False), 0.0
        while not self._is_stopped:
            sleep(self._interval / 2)
            now = steady()
            if self._is_stopped or now - max(at, self._last_report()) < LATE * self._interval:
                continue
            try:
                script("prove_life")(store, worker=self._worker)
                at = now
            except StoreUnavailable:
                continue  # the heartbeat asks the same store, and reports what is wrong there
