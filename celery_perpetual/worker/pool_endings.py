"""How long a pool process waits before it ends.

A pool process that ends waits until the main process of its worker has read what it has sent, at most half a minute.
To know that, billiard compares the number of tasks that it has run with a counter in shared memory, which the main
process raises for each result. This has two faults:

- The counter has a lock between processes. A process that is killed while it has that lock, as by a hard time limit,
  never releases it. The main process then waits for the lock for ever, in the middle of its event loop.
- The main process of a worker that stops forgets the tasks that it has handed to a pool process, as long as it has not
  read that the process has accepted them. It does not read their results. The pool process then waits in vain for
  half a minute, and the worker waits for it before it stops.

So a pool process reads the counter without the lock, which protects nothing there. It waits no longer when its pipe is
empty, and less long: the main process reads the whole messages that are left in it when it finds the process dead.
"""

from __future__ import annotations

import array
import fcntl
import math
import sys
import termios
from functools import wraps
from typing import Any

from billiard.pool import Worker

from celery_perpetual.times import steady

#: How long a pool process waits at most, in seconds. A worker that stops reads from one process after the other. It
#: waits half a second for each that is silent, and up to ten seconds for the rest of a message that it has begun to
#: read. A message is lost if its process ends before it is read: a dozen silent processes must not be enough for that.
LONGEST_WAIT = 15.0

#: Whether the end of a pipe that is written to says how much of it has not been read yet.
_SAYS_WHAT_IS_LEFT = sys.platform == "linux"


class _Unlocked:
    """The counter, as a pool process sees it that is about to end."""

    def __init__(self, counter: Any, pipe: Any) -> None:
        self._counter = counter.get_obj()
        self._pipe = pipe
        self._until = steady() + LONGEST_WAIT

    @property
    def value(self) -> float:
        """How many results the main process has read; infinite where there is nothing to wait for."""
        return math.inf if steady() >= self._until or _is_empty(self._pipe) else float(self._counter.value)


def _is_empty(pipe: Any) -> bool:
    """Whether everything that was written into a pipe has been read; False where the system does not say."""
    if not _SAYS_WHAT_IS_LEFT:
        return False
    left = array.array("i", [0])
    try:
        fcntl.ioctl(pipe.fileno(), termios.FIONREAD, left)
    except OSError:
        return False
    return left[0] == 0


def wait_without_locks() -> None:
    """Let the pool processes that begin from now on wait so; once per process."""
    worker: Any = Worker
    waiting = worker._ensure_messages_consumed  # noqa: SLF001  # the only place between the last task and the end
    if getattr(waiting, "perpetual", False):
        return

    @wraps(waiting)
    def waiting_without_lock(self: Any, *args: Any, **kwargs: Any) -> Any:
        counter, pipe = self.on_ready_counter, getattr(self.outq, "_writer", None)
        if pipe is not None and hasattr(counter, "get_obj"):
            self.on_ready_counter = _Unlocked(counter, pipe)
        return waiting(self, *args, **kwargs)

    waiting_without_lock.perpetual = True  # type: ignore[attr-defined]
    worker._ensure_messages_consumed = waiting_without_lock  # noqa: SLF001
