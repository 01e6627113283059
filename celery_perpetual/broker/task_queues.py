"""The queues of tasks, for a thread that must not wait long for a router of the user's."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Collection, Mapping
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from celery_perpetual import events
from celery_perpetual.broker.depth import known_queue
from celery_perpetual.telemetry import emit

if TYPE_CHECKING:
    from celery import Celery

#: Seconds that the routers may take for the tasks of one call, and when a beat starts.
LONGEST, LONGEST_AT_START = 1.0, 10.0
#: A thread that has not come to the end in such a part of that time may hang: another one asks for the other tasks. So
#: many threads live at most.
PART, MOST_THREADS = 0.25, 8


class TaskQueues:
    """Remembers the queue of each task. For one thread.

    The routers run on threads of their own; a task for which one of them hangs is not asked for again meanwhile.
    """

    def __init__(self, app: Celery) -> None:
        self._app = app
        self._found: dict[str, tuple[Any, str]] = {}
        """Name of a task -> the task, and its queue."""
        self._wanted: deque[tuple[str, Any]] = deque()
        """Tasks that no thread has begun with."""
        self._unanswered: set[str] = set()
        """Names of those, and of the tasks that a thread is at."""
        self._answered = threading.Condition()
        self._threads: list[threading.Thread] = []

    def of(self, tasks: Mapping[str, Any], longest: float = LONGEST) -> dict[str, str]:
        """The queue of each task by its name; "" where a router raised an error, or has not returned in time.

        Args:
            tasks: by their names.
            longest: seconds to wait.
        """
        with self._answered:
            unknown = {name: task for name, task in tasks.items() if self._found.get(name, (None, ""))[0] is not task}
            new = {name: task for name, task in unknown.items() if name not in self._unanswered}
            self._unanswered |= new.keys()
        self._wanted.extend(new.items())
        self._ask(new, longest)
        found = dict(self._found)
        late = [name for name, task in tasks.items() if name not in found or found[name][0] is not task]
        for name in late:
            emit(events.QUEUE_UNKNOWN, task=name, error=TimeoutError(f"no answer within {longest:g} s"))
        return {name: "" if name in late else found[name][1] for name in tasks}

    def _ask(self, names: Collection[str], longest: float) -> None:
        """Wait for these tasks, with one more thread whenever those that ask may hang."""
        for _ in range(round(1 / PART)):
            self._threads = [each for each in self._threads if each.is_alive()]
            if self._wanted and len(self._threads) < MOST_THREADS:
                thread = threading.Thread(target=self._run, name="perpetual-routers", daemon=True)
                self._threads.append(thread)
                thread.start()
            with self._answered:
                if self._answered.wait_for(lambda: self._unanswered.isdisjoint(names), longest * PART):
                    return

    def _run(self) -> None:
        self._app.set_current()  # in this thread, as in the one that asks
        with suppress(IndexError):
            while True:
                name, task = self._wanted.popleft()
                try:
                    self._found[name] = (task, known_queue(self._app, task))
                finally:
                    with self._answered:
                        self._unanswered.discard(name)
                        self._answered.notify_all()
