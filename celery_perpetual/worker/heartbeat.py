"""A worker's heartbeat: a thread of its own in the main process, from before the first task to the very end.

Celery's timers do not fire while a solo worker runs a task or while a pool drains, and boot steps may be stopped
before the pool; so no boot step ends the thread. It dies with the process, and a process that ends in an orderly
way gives back what it still holds.

Each report renews the worker's deadline, says what the worker has received, and compares what the store believes that
it holds with what it has: what is missing for two reports is given back as lost (a thread that left without an end, a
child whose end Celery has missed).
"""

from __future__ import annotations

import atexit
import json
import os
import threading
import time
from typing import TYPE_CHECKING, Any

from celery.bootsteps import TERMINATE  # type: ignore[attr-defined]  # missing in the stubs
from celery.worker import state

from celery_perpetual import events
from celery_perpetual.errors import StoreUnavailable
from celery_perpetual.leases.workers import app_name
from celery_perpetual.publishing.courier import Courier
from celery_perpetual.recovery.losses import take_leases
from celery_perpetual.recovery.resend import Resender
from celery_perpetual.store.commands.leases import lease_of
from celery_perpetual.store.scripts import script
from celery_perpetual.telemetry import emit
from celery_perpetual.times import steady
from celery_perpetual.worker import deliveries
from celery_perpetual.worker.pulse import Pulse
from celery_perpetual.worker.stopping import is_stopping

if TYPE_CHECKING:
    from celery_perpetual.leases.grants import Grants
    from celery_perpetual.leases.workers import WorkerRun


#: News about received messages is reported after this many seconds, together with all that comes until then, and not
#: only with the next heartbeat: a message that a worker received and never reported is suspected of having killed it.
NEWS_SECONDS = 0.1

#: Pause after a report that did not arrive.
AWAY_SECONDS = 0.5

#: How often a worker that stops is asked whether it has stopped.
ENDING_SECONDS = 0.1


