"""Workers that die, in every way: what they ran runs again, in time, and ends once."""

from __future__ import annotations

import os
import signal
import time
from typing import TYPE_CHECKING, Any

import pytest

from tests.support import wait_until
from tests.support.leased_tasks import ANY_BROKER, IN_TIME, SETTINGS, TASKS, TTL, all_well, events, final_ends, tokens

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.support import Project

MANY, SIX, TWO = (f"ITEMS = {count}\n{TASKS}" for count in (20, 6, 2))
EARLY = pytest.mark.parametrize("early", [False, True], ids=["late", "early"])


def wait_for_two(proj: Project) -> None:
    """Two have begun, and the worker has reported what else it has received."""
    wait_until(lambda: len(tokens(proj, "begin")) == 2, "two have begun")
    wait_until(
        lambda: sum(map(proj.redis.hlen, proj.redis.keys("perpetual:tags:*"))) >= 2, "it has reported what it has"
    )
    most = 0
    while (now := sum(map(proj.redis.hlen, proj.redis.keys("perpetual:tags:*")))) > most:
        most = now
        time.sleep(0.5)  # the measure: several times as long as news may take


def recovered_after(proj: Project, since: float) -> float:
    """Seconds until the last of those that had begun before began again."""
    first = {row.id for row in proj.rows() if row.what.startswith("begin") and row.time < since}
    again = {row.id: row.time for row in proj.rows() if row.what.startswith("begin") and row.time > since}
    assert first <= again.keys()
    return max(again[task_id] for task_id in first) - since


@pytest.mark.parametrize(
    ("pool", "early"),
    [
        ("prefork", False),
        ("prefork", True),
        ("threads", False),
        pytest.param("threads", True, marks=pytest.mark.matrix),
    ],
)
def test_tasks_of_a_killed_worker_run_again(project: Callable[..., Project], pool: str, early: bool) -> None:
    """``kill -9`` of everything: what had begun begins again within a lease time and a sweep, the rest too."""
    proj = project(SIX, **SETTINGS, settings={"test_early": early})
    proj.beat().ready()
    victim = proj.worker(pool=pool).ready()
    wait_for_two(proj)

    since = time.time()
    victim.kill9()
    proj.write("released", "")
    proj.worker(pool=pool).ready()

    all_well(proj, 6)
    assert recovered_after(proj, since) <= IN_TIME
    assert len(events(proj, "lease.lost")) == len(events(proj, "lease.recovered")) == 2
    assert sorted(end["recoveries"] for end in events(proj, "completion")) == [0] * 4 + [1] * 2


def test_a_killed_worker_of_a_broker_with_a_prefix(project: Callable[..., Project]) -> None:
    """Two ran, some were received, the rest waits in a queue with a prefix: nothing of it counts as lost but the two."""
    prefix = {"global_keyprefix": "shop_"}
    proj = project(MANY, **SETTINGS, broker_transport_options=prefix, worker_prefetch_multiplier=2)
    proj.beat().ready()
    victim = proj.worker().ready()
    wait_for_two(proj)
    assert proj.redis.llen("shop_celery") == 20 - 2 * 2  # it runs two and has received two

    victim.kill9()
    wait_until(lambda: proj.redis.llen("shop_celery") == 20, "everything is back in the queue", TTL + 10)
    assert not proj.redis.hlen("shop_unacked")
    time.sleep(3)  # the measure: many cycles, each of which might take what waits for lost
    assert proj.redis.llen("shop_celery") == 20
    proj.write("released", "")
    proj.worker().ready()

    all_well(proj, 20)
    assert len(events(proj, "lease.lost")) == len(events(proj, "lease.recovered")) == 2


@EARLY
def test_a_killed_worker_on_rabbitmq(project: Callable[..., Project], rabbitmq_url: str, early: bool) -> None:
    """The same; RabbitMQ delivers late-acked ones at once, which the leases of the dead still forbid."""
    proj = project(SIX, **SETTINGS, broker=rabbitmq_url, settings={"test_early": early})
    proj.beat().ready()
    victim = proj.worker().ready()
    wait_for_two(proj)

    since = time.time()
    victim.kill9()
    proj.write("released", "")
    proj.worker().ready()

    all_well(proj, 6)
    assert recovered_after(proj, since) <= IN_TIME


