"""Which watcher watches which channels, and which channels the server has confirmed.

Not safe for threads: the hub has a lock.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Protocol


class Watcher(Protocol):
    """Receives the messages of some channels. Called from the thread that reads; must not block."""

    reads: bool
    """Whether it reads the connection itself where it may (:meth:`.hub.Hub.wait_until`); else the hub's thread does."""

    def receive(self, messages: list[bytes]) -> None:
        """Messages came."""

    def read_again(self) -> None:
        """Messages may have been missed: read the records."""


class Channels:
    """The channels of one subscription."""

    def __init__(self) -> None:
        self._watchers: dict[str, set[Watcher]] = {}
        self._watched: dict[Watcher, int] = {}
        self._confirmed: set[str] = set()
        self._idle: set[str] = set()
        """Subscribed to, without a watcher."""

    def __bool__(self) -> bool:
        return bool(self._watchers)

    def __iter__(self) -> Iterator[str]:
        return iter(self._watchers)

    @property
    def idle(self) -> int:
        """How many channels have lost their last watcher."""
        return len(self._idle)

    @property
    def fewest(self) -> int:
        """How many channels the watcher with the fewest watches."""
        return min(self._watched.values(), default=0)

    def join(self, watcher: Watcher, channels: Sequence[str]) -> list[str]:
        """Watch from now on; returns the channels that are to be subscribed to."""
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

    def pop_idle(self) -> list[str]:
        """The channels without a watcher, which are to be unsubscribed from."""
        idle, self._idle = list(self._idle), set()
        self._confirmed.difference_update(idle)
        return idle

    def unconfirmed(self, channels: Sequence[str]) -> list[str]:
        """Those that the server has not confirmed yet, for :meth:`all_confirmed`."""
        # Confirmations arrive in the order of the commands, so the last channels are looked at first.
        return [channel for channel in reversed(channels) if channel not in self._confirmed]

    def all_confirmed(self, unconfirmed: list[str]) -> bool:
        """Whether the server has confirmed all of these by now; takes confirmed ones out of the list."""
        while unconfirmed and unconfirmed[-1] in self._confirmed:
            unconfirmed.pop()
        return not unconfirmed

    def confirm(self, channels: Iterable[str]) -> None:
        """The server has confirmed these."""
        self._confirmed.update(each for each in channels if each in self._watchers or each in self._idle)

    def disconnected(self) -> None:
        """The connection is gone, and what was confirmed on it."""
        self._confirmed.clear()
        self._idle.clear()

    def watchers_of(self, channel: str) -> Iterable[Watcher]:
        """The watchers of one channel."""
        return self._watchers.get(channel, ())

    def watchers(self) -> set[Watcher]:
        """All watchers."""
        return set(self._watched)
