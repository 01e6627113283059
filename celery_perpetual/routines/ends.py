"""The step that follows the end of a run: the next state of its routine.

The script that ends the task puts the end onto the list of what follows. The process that stored the end comes here at
once, and the leader's cycle does what is left. The entry goes in the step that changes the record, so the end of a run
counts once; an end of a run that is not the routine's any more changes nothing.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from celery_perpetual.completions.batches import FOLLOW_UPS
from celery_perpetual.completions.completion import SUCCESS, inline
from celery_perpetual.errors import StoreUnavailable
from celery_perpetual.faults import reach
from celery_perpetual.leases.on_lost import when_lost
from celery_perpetual.ledger.ids import made_at
from celery_perpetual.ledger.record import task_of
from celery_perpetual.routines.record import BY_HAND, SCHEDULED, Record
from celery_perpetual.routines.runs import change_of_end
from celery_perpetual.routines.steps import RunEnd, ended_by_hand
from celery_perpetual.routines.storage import Change, are_written, read, write
from celery_perpetual.store.commands.batches import remove_entry
from celery_perpetual.store.commands.completions import completions_of
from celery_perpetual.store.connection import Store

if TYPE_CHECKING:
    from celery import Celery

#: A longer result stays out of the record of its routine; the completion has it.
LONGEST_RESULT = 2048
#: The record may be changed between being read and being written; not this often.
MOST_TRIES = 20


def follow_end(app: Celery, store: Store, entry: str) -> None:
    """Do what follows the end of a run; ``entry`` as ``include/close_item.lua`` writes it.

    Raises:
        StoreUnavailable: the store did not answer.
    """
    owner, task_id, status, routine_id = entry.split(" ", 3)
    reach("routine.following")
    for _ in range(MOST_TRIES):
        record, now = read(store, routine_id)
        if record is None or not _is_of(record, owner, task_id):
            remove_entry(store, store.keys.batches, entry)
            return
        end = _end(store, task_id, status)
        if owner == BY_HAND:
            change = Change(record, ended_by_hand(record, end, now))
        else:
            change = change_of_end(record, record, end, now, most_recoveries=most_recoveries(app, record))
        if are_written(write(store, [change], entry)):
            reach("routine.followed")
            return
    raise StoreUnavailable(f"routine {routine_id} was changed {MOST_TRIES} times while the end of a run was noted")


def _is_of(record: Record, owner: str, task_id: str) -> bool:
    """Whether a run is one of this routine, and not of an earlier one that had its id."""
    if owner == SCHEDULED:
        return record.run == task_id
    return record.last_run == task_id or record.created <= made_at(task_id)  # the clock may have stepped back


def most_recoveries(app: Celery, record: Record) -> int:
    """How often a run of a slot may be lost."""
    return when_lost(app.tasks.get(task_of(record.item)))[0]


def _end(store: Store, task_id: str, status: str) -> RunEnd:
    (text,) = completions_of(store, [task_id])
    stored = {} if text is None else json.loads(text)
    if stored.get("status") != status:  # it is not announced, or has expired
        stored = {}
    if status == SUCCESS:
        return RunEnd(task_id, status, result=short_result(stored.get("result")))
    return RunEnd(task_id, status, error=stored.get("error"))


def short_result(result: object) -> str:
    """The JSON of a result as the record keeps it, "" for none, or one that is too long."""
    text = inline(result)
    return "" if text == "null" or len(text) > LONGEST_RESULT else text


FOLLOW_UPS.update({SCHEDULED: follow_end, BY_HAND: follow_end})
