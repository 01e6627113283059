"""Replies of scripts: the same as redis-py's own reading of them, however they arrive."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from typing import Any

import pytest
import redis
from redis.exceptions import ConnectionError as NoConnection
from redis.exceptions import RedisError, ResponseError
from redis.exceptions import TimeoutError as NoAnswer

from celery_perpetual.store import replies
from celery_perpetual.store.replies import last_reply
from celery_perpetual.store.wire import Wire, packed


@pytest.fixture(autouse=True)
def without_hiredis(monkeypatch: pytest.MonkeyPatch) -> None:
    """With it all reading is redis-py's, and there is nothing to test."""
    monkeypatch.setattr(replies, "HIREDIS_AVAILABLE", False)


@pytest.fixture
def client(redis_url: str) -> Iterator[redis.Redis]:
    with redis.Redis.from_url(redis_url) as client:
        yield client


TEXTS = [
    "return 1", "return -5", "return 'text'", "return ''", "return {}", "return false", "return redis.status_reply('fine')",
    "return {'run', '12345', 0}", "return {1, {2, {'a\\r\\nb', false, 3}}, '$3\\r\\nabc'}", "return string.rep('x', 5000)",
    "return {string.rep('x', 2100), 1}", "return redis.error_reply('WRONGTYPE of a kind')", "return {1, {err = 'inside'}}",
]  # fmt: skip


@pytest.mark.parametrize("yielding", [False, True])
@pytest.mark.parametrize("text", TEXTS)
def test_a_reply_is_what_redis_py_reads(client: redis.Redis, text: str, yielding: bool) -> None:
    """All kinds of answers; and the next call gets its own reply."""
    wire, call = Wire(client), packed("EVAL", text, 0)

    def outcome(ask: Any) -> Any:
        try:
            return repr(ask())
        except ResponseError as error:
            return f"raised {error}"

    expected = outcome(lambda: client.execute_command("EVAL", text, 0))
    assert [outcome(lambda: wire.call(call, yielding=yielding)) for _ in range(2)] == [expected] * 2
    assert wire.call(packed("ECHO", "next"), yielding=yielding) == b"next"
    wire.close()


class Scripted:
    """A server that sends what it is given."""

    def __init__(self) -> None:
        listening = socket.create_server(("127.0.0.1", 0))
        self.connection = redis.Connection(
            port=listening.getsockname()[1], socket_timeout=0.3, redis_connect_func=ready
        )
        self.connection.connect()
        self.peer, _ = listening.accept()
        listening.close()


def ready(connection: Any) -> None:
    """Nothing is said for a start."""
    connection._parser.on_connect(connection)


@pytest.fixture
def scripted() -> Iterator[Scripted]:
    server = Scripted()
    yield server
    server.connection.disconnect()
    server.peer.close()


WHOLE = b"+PONG\r\n*3\r\n$3\r\nrun\r\n$5\r\n12345\r\n:0\r\n"


@pytest.mark.parametrize("parted_at", range(1, len(WHOLE)))
def test_a_reply_that_comes_in_two_parts(scripted: Scripted, parted_at: int) -> None:
    """It may be cut at any byte: all of it is read, and the next one too."""
    scripted.peer.sendall(WHOLE[:parted_at])
    reading = threading.Timer(0.005, scripted.peer.sendall, [WHOLE[parted_at:]])
    reading.start()

    assert last_reply(scripted.connection, 2) == [b"run", b"12345", 0]
    reading.join()
    scripted.peer.sendall(b":7\r\n")
    assert last_reply(scripted.connection) == 7


@pytest.mark.parametrize(("sent", "error"), [(b"", NoAnswer), (b"*2\r\n:1\r\n", NoAnswer), (None, NoConnection)])
def test_a_connection_without_reply_is_closed(scripted: Scripted, sent: bytes | None, error: type[RedisError]) -> None:
    """The errors are redis-py's, and the connection is closed: what comes later belongs to no call."""
    if sent is None:
        scripted.peer.close()
    else:
        scripted.peer.sendall(sent)

    with pytest.raises(error):
        last_reply(scripted.connection)
    assert scripted.connection._sock is None


def test_a_push_message_of_which_redis_py_has_a_part(scripted: Scripted) -> None:
    """Its rest is no reply, also where it has the form of one."""
    scripted.peer.sendall(b"-ERR no\r\n>2\r\n$4\r\nnews\r\n")
    with pytest.raises(ResponseError):
        last_reply(scripted.connection)
    scripted.peer.sendall(b"$3\r\nabc\r\n:7\r\n")

    assert last_reply(scripted.connection) == 7


def test_a_reply_with_a_part_of_a_push_message_behind_it(scripted: Scripted) -> None:
    """The part is not taken away with the reply."""
    scripted.peer.sendall(b":7\r\n>2\r\n$4\r\nnews\r\n$3\r\nab")
    assert last_reply(scripted.connection) == 7
    scripted.peer.sendall(b"c\r\n:8\r\n")

    assert last_reply(scripted.connection) == 8
