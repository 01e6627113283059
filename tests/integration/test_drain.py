"""``drain``: everything is paused, and what is in flight ends; and the pause of a queue."""

from __future__ import annotations

import json
from datetime import datetime, timedelta, timezone
from threading import Thread
from typing import TYPE_CHECKING, Any

import pytest

from celery_perpetual import ContractError, Perpetual
from celery_perpetual.errors import PerpetualError
from tests.support import wait_until
from tests.support.leased_tasks import SETTINGS, events
from tests.support.proxy import Proxy
from tests.support.stream_events import leader, poll_events

if TYPE_CHECKING:
    from collections.abc import Callable

    from celery import Celery

    from celery_perpetual.operations.draining import DrainReport
    from tests.support import Project
    from tests.support.held_tasks import HeldTasks


@pytest.fixture
def resumed(shop: HeldTasks):
    """Resume at the end everything that the test has paused."""
    yield
    shop.perpetual.resume(everything=True)


@pytest.mark.usefixtures("resumed")
def test_it_waits_for_the_items_in_flight_and_reports(shop: HeldTasks) -> None:
    """With two gated items it says so; when both have ended it is done, and everything stays paused."""
    gates = [shop.gate(), shop.gate()]
    shop.poll(*({"gate": gate} for gate in gates))

    once = shop.perpetual.drain(0, reason="migration 42")
    assert (once.completed, once.timed_out, once.remaining, once.polls, once.parked) == (False, True, 2, 0, 0)

    seen: list[DrainReport] = []
    result: list[DrainReport] = []
    waiter = Thread(target=lambda: result.append(shop.perpetual.drain(30, progress=seen.append)))
    waiter.start()
    shop.open(gates[0])
    wait_until(lambda: seen and seen[-1].remaining == 1, "it sees that one has ended")
    shop.open(gates[1])
    waiter.join()

    assert (result[0].completed, result[0].timed_out, result[0].remaining) == (True, False, 0)
    assert result[0].started_at <= result[0].at
    records = [(each["verb"], each["reason"], each["result"]) for each in events(shop, "operator")]
    assert records == [("drain", "migration 42", "2 items remain"), ("drain", "drain", "completed")]
    assert result[0].to_dict()["pause"]["reason"] == "migration 42"  # of the pause that there was
    units = {unit.name: unit.state for unit in shop.perpetual.units()}
    assert units["perpetual:proj.find"] == "paused"


@pytest.mark.usefixtures("resumed")
def test_a_parked_item_is_not_waited_for(shop: HeldTasks) -> None:
    """It is counted by itself: it ends only when an operator acts."""
    gate = shop.gate()
    task_id = shop.poll({"gate": gate}).task_ids[0]
    wait_until(lambda: any(lease.task_id == task_id for lease in shop.perpetual.leases()), "it runs")
    shop.redis.hset("perpetual:parked", task_id, json.dumps({"task_id": task_id, "parked_at": 1}))

    report = shop.perpetual.drain(0)

    shop.redis.hdel("perpetual:parked", task_id)
    assert (report.completed, report.remaining, report.parked) == (True, 0, 1)


@pytest.mark.usefixtures("resumed")
def test_an_open_poll_is_waited_for(shop: HeldTasks) -> None:
    """A poll that was under way when the pause began may still enqueue; one whose claim has expired may not."""
    key = "perpetual:u:perpetual:proj.find"
    assert shop.perpetual.drain(30).completed  # of what an earlier test has left
    shop.poll()
    now = int(shop.redis.time()[0]) * 1000
    shop.redis.hset(key, mapping={"claim": "some-poll", "claimed": f"1 1 {now + 60_000} schedule a:1"})
    assert shop.perpetual.drain(0).polls == 1
    shop.redis.hset(key, "claimed", f"1 1 {now - 1} schedule a:1")
    assert shop.perpetual.drain(0).completed
    shop.redis.hdel(key, "claim", "claimed")


@pytest.mark.usefixtures("resumed")
@pytest.mark.parametrize("way", ["resumed", "its end", "lost"])
def test_a_pause_that_ends_meanwhile_is_no_drain(shop: HeldTasks, way: str) -> None:
    """New work may come at any time then: it says so, even if nothing is in flight at that moment."""
    gate = shop.gate()
    shop.poll({"gate": gate})
    if way == "its end":
        shop.perpetual.pause(everything=True, until=datetime.now(timezone.utc) + timedelta(seconds=1.5))

    def end_it(_: DrainReport) -> None:
        if way == "resumed":
            shop.perpetual.resume(everything=True)
        elif way == "lost":
            shop.redis.delete("perpetual:paused")

    with pytest.raises(PerpetualError, match="the pause of everything has ended"):
        shop.perpetual.drain(30, progress=end_it)


