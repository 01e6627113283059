"""Celery's own schedulers: the schedule is in memory, or in a file beside the beat.

Neither knows what another beat has sent, so their last runs come from the store.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from datetime import datetime
from types import MappingProxyType
from typing import Any

from celery.schedules import schedstate
from celery.utils.time import maybe_make_aware

from celery_perpetual.beat.bases.base import Base
from celery_perpetual.beat.entry_runs import FURTHEST_AHEAD
from celery_perpetual.store.commands.leadership import EntryRun

#: The schedule is compared, entry by entry, with what is being run: after so many seconds, and in such a share of the
#: time at most.
COMPARE_EVERY, COMPARE_SHARE = 1.0, 0.001


class CelerysBase(Base):
    """``celery.beat.Scheduler`` and ``celery.beat.PersistentScheduler``."""

    _perpetual_compare_at = 0.0
    _perpetual_compared: Any = None
    """The schedule that was compared last."""
    _perpetual_additions: Mapping[Any, dict[str, Any]] = MappingProxyType({})
    """Entries that programs have added, by name."""
    _perpetual_is_set_up = False

    def _perpetual_begin(self) -> None:
        super()._perpetual_begin()
        for added in self._perpetual_additions.values():
            super()._perpetual_add(**added)
        schedule, runs = self.schedule, self._perpetual_engine.entry_runs
        for entry in schedule.values():
            self._perpetual_restore(entry)
        # A time from which all beats count the first run: else each new leader would count from its own start.
        new = {name: _seen(entry) for name, entry in schedule.items() if runs.of(name) is None}
        runs.add(self._perpetual_leader(), new)
        self._perpetual_is_set_up = True

    def _perpetual_end(self) -> None:
        self._perpetual_is_set_up = False
        super()._perpetual_end()

    def sync(self) -> None:
        """As Celery's; a file that could not be written is written the next time."""
        try:
            super().sync()
        except Exception:
            shelf = getattr(self, "_store", None)
            if shelf is not None:
                # It is off while a shelf writes, and where that fails it stays off: the shelf would write nothing more.
                shelf.writeback = True
            raise

    def _perpetual_names(self) -> set[str]:
        return set(self.schedule)

    def _perpetual_add(self, **entry: Any) -> Any:
        """Programs add entries at ``beat_init``; a standby adds them when it takes the lead, and so each time."""
        self._perpetual_additions = {**self._perpetual_additions, entry.get("name"): entry}
        if not self._perpetual_is_set_up:
            return self.Entry(app=self.app, **entry)
        added = super()._perpetual_add(**entry)
        self._perpetual_restore(added)
        self._heap = None
        return added

    def _perpetual_restore(self, entry: Any) -> None:
        """Set the last run of an entry from the store, unless this beat's own file knows a newer one.

        A time of the file that lies ahead was written by a wrong clock.
        """
        run, known, now = self._perpetual_engine.entry_runs.of(entry.name), _last_run(entry), time.time()
        is_ahead = known > now + FURTHEST_AHEAD
        if run is None:
            if is_ahead:
                entry.last_run_at = datetime.fromtimestamp(now, tz=self.app.timezone)
        elif is_ahead or not (entry.total_run_count and known > run.at):
            entry.last_run_at = datetime.fromtimestamp(run.at, tz=self.app.timezone)
            entry.total_run_count = run.count

    def update_from_dict(self, dict_: dict[str, Any]) -> None:
        """Add entries, or replace those of the same names, as programs do; the next tick goes by them."""
        super().update_from_dict(dict_)
        self._perpetual_compare_at = 0.0

    def is_due(self, entry: Any) -> Any:
        """Whether an entry is due; one that was replaced or removed in place is not sent as it was, but found out."""
        if self.schedule.get(entry.name) != entry:
            self._perpetual_compare_at = 0.0
            return schedstate(False, 0.0)
        return super().is_due(entry)

    def schedules_equal(self, *args: Any, **kwargs: Any) -> bool:
        """Whether the schedule is as it was.

        Celery compares all entries at every tick, which costs milliseconds where there are ten thousand. Another dict,
        another number of entries and what Celery's own methods change is seen at once. What is left is code that
        replaces or changes an entry in place: for that they are compared from time to time, the more rarely the longer
        it takes.
        """
        old, new = (*args, *kwargs.values())
        begun = time.monotonic()
        is_known = old is not None and new is self._perpetual_compared and len(old) == len(new)
        if is_known and begun < self._perpetual_compare_at:
            return True
        equal = bool(super().schedules_equal(*args, **kwargs))
        ended = time.monotonic()
        self._perpetual_compare_at = ended + max(COMPARE_EVERY, (ended - begun) / COMPARE_SHARE)
        self._perpetual_compared = new
        return equal


def _seen(entry: Any) -> EntryRun:
    return EntryRun(_last_run(entry), entry.total_run_count)


def _last_run(entry: Any) -> float:
    """Seconds since 1970; a time without a zone is UTC, as Celery takes it."""
    return float(maybe_make_aware(entry.last_run_at).timestamp())
