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

from redis.exceptions import ConnectionError as NoConnection
from redis.exceptions import RedisError

from celery_perpetual import events
from celery_perpetual.store.connection import Store
from celery_perpetual.telemetry import emit
from celery_perpetual.waiting.channels import Channels, Watcher
from celery_perpetual.waiting.gathering import Gathering
from celery_perpetual.waiting.subscription import Subscription

#: A reader looks this often whether anybody still watches, and the hub's thread whether somebody left a message unread.
READ_SECONDS = 1.0
RECONNECT_SECONDS = 0.1
#: A reader that has said nothing for so long was interrupted where it could not say that it stops.
LOST_SECONDS = 3 * READ_SECONDS
#: How long a new watcher waits for the server's word; a watcher reads its records now and then anyway.
CONFIRM_SECONDS = 2.0
#: Channels that nobody watches any more are left this often, in seconds, or when there are so many of them.
TIDY_SECONDS = 1.0
MANY_IDLE = 1000


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
        self._channels = Channels()
        self._relying: set[Watcher] = set()
        """Those for whom the hub's thread has to read."""
        self._reader: object | None = None
        """Whoever reads the connection now."""
        self._reader_since = 0.0
        self._tidied = 0.0
        self._newest: str | None = None
        self._subscription: Subscription | None = None
        self._broken = False
        self._catching_up = False
        self._gathering = Gathering()
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
            fresh = self._channels.join(watcher, channels)
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="perpetual-hub", daemon=True)
                self._thread.start()
            elif fresh and self._subscription is not None:
                self._subscribe(self._subscription, fresh)
            if not watcher.reads:
                self._relying.add(watcher)
                self._duty.notify()
            missing = self._channels.missing(channels)

        def confirmed() -> bool:
            return self._broken or self._channels.settled(missing)

        deadline = time.monotonic() + CONFIRM_SECONDS
        if not self.read_until(watcher, confirmed, deadline):
            with self._changed:
                self._changed.wait_for(confirmed, deadline - time.monotonic())
            if watcher.reads:
                self.done(watcher)

    def unwatch(self, watcher: Watcher, channels: Sequence[str]) -> None:
        """Stop hearing. May be called twice."""
        if self._pid != os.getpid():  # forked: the parent goes on hearing
            return
        with self._changed:
            self._relying.discard(watcher)
            self._channels.leave(watcher, channels)

    def read_until(self, watcher: Watcher, done: Callable[[], object], deadline: float) -> bool:
        """Read the connection in this thread, until something is done or the time (monotonic) is over.

        Returns:
            False where another thread reads: for this watcher too, until :meth:`done` is called.
        """
        me = object()
        while not done():
            if self._pid != os.getpid():  # forked: the connection is the parent's
                return False
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
                    self._reader, self._reader_since = me, time.monotonic()
                self._let_gather()
                self._hand_over(subscription.read(min(seconds, READ_SECONDS)))
            except BaseException as error:
                # It may have been raised between what was read and whom it was for, by a time limit for example.
                if self._reader is me:
                    self._disconnect(error)
                if not isinstance(error, RedisError | OSError):
                    raise
            finally:
                # First, and without the lock: a signal's handler may raise anywhere.
                if self._reader is me:
                    self._reader = None
                self._stop_reading()
        return True

    def done(self, watcher: Watcher) -> None:
        """Nobody need read for this watcher any more."""
        if self._pid == os.getpid():
            with self._changed:
                self._relying.discard(watcher)

    def _stop_reading(self) -> None:
        with self._changed:
            if self._relying or self._subscription is None:
                self._duty.notify()

    def _subscribe(self, subscription: Subscription, channels: Sequence[str]) -> None:
        """Write to the connection that somebody reads; a broken one is the reader's to replace."""
        self._newest = channels[-1]
        try:
            subscription.subscribe(channels)
        except (RedisError, OSError) as error:
            emit(events.SUBSCRIPTION_BROKEN, error=error)

    def _run(self) -> None:
        while True:
            with self._changed:
                on_duty = self._duty.wait_for(self._wanted, READ_SECONDS)
                if not on_duty and not self._channels:
                    self._hang_up()
                    return
                if self._reader is not None and time.monotonic() - self._reader_since < LOST_SECONDS:
                    self._leave_idle_channels()
                    continue
                lost, self._reader = self._reader, self
            try:
                if lost is not None:
                    raise NoConnection("the thread that read the subscription is gone")
                self._read(READ_SECONDS if on_duty else 0)
            except Exception as error:  # another thread's writing may break what is read here
                self._disconnect(error)
                time.sleep(RECONNECT_SECONDS)
            finally:
                self._reader = None

    def _wanted(self) -> bool:
        """Whether the hub's thread has to connect, or to read."""
        if self._reader is not None:
            return False
        return bool(self._relying) or (self._subscription is None and bool(self._channels))

    def _read(self, seconds: float) -> None:
        subscription = self._subscription or self._connect()
        self._let_gather()
        found = subscription.read(seconds)
        self._hand_over(found)
        while found and not seconds:  # what nobody reads piles up at the server
            found = subscription.read(0)
            self._hand_over(found)
        self._leave_idle_channels()

    def _let_gather(self) -> None:
        if self._gathering.in_a_stream:
            with self._changed:
                fewest = self._channels.fewest
            self._gathering.pause(fewest)

    def _leave_idle_channels(self) -> None:
        """Unsubscribe from what nobody watches any more; a broken connection is the reader's to replace."""
        if not self._channels.idle:
            return
        with self._changed:
            late = time.monotonic() - self._tidied > TIDY_SECONDS
            if self._subscription is None or not (late or self._channels.idle >= MANY_IDLE):
                return
            self._tidied = time.monotonic()
            try:
                self._subscription.unsubscribe(self._channels.take_idle())
            except (RedisError, OSError) as error:
                emit(events.SUBSCRIPTION_BROKEN, error=error)

    def _connect(self) -> Subscription:
        # A server that does not answer is waited for here, where nobody waits along.
        subscription = Subscription(self._store)
        with self._changed:
            self._channels.lost()
            self._catching_up = True
            self._broken = False
            self._subscription = subscription
            if self._channels:
                self._subscribe(subscription, list(self._channels))
        return subscription

    def _disconnect(self, error: BaseException) -> None:
        """Only whoever reads gives the connection up."""
        if not self._broken:
            emit(events.SUBSCRIPTION_LOST, error=error)
        with self._changed:
            subscription, self._subscription = self._subscription, None
            self._broken = True
            self._channels.lost()
            self._changed.notify_all()
        if subscription is not None:
            subscription.close()

    def _hang_up(self) -> None:
        """Nobody watches any more, and the hub's thread ends."""
        subscription, self._subscription, self._thread = self._subscription, None, None
        self._channels.lost()
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
                    for watcher in self._channels.of(frame[1].decode()):
                        told.setdefault(watcher, []).append(frame[2])
                elif frame[0] == b"subscribe":
                    confirmed.append(frame[1].decode())
        for watcher, data in told.items():
            watcher.told(data)
        if confirmed:
            self._confirm(confirmed)
        if count:
            self._gathering.came(count)

    def _confirm(self, channels: list[str]) -> None:
        with self._changed:
            self._channels.confirm(channels)
            caught_up = self._catching_up and self._newest in channels
            self._catching_up = self._catching_up and not caught_up
            everybody = self._channels.everybody() if caught_up else set()
            self._changed.notify_all()
        for watcher in everybody:
            watcher.look()
