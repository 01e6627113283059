"""The tables of the public contract: every name either changes something or is refused as not available yet.

The tables stand here a second time, on purpose. Whoever makes a name available moves it to the accepted ones, and
then needs a test called ``test_{table}_{name}`` in this file, which shows what it changes.
"""

from __future__ import annotations

import json
import time
from dataclasses import fields
from datetime import datetime, timezone
from typing import TYPE_CHECKING, Any

import pytest
import redis
from celery import Celery
from celery.beat import PersistentScheduler, Scheduler

from celery_perpetual import (
    Batch,
    ContractError,
    Item,
    Perpetual,
    PerpetualOptions,
    PerpetualScheduler,
    PerpetualTask,
    Poll,
)
from celery_perpetual.embedded import free_port
from celery_perpetual.errors import StoreUnavailable
from celery_perpetual.ledger import place
from celery_perpetual.settings import Settings
from celery_perpetual.tasks import discover
from tests.support import wait_until

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from tests.support import Project

OPTIONS = ("limit", "dedup_window", "history", "enabled", "store_args")
OPTIONS_NOT_YET = (
    "poll_in", "jitter", "overlap", "low_water", "max_interval", "min_interval", "source_key", "max_queue_depth",
    "window", "tenants_ttl", "preflight_ttl", "max_recoveries", "error_rules", "retry_classified", "on_batch_done",
    "starvation", "completions",
)  # fmt: skip

ATTRIBUTES = ("poll_every", "next_batch", "max_in_flight", "poll_timeout")
ATTRIBUTES_NOT_YET = ("tenants", "preflight", "lease", "on_lost")

SETTINGS = (
    "store_url", "key_prefix", "base_scheduler", "leader_ttl", "cycle_interval", "poll_threads",
    "max_abandoned_polls", "events_maxlen", "store_timeout", "store_wait", "disabled",
)  # fmt: skip
SETTINGS_NOT_YET = (
    "lease_ttl", "heartbeat_interval", "sweep_limit", "completions", "leases", "completion_ttl", "queue_ttl",
    "tombstone_ttl", "store_down", "on_store_lost", "starvation", "starvation_spawn", "max_pool_grow",
    "error_policies", "classifiers", "preflight_fatal", "tenants_ttl", "preflight_ttl",
)  # fmt: skip

#: What ``next_batch`` may return beside items; a field of it is a name of the contract too.
BATCH = ("items", "cursor", "more", "watermark")

# ---- the walk


@pytest.mark.parametrize(
    ("table", "names"), [("option", OPTIONS), ("attribute", ATTRIBUTES), ("setting", SETTINGS), ("batch", BATCH)]
)
def test_every_accepted_name_has_a_test_of_its_effect(table: str, names: tuple[str, ...]) -> None:
    """No name is accepted without a test here that shows what it changes."""
    assert [name for name in names if f"test_{table}_{name}" not in globals()] == []


def test_no_other_name_is_accepted() -> None:
    """What the code accepts is what the tables above list."""
    assert {field.name for field in fields(PerpetualOptions)} == set(OPTIONS)
    assert {field.name for field in fields(Settings)} == set(SETTINGS)


@pytest.mark.parametrize("name", OPTIONS_NOT_YET)
def test_a_reserved_option_is_refused(name: str) -> None:
    """An option of the contract whose feature does not exist is refused, whatever its value."""
    for value in (None, 0, True, "beat", 60.0, (), object()):
        with pytest.raises(ContractError, match=rf"^perpetual option {name} is not available yet; remove it$"):
            PerpetualOptions(**{name: value})


@pytest.mark.parametrize("name", ATTRIBUTES_NOT_YET)
@pytest.mark.parametrize("value", [False, True, "park", list])
def test_a_reserved_attribute_is_refused(name: str, value: Any) -> None:
    """An attribute of the contract whose feature does not exist is refused with the task's name."""
    app = Celery("shop", set_as_current=False)
    app.task(name="shop.deliver", poll_every=30, next_batch=list, shared=False, **{name: value})(nothing)

    with pytest.raises(ContractError, match=rf"^task shop\.deliver \(.*\): {name} is not available yet; remove it$"):
        discover(app)


@pytest.mark.parametrize("name", SETTINGS_NOT_YET)
@pytest.mark.parametrize("value", [0, False, "perpetual", 60.0, {}])
def test_a_reserved_setting_is_refused(name: str, value: Any) -> None:
    """A setting of the contract whose feature does not exist is refused."""
    app = Celery("shop", set_as_current=False)
    app.conf[f"perpetual_{name}"] = value

    with pytest.raises(ContractError, match=rf"^setting perpetual_{name} is not available yet; remove it$"):
        Settings.from_app(app)


