"""A connection in subscribe mode that is read by ourselves.

Connecting, TLS, login and Sentinel are redis-py's. Its ``PubSub`` takes four times as long for a message as all that a
waiter does with it, so what comes in is parsed here: arrays of strings and numbers are all that a server pushes.
"""

from __future__ import annotations

import select
import threading
import time
from collections.abc import Callable, Sequence
from typing import Any

from redis.exceptions import ConnectionError as NoConnection
from redis.exceptions import ResponseError

from celery_perpetual.store.chunks import chunks
from celery_perpetual.store.commands.completions import open_subscription
from celery_perpetual.store.connection import Store

#: After so much silence the server is asked whether it is still there, in seconds.
SILENCE = 25.0
#: Most bytes of one read.
MOST_BYTES = 256 * 1024

_STRING = ord("$")
_ARRAYS = frozenset(b"*>")
_ERROR = ord("-")


class Subscription:
    """One connection. One thread may read while others subscribe."""

    def __init__(self, store: Store) -> None:
        """Connect.

        Raises:
            RedisError, OSError: the server cannot be reached, or refuses the login.
        """
        self._timeout = store.timeout
        self._pubsub: Any = open_subscription(store)
        self._pubsub.ping()
        self._socket: Any = self._pubsub.connection._sock  # noqa: SLF001  # kombu takes it from there too
        self._pending = getattr(self._socket, "pending", int)
        """Bytes that TLS has read ahead, which the system does not see."""
        self._is_readable = _readable(self._socket)
        self._io = threading.Lock()
        """TLS connections must not be read and written at once."""
        self._rest = b""
        self._heard = time.monotonic()
        self._asked = False

    def subscribe(self, channels: Sequence[str]) -> None:
        """Ask for channels; the server confirms each with a frame."""
        self._send("SUBSCRIBE", channels)

    def unsubscribe(self, channels: Sequence[str]) -> None:
        """Leave channels."""
        self._send("UNSUBSCRIBE", channels)

    def read(self, seconds: float) -> list[list[Any]]:
        """The frames that have come, ``[kind, channel, data]`` of bytes; waits so long for the first.

        Raises:
            RedisError, OSError: the connection is gone, or the server refused a command.
        """
        if not self._pending() and not self._is_readable(seconds):
            self._ask_after_silence()
            return []
        with self._io:
            data = self._socket.recv(MOST_BYTES)
        if not data:
            raise NoConnection("the server closed the connection")
        self._heard, self._asked = time.monotonic(), False
        only = None if self._rest else only_message(data)
        if only is not None:
            return [only]
        found, self._rest = frames(self._rest + data)
        return found

    def close(self) -> None:
        """Close the connection. A thread that reads meanwhile gets an error."""
        self._pubsub.close()

    def _ask_after_silence(self) -> None:
        silence = time.monotonic() - self._heard
        if silence > SILENCE + self._timeout:
            raise NoConnection(f"the server has sent nothing for {silence:.0f} s")
        if silence > SILENCE and not self._asked:
            self._asked = True
            self._send("PING", ())

    def _send(self, verb: str, arguments: Sequence[str]) -> None:
        connection = self._pubsub.connection
        for part in chunks(arguments) if arguments else [()]:
            with self._io:
                # A connection that breaks while it writes would connect anew by itself, without its channels.
                if connection is None or connection._sock is not self._socket:  # noqa: SLF001
                    raise NoConnection("the connection is closed")
                connection.send_command(verb, *part, check_health=False)


def _readable(connection: Any) -> Callable[[float], object]:
    """Waits for so many seconds until a socket can be read."""
    if not hasattr(select, "poll"):  # eventlet takes it away, and its select has no limit of descriptors
        return lambda seconds: select.select([connection], [], [], seconds)[0]
    poller = select.poll()
    poller.register(connection, select.POLLIN)
    return lambda seconds: poller.poll(seconds * 1000)


def frames(data: bytes) -> tuple[list[list[Any]], bytes]:
    """The whole frames at the beginning of what a server pushed, and the rest.

    Raises:
        ResponseError: the server refused a command.
        ConnectionError: this is no such protocol.
    """
    found: list[list[Any]] = []
    at, length = 0, len(data)
    while at < length:
        end = data.find(b"\r\n", at)
        if end < 0:
            break
        if data[at] == _ERROR:
            raise ResponseError(data[at + 1 : end].decode(errors="replace"))
        if data[at] not in _ARRAYS:  # a word, such as PONG
            at = end + 2
            continue
        frame, position = [], end + 2
        for _ in range(_number(data, at, end)):
            end = data.find(b"\r\n", position)
            if end < 0:
                return found, data[at:]
            if data[position] == _STRING:
                start, size = end + 2, _number(data, position, end)
                if size >= 0:  # otherwise there is none
                    end = start + size
                    if end + 2 > length:
                        return found, data[at:]
                frame.append(data[start:end])
            else:
                frame.append(data[position + 1 : end])
            position = end + 2
        found.append(frame)
        at = position
    return found, data[at:]


def only_message(data: bytes) -> list[Any] | None:
    """One whole message, which is what nearly always comes and a waiter waits for."""
    parts = data.split(b"\r\n", 6)
    if len(parts) < 7 or parts[2] != b"message":
        return None
    _, _, kind, length, channel, size, rest = parts
    if length != b"$%d" % len(channel) or size != b"$%d" % (len(rest) - 2) or rest[-2:] != b"\r\n":
        return None
    return [kind, channel, rest[:-2]]


def _number(data: bytes, at: int, end: int) -> int:
    try:
        return int(data[at + 1 : end])
    except ValueError:
        raise NoConnection(f"the server sent an unknown reply: {data[at:end][:40]!r}") from None
