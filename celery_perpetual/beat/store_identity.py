"""A beat's memory of its store, to notice that it was lost, or has gone back to an older state.

The store has an identity, the *epoch*: a random value, set once. A beat that sees another one than it remembers knows
that the state is gone (an empty replica took over, the data was flushed), and with it the cursors. Reading every source
from the beginning again would be the worst answer, so the units that had a cursor are paused, unless
``perpetual_on_store_lost = "run"``. Which these are, the beats remember too. A loss pauses a unit once: a beat that
learns of it late, when the operator has set the cursor and resumed the unit, leaves it alone.

A store that comes back from an older snapshot, or from a replica that had not heard of everything, has the same epoch
and old cursors. So each beat leaves a *mark* there whenever it asks for the lead, renews it, claims or starts runs of
routines, and remembers it. Where the mark is missing, a claim is refused, and no routine is due. A beat that asks for
the lead or renews it gives the store a new epoch then, in the same step, which ends the lead. What follows is as after
a loss. A state that is younger than the last mark of every beat goes unnoticed: nothing has been claimed or started
since.

In an older state routines are due that have run since. They are paused, all together, if there are any that are older
than the loss; which of them have run, the store does not know any more.
"""

from __future__ import annotations

import json
from datetime import datetime, timezone

from celery_perpetual import events
from celery_perpetual.pauses import ALL_ROUTINES, Paused, Pauses, Scope
from celery_perpetual.routines.runs import UNIT as ROUTINES
from celery_perpetual.store.commands.events import add_event
from celery_perpetual.store.commands.leadership import Mark, identity, note_loss, noted_loss
from celery_perpetual.store.commands.routines import oldest_change
from celery_perpetual.store.connection import Store
from celery_perpetual.telemetry import emit
from celery_perpetual.times import format_time

OLD_ROUTINES = (
    "the store has gone back to an older state, in which routines are due that have run since; resume them from now "
    "to run these again, or from kept to leave out what is due"
)


class StoreIdentity:
    """Epoch and units with a cursor, as this process last saw them."""

    def __init__(self, store: Store, pauses: Pauses, *, owner: str, mark: Mark, pause: bool) -> None:
        self._store = store
        self._pauses = pauses
        self._owner = owner
        self._pause = pause
        self._mark = mark
        self._epoch: str | None = None
        self._with_cursor: set[str] = set()
        self._without_theirs: set[str] = set()
        """Units that lost their cursor; while they are paused for it, another loss must not set them free."""

    def refresh(self) -> None:
        """Remember which units have a cursor now, if the store is the one that we know."""
        mark = self._mark.value
        now = identity(self._store, self._owner)
        if now.epoch is not None and now.epoch == self._epoch and now.mark >= mark:
            self._without_theirs &= now.paused
            self._with_cursor = now.with_cursor | self._without_theirs

    def saw(self, epoch: str) -> None:
        """The store said who it is; called before this process leads.

        Raises:
            StoreUnavailable: the pauses could not be written; this process does not lead then.
        """
        if self._epoch not in (None, epoch):
            self._lost(epoch)
        self._epoch = epoch

    def _lost(self, epoch: str) -> None:
        at = datetime.now(timezone.utc)
        units = (
            [unit for unit in sorted(self._with_cursor) if not self._is_reported(unit, epoch)] if self._pause else []
        )
        holds_routines = self._pause and self._has_old_routines() and not self._is_reported(ROUTINES, epoch)
        names = [*units, *([ALL_ROUTINES.key] if holds_routines else [])]
        emit(events.STORE_LOST, was=self._epoch, epoch=epoch, paused=", ".join(names) or "none")
        if holds_routines:
            self._pauses.pause(Paused(scope=ALL_ROUTINES, by="celery-perpetual", reason=OLD_ROUTINES, at=at))
            note_loss(self._store, ROUTINES, epoch)
        reason = "the store has lost data, so the cursor is gone or an old one; set the cursor, then resume"
        for unit in units:
            self._pauses.pause(Paused(scope=Scope("unit", unit), by="celery-perpetual", reason=reason, at=at))
            note_loss(self._store, unit, epoch)
        self._without_theirs = set(self._with_cursor)
        data = json.dumps({"at": format_time(at), "epoch": epoch, "was": self._epoch, "paused": names})
        add_event(self._store, events.STORE_LOST.name, data, maxlen=self._store.limits.events_maxlen)

    def _has_old_routines(self) -> bool:
        """Whether routines are of an older state, and not created since the data were lost."""
        oldest = oldest_change(self._store)
        return oldest is not None and oldest <= self._mark.value

    def _is_reported(self, unit: str, epoch: str) -> bool:
        """Whether another beat has paused this unit, or the routines, for the same loss."""
        return noted_loss(self._store, unit) == epoch
