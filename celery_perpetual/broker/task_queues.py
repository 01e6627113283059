"""The queues of tasks, for a thread that must not wait long for a router of the user's."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from celery_perpetual import events
from celery_perpetual.broker.depth import known_queue
from celery_perpetual.telemetry import emit

if TYPE_CHECKING:
    from celery import Celery

#: Seconds that the routers may take for the tasks of one call, and when a beat starts.
LONGEST, LONGEST_AT_START = 1.0, 10.0


class TaskQueues:
    """Remembers the queue of each task. For one thread.

    The routers run on a thread of their own; while one of them hangs, no other task is asked for.
    """

    def __init__(self, app: Celery) -> None:
        self._app = app
        self._found: dict[str, tuple[Any, str]] = {}
        """Name of a task -> the task, and its queue."""
        self._asking: threading.Thread | None = None

    def of(self, tasks: Mapping[str, Any], longest: float = LONGEST) -> dict[str, str]:
        """The queue of each task by its name; "" where a router raised an error, or has not returned in time.

        Args:
            tasks: by their names.
            longest: seconds to wait.
        """
        new = {name: task for name, task in tasks.items() if self._found.get(name, (None, ""))[0] is not task}
        if new and (self._asking is None or not self._asking.is_alive()):
            self._asking = threading.Thread(target=self._ask, args=(new,), name="perpetual-routers", daemon=True)
            self._asking.start()
            self._asking.join(longest)
        found = dict(self._found)
        late = [name for name, task in tasks.items() if name not in found or found[name][0] is not task]
        for name in late:
            emit(events.QUEUE_UNKNOWN, task=name, error=TimeoutError(f"no answer within {longest:g} s"))
        return {name: "" if name in late else found[name][1] for name in tasks}

    def _ask(self, tasks: Mapping[str, Any]) -> None:
        self._app.set_current()  # in this thread, as in the one that asks
        for name, task in tasks.items():
            self._found[name] = (task, known_queue(self._app, task))
