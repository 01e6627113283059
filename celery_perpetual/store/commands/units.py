"""Units as the store remembers them, and their stored outcomes."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

from celery_perpetual.store.chunks import chunks
from celery_perpetual.store.scripts import script

if TYPE_CHECKING:
    from celery_perpetual.store.connection import Store


_EVERY = re.compile(r"every (\d+) ms")


class UnitFacts(NamedTuple):
    """The store's facts on one unit; a unit that it does not know has none."""

    cursor: str | None
    """JSON."""
    in_flight: int
    attempt: int
    """Failed polls in a row."""
    backs_off_until: int
    """Milliseconds of the store's time, 0 = it does not."""
    polled_at: int | None
    spec: str
    """Its schedule, as the leader has registered it: ``every {ms} ms``, or a calendar; "" = not registered yet."""
    due_at: float | None
    newest_outcome: str | None
    """As ``polling/outcome.py`` reads it."""
    held_back: int
    """Item keys that are held back, and are free again by themselves."""
    parked_keys: int
    """Item keys that wait for an operator."""

    @property
    def every(self) -> float | None:
        """Seconds between two slots; None for a calendar, and where it is not registered yet."""
        found = _EVERY.fullmatch(self.spec)
        return int(found[1]) / 1000 if found else None


class OpenPoll(NamedTuple):
    """A poll of a unit that has no outcome yet. Times are milliseconds of the store's time."""

    since: int
    until: int
    """When its claim expires."""
    is_in_worker: bool
    """It was sent to the workers, or is evaluated by one."""


def open_poll(store: Store, unit: str) -> OpenPoll | None:
    """The poll of a unit that has no outcome yet."""
    with store.errors("open poll"):
        claimed = store.redis.hget(store.keys.unit(unit), "claimed")
    return _open_poll(claimed) if claimed else None


def _open_poll(claimed: bytes) -> OpenPoll:
    """The facts of a claim, as scripts store them: slot, start, end, trigger and by whom."""
    _, since, until, _, by = claimed.split(b" ", 4)
    return OpenPoll(int(since), int(until), by == b"")


def unit_names(store: Store) -> set[str]:
    """Every unit that the store remembers."""
    with store.errors("units"):
        return {name.decode() for name in store.redis.zrange(store.keys.units, 0, -1)}


def is_unit(store: Store, name: str) -> bool:
    """Whether the store remembers a unit."""
    with store.errors("units"):
        return store.redis.zscore(store.keys.units, name) is not None


def overdue_units(store: Store, before: int, limit: int) -> list[tuple[str, int]]:
    """Units that were to be polled before then (ms), and when; the longest overdue first."""
    with store.errors("due units"):
        found = store.redis.zrangebyscore(store.keys.due, "-inf", before, 0, limit, withscores=True)
    return [(name.decode(), int(at)) for name, at in found]


def units_page(store: Store, cursor: int, count: int) -> tuple[int, list[str]]:
    """About so many units, and the cursor of the next page; 0 is the first page and the end."""
    with store.errors("units"):
        following, found = store.redis.zscan(store.keys.units, cursor, count=count)
    return int(following), [name.decode() for name, _ in found]


def units_last_known_before(store: Store, before: int, skip: int, limit: int) -> list[str]:
    """Units that no leader has known since then (ms), those that are unknown for longest first."""
    with store.errors("orphans"):
        found = store.redis.zrangebyscore(store.keys.units, "-inf", before, skip, limit)
    return [name.decode() for name in found]


def unit_facts(
    store: Store, names: Sequence[str], remarkable: float | None = None, *, brief: bool = False
) -> list[UnitFacts]:
    """The facts of units, in their order.

    Args:
        names: of the units.
        remarkable: where given, cursors are left out, and newest outcomes of polls that went well in less than this
            share of their interval.
        brief: with ``remarkable``: what is left out is not even read where that can be avoided, and the numbers of item
            keys that are held back or parked are 0.
    """
    found = []
    for part in chunks(names):
        share = "" if remarkable is None else str(remarkable)
        text = script("unit_facts")(store, share=share, brief=int(brief), units=part)
        for in_flight, attempt, backoff, polled, spec, due, held, parked, cursor, newest in json.loads(
            text.decode(errors="replace")
        ):
            facts = UnitFacts(
                cursor or None, int(in_flight or 0), int(attempt or 0), int(backoff or 0),
                int(polled) if polled else None, spec or "", float(due) if due else None, newest or None, held, parked,
            )  # fmt: skip
            found.append(facts)
    return found


def open_claims(store: Store, now: int) -> set[str]:
    """Ids of the polls that are under way: their claims are open, and are valid at this time (ms)."""
    names, found = sorted(unit_names(store)), set[str]()
    with store.errors("units"):
        for part in chunks(names):
            pipe = store.redis.pipeline(transaction=False)
            for name in part:
                pipe.hmget(store.keys.unit(name), "claim", "claimed")
            found |= {claim.decode() for claim, facts in pipe.execute() if claim and _open_poll(facts).until > now}
    return found


class Rates(NamedTuple):
    """Items that a unit has enqueued in the last minute and in the last fifteen, by its stored outcomes."""

    short: int
    """Items that were enqueued within the shorter span."""
    long: int
    """The same for the longer one."""
    covered_ms: int
    """How far the outcomes go back, at most the longer span."""
    watermark: str | None
    """The newest one, RFC 3339."""


#: The spans of rates, ms.
SHORT_MS, LONG_MS = 60_000, 900_000
#: Units of one call, and outcomes that it reads at once.
RATES_AT_ONCE, OUTCOMES_AT_ONCE = 25, 20


def rates(store: Store, units: Sequence[tuple[str, int]]) -> list[Rates]:
    """The rates of units, in their order.

    Args:
        units: each with the number of outcomes that are kept of it.
    """
    found: list[Rates] = []
    for part in chunks(units, RATES_AT_ONCE):
        reply = script("rates")(
            store, polls=[store.keys.polls(name) for name, _ in part], short=SHORT_MS, long=LONG_MS,
            step=OUTCOMES_AT_ONCE, histories=[history for _, history in part],
        )  # fmt: skip
        for line in reply:
            short, long, covered, watermark = line.decode().split(" ", 3)
            found.append(Rates(int(short), int(long), int(covered), None if watermark == "-" else watermark))
    return found


def stored_outcomes(store: Store, unit: str, limit: int) -> list[bytes]:
    """The newest outcomes of a unit, as they are stored."""
    with store.errors("outcomes"):
        return list(store.redis.lrange(store.keys.polls(unit), 0, limit - 1))
