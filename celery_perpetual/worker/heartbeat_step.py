"""The boot step that makes a process a worker and starts its heartbeat."""

from __future__ import annotations

import atexit
import threading
from typing import Any

import click
from celery import bootsteps
from celery.concurrency.solo import TaskPool as SoloPool

from celery_perpetual.errors import PerpetualError
from celery_perpetual.leases.time_limits import limits_kept_by
from celery_perpetual.worker import fork_locks
from celery_perpetual.worker.heartbeat import Heartbeat

#: How long the next worker of a process waits for the end of the last one, in seconds.
LONGEST_ENDING = 10.0

#: How often dead children of the pool are looked for, in seconds.
CHILDREN_SECONDS = 1.0


class HeartbeatStep(bootsteps.StartStopStep):
    """Makes the process a worker before its pool starts, and starts the thread after it."""

    name = "perpetual-heartbeat"
    requires = ("celery.worker.components:Pool",)

    def __init__(self, worker: Any, **options: Any) -> None:
        super().__init__(worker, **options)
        # A program may start its next worker before the heartbeat of the last one has given back what that held.
        for thread in threading.enumerate():
            if isinstance(thread, Heartbeat) and thread.is_ending:
                thread.join(LONGEST_ENDING)
        try:
            instance = worker.app.perpetual.grants.be_a_worker(worker.hostname)
        except PerpetualError as error:  # a wrong setting: Celery makes this step before the one that checks
            raise click.ClickException(str(error)) from error
        instance.is_deaf = worker.pool_cls is SoloPool
        instance.kept_limits = limits_kept_by(worker.pool_cls)

    def start(self, worker: Any) -> None:
        """Start the thread; once, also where Celery restarts its steps."""
        grants = worker.app.perpetual.grants
        if grants.on_lost is None:
            heartbeat = Heartbeat(worker, grants)
            grants.on_lost, grants.on_news = heartbeat.resend_soon, heartbeat.report_soon
            heartbeat.report_first()
            fork_locks.watch()
            heartbeat.start()
            atexit.register(heartbeat.stop)
            self._heartbeat = heartbeat

    def stop(self, parent: Any) -> None:  # noqa: ARG002  # as Celery calls it
        """A program that has a worker inside goes on when the worker has stopped; the thread ends after the pool."""
        heartbeat = getattr(self, "_heartbeat", None)
        if heartbeat is not None:
            heartbeat.end_after_worker()

    def terminate(self, parent: Any) -> None:
        """As at any other stop."""
        self.stop(parent)

    def register_with_event_loop(self, worker: Any, hub: Any) -> None:
        """Check for dead pool children every second; Celery itself checks every five seconds."""
        fork_locks.watch()  # once more, as the classes of the broker's transport are there by now
        if getattr(getattr(worker.pool, "_pool", None), "maintain_pool", None) is not None:
            hub.call_repeatedly(CHILDREN_SECONDS, worker.pool.maintain_pool)
