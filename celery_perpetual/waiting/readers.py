"""Reads of waits, in threads of their own, so that a wait can leave a read behind at its deadline.

However many wait, at most so many reads run at once, each on a connection of its own. A read of a server that does not
answer ends with the client's own time-out, and the wait has long returned by then.
"""

from __future__ import annotations

import os
import threading
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any, TypeVar

T = TypeVar("T")

#: A thread without work ends after so many seconds.
IDLE_SECONDS = 1.0


class Readers:
    """Threads that start with the first read and end when there is nothing to read. Safe for threads and forks."""

    def __init__(self, most: int, name: str) -> None:
        """Start nothing yet.

        Args:
            most: how many threads there are at most.
            name: of the threads.
        """
        self._most = most
        self._name = name
        self._reset()

    def _reset(self) -> None:
        self._pid = os.getpid()
        self._work = threading.Condition()
        self._waiting: deque[tuple[Future[Any], Callable[[], Any]]] = deque()
        self._threads = 0
        self._idle = 0

    def submit(self, read: Callable[[], T]) -> Future[T]:
        """Let a thread read; a read that is cancelled before its turn is not made."""
        if self._pid != os.getpid():  # forked: the threads are the parent's
            self._reset()
        future: Future[T] = Future()
        with self._work:
            self._waiting.append((future, read))
            if len(self._waiting) > self._idle and self._threads < self._most:
                self._start()
            has_thread = self._threads > 0
            self._work.notify()
        if not has_thread:
            while self._waiting:
                _read(*self._waiting.popleft())
        return future

    def _start(self) -> None:
        thread = threading.Thread(target=self._run, name=self._name, daemon=True)
        try:
            thread.start()
        except RuntimeError:  # the interpreter ends: the caller reads, as long as no other thread does
            return
        self._threads += 1

    def _run(self) -> None:
        while (found := self._next()) is not None:
            _read(*found)
            del found  # an idle thread keeps nothing

    def _next(self) -> tuple[Future[Any], Callable[[], Any]] | None:
        """The oldest read; None when the thread ends, because there was none for a while."""
        with self._work:
            if not self._waiting:
                self._idle += 1
                self._work.wait_for(lambda: self._waiting, IDLE_SECONDS)
                self._idle -= 1
            if self._waiting:
                return self._waiting.popleft()
            self._threads -= 1
            return None


def _read(future: Future[Any], read: Callable[[], Any]) -> None:
    if not future.set_running_or_notify_cancel():
        return
    try:
        future.set_result(read())
    except BaseException as error:  # the wait raises it
        future.set_exception(error)
