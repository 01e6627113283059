"""Claims: the right to poll one unit at one slot.

The leader claims due units; any process may claim a unit for a poll by hand. Only the first step asks whether the
caller leads. What follows is fenced by the claim itself (the poll id): a hand-over does not refuse work in progress,
and a poll whose claim was taken over or has expired can write nothing.
"""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, NamedTuple

from celery_perpetual.failures.policies import DEGRADED
from celery_perpetual.ledger.ids import new_poll_id, new_poll_ids
from celery_perpetual.polling.due_lines import Due, read_due
from celery_perpetual.polling.outcome import HISTORY_TTL_MS
from celery_perpetual.polling.rows import NO_ROWS, Rows
from celery_perpetual.store.commands.leadership import Mark
from celery_perpetual.store.connection import Store
from celery_perpetual.store.prepared import Prepared
from celery_perpetual.store.scripts import script
from celery_perpetual.tasks.cadence import Occurrence
from celery_perpetual.tasks.contract import TaskContract
from celery_perpetual.tasks.unit import TaskUnit
from celery_perpetual.times import ms

#: A claim outlives its poll's time limit by this, so that the poll itself has the first word.
GRACE_MS = 1000
#: How long a poll may wait in a queue before it is given up.
QUEUED_MS = 60_000


@dataclass(slots=True, kw_only=True)
class Claim:
    """An open claim and what the unit remembered when it was taken."""

    unit: TaskUnit
    poll_id: str
    slot: int
    following: str
    """Next due time on the grid in ms; "" where the cadence is left alone."""
    trigger: str
    cursor: str
    """As JSON, "" without one: ``next_batch`` gets a value of its own, which it may change."""
    in_flight: int
    attempt: int
    failures: Mapping[str, int]
    """Failures in a row by class or rule, see :attr:`~celery_perpetual.failures.policies.Failure.counter`."""
    polled: int | None
    now: int
    """The store's time of the claim, ms."""
    started: float = field(default_factory=time.monotonic)
    """When it was taken; monotonic."""
    begun: float = field(default_factory=time.monotonic)
    """When its poll began, which may be a moment later; before that, when it was taken."""
    runs_in_worker: bool = False
    """It is evaluated by a worker."""
    doing: str = "next_batch"
    """The user's code that it runs, for people."""
    abandoned: bool = False
    """Set when the time limit has passed: what the poll still brings is not wanted."""
    quiet_until: int = 0
    """Until when its source has asked to be left alone, ms; 0: it has not."""
    error: Exception | None = None
    """Why it fails without being evaluated: its schedule fails, or what is stored of the unit cannot be read."""
    rows: Rows = NO_ROWS
    """How many are worth reading, as ``poll.limit`` says."""
    committed: bool = False
    """Set when the batch is in the ledger: only its publishing is left."""

    @property
    def contract(self) -> TaskContract:
        """The contract of its unit."""
        return self.unit.contract

    @property
    def by_hand(self) -> bool:
        return not self.following

    @property
    def store_time(self) -> int:
        """The store's time now, reckoned from the claim; ms."""
        return self.now + ms(time.monotonic() - self.started)

    @property
    def age(self) -> float:
        """Seconds since it was taken, or since its poll began."""
        return time.monotonic() - self.begun

    @property
    def overdue(self) -> bool:
        """Whether its poll has used up its time, or will soon lose the claim to another beat, having begun late."""
        limit = self.contract.poll_timeout
        return self.age > limit or time.monotonic() - self.started > limit + GRACE_MS / 2000


@dataclass(frozen=True, slots=True)
class Refusal:
    """A unit that was not claimed: ``paused``, ``busy``, ``early`` or ``backoff``; or cannot be read."""

    unit: TaskUnit
    verdict: str
    now: int


class NotLeading(Exception):
    """This process does not lead: the leader key holds another owner or term, or the store does not know the leader's
    mark, or this process has not renewed its lead in time.
    """

    def __init__(self, refused: str | None = None) -> None:
        super().__init__(refused)
        self.refused = refused
        """The ``owner:term`` that the store has refused, None where this process has not asked."""


