"""When the entries of the base scheduler last ran and how often, shared by all beats.

Celery's persistent scheduler keeps this in a file beside each beat, and django-celery-beat writes it to its database
every few minutes. A beat on another machine would repeat, after a take-over, what the last leader has sent. So the
leader writes each run to the store right before it sends the entry, in a script that refuses it unless it leads.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from celery_perpetual import events
from celery_perpetual.errors import StoreUnavailable
from celery_perpetual.polling.claims import NotLeading
from celery_perpetual.store.chunks import chunks
from celery_perpetual.store.commands.leadership import EntryRun, entry_runs
from celery_perpetual.store.connection import Store
from celery_perpetual.store.scripts import script
from celery_perpetual.telemetry import emit, some

#: A run that lies further ahead than so many seconds was written by a wrong clock. It would keep its entry from running
#: until then.
FURTHEST_AHEAD = 60.0
#: How long the last run of an entry is kept that the leader does not know, in seconds: a newer code may know it.
KEPT_UNKNOWN = 7 * 86_400.0


class EntryRuns:
    """The last runs by name of the entry; all methods but `save` are called on the thread that ticks.

    What is written is refused unless this beat leads: one that was frozen does not overwrite what another one has run.
    """

    def __init__(self, store: Store) -> None:
        self._store = store
        self._of_ticks = store.clone(patient=False)
        """A tick may wait for the store only briefly."""
        self._known: dict[str, EntryRun] = {}
        """As the store had them when this beat took the lead, and those of this beat since then."""
        self._unsaved: dict[str, EntryRun] = {}
        self._left: dict[str, EntryRun] = {}
        """Those that were not written when another beat took the lead."""
        self.on_run: Callable[[], object] = lambda: None
        """Called where a run is left for the clock to write: it wakes the clock's thread."""

    def load(self) -> None:
        """Read all runs, on taking the lead; what this beat sent in an earlier lead and could not write counts, too.

        Raises:
            StoreUnavailable: the store did not answer.
        """
        self._known = entry_runs(self._store)
        left = {
            name: run for name, run in self._left.items() if name not in self._known or self._known[name].at < run.at
        }
        self._known |= left
        self._unsaved, self._left = left, {}
        if left:
            self.on_run()
        now = time.time()
        ahead = [name for name, run in self._known.items() if run.at > now + FURTHEST_AHEAD]
        if ahead:
            self._known |= {name: EntryRun(now, self._known[name].count) for name in ahead}
            emit(events.BASE_RUNS_AHEAD, entries=some(sorted(ahead)))

    def of(self, name: str) -> EntryRun | None:
        """The last run of an entry, by whichever beat."""
        return self._known.get(name)

    def begin(self, leader: str, entry: Any) -> None:
        """Write down that an entry is sent now; called right before that.

        While the store does not answer, the beat goes on for as long as it trusts its lead: the first run waits for
        the store in vain, and the clock's thread writes it and those that follow.

        Raises:
            NotLeading: ``leader`` (``owner:term``) does not lead any more; the entry must not be sent.
        """
        run = EntryRun(time.time(), entry.total_run_count + 1)
        if self._unsaved or not self._is_written(leader, entry.name, run):
            self._unsaved[entry.name] = run
            self.on_run()
        self._known[entry.name] = run

    def _is_written(self, leader: str, name: str, run: EntryRun) -> bool:
        try:
            _write(self._of_ticks, leader, {name: run})
        except StoreUnavailable as error:
            emit(events.STORE_UNREACHABLE, part="the base scheduler", error=error)
            return False
        return True

    def add(self, leader: str, runs: Mapping[str, EntryRun]) -> None:
        """Remember entries that no beat has seen before, with the time from which their first run is counted.

        Raises:
            NotLeading: ``leader`` does not lead any more.
        """
        self._known |= runs
        _write(self._store, leader, runs)

    def save(self, leader: str) -> None:
        """Write what `begin` could not write; called by the clock while this beat leads.

        Raises:
            NotLeading: ``leader`` does not lead any more.
        """
        runs = dict(self._unsaved)
        if runs:
            _write(self._store, leader, runs)
            for name, run in runs.items():
                if self._unsaved.get(name) == run:
                    del self._unsaved[name]

    def forget(self) -> None:
        """Another beat leads by now: it writes the runs, and knows nothing of those that are not written yet."""
        self._left |= self._unsaved
        self._unsaved.clear()

    def keep_only(self, leader: str, names: Iterable[str]) -> None:
        """Remove from the store the runs of entries that do not exist any more, and did not run for a week.

        Raises:
            NotLeading: ``leader`` does not lead any more.
        """
        unknown, until = self._known.keys() - set(names), time.time() - KEPT_UNKNOWN
        gone = dict.fromkeys(name for name in unknown if self._known[name].at < until)
        _write(self._store, leader, gone)
        for name in gone:
            del self._known[name]


def _write(store: Store, leader: str, runs: Mapping[str, EntryRun | None]) -> None:
    """Store runs, or remove those that are None.

    Raises:
        NotLeading: ``leader`` does not lead any more.
    """
    for part in chunks(list(runs.items())):
        rows = [text for name, run in part for text in (name, "" if run is None else run.to_text())]
        if not script("run_entries")(store, mine=leader, rows=rows):
            raise NotLeading(leader)
