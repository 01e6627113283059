"""The right word for a misspelt one, for errors that refuse a name."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


def nearest(name: object, known: Iterable[str], cutoff: float = 0.5) -> str | None:
    """The known word that is most like ``name``; None where nothing is at least ``cutoff`` (0 to 1) alike."""
    found = difflib.get_close_matches(str(name), list(known), 1, cutoff)
    return found[0] if found else None
