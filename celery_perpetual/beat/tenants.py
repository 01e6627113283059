"""Calls the ``tenants`` functions of perpetual tasks while this beat leads, and hands what they find to the roster.

A function runs on a daemon thread of its own: it may take long, hang or raise, and nothing waits for it. What it last
found is kept meanwhile, also in the store, so that the next leader begins with it. A function that has not returned is
not called a second time.
"""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

from celery_perpetual import events
from celery_perpetual.beat.leadership import Leadership
from celery_perpetual.beat.roster import Roster
from celery_perpetual.call_apart import CallApart
from celery_perpetual.errors import StoreUnavailable, described
from celery_perpetual.polling.reading_tenants import call_tenants
from celery_perpetual.store.commands.events import add_event
from celery_perpetual.store.commands.tenants import keep_tenants, note_trouble, stored_tenants
from celery_perpetual.store.connection import Store
from celery_perpetual.tasks.contract import TaskContract
from celery_perpetual.tasks.tenants import TenantList
from celery_perpetual.tasks.unit import TaskUnit
from celery_perpetual.telemetry import emit
from celery_perpetual.times import format_time, to_datetime

#: Seconds between two turns; the end of a call cuts them short.
PAUSE = 0.25
#: A new leader gives a function so many seconds before it goes on with what an earlier one has stored.
HEAD_START = 1.0
#: A function that has not returned for so many seconds is reported.
SLOW_SECONDS = 10.0
#: The note of a function that hangs is written again after so many seconds, as the store forgets it in time.
NOTED_AGAIN = 3600.0
#: Where nothing is known of a task's tenants, a function that fails is called again after so many seconds, or sooner.
NOTHING_KNOWN = 5.0


class _Call(CallApart[TenantList]):
    """One call of one function."""

    noted: float | None = None
    """When it was noted last that it has not returned (monotonic)."""


@dataclass(slots=True)
class _Known:
    """This leader's facts on the tenants of one task."""

    stored: dict[str, Any]
    """As the store has them."""
    values: Mapping[str, Any] | None = None
    """In use; None until the first of them are."""
    units: Mapping[str, TaskUnit] | None = None
    is_confirmed: bool = False
    """Whether the function has returned in this term."""
    refused: tuple[str, ...] = ()
    next_at: float = 0.0
    """When the function is called again (monotonic)."""
    failed_since: int | None = None
    """Since when it has no answer: ms of the store's time; 0 = it has one, None = it was not called in this term."""