class Heartbeat(threading.Thread):
    """The thread of one worker."""

    def __init__(self, worker: Any, leases: Grants) -> None:
        super().__init__(name="perpetual-heartbeat", daemon=True)
        assert leases.instance is not None
        self._worker = worker
        self._leases = leases
        self._instance: WorkerRun = leases.instance
        self._store = leases.store.clone(patient=False)
        self._resender = Resender(worker.app, self._store, broker_is_redis=leases.broker_is_redis)
        self._courier = Courier("resend", of_list=True)
        self._reported: dict[str, str] = {}
        self._missing: set[str] = set()
        self._work = threading.Event()
        self._lost = self._news = False
        self._halt = self._ends = False
        self._stopping = threading.Lock()
        self._at = 0.0
        self._begun_before: int | None = None
        self._begun_last: int | None = None
        """How many tasks it had begun at the last two whole reports."""
        self._report = self._answered = 0
        """Number of the last report, and of the last one that was answered."""
        self._pulse = Pulse(self._store, self._instance.name, leases.settings.heartbeat, lambda: self._at)

    def resend_soon(self) -> None:
        """A task is on the list of lost tasks: resend it."""
        self._lost = True
        self._work.set()

    def report_soon(self) -> None:
        """A message was received or acknowledged: report that."""
        if not self._news:
            self._news = True
            self._work.set()

    def end_after_worker(self) -> None:
        """End when the worker has stopped; until then its pool may run."""
        self._ends = True
        self._work.set()

    @property
    def is_ending(self) -> bool:
        """Whether its worker stops, or has stopped."""
        return self._ends

    def report_first(self) -> None:
        """Report before anything is received: messages of a worker that is not known would seem to have no worker."""
        try:
            self._once()
        except StoreUnavailable as error:
            emit(events.STORE_UNREACHABLE, part="the heartbeat", error=error)

    def run(self) -> None:
        self._pulse.start()
        interval, away = self._leases.settings.heartbeat, False
        while not self._halt:
            pause = AWAY_SECONDS if away else self._at + interval - steady()
            self._pause(min(pause, ENDING_SECONDS) if self._ends else pause)
            if self._ends and self._worker.blueprint.state == TERMINATE:
                self._end()
                return
            if self._news:
                self._pause(min(NEWS_SECONDS, interval))
            self._news = False
            try:
                self._once()
                away = self._leases.is_away = False
            except StoreUnavailable as error:
                self._leases.is_away = True
                if not away:
                    emit(events.STORE_UNREACHABLE, part="the heartbeat", error=error)
                away = True
            except Exception as error:
                emit(events.PART_FAILED, part="the heartbeat", error=error)
                away = True

    def _end(self) -> None:
        """The worker has stopped, and its process may live on: the next worker in it has a heartbeat of its own."""
        atexit.unregister(self.stop)
        self.stop()
        deliveries.forget_all()
        self._leases.on_lost, self._leases.on_news, self._leases.on_held = None, lambda: None, None
        self._leases.on_report = lambda _: None
        self._leases.instance = None

    def _pause(self, seconds: float) -> None:
        if self._work.wait(max(0.0, seconds)):
            self._work.clear()
            if self._lost:
                self._lost = False
                self._resend()

    def _resend(self) -> None:
        try:
            self._courier.run(self._resender.send_all, seconds=0)
        except StoreUnavailable as error:
            emit(events.RESEND_DELAYED, error=error)
        except Exception as error:
            emit(events.RESEND_FAILED, error=error)

    def _once(self) -> None:
        now = steady()
        waiting = deliveries.waiting(self._instance.ends, self._worker.pool)
        at_hand = deliveries.at_hand(waiting)
        has = {each.perpetual_tag: each.id for each in at_hand}
        due = now - self._at >= self._leases.settings.heartbeat
        if not due and has == self._reported:
            return
        gone = [tag for tag in self._reported if tag not in has]
        new = [text for tag, task_id in has.items() if tag not in self._reported for text in (tag, task_id)]
        is_whole = not self._reported
        keys, name = self._store.keys, self._instance.name
        self._report += 1
        is_older, held, received = script("heartbeat")(
            self._store, held=keys.held(name), worker_info=keys.worker(name), received=keys.tags(name), worker=name,
            info=json.dumps(self._info(len(has), due)), report=self._report, known=self._answered,
            gone=-1 if is_whole else len(gone),
            tags=[*gone, *new],
        )  # fmt: skip
        held_ids = {task_id.decode() for task_id in held}
        unheld = [each for each in at_hand if each.perpetual_execution and each.id not in held_ids]
        if any(each.time_start and each.id not in waiting for each in unheld):
            self._instance.doubt()
        if is_older:
            self._regain(unheld)
        self._answered = self._report
        self._instance.renewed(now)
        # An older store has forgotten what was reported since. One that has lost its data has fewer messages, and one
        # whose reply was lost may have more: all are reported anew then.
        is_complete = received == len(has) and not is_older
        self._reported = has if is_complete else {}
        if is_older or not (is_complete or is_whole):
            self.report_soon()
        if due:
            self._at = now
            self._begun_before, self._begun_last = self._begun_last, sum(state.total_count.values())
            # A worker that stops has let go of what it cancels, and gives that back at its very end.
            runs = {each.id for each in at_hand if each.time_start} | deliveries.unseen(held_ids, self._worker.pool)
            self._audit(set() if is_stopping() else held_ids - runs)
            self._leases.on_report(self._store)

    def _regain(self, requests: list[Any]) -> None:
        """The store has gone back to an older state: enter the leases of what runs anew."""
        running = [each for each in requests if each.time_start]
        regained = [self._leases.regain(each.task, each.perpetual_execution, each.request_dict) for each in running]
        emit(events.LEASES_REGAINED, running=len(running), regained=sum(regained))

    def _audit(self, missing: set[str]) -> None:
        """Give back what the store thinks that we run, and we do not; another delivery of that task may wait here."""
        for task_id in missing & self._missing:
            lease = lease_of(self._store, task_id)
            if lease is None or lease.worker != self._instance.name or deliveries.is_here(lease.nonce):
                continue
            verdict = self._leases.release(task_id, lease.nonce, "lost", "its worker does not run it any more")
            emit(events.EXECUTION_MISSING, task_id=task_id, verdict=verdict)
            self.resend_soon()
        self._missing = missing

    def _info(self, reserved: int, due: bool) -> dict[str, Any]:
        worker = self._worker
        queues = getattr(worker.app.amqp, "queues", None)
        return {
            "app": app_name(worker.app),
            "hostname": self._instance.hostname,
            "pid": self._instance.pid,
            "pool": type(worker.pool).__module__.rpartition(".")[2] if worker.pool is not None else None,
            "concurrency": worker.concurrency,
            "queues": sorted(queues.consume_from) if queues is not None else [],
            "active": len(list(state.active_requests)),
            "begun": self._begun(due),
            "clock": round(1000 * time.time()),
            "reserved": reserved,
            "stopping": is_stopping(),
        }

    def _begun(self, due: bool) -> int | None:
        """How many tasks it has begun in the last whole interval, at least; None where it is not that old."""
        before = self._begun_last if due else self._begun_before
        return None if before is None else sum(state.total_count.values()) - before

    def stop(self) -> None:
        """At the end of the process: give back the leases that it still holds, without counting a recovery."""
        if os.getpid() != self._instance.pid:
            return
        with self._stopping:
            if not self._halt:
                self._halt = True
                self._pulse.stop()
                self._give_back()

    def _give_back(self) -> None:
        try:
            while not take_leases(self._leases, stopping=self._instance.name).is_empty:
                pass
            self._leases.workers.forget(self._instance.name, stopped=True)
        except StoreUnavailable as error:
            emit(events.WORKER_LEAVES_LEASES, error=error)
