"""Derives every index from the records, and reports what was wrong."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING

from celery_perpetual import events
from celery_perpetual.errors import described
from celery_perpetual.json_fields import JsonFields
from celery_perpetual.operations.tenants import known_units
from celery_perpetual.routines.record import Record
from celery_perpetual.routines.storage import Change, listed, readable, write
from celery_perpetual.store.chunks import chunks
from celery_perpetual.store.commands.leases import LeaseText
from celery_perpetual.store.commands.owed import list_owed
from celery_perpetual.store.commands.repair import fields_of, hash_pages, members, suffixes, times_of
from celery_perpetual.store.commands.stats import add_pass
from celery_perpetual.store.scripts import script
from celery_perpetual.tasks.discovery import load
from celery_perpetual.telemetry import emit
from celery_perpetual.times import to_datetime

if TYPE_CHECKING:
    from celery_perpetual.namespace import Namespace


@dataclass(frozen=True, slots=True, kw_only=True)
class RebuildResult(JsonFields):
    """The records that a rebuild has read, and the entries that it has repaired."""

    started_at: datetime
    """The store's time."""
    seconds: float
    read: Mapping[str, int]
    """How many ``batches``, ``units``, ``leases``, ``states`` and ``routines`` it has read."""
    repaired: Mapping[str, int]
    """Entries that were wrong, by index; an index that was right is not named."""
    errors: Mapping[str, str]
    """Type and text of the error of each part that failed; the others were done."""