class TenantLists(threading.Thread):
    """Keeps the tenants of all tasks up to date."""

    def __init__(self, store: Store, roster: Roster, leadership: Leadership, ttl: float) -> None:
        """Start nothing yet.

        Args:
            ttl: seconds between two calls of a function whose task does not say.
        """
        super().__init__(name="perpetual-tenant-lists", daemon=True)
        self.on_change: Callable[[], object] = lambda: None
        """Called when the roster has been given something new."""
        self._store = store
        self._roster = roster
        self._leadership = leadership
        self._ttl = ttl
        self._term = ""
        self._known: dict[str, _Known] = {}
        self._calls: dict[str, _Call] = {}
        self._wake = threading.Event()
        self._halted = False

    def halt(self) -> None:
        """Call nothing from now on."""
        self._halted = True
        self._wake.set()

    def run(self) -> None:
        while not self._halted:
            try:
                self.turn()
            except StoreUnavailable as error:
                emit(events.STORE_UNREACHABLE, part="tenants", error=error)
            except Exception as error:
                emit(events.PART_FAILED, part="tenants", error=error)
            self._wake.wait(PAUSE)
            self._wake.clear()

    def turn(self) -> None:
        """Call what is to be called, and use what has returned."""
        leader = self._leadership.value
        if leader is None:
            return
        if leader != self._term:
            self._term, self._known = leader, {}
        for contract in self._roster.with_functions():
            if contract.name not in self._known:
                self._known[contract.name] = _Known(stored_tenants(self._store, contract.name))
            self._go_on(contract, self._known[contract.name])

    def _go_on(self, contract: TaskContract, known: _Known) -> None:
        call = self._calls.get(contract.name)
        if call is None:
            if time.monotonic() >= known.next_at:
                self._calls[contract.name] = _Call(partial(call_tenants, contract), "perpetual-tenants", self._wake.set)
        elif call.is_over():
            del self._calls[contract.name]
            ttl = self._ttl if contract.options.tenants_ttl is None else contract.options.tenants_ttl
            known.next_at = call.begun + ttl
            self._use_answer(contract, known, call)
            if call.error is not None and not known.values:
                known.next_at = min(known.next_at, time.monotonic() + NOTHING_KNOWN)
        elif known.values is None and call.age > HEAD_START:
            self._use(contract, known, known.stored, confirmed=False)
        elif call.age > SLOW_SECONDS:
            self._is_slow(contract, known, call)

    def _is_slow(self, contract: TaskContract, known: _Known, call: _Call) -> None:
        """Report a function that has not returned, once, and keep that noted."""
        is_new, now = call.noted is None, time.monotonic()
        if call.noted is not None and now - call.noted < NOTED_AGAIN:
            return
        self._note(contract, known, f"has not returned for {SLOW_SECONDS:g} s")
        call.noted = now
        if is_new:
            emit(events.TENANTS_SLOW, task=contract.name, seconds=round(call.age), kept=len(known.values or ()))

    def _use_answer(self, contract: TaskContract, known: _Known, call: _Call) -> None:
        if call.error is None:
            found = call.answer()
            if found.refused and found.refused != known.refused:
                shown = "; ".join(found.refused[:3])
                emit(events.TENANTS_REFUSED, task=contract.name, count=len(found.refused), first=shown)
            known.refused = found.refused
            if known.failed_since != 0:
                note_trouble(self._store, contract.name, "")
                known.failed_since = 0
            self._use(contract, known, found.values, confirmed=True)
            return
        if known.values is None:
            self._use(contract, known, known.stored, confirmed=False)
        self._report(contract, known, call.error)

    def _use(self, contract: TaskContract, known: _Known, values: Mapping[str, Any], *, confirmed: bool) -> None:
        """Let the roster have these tenants, and the store, where the function has found them."""
        if confirmed and values != known.stored:
            if not keep_tenants(self._store, self._term, contract.name, known.stored, values):
                return  # another beat leads by now
            known.stored = dict(values)
        before = known.units or {}
        units = {}
        for unit in (TaskUnit(contract, name, value) for name, value in values.items()):
            same = before.get(unit.name)
            units[unit.name] = same if same == unit else unit
        is_same = known.values is not None and units == before
        if is_same and known.is_confirmed:
            return
        if known.values is not None and confirmed and not is_same:
            arrived, departed = len(units.keys() - before.keys()), len(before.keys() - units.keys())
            emit(events.TENANTS_CHANGED, task=contract.name, count=len(units), arrived=arrived, departed=departed)
        known.values, known.units, known.is_confirmed = values, units, known.is_confirmed or confirmed
        self._roster.offer(self._term, contract.name, units, confirmed=confirmed)
        self.on_change()

    def _report(self, contract: TaskContract, known: _Known, error: BaseException) -> None:
        kept = len(known.values or ())
        emit(events.TENANTS_FAILED, task=contract.name, kept=kept, error=error)
        shown = described(error)
        self._note(contract, known, f"raised {shown}")
        at = format_time(to_datetime(self._store.now()))
        data = json.dumps({"task": contract.name, "error": shown, "kept": kept, "at": at})
        add_event(self._store, events.TENANTS_FAILED.name, data, maxlen=self._store.limits.events_maxlen)

    def _note(self, contract: TaskContract, known: _Known, trouble: str) -> None:
        """Let `status` know that the function has no answer."""
        known.failed_since = known.failed_since or self._store.now()
        facts = {"trouble": trouble, "since": known.failed_since, "kept": len(known.values or ())}
        note_trouble(self._store, contract.name, json.dumps(facts))
