"""One execution of a task: a delivery of its message that was given the right to run."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass

from celery.exceptions import Ignore

#: Where a request keeps what its receiving worker knows of its delivery.
OF_DELIVERY = NONCE, TAG, COPY, STRUCK = "perpetual_nonce", "perpetual_tag", "perpetual_copy", "perpetual_struck"

#: With which step its message is struck off the broker's books, where a script does that.
AT_START, AT_END = "start", "end"


class LeaseLost(Ignore):
    """The execution has no right to go on: Celery ignores what it brings, and it completes nothing."""


@dataclass(slots=True, kw_only=True)
class Execution:
    """One execution, in the process that runs it or in the one that speaks for it."""

    task_id: str
    nonce: str
    """Of the delivery; made where the message was received."""
    leased: bool = True
    """False where it runs without a lease, because the store did not answer."""
    token: int | None = None
    """Fencing number of the lease; only grows."""
    recoveries: int = 0
    tag: str = ""
    """Delivery tag of the message that the end strikes off the broker's books; "" where Celery acknowledges it."""
    granted_at: float = 0.0
    """Just before the lease was asked for: seconds of the machine's monotonic clock."""


_current: ContextVar[Execution | None] = ContextVar("celery_perpetual.execution", default=None)


def current() -> Execution | None:
    """The execution that this thread runs or speaks for."""
    return _current.get()


@contextmanager
def acting_for(execution: Execution | None) -> Iterator[None]:
    """Whatever is said inside of how a task ended is said of this execution."""
    before = _current.set(execution)
    try:
        yield
    finally:
        _current.reset(before)