@EARLY
def test_the_task_of_a_killed_pool_process_runs_again(project: Callable[..., Project], early: bool) -> None:
    """Its worker notices at once, and no other task of the worker is touched."""
    proj = project(TWO, **SETTINGS, settings={"test_early": early})
    proj.beat().ready()
    proj.worker().ready()
    rows = wait_until(lambda: len(tokens(proj, "begin")) == 2 and proj.rows(), "two have begun")

    since = time.time()
    os.kill(rows[0].pid, signal.SIGKILL)
    wait_until(lambda: len(tokens(proj, "begin")[rows[0].id]) == 2, "it has begun again")
    proj.write("released", "")

    all_well(proj, 2)
    assert recovered_after_one(proj, rows[0].id, since) <= 3
    assert [lost["task_id"] for lost in events(proj, "lease.lost")] == [rows[0].id]


def recovered_after_one(proj: Project, task_id: str, since: float) -> float:
    """Seconds until one task began again."""
    return min(row.time for row in proj.rows() if row.id == task_id and row.time > since) - since


def test_a_killed_pool_process_on_rabbitmq(project: Callable[..., Project], rabbitmq_url: str) -> None:
    """There the message goes back to where it was."""
    proj = project(TWO, **SETTINGS, broker=rabbitmq_url)
    proj.beat().ready()
    proj.worker().ready()
    rows = wait_until(lambda: len(tokens(proj, "begin")) == 2 and proj.rows(), "two have begun")

    os.kill(rows[0].pid, signal.SIGKILL)
    wait_until(lambda: len(tokens(proj, "begin")[rows[0].id]) == 2, "it has begun again")
    proj.write("released", "")

    all_well(proj, 2)


@ANY_BROKER
@pytest.mark.parametrize(
    ("how", "early"), [(signal.SIGQUIT, False), (signal.SIGQUIT, True), (signal.SIGTERM, False)],
    ids=["cold", "cold-early", "term then kill"],
)  # fmt: skip
def test_a_worker_that_is_stopped(
    project: Callable[..., Project], broker: dict[str, Any], how: signal.Signals, early: bool
) -> None:
    """A cold shutdown costs no recovery; one that is cut short by SIGKILL is a killed worker."""
    proj = project(SIX, **SETTINGS, **broker, settings={"test_early": early})
    proj.beat().ready()
    victim = proj.worker().ready()
    wait_for_two(proj)

    victim.signal(how)
    if how == signal.SIGTERM:
        victim.wait_for_log("Warm shutdown")
        victim.kill9()
    else:
        victim.wait()
    proj.write("released", "")
    proj.worker().ready()

    all_well(proj, 6)
    assert len(events(proj, "lease.lost")) == (2 if how == signal.SIGTERM else 0)


@ANY_BROKER
def test_a_warm_shutdown_loses_nothing(project: Callable[..., Project], broker: dict[str, Any]) -> None:
    """A stopped worker waits for running tasks and gives received ones back; no lease is lost, and it says goodbye."""
    proj = project(SIX, **SETTINGS, **broker)
    proj.beat().ready()
    victim = proj.worker().ready()
    wait_for_two(proj)

    victim.signal(signal.SIGTERM)
    victim.wait_for_log("Warm shutdown")
    time.sleep(2 * TTL)  # the measure: a long task is waited for, longer than a message without a worker is left alone
    proj.write("released", "")
    victim.wait()
    assert proj.redis.zcard("perpetual:workers") == 0
    proj.worker().ready()

    all_well(proj, 6)
    assert all(len(several) == 1 for several in tokens(proj, "begin").values())
    assert events(proj, "lease.lost") == []


