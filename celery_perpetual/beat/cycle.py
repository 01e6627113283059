"""One maintenance pass.

It relays what others left unpublished, removes records whose commit never came, sweeps the leases of dead workers and
sends their tasks again, works off what follows the last end of a batch, forgets pauses that are over and units that
no leader has known for a week, and says what needs a person. The error of one step never stops the next.

The leader runs a pass every ``perpetual_cycle_interval`` seconds; any other process may run one. Two passes at once are
harmless, because every step works off a list whose entries go in the step that does their work; a short lock keeps the
second one from asking for nothing.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from celery_perpetual import events
from celery_perpetual.beat.orphans import KnownUnits, Orphans
from celery_perpetual.completions.batches import do_follow_ups, waiting_follow_ups
from celery_perpetual.errors import StoreUnavailable, described
from celery_perpetual.health.alerts import Alerts
from celery_perpetual.ledger.staged import staged_list, sweep_staged
from celery_perpetual.namespace import Namespace
from celery_perpetual.pauses import Pauses
from celery_perpetual.publishing.courier import Courier
from celery_perpetual.recovery.old_states import OldStates
from celery_perpetual.recovery.sweep import Sweep
from celery_perpetual.routines.clock_steps import pull_back_routines
from celery_perpetual.routines.forgetting import forget_routines
from celery_perpetual.store.commands.lock import Lock
from celery_perpetual.store.connection import Store
from celery_perpetual.telemetry import emit
from celery_perpetual.times import format_time, to_datetime

#: A pass that dies holds up the others for no longer, in seconds. It is prolonged before each step.
LOCK_SECONDS = 5.0


@dataclass(frozen=True, slots=True, kw_only=True)
class CycleResult:
    """What one pass did."""

    started_at: datetime
    """The store's time."""
    seconds: float
    """How long it took."""
    busy: bool = False
    """Another pass was under way, so this one did nothing."""
    relayed: int = 0
    """Items of committed batches that were published."""
    unstaged: int = 0
    """Polls whose records were removed, because their commit never came."""
    swept: int = 0
    """Leases of dead workers that were taken."""
    restored: int = 0
    """Messages put back that dead workers had received and not begun."""
    missed: int = 0
    """Items whose message was in no place any more."""
    resent: int = 0
    """Tasks sent again."""
    alerts: int = 0
    """Alerts that have begun or ended."""
    held_until: datetime | None = None
    """Until when no lease expires, because the store was away."""
    batches: int = 0
    """Ends of which the follow-up was done: the message of a batch, or the next step of a routine."""
    orphans: int = 0
    """Units that were forgotten."""
    forgotten: int = 0
    """Routines that had ended long ago and were removed."""
    put_off: Mapping[str, str] = field(default_factory=dict)
    """Polls for which something is left to do and failed the last time, and why; they are tried again, ever later."""
    errors: Mapping[str, str] = field(default_factory=dict)
    """Type and text of the error of each step that failed."""

    @property
    def ok(self) -> bool:
        """Whether every step went through."""
        return not self.errors

    def to_dict(self) -> dict[str, Any]:
        """As JSON values."""
        values = {name: getattr(self, name) for name in self.__slots__}
        held = None if self.held_until is None else format_time(self.held_until)
        return values | {
            "started_at": format_time(self.started_at),
            "held_until": held,
            "put_off": dict(self.put_off),
            "errors": dict(self.errors),
        }


class Cycle:
    """Runs passes of one namespace, one after the other; it remembers from pass to pass what was missing."""

    def __init__(self, namespace: Namespace, known: Callable[[], KnownUnits]) -> None:
        """Nothing is done yet.

        Args:
            known: returns what the code of this process says about units.
        """
        self._store = namespace.store
        self._lock = Lock(self._store, self._store.keys.cycle, LOCK_SECONDS)
        states = OldStates(self._store)
        sweep, orphans = Sweep(namespace.app, namespace.grants), Orphans(self._store, known)
        outbox, staged, follow_ups = (
            namespace.runner.publisher.outbox,
            staged_list(self._store),
            waiting_follow_ups(self._store),
        )
        self._lists = (outbox, staged, follow_ups)
        alerts = Alerts(namespace)
        relay, batches = Courier("relay"), Courier("batches")
        self._steps: dict[str, Callable[[], dict[str, Any]]] = {
            "relay": lambda: {"relayed": relay.run(lambda: _relay(namespace))},
            "staged": lambda: {"unstaged": sweep_staged(self._store, staged)},
            "pauses": lambda: _trim(namespace.pauses),
            "states": lambda: _forget(states),
            "sweep": lambda: _facts(sweep),
            "batches": lambda: {"batches": batches.run(lambda: do_follow_ups(namespace.app, self._store, follow_ups))},
            "orphans": lambda: {"orphans": orphans.drop()},
            "routines": lambda: {"forgotten": forget_routines(self._store)},
            "alerts": lambda: {"alerts": alerts.once()},
            "clock": lambda: _pull_back(self._store),
        }

    def once(self) -> CycleResult:
        """Run one pass.

        Raises:
            StoreUnavailable: the store did not answer at all; nothing was done.
        """
        begun, started_at = time.monotonic(), to_datetime(self._store.now())
        if not self._lock.acquire():
            return CycleResult(started_at=started_at, seconds=time.monotonic() - begun, busy=True)
        facts: dict[str, Any] = {}
        errors: dict[str, str] = {}
        try:
            for name, step in self._steps.items():
                try:
                    self._lock.keep()  # if it has expired, another pass may have begun, which is harmless
                    facts |= step()
                except StoreUnavailable as error:
                    errors[name] = described(error)
                    emit(events.STORE_UNREACHABLE, part=f"step {name} of the cycle", error=error)
                except Exception as error:
                    errors[name] = described(error)
                    emit(events.CYCLE_STEP_FAILED, step=name, error=error)
        finally:
            self._lock.release()
        put_off = {entry: why for each in self._lists for entry, why in each.put_off.items()}
        seconds = time.monotonic() - begun
        return CycleResult(started_at=started_at, seconds=seconds, put_off=put_off, errors=errors, **facts)


def _relay(namespace: Namespace) -> int:
    publisher = namespace.runner.publisher
    try:
        return publisher.relay()
    finally:
        publisher.release()  # the connection of this thread, which ends


def _trim(pauses: Pauses) -> dict[str, Any]:
    pauses.trim()
    return {}


def _forget(states: OldStates) -> dict[str, Any]:
    states.forget()
    return {}


def _pull_back(store: Store) -> dict[str, Any]:
    pull_back_routines(store)
    return {}


def _facts(sweep: Sweep) -> dict[str, Any]:
    found = sweep.once()
    return {
        "swept": found.leases, "restored": found.restored, "missed": found.missed, "resent": found.sent,
        "held_until": to_datetime(found.held_until) if found.held_until else None,
    }  # fmt: skip
