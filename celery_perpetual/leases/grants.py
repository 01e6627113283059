"""The store's side of leases: grant, ask, release."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from functools import cached_property
from typing import TYPE_CHECKING, Any

from celery.exceptions import SoftTimeLimitExceeded

from celery_perpetual import events
from celery_perpetual.broker.unacked import shares_unacked, unacked_keys
from celery_perpetual.errors import StoreUnavailable
from celery_perpetual.faults import reach
from celery_perpetual.leases.execution import AT_END, AT_START, COPY, NONCE, STRUCK, TAG, Execution
from celery_perpetual.leases.scope import BUILT_IN
from celery_perpetual.leases.workers import WorkerRun, Workers
from celery_perpetual.ledger.ids import item_address, item_slots, parse_item_id
from celery_perpetual.store.address import is_redis
from celery_perpetual.store.commands.leases import is_known, is_parked, lease_of, state_of
from celery_perpetual.store.connection import Store
from celery_perpetual.store.header import Of
from celery_perpetual.store.prepared import Prepared
from celery_perpetual.store.scripts import script
from celery_perpetual.tasks.contract import ON_LOST
from celery_perpetual.tasks.options import PerpetualOptions
from celery_perpetual.tasks.task import HEADER, PerpetualTask
from celery_perpetual.telemetry import emit

if TYPE_CHECKING:
    from celery import Celery

    from celery_perpetual.settings import Settings


#: With ``perpetual_store_down = "hold"``: pause between two tries to ask for a lease.
HOLD_SECONDS = 0.5


#: Of a task that says nothing.
DEFAULTS = PerpetualOptions()


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
        """Called in a worker's main process when a task is to be sent again at once."""
        self.on_news: Callable[[], object] = lambda: None
        """Called there when a message was received or settled."""

    @cached_property
    def store(self) -> Store:
        """Connections of its own: nobody who runs a task waits longer than ``perpetual_store_timeout``."""
        return self._patient.clone(patient=False)

    @cached_property
    def broker_is_redis(self) -> bool:
        """Whether messages can be put to the front of their queue."""
        url: Any = self._app.conf.broker_write_url
        return isinstance(url, str) and is_redis(url)

    @cached_property
    def strikes(self) -> bool:
        """Whether the scripts can strike what this worker received off the broker's books."""
        return shares_unacked(self._app, self._patient)

    def guards(self, task: Any, task_id: Any, headers: Any) -> bool:
        """Whether the message of a task needs a lease to run."""
        if not isinstance(task_id, str) or task is None or getattr(task, "lease", None) is False:
            return False
        if headers.get(HEADER) or isinstance(task, PerpetualTask) or parse_item_id(task_id) is not None:
            return True
        return self.settings.leases == "all" and not task.name.startswith(BUILT_IN)

    def start(self, task: Any, task_id: str, request: Any) -> Execution | str:
        """Ask for the lease.

        Returns:
            The execution, or why it must not run: ``final``, ``parked``, ``old`` or ``adopted``.
        """
        reach("task.starting")
        if self.settings.store_down == "run" and self._down():
            return _without_lease(task_id, request)
        while True:
            asked_at = time.monotonic()
            try:
                verdict, token, recoveries = self._start(task, task_id, request)
            except StoreUnavailable as error:
                if self.settings.store_down == "run":
                    emit(events.LEASE_SKIPPED, task_id=task_id, error=error)
                    return _without_lease(task_id, request)
                emit(events.LEASE_WAITING, task_id=task_id, error=error)
                time.sleep(HOLD_SECONDS)
                continue
            except SoftTimeLimitExceeded:
                raise
            except Exception as error:  # whatever it is: a task whose body has not run has not failed
                emit(events.LEASE_FAILED, task_id=task_id, error=error)
                return _without_lease(task_id, request)
            reach("task.started")
            if verdict != b"run":
                return str(verdict.decode())
            return Execution(
                task_id=task_id, nonce=request[NONCE], token=int(token), recoveries=int(recoveries),
                tag=request[TAG] if request.get(STRUCK) == AT_END else "", granted_at=asked_at,
            )  # fmt: skip

    @cached_property
    def _ask(self) -> Prepared:
        keys, broker = self.store.keys, unacked_keys(self._app)
        return Prepared(
            self.store, "start", held=(keys.held_prefix, Of("worker")), completion=(keys.completion_prefix, Of("id")),
            unacked=broker.unacked, unacked_index=broker.received,
        )  # fmt: skip

    def _start(self, task: Any, task_id: str, request: Any) -> Any:
        where = item_slots(self.store.keys, task_id)
        worker = "" if self.instance is None else self.instance.name
        most, on_lost = _when_lost(task)
        ours = parse_item_id(task_id) is not None or request.get(HEADER) or isinstance(task, PerpetualTask)
        redelivered = (request.get("delivery_info") or {}).get("redelivered")
        return self._ask(
            batch=self.store.keys.poll(str(where.pop("poll"))), **where, id=task_id, worker=worker,
            nonce=request[NONCE], nesting=int(request.get("replaced_task_nesting") or 0),
            retries=int(request.get("retries") or 0),
            most=most, on_lost=on_lost, tag=request.get(TAG) or "", task=task.name, copy=request.get(COPY) or "",
            ended=int(bool(ours or redelivered)), strikes=int(request.get(STRUCK) == AT_START),
        )  # fmt: skip

    def holds(self, execution: Execution) -> bool:
        """Whether an execution still has its lease. Asks the store only where that is in doubt.

        True where the store does not answer, and where it has lost its data: then nobody took the lease away.
        """
        if not execution.leased or (self.instance is not None and self.instance.surely_holds(execution.granted_at)):
            return True
        try:
            return self.asks(execution) or self._forgotten(execution.task_id)
        except StoreUnavailable:
            return True

    def _forgotten(self, task_id: str) -> bool:
        """Whether the store knows nothing of a task that runs: whoever takes a lease leaves a state or an end."""
        return not is_known(self.store, task_id)

    def asks(self, execution: Execution) -> bool:
        """Whether the store knows the execution as the holder.

        Raises:
            StoreUnavailable: it did not answer.
        """
        lease = lease_of(self.store, execution.task_id)
        return lease is not None and lease.nonce == execution.nonce

    def is_parked(self, task_id: str) -> bool:
        """Whether the task waits for an operator.

        Raises:
            StoreUnavailable: the store did not answer.
        """
        return is_parked(self.store, task_id)

    def release(self, task_id: str, nonce: str, cause: str, reason: str = "") -> str:
        """End an execution that brought no end of its task; see ``release.lua``.

        Raises:
            StoreUnavailable: the store did not answer.
        """
        verdict = script("release")(self.store, id=task_id, nonce=nonce, cause=cause, reason=reason)
        reach("task.released")
        return str(verdict.decode())

    def try_to_release(self, task_id: str, nonce: str, cause: str, reason: str = "") -> str:
        """The same for handlers, which must not raise: where the store does not answer, ``gone``."""
        try:
            return self.release(task_id, nonce, cause, reason)
        except StoreUnavailable as error:
            emit(events.RELEASE_FAILED, task_id=task_id, error=error)
            return "gone"

    def sweep(self, most: int = 100, stopping: str = "") -> tuple[int, str, int, bool]:
        """Take leases of one dead worker, or of one that stops; see ``sweep.lua``.

        Returns:
            Until when nothing expires (ms, 0 = now), the worker or "", how many leases, whether it holds no more.
        """
        held, worker, taken, empty = script("sweep")(self.store, most_now=most, stopping=stopping)
        return int(held), worker.decode(), int(taken), bool(empty)

    def missed(self, task_id: str, name: str, *, counts: bool, tag: str = "", copy: str = "") -> str:
        """A task whose message nobody has any more, see ``reconcile.lua``; returns what becomes of it.

        Raises:
            StoreUnavailable: the store did not answer.
        """
        keys, where = self.store.keys, item_address(task_id)
        task: Any = self._app.tasks.get(name)
        if task is None or not self.guards(task, task_id, {HEADER: 1}):
            return "gone"
        poll_id, chunk = ("", 0) if where is None else (where.poll_id, where.chunk)
        most, on_lost = _when_lost(task)
        state = state_of(self.store, task_id)
        verdict = script("declare_lost")(
            self.store, chunk=keys.chunk(poll_id, chunk), done=keys.done(poll_id, chunk), id=task_id,
            position=-1 if where is None else where.position, task=name, most=most, on_lost=on_lost,
            recoveries=0 if state is None else state.recoveries, counts=int(counts), tag=tag, copy=copy,
        )  # fmt: skip
        return str(verdict.decode())

    @cached_property
    def workers(self) -> Workers:
        """What the workers say of themselves."""
        return Workers(self.store)

    def be_a_worker(self, hostname: str) -> WorkerRun:
        """Make this process a worker; its pool children inherit that."""
        if self.instance is None or self.instance.pid != os.getpid():
            self.instance = WorkerRun(hostname, self.settings.lease_ttl)
        return self.instance


def _without_lease(task_id: str, request: Any) -> Execution:
    return Execution(
        task_id=task_id, nonce=request[NONCE], leased=False, tag=request[TAG] if request.get(STRUCK) else ""
    )


def _when_lost(task: Any) -> tuple[int, str]:
    """How often a task may be lost, and what becomes of it; an ordinary task has the defaults of a perpetual one."""
    options = getattr(task, "perpetual_options", None) or DEFAULTS
    on_lost = getattr(task, "on_lost", None)
    # What an ordinary task calls so may be anything.
    return options.max_recoveries, on_lost if on_lost in ON_LOST else PerpetualTask.on_lost
