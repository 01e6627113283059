"""Single messages to a broker that is not Redis: it says that it has each of them before anything is done about it.

A message that is published without a confirm may be lost without a word: its queue is full, its exchange is gone, or
the broker takes no messages and then the connection ends.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from celery_perpetual.publishing.transports import confirming_connection

if TYPE_CHECKING:
    from celery import Celery


class Singly:
    """A connection for messages that are sent one after the other. For one thread; it connects when it is used."""

    def __init__(self, app: Celery) -> None:
        self._app = app
        self._connection: Any = None
        self._producer: Any = None

    @property
    def connection(self) -> Any:
        """The connection.

        Raises:
            Exception: what the transport raises where the broker does not answer.
        """
        if self._connection is None:
            self._connection = confirming_connection(self._app)
        return self._connection

    @property
    def producer(self) -> Any:
        """A producer whose ``publish`` returns when the broker has the message, where the transport can say that.

        Raises:
            Exception: what the transport raises where the broker does not answer.
        """
        if self._producer is None:
            # Not connection.default_channel, which would try to connect for ever.
            self._producer = self._app.amqp.Producer(self.connection.channel(), auto_declare=False)
        return self._producer

    def close(self) -> None:
        """Close the connection; after an error too, as nothing is known of it then. The next use makes another one."""
        connection, self._connection, self._producer = self._connection, None, None
        if connection is not None:
            connection.release()