# ---- the effects, seen from outside


def nothing(*args: Any, **kwargs: Any) -> None: ...


def finish(perpetual: Perpetual, task_id: str) -> None:
    """Tell the ledger that a task has ended, as a worker does."""
    assert place(task_id) is not None
    perpetual.finisher.finish(task_id, "success")


@pytest.fixture
def shop(make_app: Callable[..., Celery]) -> Iterator[Callable[..., Perpetual]]:
    """A wired app with one perpetual task ``deliver``: ``shop(items, settings, **attributes)``."""
    stores = []

    def make(items: Any, settings: dict[str, Any] | None = None, **attributes: Any) -> Perpetual:
        app = make_app("shop", **(settings or {}))
        perpetual = Perpetual(app)
        stores.append(perpetual)
        given: dict[str, Any] = {"poll_every": 3600, "next_batch": items, **attributes}
        app.task(name="deliver", base=PerpetualTask, shared=False, **given)(nothing)
        return perpetual

    yield make
    for perpetual in stores:
        perpetual.store.close()


def test_option_limit(shop: Callable[..., Perpetual]) -> None:
    """A poll takes no more than ``limit`` items."""
    five = [(n,) for n in range(5)]

    assert shop(lambda: five).poll("deliver").count == 5
    found = shop(lambda: [(n,) for n in range(5, 10)], perpetual_options=PerpetualOptions(limit=2)).poll("deliver")
    assert (found.count, found.left_out) == (2, 3)


@pytest.mark.parametrize(("window", "count"), [(0, 1), (60, 0)])
def test_option_dedup_window(shop: Callable[..., Perpetual], window: float, count: int) -> None:
    """A key stays taken after the end of its item, for as long as the window is."""
    perpetual = shop(lambda: [Item((1,), key="a")], perpetual_options=PerpetualOptions(dedup_window=window))
    first = perpetual.poll("deliver")
    finish(perpetual, first.task_ids[0])

    second = perpetual.poll("deliver")

    assert (first.count, second.count, second.duplicates) == (1, count, 1 - count)


def test_option_history(shop: Callable[..., Perpetual]) -> None:
    """No more outcomes are kept than ``history`` says."""
    perpetual = shop(lambda: [Item(key=False)], perpetual_options=PerpetualOptions(history=3))

    polls = [perpetual.poll("deliver").poll_id for _ in range(5)]

    assert [outcome.poll_id for outcome in perpetual.polls("deliver")] == polls[:1:-1]


def test_option_enabled(shop: Callable[..., Perpetual]) -> None:
    """A task that is not enabled is no unit to poll, and is shown as disabled."""
    perpetual = shop(list, perpetual_options=PerpetualOptions(enabled=False))

    assert [(unit.state, unit.reason) for unit in perpetual.units()] == [("disabled", "perpetual option enabled=False")]
    assert discover(perpetual.app).units() == {}


def test_option_store_args(shop: Callable[..., Perpetual], raw_redis: redis.Redis) -> None:
    """With ``store_args=False`` no dashboard can show the arguments: Celery's headers and events leave them out."""
    perpetual = shop(lambda: [("s3cret",)], perpetual_options=PerpetualOptions(store_args=False))

    perpetual.poll("deliver")

    (message,) = raw_redis.lrange("celery", 0, -1)
    assert "s3cret" not in json.dumps(json.loads(message)["headers"])


def test_attribute_poll_every(project: Callable[..., Project]) -> None:
    """``poll_every`` is the distance of the slots."""
    proj = project(
        """
        @app.task(base=PerpetualTask, poll_every=0.2, next_batch=lambda poll: ledger.record(poll.slot.timestamp()))
        def often(): ...
        """
    )
    proj.beat().ready()

    rows = wait_until(lambda: len(proj.rows()) > 2 and proj.rows(), "three polls")

    slots = [round(float(row.id) * 1000) for row in rows]
    assert len(set(slots)) == len(slots)
    assert {(slot - slots[0]) % 200 for slot in slots} == {0}


def test_attribute_next_batch(shop: Callable[..., Perpetual]) -> None:
    """``next_batch`` says what is enqueued."""
    assert shop(lambda: [(1,), (2,)]).poll("deliver").count == 2


