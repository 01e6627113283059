"""The ledger: every item that has not ended, with all that is needed to resend it.

A poll's batch becomes true in one step, the *commit*: records, item keys, counters, the unit's cursor and the poll's
outcome. Before it nothing of the batch counts; after it every item reaches the broker, even if processes die, because
messages are always built from committed records. The commit is accepted only while the poll holds the unit's claim, so
the batch of an abandoned poll or of a superseded leader is refused.

* Up to 500 items: one script, which pushes the messages too where the broker is this Redis.
* More: records are *staged* in chunks of 500 beside the ledger, then one script commits them by name. Records of a
  commit that never came expire; their item keys are swept by the leader's cycle, and meanwhile count for nothing,
  because an item key is taken only if its poll was committed.
* The item is closed once, by the script that announces its end: key and room are free, the batch counts it.

Item keys are added only under the unit's claim, and a unit has one claim at a time: a key that was free when a
poll read it is still free when the poll commits.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

from celery_perpetual.faults import reach
from celery_perpetual.ledger.ids import POLL_INDEX, base
from celery_perpetual.ledger.item import CheckedItem
from celery_perpetual.ledger.record import encode
from celery_perpetual.store.chunks import CHUNK, chunk_count, chunks, grouped
from celery_perpetual.store.commands.batches import known_batches
from celery_perpetual.store.commands.failed_keys import held_keys
from celery_perpetual.store.commands.records import item_keys
from celery_perpetual.store.connection import Store
from celery_perpetual.store.one_ahead import OneAhead
from celery_perpetual.store.scripts import script
from celery_perpetual.times import ms

if TYPE_CHECKING:
    from celery_perpetual.tasks.contract import TaskContract
    from celery_perpetual.tasks.unit import TaskUnit

#: Uncommitted records live this long; a poll is abandoned long before.
STAGED_TTL_MS = 24 * 3600 * 1000


@dataclass(frozen=True, slots=True, kw_only=True)
class Closing:
    """The facts of a poll that the commit of its batch stores beside the ledger."""

    poll_id: str
    outcome: str
    """JSON of the outcome."""
    slot: int
    following: str = ""
    """Due time on the grid in ms, or "" to leave it."""
    delay: str = ""
    """Due this many ms after now instead."""
    trigger: str = ""
    """Why, if there is a delay."""
    cursor: str = ""
    """JSON of the new cursor, or "" to leave it."""
    follow_ups: int = 0
    """How many follow-ups the batch was made of; the commit takes them off their list."""
    history_ttl: int
    """The unit's history is forgotten so many ms after its last poll."""


#: As ``taken.lua`` answers it.
HELD_BACK = 2


class Taken(NamedTuple):
    """The ledger's facts on the item keys that a poll has read; a key may be in more than one of the sets."""

    in_flight: set[str]
    """In flight, or ended within the window."""
    held_back: set[str]
    """Left out since they have failed: until their back-off is over, or parked."""
    failed: set[str]
    """Failed before, and free again."""


