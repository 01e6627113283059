"""The gate ``preflight``: no unit is polled before its preflights have passed.

The preflights of a unit are those of the app and the one of its task, called with its tenant. They run where the unit
is polled, on the thread of its poll, so that one that hangs or raises keeps nothing else waiting. How they ended is in
the store: a pass counts for ``preflight_ttl`` and for every process; an error of the transport or of a service is tried
again after the wait of its class. Any other error parks the gate: it is tried again by a process that was started
later, as code and configuration may have changed, and when an operator nudges or resumes the unit.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from celery_perpetual import events
from celery_perpetual.errors import described
from celery_perpetual.failures.classes import ErrorClass
from celery_perpetual.failures.policies import Policies
from celery_perpetual.polling.claims import Claim
from celery_perpetual.polling.coroutines import Loop
from celery_perpetual.polling.gates import Closed
from celery_perpetual.store.commands.preflights import store_preflight, stored_preflights
from celery_perpetual.store.connection import Store
from celery_perpetual.store.work_list import AHEAD_MS
from celery_perpetual.tasks.preflights import PREFIX, Preflight
from celery_perpetual.telemetry import emit
from celery_perpetual.times import format_time, ms, steady, to_datetime

PASSED, FAILED, PARKED = "passed", "failed", "parked"
#: By these an operator asks for another try of what is parked or waits.
ASKED = ("nudge", "resume")
#: A failure is remembered for so long, ms.
KEPT_MS = 7 * 24 * 3600 * 1000
#: So many are remembered by one process.
MOST_KNOWN = 100_000
#: First wait of a unit while another one runs a preflight that both need, ms; then as long as it has run already.
SHORTEST_WAIT = 250


@dataclass(slots=True)
class Passage:
    """How a preflight has ended the last time."""

    state: str
    at: int
    """Store's time, ms."""
    until: int = 0
    """Of a failed one: when it is tried again."""
    attempt: int = 0
    """How often it has failed in a row."""
    failures: dict[str, int] = field(default_factory=dict)
    """The same by class or rule."""
    error: str = ""

    def is_ahead(self, now: int) -> bool:
        """Whether the store's clock was ahead then: so is the time until which it counts."""
        return self.at > now + AHEAD_MS

    def closed(self, name: str) -> Closed:
        """The gate of a unit that needs it."""
        if self.state == PARKED:
            reason = f"{name} is parked: {self.error}; correct it, then restart, or resume or nudge the unit"
            return Closed(gate=PREFIX, value=self.attempt, limit=0, reason=reason)
        reason = f"{name} has failed: {self.error}; it is tried again at {format_time(to_datetime(self.until))}"
        return Closed(gate=PREFIX, value=self.attempt, limit=0, reason=reason, until=self.until)


@dataclass(frozen=True, slots=True)
class _Check:
    name: str
    preflight: Preflight
    ttl: float
    is_own: bool
    """It is that of the task."""


