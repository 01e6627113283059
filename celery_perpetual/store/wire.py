"""Connections for calls of scripts, which are what every task and every batch makes.

redis-py packs arguments, borrows a connection and looks whether it is still there for longer than the server takes for
the call itself. Here a call is packed by one formatting per argument and goes straight to a connection that is kept;
replies are read in one step where they are plain (:mod:`.replies`). Connecting, login, TLS, repeats and all other
replies remain redis-py's.

Measured for the end of a task, in the client's own processor time per call: ``redis.evalsha`` takes 2.9 times as long,
and with hiredis 2.6 times; that is what the kept connections are for. Packing by redis-py over a kept connection takes
1.25 times as long as packing here, and with hiredis the same.
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

from redis.exceptions import ConnectionError as NoConnection
from redis.exceptions import RedisError, ResponseError
from redis.exceptions import TimeoutError as NoAnswer

from celery_perpetual.store.refusals import is_refusal
from celery_perpetual.store.replies import last_reply

_PING = b"*1\r\n$4\r\nPING\r\n"


class Wire:
    """As many connections as calls were made at once. May be used from any thread, and after a fork."""

    def __init__(self, redis: Any) -> None:
        """Connect nowhere yet.

        Args:
            redis: the client whose pool the connections come from.
        """
        self._redis = redis
        self._pid = os.getpid()
        self._idle: deque[Any] = deque()

    def call(self, packed: bytes, *, yielding: bool = False, replies: int = 1) -> Any:
        """Send one packed command, or several, and return the last reply.

        A kept connection may be dead without a sign, or lead to a server that has handed over its work. So a call
        without a reply, or with a reply that says "not now", is made once more over a new connection.

        Args:
            packed: what to send.
            yielding: let the server write to others first, to whom the command publishes.
            replies: how many commands there are.

        Raises:
            RedisError, OSError: what redis-py raises.
        """
        client = self._client()
        if yielding:
            # A server writes to its clients in the order in which they began to wait for output, the last one first,
            # and the caller of a command is always the last one. A PING before the command makes the caller the first
            # to wait, so the server writes to it last. Where the answer to the PING matters, the other reply says it
            # too.
            packed, replies = _PING + packed, replies + 1
        try:
            reply = _ask(client.connection, packed, replies)
        except BaseException as error:
            with self._lent(client):
                if not isinstance(error, RedisError | OSError) or _is_answer(error):
                    raise
                client.connection.disconnect()
                return _ask(client.connection, packed, replies)
        self._idle.append(client)
        return reply

    def begin(self, packed: bytes) -> Callable[[], Any]:
        """Send one packed command, and return what reads its reply. There is no second try.

        Raises:
            RedisError, OSError: what redis-py raises; also when the reply is read.
        """
        client = self._client()
        try:
            _send(client.connection, packed)
        except BaseException:
            with self._lent(client):
                raise

        def reply() -> Any:
            with self._lent(client):
                return last_reply(client.connection)

        return reply

    def _client(self) -> Any:
        if self._pid != os.getpid():  # forked: those are the parent's
            self._pid, self._idle = os.getpid(), deque()
        try:
            return self._idle.pop()
        except IndexError:
            return self._redis.client()

    def _lent(self, client: Any) -> _Lent:
        return _Lent(self._idle, client)

    def close(self) -> None:
        """Hang up."""
        if self._pid == os.getpid():
            while self._idle:
                self._idle.pop().close()


class _Lent:
    """Gives a client back after a block."""

    __slots__ = ("_client", "_idle")

    def __init__(self, idle: deque[Any], client: Any) -> None:
        self._idle = idle
        self._client = client

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: object) -> None:
        # A time limit may come in the middle: the reply that is on its way would be taken for that of the next call.
        if error is not None and not _is_answer(error):
            self._client.connection.disconnect()
        self._idle.append(self._client)


def _is_answer(error: BaseException) -> bool:
    """Whether the server has answered with an error, so that the connection is as good as before."""
    return isinstance(error, ResponseError) and not is_refusal(error)


def _ask(connection: Any, packed: bytes, replies: int) -> Any:
    _send(connection, packed)
    return last_reply(connection, replies)


def _send(connection: Any, packed: bytes) -> None:
    if connection._sock is None:  # noqa: SLF001  # kombu looks there too
        connection.connect()  # behind a Sentinel only this asks anew where the master is
    try:
        connection._sock.sendall(packed)  # noqa: SLF001
    except BaseException as error:
        # Half a command may be on its way.
        connection.disconnect()
        if isinstance(error, TimeoutError):
            raise NoAnswer("time-out while writing to the socket") from error
        if isinstance(error, OSError):
            raise NoConnection(f"error while writing to the socket: {error}") from error
        raise


class Packed(NamedTuple):
    """Arguments of a command that are packed already."""

    number: int
    text: bytes


def packed(*arguments: str | bytes | float | Packed, more: int = 0) -> bytes:
    """A command on the wire, or the beginning of one that has so many ``more`` arguments."""
    parts, count = [], more
    for each in arguments:
        if isinstance(each, Packed):
            count += each.number
            parts.append(each.text)
            continue
        text = each if isinstance(each, bytes) else str(each).encode()
        count += 1
        parts.append(b"$%d\r\n%b\r\n" % (len(text), text))
    return b"*%d\r\n" % count + b"".join(parts)


def packed_list(arguments: Iterable[str | bytes | float]) -> Packed:
    """Many arguments, by one formatting, which takes half the time."""
    values: list[Any] = list(arguments)
    if {str}.issuperset(map(type, values)):
        return Packed(len(values), _packed_texts(values))
    return Packed(
        len(values), _packed_bytes([each if isinstance(each, bytes) else str(each).encode() for each in values])
    )


def _packed_texts(texts: list[str]) -> bytes:
    text = "".join([f"${len(each)}\r\n{each}\r\n" for each in texts])
    # Lengths are those of bytes.
    return text.encode() if text.isascii() else _packed_bytes([each.encode() for each in texts])


def _packed_bytes(texts: list[bytes]) -> bytes:
    values: list[Any] = []
    for text in texts:
        values += (len(text), text)
    return b"$%d\r\n%b\r\n" * len(texts) % tuple(values)
