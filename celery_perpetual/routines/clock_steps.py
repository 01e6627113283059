"""Times that were stored while the store's clock was ahead: they would hold routines up until it is there again.

A change that lies ahead of the clock shows which routines these are. What was reckoned from that change is reckoned
anew from now; a time that a caller has given stays. With ``catch_up`` each slot is run once, so a slot that was run
ahead is not run again, and the routine keeps its next one.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from celery_perpetual import events
from celery_perpetual.errors import InvalidRoutine
from celery_perpetual.routines.asking import asked
from celery_perpetual.routines.record import ACTIVE, PAUSED, RETRY_WAITING, Record
from celery_perpetual.routines.steps import scheduled
from celery_perpetual.routines.storage import Change, are_written, read_readable, write
from celery_perpetual.store.commands.events import add_event
from celery_perpetual.store.commands.routines import doubt_inline, routines_changed_after
from celery_perpetual.store.work_list import AHEAD_MS
from celery_perpetual.telemetry import emit
from celery_perpetual.times import format_time, to_datetime, to_ms

if TYPE_CHECKING:
    from celery_perpetual.store.connection import Store

#: Most routines that one pass pulls back.
MOST = 1_000


def pull_back_routines(store: Store) -> int:
    """Pull back the times of routines that were changed while the store's clock was ahead; returns how many those were.

    Each routine is one step.

    Raises:
        StoreUnavailable: the store did not answer.
    """
    now, lease = store.now(), store.limits.lease_ttl
    # A caller that lives renews it; one that is gone is believed no longer than any other.
    doubt_inline(store, now + lease + AHEAD_MS, now + lease)
    ids = routines_changed_after(store, now + AHEAD_MS, MOST)
    changes = [Change(record, pulled_back(record, now)) for record in read_readable(store, ids)]
    # One that was changed meanwhile has another pass.
    pulled = sum(are_written(write(store, [change])) for change in changes)
    if pulled:
        emit(events.ROUTINES_PULLED_BACK, routines=pulled)
        data = json.dumps({"routines": pulled, "at": format_time(to_datetime(now))})
        add_event(store, events.CLOCK_STEPPED.name, data, maxlen=store.limits.events_maxlen)
    return pulled


def pulled_back(record: Record, now: int) -> Record:
    """The record without times that its own changes have put ahead of now."""
    changes: dict[str, Any] = {}
    if record.state == RETRY_WAITING and record.next is not None:
        changes["next"] = min(record.next, now + max(0, record.next - record.updated))
    elif record.state in (ACTIVE, PAUSED) and record.next is not None:
        changes |= _next(record, now)
    for name in ("created", "completed", "cancelled"):
        if (getattr(record, name) or 0) > now:
            changes[name] = now
    # A run may have been started for a time that lies ahead.
    if record.last_at is not None and now < record.last_at <= record.updated:
        changes["last_at"] = now
    return record._replace(version=record.version + 1, updated=now, **changes)


def _next(record: Record, now: int) -> dict[str, Any]:
    table, slot = record.timetable, record.due_slot
    if slot <= now or table.catch_up or table.kind == "once":
        return {}
    begins_at_once = table.every is not None and table.start is None and not record.runs and slot == record.created
    try:
        earlier = now if begins_at_once else asked(table, lambda: _earlier(record, slot, now))
    except InvalidRoutine:  # of the schedule's code; it is asked again when the slot has been run
        return {}
    return {} if earlier is None else scheduled(table, record.id, earlier)


def _earlier(record: Record, slot: int, now: int) -> int | None:
    """The first slot after now, if the one that is stored was the first one after the change; else None."""
    table = record.timetable
    if table.every is not None:
        was_reckoned = slot - record.updated <= table.every
    else:
        assert table.calendar is not None
        was_reckoned = slot <= table.calendar.match_after(record.updated)
    found = to_ms(table.pulled_back(to_datetime(slot), to_datetime(now))) if was_reckoned else slot
    return found if found < slot else None
