"""How many rows a poll need read at most to find all the new ones that it may enqueue."""

from __future__ import annotations

from collections.abc import Callable

#: By so many rows ``poll.limit`` may exceed what the poll may enqueue.
MOST_LEFT_OUT = 10_000


class Rows:
    """The number of rows that are worth reading. The store is asked when it is needed: many polls find nothing."""

    __slots__ = ("_count", "_left_out", "_new")

    def __init__(self, new: int, left_out: Callable[[], int] | None = None) -> None:
        """Count nothing yet.

        Args:
            new: how many items the poll may enqueue.
            left_out: asks the store how many rows will be left out; None where no rows are.
        """
        self._new = new
        self._left_out = left_out
        self._count: int | None = None

    @property
    def count(self) -> int:
        """The number; it stays the same.

        Raises:
            StoreUnavailable: the store did not answer.
        """
        if self._count is None:
            left_out = self._left_out() if self._left_out is not None else 0
            self._count = self._new + min(left_out, MOST_LEFT_OUT)
        return self._count


#: Nothing is to be read.
NO_ROWS = Rows(0)
