"""One subscription per process, for any number of ids and waits.

A wait reads the records only after the server has confirmed its subscription, so no end falls between the two. When the
connection breaks, a new one subscribes to all channels again and *then* every watcher reads its records again, so
nothing that happened meanwhile is missed.

One thread at a time reads the connection and hands each message to the watchers of its channel. :mod:`.turn` says which
thread that is: a blocking wait where it can be, else the hub's own thread. Only the hub's thread makes connections.
Between two ends of :meth:`as_completed` a blocking wait does not read, because its caller does something else; the
hub's thread reads those messages once a second.

A message is handed over at once. Only where all watchers watch many channels and messages come in a stream, these
gather for some milliseconds and are handed over together: most of the cost of a message is waking a thread.
A wait that has its answer leaves at once; the hub's thread unsubscribes later, or closes the connection and ends when
there are no watchers.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Sequence

from redis.exceptions import ConnectionError as NoConnection
from redis.exceptions import RedisError

from celery_perpetual import events
from celery_perpetual.store.connection import Store
from celery_perpetual.telemetry import emit
from celery_perpetual.waiting.channels import Channels, Watcher
from celery_perpetual.waiting.gathering import Gathering
from celery_perpetual.waiting.subscription import Subscription
from celery_perpetual.waiting.turn import Turn

#: A blocking wait gives its turn back this often, and the hub's thread reads unread messages this often.
READ_SECONDS = 1.0
RECONNECT_SECONDS = 0.1
#: A reader that has kept its turn for so long was interrupted where it could not give it back.
LOST_SECONDS = 3 * READ_SECONDS
#: How long a new watcher waits until its subscription is confirmed; it reads its records every few seconds anyway.
CONFIRM_SECONDS = 2.0
#: Channels without a watcher are unsubscribed from this often, in seconds, or when there are so many of them.
TIDY_SECONDS = 1.0
MANY_IDLE = 1000


class Hub:
    """The process's subscription."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._reset()

    def _reset(self) -> None:
        self._pid = os.getpid()
        self._lock = threading.RLock()
        self._confirmed = threading.Condition(self._lock)
        """For watchers whose subscription is not confirmed yet."""
        self._turn = Turn(self._lock)
        self._channels = Channels()
        self._tidied = 0.0
        self._newest: str | None = None
        """The channel that was subscribed to last."""
        self._subscription: Subscription | None = None
        self._broken = False
        """Whether the connection is lost and there is no new one."""
        self._catching_up = False
        """Whether a new connection is not subscribed to all channels yet."""
        self._gathering = Gathering()
        self._thread: threading.Thread | None = None

    def watch(self, watcher: Watcher, channels: Sequence[str], deadline: float) -> None:
        """Subscribe. When this returns, a message will be received, or the watcher is asked to read again.

        Args:
            deadline: (monotonic) when to return even if the server has not confirmed the subscription.
        """
        if self._pid != os.getpid():  # forked: the subscription is the parent's
            self._reset()
        if not channels:
            return
        with self._lock:
            fresh = self._channels.join(watcher, channels)
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="perpetual-hub", daemon=True)
                self._thread.start()
            elif fresh and self._subscription is not None:
                self._subscribe(self._subscription, fresh)
            if not watcher.reads:
                self._turn.rely(watcher)
            unconfirmed = self._channels.unconfirmed(channels)

        def confirmed() -> bool:
            return self._broken or self._channels.all_confirmed(unconfirmed)

        def until_confirmed(seconds: float) -> None:
            with self._lock:
                self._confirmed.wait_for(confirmed, seconds)

        self.wait_until(watcher, confirmed, min(deadline, time.monotonic() + CONFIRM_SECONDS), until_confirmed)

    def unwatch(self, watcher: Watcher, channels: Sequence[str]) -> None:
        """Stop watching. May be called twice."""
        if self._pid != os.getpid():  # forked: the parent goes on watching
            return
        with self._lock:
            self._turn.stop_relying(watcher)
            self._channels.leave(watcher, channels)

    def wait_until(
        self, watcher: Watcher, done: Callable[[], object], deadline: float, sleep: Callable[[float], object]
    ) -> None:
        """Wait until ``done()`` or the deadline (monotonic), reading the connection in this thread where it may.

        Args:
            sleep: waits for so many seconds, or until another thread has read for this watcher.
        """
        if self._read_until(watcher, done, deadline):
            return
        try:
            sleep(max(0.0, deadline - time.monotonic()))
        finally:
            if watcher.reads and self._pid == os.getpid():  # the others rely on the hub's thread while they watch
                with self._lock:
                    self._turn.stop_relying(watcher)

    def _read_until(self, watcher: Watcher, done: Callable[[], object], deadline: float) -> bool:
        """Read in this thread until ``done()`` or the deadline; False where the watcher relies on another thread."""
        me = object()
        while not done():
            if self._pid != os.getpid():  # forked: the connection is the parent's
                return False
            seconds = deadline - time.monotonic()
            if seconds <= 0:
                return True
            try:
                with self._lock:
                    subscription = self._subscription
                    if subscription is None or not self._turn.take(me):
                        self._turn.rely(watcher)
                        return False
                self._let_gather()
                self._hand_over(subscription.read(min(seconds, READ_SECONDS)))
            except BaseException as error:
                # A time limit, for example, may have been raised between reading a message and handing it over.
                if self._turn.is_of(me):
                    self._disconnect(error)
                if not isinstance(error, RedisError | OSError):
                    raise
            finally:
                self._turn.give_back(me)
                # A watcher that relies on the hub's thread from now on calls it itself, and it finds the turn free.
                if self._turn.is_relied_on or self._subscription is None:
                    with self._lock:
                        self._turn.changed.notify()
        return True

    def _subscribe(self, subscription: Subscription, channels: Sequence[str]) -> None:
        """Write to the connection; the thread that reads replaces a broken one."""
        self._newest = channels[-1]
        try:
            subscription.subscribe(channels)
        except (RedisError, OSError) as error:
            emit(events.SUBSCRIPTION_BROKEN, error=error)

    def _run(self) -> None:
        while True:
            with self._lock:
                on_duty = self._turn.changed.wait_for(self._has_to_read, READ_SECONDS)
                if not on_duty and not self._channels:
                    self._hang_up()
                    return
                was_lost = self._turn.take_over(self, LOST_SECONDS)
                if was_lost is None:
                    self._leave_idle_channels()
                    continue
            try:
                if was_lost:
                    raise NoConnection("the thread that read the subscription is gone")
                self._read(READ_SECONDS if on_duty else 0)
            except Exception as error:  # another thread's writing may break what is read here
                self._disconnect(error)
                time.sleep(RECONNECT_SECONDS)
            finally:
                self._turn.give_back(self)

    def _has_to_read(self) -> bool:
        """Whether the hub's thread has to connect, or to read."""
        return self._turn.is_free and (self._turn.is_relied_on or (self._subscription is None and bool(self._channels)))

    def _read(self, seconds: float) -> None:
        subscription = self._subscription or self._connect()
        self._let_gather()
        found = subscription.read(seconds)
        self._hand_over(found)
        while found and not seconds:  # unread messages pile up at the server
            found = subscription.read(0)
            self._hand_over(found)
        self._leave_idle_channels()

    def _let_gather(self) -> None:
        if self._gathering.in_a_stream:
            with self._lock:
                fewest = self._channels.fewest
            self._gathering.pause(fewest)

    def _leave_idle_channels(self) -> None:
        """Unsubscribe from channels without a watcher; the thread that reads replaces a broken connection."""
        if not self._channels.idle:
            return
        with self._lock:
            late = time.monotonic() - self._tidied > TIDY_SECONDS
            if self._subscription is None or not (late or self._channels.idle >= MANY_IDLE):
                return
            self._tidied = time.monotonic()
            try:
                self._subscription.unsubscribe(self._channels.pop_idle())
            except (RedisError, OSError) as error:
                emit(events.SUBSCRIPTION_BROKEN, error=error)

    def _connect(self) -> Subscription:
        # This may take long. No lock is held, so no watcher waits for it.
        subscription = Subscription(self._store)
        with self._lock:
            self._channels.disconnected()
            self._catching_up = True
            self._broken = False
            self._subscription = subscription
            if self._channels:
                self._subscribe(subscription, list(self._channels))
        return subscription

    def _disconnect(self, error: BaseException) -> None:
        """Give the connection up; for the thread that has the turn."""
        if not self._broken:
            emit(events.SUBSCRIPTION_LOST, error=error)
        with self._lock:
            subscription, self._subscription = self._subscription, None
            self._broken = True
            self._channels.disconnected()
            self._confirmed.notify_all()
        if subscription is not None:
            subscription.close()

    def _hang_up(self) -> None:
        """Close the connection: there are no watchers, and the hub's thread ends."""
        subscription, self._subscription, self._thread = self._subscription, None, None
        self._channels.disconnected()
        if subscription is not None:
            subscription.close()

    def _hand_over(self, found: list[list[bytes]]) -> None:
        """Give each watcher its messages."""
        if len(found) == 1 and found[0][0] == b"message":
            self._hand_over_one(*found[0][1:])
        elif found:
            self._hand_over_all(found)

    def _hand_over_all(self, found: list[list[bytes]]) -> None:
        messages: dict[Watcher, list[bytes]] = {}
        confirmed, count = [], 0
        with self._lock:
            for frame in found:
                if frame[0] == b"message":
                    count += 1
                    for watcher in self._channels.watchers_of(frame[1].decode()):
                        messages.setdefault(watcher, []).append(frame[2])
                elif frame[0] == b"subscribe":
                    confirmed.append(frame[1].decode())
        for watcher, data in messages.items():
            watcher.receive(data)
        if confirmed:
            self._confirm(confirmed)
        if count:
            self._gathering.add(count)

    def _hand_over_one(self, channel: bytes, message: bytes) -> None:
        """The same for the one message that a blocking wait waits for, which is nearly always all that has come."""
        with self._lock:
            watchers = list(self._channels.watchers_of(channel.decode()))
        for watcher in watchers:
            watcher.receive([message])
        self._gathering.add(1)

    def _confirm(self, channels: list[str]) -> None:
        with self._lock:
            self._channels.confirm(channels)
            caught_up = self._catching_up and self._newest in channels
            self._catching_up = self._catching_up and not caught_up
            watchers = self._channels.watchers() if caught_up else set()
            self._confirmed.notify_all()
        for watcher in watchers:
            watcher.read_again()
