"""``rebuild``: every index is derived from the records; ``stats`` adds up what passes do."""

from __future__ import annotations

import json
from datetime import datetime, timedelta, timezone
from typing import TYPE_CHECKING, Any

from celery_perpetual import Batch, Item
from celery_perpetual.store.commands.owed import keep_owed
from tests.support import wait_until
from tests.support.contract import begin, finish, nothing

if TYPE_CHECKING:
    from collections.abc import Callable

    import pytest
    import redis

    from celery_perpetual import Perpetual
    from tests.support import Project

UNIT = "perpetual:u:perpetual:deliver"

#: Every index with the place in which a rebuild reports it.
INDEXES = {
    "perpetual:open": "open", "perpetual:outbox": "outbox", "perpetual:keys:perpetual:deliver": "item_keys",
    "perpetual:units": "units", "perpetual:cursors": "cursors", "perpetual:workers": "workers",
    "perpetual:resend": "resend", "perpetual:parked": "parked", "perpetual:parked:at": "parked", "perpetual:owed": "owed", "perpetual:routines:due": "routines",
    "perpetual:routines:over": "routines", "perpetual:routines:updated": "routines",
    "perpetual:routines:keys": "routines", "perpetual:routines:pauses": "routines",
}  # fmt: skip


def members(client: redis.Redis, key: str) -> set[str]:
    """Read an index, without its times."""
    kind = client.type(key)
    if kind == "zset":
        return set(client.zrange(key, 0, -1))
    return set(client.hkeys(key) if kind == "hash" else client.smembers(key) if kind == "set" else ())


def working(shop: Callable[..., Perpetual], store_redis: redis.Redis) -> tuple[Perpetual, list[str]]:
    """A namespace in which each index has an entry: 600 items of which some run, have ended, are parked, are lost."""
    perpetual = shop(lambda: Batch([Item((n,), key=n) for n in range(600)], cursor="c"))
    ids = list(perpetual.poll("deliver").task_ids)
    begin(perpetual, ids[0])
    finish(perpetual, ids[1])
    lost = begin(perpetual, ids[2])
    perpetual.grants.release(ids[2], lost.nonce, "lost", "its process is gone")
    perpetual.store.redis.zadd("perpetual:outbox", {perpetual.polls("deliver")[0].poll_id: 1})
    poll = perpetual.polls("deliver")[0].poll_id
    perpetual.store.redis.hset(f"perpetual:p:{poll}", "pub", 500)
    perpetual.app.tasks["deliver"].on_lost = "park"
    parked = begin(perpetual, ids[3])
    perpetual.grants.release(ids[3], parked.nonce, "lost", "its process is gone")
    keep_owed(perpetual.store, ids[1], "a result", "away", first_ms=0, most=1, ttl_ms=60_000)
    perpetual.app.task(name="report", shared=False)(nothing)
    perpetual.routines.create(id="later", task="report", every=3600, start_at=None, idempotency_key="k")
    perpetual.routines.create(id="over", task="report", every=3600)
    perpetual.routines.cancel("over")
    perpetual.routines.create(id="paused", task="report", every=3600)
    perpetual.routines.pause("paused", until=datetime.now(timezone.utc) + timedelta(hours=1))
    return perpetual, ids


def test_each_index_comes_back(shop: Callable[..., Perpetual], store_redis: redis.Redis) -> None:
    """One by one they are deleted; each time it is reported, and every entry is there again."""
    perpetual, _ = working(shop, store_redis)
    first = perpetual.rebuild()
    assert (first.errors, perpetual.rebuild().repaired) == ({}, {})
    before = {key: members(store_redis, key) for key in INDEXES}
    held = f"perpetual:held:{perpetual.grants.instance.name}"
    assert [key for key, found in before.items() if not found] == []
    assert store_redis.scard(held) == 1

    for key, name in INDEXES.items():
        store_redis.delete(key)
        found = perpetual.rebuild()
        assert (found.errors, set(found.repaired)) == ({}, {name}), key
        assert members(store_redis, key) == before[key], key
    store_redis.delete(held)
    assert perpetual.rebuild().repaired == {"held": 1}
    store_redis.hset(UNIT, "inflight", 7)
    assert perpetual.rebuild().repaired == {"in_flight": 1}
    assert store_redis.hget(UNIT, "inflight") == "599"
    poll = perpetual.polls("deliver")[0].poll_id
    store_redis.hset(f"perpetual:p:{poll}", "left", 3)
    assert perpetual.rebuild().repaired == {"batch_counters": 1}
    assert store_redis.hget(f"perpetual:p:{poll}", "left") == "599"