def test_attribute_max_in_flight(shop: Callable[..., Perpetual]) -> None:
    """No more items are in flight than ``max_in_flight``."""
    perpetual = shop(lambda: [(n,) for n in range(5)], max_in_flight=2)

    assert [perpetual.poll("deliver").gate for _ in range(2)] == [None, "max_in_flight"]
    assert perpetual.units()[0].in_flight == 2


def test_attribute_poll_timeout(shop: Callable[..., Perpetual]) -> None:
    """A ``next_batch`` that takes longer than ``poll_timeout`` is abandoned."""
    perpetual = shop(lambda: time.sleep(0.3), poll_timeout=0.1)

    outcome = perpetual.poll("deliver")

    assert (outcome.status, "0.1 s" in str(outcome.reason)) == ("timed_out", True)


def test_batch_items(shop: Callable[..., Perpetual]) -> None:
    """What is in ``Batch.items`` is enqueued."""
    assert shop(lambda: Batch([(1,), (2,)])).poll("deliver").count == 2


def test_batch_cursor(shop: Callable[..., Perpetual]) -> None:
    """``Batch.cursor`` is given to the unit's next poll."""
    seen = []

    def due(poll: Poll) -> Batch:
        seen.append(poll.cursor)
        return Batch([], cursor=[len(seen), "x"])

    perpetual = shop(due)
    for _ in range(3):
        perpetual.poll("deliver")

    assert seen == [None, [1, "x"], [2, "x"]]


def test_batch_more(project: Callable[..., Project]) -> None:
    """``Batch.more`` polls again at once, long before the next slot."""
    proj = project(
        """
        def due(poll):
            ledger.record(poll.trigger)
            return Batch([Item(key=False)], more=poll.trigger != "drain")

        @app.task(base=PerpetualTask, poll_every=3600, next_batch=due)
        def deliver(): ...
        """
    )
    proj.beat().ready()

    rows = wait_until(lambda: len(proj.rows()) == 2 and proj.rows(), "a second poll")

    assert [row.id for row in rows] == ["schedule", "drain"]


def test_batch_watermark(shop: Callable[..., Perpetual], raw_redis: redis.Redis) -> None:
    """``Batch.watermark`` is found again in what is told about the poll."""
    watermark = datetime(2024, 5, 1, 8, tzinfo=timezone.utc)
    perpetual = shop(lambda: Batch([(1,)], watermark=watermark))

    told = json.dumps([perpetual.poll("deliver").to_dict(), perpetual.units()[0].to_dict()])
    events = raw_redis.xrange("perpetual:events")

    assert "2024-05-01T08:00:00" in f"{told} {events}"


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


@pytest.fixture
def beat(make_app: Callable[..., Celery], tmp_path: Path) -> Iterator[Callable[..., PerpetualScheduler]]:
    """Our scheduler at work in this process, without any perpetual task: ``beat(**settings)``."""
    running = []

    def start(**settings: Any) -> PerpetualScheduler:
        scheduler = PerpetualScheduler(make_app("shop", **settings), schedule_filename=str(tmp_path / "schedule"))
        running.append(scheduler)
        return scheduler

    yield start
    for scheduler in running:
        scheduler.close()


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
                # Whoever else may start now, would have.
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
    """Beyond ``perpetual_max_abandoned_polls`` hanging threads no further poll is started."""
    proj = project(
        """
        import threading

        def nothing(): ...

        for n in range(2):
            app.task(name=f"hangs{n}", base=PerpetualTask, poll_every=3600, poll_timeout=0.1,
                     next_batch=lambda: threading.Event().wait())(nothing)

        @app.task(base=PerpetualTask, poll_every=0.1, next_batch=lambda: [])
        def waits(): ...
        """,
        perpetual_poll_threads=1,
        perpetual_max_abandoned_polls=1,
    )
    beat = proj.beat().ready()
    beat.wait_for_log("timed out", count=2)

    def behind() -> float:
        return time.time() - float(proj.redis.zscore("perpetual:due", "perpetual:proj.waits")) / 1000

    # The same machine's clock. Due for long, and nobody takes it, though the leader is there.
    wait_until(lambda: behind() > 1, "a due unit is left waiting")
    assert proj.redis.exists("perpetual:leader")


def test_setting_events_maxlen(shop: Callable[..., Perpetual], raw_redis: redis.Redis) -> None:
    """The stream of events is capped near ``perpetual_events_maxlen``."""
    perpetual = shop(list, {"perpetual_events_maxlen": 50})

    for n in range(400):
        perpetual.pause(reason=str(n))

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
