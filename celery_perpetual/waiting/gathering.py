"""When to let messages gather before they are handed over."""

from __future__ import annotations

import time

#: Messages are a stream when this many have come, each within this time of the one before.
STREAM = 16
STREAM_SECONDS = 0.02
#: In a stream messages gather this long for each channel of the watcher that watches the fewest.
GATHER_SECONDS = 0.000_01
#: A shorter pause is not worth it, and a longer one is cut.
SHORTEST_GATHER, LONGEST_GATHER = 0.001, 0.01


class Gathering:
    """For the thread that reads the subscription; there is one at a time."""

    def __init__(self) -> None:
        self._count = 0
        self._went_on = 0.0

    def add(self, count: int) -> None:
        """So many messages came together."""
        now = time.monotonic()
        quick = count > 1 or now - self._went_on < STREAM_SECONDS
        self._count = min(self._count + count, STREAM) if quick else 0
        self._went_on = now

    @property
    def in_a_stream(self) -> bool:
        """Whether a pause may be worth it."""
        return self._count == STREAM

    def pause(self, fewest: int) -> None:
        """Let more messages come, where every watcher watches at least so many channels."""
        if fewest * GATHER_SECONDS >= SHORTEST_GATHER:
            time.sleep(min(fewest * GATHER_SECONDS, LONGEST_GATHER))
            self._went_on = time.monotonic()
