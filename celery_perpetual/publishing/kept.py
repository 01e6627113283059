"""Ways to the broker that are kept for the next use by the same thread, as each has a connection."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Generic, Protocol, TypeVar


class Way(Protocol):
    """Something with a connection to the broker."""

    def close(self) -> None:
        """Close the connection."""


W = TypeVar("W", bound=Way)


class Kept(Generic[W]):
    """One way for each thread."""

    def __init__(self, make: Callable[[], W]) -> None:
        """Nothing is made yet.

        Args:
            make: makes one, for the thread that calls it.
        """
        self._make = make
        self._local = threading.local()

    @contextmanager
    def lent(self) -> Iterator[W]:
        """This thread's way within a block, and a new one for a block within it; one that fails is not kept."""
        way: W = getattr(self._local, "way", None) or self._make()
        self._local.way = None
        try:
            yield way
        except BaseException:
            way.close()
            raise
        self._local.way = way

    def release(self) -> None:
        """Close this thread's connection to the broker."""
        way: W | None = getattr(self._local, "way", None)
        if way is not None:
            self._local.way = None
            way.close()