@ANY_BROKER
def test_a_soft_shutdown_costs_no_recovery(project: Callable[..., Project], broker: dict[str, Any]) -> None:
    """A task that does not end within the time that is left is stopped, comes back, and counts no recovery."""
    proj = project(SIX, **SETTINGS, **broker, worker_soft_shutdown_timeout=1)
    proj.beat().ready()
    victim = proj.worker().ready()
    wait_for_two(proj)

    victim.signal(signal.SIGQUIT)
    victim.wait()
    proj.write("released", "")
    proj.worker().ready()

    all_well(proj, 6)
    assert events(proj, "lease.lost") == []


@ANY_BROKER
def test_leader_and_worker_killed_together(project: Callable[..., Project], broker: dict[str, Any]) -> None:
    """The next leader sweeps: within the leader's term and the worker's lease time."""
    proj = project(SIX, **SETTINGS, **broker)
    leader = proj.beat().ready()
    proj.beat().ready()
    victim = proj.worker().ready()
    wait_for_two(proj)

    since = time.time()
    leader.kill9()
    victim.kill9()
    proj.write("released", "")
    proj.worker().ready()

    all_well(proj, 6)
    assert recovered_after(proj, since) <= 3 + TTL + 5


def test_a_long_task_is_left_alone(project: Callable[..., Project]) -> None:
    """A task of three lease times and three visibility timeouts runs once; without a lease it runs again."""
    source = """
    for name, lease in (("guarded", True), ("control", False)):
        @app.task(name=name, base=PerpetualTask, poll_every=3600, next_batch=lambda: [()], bind=True, lease=lease)
        def task(self):
            ledger.record(self.name, "begin")
            time.sleep(7)
            ledger.record(self.name, "end")
    """
    transport = {"visibility_timeout": 2, "unacked_restore_interval": 1, "unacked_restore_throttle": 1}
    proj = project(source, **{**SETTINGS, "perpetual_lease_ttl": 2}, broker_transport_options=transport)
    proj.beat().ready()
    for _ in range(2):
        proj.worker(concurrency=4).ready()

    wait_until(lambda: sum(row.id == "control" for row in proj.rows("end")) >= 2, "the control has run twice", 60)

    assert sum(row.id == "guarded" for row in proj.rows("begin")) == 1
    assert int(proj.redis.hget("perpetual:counters", "dropped_adopted") or 0) >= 1


def test_the_same_message_to_two_workers(project: Callable[..., Project]) -> None:
    """The second delivery is adopted; when the first one's worker dies, its task is still there."""
    proj = project("ITEMS = 1\n" + TASKS, **SETTINGS)
    proj.beat().ready()
    wait_until(lambda: proj.redis.llen("celery") == 1, "it is enqueued")
    (message,) = proj.redis.lrange("celery", 0, -1)
    first = proj.worker("--prefetch-multiplier=1", concurrency=1).ready()
    wait_until(lambda: tokens(proj, "begin"), "it has begun")
    proj.worker(concurrency=1).ready()

    proj.redis.lpush("celery", message)
    wait_until(lambda: proj.redis.hget("perpetual:counters", "dropped_adopted") == "1", "the copy is adopted")
    assert len(proj.rows()) == 1
    first.kill9()
    proj.write("released", "")

    all_well(proj, 1)


def test_a_task_without_memory_takes_its_worker_along(project: Callable[..., Project], redis_url: str) -> None:
    """MemoryError is that task's own end, and ends the whole worker; what else runs there is waited for."""
    source = """
    @app.task(base=PerpetualTask)
    def greedy():
        raise MemoryError("as it was told")
    """
    proj = project(TWO + source.replace("\n    ", "\n"), result_backend=redis_url, **SETTINGS)
    proj.beat().ready()
    victim = proj.worker(concurrency=3).ready()
    wait_until(lambda: len(tokens(proj, "begin")) == 2, "two have begun")
    greedy = proj.run_python("import proj; print(proj.greedy.delay().id)").strip()
    wait_until(lambda: (greedy, "failure") in final_ends(proj), "its end is announced")
    proj.write("released", "")
    victim.wait()
    proj.worker().ready()

    wait_until(lambda: len(final_ends(proj)) == 3, "all have ended")
    assert final_ends(proj) == {(greedy, "failure"): 1, **{(each, "success"): 1 for each in tokens(proj, "end")}}
    assert events(proj, "lease.lost") == []
