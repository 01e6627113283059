"""Announces ends: one script per end, bounded in time, and no end is forgotten while the process lives.

The script runs after Celery's result backend has stored the state, or stores Celery's result itself, in the same step.
So a program that hears of an end can ask Celery for the result at once. Announcing never raises into the task and never
waits longer than ``perpetual_store_timeout``. While the store does not answer, the process keeps ends, up to a bound,
and a thread tries again until the store answers; tasks that end meanwhile do not wait.
"""

from __future__ import annotations

import os
import threading
import time
from collections import deque
from functools import cached_property
from typing import TYPE_CHECKING, Any

from celery.exceptions import SoftTimeLimitExceeded

from celery_perpetual import events
from celery_perpetual.broker.unacked import unacked_keys
from celery_perpetual.completions.batches import send_batch_done
from celery_perpetual.completions.end import ExpectedEnd, FinishReply, TaskEnd
from celery_perpetual.completions.result_in_script import ResultToStore, result_to_store
from celery_perpetual.errors import StoreRefused, StoreUnavailable
from celery_perpetual.faults import reach
from celery_perpetual.store.connection import Store
from celery_perpetual.store.header import Of
from celery_perpetual.store.prepared import Prepared
from celery_perpetual.telemetry import emit

if TYPE_CHECKING:
    from celery import Celery

    from celery_perpetual.settings import Settings


#: Ends that wait for the store, per process.
MOST_WAITING = 10_000
RETRY_SECONDS = 0.5

#: Pauses between two tries to announce an end that the store answers with an error: the first one, and the longest.
REFUSED_SECONDS, LONGEST_REFUSED_SECONDS = 1.0, 60.0

#: What the script answers for the end that counts, and where it has done nothing: it may not store the result, or
#: cannot read what is there.
FIRST, FORBIDDEN, UNREADABLE = 1, 3, 4


