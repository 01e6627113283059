"""``perpetual_*`` settings: every one changes something.

The table stands here a second time, on purpose. To add a name, add it here; it then needs
a test called ``test_setting_{name}`` in this folder, which shows what it changes.
"""

from __future__ import annotations

import time
from dataclasses import fields
from typing import TYPE_CHECKING

import pytest
import redis
from celery.beat import PersistentScheduler, Scheduler

from celery_perpetual import Perpetual, PerpetualScheduler
from celery_perpetual.embedded import free_port
from celery_perpetual.errors import StoreUnavailable
from celery_perpetual.events import POLL_TIMED_OUT, STORE_LOST
from celery_perpetual.settings import Settings
from tests.support import wait_until
from tests.support.contract import finish, queued_tasks, without_test

if TYPE_CHECKING:
    from collections.abc import Callable

    from celery import Celery

    from tests.support import Project

SETTINGS = (
    "store_url", "key_prefix", "base_scheduler", "leader_ttl", "cycle_interval", "poll_threads",
    "max_abandoned_polls", "completions", "completion_ttl", "queue_ttl", "tombstone_ttl", "events_maxlen",
    "on_store_lost", "store_timeout", "store_wait", "disabled", "lease_ttl", "heartbeat_interval", "sweep_limit",
    "leases", "store_down", "tenants_ttl", "error_policies", "classifiers", "max_wait_hint",
    "preflight_ttl", "preflight_fatal", "starvation", "starvation_spawn", "max_pool_grow",
)  # fmt: skip


def test_every_accepted_name_has_a_test_of_its_effect() -> None:
    """No name is accepted without a test here that shows what it changes."""
    assert without_test("setting", SETTINGS) == []


def test_no_other_name_is_accepted() -> None:
    """The code accepts the settings that the table above lists, and no others."""
    assert {field.name for field in fields(Settings)} == set(SETTINGS)


def test_setting_store_url(shop: Callable[..., Perpetual], redis_url: str, raw_redis: redis.Redis) -> None:
    """State goes where ``perpetual_store_url`` says, messages stay with the broker."""
    elsewhere_url = redis_url.removesuffix("/0") + "/1"
    shop(lambda: [(1,)], {"perpetual_store_url": elsewhere_url}).poll("deliver")

    with redis.Redis.from_url(elsewhere_url) as elsewhere:
        assert elsewhere.keys("perpetual:u:*") == [b"perpetual:u:perpetual:deliver"]
    assert raw_redis.keys("perpetual:*") == []
    assert raw_redis.llen("celery") == 1


def test_setting_key_prefix(shop: Callable[..., Perpetual], raw_redis: redis.Redis) -> None:
    """Every key of ours starts with ``perpetual_key_prefix``."""
    shop(lambda: [(1,)], {"perpetual_key_prefix": "own"}).poll("deliver")

    assert {key.split(b":")[0] for key in raw_redis.keys("*:*")} == {b"own"}


def test_setting_base_scheduler(shop: Callable[..., Perpetual]) -> None:
    """The scheduler behind ours is the one that ``perpetual_base_scheduler`` names."""
    default = PerpetualScheduler(shop(list).app, lazy=True)
    plain = PerpetualScheduler(shop(list, {"perpetual_base_scheduler": "celery.beat:Scheduler"}).app, lazy=True)

    assert isinstance(default, PersistentScheduler)
    assert isinstance(plain, Scheduler)
    assert not isinstance(plain, PersistentScheduler)


@pytest.mark.parametrize("ttl", [3, 60])
def test_setting_leader_ttl(beat: Callable[..., PerpetualScheduler], raw_redis: redis.Redis, ttl: int) -> None:
    """The leader key lives for ``perpetual_leader_ttl``."""
    beat(perpetual_leader_ttl=ttl)

    assert ttl - 1.5 < raw_redis.pttl("perpetual:leader") / 1000 <= ttl


