"""Replies of scripts, read in one step where they have arrived and are plain.

redis-py reads a reply line by line through several layers. Here the bytes that have arrived are looked at and stay
where they are; a number, a text of one line, or a list of these is taken as a whole. Any other reply (an error, a push
message, one of which a part is on its way, or that comes through TLS) is left to redis-py, which finds all of it.

Measured in the client's own processor time per call of a script: 0.7 to 0.8 times what it is with redis-py's reading.
With hiredis that is as quick, and is used.
"""

from __future__ import annotations

import socket
from contextlib import suppress
from typing import Any

from redis.exceptions import ConnectionError as NoConnection
from redis.exceptions import ResponseError
from redis.exceptions import TimeoutError as NoAnswer
from redis.utils import HIREDIS_AVAILABLE

#: Bytes that are looked at. The replies that every task waits for are shorter by far.
MOST = 2048

_TEXT, _NUMBER, _WORD, _LIST = b"$:+*"


def last_reply(connection: Any, replies: int = 1) -> Any:
    """The last one of so many replies; what the others say is dropped, errors too.

    Raises:
        ResponseError: the server answered with an error.
        RedisError, OSError: there is no reply. The connection is closed then.
    """
    sock = connection._sock  # noqa: SLF001
    # The class is asked for now: green pools put another one there.
    if not HIREDIS_AVAILABLE and type(sock) is socket.socket and not _holds_bytes(connection):
        seen = _arrived(connection, sock)
        try:
            value = _plain(seen, replies)
        except (_NotPlain, IndexError):
            pass
        else:
            sock.recv(len(seen))
            return value
    for _ in range(replies - 1):
        with suppress(ResponseError):
            connection.read_response()
    return connection.read_response()


def _holds_bytes(connection: Any) -> bool:
    """Whether redis-py has read more than it has given out, such as a part of a push message."""
    buffer = connection._parser._buffer  # noqa: SLF001
    return buffer is None or bool(buffer.unread_bytes())


def _arrived(connection: Any, sock: Any) -> bytes:
    try:
        seen: bytes = sock.recv(MOST, socket.MSG_PEEK)
    except BaseException as error:
        # A reply that comes later would be taken for that of the next call.
        connection.disconnect()
        if isinstance(error, TimeoutError):
            raise NoAnswer("time-out while reading from the socket") from error
        if isinstance(error, OSError):
            raise NoConnection(f"error while reading from the socket: {error}") from error
        raise
    return seen


class _NotPlain(Exception):
    """The reply is of another form, or a part of it is on its way."""


def _plain(seen: bytes, replies: int) -> Any:
    """The last one of so many replies.

    Raises:
        _NotPlain, IndexError: they are not plain, or not all of them are here.
    """
    if not seen.endswith(b"\r\n"):
        raise _NotPlain
    lines = seen.split(b"\r\n")
    value: Any = None
    at = 0
    for _ in range(replies):
        head = lines[at]
        at += 1
        if head[0] == _LIST and head != b"*-1":
            value = []
            for _ in range(int(head[1:])):
                head = lines[at]
                if head[0] == _NUMBER:
                    value.append(int(head[1:]))
                    at += 1
                else:
                    value.append(_text(head, lines[at + 1]))
                    at += 2
        elif head[0] == _NUMBER:
            value = int(head[1:])
        elif head[0] == _WORD:
            value = head[1:]
        else:
            value = _text(head, lines[at])
            at += 1
    if at != len(lines) - 1:
        raise _NotPlain
    return value


def _text(head: bytes, text: bytes) -> bytes:
    """A text without line breaks, by its line and the one before with its length."""
    if head[0] != _TEXT or int(head[1:]) != len(text):
        raise _NotPlain
    return text
