"""The steps of a wait: a wait is a generator that yields them, and blocking and async waits take them in their own way.

So the order of a wait stands in one place, in :mod:`.waits`; :mod:`.blocking` and :mod:`.aio` know how to sleep.
"""

from __future__ import annotations

from collections.abc import Generator, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Any, Generic, NamedTuple, TypeVar

T = TypeVar("T")


class Answer(NamedTuple):
    """Sleep until a read has an answer, at most so many seconds."""

    read: Future[Any]
    seconds: float


class Watch(NamedTuple):
    """Watch these channels, once; until the server has confirmed them or the deadline (monotonic)."""

    channels: Sequence[str]
    deadline: float


class Listen(NamedTuple):
    """Sleep until messages come, at most so many seconds; send them, or None where records are to be read."""

    seconds: float


@dataclass(slots=True, eq=False)
class Found(Generic[T]):
    """Hand something to the caller. Not frozen: a frozen one takes longer to make, and a wait ends with it."""

    what: T


Step = Answer | Watch | Listen
Steps = Generator[Step | Found[T], Any, None]
