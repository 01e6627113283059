"""The starvation ladder, pass by pass: what is done about items that no worker starts, when, and how often."""

from __future__ import annotations

import json
import time
from datetime import datetime
from typing import TYPE_CHECKING, Any

from kombu import Exchange, Queue

from celery_perpetual import Item, PerpetualOptions
from celery_perpetual.starvation import ladder
from tests.support import wait_until
from tests.support.contract import begin, report
from tests.support.ladder import NEVER, QUICK, Beat, steps
from tests.support.stream_events import events

if TYPE_CHECKING:
    from collections.abc import Callable

    import pytest
    import redis

    from celery_perpetual import Perpetual


def test_each_step_once_at_its_time_over_a_new_leader(shop: Callable[..., Perpetual], store_redis: redis.Redis) -> None:
    """A queue without a consumer: notice, wake, the hook, then each item is reported and parked.

    Another leader takes over in the middle, and repeats nothing.
    """
    calls: list[dict[str, Any]] = []
    perpetual = shop(
        lambda: [(1,), (2,)],
        {"perpetual_starvation": QUICK, "perpetual_starvation_spawn": lambda **facts: calls.append(facts)},
    )
    begun = perpetual.store.now() / 1000
    ids = perpetual.poll("deliver").task_ids

    first = Beat(perpetual)
    wait_until(lambda: first.once().woken, "the workers of the queue are asked")
    second = Beat(perpetual)
    wait_until(lambda: second.once().parked_ids, "the items are parked")
    wait_until(lambda: not second.once().starving, "nothing starves any more")

    assert steps(store_redis) == ["notice", "wake", "spawn", "starved", "starved", "parked", "parked"]
    for name, threshold in (("notice", 0.2), ("wake", 0.4), ("spawn", 0.6), ("starved", 0.8), ("parked", 1.2)):
        found = events(store_redis, f"starvation.{name}")
        waited = [datetime.fromisoformat(each["at"].replace("Z", "+00:00")).timestamp() - begun for each in found]
        assert all(threshold <= each < threshold + 5 for each in waited), (name, waited)
        assert {(each["queue"], each["cause"]) for each in found} == {("celery", "no_consumer")}
    (call,) = calls
    assert (call["queue"], call["waiting"], call["cause"]) == ("celery", 2, "no_consumer")
    assert 0.6 <= call["oldest_seconds"] < 6
    assert {each.task_id: each.reason.partition(" for ")[0] for each in perpetual.parked()} == dict.fromkeys(
        ids, "no worker has consumed its queue celery"
    )
    assert {perpetual.completion(each).status for each in ids} == {"needs_attention"}
    assert store_redis.hlen("perpetual:starving") == 0

    # A parked run has its exits: recovered, it is sent again and has a fresh clock.
    assert perpetual.recover(ids[0])
    assert Beat(perpetual).once().parked_ids == ()
    wait_until(lambda: second.once().noticed, "it starves anew")
    assert steps(store_redis).count("parked") == 2


def test_items_of_an_exchange_without_a_queue(shop: Callable[..., Perpetual], store_redis: redis.Redis) -> None:
    """No queue is known to be bound there: why says so, and nothing is woken or spawned.

    The settings may not have its queue, so the item is not parked while a worker lives.
    """
    calls: list[str] = []
    perpetual = shop(
        lambda: [Item((1,), exchange="amq.topic", routing_key="no.where")],
        {"perpetual_starvation": QUICK, "perpetual_starvation_spawn": lambda queue, **_: calls.append(queue)},
    )
    ids = perpetual.poll("deliver").task_ids
    report(perpetual, 1)
    beat = Beat(perpetual)
    place = "exchange 'amq.topic', routing key 'no.where'"

    def said() -> list[str]:
        return [each.evidence for each in perpetual.why("deliver").reasons if "went to" in each.evidence]

    wait_until(lambda: said() == [f"1 item went to {place}, and neither the settings nor a worker have a queue for it"],
               "why says so")  # fmt: skip
    beat.passes(1.8)
    assert steps(store_redis) == ["notice", "starved"]

    perpetual.grants.workers.forget("w@host#1", stopped=True)
    wait_until(lambda: beat.once().parked_ids == tuple(ids), "no worker lives, and it is parked")
    assert calls == []
    assert perpetual.parked()[0].reason.startswith(f"no worker has consumed its queue {place} for ")
    perpetual.recover(ids[0])
    report(perpetual, 1, queues=("unknown",), active=1)
    Beat(perpetual).passes(1.8)
    assert perpetual.parked() == []
    assert said() == []