def test_setting_cycle_interval(beat: Callable[..., PerpetualScheduler], raw_redis: redis.Redis) -> None:
    """Maintenance passes follow each other in ``perpetual_cycle_interval``: three in far less than the default."""
    beat(perpetual_cycle_interval=0.05)

    for _ in range(3):
        raw_redis.zadd("perpetual:outbox", {"a poll that does not exist": 1})
        wait_until(lambda: not raw_redis.exists("perpetual:outbox"), "the next pass cleans up", timeout=2)


@pytest.mark.parametrize(("threads", "together"), [(1, 1), (3, 3)])
def test_setting_poll_threads(project: Callable[..., Project], threads: int, together: int) -> None:
    """As many polls run at the same time as ``perpetual_poll_threads``."""
    proj = project(
        """
        import threading
        running, most, gate = 0, 0, threading.Condition()

        def nothing(): ...

        def due(poll):
            global running, most
            with gate:
                running += 1
                most = max(most, running)
                gate.notify_all()
                gate.wait_for(lambda: most >= together, 5)
                # Others that may start now would have started.
                gate.wait(0.2)
                running -= 1
            ledger.record(most)

        for n in range(3):
            app.task(name=f"task{n}", base=PerpetualTask, poll_every=3600, next_batch=due)(nothing)
        """.replace("together", str(together)),
        perpetual_poll_threads=threads,
    )
    proj.beat().ready()

    rows = wait_until(lambda: len(proj.rows()) == 3 and proj.rows(), "all three have polled")

    assert max(int(row.id) for row in rows) == together


def test_setting_max_abandoned_polls(project: Callable[..., Project]) -> None:
    """Beyond ``perpetual_max_abandoned_polls`` hanging threads no further poll is started here, but in workers."""
    proj = project(
        """
        import threading

        def nothing(): ...

        for n in range(2):
            app.task(name=f"hangs{n}", base=PerpetualTask, poll_every=3600, poll_timeout=0.1,
                     next_batch=lambda: threading.Event().wait())(nothing)

        @app.task(base=PerpetualTask, poll_every=0.3, next_batch=lambda: ledger.record("polled in beat"))
        def waits(): ...
        """,
        perpetual_poll_threads=1,
        perpetual_max_abandoned_polls=1,
    )
    beat = proj.beat().ready()
    beat.wait_for_event(POLL_TIMED_OUT, count=2)

    wait_until(lambda: "celery_perpetual.poll" in queued_tasks(proj.redis), "the next poll goes to a worker")


@pytest.mark.parametrize(("whose", "announced"), [("perpetual", False), ("all", True)])
def test_setting_completions(project: Callable[..., Project], whose: str, announced: bool) -> None:
    """With ``perpetual_completions = "all"`` the ends of ordinary tasks are announced too."""
    source = """
        @app.task
        def ordinary():
            ledger.record("ran")

        @app.task(base=PerpetualTask)
        def ours(): ...
    """
    proj = project(source, perpetual_completions=whose)
    ordinary, ours = proj.run_python("from proj import *; print(ordinary.delay(), ours.delay())").split()
    proj.worker(pool="solo").ready()

    wait_until(lambda: proj.redis.exists(f"perpetual:completion:{ours}"), "the later end is announced")
    assert len(proj.rows()) == 1
    assert bool(proj.redis.exists(f"perpetual:completion:{ordinary}")) is announced


@pytest.mark.parametrize(
    ("setting", "key"),
    [
        ("completion_ttl", "perpetual:completion:{task}"),
        ("queue_ttl", "perpetual:done:{task}:queue"),
        ("tombstone_ttl", "perpetual:p:{poll}"),
    ],
)
def test_setting_ttl(shop: Callable[..., Perpetual], raw_redis: redis.Redis, setting: str, key: str) -> None:
    """The tombstone of an end stays for as long as its setting says."""
    perpetual = shop(lambda: [(1,)], {f"perpetual_{setting}": 77})
    outcome = perpetual.poll("deliver")
    (task_id,) = outcome.task_ids

    finish(perpetual, task_id)

    assert 70 < raw_redis.ttl(key.format(task=task_id, poll=outcome.poll_id)) <= 77


