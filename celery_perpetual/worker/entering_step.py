"""The boot step by which messages from Redis are entered among the unacknowledged ones in fewer steps."""

from __future__ import annotations

from typing import Any

from celery import bootsteps

from celery_perpetual.broker.entering import enter_quickly


class EnteringStep(bootsteps.StartStopStep):
    """Prepares the channel of the consumer, anew at every reconnect."""

    name = "perpetual-entering"
    requires = ("celery.worker.consumer.tasks:Tasks",)

    def start(self, consumer: Any) -> None:
        """Once the consumer has its channel; before the first message comes."""
        enter_quickly(consumer.task_consumer.channel)
