"""Unacked messages, where the broker is the store's own Redis.

Kombu keeps each message that a worker has received in a hash, and the time of its receipt in a sorted set, until the
worker acknowledges it. An acknowledgement costs the worker's main process a call for every task, and a worker that dies
between a task's end and that call leaves the message of a task that has ended. So the scripts that grant a lease or
store an end acknowledge the message in the same step, and the main process only makes kombu forget it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

from kombu.transport.redis import Channel
from kombu.transport.virtual import QoS

from celery_perpetual import events
from celery_perpetual.store.address import address, is_redis
from celery_perpetual.store.connection import Store
from celery_perpetual.telemetry import emit

if TYPE_CHECKING:
    from celery import Celery


class UnackedKeys(NamedTuple):
    """Full names of the broker's keys."""

    unacked: str
    """Hash: delivery tag -> message."""
    received: str
    """Sorted set: delivery tag -> when it was received."""


def shares_redis(app: Celery, store: Store) -> bool:
    """Whether what this app sends goes to the store's own server and database."""
    conf: Any = app.conf
    url = conf.broker_write_url
    if not isinstance(url, str) or not is_redis(url):
        return False
    return address(url, conf.broker_transport_options, conf.broker_use_ssl) == store.address


def shares_unacked(app: Celery, store: Store) -> bool:
    """Whether what this app's workers receive comes from there too, and from nowhere else."""
    url: Any = app.conf.broker_read_url
    return (
        shares_redis(app, store)
        and url == app.conf.broker_write_url
        and (";" not in url or store.address.kind == "sentinel")
        and (app.conf.broker_transport_options or {}).get("ack_emulation", True)
    )


def unacked_keys(app: Celery) -> UnackedKeys:
    """Where kombu keeps them, by the app's settings."""
    options: Any = app.conf.broker_transport_options or {}
    prefix = options.get("global_keyprefix") or Channel.global_keyprefix
    names = (options.get(name) or getattr(Channel, name) for name in ("unacked_key", "unacked_index_key"))
    return UnackedKeys(*(f"{prefix}{name}" for name in names))


def forget(message: Any) -> None:
    """Make kombu treat a message as acknowledged, without a call to the broker."""
    qos = message.channel.qos
    QoS.ack(qos, message.delivery_tag)
    message._state = "ACK"  # noqa: SLF001


def acknowledge(message: Any, errors: tuple[type[Exception], ...]) -> None:
    """Acknowledge a message that kombu has forgotten; harmless when repeated. An error of the broker is reported."""
    try:
        message.channel.qos.ack(message.delivery_tag)
    except errors as error:
        emit(events.ACKNOWLEDGE_FAILED, tag=message.delivery_tag, error=error)


def put_back(message: Any, errors: tuple[type[Exception], ...]) -> None:
    """Put a message that kombu has forgotten at the front of its queue, if it is among the unacked ones still.

    Consumers take messages from the right end of the list, where kombu's "leftmost" is the last place.
    An error of the broker is logged: then the leader puts the message back.
    """
    try:
        message.channel.qos.restore_by_tag(message.delivery_tag, leftmost=False)
    except errors as error:
        emit(events.PUT_BACK_FAILED, tag=message.delivery_tag, error=error)