def test_items_of_an_exchange_whose_routing_only_the_broker_knows(shop: Callable[..., Perpetual]) -> None:
    """A busy worker consumes a queue that is bound there: the items may wait for it."""
    perpetual = shop(
        lambda: [Item((1,), exchange="later", routing_key="later")],
        {
            "perpetual_starvation": QUICK,
            "task_queues": [Queue("celery"), Queue("later", Exchange("later", "x-delayed-message"), "later")],
        },
    )
    perpetual.poll("deliver")
    report(perpetual, 1, queues=("celery", "later"), active=1)
    beat = Beat(perpetual)

    wait_until(lambda: beat.once().starving, "it has waited for long")

    assert set(beat.results[-1].starving.values()) == {"saturated"}
    assert not any("went to" in each.evidence for each in perpetual.why("deliver").reasons)


def test_a_rebuild_leaves_the_ladder_where_it_is(shop: Callable[..., Perpetual], store_redis: redis.Redis) -> None:
    """The steps that are taken are not taken again behind it, and those that follow come at their time."""
    calls: list[str] = []
    settings = {
        "perpetual_starvation": {"notice": 0.1, "wake": 0.1, "spawn": 0.1, "event": 0.1, "park": 2},
        "perpetual_starvation_spawn": lambda *, episode, **_: calls.append(episode),
    }
    perpetual = shop(lambda: [(1,)], settings)
    ids = perpetual.poll("deliver").task_ids
    beat = Beat(perpetual)
    wait_until(lambda: beat.once().starved_ids, "it is reported")
    wait_until(lambda: "spawn" in json.loads(store_redis.hget("perpetual:starving", "celery"))["done"], "it is done")
    before = store_redis.hgetall("perpetual:starving"), store_redis.get("perpetual:watching")
    store_redis.delete("perpetual:open")

    found = perpetual.rebuild()

    assert (found.errors, found.repaired) == ({}, {"open": 1})
    assert (store_redis.hgetall("perpetual:starving"), store_redis.get("perpetual:watching")) == before
    after = Beat(perpetual)
    wait_until(lambda: after.once().parked_ids == tuple(ids), "it is parked")
    assert steps(store_redis) == ["notice", "wake", "spawn", "starved", "parked"]
    assert len(calls) == 1


def test_saturation_alone_never_parks(shop: Callable[..., Perpetual], store_redis: redis.Redis) -> None:
    """Where the consumers are busy, that is the cause; only the oldest item is reported, and nothing is parked."""
    calls: list[str] = []
    perpetual = shop(
        lambda: [(n,) for n in range(5)],
        {"perpetual_starvation": QUICK, "perpetual_starvation_spawn": lambda cause, **_: calls.append(cause)},
    )
    perpetual.poll("deliver")
    report(perpetual, 1, active=1)

    results = Beat(perpetual).passes(1.8)

    assert steps(store_redis) == ["notice", "wake", "spawn", "starved"]
    wait_until(lambda: calls == ["saturated"], "the hook is called once")
    assert events(store_redis, "starvation.wake")[0]["workers"] == ["w@host"]
    assert results[-1].starving == {"celery": "saturated"}
    assert perpetual.parked() == []


def test_a_worker_that_starts_tasks_is_busy_and_one_that_starts_none_is_no_consumer(
    shop: Callable[..., Perpetual],
) -> None:
    """Short tasks may all have ended at the moment of a report: what a worker has begun meanwhile counts."""
    perpetual = shop(lambda: [(1,)], {"perpetual_starvation": {"notice": 0.1}})
    perpetual.poll("deliver")
    beat = Beat(perpetual)
    time.sleep(0.2)

    report(perpetual, 1, begun=None)
    assert beat.once().starving == {}  # it is not there for long enough to know that
    report(perpetual, 2, begun=1)
    assert beat.once().starving == {"celery": "saturated"}
    report(perpetual, 3, begun=0)
    assert beat.once().starving == {"celery": "no_consumer"}
    report(perpetual, 4, begun=0, queues=("other",), active=1)
    assert beat.once().starving == {"celery": "no_consumer"}


def test_a_start_clears_it(shop: Callable[..., Perpetual], store_redis: redis.Redis) -> None:
    """When the item is started nothing waits; what is lost and sent again has a fresh clock."""
    perpetual = shop(lambda: [(1,)], {"perpetual_starvation": NEVER | {"notice": 1}, "perpetual_cycle_interval": 0.1})
    task_id = perpetual.poll("deliver").task_ids[0]
    beat = Beat(perpetual)
    wait_until(lambda: beat.once().noticed, "it is noticed")

    begin(perpetual, task_id)
    assert beat.once().starving == {}
    assert store_redis.hlen("perpetual:starving") == 0

    for worker in store_redis.zrange("perpetual:workers", 0, -1):
        store_redis.zadd("perpetual:workers", {worker: 1})
    lost = beat.once()
    assert (lost.swept, lost.resent_ids, lost.starving) == (1, (task_id,), {})
    wait_until(lambda: beat.once().noticed, "it is noticed again")
    assert steps(store_redis) == ["notice", "notice"]