class Preflights:
    """Runs the preflights of one app. Safe to share between threads."""

    def __init__(
        self, store: Store, policies: Policies, common: Mapping[str, Callable[[], Any]], ttl: float, *, fatal: bool
    ) -> None:
        """Run nothing yet.

        Args:
            common: those that every unit needs, by name.
            ttl: seconds for which a pass counts.
            fatal: whether one that is parked ends beat.
        """
        self._store = store
        self._policies = policies
        self._common = common
        self._ttl = ttl
        self._is_fatal = fatal
        self._lock = threading.Lock()
        self._begun: int | None = None
        self._known: dict[str, Passage] = {}
        self._running: dict[str, float] = {}
        """Since when, steady."""
        self.fatal_reason = ""
        """Why beat is to end; empty: it is not."""

    def known_closed(self, claim: Claim) -> Closed | None:
        """The gate as this process knows it; reads nothing and runs nothing."""
        if claim.contract.preflight is None and not self._common:
            return None
        for check in self._checks(claim):
            if (closed := self._closed(check, claim, self._known.get(check.name))) is not None:
                return closed
        return None

    def closed(self, claim: Claim) -> Closed | None:
        """Run what has to pass, on the thread of a poll; the gate, if it is closed.

        Raises:
            StoreUnavailable: the store did not answer.
        """
        checks = [check for check in self._checks(claim) if not self._counts(self._known.get(check.name), claim)]
        if not checks:
            return None
        if self._begun is None:
            self._begun = claim.now
        for check, text in zip(checks, stored_preflights(self._store, [each.name for each in checks]), strict=True):
            passage = Passage(**json.loads(text)) if text else None
            if self._counts(passage, claim):
                assert passage is not None
                self._known[check.name] = passage
                continue
            closed = self._closed(check, claim, passage) or self._run(check, claim, passage)
            if closed is not None:
                return closed
        return None

    def _checks(self, claim: Claim) -> Iterator[_Check]:
        contract = claim.contract
        if claim.by_hand:
            return
        for name, function in self._common.items():
            yield _Check(f"{PREFIX}:{name}", Preflight(function), self._ttl, is_own=False)
        if contract.preflight is not None:
            own = contract.options.preflight_ttl
            name = PREFIX + claim.unit.name[claim.unit.name.index(":") :]
            yield _Check(name, contract.preflight, self._ttl if own is None else own, is_own=True)

    def _counts(self, passage: Passage | None, claim: Claim) -> bool:
        """Whether it has passed, and not too long ago."""
        now = claim.store_time
        return passage is not None and passage.state == PASSED and now < passage.until and not passage.is_ahead(now)

    def _closed(self, check: _Check, claim: Claim, passage: Passage | None) -> Closed | None:
        """The gate without another try, or None where it is time for one, or it has passed."""
        if passage is None or passage.state == PASSED or claim.trigger in ASKED or passage.is_ahead(claim.store_time):
            return self._waits(check, claim, passage)
        if passage.state == FAILED and passage.until <= claim.store_time:
            return self._waits(check, claim, passage)
        if passage.state == PARKED and (self._begun is None or passage.at < self._begun):
            return None
        return passage.closed(check.name)

    def _waits(self, check: _Check, claim: Claim, passage: Passage | None) -> Closed | None:
        """Closed while another thread of this process runs it."""
        since = self._running.get(check.name)
        if since is None or self._counts(passage, claim):
            return None
        age = ms(steady() - since)
        if age > ms(claim.contract.poll_timeout):
            return None
        until = claim.store_time + max(SHORTEST_WAIT, age)
        return Closed(gate=PREFIX, value=0, limit=0, reason=f"{check.name} is being run", until=until)

    def _run(self, check: _Check, claim: Claim, before: Passage | None) -> Closed | None:
        with self._lock:
            if (closed := self._waits(check, claim, before)) is not None:
                return closed
            known = self._known.get(check.name)
            if known is not None and claim.now <= known.at and not known.is_ahead(claim.store_time):
                # Another unit has run it since.
                return None if known.state == PASSED else known.closed(check.name)
            begun = self._running[check.name] = steady()
        loop, hint = Loop(claim.contract.poll_timeout), 0
        usual, claim.doing = claim.doing, check.name.replace(":", " ", 1)
        try:
            loop.resolve(check.preflight(claim.unit.copied_tenant))
        except BaseException as error:  # user code may raise anything, even SystemExit
            passage, hint = self._after(error, check, claim, before)
        else:
            passage = Passage(PASSED, claim.store_time, until=claim.store_time + ms(check.ttl))
            claim.doing = usual
        finally:
            loop.close()
        with self._lock:
            if len(self._known) > MOST_KNOWN:
                self._known.clear()  # of tenants that have departed, above all; the store has what is needed again
            if self._running.get(check.name) != begun:
                # It hung, and was run once more since: what it says by now is older than the later result.
                known = self._known.get(check.name)
                return None if known is None or known.state == PASSED else known.closed(check.name)
            self._known[check.name] = passage
            del self._running[check.name]
        ttl = ms(check.ttl) if passage.state == PASSED else KEPT_MS
        store_preflight(self._store, check.name, json.dumps(asdict(passage)), ttl_ms=ttl)
        if passage.state == PASSED:
            emit(events.PREFLIGHT_PASSED, check=check.name)
            return None
        return replace(passage.closed(check.name), hint=hint)

    def _after(self, error: BaseException, check: _Check, claim: Claim, before: Passage | None) -> tuple[Passage, int]:
        """How it has ended; and for how long its task's source asks to be left alone, ms."""
        failures = before.failures if before is not None and before.state == FAILED else {}
        rules = claim.contract.options.error_rules if check.is_own else ()
        failure = self._policies.after(error, failures, rules, check.name)
        attempt, now = 1 + (before.attempt if before else 0), claim.store_time
        if failure.gives_up or (failure.kind == ErrorClass.DEGRADED.value and not failure.is_by_rule):
            emit(events.PREFLIGHT_PARKED, check=check.name, unit=claim.unit.name, error=error)
            if self._is_fatal:
                self.fatal_reason = f"{check.name} has failed: {described(error)}; correct it, and start beat again"
            return Passage(PARKED, now, attempt=attempt, error=described(error)), 0
        emit(events.PREFLIGHT_FAILED, check=check.name, unit=claim.unit.name, error_class=failure.kind, error=error)
        counts = failure.counted(failures)
        passage = Passage(FAILED, now, now + failure.poll_delay_ms, attempt, counts, described(error))
        return passage, failure.hint_ms if check.is_own else 0
