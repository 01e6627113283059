"""The right word for a misspelt one, for errors that refuse a name."""

from __future__ import annotations

import difflib
from collections.abc import Iterable

#: The attributes of a perpetual task.
ATTRIBUTES = (
    "poll_every", "next_batch", "tenants", "preflight", "max_in_flight", "poll_timeout", "lease", "on_lost",
    "after_success", "perpetual_options",
)  # fmt: skip

#: The options of a perpetual task, ``PerpetualOptions``.
OPTIONS = (
    "poll_in", "overlap", "jitter", "limit", "dedup_window", "failed_keys", "low_water", "max_interval", "min_interval",
    "source_key", "max_queue_depth", "window", "max_recoveries", "history", "tenants_ttl", "preflight_ttl",
    "retry_classified", "enabled", "completions", "on_batch_done", "error_rules", "starvation", "store_args",
    "poll_queue",
)  # fmt: skip


def nearest(name: object, known: Iterable[str], cutoff: float = 0.5) -> str | None:
    """The known word that is most like ``name``; None where nothing is at least ``cutoff`` (0 to 1) alike."""
    found = difflib.get_close_matches(str(name), list(known), 1, cutoff)
    return found[0] if found else None


def hint(name: object, known: Iterable[str], cutoff: float = 0.5, prefix: str = "") -> str:
    """The end of an error that refuses a name: ``, did you mean …?``, or all that are known where none is like it.

    Args:
        name: the word that is refused.
        known: the words that are right.
        cutoff: see :func:`nearest`.
        prefix: stands before each of them, and is left out of the comparison.
    """
    words = list(known)
    near = nearest(name, words, cutoff)
    if near is not None:
        return f", did you mean {prefix}{near}?"
    return f"; known are {', '.join(f'{prefix}{word}' for word in words) or 'none'}"