class Announcer:
    """Stores and announces ends, now or as soon as the store answers."""

    def __init__(self, app: Celery, store: Store, settings: Settings) -> None:
        self._app = app
        self._store = store.clone(patient=False)
        self._settings = settings
        self._reset()

    def _reset(self) -> None:
        self._pid = os.getpid()
        self._backlog: deque[tuple[ExpectedEnd, str, str]] = deque(maxlen=MOST_WAITING)
        self._refused: deque[tuple[ExpectedEnd, str, str]] = deque(maxlen=MOST_WAITING)
        """Ends that the store answers with an error: they keep no other end waiting."""
        self._away = False
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None

    @cached_property
    def _finish(self) -> Prepared:
        keys, broker = self._store.keys, unacked_keys(self._app)
        return Prepared(
            self._store, "finish", yielding=True,
            completion=(keys.completion_prefix, Of("id")), channel=(keys.channel_prefix, Of("id")),
            queue=(keys.channel_prefix, Of("id"), keys.QUEUE), batch=(keys.poll_prefix, Of("poll")),
            batch_channel=(keys.channel_prefix, Of("poll")),
            unacked=broker.unacked, unacked_index=broker.received,
        )  # fmt: skip

    def expect(self, task_id: str, task: str | None, **facts: Any) -> ExpectedEnd:
        """An end that is to come; see :class:`ExpectedEnd`. Makes no call."""
        return ExpectedEnd(self._finish, self._store.keys, task_id, task, **facts)

    def result_to_store(self, backend: Any, task_id: str, result: Any, request: Any) -> ResultToStore | None:
        """What Celery's result backend would store, if it can be stored with the end; see :mod:`.result_in_script`."""
        return result_to_store(self._store, backend, task_id, result, request)

    def announce(self, end: TaskEnd) -> None:
        """Announce one end. Returns within ``perpetual_store_timeout``."""
        self.announce_expected(*self._written(end))

    def announce_expected(self, expected: ExpectedEnd, status: str, head: str) -> None:
        """Announce an end that was expected, now if the store answers. Returns within ``perpetual_store_timeout``."""
        if self._pid != os.getpid():  # forked: the parent's ends are the parent's
            self._reset()
        reach("task.finishing")
        self._backlog.append((expected, status, head))
        if self._thread is None or not self.down:
            self._announce_oldest_first()
        if self._backlog or self._refused:
            self._announce_later()

    def announce_with_result(
        self, expected: ExpectedEnd, status: str, head: str, result: ResultToStore
    ) -> FinishReply | None:
        """Announce an end and store its result for Celery; None where others wait for the store, or it did not answer.

        Returns within ``perpetual_store_timeout``.
        """
        if self._pid != os.getpid() or self._backlog or self.down:
            return None
        reach("task.finishing")
        try:
            return self._announce(expected, status, head, result)
        except (StoreUnavailable, SoftTimeLimitExceeded) as error:
            emit(events.END_DELAYED, task_id=expected.task_id, error=error)
        except Exception as error:
            emit(events.END_WITHOUT_RESULT, task_id=expected.task_id, error=error)
        return None

    @property
    def down(self) -> bool:
        """Whether ends wait for a store that did not answer."""
        return self._away and self._thread is not None and self._thread.is_alive()

    def _announce_oldest_first(self) -> bool:
        """Announce every end that waits, oldest first; False if the store does not answer."""
        while True:
            try:
                end = self._backlog.popleft()
            except IndexError:
                self._away = False
                return True
            try:
                self._announce(*end)
            except StoreRefused as error:
                self._refused.append(end)
                emit(events.END_REFUSED, task_id=end[0].task_id, error=error)
            except StoreUnavailable as error:
                self._away = True
                self._backlog.appendleft(end)
                emit(events.END_DELAYED, task_id=end[0].task_id, error=error)
                return False
            except SoftTimeLimitExceeded:  # raised wherever the task is: nothing is wrong with its end
                self._backlog.appendleft(end)
                return False
            except Exception as error:
                self._refused.append(end)
                emit(events.END_REFUSED, task_id=end[0].task_id, error=error)

    def announce_now(self, end: TaskEnd) -> int:
        """Announce an end at once: :data:`FIRST`, or another number where the task had ended before, or is not known.

        Raises:
            StoreUnavailable: the store did not answer.
        """
        return self._announce(*self._written(end)).verdict

    def _written(self, end: TaskEnd) -> tuple[ExpectedEnd, str, str]:
        expected = self.expect(
            end.task_id, end.task, announce=end.announce, worker=end.worker, attempt=end.attempt, nonce=end.nonce,
            leased=end.leased, tag=end.tag,
        )  # fmt: skip
        head = expected.head(
            end.status, runtime=end.runtime, result=end.result, exception=end.exception, meta=end.meta
        )  # fmt: skip
        return expected, end.status, head

    def _announce(
        self, expected: ExpectedEnd, status: str, head: str, result: ResultToStore | None = None
    ) -> FinishReply:
        reply = expected.announce(status, head, result)
        reach("task.finished")
        if reply.batch_done:  # the broker may be slow, and the task that happened to be the last has ended
            threading.Thread(target=send_batch_done, args=(self._app, self._store, expected.poll), daemon=True).start()
        return reply

    def _announce_later(self) -> None:
        with self._lock:
            if self._thread is None or not self._thread.is_alive():
                self._thread = threading.Thread(target=self._keep_trying, name="perpetual-ends", daemon=True)
                self._thread.start()

    def announce_backlog(self, seconds: float) -> None:
        """Before the process ends: try for a while. The thread may hold an end in its hand."""
        deadline = time.monotonic() + seconds
        if self._pid == os.getpid() and self._thread is not None:
            while (self._backlog or self._away) and self._thread.is_alive() and time.monotonic() < deadline:
                self._thread.join(0.05)
        while not self._announce_oldest_first() and time.monotonic() < deadline:
            time.sleep(RETRY_SECONDS)

    def _keep_trying(self) -> None:
        pause, next_refused = REFUSED_SECONDS, time.monotonic() + REFUSED_SECONDS
        while self._backlog or self._refused:
            time.sleep(RETRY_SECONDS)
            if self._refused and time.monotonic() >= next_refused:
                pause = min(2 * pause, LONGEST_REFUSED_SECONDS)
                next_refused = time.monotonic() + pause
                self._backlog.extend(self._refused)
                self._refused.clear()
            self._announce_oldest_first()
