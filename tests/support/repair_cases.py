"""One call of each script of a rebuild: with something to repair, and with nothing."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from tests.support.case import Case, answers
from tests.support.lease_world import ITEM, ONE, LeaseWorld
from tests.support.script_slots import POLL, UNIT, Slots

W = LeaseWorld


def either(first: Any, second: Any) -> bool:
    """A repeated call finds nothing wrong any more; its count is for people only."""
    return True


def batch(w: LeaseWorld) -> Slots:
    return {"batch": w.keys.poll(POLL), "poll": POLL}


def batch_keys(w: LeaseWorld) -> Mapping[str, str]:
    return {w.keys.chunk(POLL, 0): "list", w.keys.done(POLL, 0): "string", w.keys.item_keys(UNIT): "hash"}


def damaged(w: LeaseWorld) -> None:
    """No index of the batch is right."""
    w.committed()
    w.redis.delete(w.keys.open, w.keys.item_keys(UNIT))
    w.redis.zadd(w.keys.outbox, {POLL: 1})
    w.redis.hset(w.keys.poll(POLL), "left", 9)
    w.redis.hset(w.keys.unit(UNIT), "inflight", 9)


def units(w: LeaseWorld) -> Slots:
    return {"poll_prefix": w.keys.poll_prefix, "named": [f"1 {UNIT}"]}


def unit_keys(w: LeaseWorld) -> Mapping[str, str]:
    return {w.keys.unit(UNIT): "hash"}


def lease(w: LeaseWorld) -> Slots:
    return {"held": w.keys.held(ONE), "id": ITEM, "worker": ONE, "lease": w.redis.hget(w.keys.leases, ITEM) or "none"}


def not_held(w: LeaseWorld) -> None:
    w.begun()
    w.redis.delete(w.keys.held(ONE), w.keys.workers)


def not_listed(w: LeaseWorld) -> None:
    w.released("lost")
    w.redis.delete(w.keys.resend)


def keys(w: LeaseWorld) -> Slots:
    return {"item_keys": w.keys.item_keys(UNIT), "unit_hash": w.keys.unit(UNIT), "unit": UNIT, "keys": ["stale"]}


def stale_key(w: LeaseWorld) -> None:
    w.committed()
    w.redis.hset(w.keys.item_keys(UNIT), "stale", ITEM[:-12] + "000000000000")


def lost_entries(w: LeaseWorld) -> None:
    w.redis.zadd(w.keys.routines_due, {"nowhere": 1})
    w.redis.hset(w.keys.routines_keys, "key", "nowhere")


REPAIR_CASES = [
    Case("rebuild_batch", "its indexes are wrong", damaged, batch, lambda a: a[0] == 1, either, touches=batch_keys),
    Case("rebuild_batch", "all is well", W.committed, batch, answers([0, 0, 0, 0]), writes=False, touches=batch_keys),
    Case("rebuild_batch", "not there", lambda w: w.redis.zadd(w.keys.open, {POLL: 1}), batch, answers([0, 1, 0, 0]), either),
    Case("rebuild_units", "wrong counters", damaged, units, lambda a: a[0] == 1, either, touches=unit_keys),
    Case("rebuild_lease", "not held", not_held, lease, answers([1, 1]), either),
    Case("rebuild_lease", "another one", W.begun, lambda w: {**lease(w), "lease": "other"}, answers([0, 0]), writes=False),
    Case("rebuild_state", "not listed", not_listed, lambda w: {"id": ITEM}, answers([1, 0]), either),
    Case("rebuild_state", "no state", lambda w: None, lambda w: {"id": ITEM}, answers([0, 0]), writes=False),
    Case("trim_held", "one that it does not hold", lambda w: w.redis.sadd(w.keys.held(ONE), "other"),
         lambda w: {"held": w.keys.held(ONE), "worker": ONE}, answers(1), either),
    Case("trim_keys", "one without a task", stale_key, keys, answers(1), either),
    Case("trim_routines", "entries of none", lost_entries, lambda w: {}, answers(2), either),
]  # fmt: skip
