"""How much one call of the store carries, so that no call holds the server up."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import islice
from typing import Any, TypeVar

T = TypeVar("T")

#: Records, ids or keys per call: half the blocking of 1 000 at no cost in speed.
CHUNK = 500


def chunks(entries: Iterable[T], most: int = CHUNK) -> Iterator[list[T]]:
    """At most so many at a time, so that no call holds the server up."""
    walk = iter(entries)
    while part := list(islice(walk, most)):
        yield part


def chunk_count(entries: int) -> int:
    """How many chunks so many records are in."""
    return -(-entries // CHUNK)


def grouped(flat: Iterable[Any], size: int) -> Iterator[tuple[Any, ...]]:
    """A flat reply of a script in groups of ``size``.

    Raises:
        ValueError: the last group is not whole.
    """
    return zip(*[iter(flat)] * size, strict=True)
