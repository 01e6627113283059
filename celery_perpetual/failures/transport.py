"""Errors of the transport: the other side was not reached, or did not answer.

Libraries are known by the names of their exception classes, so nothing is imported that a project does not use.
"""

from __future__ import annotations

import errno
import ssl
from collections.abc import Iterator

from celery_perpetual.errors import StoreUnavailable
from celery_perpetual.failures.classes import chain

BUILT_IN = (ConnectionError, TimeoutError, EOFError, ssl.SSLError, StoreUnavailable)

#: An ``OSError`` may be about anything, and is known by its number.
NUMBERS = frozenset(
    {
        errno.ENETUNREACH, errno.ENETDOWN, errno.ENETRESET, errno.EHOSTUNREACH, errno.EHOSTDOWN, errno.ECONNREFUSED,
        errno.ECONNRESET, errno.ECONNABORTED, errno.ETIMEDOUT, errno.EPIPE, errno.ENOTCONN, errno.EADDRNOTAVAIL,
    }
)  # fmt: skip

#: Names of exception classes by the package that defines them; their subclasses count.
KNOWN = {
    "socket": {"gaierror", "herror", "timeout"},
    "asyncio": {"TimeoutError"},
    "concurrent": {"TimeoutError"},
    "http": {"RemoteDisconnected", "IncompleteRead", "BadStatusLine"},
    "smtplib": {"SMTPServerDisconnected", "SMTPConnectError"},
    "imaplib": {"abort"},
    "requests": {"ConnectionError", "Timeout", "ChunkedEncodingError"},
    "urllib3": {"ProtocolError", "TimeoutError", "NewConnectionError", "SSLError", "ProxyError", "NameResolutionError"},
    "httpx": {"TransportError"},
    "httpcore": {"NetworkError", "TimeoutException", "ProtocolError", "ProxyError"},
    "aiohttp": {"ClientConnectionError", "ServerTimeoutError", "ClientPayloadError"},
    "kombu": {"OperationalError"},
    "amqp": {"ConnectionError", "RecoverableConnectionError"},
    "redis": {"ConnectionError", "TimeoutError"},
    "valkey": {"ConnectionError", "TimeoutError"},
    "botocore": {"HTTPClientError", "ConnectionError"},
    "pymongo": {"AutoReconnect", "NetworkTimeout"},
    "psycopg": {"OperationalError"},
    "psycopg2": {"OperationalError"},
    "pymysql": {"OperationalError"},
    "MySQLdb": {"OperationalError"},
    "billiard": {"SoftTimeLimitExceeded"},
}

#: Subclasses of those which say that something is set up wrongly: no next try helps.
NOT_TRANSPORT = frozenset(
    {"AuthenticationError", "AuthorizationError", "UnsupportedProtocol", "AuthenticationWrongNumberOfArgsError"}
)


def is_transport(error: BaseException) -> bool:
    """Whether an error, or what caused it, is one of the transport."""
    return any(_is_one(each) for each in chain(error))


def _is_one(error: BaseException) -> bool:
    names = set(_names(type(error)))
    if any(name in NOT_TRANSPORT for _, name in names):
        return False
    if isinstance(error, BUILT_IN):
        return True
    if isinstance(error, OSError) and error.errno in NUMBERS:
        return True
    return any(name in KNOWN.get(package, ()) for package, name in names)


def _names(cls: type) -> Iterator[tuple[str, str]]:
    for base in cls.__mro__:
        yield base.__module__.partition(".")[0], base.__name__
