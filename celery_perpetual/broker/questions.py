"""Connections to a broker that may keep them open and answer nothing.

It stands still, or a firewall has forgotten the connection. A thread that waits for such an answer would wait for ever,
and whatever it is to find out, or to put back, would never be known again. Publishing over AMQP is no question: such a
broker may take its time there.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from celery import Celery

NOT_FOUND = "404"

#: Seconds after which an answer is not waited for any more.
LONGEST_ANSWER = 10.0

#: The same of Redis: a new connection to a server that says nothing is tried twice.
LONGEST_ANSWER_OF_REDIS = 4.0


def connection_for_questions(app: Celery) -> Any:
    """A connection to the app's broker that raises an error where no answer comes, over AMQP and Redis.

    It connects when it is used, or at once where the app has a list of brokers; the caller releases it. Time-outs of
    the app's own settings are kept.
    """
    conf: Any = app.conf
    options, own = _bounds(app), conf.broker_transport_options or {}
    return on_any_broker(
        app.connection_for_write(transport_options={name: options[name] for name in options.keys() - own.keys()})
    )


def on_any_broker(connection: Any) -> Any:
    """The connection; where it has a list of brokers, it is connected to the first one that accepts it.

    Kombu by itself tries no more than two of them.

    Raises:
        Exception: what the transport raises where none of them does.
    """
    brokers = len(connection.alt or ())
    if brokers > 2:
        try:
            connection.ensure_connection(max_retries=brokers - 1, reraise_as_library_errors=False)
        except Exception:
            connection.release()
            raise
    return connection


def is_not_found(error: BaseException) -> bool:
    """Whether an error of a channel says that there is no such queue."""
    # As the brokers' clients say it: a number, or a text.
    return any(str(getattr(error, name, "")) == NOT_FOUND for name in ("reply_code", "code"))


def _bounds(app: Celery) -> dict[str, float]:
    """Other transports have options of their own."""
    kind = getattr(app.connection_for_write().get_transport_cls(), "driver_type", None)
    if kind == "amqp":
        return {"read_timeout": LONGEST_ANSWER, "write_timeout": LONGEST_ANSWER}
    if kind == "redis":
        return dict.fromkeys(("socket_timeout", "socket_connect_timeout"), LONGEST_ANSWER_OF_REDIS)
    return {}