class Rebuild:
    """One rebuild of one namespace.

    Each record is dealt with in one step of the store, so that workers and beats may go on meanwhile; what they change
    while it is read is right already.
    """

    def __init__(self, namespace: Namespace, progress: Callable[[str, int], object] | None) -> None:
        """Nothing is done yet.

        Args:
            namespace: of the app.
            progress: called with the kind of records and how many of them were read.
        """
        self._app = namespace.app
        self._store = namespace.store
        self._disabled = namespace.settings.disabled
        self._progress = progress
        self._read: Counter[str] = Counter()
        self._repaired: Counter[str] = Counter()

    def run(self) -> RebuildResult:
        """Read everything once.

        Raises:
            StoreUnavailable: the store did not answer at all.
        """
        begun, started_at, errors = time.monotonic(), to_datetime(self._store.now()), dict[str, str]()
        parts = (self._batches, self._keys, self._units, self._leases, self._states, self._owed, self._routines)
        for part in parts:
            name = part.__name__.removeprefix("_")
            try:
                part()
            except Exception as error:  # of one part, such as a key of a wrong type
                errors[name] = described(error)
                emit(events.CYCLE_STEP_FAILED, step=f"rebuild of {name}", error=error)
        repaired = {name: count for name, count in self._repaired.items() if count}
        add_pass(self._store, {"repaired": sum(repaired.values())}, errors, "rebuild")
        return RebuildResult(
            started_at=started_at, seconds=time.monotonic() - begun, read=dict(self._read), repaired=repaired,
            errors=errors,
        )  # fmt: skip

    def _count(self, kind: str, names: Sequence[str], wrong: Sequence[int], read: int = 1) -> None:
        self._read[kind] += read
        for name, count in zip(names, wrong, strict=True):
            self._repaired[name] += int(count)
        if self._progress is not None and self._read[kind] % 100 == 0:
            self._progress(kind, self._read[kind])

    def _batches(self) -> None:
        keys, names = self._store.keys, ("batch_counters", "open", "outbox", "item_keys")
        listed_ones = {*members(self._store, keys.open), *members(self._store, keys.outbox)}
        for poll in {*suffixes(self._store, keys.poll_prefix), *listed_ones}:
            self._count("batches", names, script("rebuild_batch")(self._store, batch=keys.poll(poll), poll=poll))

    def _keys(self) -> None:
        keys = self._store.keys
        for unit in suffixes(self._store, keys.item_keys("")):
            for page in hash_pages(self._store, keys.item_keys(unit)):
                for part in chunks([key for key, _ in page]):
                    self._repaired["item_keys"] += int(
                        script("trim_keys")(
                            self._store, item_keys=keys.item_keys(unit), unit_hash=keys.unit(unit), unit=unit, keys=part
                        )
                    )

    def _units(self) -> None:
        keys, names = self._store.keys, ("in_flight", "units", "due", "cursors")
        contracts = load(self._app).tasks.values()
        polled = {
            unit.name
            for contract in contracts
            if contract.options.enabled and contract.name not in self._disabled
            for unit in known_units(self._app, contract)
        }
        found = sorted(suffixes(self._store, keys.unit_prefix))
        for part in chunks(found):
            wrong = script("rebuild_units")(
                self._store, poll_prefix=keys.poll_prefix,
                named=[f"{int(unit in polled)} {unit}" for unit in part],
            )  # fmt: skip
            self._count("units", names, wrong, len(part))

    def _leases(self) -> None:
        keys = self._store.keys
        for page in hash_pages(self._store, keys.leases):
            for task_id, text in page:
                worker = LeaseText.read(text).worker
                wrong = script("rebuild_lease")(
                    self._store, held=keys.held(worker), id=task_id, worker=worker, lease=text
                )
                self._count("leases", ("held", "workers"), wrong)
        for worker in suffixes(self._store, keys.held_prefix):
            self._repaired["held"] += int(script("trim_held")(self._store, held=keys.held(worker), worker=worker))

    def _states(self) -> None:
        for page in hash_pages(self._store, self._store.keys.states):
            for task_id, _ in page:
                self._count("states", ("resend", "parked"), script("rebuild_state")(self._store, id=task_id))

    def _owed(self) -> None:
        for part in chunks(sorted(suffixes(self._store, self._store.keys.owed_result("")))):
            self._repaired["owed"] += list_owed(self._store, part)

    def _routines(self) -> None:
        wrong_lists, unreadable = list[str](), list[str]()
        for page in hash_pages(self._store, self._store.keys.routines):
            found = {routine_id: readable(routine_id, text) for routine_id, text in page}
            records = [record for record in found.values() if record is not None]
            unreadable += [routine_id for routine_id, record in found.items() if record is None]
            self._read["routines"] += len(records)
            for record, is_missed, extra in self._places(records):
                wrong_lists += [f"{name} {record.version + is_missed} {record.id}" for name in extra]
                if is_missed:
                    # As if its key was given only now, so that it is written too.
                    write(self._store, [Change(record._replace(key=""), record.changed(record.updated))])
                    self._repaired["routines"] += 1
        for part in chunks(wrong_lists) if wrong_lists else [[]]:
            self._repaired["routines"] += int(script("trim_routines")(self._store, wrong_lists=part))
        if unreadable:
            raise ValueError(f"{len(unreadable)} of the routines cannot be read, such as {unreadable[0]!r:.200}")

    def _places(self, records: list[Record]) -> Iterator[tuple[Record, bool, set[str]]]:
        """For each: whether its list or its key misses it, and the lists on which it should not be."""
        keys, ids = self._store.keys, [record.id for record in records]
        lists = {
            "due": keys.routines_due, "running": keys.routines_running, "paused": keys.routines_pauses,
            "over": keys.routines_over,
        }  # fmt: skip
        times = {name: times_of(self._store, key, ids) for name, key in lists.items()}
        updated = times_of(self._store, keys.routines_updated, ids)
        with_key = [record.key for record in records if record.key]
        holders = dict(zip(with_key, fields_of(self._store, keys.routines_keys, with_key), strict=True))
        for at, record in enumerate(records):
            name, _ = listed(record, self._store.limits.tombstone_ttl)
            there = {each for each in lists if times[each][at] is not None}
            is_known = not record.key or holders[record.key] == record.id.encode()
            is_there = name == "none" or name in there
            yield record, not (is_there and is_known and updated[at] is not None), there - {name}
