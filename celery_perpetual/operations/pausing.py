"""The part of ``Perpetual`` that is about pauses."""

from __future__ import annotations

import getpass
import socket
from datetime import datetime, timezone
from typing import Any, Literal

from celery_perpetual.errors import ContractError
from celery_perpetual.namespace import Namespace
from celery_perpetual.operations.lookup import find, find_contract
from celery_perpetual.operations.tenants import known_units
from celery_perpetual.pauses import EVERYTHING, Paused, Scope, scopes_of
from celery_perpetual.routines.record import PAUSED
from celery_perpetual.routines.routines import Routines
from celery_perpetual.tasks.discovery import load
from celery_perpetual.tasks.names import unit_name
from celery_perpetual.tasks.tenants import tenant_of
from celery_perpetual.times import format_time, to_datetime


class PauseOperations(Namespace):
    """Stop polling, and go on."""

    def pause(
        self,
        task: Any = None,
        tenant: Any = None,
        queue: str | None = None,
        routine: str | None = None,
        everything: bool = False,
        *,
        reason: str = "",
        until: datetime | None = None,
    ) -> Paused:
        """Stop polling a task, a tenant, or everything, or stop running a routine. Durable; pausing again replaces it.

        What is enqueued runs on.

        Args:
            task: a perpetual task; without a tenant all of its units.
            tenant: a tenant of the task; without a task that tenant of every task, whether or not one has it now.
            routine: id of a routine; its pause is a state of its own, without reason and end.
            everything: every perpetual task and routine; without it a task, a tenant or a routine must be named.
            reason: shown wherever the pause is.
            until: an aware datetime at which it ends by itself.

        Raises:
            UnknownTask, UnknownUnit: there is no such unit.
            ContractError: not exactly one scope is named, one is not available yet, or ``until`` is over or has no time
                zone.
            StoreUnavailable: the store did not answer.
        """
        scope = self._scope("pause", task, tenant, queue, routine, everything)
        if routine is not None and until is not None:
            raise ContractError(f"pause of routine {routine!r}: until is not available for a routine; resume it then")
        if until is not None and until.tzinfo is None:
            raise ContractError(f"pause: until must be an aware datetime, got {until!r} without a time zone")
        if until is not None and until <= (now := to_datetime(self.store.now())):
            seen, here = format_time(until), format_time(now)
            raise ContractError(f"pause: until must be in the future, got {seen}; the store's clock says {here}")
        paused = Paused(
            scope=scope,
            by=f"{getpass.getuser()}@{socket.gethostname()}",
            reason=reason or "no reason given",
            at=datetime.now(timezone.utc),
            until=until,
        )
        if routine is not None:
            Routines(self).pause(routine)
        else:
            self.pauses.pause(paused)
        return paused

    def resume(
        self,
        task: Any = None,
        tenant: Any = None,
        queue: str | None = None,
        routine: str | None = None,
        everything: bool = False,
        *,
        from_: Literal["now", "kept"] = "now",
    ) -> bool:
        """End the pause of a task, of a tenant, or of everything; False if just that scope was not paused.

        Args:
            task, tenant: as they were given to :meth:`pause`; what is paused by another scope besides stays paused.
            everything: end the pause of everything; tasks that are paused by themselves stay so.
            from_: ``now`` polls at once, ``kept`` at the next slot of the grid.

        Raises:
            UnknownTask, UnknownUnit: there is no such unit.
            ContractError: not exactly one scope is named, one is not available yet, or ``from_`` is neither.
            StoreUnavailable: the store did not answer.
        """
        if from_ not in ("now", "kept"):
            raise ContractError(f"resume: from_ must be 'now' or 'kept', got {from_!r}")
        scope = self._scope("resume", task, tenant, queue, routine, everything)
        if routine is not None:
            was_paused = Routines(self).get(routine).state == PAUSED
            Routines(self).resume(routine)
            return was_paused
        return self.pauses.resume(scope, datetime.now(timezone.utc), self._units_in(scope) if from_ == "now" else [])

    def _scope(
        self, verb: str, task: Any, tenant: Any, queue: str | None, routine: str | None, everything: bool
    ) -> Scope:
        if queue is not None:
            raise ContractError(f"{verb} of queue {queue!r} is not available yet; give a task, or everything=True")
        if routine is not None and task is None and tenant is None and not everything:
            return Scope("routine", routine)
        if routine is not None or everything == (task is not None or tenant is not None):
            raise ContractError(
                f"{verb}: name a task, a tenant or both, or a routine, or say everything=True, got task {task!r}, "
                f"tenant {tenant!r}, routine {routine!r} and {everything=}"
            )
        if everything:
            return EVERYTHING
        if task is None:
            return Scope("tenant", tenant_of(tenant)[0])
        contract = find_contract(self.app, task)
        if tenant is None:
            return Scope("unit", unit_name(contract.name))
        return Scope("unit", find(self.app, task, tenant, or_departed=True).name)

    def _units_in(self, scope: Scope) -> list[str]:
        """Names of the units that the end of a pause lets go on."""
        contracts = load(self.app).tasks.values()
        units = [unit.name for contract in contracts for unit in known_units(self.app, contract)]
        return [unit for unit in units if scope in scopes_of(unit)]
