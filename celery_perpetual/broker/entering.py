"""Fewer steps of a worker's main process for each message that it receives from Redis.

kombu enters every message among the unacknowledged ones, and that is a third of what a worker's main process does for a
task: it makes a client of redis-py for the message, and the client makes a pipeline. Here the channel keeps the client,
which is nothing but a view of its pool of connections, and the same commands are sent as one text over a connection
that is kept. Where anything is wrong with that, kombu enters the message itself, and tries again or raises as ever.
"""

from __future__ import annotations

import time
from typing import Any

from kombu.transport import virtual
from kombu.transport.redis import Channel, QoS
from kombu.utils.json import dumps

from celery_perpetual.store.wire import Wire, packed, packed_list

#: With fewer connections there is none to keep: kombu puts a message back over two at once.
FEWEST_CONNECTIONS = 3
#: A transaction of two commands has so many replies, of which the last one says it all.
REPLIES = 4


def enter_quickly(channel: Any) -> None:
    """Prepare the channel of a consumer.

    Nothing where its broker is no Redis, its messages are not entered, or it may have too few connections.
    """
    if isinstance(channel, Channel) and (channel.max_connections or FEWEST_CONNECTIONS) >= FEWEST_CONNECTIONS:
        _keep_client(channel)
        qos: Any = channel.qos
        if type(qos).append is QoS.append:
            qos.append = _Entering(channel)


def _keep_client(channel: Any) -> None:
    create = channel._create_client  # noqa: SLF001
    kept: Any = None

    def create_client(asynchronous: bool = False) -> Any:
        nonlocal kept
        if asynchronous:  # kombu keeps these itself, and gives them a connection of their own
            return create(asynchronous)
        # A channel that has lost its connections, or was forked, makes a new pool.
        if kept is None or kept.connection_pool is not channel.pool:
            kept = create()
        return kept

    channel._create_client = create_client  # noqa: SLF001


class _Entering:
    """The function that kombu calls with each message."""

    def __init__(self, channel: Any) -> None:
        prefix = channel.global_keyprefix
        self._channel = channel
        self._received = packed("MULTI") + packed("ZADD", f"{prefix}{channel.unacked_index_key}", more=2)
        self._unacked = packed("HSET", f"{prefix}{channel.unacked_key}", more=2)
        self._end = packed("EXEC")
        self._pool: Any = None
        self._wire = Wire(None)

    def __call__(self, message: Any, delivery_tag: str) -> None:
        qos = self._channel.qos
        try:
            is_entered = self._enter(message, delivery_tag)
        except Exception:  # of any kind: kombu finds it too, and knows what to do
            is_entered = False
        if is_entered:
            virtual.QoS.append(qos, message, delivery_tag)
        else:
            self._pool = None
            QoS.append(qos, message, delivery_tag)

    def _enter(self, message: Any, delivery_tag: str) -> bool:
        info = message.delivery_info
        text = dumps([message._raw, info["exchange"], info["routing_key"]])  # noqa: SLF001
        if self._channel.pool is not self._pool:
            self._wire.close()
            with self._channel.conn_or_acquire() as client:
                self._pool, self._wire = client.connection_pool, Wire(client)
        at, entry = packed_list([repr(time.time()), delivery_tag]), packed_list([delivery_tag, text])
        call = self._received + at.text + self._unacked + entry.text + self._end
        reply = self._wire.call(call, replies=REPLIES)
        # A command of a transaction that fails has its error in this list.
        return type(reply) is list and [type(each) for each in reply] == [int, int]
