"""The units that are due, as the script ``due`` answers them.

Anyone may write into the store. A name that is none of a unit is read all the same, so that the caller can take it out
of the clock; a time, a trigger or a slot that cannot be read is as if it was not there.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

#: Digits of a time in ms.
LONGEST = 15


class Due(NamedTuple):
    """A unit that is due; times are ms."""

    unit: str
    """Its name, or what a strange hand has put there."""
    at: int
    anchor: int | None
    trigger: str
    suspect: bool
    """Its poll was open when a leader died."""


def read_due(reply: Sequence[bytes]) -> tuple[int, int | None, list[Due]]:
    """The store's time, the due time of the first unit that is not read, and what is due; see ``due.lua``."""
    now, following, lines, *names = reply
    found = [_read_line(line) for line in _text(lines).split("\n")] if lines else []
    found += [Due(_text(name), 0, None, "", suspect=False) for name in names]
    return int(now), None if following in (b"", b"inf") else _time(following), found


def _read_line(line: str) -> Due:
    at, anchor, trigger, suspect, unit = line.split(" ", 4)
    slot = int(anchor) if anchor.isdecimal() and len(anchor) <= LONGEST else None
    return Due(unit, _time(at), slot, "" if trigger == "-" else trigger, suspect == "1")


def _time(score: str | bytes) -> int:
    """A due time in ms; one before 1970, which is none of ours, is long over."""
    return int(max(0.0, float(score)))


def _text(stored: bytes) -> str:
    """Also of bytes that are no text: as the name of no unit, it is taken out of the clock."""
    return stored.decode(errors="surrogateescape")
