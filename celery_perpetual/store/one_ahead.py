"""One call of the store on its way, while its caller makes the next one ready."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from typing import Generic, TypeVar

T = TypeVar("T")


class OneAhead(Generic[T]):
    """Holds the call that is on its way; a block that ends by an error waits for its reply, and drops it.

    A reply that is not read would be taken for that of the next call over its connection.
    """

    def __init__(self) -> None:
        self._reply: Callable[[], T] | None = None

    def __enter__(self) -> OneAhead[T]:
        return self

    def __exit__(self, *_: object) -> None:
        with suppress(Exception):  # another error is raised already, and says more
            self.reply()

    @property
    def is_owed(self) -> bool:
        """Whether a reply is to come."""
        return self._reply is not None

    def begin(self, reply: Callable[[], T]) -> None:
        """Keep what waits for the reply of a call that has just been sent."""
        assert self._reply is None, "the reply of the call before is not read yet"
        self._reply = reply

    def reply(self) -> T | None:
        """The reply of the call, None where no call is on its way.

        Raises:
            StoreUnavailable: the store did not answer.
        """
        reply, self._reply = self._reply, None
        return None if reply is None else reply()
