"""Who watches which channels, and which the server has confirmed. Not safe for threads; the hub has a lock."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Protocol


class Watcher(Protocol):
    """Who wants to hear of some channels. Called from whatever thread reads; must not block."""

    reads: bool
    """Whether it reads by itself where it may (:meth:`.hub.Hub.read_until`); else the hub's thread reads for it."""

    def told(self, messages: list[bytes]) -> None:
        """Messages came."""

    def look(self) -> None:
        """Messages may have been missed: read the records."""


class Channels:
    """The book of one subscription."""

    def __init__(self) -> None:
        self._watchers: dict[str, set[Watcher]] = {}
        self._watched: dict[Watcher, int] = {}
        self._confirmed: set[str] = set()
        self._idle: set[str] = set()
        """Subscribed to, and nobody watches."""

    def __bool__(self) -> bool:
        return bool(self._watchers)

    def __iter__(self) -> Iterator[str]:
        return iter(self._watchers)

    @property
    def idle(self) -> int:
        """How many channels nobody watches any more."""
        return len(self._idle)

    @property
    def fewest(self) -> int:
        """How many channels whoever watches the fewest does."""
        return min(self._watched.values(), default=0)

    def join(self, watcher: Watcher, channels: Sequence[str]) -> list[str]:
        """Watch from now on; returns those that are to be subscribed to."""
        fresh = [each for each in dict.fromkeys(channels) if each not in self._watchers and each not in self._idle]
        self._idle.difference_update(channels)
        self._watched[watcher] = len(channels)
        for channel in channels:
            self._watchers.setdefault(channel, set()).add(watcher)
        return fresh

    def leave(self, watcher: Watcher, channels: Sequence[str]) -> None:
        """Stop watching. May be called twice."""
        self._watched.pop(watcher, None)
        for channel in dict.fromkeys(channels):
            left = self._watchers.get(channel)
            if left is not None:
                left.discard(watcher)
                if not left:
                    del self._watchers[channel]
                    self._idle.add(channel)

    def take_idle(self) -> list[str]:
        """Those that nobody watches, which are to be unsubscribed from."""
        idle, self._idle = list(self._idle), set()
        self._confirmed.difference_update(idle)
        return idle

    def missing(self, channels: Sequence[str]) -> list[str]:
        """Those without the server's word, for :meth:`settled`."""
        # Words come in the order of the commands: those for the last channels come last.
        return [channel for channel in reversed(channels) if channel not in self._confirmed]

    def settled(self, missing: list[str]) -> bool:
        """Whether the server has confirmed all that was missing."""
        while missing and missing[-1] in self._confirmed:
            missing.pop()
        return not missing

    def confirm(self, channels: Iterable[str]) -> None:
        """The server's word."""
        self._confirmed.update(each for each in channels if each in self._watchers or each in self._idle)

    def lost(self) -> None:
        """The connection is gone, and its words with it."""
        self._confirmed.clear()
        self._idle.clear()

    def of(self, channel: str) -> Iterable[Watcher]:
        """Who watches a channel."""
        return self._watchers.get(channel, ())

    def everybody(self) -> set[Watcher]:
        """Who watches anything."""
        return set(self._watched)
