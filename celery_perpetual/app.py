"""``Perpetual(app)``: everything hangs on it, nothing is decided in it."""

from __future__ import annotations

import getpass
import json
import socket
from collections.abc import Iterable, Iterator
from datetime import datetime, timedelta, timezone
from functools import cached_property
from typing import TYPE_CHECKING, Any, Literal

from celery_perpetual.completions.annotations import annotate
from celery_perpetual.completions.batches import BatchResult
from celery_perpetual.completions.completion import Completion
from celery_perpetual.errors import ContractError
from celery_perpetual.operations.check import Finding, check
from celery_perpetual.operations.cursors import forget_cursor, write_cursor
from celery_perpetual.operations.leases import LeaseOperations
from celery_perpetual.operations.lookup import find
from celery_perpetual.operations.polls import poll_by_hand, poll_in_worker
from celery_perpetual.operations.preview import Preview, preview
from celery_perpetual.operations.units import Unit, Units
from celery_perpetual.operations.why import Explanation, explain
from celery_perpetual.pauses import EVERYTHING, Paused, Pauses
from celery_perpetual.polling.outcome import PollOutcome, outcomes
from celery_perpetual.polling.runner import Runner
from celery_perpetual.store.scripts import script
from celery_perpetual.tasks.discovery import load
from celery_perpetual.tasks.items import UNSET
from celery_perpetual.times import format_time
from celery_perpetual.waiting.aio import AsyncWaiting
from celery_perpetual.waiting.hub import Hub
from celery_perpetual.waiting.lookup import answers, pending
from celery_perpetual.waiting.streams import Event, stream, subscribe
from celery_perpetual.waiting.waits import Waiting
from celery_perpetual.wiring import wire

if TYPE_CHECKING:
    from celery import Celery


