"""Replies by which a Redis server says "not now".

The server is there, but it is full, loads its data, fails over, has lost its replicas, or has another password by now.
That passes, as an outage does. redis-py has an exception for some of these replies, and then removes the code from the
text; for others it raises a plain ``ResponseError`` whose text begins with the code. If a command inside a script is
refused, older servers put the refusal somewhere into the text of the script's own error; and what the user of the store
may not do inside a script is refused without a code.
"""

from __future__ import annotations

import re

from redis.exceptions import ConnectionError as NoConnection
from redis.exceptions import NoPermissionError, RedisError
from redis.exceptions import TimeoutError as NoAnswer

#: Names of redis-py's exceptions; which of them exist depends on its version.
_KINDS = {
    "AuthenticationError",
    "AuthenticationWrongNumberOfArgsError",
    "AuthorizationError",
    "BusyLoadingError",
    "ClusterDownError",
    "ExternalAuthProviderError",
    "MasterDownError",
    "MaxConnectionsError",
    "NoPermissionError",
    "OutOfMemoryError",
    "ReadOnlyError",
    "TryAgainError",
}
_CODES = re.compile(
    r"(?:^|[\s:-])(?:OOM|MISCONF|NOREPLICAS|READONLY|LOADING|MASTERDOWN|CLUSTERDOWN|TRYAGAIN|BUSY|NOAUTH|WRONGPASS|NOPERM)\s"
    r"|max number of clients|UNBLOCKED"
    r"|ACL failure in script|The user executing the script can't"
)
_LOGIN = {"AuthenticationError", "AuthenticationWrongNumberOfArgsError"}
_LOGIN_CODES = re.compile(r"(?:^|[\s:-])(?:NOAUTH|WRONGPASS)\s")


def is_refusal(error: BaseException | None) -> bool:
    """Whether an error of redis-py says that the server may do later what it does not do now."""
    if not isinstance(error, RedisError):
        return False
    return any(kind.__name__ in _KINDS for kind in type(error).__mro__) or _CODES.search(str(error)) is not None


def login_trouble(error: BaseException) -> str | None:
    """Return what an error of redis-py says about user and password; None where it is about something else."""
    if not any(kind.__name__ in _LOGIN for kind in type(error).__mro__) and not _LOGIN_CODES.search(str(error)):
        return None
    # The server's words for a missing password are about its protocol.
    return "no password is given" if "HELLO must be called" in str(error) else str(error)


def is_forbidden(error: BaseException | None) -> bool:
    """Whether an error of redis-py says that the user of the store may not do this."""
    return isinstance(error, NoPermissionError) or "NOPERM" in str(error)


def is_outage(error: BaseException) -> bool:
    """Whether an error of any Redis client passes: the server cannot be reached, is silent, or refuses for now."""
    return isinstance(error, NoConnection | NoAnswer | OSError) or is_refusal(error)
