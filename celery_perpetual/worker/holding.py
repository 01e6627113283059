"""With ``perpetual_store_down = "hold"``: tasks wait for the store in the worker's main process.

A pool counts a task's time limits from the moment at which it takes the task, so waiting there would end a task whose
body has not begun. A process of the pool that gets no answer gives its task back; this process gives it to the pool
once more when the heartbeat finds that the store answers. Meanwhile it gives the pool nothing that needs a lease.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from celery import bootsteps
from celery.worker import state

from celery_perpetual import events
from celery_perpetual.broker.message_copy import from_message, publish_copy
from celery_perpetual.broker.unacked import put_back
from celery_perpetual.leases.execution import AT_START
from celery_perpetual.telemetry import emit
from celery_perpetual.worker import deliveries
from celery_perpetual.worker.stopping import is_stopping

if TYPE_CHECKING:
    from celery_perpetual.leases.grants import Grants

#: Pause between two questions whether the store is back, in seconds.
HOLD_SECONDS = 0.5

#: A task that comes back more often, though the store answers this process, asks longer: a store that is far away may
#: never answer in the usual part of a short time limit.
IMPATIENT_TRIES = 2

#: Of so many returns of a task one is reported: one that never gets its lease is seen by that.
HOLDS_PER_REPORT = 20


class HoldingStep(bootsteps.StartStopStep):
    """Puts itself between the consumer and the pool, before the consumer makes its strategies."""

    name = "perpetual-holding"
    requires = ("celery.worker.consumer.connection:Connection",)

    def __init__(self, consumer: Any, **options: Any) -> None:
        super().__init__(consumer, **options)
        self._consumer = consumer
        self._grants: Grants = consumer.app.perpetual.grants
        self._held: dict[str, Any] = {}
        """Requests that wait, by the nonce of their delivery."""
        self._is_due = False
        self._to_pool = consumer.on_task_request
        if self._grants.settings.store_down == "hold":
            consumer.on_task_request = self._received
            self._grants.on_held = self._hold

    def start(self, parent: Any) -> None:  # noqa: ARG002  # as Celery calls it
        """Go on after a reconnect, which clears the consumer's timers."""
        self._is_due = False
        self._come_back()

    def stop(self, parent: Any) -> None:  # noqa: ARG002
        """At a stop of the worker: give back what the broker does not have any more; it gives back the rest itself."""
        if not is_stopping():
            return
        for request in self._held.values():
            if not request.acknowledged:
                continue
            if request.perpetual_execution.acknowledged_by == AT_START:
                put_back(request.message, request.connection_errors)
            else:
                with self._consumer.app.connection_for_write() as connection:
                    producer = self._consumer.app.amqp.Producer(connection, auto_declare=False)
                    publish_copy(producer, from_message(request.message))
        self._held.clear()

    def _received(self, request: Any) -> None:
        if self._grants.is_away and getattr(request, "perpetual_execution", None) is not None:
            self._hold(request)
        else:
            self._to_pool(request)

    def _hold(self, request: Any) -> None:
        """Keep a request. Called by threads of the pool too."""
        if request.times_held % HOLDS_PER_REPORT == 0:
            emit(events.LEASE_WAITING, task_id=request.id)
        request.times_held += 1
        request.is_held = True
        state.task_reserved(request)
        self._held[request.perpetual_execution.nonce] = request
        self._grants.on_news()  # the next heartbeat finds out whether the store answers
        self._come_back()

    def _come_back(self) -> None:
        if self._held and not self._is_due:
            self._is_due = True
            self._consumer.timer.call_after(HOLD_SECONDS, self._go_on)

    def _go_on(self) -> None:
        self._is_due = False
        if not self._grants.is_away:
            for nonce in list(self._held):
                request = self._held.pop(nonce)
                if deliveries.is_here(nonce):
                    request.is_held = False
                    if request.times_held > IMPATIENT_TRIES:
                        request.be_patient()
                    self._to_pool(request)
        self._come_back()
