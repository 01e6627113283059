"""The starvation ladder, pass by pass: what is done about items that no worker starts, when, and how often."""

from __future__ import annotations

import json
import time
from datetime import datetime, timedelta, timezone
from threading import Event
from typing import TYPE_CHECKING, Any

import pytest

from celery_perpetual import ContractError, Item, PerpetualOptions
from celery_perpetual.beat.cycle import Cycle
from celery_perpetual.errors import StoreUnavailable
from celery_perpetual.starvation import assistance, ladder, waits
from celery_perpetual.tasks.discovery import load
from tests.support import wait_until
from tests.support.contract import begin, nothing, report
from tests.support.stream_events import events

if TYPE_CHECKING:
    from collections.abc import Callable

    import redis

    from celery_perpetual import Perpetual
    from celery_perpetual.beat.cycle_result import CycleResult

QUICK = {"notice": 0.2, "wake": 0.4, "spawn": 0.6, "event": 0.8, "park": 1.2}
NEVER = dict.fromkeys(QUICK)


class Beat:
    """Passes as a beat makes them; a new one remembers nothing."""

    def __init__(self, perpetual: Perpetual) -> None:
        self._cycle = Cycle(perpetual, lambda: load(perpetual.app))
        self.results: list[CycleResult] = []

    def passes(self, seconds: float) -> list[CycleResult]:
        """Make passes for so long."""
        until = time.monotonic() + seconds
        while time.monotonic() < until:
            self.once()
            time.sleep(0.02)
        return self.results

    def once(self) -> CycleResult:
        """Make one pass, in which no step fails."""
        self.results.append(self._cycle.once())
        assert self.results[-1].errors == {}
        return self.results[-1]


def steps(client: redis.Redis) -> list[str]:
    """Which steps the stream has, in their order."""
    entries = client.xrange("perpetual:events")
    return [fields["event"].split(".")[1] for _, fields in entries if fields["event"].startswith("starvation.")]


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

    report(perpetual, 1, started=3)
    assert beat.once().starving == {}  # one report says nothing of that
    report(perpetual, 2, started=4)
    assert beat.once().starving == {"celery": "saturated"}
    report(perpetual, 3, started=4)
    assert beat.once().starving == {"celery": "no_consumer"}
    report(perpetual, 4, started=4, queues=("other",), active=1)
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

    # Half of the way, and then nobody watches for an hour.
    wait_until(lambda: beat.once().woken, "it has woken the workers")
    note = json.loads(store_redis.hget("perpetual:starving", "celery") or "")
    note["watched"], note["began"] = note["watched"] - 3_600_000, note["began"] - 3_600_000
    store_redis.hset("perpetual:starving", "celery", json.dumps(note))
    again = Beat(perpetual)
    assert (again.once().parked_ids, len(events(store_redis, "starvation.parked"))) == ((), 0)
    wait_until(lambda: again.once().parked_ids, "it is parked in the end")


