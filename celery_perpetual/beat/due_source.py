"""Sources of due things, which the clock asks. Units to be polled are one source, routines are another."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol, TypeVar

D = TypeVar("D")
C = TypeVar("C")


class DueSource(Protocol[D, C]):
    """One kind of due things. All methods are called on the clock's thread, and none runs user code."""

    @property
    def busy(self) -> bool:
        """Whether something that it has started has not ended."""
        ...

    def begin_storing(self) -> Callable[[], float]:
        """Send the ends of what it has started to the store; what is returned waits for them.

        That returns the longest pause until the next turn, in seconds.
        """
        ...

    def due(self, leader: str) -> D | float:
        """The things that are due and have room, or seconds until one may be.

        Raises:
            NotLeading: ``leader`` (``owner:term``) does not lead any more.
        """
        ...

    def claim(self, leader: str, due: D) -> Sequence[C]:
        """Claim it; what is refused is left out.

        Raises:
            NotLeading: ``leader`` does not lead any more; nothing was claimed.
        """
        ...

    def start(self, claims: Sequence[C]) -> float:
        """Hand claims to threads or workers; seconds until the next turn."""
        ...
