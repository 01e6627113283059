"""Runs in the calling process: the record says first that it runs, and while it does, the process renews that.

A caller that is gone renews nothing: its run is lost then, as that of a worker, and the process that asks next for due
routines ends it.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from celery import states
from celery.exceptions import Ignore, NotRegistered, Reject

from celery_perpetual import events
from celery_perpetual.completions.completion import FAILURE, IGNORED, LOST, REJECTED, SUCCESS, error_of
from celery_perpetual.errors import StoreUnavailable
from celery_perpetual.faults import reach
from celery_perpetual.ledger.ids import item_id, new_poll_id
from celery_perpetual.ledger.record import opened
from celery_perpetual.routines.ends import most_recoveries, short_result
from celery_perpetual.routines.record import Record
from celery_perpetual.routines.routine import RoutineRun
from celery_perpetual.routines.runs import Run, change_of_end, run_of_slot
from celery_perpetual.routines.steps import RunEnd
from celery_perpetual.routines.storage import are_written, read, write
from celery_perpetual.store.commands.routines import believe_inline
from celery_perpetual.telemetry import emit

if TYPE_CHECKING:
    from celery import Celery

    from celery_perpetual.store.connection import Store


class Inline:
    """Runs routines in this process, one after the other."""

    def __init__(self, app: Celery, store: Store) -> None:
        self._app = app
        self._store = store

    def run(self, record: Record, now: int, at: int | None) -> RoutineRun | None:
        """Run the slot that is due; None where the routine has changed since it was read.

        What the task raises is in the result.

        Args:
            record: the routine.
            now: when it was read, ms.
            at: the time that the caller has given instead.

        Raises:
            StoreUnavailable: the store did not answer.
        """
        run = run_of_slot(record, item_id(new_poll_id(now), 0), now, at)
        believed = now + self._store.limits.lease_ttl
        if not are_written(write(self._store, [run.change._replace(believed=believed)])):
            return None
        reach("routine.inline")
        with self._believed(record.id):
            status, value = self._execute(run)
        reach("routine.executed")
        if status == SUCCESS:
            end = RunEnd(run.task_id, status, result=short_result(value))
        else:
            end = RunEnd(run.task_id, status, error=error_of(value))
        stored, ended = read(self._store, record.id)
        if stored is not None and stored.run == run.task_id:
            self._end(stored, end, ended)
        return run.result(status=status, result=value if status == SUCCESS else None, error=end.error)

    def lose(self, record: Record, now: int) -> None:
        """End a run whose caller is gone.

        Raises:
            StoreUnavailable: the store did not answer.
        """
        message = "the process that ran it is gone"
        self._end(record, RunEnd(record.run, LOST, error={"type": "TaskLost", "message": message}), now)

    def _end(self, record: Record, end: RunEnd, now: int) -> None:
        change = change_of_end(record, record, end, now, most_recoveries=most_recoveries(self._app, record))
        write(self._store, [change])  # if it was changed meanwhile, it was cancelled

    def _execute(self, run: Run) -> tuple[str, Any]:
        try:
            item = opened(run.item)
            task: Any = self._app.tasks.get(item.task)
            if task is None:
                return FAILURE, NotRegistered(item.task)
            options = {name: item.options[name] for name in ("headers",) if name in item.options}
            result: Any = task.apply(item.args, dict(item.kwargs), task_id=run.task_id, throw=False, **options)
        except (Ignore, Reject) as error:
            return (IGNORED if isinstance(error, Ignore) else REJECTED), error
        except Exception as error:  # of a hook of the task, or of arguments that cannot be read in this process
            return FAILURE, error
        if result.state == states.SUCCESS:
            return SUCCESS, result.result
        return _STATUSES.get(result.state, FAILURE), result.result

    @contextmanager
    def _believed(self, routine_id: str) -> Iterator[None]:
        """Renew from a thread, within the block, that this process lives."""
        over = threading.Event()
        pause = self._store.limits.lease_ttl / 4000

        def renew() -> None:
            while not over.wait(pause):
                try:
                    believe_inline(self._store, routine_id, self._store.now() + self._store.limits.lease_ttl)
                except StoreUnavailable as error:
                    emit(events.STORE_UNREACHABLE, part=f"the run of routine {routine_id}", error=error)

        thread = threading.Thread(target=renew, name="perpetual-routine", daemon=True)
        thread.start()
        try:
            yield
        finally:
            over.set()
            thread.join()


_STATUSES = {states.IGNORED: IGNORED, states.REJECTED: REJECTED}
