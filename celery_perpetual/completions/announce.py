"""Announces ends: one script per end, bounded in time, and no end is forgotten while the process lives.

The script runs after Celery's result backend has stored the state, or stores Celery's result itself, in the same step.
So a program that hears of an end can ask Celery for the result at once. Announcing never raises into the task and never
waits longer than ``perpetual_store_timeout``, or than its caller has time. While the store does not answer, the process
keeps ends, up to a bound, and a thread tries again until the store answers; tasks that end meanwhile do not wait.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from contextlib import suppress
from functools import cached_property
from typing import TYPE_CHECKING, Any

from celery.exceptions import SoftTimeLimitExceeded

from celery_perpetual.broker.unacked import unacked_keys
from celery_perpetual.completions.backlog import Backlog, UnstoredResult, WaitingEnd
from celery_perpetual.completions.batches import follow_up
from celery_perpetual.completions.end import BACK_OFF, Closing, EndReply, EndScript, EndScripts, ExpectedEnd, TaskEnd
from celery_perpetual.completions.result_in_script import ResultToStore, result_to_store
from celery_perpetual.completions.waiting_ends import SharedEnds
from celery_perpetual.errors import StoreUnavailable
from celery_perpetual.faults import reach
from celery_perpetual.ledger.ids import POLL_INDEX, item_fillings
from celery_perpetual.store.connection import Store
from celery_perpetual.store.header import Filling, Of
from celery_perpetual.store.prepared import Prepared

if TYPE_CHECKING:
    from celery import Celery


#: Most threads of a process that do what follows ends. A broker may hang, and tasks go on ending.
MOST_FOLLOWING = 32


class Announcer:
    """Stores and announces ends, now or as soon as the store answers."""

    def __init__(self, app: Celery, store: Store, shared: Callable[[], SharedEnds | None] = lambda: None) -> None:
        self._app = app
        self._shared = shared
        self._store = store.clone(patient=False)
        self._reset()

    def _reset(self) -> None:
        self._pid = os.getpid()
        self._backlog = Backlog(self._announce, self._shared)
        self._following: list[threading.Thread] = []
        """Threads that do what follows an end."""

    def _of_this_process(self) -> Backlog:
        if self._pid != os.getpid():  # forked: the parent's ends are the parent's
            self._reset()
        return self._backlog

    @cached_property
    def _scripts(self) -> EndScripts:
        keys, broker = self._store.keys, unacked_keys(self._app)
        task: dict[str, Filling] = {
            "completion": (keys.completion_prefix, Of("id")), "channel": (keys.channel_prefix, Of("id")),
            "queue": (keys.channel_prefix, Of("id"), keys.QUEUE),
            "unacked": broker.unacked, "unacked_index": broker.received,
        }  # fmt: skip
        item: dict[str, Filling] = {
            **item_fillings(keys),
            "poll": (Of("string.sub(id, 1, 28)"), POLL_INDEX), "batch_channel": (keys.channel_prefix, Of("poll")),
        }  # fmt: skip

        def prepared(name: str, **fixed: Filling) -> EndScript:
            alone: dict[str, Filling] = {"result": "", "value": "", "expires": ""}
            return EndScript(
                Prepared(self._store, name, yielding=True, **fixed, **alone),
                Prepared(self._store, name, yielding=True, **fixed),
            )

        return EndScripts(
            prepared("end_item", **task, **item, hold=BACK_OFF),
            prepared("end_item", **task, **item),
            prepared("end_task", **task),
        )

    def expect(self, task_id: str, task: str | None, **facts: Any) -> ExpectedEnd:
        """An end that is to come; see :class:`ExpectedEnd`. Makes no call."""
        return ExpectedEnd(self._scripts, self._store.keys, task_id, task, **facts)

    def result_to_store(self, backend: Any, task_id: str, result: Any, request: Any) -> ResultToStore | None:
        """Celery's result as its backend has it, if it can be stored with the end; see :mod:`.result_in_script`."""
        return result_to_store(self._store, backend, task_id, result, request)

    def announce(self, end: TaskEnd, unstored: UnstoredResult | None = None) -> None:
        """Announce one end, after what Celery could not store. Returns within ``perpetual_store_timeout``."""
        self.announce_expected(*self._written(end), unstored=unstored)

    def announce_expected(
        self,
        expected: ExpectedEnd,
        status: str,
        head: str,
        *,
        result: ResultToStore | None = None,
        unstored: UnstoredResult | None = None,
        within: float | None = None,
    ) -> EndReply | None:
        """Announce an end that was expected, now if the store answers; None where that is done later.

        Returns within ``perpetual_store_timeout``.

        Args:
            expected: the end.
            status: how the task ended.
            head: of the record.
            result: what is stored for Celery in the same step.
            unstored: what Celery could not store: the end is announced after it. With a ``result``: how Celery stores
                that, where it turns out that the step cannot.
            within: seconds that the task has left for it; None where it has time.
        """
        backlog = self._of_this_process()
        reach("task.finishing")
        end = WaitingEnd(expected, status, head, result, unstored)
        reply = None
        if not (end.is_stored_by_celery or backlog.comes_first):
            try:
                reply = self._announce(end, within)
            except Exception as error:  # no end is dropped, whatever it is; and it would be taken for the body's
                backlog.add_failed(end, error, is_hurried=self._over(within) is not None)
        else:
            backlog.add(end)
            if not backlog.is_away and self._over(within) is None:
                backlog.announce_oldest_first()
        backlog.try_later()
        return reply

    def _over(self, within: float | None) -> Store | None:
        """The store for a caller that has less time than usual."""
        store = self._store.within(within)
        return None if store is self._store else store

    def store_later(self, expected: ExpectedEnd, unstored: UnstoredResult) -> None:
        """Keep the result of an end that is announced already, until Celery's backend can store it."""
        backlog = self._of_this_process()
        backlog.add(WaitingEnd(expected, "", "", unstored=unstored, is_announced=True))
        backlog.try_later()

    def call_or_keep(self, closing: Closing, within: float | None = None) -> None:
        """Make a call that is no end; if the store does not take it, or the soft time limit ends it, it is
        kept until the store takes it.

        Args:
            closing: the call.
            within: as of :meth:`announce_expected`.
        """
        try:
            closing.announce("", "", None, self._over(within))
        except (StoreUnavailable, SoftTimeLimitExceeded) as error:  # neither says that the store has it
            backlog = self._of_this_process()
            backlog.add_failed(WaitingEnd(closing, "", ""), error, is_hurried=self._over(within) is not None)
            backlog.try_later()

    def keep(self, closing: Closing) -> None:
        """Make a call that is no end when the store is back, behind what waits already."""
        backlog = self._of_this_process()
        backlog.add(WaitingEnd(closing, "", ""))
        backlog.try_later()

    @property
    def store(self) -> Store:
        """The store, for callers that may not wait long."""
        return self._store

    @property
    def down(self) -> bool:
        """Whether ends wait for a store that did not answer."""
        return self._of_this_process().is_away

    def announce_now(self, end: TaskEnd) -> bytes:
        """Announce an end at once: :data:`FIRST`, or another word where the task had ended before, or is not known.

        Raises:
            StoreUnavailable: the store did not answer.
        """
        return self._announce(WaitingEnd(*self._written(end))).verdict

    def _written(self, end: TaskEnd) -> tuple[ExpectedEnd, str, str]:
        expected = self.expect(
            end.task_id, end.task, announce=end.announce, worker=end.worker, attempt=end.attempt, nonce=end.nonce,
            leased=end.leased, tag=end.tag, where=end.where, hold=end.hold,
        )  # fmt: skip
        head = expected.head(
            end.status, runtime=end.runtime, result=end.result, exception=end.exception, meta=end.meta
        )  # fmt: skip
        return expected, end.status, head

    def _announce(self, end: WaitingEnd, within: float | None = None) -> EndReply:
        over = None if within is None else self._over(within)
        reply = end.expected.announce(end.status, end.head, end.result, over)
        reach("task.finished")
        if isinstance(reply.follows, bytes):
            self._follow_up(reply.follows.decode())
        return reply

    def _follow_up(self, entry: str) -> None:
        """Do it on a thread: the broker may be slow, and the task has ended. Many that hang leave it to the cycle."""
        self._following = [thread for thread in self._following if thread.is_alive()]
        if len(self._following) < MOST_FOLLOWING:
            thread = threading.Thread(target=follow_up, args=(self._app, self._store, entry), daemon=True)
            with suppress(RuntimeError):  # the system has no thread left
                thread.start()
                self._following.append(thread)

    def announce_backlog(self, seconds: float) -> None:
        """Before the process ends: give the ends that wait so much time."""
        self._of_this_process().flush(seconds)
