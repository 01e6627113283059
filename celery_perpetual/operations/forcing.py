"""One verb for many tasks: a result each, and a record of who did it and why."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from celery_perpetual import events
from celery_perpetual.errors import ContractError, StoreUnavailable, described, readable
from celery_perpetual.json_fields import JsonFields
from celery_perpetual.ledger.ids import id_of
from celery_perpetual.pauses import operator
from celery_perpetual.store.commands.events import add_event
from celery_perpetual.telemetry import emit
from celery_perpetual.times import format_time, to_datetime

if TYPE_CHECKING:
    from typing import TypeAlias

    from celery.result import AsyncResult

    from celery_perpetual.ledger.ids import TaskRef
    from celery_perpetual.store.connection import Store

    #: Several tasks.
    Tasks: TypeAlias = list[TaskRef] | list[str] | list[AsyncResult[Any]] | tuple[TaskRef, ...]

#: Tasks that one call may name.
MOST = 50


@dataclass(frozen=True, slots=True, kw_only=True)
class Forced(JsonFields):
    """The result of a verb for one task of several."""

    task_id: str
    done: bool
    """False: the verb does not apply to it, as it has ended, runs, or is unknown; or there was an error."""
    error: str | None = None
    """Type and text of what was raised."""
    new_task_id: str | None = None
    """Of ``retry``: under which id it runs again."""


def for_each(tasks: Sequence[TaskRef], verb: Callable[[str], Any]) -> list[Forced]:
    """Call a verb for each of the tasks, each once; the error of one does not stop the next.

    Raises:
        ContractError: more than :data:`MOST` tasks, or what is no id; nothing was done.
        StoreUnavailable: the store did not answer; what was done by then stays so.
    """
    ids = list(dict.fromkeys(id_of(task) for task in tasks))
    if len(ids) > MOST:
        raise ContractError(f"at most {MOST} tasks at once, got {len(ids)}; call it several times")
    return [_try(task_id, verb) for task_id in ids]


def _try(task_id: str, verb: Callable[[str], Any]) -> Forced:
    try:
        answer = verb(task_id)
    except StoreUnavailable:
        raise
    except Exception as error:  # of one task: of its broker, its result backend, its unit
        return Forced(task_id=task_id, done=False, error=described(error))
    return Forced(task_id=task_id, done=bool(answer), new_task_id=answer if isinstance(answer, str) else None)


def on_record(store: Store, verb: str, reason: str, task_ids: Sequence[str], **about: str) -> None:
    """Put what an operator did onto the stream: who, what, to what, and why.

    It has been done, so an error is reported and raises nothing: the caller gets the results.
    """
    try:
        data = {
            "at": format_time(to_datetime(store.now())), "verb": verb, "by": operator(), "reason": readable(reason),
            "task_ids": list(task_ids), **about,
        }  # fmt: skip
        add_event(store, events.OPERATOR.name, json.dumps(data), maxlen=store.limits.events_maxlen)
    except StoreUnavailable as error:
        emit(events.STORE_UNREACHABLE, part=f"the record of {verb}", error=error)
    except Exception as error:
        emit(events.PART_FAILED, part=f"the record of {verb}", error=error)
