"""One subscription per process, whatever the number of ids and waiters.

Whoever watches a channel has the server's word for the subscription before the record is read, so no end falls between
the two. When the connection breaks, a new one subscribes to everything again and *then* every watcher is told to read
its records, so nothing that happened meanwhile is missed.

One thread at a time reads the connection and hands each message to those who watch its channel. A blocking wait reads
by itself as long as nobody else does and nobody relies on another: the message that it waits for then wakes it, and not
a thread that has to wake it. For everybody else, and whenever the connection has to be made, the hub's own thread
reads. Whatever a waiter leaves unread, because its caller does something else between two ends, that thread reads after
a second.

A message is handed over at once. Only where all who watch wait for many ids and these end in a stream, messages are
let gather for some milliseconds and are handed over together: most of what one costs is waking threads.
A waiter that has its answer leaves at once; the hub's thread unsubscribes later, or hangs up if nobody is left.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Protocol

from celery.utils.log import get_logger
from redis.exceptions import RedisError

from celery_perpetual.completions.subscription import Subscription
from celery_perpetual.store import Store

logger = get_logger(__name__)

#: A reader looks this often whether anybody still watches, and the hub's thread whether somebody left a message unread.
READ_SECONDS = 1.0
RECONNECT_SECONDS = 0.1
#: How long a new watcher waits for the server's word; a watcher reads its records now and then anyway.
CONFIRM_SECONDS = 2.0
#: Messages are a stream when this many have come, each within this time of the one before.
STREAM = 16
STREAM_SECONDS = 0.02
#: Then they gather this long for each id that is waited for by whoever waits for the fewest.
GATHER_SECONDS = 0.000_01
#: Not worth a pause, and the longest.
SHORTEST_GATHER, LONGEST_GATHER = 0.001, 0.01
#: Channels that nobody watches any more are left this often, in seconds, or when there are so many of them.
TIDY_SECONDS = 1.0
MANY_IDLE = 1000


class Watcher(Protocol):
    """Who wants to hear of some channels. Called from whatever thread reads; must not block."""

    reads: bool
    """Whether it reads by itself where it may (:meth:`Hub.read_until`); otherwise the hub's thread reads for it."""

    def told(self, messages: list[bytes]) -> None:
        """Messages came."""

    def look(self) -> None:
        """Messages may have been missed: read the records."""