def test_a_pause_stops_the_ladder_and_resets_nothing(shop: Callable[..., Perpetual], store_redis: redis.Redis) -> None:
    """While everything is paused no step is taken; afterwards the next one follows, and none is repeated."""
    perpetual = shop(lambda: [(1,)], {"perpetual_starvation": NEVER | {"notice": 0.2, "wake": 0.4}})
    perpetual.poll("deliver")
    beat = Beat(perpetual)
    wait_until(lambda: beat.once().noticed, "it is noticed")
    perpetual.pause(everything=True)

    assert {each.paused for each in beat.passes(0.5)[-3:]} == {True}
    assert steps(store_redis) == ["notice"]

    perpetual.resume(everything=True)
    wait_until(lambda: beat.once().woken, "the next step follows")
    assert steps(store_redis) == ["notice", "wake"]


def test_time_that_no_leader_has_watched_does_not_count(
    shop: Callable[..., Perpetual], store_redis: redis.Redis
) -> None:
    """Work that is days old when the first beat starts is noticed at once, and parked as long after that as always."""
    perpetual = shop(lambda: [(1,)], {"perpetual_starvation": QUICK})
    poll = perpetual.poll("deliver").poll_id
    store_redis.hset(f"perpetual:p:{poll}", "pub_at", perpetual.store.now() - 3 * 86_400_000)
    store_redis.zadd("perpetual:open", {poll: perpetual.store.now() - 3 * 86_400_000})
    beat = Beat(perpetual)
    assert beat.once().noticed == ("celery",)

    # Half of the way, and then no beat watches for an hour.
    wait_until(lambda: beat.once().woken, "it has woken the workers")
    note = json.loads(store_redis.hget("perpetual:starving", "celery") or "")
    note["watched"], note["began"] = note["watched"] - 3_600_000, note["began"] - 3_600_000
    store_redis.hset("perpetual:starving", "celery", json.dumps(note))
    again = Beat(perpetual)
    assert (again.once().parked_ids, len(events(store_redis, "starvation.parked"))) == ((), 0)
    wait_until(lambda: again.once().parked_ids, "it is parked in the end")


def test_an_eta_and_a_retry_are_no_starvation(shop: Callable[..., Perpetual], store_redis: redis.Redis) -> None:
    """An item is runnable from its ETA on; one that waits for its retry does not count, as its ETA is not known."""
    perpetual = shop(
        lambda: [Item((1,), countdown=3600, key=1), Item((2,), key=2)],
        {"perpetual_starvation": QUICK, "task_default_queue": "celery"},
    )
    later, retried = perpetual.poll("deliver").task_ids
    execution = begin(perpetual, retried)
    perpetual.grants.release(retried, execution.nonce, "wait", "")
    store_redis.zremrangebyscore("perpetual:workers", "-inf", "+inf")

    Beat(perpetual).passes(1.8)

    assert steps(store_redis) == []
    assert perpetual.parked() == []
    assert perpetual.completion(later).status == "pending"


def test_a_task_has_thresholds_of_its_own(shop: Callable[..., Perpetual], store_redis: redis.Redis) -> None:
    """Steps that its option leaves out are as in the app's setting."""
    perpetual = shop(
        lambda: [(1,)],
        {"perpetual_starvation": QUICK},
        perpetual_options=PerpetualOptions(starvation={"park": None, "wake": None}),
    )
    perpetual.poll("deliver")

    Beat(perpetual).passes(1.8)

    assert steps(store_redis) == ["notice", "starved"]


def test_many_items_are_stepped_part_by_part(
    shop: Callable[..., Perpetual], store_redis: redis.Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A pass writes about a bounded number of items; in the end each was parked once."""
    monkeypatch.setattr(ladder, "MOST_ITEMS", 7)
    perpetual = shop(lambda: [(n,) for n in range(600)], {"perpetual_starvation": NEVER | {"event": 0.1, "park": 0.1}})
    perpetual.poll("deliver")
    beat = Beat(perpetual)

    wait_until(lambda: beat.once().parked_ids, "the first are parked")
    first = beat.results[-1]
    monkeypatch.setattr(ladder, "MOST_ITEMS", 400)
    wait_until(lambda: beat.once() and store_redis.hlen("perpetual:parked") == 600, "all of them are")

    assert len(first.starved_ids) + len(first.parked_ids) <= 8
    assert store_redis.hlen("perpetual:parked") == 600
    assert (steps(store_redis).count("starved"), steps(store_redis).count("parked")) == (600, 600)
