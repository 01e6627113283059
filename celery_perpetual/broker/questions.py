"""Connections for questions to a broker, which may keep a connection open and answer nothing.

It stands still, or a firewall has forgotten the connection. A thread that waits for such an answer would wait for ever,
and whatever it is to find out would never be known again. Publishing is no question: a broker may take its time there.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from celery import Celery

#: Seconds after which an answer is not waited for any more.
LONGEST_ANSWER = 10.0


def connection_for_questions(app: Celery) -> Any:
    """A connection to the app's broker whose AMQP transport raises an error where no answer comes.

    It connects when it is used; the caller releases it.
    """
    bounds = {"read_timeout": LONGEST_ANSWER, "write_timeout": LONGEST_ANSWER}
    return app.connection_for_write(transport_options=bounds if _is_amqp(app) else {})


def _is_amqp(app: Celery) -> bool:
    """Other transports have options of their own."""
    return getattr(app.connection_for_write().get_transport_cls(), "driver_type", None) == "amqp"