def test_a_worker_that_is_on_the_list_again_has_time_to_report(
    shop: Callable[..., Perpetual], store_redis: redis.Redis
) -> None:
    """No sweep takes the leases of a worker that lives and of which the entry was lost."""
    perpetual = shop(lambda: [(1,)])
    begin(perpetual, perpetual.poll("deliver").task_ids[0])
    store_redis.delete("perpetual:workers")

    assert perpetual.rebuild().repaired == {"workers": 1}

    assert perpetual.cycle().swept == 0
    deadline = store_redis.zscore("perpetual:workers", perpetual.grants.instance.name)
    ttl = perpetual.store.limits.lease_ttl
    assert ttl - 10_000 < (deadline or 0) - perpetual.store.now() <= ttl


def test_entries_without_a_record_go(shop: Callable[..., Perpetual], store_redis: redis.Redis) -> None:
    """Entries of an index without a record are removed; keys of a batch that is being staged stay."""
    perpetual, ids = working(shop, store_redis)
    perpetual.rebuild()
    gone, worker = "019b0000-0000-8abc-8abc-abcdffffffff", perpetual.grants.instance.name
    store_redis.zadd("perpetual:open", {gone: 1})
    store_redis.zadd("perpetual:outbox", {gone: 1})
    store_redis.hset("perpetual:keys:perpetual:deliver", mapping={"stale": gone[:-8] + "00000000", "1": ids[1]})
    store_redis.sadd("perpetual:cursors", "perpetual:other")
    store_redis.hset("perpetual:u:perpetual:other", "attempt", 1)
    store_redis.sadd(f"perpetual:held:{worker}", "nothing")
    store_redis.zadd("perpetual:routines:due", {"nowhere": 1, "over": 1})
    store_redis.hset("perpetual:routines:keys", "k2", "nowhere")
    staged = "019b0000-0000-8abc-8abc-abceffffffff"
    store_redis.zadd("perpetual:staged", {f"{staged} perpetual:deliver": 1})
    store_redis.hset("perpetual:keys:perpetual:deliver", "staged", staged[:-8] + "00000000")

    found = perpetual.rebuild()

    assert found.repaired == {
        "open": 1, "outbox": 1, "item_keys": 2, "cursors": 1, "units": 1, "held": 1, "routines": 3,
    }  # fmt: skip
    assert store_redis.hexists("perpetual:keys:perpetual:deliver", "staged")
    assert not store_redis.hexists("perpetual:keys:perpetual:deliver", "1")
    store_redis.zrem("perpetual:staged", f"{staged} perpetual:deliver")
    assert perpetual.rebuild().repaired == {"item_keys": 1}


def test_a_routine_that_cannot_be_read_holds_up_no_other(
    shop: Callable[..., Perpetual], store_redis: redis.Redis
) -> None:
    """It keeps its place, and the rebuild says which one it is."""
    perpetual, _ = working(shop, store_redis)
    for name in ("spoilt", "sound"):
        perpetual.routines.create(id=name, task="report", every=3600)
    store_redis.hset("perpetual:routines", "spoilt", "of a strange hand")
    store_redis.zrem("perpetual:routines:due", "sound")

    found = perpetual.rebuild()

    assert found.repaired["routines"] == 1
    assert {"spoilt", "sound"} <= set(store_redis.zrange("perpetual:routines:due", 0, -1))
    assert list(found.errors) == ["routines"]
    assert "1 of the routines cannot be read, such as 'spoilt'" in found.errors["routines"]