test_setting_completion_ttl = test_setting_queue_ttl = test_setting_tombstone_ttl = test_setting_ttl


@pytest.mark.parametrize(("then", "paused"), [("pause", True), ("run", False)])
def test_setting_on_store_lost(project: Callable[..., Project], then: str, paused: bool) -> None:
    """When the store comes back empty, units that had a cursor pause, or start over."""
    proj = project(
        """
        @app.task(base=PerpetualTask, poll_every=0.2, next_batch=lambda: Batch([], cursor=7))
        def fetch(): ...
        """,
        perpetual_on_store_lost=then,
        perpetual_leader_ttl=3,
        perpetual_cycle_interval=0.1,
    )
    beat = proj.beat().ready()
    wait_until(lambda: proj.redis.smembers("perpetual:cursors"), "there is a cursor")
    seen = proj.redis.xlen("perpetual:events")
    wait_until(lambda: proj.redis.xlen("perpetual:events") > seen + 3, "beat has had the time to remember it")

    proj.redis.flushall()

    beat.wait_for_event(STORE_LOST)
    wait_until(lambda: proj.redis.get("perpetual:leader"), "it leads again")
    paused_now = "perpetual:paused", "perpetual:proj.fetch"
    wait_until(lambda: bool(proj.redis.hexists(*paused_now)) is paused, "the unit is paused, or goes on")


def test_setting_events_maxlen(shop: Callable[..., Perpetual], raw_redis: redis.Redis) -> None:
    """The stream of events is capped near ``perpetual_events_maxlen``."""
    perpetual = shop(list, {"perpetual_events_maxlen": 50})

    for n in range(400):
        perpetual.pause(everything=True, reason=str(n))

    # Redis cuts off whole nodes of a hundred entries.
    assert 50 <= raw_redis.xlen("perpetual:events") <= 200


def test_setting_store_timeout(shop: Callable[..., Perpetual], raw_redis: redis.Redis) -> None:
    """A store that does not answer is given up after ``perpetual_store_timeout``, and once more for the repeat."""
    perpetual = shop(list, {"perpetual_store_timeout": 0.1})
    perpetual.units()
    raw_redis.client_pause(1000)
    begun = time.monotonic()

    with pytest.raises(StoreUnavailable):
        perpetual.units()

    assert time.monotonic() - begun < 0.8
    raw_redis.ping()  # answered when the pause is over


def test_setting_store_wait(make_app: Callable[..., Celery]) -> None:
    """A beat waits ``perpetual_store_wait`` for its first contact with the store."""
    app = make_app(perpetual_store_url=f"redis://127.0.0.1:{free_port()}", perpetual_store_wait=0.3)
    begun = time.monotonic()

    with pytest.raises(StoreUnavailable, match=r"gave up after 0\.3 s"):
        PerpetualScheduler(app)

    assert 0.3 <= time.monotonic() - begun < 5


def test_setting_disabled(shop: Callable[..., Perpetual]) -> None:
    """A task that ``perpetual_disabled`` names is shown as disabled."""
    perpetual = shop(list, {"perpetual_disabled": ["deliver"]})

    assert [(unit.state, unit.reason) for unit in perpetual.units()] == [("disabled", "named in perpetual_disabled")]


def test_setting_tenants_ttl(shop: Callable[..., Perpetual]) -> None:
    """Where a task says nothing, its ``tenants`` function is called again after ``perpetual_tenants_ttl``."""
    found = ["acme"]
    perpetual = shop(list, {"perpetual_tenants_ttl": 0.05}, tenants=lambda: list(found))
    assert len(perpetual.units()) == 1
    found.append("umbrella")

    wait_until(lambda: len(perpetual.units()) == 2, "it is called again")
