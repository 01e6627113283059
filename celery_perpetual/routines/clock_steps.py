"""Routines whose times were written while the store's clock was ahead.

Their next slot is as far ahead as the clock was. Such a routine shows itself, as its last change lies ahead: it
gets the first slot of its timetable that lies after now.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

from celery_perpetual import events
from celery_perpetual.errors import InvalidRoutine
from celery_perpetual.routines.record import RETRY_WAITING, RUNNING, Record
from celery_perpetual.routines.steps import scheduled
from celery_perpetual.routines.storage import Change, read_many, write
from celery_perpetual.store.chunks import chunks
from celery_perpetual.store.commands.routines import routines_changed_after
from celery_perpetual.store.work_list import AHEAD_MS, pull_back
from celery_perpetual.telemetry import emit
from celery_perpetual.times import to_datetime, to_ms

if TYPE_CHECKING:
    from celery_perpetual.store.connection import Store

#: Most routines that one pass pulls back.
MOST = 5_000


def pull_back_routines(store: Store) -> int:
    """Correct the times of routines that were changed while the clock was ahead; returns how many.

    Of each 500, all are corrected, or none where one is changed meanwhile: the next pass has another try. A routine
    that runs is corrected when its run has ended.

    Raises:
        StoreUnavailable: the store did not answer.
    """
    now = store.now()
    pull_back(store, store.keys.routines_inline, now + store.limits.lease_ttl)
    pulled = 0
    for part in chunks(routines_changed_after(store, now + AHEAD_MS, MOST)):
        records = [record for record in read_many(store, part) if record.state != RUNNING and not record.ran_ahead]
        if records:
            write(store, [Change(record, _pulled_back(record, now)) for record in records])
        pulled += len(records)
    if pulled:
        emit(events.ROUTINES_PULLED_BACK, routines=pulled)
    return pulled


def _pulled_back(record: Record, now: int) -> Record:
    return replace(record, version=record.version + 1, updated=now, **_times(record, now))


def _times(record: Record, now: int) -> dict[str, Any]:
    if record.next is None:
        return {}
    if record.state == RETRY_WAITING:
        return {"next": min(record.next, now)}
    try:
        slot = record.timetable.pulled_back(to_datetime(record.due_slot), to_datetime(now))
    except InvalidRoutine:  # the code of a schedule of the user's: the routine keeps its time
        return {}
    return scheduled(record.timetable, record.id, to_ms(slot))
