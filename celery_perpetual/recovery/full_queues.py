"""Queues that were full a moment ago, and the tasks that wait for them; nothing is sent there for a while."""

from __future__ import annotations

import time

from celery_perpetual.broker.destinations import Destination

#: For how long, in seconds.
PATIENCE = 5.0


class FullQueues:
    """The memory of one process. May be used from any thread."""

    def __init__(self) -> None:
        self._destinations: dict[Destination, float] = {}
        """Until when, monotonic."""
        self._tasks: dict[str, float] = {}
        """Until when, monotonic."""
        self._where: dict[str, Destination] = {}
        """Where the tasks go that have waited."""

    @property
    def waiting(self) -> int:
        """How many tasks wait."""
        return len(self._tasks)

    def without_waiting(self, entries: list[tuple[str, float]]) -> list[tuple[str, float]]:
        """The entries of tasks that do not wait. Tasks that are not among the entries are forgotten."""
        if not (self._tasks or self._where):
            return entries
        now = time.monotonic()
        self._destinations = {each: until for each, until in list(self._destinations.items()) if until > now}
        self._where = {task_id: where for task_id, _ in entries if (where := self._where.get(task_id))}
        self._tasks = {task_id: until for task_id, _ in entries if (until := self._tasks.get(task_id, 0.0)) > now}
        return [entry for entry in entries if entry[0] not in self._tasks]

    def has(self, destination: Destination | None) -> bool:
        """Whether nothing is sent there now."""
        return destination is not None and self._destinations.get(destination, 0.0) > time.monotonic()

    def keeps_waiting(self, task_id: str) -> bool:
        """Whether a task has waited, and goes where nothing is sent now: then it waits on, and nothing of it is read.

        A thousand of them are passed over in a moment, so they do not keep others on the list from being sent.
        """
        where = self._where.get(task_id)
        if not self.has(where):
            return False
        self.note(task_id, where)
        return True

    def note(self, task_id: str, destination: Destination | None) -> None:
        """A task waits, as the broker has refused its message or another one for the same place."""
        self._tasks[task_id] = until = time.monotonic() + PATIENCE
        if destination is None:
            return
        self._where[task_id] = destination
        if not self.has(destination):
            self._destinations[destination] = until
