"""The store's side of leases: grant, ask, release."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from functools import cached_property
from typing import TYPE_CHECKING, Any, NamedTuple

from celery.exceptions import SoftTimeLimitExceeded

from celery_perpetual import events
from celery_perpetual.broker.unacked import UnackedKeys, shares_unacked, unacked_keys
from celery_perpetual.completions.waiting_ends import SharedEnds
from celery_perpetual.errors import StoreUnavailable
from celery_perpetual.faults import reach
from celery_perpetual.leases.execution import AT_START, Execution
from celery_perpetual.leases.on_lost import when_run_lost
from celery_perpetual.leases.time_limits import KeptLimits, limits_of, time_to_ask, time_to_end
from celery_perpetual.leases.workers import WorkerRun, Workers
from celery_perpetual.ledger.ids import item_fillings, item_place, item_slots, parse_item_id
from celery_perpetual.store.address import is_redis
from celery_perpetual.store.commands.leases import asked_lease, is_parked, lease_and_trace, lease_of, state_of
from celery_perpetual.store.connection import Store
from celery_perpetual.store.header import Filling, Of
from celery_perpetual.store.prepared import Prepared
from celery_perpetual.store.scripts import script
from celery_perpetual.telemetry import emit
from celery_perpetual.times import steady

if TYPE_CHECKING:
    from celery import Celery

    from celery_perpetual.settings import Settings


#: Why a delivery does not run now, with ``perpetual_store_down = "hold"``: it waits for the store.
HELD = "held"


class _Asking(NamedTuple):
    """The script that grants a lease."""

    usual: Prepared
    """For the first delivery of an item that is acknowledged with its end."""
    other: Prepared


class Grants:
    """Grants and releases of one app. May be used from any thread and process."""

    def __init__(
        self, app: Celery, store: Store, settings: Settings, *, down: Callable[[], bool] = lambda: False
    ) -> None:
        """Connect nowhere yet.

        Args:
            down: whether this process knows the store to be away, so that not every task has to find out anew.
        """
        self._app = app
        self._down = down
        self._patient = store
        self.settings = settings
        self.instance: WorkerRun | None = None
        """This worker, where the process is one or a child of one."""
        self.on_lost: Callable[[], object] | None = None
        """Called in a worker's main process when a task is to be resent at once."""
        self.on_news: Callable[[], object] = lambda: None
        """Called there when a message was received or acknowledged."""
        self.on_report: Callable[[Store], object] = lambda _: None
        """Called there after each heartbeat, with its store; it must be quick, and raise nothing."""
        self.on_held: Callable[[Any], object] | None = None
        """Called there with the request of a task that waits for the store."""
        self.is_away = False
        """Whether the store did not answer this worker, until a heartbeat of it gets through."""

    @cached_property
    def store(self) -> Store:
        """Connections of its own: no execution waits longer than ``perpetual_store_timeout``."""
        return self._patient.clone(patient=False)

    @cached_property
    def broker_is_redis(self) -> bool:
        """Whether messages can be put to the front of their queue."""
        url: Any = self._app.conf.broker_write_url
        return isinstance(url, str) and is_redis(url)

    @cached_property
    def acknowledges(self) -> bool:
        """Whether the scripts can acknowledge what this worker received."""
        return shares_unacked(self._app, self._patient)

    def start(self, task: Any, execution: Execution, request: Any) -> str:
        """Ask for the lease of an execution, and note in it what was granted.

        Returns:
            "" if it may run, or why it must not: ``final``, ``parked``, ``old`` or ``adopted``; :data:`HELD` if it has
            to wait for the store.
        """
        reach("task.starting")
        task_id, execution.granted_at = execution.task_id, steady()
        execution.began, execution.limits = time.monotonic(), self.limits_of(task, request.get("timelimit"))
        if self.settings.store_down == "run" and self._down():
            return ""
        try:
            verdict, token, recoveries = self._start(task, execution, request)
        except StoreUnavailable as error:
            if self.settings.store_down == "run":
                emit(events.LEASE_SKIPPED, task_id=task_id, error=error)
                return ""
            return HELD
        except SoftTimeLimitExceeded:
            if self.settings.store_down == "run":
                raise
            return HELD
        except Exception as error:  # of any kind: a task whose body has not run has not failed
            emit(events.LEASE_FAILED, task_id=task_id, error=error)
            return ""
        reach("task.started")
        if verdict != b"run":
            return str(verdict.decode())
        execution.leased = True
        execution.token, execution.recoveries = int(token), int(recoveries)
        return ""

    def limits_of(self, task: Any, timelimit: Any) -> tuple[float, ...]:
        """The time limits of a task that the pool of this worker keeps; see :func:`time_limits.limits_of`."""
        return limits_of(task, timelimit, KeptLimits() if self.instance is None else self.instance.kept_limits)

    @cached_property
    def _broker(self) -> UnackedKeys:
        return unacked_keys(self._app)

    @cached_property
    def _asking(self) -> _Asking:
        keys, broker = self.store.keys, self._broker
        fixed: dict[str, Filling] = {
            **item_fillings(keys), "held": (keys.held_prefix, Of("worker")),
            "completion": (keys.completion_prefix, Of("id")), "queue": (keys.channel_prefix, Of("id"), keys.QUEUE),
            "unacked": broker.unacked, "unacked_index": broker.received,
        }  # fmt: skip
        usual: dict[str, Filling] = {"ended": 1, "copy": "", "acknowledges": 0}
        return _Asking(
            Prepared(self.store, "start", yielding=False, **fixed, **usual),
            Prepared(self.store, "start", yielding=False, **fixed),
        )

    def _start(self, task: Any, execution: Execution, request: Any) -> Any:
        over, slots = self.store.within(time_to_ask(execution)), self._slots(task, execution, request)
        is_usual = slots["ended"] and not slots["copy"] and not slots["acknowledges"]
        return (self._asking.usual if is_usual else self._asking.other)(over, **slots)

    def _slots(self, task: Any, execution: Execution, request: Any) -> dict[str, Any]:
        """The slots of the scripts that grant a lease."""
        task_id = execution.task_id
        where = execution.where = item_place(self.store.keys, task_id)
        worker = "" if self.instance is None else self.instance.name
        most, on_lost = when_run_lost(task, request)
        nesting, retries = _order(request)
        # An id that the user has chosen may be used once more, as in plain Celery; only a first delivery is a new use.
        redelivered = (request.get("delivery_info") or {}).get("redelivered") or request.get("redelivered")
        is_item = where["position"] != -1 or parse_item_id(task_id) is not None
        is_new = not (is_item or redelivered or nesting or retries)
        return {
            **where, "id": task_id, "copy": execution.copy, "ended": int(not is_new),
            "acknowledges": int(execution.acknowledged_by == AT_START),
            **asked_lease(
                worker, execution.nonce, nesting, retries,
                most_recoveries=most, on_lost=on_lost, tag=execution.tag, task=task.name,
            ),
        }  # fmt: skip

    def regain(self, task: Any, execution: Execution, request: Any) -> bool:
        """Enter the lease of a running execution anew, where the store has forgotten it.

        Args:
            task: that it runs.
            execution: as the worker's main process knows it.
            request: headers of its message.

        Returns:
            Whether it holds the lease now: not where another delivery does, or the task has ended.

        Raises:
            StoreUnavailable: the store did not answer.
        """
        slots = self._slots(task, execution, request)
        del slots["ended"]
        keys, where = self.store.keys, item_slots(self.store.keys, execution.task_id)
        regained = script("regain")(
            self.store, held=keys.held(str(slots["worker"])), completion=keys.completion(execution.task_id),
            batch=keys.poll(str(where["poll"])), done=where["done"], unacked=self._broker.unacked,
            unacked_index=self._broker.received, **slots,
        )  # fmt: skip
        return bool(regained)

    def holds(self, execution: Execution) -> bool:
        """Whether an execution still has its lease. Asks the store only where that is in doubt.

        True where the store does not answer, and where it has lost its data: then no process took the lease away.
        """
        if not execution.leased or (self.instance is not None and self.instance.surely_holds(execution.granted_at)):
            return True
        try:
            lease, is_known = lease_and_trace(self.store.within(time_to_end(execution)), execution.task_id)
        except StoreUnavailable:
            return True
        except SoftTimeLimitExceeded:
            raise
        except Exception as error:  # a lease of a form that this release does not know: the body has not failed
            emit(events.PART_FAILED, part=f"reading the lease of task {execution.task_id}", error=error)
            return True
        # A script that takes a lease away leaves a state or an end.
        return lease.nonce == execution.nonce if lease is not None else not is_known

    def asks(self, execution: Execution) -> bool:
        """Whether the store knows the execution as the holder.

        Raises:
            StoreUnavailable: it did not answer.
        """
        lease = lease_of(self.store, execution.task_id)
        return lease is not None and lease.nonce == execution.nonce

    def awaits(self, task_id: str, request: Any) -> bool:
        """Whether a task is to be retried by this run, which has no lease; False where the store does not answer."""
        try:
            lease, state = lease_of(self.store, task_id), state_of(self.store, task_id)
        except StoreUnavailable:
            return False
        return not lease and state is not None and state.flag == "wait" and state[:2] == _order(request)

    def note_away(self) -> None:
        """The store has not answered this worker; the next heartbeat, which comes soon, finds out when it does."""
        self.is_away = True
        self.on_news()

    def is_parked(self, task_id: str) -> bool:
        """Whether the task waits for an operator.

        Raises:
            StoreUnavailable: the store did not answer.
        """
        return is_parked(self.store, task_id)

    def release(
        self, task_id: str, nonce: str, cause: str, reason: str = "", *, tag: str = "", copy: str = "",
        keeps: bool = False,
    ) -> str:  # fmt: skip
        """End an execution that brought no end of its task, and acknowledge its message if a tag is given; atomic.

        See ``release.lua`` for causes and verdicts.

        Raises:
            StoreUnavailable: the store did not answer.
        """
        verdict = script("release")(
            self.store, unacked=self._broker.unacked, unacked_index=self._broker.received,
            id=task_id, nonce=nonce, cause=cause, reason=reason, tag=tag, copy=copy, keeps=int(keeps),
        )  # fmt: skip
        reach("task.released")
        return str(verdict.decode())

    def resend_soon(self) -> None:
        """In a worker's main process: a task of it is to be resent."""
        if self.on_lost is not None:
            self.on_lost()

    def try_to_release(self, task_id: str, nonce: str, cause: str, reason: str = "", *, tag: str = "") -> str:
        """The same for handlers, which must not raise: where the store does not answer, ``gone``."""
        try:
            return self.release(task_id, nonce, cause, reason, tag=tag)
        except StoreUnavailable as error:
            self.note_away()
            emit(events.RELEASE_FAILED, task_id=task_id, error=error)
            return "gone"

    @property
    def ends(self) -> SharedEnds | None:
        """By which this worker knows which ends wait in its processes; None in a process that belongs to no worker."""
        return None if self.instance is None else self.instance.ends

    @cached_property
    def workers(self) -> Workers:
        """The last reports of the workers."""
        return Workers(self.store)

    def be_a_worker(self, hostname: str) -> WorkerRun:
        """Make this process a worker; its pool children inherit that."""
        if self.instance is None or self.instance.pid != os.getpid():
            self.instance = WorkerRun(hostname, self.settings.lease_ttl)
        return self.instance


def _order(request: Any) -> tuple[int, int]:
    return int(request.get("replaced_task_nesting") or 0), int(request.get("retries") or 0)
