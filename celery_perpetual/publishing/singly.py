"""Single messages to a broker that is not Redis: it says that it has each of them before anything is done about it.

A message that is published without a confirm may be lost without a word: its queue is full, its exchange is gone, or
the broker takes no messages and then the connection ends.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from kombu.exceptions import OperationalError

from celery_perpetual.publishing.kept import Kept
from celery_perpetual.publishing.refused import is_refused
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


def send_singly(ways: Kept[Singly], send: Callable[..., Any]) -> None:
    """Send one message, by the ``producer`` that ``send`` gets.

    It is tried once more where the connection was closed, as one that is kept may be. A broker that does not answer in
    time is not asked again: Celery's own tries would each wait as long.

    Raises:
        Exception: the broker did not answer, or has refused the message.
    """
    try:
        _send_once(ways, send)
    except OperationalError as error:
        if isinstance(error.__cause__, TimeoutError) or is_refused(error):
            raise
        _send_once(ways, send)


def _send_once(ways: Kept[Singly], send: Callable[..., Any]) -> None:
    with ways.lent() as singly:
        send(producer=singly.producer, retry=False)
