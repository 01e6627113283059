"""Classes of errors."""

from __future__ import annotations

from collections.abc import Iterator
from enum import Enum

#: No chain of causes is followed further.
LONGEST_CHAIN = 20


class ErrorClass(str, Enum):
    """The kind of trouble that an error is: it decides how soon a next try makes sense."""

    NODE = "node"
    """The way to the other side: connections, names, TLS, timeouts. It recovers by itself, and soon."""
    SERVICE = "service"
    """The other side asks for less, or for time: 429, 5xx, ``Retry-After``."""
    DEGRADED = "degraded"
    """Everything of which nothing better is known. It is reported as an error, and tried again."""
    PERMANENT = "permanent"
    """A next try makes no sense: the unit is paused. Only a rule or a classifier says so."""

    def __str__(self) -> str:
        return self.value


def chain(error: BaseException) -> Iterator[BaseException]:
    """The error, then what caused it, from the outside in.

    An exception names its cause by ``raise … from``, by being raised while another one is handled, or, as those of
    urllib and urllib3 do, by ``reason`` or its first argument.
    """
    seen: set[int] = set()
    left = [error]
    while left and len(seen) < LONGEST_CHAIN:
        each = left.pop(0)
        if id(each) in seen:
            continue
        seen.add(id(each))
        yield each
        context = None if each.__suppress_context__ else each.__context__
        inner = (each.__cause__ or context, getattr(each, "reason", None), each.args[0] if each.args else None)
        left += [cause for cause in inner if isinstance(cause, BaseException)]
