"""Connections for calls of scripts, which are what every task and every batch makes.

redis-py packs arguments, borrows a connection and looks whether it is still there for longer than the server takes for
the call itself. Here a call is packed by one formatting per argument and goes straight to a connection that is kept;
connecting, login, TLS, repeats and the reading of replies remain redis-py's.
"""

from __future__ import annotations

import os
from collections import deque
from typing import Any

from redis.exceptions import ResponseError


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

    def call(self, packed: bytes) -> Any:
        """Send one packed command, and return its reply; one more try as the client's settings say.

        Raises:
            RedisError, OSError: what redis-py raises.
        """
        if self._pid != os.getpid():  # forked: those are the parent's
            self._pid, self._idle = os.getpid(), deque()
        try:
            client = self._idle.pop()
        except IndexError:
            client = self._redis.client()
        connection = client.connection
        try:
            return connection.retry.call_with_retry(lambda: _ask(connection, packed), lambda _: connection.disconnect())
        except ResponseError:
            raise
        except BaseException:  # also a time limit's: the reply would be taken for that of the next call
            connection.disconnect()
            raise
        finally:
            self._idle.append(client)

    def close(self) -> None:
        """Hang up."""
        if self._pid == os.getpid():
            while self._idle:
                self._idle.pop().close()


def _ask(connection: Any, packed: bytes) -> Any:
    connection.connect()  # behind a Sentinel only this asks anew where the master is
    connection.send_packed_command([packed])
    return connection.read_response()


def packed(*arguments: str | bytes | float, more: int = 0) -> bytes:
    """A command on the wire, or the beginning of one that has so many ``more`` arguments."""
    texts = [each if isinstance(each, bytes) else str(each).encode() for each in arguments]
    return b"*%d\r\n" % (len(texts) + more) + b"".join([b"$%d\r\n%b\r\n" % (len(text), text) for text in texts])
