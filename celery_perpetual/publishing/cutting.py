"""Cuts a specimen of a message at the values that differ from message to message."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import AnyStr


def cut(text: AnyStr, marks: Mapping[AnyStr, str], order: Sequence[str]) -> list[AnyStr] | None:
    """The pieces before, between and behind marks; None where the marks do not stand in the text in this order.

    A regular expression would be compiled for each specimen, as the marks are random: that takes longer than the rest.

    Args:
        marks: mark -> its name.
        order: names of the marks as they must stand in the text, and no others.
    """
    by_name = {name: mark for mark, name in marks.items()}
    pieces, at = [], 0
    for name in order:
        mark = by_name[name]
        found = text.find(mark, at)
        if found < 0:
            return None
        pieces.append(text[at:found])
        at = found + len(mark)
    pieces.append(text[at:])
    return None if any(mark in piece for mark in marks for piece in pieces) else pieces
