"""The part of ``Perpetual`` that is about pauses."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from datetime import datetime, timedelta, timezone
from typing import Any, Literal

from celery_perpetual.broker.depth import known_queue
from celery_perpetual.errors import ContractError, readable
from celery_perpetual.namespace import Namespace
from celery_perpetual.operations.draining import DrainReport, wait_until_drained
from celery_perpetual.operations.forcing import on_record
from celery_perpetual.operations.lookup import find, find_contract
from celery_perpetual.operations.tenants import known_units
from celery_perpetual.pauses import ALL_ROUTINES, EVERYTHING, LAST_MS, Paused, Scope, operator, scopes_of
from celery_perpetual.routines.record import PAUSED
from celery_perpetual.routines.routines import Routines
from celery_perpetual.settings import seconds
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
        """Stop polling a task, a tenant, a queue, or everything, or stop running a routine.

        Durable. Pausing a scope again replaces reason and end; the answer has the pause before as ``replaced``. What is
        enqueued runs on, a batch that is in the ledger is published to its end, and ends are announced.

        Args:
            task: a perpetual task; without a tenant all of its units.
            tenant: a tenant of the task; without a task that tenant of every task, whether or not one has it now.
            queue: every task that the app's routes send there; items that name another queue themselves do not count.
            routine: id of a routine, whose state becomes ``paused``; ``*`` stops every routine, also for ``run_due``.
            everything: every perpetual task and routine; without it one of the others must be named.
            reason: shown wherever the pause is.
            until: an aware datetime at which it ends by itself.

        Raises:
            UnknownTask, UnknownUnit: there is no such unit.
            NotFound, RoutineBusy, RoutineTerminal: there is no such routine, or it runs, or has ended.
            ContractError: not exactly one scope is named, or ``until`` is over or has no time zone.
            StoreUnavailable: the store did not answer.
        """
        scope = self._scope("pause", task, tenant, queue, routine, everything)
        if until is not None and until.tzinfo is None:
            raise ContractError(f"pause: until must be an aware datetime, got {until!r} without a time zone")
        if until is not None:
            until = _within_calendar(until)
        if until is not None and until <= (now := to_datetime(self.store.now())):
            seen, here = format_time(until), format_time(now)
            raise ContractError(f"pause: until must be in the future, got {seen}; the store's clock says {here}")
        paused = Paused(
            scope=scope,
            by=operator(),
            reason=readable(reason or "no reason given"),
            at=datetime.now(timezone.utc),
            until=until,
        )
        if routine is not None and scope != ALL_ROUTINES:
            before = (Routines(self).pause(routine, reason=paused.reason, until=until).pause or {}).get("replaced")
            return paused if before is None else replace(paused, replaced=_of_routine(scope, before))
        return self.pauses.pause(paused)

    def resume(
        self,
        task: Any = None,
        tenant: Any = None,
        queue: str | None = None,
        routine: str | None = None,
        everything: bool = False,
        *,
        reason: str = "",
        until: datetime | None = None,  # noqa: ARG002  # see below
        from_: Literal["now", "kept"] = "now",
    ) -> bool:
        """End the pause of a task, a tenant, a queue, or everything; False if just that scope was not paused.

        Args:
            task, tenant, queue: as they were given to :meth:`pause`; what another scope pauses too stays paused. A
                task or a tenant that the code does not know any more is given by its name.
            routine: id of a routine, or ``*`` for the pause of all; those that are paused by themselves stay so.
            everything: end the pause of everything; tasks that are paused by themselves stay so.
            reason: on record with the event `resume`; the event of a routine has none.
            until: of no effect, as the pause ends now; so a scope, a reason and an end may be given to both alike.
            from_: ``now`` polls at once, ``kept`` at the next slot of the grid. Of routines, ``now`` runs a slot whose
                time has passed, and ``kept`` leaves it out where there is a later one.

        Raises:
            UnknownTask, UnknownUnit: there is no such unit.
            ContractError: not exactly one scope is named, or ``from_`` is neither.
            StoreUnavailable: the store did not answer.
        """
        if from_ not in ("now", "kept"):
            raise ContractError(f"resume: from_ must be 'now' or 'kept', got {from_!r}")
        scope = self._scope("resume", task, tenant, queue, routine, everything)
        if scope == ALL_ROUTINES and from_ == "kept":
            Routines(self).leave_out_missed()
        elif routine is not None and scope != ALL_ROUTINES:
            was_paused = Routines(self).get(routine).state == PAUSED
            Routines(self).resume(routine, from_=from_)
            return was_paused
        units = self._units_in(scope) if from_ == "now" else []
        why = readable(reason or "no reason given")
        return self.pauses.resume(scope, datetime.now(timezone.utc), units, by=operator(), reason=why)

    def drain(
        self,
        timeout: float | timedelta,
        *,
        reason: str = "drain",
        progress: Callable[[DrainReport], object] | None = None,
    ) -> DrainReport:
        """Pause everything, and wait until no item is in flight.

        Everything stays paused, also after the time is over: the workers may be stopped then, and :meth:`resume` with
        ``everything=True`` ends it. A pause of everything that there is already keeps its reason and its end. Parked
        items are not waited for. Calling it again goes on waiting.

        Args:
            timeout: seconds, or a ``timedelta``; 0 counts once.
            reason: of the pause.
            progress: called twice a second with a report of how far it is.

        Raises:
            ContractError: the timeout is negative or no duration.
            PerpetualError: the pause of everything has ended meanwhile: there may be new work at any time.
            StoreUnavailable: the store did not answer at the beginning, or at the end; a pause that there is stays.
        """
        longest = seconds("drain: timeout", timeout, error=ContractError)
        pause = self.pauses.now().get(EVERYTHING) or self.pause(everything=True, reason=reason)
        report = wait_until_drained(self.store, pause, longest, progress or (lambda _: None))
        result = "completed" if report.completed else f"{report.remaining} items remain"
        on_record(self.store, "drain", reason, [], result=result)
        return report

    def _scope(
        self, verb: str, task: Any, tenant: Any, queue: str | None, routine: str | None, everything: bool
    ) -> Scope:
        named = [task is not None or tenant is not None, queue is not None, routine is not None, everything]
        if sum(named) != 1 or queue == "":
            raise ContractError(
                f"{verb}: name a task, a tenant or both, or a queue, or a routine, or say everything=True, got "
                f"{task=}, {tenant=}, {queue=}, {routine=} and {everything=}"
            )
        if everything:
            return EVERYTHING
        if queue is not None:
            return Scope("queue", queue)
        if routine is not None:
            return Scope("routine", routine)
        if task is None:
            return Scope("tenant", tenant_of(tenant)[0])
        if verb == "resume" and (kept := _scope_by_name(task, tenant)) in self.pauses.now():
            return kept  # also where the code does not know it any more
        contract = find_contract(self.app, task)
        if tenant is None:
            return Scope("unit", unit_name(contract.name))
        return Scope("unit", find(self.app, task, tenant, or_departed=True).name)

    def holds_units(self, scope: Scope) -> bool:
        """Whether the pause of a scope stops a unit that this code knows now."""
        return scope == EVERYTHING or bool(self._units_in(scope))

    def _units_in(self, scope: Scope) -> list[str]:
        """Names of the units that the end of a pause lets go on."""
        found = []
        for contract in load(self.app).tasks.values():
            queue = known_queue(self.app, contract.task) if scope.kind == "queue" else ""
            found += [unit.name for unit in known_units(self.app, contract) if scope in scopes_of(unit.name, queue)]
        return found


def _scope_by_name(task: Any, tenant: Any) -> Scope | None:
    """The scope of a task and a tenant that are given by their names."""
    if isinstance(task, str) and isinstance(tenant, str | None):
        return Scope("unit", unit_name(task, tenant))
    return None


def _of_routine(scope: Scope, pause: Mapping[str, Any]) -> Paused:
    """The pause of a routine by the facts of its record."""
    return Paused(
        scope=scope, by=pause.get("by", "unknown"), reason=pause.get("reason", "no reason given"), at=pause["at"],
        until=pause.get("until"),
    )  # fmt: skip


def _within_calendar(until: datetime) -> datetime:
    """The same time in UTC, at most the last millisecond of the calendar.

    Raises:
        ContractError: in UTC it is no datetime.
    """
    try:
        return min(until.astimezone(timezone.utc), to_datetime(LAST_MS))
    except OverflowError:
        raise ContractError(f"pause: until must be a time of the years 1 to 9999 in UTC, got {until!r}") from None