def test_a_hook_that_cannot_or_hangs_is_no_error(
    shop: Callable[..., Perpetual], store_redis: redis.Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is asked again later, a hanging one not before it has returned, and the ladder goes on meanwhile."""
    monkeypatch.setattr(ladder, "AGAIN_MS", 100)
    monkeypatch.setattr(assistance, "LONGEST_HOOK", 0.2)
    calls, goes_on = [], Event()

    def scale(**_: Any) -> None:
        calls.append(1)
        if len(calls) == 1:
            raise RuntimeError("no quota")
        assert goes_on.wait(20)

    perpetual = shop(lambda: [(1,)], {"perpetual_starvation": QUICK, "perpetual_starvation_spawn": scale})
    perpetual.poll("deliver")
    beat = Beat(perpetual)
    began = time.monotonic()
    wait_until(lambda: beat.once().parked_ids, "the ladder goes on")

    assert time.monotonic() - began < 10
    assert len(calls) == 2
    assert steps(store_redis).count("spawn") >= 2
    assert all(each.seconds < 2 for each in beat.results)
    goes_on.set()


def test_a_hook_that_fails_while_the_store_is_away_is_called_once_more(shop: Callable[..., Perpetual]) -> None:
    """That nothing came of it is kept until the store has it."""
    noted: list[tuple[str, str]] = []
    is_away = [True]

    def came_to_nothing(request: assistance.Request, trouble: str) -> None:
        if is_away[0]:
            raise StoreUnavailable("it is away")
        noted.append((request.queue, trouble))

    def scale(**_: Any) -> None:
        raise RuntimeError("no quota")

    helps = assistance.Assistance(shop(list).app, scale, 0, came_to_nothing)
    helps.ask([assistance.Request(step="spawn", queue="a", hosts=(), oldest_seconds=1, cause="no_consumer")])
    helps.ask([])
    assert noted == []
    is_away[0] = False
    wait_until(lambda: helps.ask([]) or noted, "it is noted")
    assert noted == [("a", "the hook raised RuntimeError: no quota")]


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


def test_setting_starvation(shop: Callable[..., Perpetual]) -> None:
    """A step follows when an item has waited for so long."""
    perpetual = shop(lambda: [(1,)], {"perpetual_starvation": {"notice": 0.05}})
    perpetual.poll("deliver")

    wait_until(lambda: perpetual.cycle().noticed == ("celery",), "it is noticed long before two minutes are over")


def test_setting_starvation_spawn(shop: Callable[..., Perpetual]) -> None:
    """It is called with what is known of the queue."""
    calls: list[dict[str, Any]] = []
    perpetual = shop(
        lambda: [(1,)],
        {
            "perpetual_starvation": dict.fromkeys(("notice", "wake", "spawn"), 0.05),
            "perpetual_starvation_spawn": lambda **facts: calls.append(facts),
        },
    )
    perpetual.poll("deliver")

    wait_until(lambda: perpetual.cycle() and calls, "it is called")
    assert {name: calls[0][name] for name in ("queue", "waiting", "cause")} == {
        "queue": "celery", "waiting": 1, "cause": "no_consumer",
    }  # fmt: skip


def test_setting_max_pool_grow(shop: Callable[..., Perpetual]) -> None:
    """Workers that have enough to do are asked to grow; that they do is shown in ``test_silent_consumers.py``."""
    thresholds = {"notice": 0.05, "wake": None, "spawn": 0.05}
    perpetual = shop(lambda: [(1,)], {"perpetual_starvation": thresholds, "perpetual_max_pool_grow": 2})
    perpetual.poll("deliver")
    report(perpetual, 1, active=1)

    wait_until(lambda: perpetual.cycle().spawned == ("celery",), "they are asked")


def test_option_starvation(shop: Callable[..., Perpetual]) -> None:
    """The option of a task counts for it instead of ``perpetual_starvation``."""
    own = PerpetualOptions(starvation={"notice": 0.05})
    perpetual = shop(lambda: [(1,)], perpetual_options=own)
    perpetual.poll("deliver")

    wait_until(lambda: perpetual.cycle().noticed == ("celery",), "it is noticed long before two minutes are over")


def test_a_paused_unit_finishes_the_publishing_of_its_batch(
    shop: Callable[..., Perpetual], store_redis: redis.Redis
) -> None:
    """A batch that a dead process has committed and not wholly published is published while everything is paused."""
    perpetual = shop(lambda: [(n,) for n in range(600)])
    poll = perpetual.poll("deliver").poll_id
    store_redis.ltrim("celery", 100, -1)
    store_redis.hset(f"perpetual:p:{poll}", "pub", 500)
    store_redis.zadd("perpetual:outbox", {poll: 1})
    perpetual.pause(everything=True)

    found = perpetual.cycle()

    assert (found.relayed, found.paused, found.errors) == (100, True, {})
    assert store_redis.llen("celery") == 600


@pytest.mark.parametrize(
    "text",
    [
        "not JSON", "[]", '{"until_ms": "soon", "until": "soon", "at": "now"}', '{"at": null}', "[" * 100_000,
        '{"until_ms": "1"}', '{"until_ms": true}', '{"until_ms": NaN}', '{"until_ms": 1e30}', '{"until_ms": -1e30}',
        '{"until_ms": 253402300800000, "at": "0001-01-01T00:00:00+14:00"}',
    ],
)  # fmt: skip
def test_a_pause_that_cannot_be_read_holds(shop: Callable[..., Perpetual], store_redis: redis.Redis, text: str) -> None:
    """For units, for routines and for the ladder; it is shown, and ended like any other."""
    perpetual = shop(lambda: [(1,)])
    perpetual.app.task(name="report", shared=False)(nothing)
    perpetual.routines.create(id="now", task="report", every=60)
    store_redis.hset("perpetual:paused", "*", text)

    (unit,) = perpetual.units()
    assert (unit.state, unit.pause is not None) == ("paused", True)
    assert unit.to_dict()["pause"]["until"] is None
    found = perpetual.cycle()
    assert (found.paused, found.routines_started, found.errors) == (True, 0, {})
    assert perpetual.resume(everything=True)
    assert perpetual.cycle().routines_started == 1


def test_a_pause_until_the_end_of_the_calendar(shop: Callable[..., Perpetual]) -> None:
    """It can be read; a time that UTC does not have is refused."""
    perpetual = shop(lambda: [(1,)])
    latest = datetime.max.replace(tzinfo=timezone.utc)
    perpetual.pause(everything=True, until=latest)
    (pause,) = perpetual.pauses.now().values()
    assert pause.until == latest.replace(microsecond=999_000)
    west = timezone(timedelta(hours=-5))
    with pytest.raises(ContractError, match="years 1 to 9999"):
        perpetual.pause(everything=True, until=datetime.max.replace(tzinfo=west))


def test_batches_are_read_part_by_part(
    shop: Callable[..., Perpetual], store_redis: redis.Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A round takes several passes: each queue is found once, and none is thought to be empty in the middle of it."""
    monkeypatch.setattr(waits, "MOST_BATCHES", 2)
    rows: list[Item] = []
    perpetual = shop(lambda: rows, {"perpetual_starvation": NEVER | {"notice": 0.1, "wake": 0.3}})
    for queue in ("a", "a", "b", "a", "c"):
        rows[:] = [Item((), queue=queue, key=False)]
        perpetual.poll("deliver")

    Beat(perpetual).passes(1)

    assert sorted(each["queue"] for each in events(store_redis, "starvation.notice")) == ["a", "b", "c"]
    assert sorted(each["queue"] for each in events(store_redis, "starvation.wake")) == ["a", "b", "c"]
    assert set(store_redis.hkeys("perpetual:starving")) == {"a", "b", "c"}
