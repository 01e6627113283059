"""Sending on a thread of its own, for threads that must not wait for a broker.

A broker may accept connections and take no messages: RabbitMQ does so when it is short of memory or disk, and what
waits for it has no limit. The user's router, ``apply_async`` and receivers of signals run while a message is sent, too.
So the thread that proves that a worker lives, and the leader's cycle, hand over what is to be sent.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

from celery_perpetual import events
from celery_perpetual.telemetry import emit

#: For so long a pass of the cycle waits for what it sends, to say how much that was.
PATIENCE = 2.0

#: After so many seconds a call of a list may hang in code of the user's: another one works on the rest of the list.
HANGS = 60.0
#: Most calls that are left to hang.
MOST_HANGING = 3


class Courier:
    """Runs one thing at a time, on a thread that ends with it."""

    def __init__(self, part: str, *, of_list: bool = False) -> None:
        """Nothing runs yet.

        Args:
            part: what is sent, for people.
            of_list: its calls work off a list, and pass over the entries that another call is at.
        """
        self._part = part
        self._of_list = of_list
        self._call: _Call | None = None
        self._hanging: list[_Call] = []

    def run(self, send: Callable[[], int], seconds: float = PATIENCE) -> int:
        """Begin to send, and wait a while; returns how many messages were sent meanwhile.

        While an earlier call goes on, it is made once more at its end: there may be something new to be sent.

        Raises:
            Exception: what ``send`` raises within that time. Later it is only reported.
        """
        call = self._call
        if call is not None and self._leaves(call):
            call = None
        if call is None or not call.goes_on():
            call = self._call = _Call(self._part, send)
            call.start()
        call.join(seconds)
        if call.is_alive():
            if seconds and not call.is_late:
                emit(events.SENDING_SLOW, part=self._part)
            call.is_late = True
            return 0
        self._call = None
        if call.error is not None:
            raise call.error
        return call.sent

    def _leaves(self, call: _Call) -> bool:
        """Whether a call is left to itself, as it may hang."""
        if not self._of_list or not call.is_alive() or time.monotonic() - call.since < HANGS:
            return False
        self._hanging = [each for each in self._hanging if each.is_alive()]
        if len(self._hanging) >= MOST_HANGING:
            return False
        self._hanging.append(call)
        emit(events.SENDING_HANGS, part=self._part, seconds=round(time.monotonic() - call.since))
        return True


class _Call(threading.Thread):
    def __init__(self, part: str, send: Callable[[], int]) -> None:
        super().__init__(name=f"perpetual-{part}", daemon=True)
        self._part = part
        self._send = send
        self.sent = 0
        self.error: Exception | None = None
        self.is_late = False
        self.since = time.monotonic()
        """When it began the last time."""
        self._lock = threading.Lock()
        self._once_more = self._is_over = False

    def goes_on(self) -> bool:
        """Whether this call sends what is new as well."""
        with self._lock:
            self._once_more = not self._is_over
            return self._once_more

    def run(self) -> None:
        while not self._is_over:
            self.since = time.monotonic()
            try:
                self.sent += self._send()
            except Exception as error:
                self.error = error
                if self.is_late:
                    emit(events.SENDING_FAILED_LATE, part=self._part, error=error)
            with self._lock:
                self._is_over = not self._once_more
                self._once_more = False
