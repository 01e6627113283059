"""When the entries of the base scheduler last ran and how often, shared by all beats.

Celery's persistent scheduler keeps this in a file beside each beat, and django-celery-beat writes it to its database
every few minutes. A beat on another machine would repeat, after a take-over, what the last leader has sent. So the
leader writes each run to the store right before it sends the entry, in a script that refuses it unless it leads.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import Any

from celery_perpetual import events
from celery_perpetual.errors import StoreUnavailable
from celery_perpetual.polling.claims import NotLeading
from celery_perpetual.store.commands.leadership import EntryRun, entry_runs, remove_entry_runs, save_entry_runs
from celery_perpetual.store.connection import Store
from celery_perpetual.store.scripts import script
from celery_perpetual.telemetry import emit


class EntryRuns:
    """The last runs by name of the entry; all methods but `save` are called on the thread that ticks."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._of_ticks = store.clone(patient=False)
        """A tick may wait for the store only briefly."""
        self._known: dict[str, EntryRun] = {}
        """As the store had them when this beat took the lead, and those of this beat since then."""
        self._unsaved: dict[str, EntryRun] = {}
        self.on_run: Callable[[], object] = lambda: None
        """Called where a run is left for the clock to write: it wakes the clock's thread."""

    def load(self) -> None:
        """Read all runs, on taking the lead.

        Raises:
            StoreUnavailable: the store did not answer.
        """
        self._unsaved.clear()
        # A run that lies ahead was written by a beat whose machine was ahead: it would hold its entry back.
        now = time.time()
        self._known = {name: replace(run, at=min(run.at, now)) for name, run in entry_runs(self._store).items()}

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
        if self._unsaved or not self._write(leader, entry.name, run):
            self._unsaved[entry.name] = run
            self.on_run()
        self._known[entry.name] = run

    def _write(self, leader: str, name: str, run: EntryRun) -> bool:
        """Whether the store has it."""
        try:
            leads = script("run_entry")(self._of_ticks, mine=leader, name=name, run=run.to_text())
        except StoreUnavailable as error:
            emit(events.STORE_UNREACHABLE, part="the base scheduler", error=error)
            return False
        if not leads:
            raise NotLeading(leader)
        return True

    def add(self, runs: dict[str, EntryRun]) -> None:
        """Remember entries that no beat has seen before, with the time from which their first run is counted."""
        if runs:
            self._known |= runs
            save_entry_runs(self._store, runs)

    def save(self) -> None:
        """Write what `begin` could not write; called by the clock while this beat leads."""
        runs = dict(self._unsaved)
        if runs:
            save_entry_runs(self._store, runs)
            for name, run in runs.items():
                if self._unsaved.get(name) == run:
                    del self._unsaved[name]

    def forget(self) -> None:
        """Another beat leads by now: what is not written yet is older than its runs."""
        self._unsaved.clear()

    def keep_only(self, names: Iterable[str]) -> None:
        """Remove from the store the runs of entries that do not exist any more."""
        gone = self._known.keys() - set(names)
        if gone:
            remove_entry_runs(self._store, gone)
            for name in gone:
                del self._known[name]
