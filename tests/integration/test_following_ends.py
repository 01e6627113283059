"""Following ends: live with `subscribe`, at least once with `stream`, by consumers that are killed in mid-body."""

from __future__ import annotations

import json
import time
from collections import Counter
from itertools import islice
from typing import TYPE_CHECKING

import psutil
import pytest
import redis

from celery_perpetual import StoreUnavailable
from celery_perpetual.errors import ContractError
from tests.support import wait_until
from tests.support.held_tasks import Call

if TYPE_CHECKING:
    from tests.support import CeleryProcess, Project
    from tests.support.held_tasks import HeldTasks

CONSUMER = """
import sys

from proj import ledger, perpetual

group, name, idle = sys.argv[1], sys.argv[2], float(sys.argv[3])
print("follows", flush=True)
for event in perpetual.stream(group, name, idle=idle):
    if event.event != "completion":
        continue
    ledger.record(event.completion.task_id, f"{name} begins")
    if event.completion.result == f"hang {group}" and name == "one":
        import time
        time.sleep(600)
    ledger.record(event.completion.task_id, f"{name} is done")
"""


def consumer(proj: Project, group: str, name: str, *, idle: int, takes: float = 0) -> CeleryProcess:
    """Start a consumer of a group; what it records takes it so many seconds."""
    program = CONSUMER.replace("ledger.record", f"__import__('time').sleep({takes}); ledger.record")
    return proj.process(f"{group}-{name}", ["-c", program, group, name, str(idle)])


def pending(shop: HeldTasks, group: str) -> int:
    """How many events of a group are given out and not acknowledged."""
    return shop.redis.xpending("perpetual:events", group)["pending"]


def whats(shop: HeldTasks, task_id: str) -> list[str]:
    """Read the records that consumers made about a task."""
    return [row.what for row in shop.project.rows() if row.id == task_id]


def run(shop: HeldTasks, *results: object) -> list[str]:
    """Let the worker end tasks with these results, one after the other; their ids."""
    ids = []
    for result in results:
        ids.append(shop.send(result=result))
        shop.perpetual.wait(ids[-1], 30)
    return ids


def test_subscribe_tells_every_end_from_its_call_on(shop):
    """An end between the call and the first iteration is seen, too; an earlier end is not."""
    run(shop, "before")
    live = shop.perpetual.subscribe()

    ids = run(shop, 1, {"sum": 2})

    assert [(each.task_id, each.result) for each in islice(live, 2)] == [(ids[0], 1), (ids[1], {"sum": 2})]
    live.close()
    wait_until(lambda: shop.redis.pubsub_numsub("perpetual:done")[0][1] == 0, "the subscription is gone")


def test_subscribe_raises_when_its_connection_is_lost(shop):
    """It does not know what it missed, so it does not go on as if it had missed nothing."""
    live = shop.perpetual.subscribe()
    run(shop, 1)
    assert next(live).result == 1
    waits = Call(next, live)
    shop.redis.client_kill_filter(_type="pubsub")

    with pytest.raises(StoreUnavailable):
        waits.result()


def test_stream_brings_every_event_and_starts_with_what_is_there(shop):
    """A new group sees ends of before it; each is acknowledged when the next one is asked for."""
    ids = run(shop, 1, 2)
    poll = shop.poll({"result": 3})
    shop.perpetual.wait_all(poll.task_ids, 30)
    events = shop.perpetual.stream("audit", "host-1")
    seen = []
    for event in events:
        seen.append(event)
        if event.completion and event.completion.task_id == poll.task_ids[0]:
            break
    assert pending(shop, "audit") >= 1  # the one in hand
    events.close()

    names = Counter(event.event for event in seen)
    assert names["poll"] >= 1
    found = {event.completion.task_id: event.completion for event in seen if event.event == "completion"}
    assert set(ids) <= set(found)
    assert found[ids[1]].result == 2
    assert all(event.data["at"] for event in seen)
    stored = dict(shop.redis.xrange("perpetual:events"))
    assert all(json.loads(stored[event.id]["data"]) == event.data for event in seen)


def test_two_consumers_share_and_nothing_comes_twice(shop):
    """Of one group each event goes to one consumer; of another group all come again."""
    consumers = [consumer(shop.project, "sharing", name, idle=60) for name in ("a", "b")]
    for each in consumers:
        each.wait_for_log("follows")
    poll = shop.poll(*({"result": n} for n in range(60)))
    shop.perpetual.wait_batch(poll.poll_id, 30)

    def done() -> list[str]:
        ids = set(poll.task_ids)
        return [row.what for row in shop.project.rows() if row.id in ids and row.what.endswith("is done")]

    wait_until(lambda: len(done()) >= 60, "all are seen")
    wait_until(lambda: pending(shop, "sharing") == 0, "all are acknowledged")
    shares = Counter(done())
    assert sum(shares.values()) == 60
    assert set(shares) == {"a is done", "b is done"}

    again = shop.perpetual.stream("another", "host-1")
    seen = {event.completion.task_id for event in islice(again, 61) if event.event == "completion"}
    again.close()
    assert len(seen) >= 59
    for each in consumers:
        each.kill9()


