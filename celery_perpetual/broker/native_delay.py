"""RabbitMQ holds a message back until its time where an app has quorum queues (Celery's native delayed delivery).

Such a message goes to an exchange of Celery's own. Its routing key says for how many seconds, bit by bit. Behind that
is the key by which it goes on then, to each queue that is bound to another exchange by it.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from kombu.transport.native_delayed_delivery import (
    CELERY_DELAYED_DELIVERY_EXCHANGE,
    MAX_LEVEL,
    MAX_NUMBER_OF_BITS_TO_USE,
    level_name,
)

if TYPE_CHECKING:
    from celery_perpetual.broker.destinations import Destination

#: Exchange that holds messages back, and the one that they come to when their time is over.
DELAYED, DELIVERY = level_name(MAX_LEVEL), CELERY_DELAYED_DELIVERY_EXCHANGE

_ROUTING_KEY = re.compile(rf"((?:[01]\.){{{MAX_NUMBER_OF_BITS_TO_USE}}})(.+)", re.DOTALL)


def held_back(destination: Destination) -> int:
    """For how many ms a message of this destination is held back; 0 where it is not."""
    found = _ROUTING_KEY.fullmatch(destination.routing_key) if destination.exchange == DELAYED else None
    return 0 if found is None else 1000 * int(found[1].replace(".", ""), 2)


def at_once(destination: Destination) -> Destination:
    """Where a message of this destination goes when its time is over: it is not held back any more."""
    return destination._replace(exchange=DELIVERY) if held_back(destination) else destination
