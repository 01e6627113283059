"""The units as an operator sees them."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import islice
from typing import TYPE_CHECKING, Any

from celery_perpetual.broker.depth import known_queue
from celery_perpetual.health.reading import SeenUnit
from celery_perpetual.health.unit_checks import MUCH_OF_INTERVAL
from celery_perpetual.json_fields import JsonFields, json_fields
from celery_perpetual.operations.lag import Lag, lags
from celery_perpetual.operations.tenants import known_units
from celery_perpetual.pauses import Paused, Pauses, scopes_of
from celery_perpetual.polling.outcome import PollOutcome, from_entry
from celery_perpetual.store.chunks import chunks
from celery_perpetual.store.commands.units import unit_facts, unit_names
from celery_perpetual.tasks.discovery import load
from celery_perpetual.tasks.names import parse_unit_name
from celery_perpetual.tasks.unit import TaskUnit
from celery_perpetual.times import to_datetime

if TYPE_CHECKING:
    from celery import Celery

    from celery_perpetual.settings import Settings
    from celery_perpetual.store.connection import Store

#: States in which the due time says nothing.
RESTING = ("paused", "disabled", "orphaned")
STATES = ("active", "paused", "backing_off", "disabled", "orphaned")


@dataclass(frozen=True, slots=True, kw_only=True)
class Unit(SeenUnit, JsonFields):
    """One unit. Times are aware datetimes of the store's clock."""

    reason: str | None
    """Why it is in its state."""
    cursor: Any
    held_back: int = 0
    """Item keys that have failed, and are left out until their back-off is over."""
    lag: Lag | None = None
    """How far it is behind; None where that was not asked for."""

    def to_dict(self) -> dict[str, Any]:
        """As JSON values."""
        last = self.last_poll
        return json_fields(self) | {"last_poll": None if last is None else last.to_dict(task_ids=False)}


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """Which units are asked for."""

    task: str | None = None
    tenant: str | None = None
    state: str | None = None
    after: str | None = None
    """Only those whose name comes behind this one."""
    limit: int | None = None

    def may_be(self, name: str) -> bool:
        """Whether a unit may be one of them, as far as its name says."""
        if self.after is not None and name <= self.after:
            return False
        task, tenant = parse_unit_name(name)
        return self.task in (None, task) and self.tenant in (None, tenant)


class Units:
    """Reads units from registry and store."""

    def __init__(self, app: Celery, settings: Settings, store: Store, pauses: Pauses) -> None:
        self._app = app
        self._settings = settings
        self._store = store
        self._pauses = pauses

    def all(self) -> list[Unit]:
        """Every unit that the code or the store knows, by name, without its lag.

        Raises:
            StoreUnavailable: the store did not answer.
            ContractError: a perpetual task has a wrong value.
        """
        return list(self._find(Wanted()))

    def some(self, wanted: Wanted) -> list[Unit]:
        """Those of them that are wanted, with their lag. Raises as :meth:`all`."""
        found = list(islice(self._find(wanted), wanted.limit))
        histories = {name: each.options.history for name, each in load(self._app).tasks.items()}
        return [
            replace(unit, lag=lag) for unit, lag in zip(found, lags(self._store, found, histories), strict=True)
        ]  # fmt: skip

    def to_judge(self) -> list[Unit]:
        """Every unit with what the checks need of it: without its cursor, and without a last poll that went well."""
        return list(self._find(Wanted(), MUCH_OF_INTERVAL))

    def one(self, unit: TaskUnit) -> Unit:
        """One unit that the code knows, without its lag."""
        return self._read([unit.name], {unit.name: unit})[0]

    def _find(self, wanted: Wanted, remarkable: float | None = None) -> Iterator[Unit]:
        """The facts of no more units are read than are asked for, some at once."""
        contracts = load(self._app).tasks.values()
        known = {unit.name: unit for contract in contracts for unit in known_units(self._app, contract)}
        names = sorted(filter(wanted.may_be, known.keys() | unit_names(self._store)))
        for part in chunks(names):
            found = self._read(list(part), known, remarkable)
            yield from (unit for unit in found if wanted.state in (None, unit.state))

    def _read(self, names: list[str], known: dict[str, TaskUnit], remarkable: float | None = None) -> list[Unit]:
        stored = unit_facts(self._store, names, remarkable)
        pauses, now = self._pauses.now(), self._store.now()
        queues = self._queues_of(known) if any(scope.kind == "queue" for scope in pauses) else {}
        units = []
        for name, facts in zip(names, stored, strict=True):
            unit, due = known.get(name), facts.due_at
            task, tenant = parse_unit_name(name) if unit is None else (unit.contract.name, unit.tenant)
            scopes = scopes_of(name, queues.get(task, "")) if pauses else ()
            pause = next((pauses[scope] for scope in scopes if scope in pauses), None)
            last = None if facts.newest_outcome is None else from_entry(facts.newest_outcome)
            state, reason = self._state(unit, pause, facts.backs_off_until > now, last)
            units.append(
                Unit(
                    name=name,
                    task=task,
                    tenant=tenant,
                    state=state,
                    reason=reason,
                    next_poll_at=None if due is None or state in RESTING else to_datetime(due),
                    last_poll=last,
                    in_flight=facts.in_flight,
                    cursor=json.loads(facts.cursor) if facts.cursor else None,
                    attempt=facts.attempt,
                    held_back=facts.held_back,
                    parked_keys=facts.parked_keys,
                    pause=pause if state == "paused" else None,
                    poll_every=facts.every,
                )
            )
        return units

    def _queues_of(self, units: dict[str, TaskUnit]) -> dict[str, str]:
        """The queue of each task."""
        tasks = {unit.contract.name: unit.contract.task for unit in units.values()}
        return {name: known_queue(self._app, task) for name, task in tasks.items()}

    def _state(
        self, unit: TaskUnit | None, pause: Paused | None, backing_off: bool, last: PollOutcome | None
    ) -> tuple[str, str | None]:
        if unit is None:
            return "orphaned", "the task has no such tenant, or no perpetual task of this app has this name"
        if not unit.contract.options.enabled:
            return "disabled", "perpetual option enabled=False"
        if unit.contract.name in self._settings.disabled:
            return "disabled", "named in perpetual_disabled"
        if pause is not None:
            return "paused", pause.reason
        if backing_off:
            return "backing_off", None if last is None else last.error or last.reason
        return "active", None