def test_the_event_of_a_killed_consumer_is_taken_over(shop):
    """SIGKILL in mid-body: another consumer of the group is given the event, not before `idle` is over."""
    one = consumer(shop.project, "taking", "one", idle=2)
    one.wait_for_log("follows")
    ids = run(shop, "fine", "hang taking")
    wait_until(lambda: whats(shop, ids[1]) == ["one begins"], "the first consumer is in mid-body")
    begun = next(row.time for row in shop.project.rows() if row.id == ids[1])
    one.kill9()
    two = consumer(shop.project, "taking", "two", idle=2)
    wait_until(lambda: "two is done" in whats(shop, ids[1]), "the second consumer has taken over")

    assert whats(shop, ids[1]) == ["one begins", "two begins", "two is done"]
    assert whats(shop, ids[0])[:2] == ["one begins", "one is done"]
    taken = next(row.time for row in shop.project.rows() if (row.id, row.what) == (ids[1], "two begins"))
    assert taken - begun >= 2
    wait_until(lambda: pending(shop, "taking") == 0, "all are acknowledged")
    two.kill9()


def test_a_restarted_consumer_gets_its_event_again_first(shop):
    """The same name comes back: what it had not seen through comes before anything new, whatever `idle` is."""
    first = consumer(shop.project, "returning", "one", idle=3600)
    first.wait_for_log("follows")
    ids = run(shop, "hang returning")
    wait_until(lambda: whats(shop, ids[0]).count("one begins") == 1, "it is in mid-body")
    first.kill9()
    ids += run(shop, "new")
    again = consumer(shop.project, "returning", "one", idle=3600)
    wait_until(lambda: whats(shop, ids[0]).count("one begins") == 2, "it is given again")

    assert whats(shop, ids[1]) == []
    again.kill9()


def add(client: redis.Redis, *ids: str) -> None:
    """Put ends into a stream of events."""
    for task_id in ids:
        end = {"task_id": task_id, "task": "t", "status": "success", "final": True, "at": "2026-01-01T00:00:00.000Z"}
        client.xadd("perpetual:events", {"event": "completion", "data": json.dumps(end)})


def test_a_slow_consumer_keeps_what_it_was_given(project, store_redis):
    """Bodies that only together take longer than `idle` are done by no other follower."""
    slow = project("")
    add(store_redis, *"abcde")
    consumers = [consumer(slow, "group", "slow", idle=3, takes=0.4)]
    wait_until(lambda: slow.rows("slow begins"), "it has begun")
    consumers.append(consumer(slow, "group", "eager", idle=3))
    wait_until(lambda: len(slow.rows("slow is done")) == 5, "it has done all of them")
    wait_until(lambda: store_redis.xpending("perpetual:events", "group")["pending"] == 0, "all are acknowledged")

    assert Counter(row.what for row in slow.rows()) == {"slow begins": 5, "slow is done": 5}
    assert all(each.alive for each in consumers)


def test_a_stream_outlives_a_killed_and_restarted_redis(shop, private_redis, project):
    """SIGKILL of Redis and a start with its data: the consumer goes on, and no event is missing."""
    server = private_redis(appendonly=True)
    other = project("", store=server.url)

    def done() -> set[str]:
        return {row.id for row in other.rows("one is done")}

    follower = consumer(other, "billing", "one", idle=60)
    with redis.Redis.from_url(server.url) as client:
        add(client, "t0")
        wait_until(lambda: done() == {"t0"}, "it follows")
        psutil.Process(server.pid).kill()
        server.restart()
        add(client, *(f"t{n}" for n in range(1, 30)))
        wait_until(lambda: done() == {f"t{n}" for n in range(30)}, "all are seen")
        server.restart(keep_data=False)
        begun = time.monotonic()
        add(client, "t99")
        wait_until(lambda: "t99" in done(), "it goes on with an empty store too")
        assert time.monotonic() - begun < 10
    assert follower.alive


@pytest.mark.parametrize(
    ("arguments", "options"), [(("", "a"), {}), ((None, "a"), {}), (("g", ""), {}), (("g", "a"), {"idle": -1})]
)
def test_impossible_names_are_refused_at_the_call(shop, arguments, options):
    """Group and consumer are names, `idle` is a duration."""
    with pytest.raises(ContractError, match="stream"):
        shop.perpetual.stream(*arguments, **options)
