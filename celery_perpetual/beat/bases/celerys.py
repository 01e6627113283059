"""Celery's own schedulers: the schedule is in memory, or in a file beside the beat.

Neither knows what another beat has sent, so their last runs come from the store.
"""

from __future__ import annotations

import time
from datetime import datetime
from typing import Any

from celery_perpetual.beat.bases.base import Base
from celery_perpetual.store.commands.leadership import EntryRun

#: How often the schedule is compared, entry by entry, with what is being run, in seconds.
COMPARE_EVERY = 1.0


class CelerysBase(Base):
    """``celery.beat.Scheduler`` and ``celery.beat.PersistentScheduler``."""

    _perpetual_compare_at = 0.0
    _perpetual_additions: tuple[dict[str, Any], ...] = ()
    _perpetual_is_set_up = False

    def _perpetual_begin(self) -> None:
        super()._perpetual_begin()
        for added in self._perpetual_additions:
            super()._perpetual_add(**added)
        schedule, runs = self.schedule, self._perpetual_engine.entry_runs
        for entry in schedule.values():
            self._perpetual_restore(entry)
        # A time from which all beats count the first run: else each new leader would count from its own start.
        runs.add({name: _seen(entry) for name, entry in schedule.items() if runs.of(name) is None})
        self._perpetual_is_set_up = True

    def _perpetual_end(self) -> None:
        self._perpetual_is_set_up = False
        super()._perpetual_end()

    def _perpetual_names(self) -> set[str]:
        return set(self.schedule)

    def _perpetual_add(self, **entry: Any) -> Any:
        """Programs add entries at ``beat_init``; a standby adds them when it takes the lead, and so each time."""
        self._perpetual_additions += (entry,)
        if not self._perpetual_is_set_up:
            return self.Entry(app=self.app, **entry)
        added = super()._perpetual_add(**entry)
        self._perpetual_restore(added)
        self._heap = None
        return added

    def _perpetual_restore(self, entry: Any) -> None:
        """Set the last run of an entry from the store, unless this beat's own file knows a newer one."""
        run = self._perpetual_engine.entry_runs.of(entry.name)
        if run is not None:
            at = datetime.fromtimestamp(run.at, tz=self.app.timezone)
            if not (entry.total_run_count and entry.last_run_at > at):
                entry.last_run_at, entry.total_run_count = at, run.count

    def schedules_equal(self, *args: Any, **kwargs: Any) -> bool:
        """Whether the schedule is as it was; compared entry by entry at most once a second.

        Celery does that at every tick. A schedule of ten thousand entries costs milliseconds each time.
        """
        old, new = (*args, *kwargs.values())
        known = old is not None and new is not None and len(old) == len(new)
        if known and time.monotonic() < self._perpetual_compare_at:
            return True
        self._perpetual_compare_at = time.monotonic() + COMPARE_EVERY
        return bool(super().schedules_equal(*args, **kwargs))


def _seen(entry: Any) -> EntryRun:
    return EntryRun(entry.last_run_at.timestamp(), entry.total_run_count)
