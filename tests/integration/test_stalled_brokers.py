"""RabbitMQ stops to read, or to answer: the poll ends in a bounded time, and the relay sends what is missing."""

from __future__ import annotations

import socket
import ssl
import subprocess
import time
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import pytest
from celery import signals

from celery_perpetual import Item
from celery_perpetual.publishing import confirmed
from tests.support.proxy import Proxy

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from tests.support.watched_app import WatchedApp

#: More than the sockets of two connections on loopback hold of one chunk.
LARGE = 60_000
#: The kernel does not give the connection up by itself.
PATIENT = {socket.TCP_USER_TIMEOUT: 60_000}


def received(one: WatchedApp) -> list[str]:
    """Take the ids of all messages out of the queue."""
    with one.app.connection_for_read() as connection:
        channel = connection.channel()
        ids = []
        while (message := channel.basic_get("celery", no_ack=True)) is not None:
            ids.append(message.headers["id"])
        return ids


def tls_server(folder: Path) -> ssl.SSLContext:
    """A server's side of TLS, with a certificate of its own."""
    key, certificate = folder / "key.pem", folder / "certificate.pem"
    new = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=localhost"]
    subprocess.run([*new, "-keyout", key, "-out", certificate], check=True, capture_output=True)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    return context


@pytest.mark.parametrize(
    "case", ["stamped", pytest.param("over TLS", marks=pytest.mark.long), "message by message", "not confirmed"]
)
def test_a_broker_that_stands_still_after_a_chunk(
    rabbitmq_url: str, redis_url: str, watched_app: Callable[..., WatchedApp], listening: Any, case: str,
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path,
) -> None:  # fmt: skip
    """The connection is closed without a word, as no answer would come, and the chunk is left to the relay."""
    monkeypatch.setattr(confirmed, "CONFIRM_SECONDS", 1)
    size = 1 if case == "not confirmed" else LARGE
    options: dict[str, Any] = {"expires": 3600} if case == "message by message" else {}
    where = urlsplit(rabbitmq_url)
    over_tls = case == "over TLS"
    # Without a time limit for connecting, a socket of TLS has none at all.
    more: dict[str, Any] = {"broker_use_ssl": {"cert_reqs": ssl.CERT_NONE}, "broker_connection_timeout": None}
    with Proxy(where.port or 5672, tls_server(tmp_path) if over_tls else None) as proxy:
        one = watched_app(
            broker_url=rabbitmq_url.replace(f":{where.port}/", f":{proxy.port}/"), perpetual_store_url=redis_url,
            broker_transport_options={"write_timeout": 1, "socket_settings": PATIENT}, **(more if over_tls else {}),
        )  # fmt: skip
        once = [proxy.hold]
        listening(signals.after_task_publish, lambda **_: [once.pop(0)() for _ in once[:]])

        begun = time.monotonic()
        outcome = one.poll([Item(("x" * (1 if n < 500 else size), n), key=False, **options) for n in range(1000)])

        assert time.monotonic() - begun < 20
        batch = f"perpetual:p:{outcome.poll_id}"
        assert one.redis.hget(batch, "pub") == "500"
        assert one.redis.zrange("perpetual:outbox", 0, -1) == [outcome.poll_id]
        proxy.let_go()
        assert one.perpetual.runner.publisher.relay() == 500
        assert one.redis.hget(batch, "pub") == "1000"
        assert list(dict.fromkeys(received(one))) == outcome.task_ids
