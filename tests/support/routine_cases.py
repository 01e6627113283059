"""One call of each script of routines in each state, as `script_cases` has them for the others."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from celery_perpetual.ledger.ids import item_id
from celery_perpetual.ledger.record import encode
from celery_perpetual.routines.record import PAUSED, SCHEDULED, Record
from celery_perpetual.routines.runs import UNIT as ROUTINES
from celery_perpetual.routines.slots import Timetable
from celery_perpetual.routines.steps import cancelled, started
from celery_perpetual.routines.storage import Change, rows_of
from tests.support.case import Case, answers, then
from tests.support.script_slots import FAR, MINUTE, POLL, QUEUE, Slots, work
from tests.support.scripts import World

ITEM = encode(work("x"), "")
ENTRY = f"{SCHEDULED} {item_id(POLL, 0)} success a"


def routine(name: str = "a", **facts: Any) -> Record:
    usual = {"timetable": Timetable(every=MINUTE), "created": 1000, "updated": 1000, "next": 1000}
    return Record(id=name, item=ITEM, **{**usual, **facts})


def write(w: World, *changes: Change, entry: str = "") -> Slots:
    return {"entry": entry, "count": len(changes), "rows": rows_of(w.store, changes)}


def create(*records: Record) -> list[Change]:
    return [Change(None, each, "created", {"task": "deliver"}) for each in records]


def stored(*records: Record) -> Any:
    """A state: these routines are there."""
    return lambda w: w.run("write_routines", write(w, *create(*records)))


def running(w: World) -> None:
    """A routine runs, its message is in the queue."""
    stored(routine(), routine("b"))(w)
    assert w.run("start_runs", start(w)) == [b"ok", b"ok"]


def start(w: World, records: Sequence[Record] = (), *, pushed: bool = True) -> Slots:
    records = records or (routine(), routine("b"))
    k = w.keys
    changes = [
        Change(each, started(each, item_id(POLL, n), 2000), "started", {"attempt": 1}) for n, each in enumerate(records)
    ]
    messages = [f"message {n}" for n in range(len(records))] if pushed else []
    commands = ["LPUSH", 1, len(messages), *messages] if pushed else []
    return {
        "unit_hash": k.unit(ROUTINES), "batch": k.poll(POLL), "chunk": k.chunk(POLL, 0),
        "targets": [QUEUE] if pushed else [], "poll": POLL, "unit": ROUTINES, "each": SCHEDULED, "owner": "beat", "mark": 1,
        "obeys": "all",
        "count": len(records),
        "pushed": len(messages), "destinations": f'[["", "{QUEUE}", null, "0-1"]]' if pushed else "",
        "rest": [*rows_of(w.store, changes), *(encode(work(each.id), "") for each in records), *commands],
    }  # fmt: skip


def ends(w: World, record: Record | None = None) -> Slots:
    """The end of a run is noted, and the entry of what follows goes."""
    now = record or started(routine(), item_id(POLL, 0), 2000)
    after = now.changed(3000, state="active", run="", slot=None, next=FAR, attempts=0)
    return write(w, Change(now, after, "run", {"status": "success"}), entry=ENTRY)


def inline(w: World) -> Slots:
    before = routine()
    return write(w, Change(before, started(before, "by its caller", 2000), "started", believed=FAR))


def due(until: int | str = "", *, obeys: bool = False, owner: str = "", mark: int = 0) -> Slots:
    return {"until_": until, "limit": 10, "obeys": int(obeys), "owner": owner, "mark": mark}


def paused_until(w: World) -> None:
    """The pause of a routine is over."""
    stored(routine(state=PAUSED, pause={"until": 1}))(w)


def follow_end(w: World) -> Slots:
    return {**w.end_item(0), "id": item_id(POLL, 0)}


KEYED = routine(key="order 1", digest="d")

ROUTINE_CASES = [
    Case("write_routines", "new", lambda w: w.led(), lambda w: write(w, *create(routine(), routine("b", key="k"))),
         answers([b"ok", b"ok"]), then([b"done", b"done"])),
    Case("write_routines", "an id that is taken", stored(routine()),
         lambda w: write(w, *create(routine("b"), routine(created=2000))), answers([b"ok", b"exists"]), writes=False),
    Case("write_routines", "a key that is taken", stored(KEYED),
         lambda w: write(w, *create(routine("b", key="order 1"))), answers([b"key a"]), writes=False),
    Case("write_routines", "changed", stored(KEYED),
         lambda w: write(w, Change(KEYED, KEYED.changed(2000, key="k2", state=PAUSED), "updated")), answers([b"ok"]),
         then([b"done"])),
    Case("write_routines", "changed by another call meanwhile", stored(routine()),
         lambda w: write(w, Change(routine(version=2), routine(version=3), "updated")), answers([b"stale"]), writes=False),
    Case("write_routines", "removed meanwhile", lambda w: w.led(), lambda w: write(w, Change(routine(), routine(version=2))),
         answers([b"gone"]), writes=False),
    Case("write_routines", "cancelled", running,
         lambda w: write(w, *[Change(r, cancelled(r, 3000), "cancelled") for r in [started(routine(), item_id(POLL, 0), 2000)]]),
         answers([b"ok"]), then([b"done"])),
    Case("write_routines", "removed", stored(KEYED), lambda w: write(w, Change(KEYED, None, "deleted")), answers([b"ok"]),
         then([b"done"])),
    Case("write_routines", "run by its caller", stored(routine()), inline, answers([b"ok"]), then([b"done"])),
    Case("write_routines", "its run has ended", lambda w: (running(w), w.redis.zadd(w.keys.batches, {ENTRY: 1})), ends,
         answers([b"ok"]), then([b"done"])),
    Case("clear_routines", "some", stored(KEYED, routine("b", state=PAUSED, pause={"until": FAR})), lambda w: {}, answers(2),
         then(0)),
    Case("clear_routines", "none", lambda w: w.led(), lambda w: {}, answers(0), then(0), writes=False),
    Case("start_runs", "with their messages", stored(routine(), routine("b")), start, answers([b"ok", b"ok"]),
         then([b"done", b"done"])),
    Case("start_runs", "to be published", stored(routine(), routine("b")), lambda w: start(w, pushed=False),
         answers([b"ok", b"ok"]), then([b"done", b"done"])),
    Case("start_runs", "one has been changed meanwhile", stored(routine(), routine("b", version=2)), start,
         answers([b"ok", b"stale"]), writes=False),
    Case("start_runs", "everything has been paused meanwhile",
         lambda w: (stored(routine(), routine("b"))(w), w.run("pause", w.pause(scope="*"))), start,
         answers([b"held", b"held"]), writes=False),
    Case("start_runs", "all routines have been paused meanwhile",
         lambda w: (stored(routine(), routine("b"))(w), w.run("pause", w.pause(scope="routine:*"))), start,
         answers([b"held", b"held"]), writes=False),
    Case("start_runs", "only everything is paused, and its caller asked for it",
         lambda w: (stored(routine(), routine("b"))(w), w.run("pause", w.pause(scope="*"))),
         lambda w: {**start(w), "obeys": "routines"}, answers([b"ok", b"ok"]), then([b"done", b"done"])),
    Case("end_item", "a run of a routine", running, follow_end,
         answers([b"first", ENTRY.encode(), 0]), then([b"first", 0, 0]), touches=lambda w: {w.keys.unit(ROUTINES): "hash"}),
    Case("due_routines", "one is due, and the caller of another is gone",
         lambda w: (stored(routine(), routine("b"))(w), w.run("write_routines", inline(w)),
                    w.redis.zadd(w.keys.routines_inline, {"a": 1})),
         lambda w: due(), lambda a: a[1] == b"" and a[2::2] == [b"a", b"b"], lambda a, b: a[1:] == b[1:], writes=False),
    Case("due_routines", "no caller is gone, as the store was away",
         lambda w: (stored(routine())(w), w.run("write_routines", inline(w)), w.redis.zadd(w.keys.routines_inline, {"a": 1}),
                    w.redis.set(w.keys.seen, 1)),
         lambda w: due(owner="beat"), lambda a: a[1:] == [b""], lambda a, b: a[1:] == b[1:], writes=False),
    Case("due_routines", "no caller is gone while leases are held",
         lambda w: (stored(routine())(w), w.run("write_routines", inline(w)), w.redis.zadd(w.keys.routines_inline, {"a": 1}),
                    w.redis.set(w.keys.hold, FAR)),
         lambda w: due(), lambda a: a[1:] == [b""], lambda a, b: a[1:] == b[1:], writes=False),
    Case("due_routines", "later", stored(routine(next=FAR)), lambda w: due(), lambda a: a[1:] == [str(FAR).encode()],
         lambda a, b: a[1:] == b[1:], writes=False),
    Case("due_routines", "at another time", stored(routine(next=FAR)), lambda w: due(FAR), lambda a: a[2] == b"a",
         lambda a, b: a[1:] == b[1:], writes=False),
    Case("due_routines", "everything is paused",
         lambda w: (stored(routine())(w), w.run("pause", w.pause(scope="*"))), lambda w: due(obeys=True),
         lambda a: a[1:] == [b""], lambda a, b: a[1:] == b[1:], writes=False),
    Case("due_routines", "all routines are paused",
         lambda w: (stored(routine())(w), w.run("pause", w.pause(scope="routine:*"))), lambda w: due(),
         lambda a: a[1:] == [b""], lambda a, b: a[1:] == b[1:], writes=False),
    Case("due_routines", "its pause is over", paused_until, lambda w: due(), lambda a: a[2] == b"a",
         lambda a, b: a[1:] == b[1:], writes=False),
    Case("due_routines", "the store has gone back", stored(routine()), lambda w: due(owner="beat", mark=1000),
         answers([0, b""]), then([0, b""]), writes=False),
]  # fmt: skip
