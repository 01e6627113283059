"""The broker commands of a message, without sending it.

Where the broker is Redis, messages go into their queues by hundreds, and into the store's own Redis in the very script
that commits them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from celery_perpetual.broker.capturing import CapturingChannel
from celery_perpetual.broker.commands import Command
from celery_perpetual.broker.destinations import Destination, observe
from celery_perpetual.broker.message_copy import Copy, publish_copy
from celery_perpetual.ledger.record import Record
from celery_perpetual.publishing.message import send
from celery_perpetual.publishing.sender import AfterPublish, QuietSender

if TYPE_CHECKING:
    from celery import Celery


class Capture:
    """A producer whose messages become commands. For one thread."""

    def __init__(self, app: Celery) -> None:
        self.app = app
        self.channel = CapturingChannel(app)
        self.producer = app.amqp.Producer(self.channel.kombu, auto_declare=False)
        self.destination: Destination | None = None
        """Where the last message went."""
        observe(self.producer, self._note)
        self._sender = QuietSender(app)

    def commands(
        self,
        record: Record,
        task_id: str,
        after_publish: AfterPublish | None = None,
        tag: str | None = None,
        destination: Destination | None = None,
    ) -> list[Command]:
        """The commands of one message.

        Args:
            after_publish: gets the signals that are due once the commands have run; without it none are sent.
            tag: the delivery tag, instead of a random one.
            destination: where the message goes; without it the router is asked.
        """
        self._sender.after_publish = after_publish or AfterPublish()
        self.destination = None
        return self.channel.capture(
            lambda: send(self.app, self.producer, record, task_id, self._sender, destination=destination), tag
        )

    def copied(self, copy: Copy) -> list[Command]:
        """The commands that send a message once more, as it was received."""
        return self.channel.capture(lambda: publish_copy(self.producer, copy))

    def _note(self, _: str, destination: Destination) -> None:
        self.destination = destination

    def close(self) -> None:
        """Close the connection that looked up the bindings."""
        self.channel.close()