class Perpetual(LeaseOperations):
    """celery-perpetual for one Celery app; also ``app.perpetual``.

    Making it reads no configuration and opens no connection. Its operations may be called from any process and
    thread that has the app.
    """

    app: Celery

    def __init__(self, app: Celery | None = None) -> None:
        """Wire ``app``, or later one given to :meth:`init_app`."""
        if app is not None:
            self.init_app(app)

    def init_app(self, app: Celery) -> Perpetual:
        """Connect worker signals, and make ``celery beat`` use our scheduler where the app has Celery's default."""
        self.app = app
        app.perpetual = self  # type: ignore[attr-defined]
        wire(app)
        return self

    @cached_property
    def _hub(self) -> Hub:
        return Hub(self.store)

    @cached_property
    def _waiting(self) -> Waiting:
        return Waiting(self.app, self.store, self._hub)

    @cached_property
    def aio(self) -> AsyncWaiting:
        """``wait``, ``wait_any``, ``wait_all``, ``as_completed`` and ``wait_batch`` as coroutines."""
        return AsyncWaiting(self.app, self.store, self._hub)

    @cached_property
    def _runner(self) -> Runner:
        return Runner(self.app, self.store)

    @cached_property
    def _pauses(self) -> Pauses:
        return Pauses(self.store)

    @property
    def _units(self) -> Units:
        return Units(self.app, self.settings, self.store, self._pauses)

    def check(self) -> list[Finding]:
        """Check settings, tasks, scheduler, store and leader; empty if all is well."""
        return check(self.app)

    def units(self) -> list[Unit]:
        """Every unit, by name, with its state, next and last poll.

        Raises:
            StoreUnavailable: the store did not answer.
        """
        return self._units.all()

    def poll(self, task: Any, tenant: Any = None) -> PollOutcome:
        """Evaluate ``next_batch`` and enqueue, now and in this process, without moving the cadence.

        It takes the unit's claim like any poll (one that is open: ``skipped``, gate ``busy``) and passes over pause,
        ``enabled`` and back-off, not over ``max_in_flight``. Blocks at most ``poll_timeout`` for ``next_batch``.

        Raises:
            UnknownTask, UnknownUnit: there is no such unit.
            StoreUnavailable: the store did not answer. An error of ``next_batch`` is the status ``failed``.
        """
        return poll_by_hand(self.store, self._runner, find(self.app, task, tenant))

    def polls(self, task: Any, tenant: Any = None, limit: int = 20) -> list[PollOutcome]:
        """Outcomes of a unit, newest first."""
        return outcomes(self.store, find(self.app, task, tenant).name, limit)

    def why(self, task: Any, tenant: Any = None) -> Explanation:
        """Explain from what is stored why a unit is quiet, or what it does next."""
        unit = find(self.app, task, tenant)
        return explain(self.store, unit.contract, self._units.one(unit))

    def cursor(self, task: Any, tenant: Any = None) -> Any:
        """The unit's cursor, or None."""
        return self._units.one(find(self.app, task, tenant)).cursor

    def set_cursor(self, task: Any, value: Any, tenant: Any = None) -> None:
        """Set the unit's cursor; its next poll gets it.

        Raises:
            ContractError: the value is not JSON, or a poll of the unit is open just now.
        """
        write_cursor(self.store, find(self.app, task, tenant), value)

    def reset_cursor(self, task: Any, tenant: Any = None) -> None:
        """Forget the unit's cursor: its next poll gets None and reads from the beginning."""
        forget_cursor(self.store, find(self.app, task, tenant))

    def preview(self, task: Any, tenant: Any = None, cursor: Any = UNSET) -> Preview:
        """Call ``next_batch`` here and say what a poll would enqueue; writes nothing.

        Args:
            cursor: evaluate from here instead of the unit's own cursor.
        """
        return preview(self.store, self._runner, find(self.app, task, tenant), cursor)

    def nudge(self, task: Any, tenant: Any = None) -> bool:
        """Let the leader poll the unit at once, out of turn; False if no leader has it in its clock."""
        unit = find(self.app, task, tenant).name
        return bool(script("nudge")(self.store, key=self.store.keys.unit(unit), unit=unit, trigger="nudge"))

    def pause(
        self,
        task: Any = None,
        tenant: Any = None,
        queue: str | None = None,
        routine: str | None = None,
        *,
        reason: str = "",
        until: datetime | None = None,
    ) -> Paused:
        """Stop polling one task, or everything. What is enqueued runs on. Durable; pausing again replaces it.

        Args:
            reason: shown wherever the pause is.
            until: an aware datetime at which it ends by itself.
        """
        _only_polling(queue, routine)
        if until is not None and until.tzinfo is None:
            raise ContractError(f"pause: until must be an aware datetime, got {until!r} without a time zone")
        paused = Paused(
            scope=self._scope(task, tenant),
            by=f"{getpass.getuser()}@{socket.gethostname()}",
            reason=reason or "no reason given",
            at=datetime.now(timezone.utc),
            until=until,
        )
        self._pauses.pause(paused)
        return paused

    def resume(
        self,
        task: Any = None,
        tenant: Any = None,
        queue: str | None = None,
        routine: str | None = None,
        *,
        from_: Literal["now", "kept"] = "now",
    ) -> bool:
        """End the pause of one task, or of everything; False if that scope was not paused.

        Args:
            from_: ``now`` polls at once, ``kept`` at the next slot of the grid.
        """
        _only_polling(queue, routine)
        if from_ not in ("now", "kept"):
            raise ContractError(f"resume: from_ must be 'now' or 'kept', got {from_!r}")
        scope = self._scope(task, tenant)
        at = format_time(datetime.now(timezone.utc))
        about = {"scope": scope, "unit": None if scope == EVERYTHING else scope, "at": at}
        return self._pauses.resume(scope, json.dumps(about), self._units_of(scope) if from_ == "now" else [])

    def completion(self, task_id: str) -> Completion:
        """How a task ended, as far as it is known now; ``pending`` and ``unknown`` are answers too. Never waits."""
        return answers(self.app, self.store, [task_id]).get(task_id) or pending(task_id)

    def wait(self, task_id: str, timeout: float | timedelta) -> Completion:
        """Wait for the end of one task, without polling; at the time-out ``timed_out`` is True.

        Woken by the worker that ends the task, within about a millisecond. An id of our own form that nobody knows is
        ``unknown`` at once; any other id is waited for. Safe to call from any number of threads at once.
        """
        return self._waiting.wait(task_id, timeout)

    def wait_any(self, ids: Iterable[str], timeout: float | timedelta) -> dict[str, Completion]:
        """Wait for the first end; the completions of those that have ended by then, by id."""
        return self._waiting.wait_any(ids, timeout)

    def wait_all(self, ids: Iterable[str], timeout: float | timedelta) -> dict[str, Completion]:
        """Wait for all of them; a completion for every id, ``timed_out`` for those that have not ended in time."""
        return {completion.task_id: completion for completion in self.as_completed(ids, timeout)}

    def as_completed(self, ids: Iterable[str], timeout: float | timedelta) -> Iterator[Completion]:
        """Yield completions as tasks end; at the time-out the rest comes with ``timed_out=True``."""
        return self._waiting.as_completed(ids, timeout)

    def wait_batch(self, poll_id: str, timeout: float | timedelta) -> BatchResult:
        """Wait until every item of a poll has ended.

        Raises:
            NotFound: no batch of this id is known.
        """
        return self._waiting.wait_batch(poll_id, timeout)

    def annotate(self, **meta: Any) -> None:
        """Inside a task: add facts to its completion (``Completion.meta``); JSON, 8 KiB in all."""
        annotate(**meta)

    def channel(self, task_id: str) -> str:
        """The Redis channel on which the end of this task is published."""
        return self.store.keys.channel(task_id)

    def subscribe(self) -> Iterator[Completion]:
        """Iterate completions as they happen, for ever; what happens while nobody iterates is missed."""
        return subscribe(self.store)

    def stream(
        self, group: str, consumer: str, start: Literal["new", "all"] = "all", *, idle: float = 60.0
    ) -> Iterator[Event]:
        """Iterate events (``completion``, ``poll``, ``leader`` …) at least once, for ever, with a consumer group.

        An event counts as done when the next one is asked for. What a consumer holds for ``idle`` seconds without
        that is given to another one.

        Args:
            start: where a new group begins: ``all`` with the oldest event that the stream still has, ``new`` with
                what happens from this call on. A group that exists goes on where it is.
        """
        return stream(self.store, group, consumer, start=start, idle=idle)

    def poll_here(self, task: str, poll_id: str, following: str) -> str:
        """Evaluate a poll whose claim travelled to this process; the task ``celery_perpetual.poll`` calls it."""
        return poll_in_worker(self.store, self._runner, find(self.app, task), poll_id, following)

    def _scope(self, task: Any, tenant: Any) -> str:
        if task is None and tenant is not None:
            raise ContractError(
                f"tenant {tenant!r} was given without a task; add the task (a tenant of all tasks is not available yet)"
            )
        return EVERYTHING if task is None else find(self.app, task, tenant).name

    def _units_of(self, scope: str) -> list[str]:
        return list(load(self.app).units()) if scope == EVERYTHING else [scope]


def _only_polling(queue: str | None, routine: str | None) -> None:
    for name, value in (("queue", queue), ("routine", routine)):
        if value is not None:
            raise ContractError(
                f"pause and resume of {name} {value!r} are not available yet; give a task, or nothing for everything"
            )