def test_everything_runs_after_a_rebuild(project: Callable[..., Project]) -> None:
    """With every index gone at once, the items run to their ends, and the unit is polled again."""
    proj = project(
        """
        @app.task(base=PerpetualTask, poll_every=1, next_batch=lambda: [Item((n,), key=n) for n in range(20)],
                  max_in_flight=20)
        def deliver(n): ...
        """,
        perpetual_cycle_interval=0.3, perpetual_leader_ttl=3,
    )  # fmt: skip
    beat = proj.beat()
    wait_until(lambda: proj.redis.llen("celery") == 20, "they wait")
    beat.kill9()
    for key in ("open", "outbox", "units", "due", "cursors", "keys:perpetual:proj.deliver"):
        proj.redis.delete(f"perpetual:{key}")
    proj.redis.hset("perpetual:u:perpetual:proj.deliver", "inflight", 0)

    done = proj.celery("perpetual", "rebuild", "--yes", "--json")
    repaired = json.loads(done.stdout)["repaired"]
    assert done.returncode == 0
    assert {name: repaired[name] for name in ("open", "item_keys", "in_flight", "units", "due")} == {
        "open": 1, "item_keys": 20, "in_flight": 1, "units": 1, "due": 1,
    }  # fmt: skip
    again = proj.celery("perpetual", "rebuild", "--yes")
    assert (again.returncode, "every index was right" in again.stdout) == (0, True), again

    proj.worker(pool="threads", concurrency=8)
    wait_until(lambda: proj.redis.zcard("perpetual:open") == 0, "the batch is finished")
    assert proj.redis.hget("perpetual:u:perpetual:proj.deliver", "inflight") == "0"
    proj.beat()
    wait_until(
        lambda: proj.redis.zcard("perpetual:open") or proj.redis.llen("perpetual:polls:perpetual:proj.deliver") > 1,
        "it is polled again",
    )
    wait_until(lambda: proj.redis.hget("perpetual:stats", "cycles"), "a pass has ended")
    sums = json.loads(proj.celery("perpetual", "stats", "--json").stdout)
    assert (sums["rebuilds"], sums["cycles"] >= 1, sums["errors"]) == (2, True, 0)
    assert None not in (sums["last_cycle_at"], sums["last_rebuild_at"])


def test_stats_add_up_and_one_step_stops_no_other(
    shop: Callable[..., Perpetual], store_redis: redis.Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A step that fails is in the result and in the sums, and the steps behind it are done."""
    perpetual = shop(lambda: [(1,)], {"perpetual_starvation": {"notice": 0.01}})
    perpetual.poll("deliver")
    store_redis.set("perpetual:resend", "no list")
    wait_until(lambda: perpetual.cycle().noticed, "the ladder is climbed all the same")

    found, last = perpetual.stats(), perpetual.cycle()
    assert set(last.errors) == {"sweep"}
    assert (last.workers, last.running, last.open_batches, last.needs_attention) == (0, 0, 1, 0)
    assert (found.noticed, found.errors, found.cycles) == (1, found.cycles, found.cycles)
    assert found.last_error is not None
    assert (found.last_error["step"], "WRONGTYPE" in found.last_error["error"]) == ("sweep", True)
    store_redis.delete("perpetual:resend")
    assert perpetual.cycle().ok
    assert perpetual.stats().cycles == found.cycles + 2


def test_a_pass_by_hand_and_the_sums_on_the_command_line(project: Callable[..., Project]) -> None:
    """``cycle`` and ``stats`` show what they know, for people and as JSON."""
    proj = project("")
    done = proj.celery("perpetual", "cycle")
    assert (done.returncode, "seconds" in done.stdout) == (0, True), done
    facts: dict[str, Any] = json.loads(proj.celery("perpetual", "cycle", "--json").stdout)
    assert (facts["paused"], facts["errors"], facts["parked_ids"]) == (False, {}, [])
    shown = proj.celery("perpetual", "stats")
    assert (shown.returncode, "cycles" in shown.stdout) == (0, True)