class Claims:
    """Takes claims in one namespace."""

    def __init__(self, store: Store, mark: Mark | None = None) -> None:
        """Claim nothing yet.

        Args:
            mark: that of the beat that claims, None where no beat does.
        """
        self.store = store
        self._mark = mark

    @cached_property
    def _due(self) -> Prepared:
        return Prepared(self.store, "due")

    def due(self, leader: str, limit: int) -> tuple[int, int | None, list[Due]]:
        """The store's time, the due time of the first unit that is not read, and what is due."""
        return read_due(self._due(limit=limit, mine=leader))

    def by_leader(self, leader: str, seen: int, wanted: Sequence[tuple[TaskUnit, Occurrence]]) -> list[Claim | Refusal]:
        """Claim due occurrences, but for units of which a poll has ended since they were seen to be due.

        Args:
            seen: the store's time of :meth:`due`.

        Raises:
            NotLeading: the leader key is not exactly ``leader`` any more, or the store has gone back to an older state;
                nothing was claimed.
        """
        polls = new_poll_ids(seen, len(wanted))
        return self._ask(
            leader,
            seen,
            [
                _Wanted(unit, at.slot, str(at.following), poll_id, "-" if at.anchor is None else str(at.anchor))
                for (unit, at), poll_id in zip(wanted, polls, strict=True)
            ],
        )

    def sent_to_worker(self, claim: Claim, mark: str, commands: Sequence[Any], targets: Sequence[str]) -> None:
        """A claim is on its way to a worker.

        Args:
            mark: by which the messages of polls are known in their queue.
            commands: broker commands that push its message; none where it is sent.
            targets: the keys that they name.
        """
        valid = ms(claim.contract.poll_timeout) * 2 + QUEUED_MS
        unit_hash = self.store.keys.unit(claim.unit.name)
        script("poll_sent")(
            self.store, unit_hash=unit_hash, targets=targets, poll=claim.poll_id, valid=valid, mark=mark,
            commands=commands,
        )  # fmt: skip

    def received_by_worker(self, unit: TaskUnit, poll_id: str, following: str) -> Claim | None:
        """Go on with a claim that travelled here, or None if it has expired meanwhile."""
        valid = ms(unit.contract.poll_timeout) + GRACE_MS
        reply = script("poll_received")(
            self.store, unit_hash=self.store.keys.unit(unit.name), poll=poll_id, unit=unit.name, valid=valid
        )
        if not reply:
            return None
        now, slot, trigger, cursor, in_flight, attempt, polled, failures = reply
        facts = b"claimed 0 %b %b %b %b %b\n%b" % (in_flight, attempt, polled or b"-", trigger, cursor, failures)
        claim = _claim(_Wanted(unit, int(slot), following, poll_id), int(now), facts)
        return claim if isinstance(claim, Claim) else None

    def by_hand(self, unit: TaskUnit) -> Claim | Refusal:
        """Claim a unit now, without moving its cadence."""
        now = self.store.now()
        return self._ask("", now, [_Wanted(unit, now, "", new_poll_id(now))])[0]

    def _ask(self, leader: str, seen: int, wanted: Sequence[_Wanted]) -> list[Claim | Refusal]:
        at, *reply = script("claim").begin(
            self.store, mine=leader, mark=self._mark.value if self._mark else 0, ttl=HISTORY_TTL_MS, seen=seen,
            back_off=_back_off(), wanted=[_row(each) for each in wanted],
        )()  # fmt: skip
        if not at:
            raise NotLeading(leader)
        if self._mark:
            self._mark.was_left(int(at))
        return [_claim(each, int(at), facts) for each, facts in zip(wanted, reply, strict=True)]


#: Most of them, by how many failures there were in a row.
_STEPS = len(DEGRADED.curve)


def _back_off() -> str:
    """Waits after polls that have ended with their process; other ones for each call."""
    return " ".join(str(DEGRADED.spread(before)) for before in range(_STEPS))


class _Wanted(NamedTuple):
    unit: TaskUnit
    slot: int
    following: str
    poll_id: str
    anchor: str = "-"


def _row(wanted: _Wanted) -> str:
    contract = wanted.unit.contract
    valid = ms(contract.poll_timeout) + GRACE_MS
    runs_in_worker, history = int(contract.options.poll_in == "worker"), contract.options.history
    following = wanted.following or "-"
    times = f"{wanted.slot} {following} {wanted.anchor} {valid}"
    return f"{wanted.poll_id} {times} {runs_in_worker} {history} {wanted.unit.name}\n{contract.queue}"


def _claim(wanted: _Wanted, now: int, facts: bytes) -> Claim | Refusal:
    """The claim of one unit. Where what is stored of it cannot be read, its poll fails; the others go on."""
    try:
        return _read_claim(wanted, now, facts)
    except (ValueError, RecursionError) as error:
        if not facts.startswith(b"claimed "):
            return Refusal(wanted.unit, "unreadable", now)
        text = (
            f"what the store has of {wanted.unit.name} cannot be read ({facts!r:.200}: {error}); `celery -A proj "
            "perpetual rebuild` mends a wrong number of items in flight, and `cursor` sets a cursor"
        )
        return Claim(
            unit=wanted.unit, poll_id=wanted.poll_id, slot=wanted.slot, following=wanted.following,
            trigger="schedule" if wanted.following else "manual", cursor="", in_flight=0, attempt=0, failures={},
            polled=None, now=now, error=ValueError(text),
        )  # fmt: skip


def _read_claim(wanted: _Wanted, now: int, facts: bytes) -> Claim | Refusal:
    line, _, failures = facts.decode().partition("\n")
    verdict, runs_in_worker, in_flight, attempt, polled, trigger, cursor = line.split(" ", 6)
    if verdict != "claimed":
        return Refusal(wanted.unit, verdict, now)
    return Claim(
        unit=wanted.unit,
        poll_id=wanted.poll_id,
        slot=wanted.slot,
        following=wanted.following,
        trigger=trigger,
        cursor="" if cursor == "null" else cursor,
        in_flight=int(in_flight),
        attempt=int(attempt),
        failures=_counts(failures) if failures else {},
        polled=None if polled == "-" else int(polled),
        now=now,
        runs_in_worker=runs_in_worker == "1",
    )


def _counts(text: str) -> Mapping[str, int]:
    found = json.loads(text)
    if not isinstance(found, dict) or not all(isinstance(count, int) for count in found.values()):
        raise ValueError(f"no counts of failures: {text:.200}")
    return found