class Hub:
    """The process's subscription."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._reset()

    def _reset(self) -> None:
        self._pid = os.getpid()
        lock = threading.RLock()
        self._changed = threading.Condition(lock)
        """For whoever waits for the server's word."""
        self._duty = threading.Condition(lock)
        """For the hub's thread."""
        self._watchers: dict[str, set[Watcher]] = {}
        self._watched: dict[Watcher, int] = {}
        self._relying: set[Watcher] = set()
        """Those for whom the hub's thread has to read."""
        self._reader: object | None = None
        """Whoever reads the connection now."""
        self._confirmed: set[str] = set()
        self._idle: set[str] = set()
        """Subscribed to, and nobody watches."""
        self._tidied = 0.0
        self._newest: str | None = None
        self._subscription: Subscription | None = None
        self._broken = False
        self._catching_up = False
        self._streaming = 0
        self._went_on = 0.0
        self._thread: threading.Thread | None = None

    @contextmanager
    def watching(self, watcher: Watcher, channels: Sequence[str]) -> Iterator[None]:
        """Watch within a block."""
        try:
            self.watch(watcher, channels)
            yield
        finally:
            self.unwatch(watcher, channels)

    def watch(self, watcher: Watcher, channels: Sequence[str]) -> None:
        """Subscribe. When this returns, what is published from now on is heard, or there will be a look."""
        if self._pid != os.getpid():  # forked: the subscription is the parent's
            self._reset()
        if not channels:
            return
        with self._changed:
            fresh = [each for each in dict.fromkeys(channels) if each not in self._watchers and each not in self._idle]
            self._idle.difference_update(channels)
            self._watched[watcher] = len(channels)
            for channel in channels:
                self._watchers.setdefault(channel, set()).add(watcher)
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="perpetual-hub", daemon=True)
                self._thread.start()
            elif fresh and self._subscription is not None:
                self._subscribe(self._subscription, fresh)
            if not watcher.reads:
                self._relying.add(watcher)
                self._duty.notify()
            # Words come in the order of the commands: those for the last channels come last.
            missing = [channel for channel in reversed(channels) if channel not in self._confirmed]

        def confirmed() -> bool:
            return self._broken or self._all_confirmed(missing)

        deadline = time.monotonic() + CONFIRM_SECONDS
        if not self.read_until(watcher, confirmed, deadline):
            with self._changed:
                self._changed.wait_for(confirmed, deadline - time.monotonic())
            if watcher.reads:
                self.done(watcher)

    def _all_confirmed(self, missing: list[str]) -> bool:
        while missing and missing[-1] in self._confirmed:
            missing.pop()
        return not missing

    def unwatch(self, watcher: Watcher, channels: Sequence[str]) -> None:
        """Stop hearing. May be called twice."""
        if self._pid != os.getpid():  # forked: the parent goes on hearing
            return
        with self._changed:
            self._watched.pop(watcher, None)
            self._relying.discard(watcher)
            for channel in dict.fromkeys(channels):
                left = self._watchers.get(channel)
                if left is not None:
                    left.discard(watcher)
                    if not left:
                        del self._watchers[channel]
                        self._idle.add(channel)

    def read_until(self, watcher: Watcher, done: Callable[[], object], deadline: float) -> bool:
        """Read the connection in this thread, until something is done or the time (monotonic) is over.

        Returns:
            False where another thread reads: for this watcher too, until :meth:`done` is called.
        """
        me = object()
        while not done():
            seconds = deadline - time.monotonic()
            if seconds <= 0:
                return True
            try:
                with self._changed:
                    subscription = self._subscription
                    if subscription is None or self._reader is not None or self._relying:
                        self._relying.add(watcher)
                        self._duty.notify()
                        return False
                    self._reader = me
                if self._streaming == STREAM:
                    self._gather()
                self._hand_over(subscription.read(min(seconds, READ_SECONDS)))
            except BaseException as error:
                # It may have been raised between what was read and whom it was for, by a time limit for example.
                if self._reader is me:
                    self._disconnect(error)
                if not isinstance(error, RedisError | OSError):
                    raise
            finally:
                self._stop_reading(me)
        return True

    def done(self, watcher: Watcher) -> None:
        """Nobody need read for this watcher any more."""
        with self._changed:
            self._relying.discard(watcher)

    def _stop_reading(self, me: object) -> None:
        with self._changed:
            if self._reader is me:
                self._reader = None
                if self._relying or self._subscription is None:
                    self._duty.notify()

    def _subscribe(self, subscription: Subscription, channels: Sequence[str]) -> None:
        """Write to the connection that somebody reads; a broken one is the reader's to replace."""
        self._newest = channels[-1]
        try:
            subscription.subscribe(channels)
        except (RedisError, OSError) as error:
            logger.info("perpetual: the subscription broke: %s", error)

    def _run(self) -> None:
        while True:
            with self._changed:
                on_duty = self._duty.wait_for(self._wanted, READ_SECONDS)
                if not on_duty and not self._watchers:
                    self._hang_up()
                    return
                if self._reader is not None:
                    self._leave_idle_channels()
                    continue
                self._reader = self
            try:
                self._read(READ_SECONDS if on_duty else 0)
            except Exception as error:  # noqa: BLE001  # another thread's writing may break what is read here
                self._disconnect(error)
                time.sleep(RECONNECT_SECONDS)
            finally:
                self._stop_reading(self)

    def _wanted(self) -> bool:
        """Whether the hub's thread has to connect, or to read."""
        if self._reader is not None:
            return False
        return bool(self._relying) or (self._subscription is None and bool(self._watchers))

    def _read(self, seconds: float) -> None:
        subscription = self._subscription or self._connect()
        if self._streaming == STREAM:
            self._gather()
        self._hand_over(subscription.read(seconds))
        self._leave_idle_channels()

    def _gather(self) -> None:
        """Let more of a stream come, if everybody waits for many."""
        with self._changed:
            fewest = min(self._watched.values(), default=0)
        if fewest * GATHER_SECONDS >= SHORTEST_GATHER:
            time.sleep(min(fewest * GATHER_SECONDS, LONGEST_GATHER))
            self._went_on = time.monotonic()

    def _leave_idle_channels(self) -> None:
        """Unsubscribe from what nobody watches any more; a broken connection is the reader's to replace."""
        if not self._idle:
            return
        with self._changed:
            late = time.monotonic() - self._tidied > TIDY_SECONDS
            if self._subscription is None or not (late or len(self._idle) >= MANY_IDLE):
                return
            self._tidied = time.monotonic()
            idle, self._idle = list(self._idle), set()
            self._confirmed.difference_update(idle)
            try:
                self._subscription.unsubscribe(idle)
            except (RedisError, OSError) as error:
                logger.info("perpetual: the subscription broke: %s", error)

    def _connect(self) -> Subscription:
        # A server that does not answer is waited for here, where nobody waits along.
        subscription = Subscription(self._store)
        with self._changed:
            self._confirmed.clear()
            self._idle.clear()
            self._catching_up = True
            self._broken = False
            self._subscription = subscription
            if self._watchers:
                self._subscribe(subscription, list(self._watchers))
        return subscription

    def _disconnect(self, error: BaseException) -> None:
        """Only whoever reads gives the connection up."""
        if not self._broken:
            logger.warning("perpetual: lost the subscription, connecting again: %r", error)
        with self._changed:
            subscription, self._subscription = self._subscription, None
            self._broken = True
            self._confirmed.clear()
            self._idle.clear()
            self._changed.notify_all()
        if subscription is not None:
            subscription.close()

    def _hang_up(self) -> None:
        """Nobody watches any more, and the hub's thread ends."""
        subscription, self._subscription, self._thread = self._subscription, None, None
        self._confirmed.clear()
        self._idle.clear()
        if subscription is not None:
            subscription.close()

    def _hand_over(self, found: list[list[bytes]]) -> None:
        """Give everybody what is theirs."""
        if not found:
            return
        told: dict[Watcher, list[bytes]] = {}
        confirmed, count = [], 0
        with self._changed:
            for frame in found:
                if frame[0] == b"message":
                    count += 1
                    for watcher in self._watchers.get(frame[1].decode(), ()):
                        told.setdefault(watcher, []).append(frame[2])
                elif frame[0] == b"subscribe":
                    confirmed.append(frame[1].decode())
        for watcher, data in told.items():
            watcher.told(data)
        if confirmed:
            self._confirm(confirmed)
        if count:
            now = time.monotonic()
            quick = count > 1 or now - self._went_on < STREAM_SECONDS
            self._streaming = min(self._streaming + count, STREAM) if quick else 0
            self._went_on = now

    def _confirm(self, channels: list[str]) -> None:
        with self._changed:
            self._confirmed.update(each for each in channels if each in self._watchers or each in self._idle)
            caught_up = self._catching_up and self._newest in channels
            self._catching_up = self._catching_up and not caught_up
            everybody = {w for ws in self._watchers.values() for w in ws} if caught_up else set()
            self._changed.notify_all()
        for watcher in everybody:
            watcher.look()
