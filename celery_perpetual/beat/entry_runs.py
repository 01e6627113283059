"""When the entries of the base scheduler last ran, shared by all beats.

Celery's persistent scheduler keeps this in a file beside each beat; a standby on another machine would repeat, after
a take-over, what the killed leader had just sent.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import datetime
from typing import Any

from celery_perpetual.store.commands.leadership import entry_runs, remove_entry_runs, save_entry_runs
from celery_perpetual.store.connection import Store


class EntryRuns:
    """Last runs by name of the entry, in seconds since the epoch."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._unsaved: dict[str, float] = {}
        self._stored: dict[str, float] = {}
        """As they were when this beat took over."""
        self.on_run: Callable[[], object] = lambda: None
        """Called after a run: it wakes the clock, whose thread writes the run at once."""

    def ran(self, name: str, at: float) -> None:
        """Remember a run; it is written by the clock's thread, because a tick never waits for the store."""
        self._unsaved[name] = at
        self.on_run()

    def save(self) -> None:
        """Write what is not written yet."""
        runs = dict(self._unsaved)
        if runs:
            save_entry_runs(self._store, runs)
            for name, at in runs.items():
                if self._unsaved.get(name) == at:
                    del self._unsaved[name]

    def forget(self) -> None:
        """Another beat leads by now: what is not written yet is older than its runs."""
        self._unsaved.clear()

    def restore(self, schedule: Mapping[str, Any], timezone: Any) -> None:
        """Set the last runs of a schedule's entries, except where its own file knows a newer one."""
        self._stored = stored = self.load()
        for name in stored.keys() & schedule.keys():
            self.restore_entry(schedule[name], timezone)
        gone = stored.keys() - schedule.keys()
        if gone:
            remove_entry_runs(self._store, gone)

    def restore_entry(self, entry: Any, timezone: Any) -> None:
        """Set the last run of one entry, also one that comes after the schedule was set up."""
        at = self._stored.get(entry.name)
        if at is not None:
            ran = datetime.fromtimestamp(at, tz=timezone)
            if not (entry.total_run_count and entry.last_run_at > ran):
                entry.last_run_at = ran

    def load(self) -> dict[str, float]:
        """What the beats of this namespace have sent."""
        return entry_runs(self._store)