class Ledger:
    """The ledger of one namespace."""

    def __init__(self, store: Store) -> None:
        self.store = store

    def taken(self, unit: str, keys: Sequence[str], poll_id: str, *, since: int, backs_off: bool = True) -> Taken:
        """Which of these item keys are in flight, have ended at ``since`` (ms) or later, or have failed before.

        A poll asks since its own start, or since the ``dedup_window`` if that is longer: what was in flight when its
        rows were read may have ended meanwhile, and those rows still look as if there were something to do.

        Args:
            backs_off: False: a key is not held back for its back-off, only while it is parked.
        """
        return self.begin_taken(unit, keys, poll_id, since=since, backs_off=backs_off)()

    def begin_taken(
        self, unit: str, keys: Sequence[str], poll_id: str, *, since: int, backs_off: bool = True
    ) -> Callable[[], Taken]:
        """Ask for :meth:`taken`, and return what waits for the answer."""
        names = self.store.keys

        def ask(part: Sequence[str]) -> Callable[[], Any]:
            return script("taken").begin(
                self.store, item_keys=names.item_keys(unit), recent=names.recent(unit),
                before=names.recent_before(unit), failed=names.failed(unit), failures=names.failures(unit),
                since=since, backs_off=int(backs_off), asked=part,
            )  # fmt: skip

        first, rest = keys[:CHUNK], keys[CHUNK:]
        answer: Callable[[], Any] = ask(first) if first else list

        def finish() -> Taken:
            found = Taken(set(), set(), set())
            self._add_taken(found, first, answer(), poll_id)
            for part in chunks(rest):
                self._add_taken(found, part, ask(part)(), poll_id)
            return found

        return finish

    def _add_taken(self, found: Taken, keys: Sequence[str], reply: Sequence[Any], poll_id: str) -> None:
        held = {}
        for position, holder, ended, failure in grouped(reply, 4):
            key = keys[position]
            if failure == HELD_BACK:
                found.held_back.add(key)
            elif failure:
                found.failed.add(key)
            if ended:
                found.in_flight.add(key)
            elif holder:
                held[key] = base(_text(holder))
        committed = self._committed(set(held.values()) - {base(poll_id)})
        found.in_flight.update(key for key, holder in held.items() if holder in committed)

    def left_out_keys(self, unit: str, now: int) -> set[str]:
        """The item keys of this unit that a poll leaves out: in flight, held back at ``now`` (ms), or parked."""
        return self.in_flight_keys(unit) | held_keys(self.store, unit, now)

    def in_flight_keys(self, unit: str) -> set[str]:
        """The item keys of everything of this unit that is not finished."""
        held = item_keys(self.store, unit)
        committed = self._committed({base(holder) for holder in held.values()})
        return {key for key, holder in held.items() if base(holder) in committed}

    def _committed(self, bases: set[str]) -> set[str]:
        poll_ids = [f"{each}{POLL_INDEX}" for each in sorted(bases)]
        return {base(poll_id) for poll_id in known_batches(self.store, poll_ids)}

    def stage(self, unit: TaskUnit, poll_id: str, items: Sequence[CheckedItem]) -> bool:
        """Put the records of a large batch beside the ledger; False if the claim is lost."""
        names = self.store.keys
        with OneAhead[int]() as call:
            for chunk, part in enumerate(chunks(items)):
                records = [encode(item, unit.contract.name) for item in part]
                rest = [*records, *_pairs(poll_id, part, chunk * CHUNK)]
                if call.is_owed and not self._staged(call):
                    return False
                call.begin(
                    script("stage").begin(
                        self.store,
                        unit_hash=names.unit(unit.name), chunk=names.chunk(poll_id, chunk),
                        item_keys=names.item_keys(unit.name), poll=poll_id, unit=unit.name, ttl=STAGED_TTL_MS,
                        records=len(records), rest=rest,
                    )
                )  # fmt: skip
            return self._staged(call)

    def _staged(self, call: OneAhead[int]) -> bool:
        accepted = call.reply()
        reach("poll.staged")
        return bool(accepted)

    def commit(
        self,
        unit: TaskUnit,
        closing: Closing,
        items: Sequence[CheckedItem],
        commands: Sequence[Any] = (),
        queues: Sequence[str] = (),
        destinations: str = "",
        *,
        has_failed: bool = False,
    ) -> str:
        """Commit a batch; its records are in ``items``, or staged if they are more than one chunk.

        Args:
            commands: broker commands of all messages, or none.
            queues: the keys that they name.
            destinations: where the messages go, as the batch keeps it.
            has_failed: a key of the batch has failed before.

        Returns:
            ``committed``, ``already``, ``refused`` (claim lost), ``full`` (no room) or ``missing`` (records expired).
        """
        names, contract, poll_id = self.store.keys, unit.contract, closing.poll_id
        small, retries = len(items) <= CHUNK, contract.options.failed_keys
        records = [encode(item, contract.name) for item in items] if small else []
        pairs = _pairs(poll_id, items, 0) if small else []
        reply = script("commit")(
            self.store,
            unit_hash=names.unit(unit.name), polls=names.polls(unit.name), batch=names.poll(poll_id),
            item_keys=names.item_keys(unit.name), follow_ups=names.follow_ups(unit.name), targets=queues,
            poll=poll_id, unit=unit.name, outcome=closing.outcome, history=contract.options.history,
            ttl=closing.history_ttl, slot=closing.slot, following=closing.following,
            delay=closing.delay, trigger=closing.trigger, cursor=closing.cursor,
            followed=closing.follow_ups, task=contract.name,
            tenant=unit.tenant_json,
            items=len(items), most=contract.max_in_flight, window=_remembered(contract),
            chunk_key=names.chunk_prefix(poll_id), chunks=0 if small else chunk_count(len(items)),
            pairs_here=len(pairs) // 2, pushed=len(items) if commands else 0,
            on_done=int(contract.options.on_batch_done is not None), destinations=destinations,
            retries="" if retries is None else retries.curve,
            low_water=contract.options.low_water or "", has_failed=int(has_failed),
            rest=[*records, *pairs, *commands],
        )  # fmt: skip
        return _text(reply)


def _remembered(contract: TaskContract) -> int:
    """Milliseconds for which the end of an item key is remembered: any poll that is open then has ended after it."""
    return ms(max(contract.options.dedup_window, contract.poll_timeout + 10))


def _pairs(poll_id: str, items: Sequence[CheckedItem], start: int) -> list[str]:
    begin = base(poll_id)
    return [
        text
        for index, item in enumerate(items, start)
        if item.key is not None
        for text in (item.key, f"{begin}{index:08x}")
    ]


def _text(value: Any) -> str:
    return value.decode() if isinstance(value, bytes) else str(value)