@pytest.mark.usefixtures("resumed")
def test_a_drain_waits_on_while_the_store_is_away(shop: HeldTasks, make_app: Callable[..., Celery]) -> None:
    """Its connections break in the middle of it, and for a while there are no new ones."""
    gate, port = shop.gate(), int(shop.server.url.rsplit(":", 1)[1].split("/", 1)[0])
    shop.poll({"gate": gate})
    seen: list[DrainReport] = []
    result: list[DrainReport] = []
    with Proxy(port) as proxy:
        url = shop.server.url.replace(str(port), str(proxy.port))
        perpetual = Perpetual(make_app("proj", broker_url=url))
        waiter = Thread(target=lambda: result.append(perpetual.drain(30, progress=seen.append)))
        waiter.start()
        wait_until(lambda: seen, "it has counted")
        refused = proxy.refused
        proxy.cut()
        wait_until(lambda: proxy.refused > refused + 1, "it has tried in vain, more than once")
        shop.open(gate)
        proxy.mend()
        waiter.join()
        perpetual.store.close()

    assert [report.completed for report in result] == [True]
    assert seen[0].remaining == 1


@pytest.mark.parametrize("timeout", [-1, "soon", float("nan")])
def test_a_timeout_that_is_none_is_refused(shop: HeldTasks, timeout: Any) -> None:
    """Before anything is paused."""
    with pytest.raises(ContractError, match="drain: timeout"):
        shop.perpetual.drain(timeout)
    assert shop.redis.hlen("perpetual:paused") == 0


@pytest.mark.parametrize(
    "scopes", [{}, {"queue": ""}, {"queue": "a", "everything": True}, {"queue": "a", "tenant": "b"}]
)
def test_a_pause_has_one_scope(shop: HeldTasks, scopes: dict[str, Any]) -> None:
    """Several scopes at once, and none, are refused."""
    with pytest.raises(ContractError, match="pause: name a task, a tenant or both, or a queue"):
        shop.perpetual.pause(**scopes)


TWO_QUEUES = """
app.conf.task_routes = {"proj.slow": {"queue": "reports"}}

def number(poll):
    return [Item((poll.poll_id,))]

@app.task(base=PerpetualTask, poll_every=0.3, next_batch=number)
def slow(n): ...

@app.task(base=PerpetualTask, poll_every=0.3, next_batch=number, bind=True)
def quick(self, n):
    ledger.record(self.request.id, "begin")
    while not os.path.exists("released"):
        time.sleep(0.05)
"""


def test_a_paused_queue_and_a_drain_over_restarts(project: Callable[..., Project]) -> None:
    """The pause of a queue stops the tasks that are routed to it, and no other, also after restarts of all processes.

    With everything paused the leases of a killed worker are swept all the same, and its tasks run to their ends.
    """
    proj = project(TWO_QUEUES, **SETTINGS)
    code, out = (
        (done := proj.celery("perpetual", "pause", "--queue", "reports", "--reason", "too long")).returncode,
        done,
    )
    assert (code, "paused queue reports: too long" in out.stdout) == (0, True)

    for _ in range(2):
        beat = proj.beat()
        count = len(poll_events(proj.redis, "proj.quick"))
        wait_until(lambda: len(poll_events(proj.redis, "proj.quick")) >= count + 2, "the other task is polled")  # noqa: B023
        assert poll_events(proj.redis, "proj.slow") == []
        beat.kill9()
        wait_until(lambda: leader(proj.redis) is None, "its lead has expired")

    units = {u["task"]: u for u in json.loads(proj.celery("perpetual", "units", "--json").stdout)}
    assert (units["proj.slow"]["state"], units["proj.slow"]["reason"]) == ("paused", "too long")
    assert units["proj.slow"]["pause"]["scope"] == "queue:reports"
    assert units["proj.quick"]["state"] == "active"

    proj.beat()
    waiting = proj.celery("perpetual", "drain", "--timeout", "0", "--json")
    report = json.loads(waiting.stdout)
    assert (waiting.returncode, report["completed"], report["remaining"] > 0) == (1, False, True)
    assert [event["scope"] for event in events(proj, "pause")] == ["queue:reports", "*"]

    # Everything is paused: the tasks of a dead worker are sent again all the same, and ends are announced.
    victim = proj.worker("-Q", "celery,reports").ready()
    wait_until(lambda: proj.rows("begin"), "a task has begun")
    victim.kill9()
    proj.write("released", "")
    proj.worker("-Q", "celery,reports").ready()
    drained = proj.celery("perpetual", "drain", "--timeout", "30")
    assert (drained.returncode, "drained: no item is in flight" in drained.stdout) == (0, True), drained
    assert "in flight" in drained.stderr
    assert events(proj, "lease.recovered")
    polls = len(poll_events(proj.redis))

    assert proj.celery("perpetual", "resume", "--all").returncode == 0
    assert proj.celery("perpetual", "resume", "--queue", "reports").returncode == 0
    wait_until(lambda: poll_events(proj.redis, "proj.slow"), "the paused queue's task is polled again")
    assert len(poll_events(proj.redis)) > polls
