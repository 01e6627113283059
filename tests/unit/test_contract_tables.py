"""The tables of the public contract: every name either changes something or is refused as not available yet.

The tables stand here a second time, on purpose. Whoever makes a name available moves it to the accepted ones, and
then needs a test called ``test_{table}_{name}`` in this file, which shows what it changes.
"""

from __future__ import annotations

import json
import threading
import time
from dataclasses import fields
from datetime import datetime, timezone
from typing import TYPE_CHECKING, Any
from uuid import uuid4

import pytest
import redis
from celery import Celery, signature
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
from celery_perpetual.completions.end import TaskEnd
from celery_perpetual.embedded import free_port
from celery_perpetual.errors import StoreUnavailable
from celery_perpetual.leases.execution import NONCE, Execution
from celery_perpetual.recovery.sweep import Sweep, Swept
from celery_perpetual.settings import Settings
from celery_perpetual.tasks.discovery import discover
from tests.support import wait_until

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from tests.support import Project

OPTIONS = (
    "poll_in", "jitter", "limit", "dedup_window", "history", "enabled", "completions", "on_batch_done", "store_args",
    "max_recoveries",
)  # fmt: skip
OPTIONS_NOT_YET = (
    "overlap", "low_water", "max_interval", "min_interval", "source_key", "max_queue_depth", "window", "tenants_ttl",
    "preflight_ttl", "error_rules", "retry_classified", "starvation",
)  # fmt: skip

ATTRIBUTES = ("poll_every", "next_batch", "max_in_flight", "poll_timeout", "lease", "on_lost")
ATTRIBUTES_NOT_YET = ("tenants", "preflight")

SETTINGS = (
    "store_url", "key_prefix", "base_scheduler", "leader_ttl", "cycle_interval", "poll_threads",
    "max_abandoned_polls", "completions", "completion_ttl", "queue_ttl", "tombstone_ttl", "events_maxlen",
    "on_store_lost", "store_timeout", "store_wait", "disabled", "lease_ttl", "heartbeat_interval", "sweep_limit",
    "leases", "store_down",
)  # fmt: skip
SETTINGS_NOT_YET = (
    "starvation", "starvation_spawn",
    "max_pool_grow", "error_policies", "classifiers", "preflight_fatal", "tenants_ttl", "preflight_ttl",
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
    """Tell the store that a task has ended, as a worker does."""
    perpetual.announcer.announce(TaskEnd(task_id=task_id, task="deliver", status="success"))


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


def queued_tasks(client: redis.Redis) -> list[str]:
    """Names of the tasks whose messages wait, oldest first."""
    return [json.loads(message)["headers"]["task"] for message in reversed(client.lrange("celery", 0, -1))]


def test_option_poll_in(project: Callable[..., Project]) -> None:
    """With ``poll_in="worker"`` beat does not call ``next_batch``, but sends a task that does."""
    proj = project(
        """
        @app.task(base=PerpetualTask, poll_every=3600, next_batch=lambda: ledger.record("polled in beat"),
                  perpetual_options=PerpetualOptions(poll_in="worker"))
        def deliver(): ...
        """
    )
    proj.beat().ready()

    wait_until(lambda: queued_tasks(proj.redis) == ["celery_perpetual.poll"], "the poll is on its way to a worker")
    assert proj.rows() == []


@pytest.mark.parametrize("jitter", [0, 20])
def test_option_jitter(shop: Callable[..., Perpetual], jitter: float) -> None:
    """Slots stay on the grid, but are polled up to ``jitter`` later, and not all equally late."""
    perpetual = shop(list, poll_every=60, perpetual_options=PerpetualOptions(jitter=jitter))
    cadence = discover(perpetual.app).tasks["deliver"].cadence
    due, late = 1_000_000, []
    for _ in range(20):
        found = cadence.occurrence(due, 1_000_000, "", due)
        assert (found.slot - 1_000_000) % 60_000 == 0
        late.append(due - found.slot)
        due = found.following

    assert all(0 <= each <= jitter * 1000 for each in late)
    assert (len(set(late)) > 10) is (jitter > 0)


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


def test_option_completions(project: Callable[..., Project]) -> None:
    """With ``completions=False`` the ends of a task are settled, but not announced."""
    proj = project(
        """
        for name, announced in (("silent", False), ("loud", True)):
            @app.task(name=name, base=PerpetualTask, poll_every=3600, next_batch=lambda: [()],
                      perpetual_options=PerpetualOptions(completions=announced))
            def deliver(): ...
        """
    )
    silent, loud = proj.run_python(
        "from proj import *; print(*perpetual.poll('silent').task_ids, *perpetual.poll('loud').task_ids)"
    ).split()
    proj.worker(pool="solo").ready()

    wait_until(lambda: proj.redis.exists(f"perpetual:completion:{loud}"), "the end is announced")
    assert not proj.redis.exists(f"perpetual:completion:{silent}")
    assert proj.redis.hget("perpetual:u:perpetual:silent", "inflight") == "0"


def test_option_on_batch_done(shop: Callable[..., Perpetual], raw_redis: redis.Redis) -> None:
    """``on_batch_done`` is sent when the last item of a batch has ended."""
    options = PerpetualOptions(on_batch_done=signature("report"))
    perpetual = shop(lambda: [(1,), (2,)], perpetual_options=options)
    ids = perpetual.poll("deliver").task_ids

    finish(perpetual, ids[0])
    assert queued_tasks(raw_redis) == ["deliver", "deliver"]
    finish(perpetual, ids[1])

    wait_until(lambda: queued_tasks(raw_redis) == ["deliver", "deliver", "report"], "the report is sent")


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


def begin(perpetual: Perpetual, task_id: str) -> Execution | str:
    """Ask for a lease, as a worker does that has received the task's message."""
    perpetual.grants.be_a_worker("host")
    return perpetual.grants.start(perpetual.app.tasks["deliver"], task_id, {NONCE: uuid4().hex})


def lose(perpetual: Perpetual, *ids: str) -> Swept:
    """Let a worker begin tasks and die, and sweep."""
    for task_id in ids:
        assert isinstance(begin(perpetual, task_id), Execution)
    store = perpetual.store
    for worker in store.redis.zrange(store.keys.workers, 0, -1):
        store.redis.zadd(store.keys.workers, {worker: 1})
    return Sweep(perpetual.app, perpetual.grants).once()


def test_attribute_lease(shop: Callable[..., Perpetual]) -> None:
    """A task runs under a lease, unless it says ``lease = False``."""
    for given, guarded in (({}, True), ({"lease": True}, True), ({"lease": False}, False)):
        perpetual = shop(lambda: [(1,)], **given)
        task = perpetual.app.tasks["deliver"]
        assert perpetual.grants.guards(task, "an id", {"perpetual": 1}) is guarded


@pytest.mark.parametrize(
    ("on_lost", "sent", "status"), [("requeue", 2, "pending"), ("fail", 1, "lost"), ("park", 1, "needs_attention")]
)
def test_attribute_on_lost(
    shop: Callable[..., Perpetual], raw_redis: redis.Redis, on_lost: str, sent: int, status: str
) -> None:
    """``on_lost`` says what becomes of a task whose worker is gone."""
    perpetual = shop(lambda: [(1,)], on_lost=on_lost)
    (task_id,) = perpetual.poll("deliver").task_ids

    lose(perpetual, task_id)

    assert len(queued_tasks(raw_redis)) == sent
    assert perpetual.completion(task_id).status == status
    assert [lease.task_id for lease in perpetual.parked()] == ([task_id] if on_lost == "park" else [])


@pytest.mark.parametrize("most", [0, 1])
def test_option_max_recoveries(shop: Callable[..., Perpetual], most: int) -> None:
    """A task is sent again as often as ``max_recoveries`` says; then it is parked."""
    perpetual = shop(lambda: [(1,)], perpetual_options=PerpetualOptions(max_recoveries=most))
    (task_id,) = perpetual.poll("deliver").task_ids

    for _ in range(most):
        lose(perpetual, task_id)
        assert perpetual.parked() == []
    lose(perpetual, task_id)

    assert [lease.recoveries for lease in perpetual.parked()] == [most + 1]


def test_setting_sweep_limit(shop: Callable[..., Perpetual]) -> None:
    """One pass takes no more leases of dead workers than ``perpetual_sweep_limit``."""
    perpetual = shop(lambda: [(n,) for n in range(5)], {"perpetual_sweep_limit": 2})

    swept = lose(perpetual, *perpetual.poll("deliver").task_ids)

    assert (swept.leases, len(perpetual.leases())) == (2, 3)


def test_setting_lease_ttl(shop: Callable[..., Perpetual]) -> None:
    """A worker that has reported counts as alive for ``perpetual_lease_ttl``."""
    perpetual = shop(lambda: [(1,)], {"perpetual_lease_ttl": 7})
    begin(perpetual, *perpetual.poll("deliver").task_ids)

    (lease,) = perpetual.leases()

    assert lease.deadline is not None
    assert (lease.deadline - lease.started_at).total_seconds() == 7


def test_setting_heartbeat_interval(project: Callable[..., Project]) -> None:
    """A worker reports every ``perpetual_heartbeat_interval``, however long a lease is."""
    proj = project("", perpetual_lease_ttl=3600, perpetual_heartbeat_interval=0.1)
    proj.worker(pool="solo").ready()
    (key,) = wait_until(lambda: proj.redis.keys("perpetual:w:*"), "the worker has reported")
    seen = set()

    def three_reports() -> bool:
        seen.add(proj.redis.hget(key, "at"))
        return len(seen) == 3

    wait_until(three_reports, "three reports")


@pytest.mark.parametrize(("leases", "token"), [("perpetual", "None"), ("all", "1")])
def test_setting_leases(project: Callable[..., Project], leases: str, token: str) -> None:
    """With ``all``, tasks that are not perpetual run under a lease too."""
    proj = project(
        """
        @app.task
        def ordinary():
            ledger.record(perpetual.lease_token())
        """,
        perpetual_leases=leases,
    )
    proj.worker(pool="solo").ready()
    proj.run_python("from proj import *; ordinary.delay()")

    assert [row.id for row in wait_until(proj.rows, "it ran")] == [token]


def test_setting_store_down(shop: Callable[..., Perpetual]) -> None:
    """A task that cannot ask for its lease runs without one, or waits until the store answers."""
    dead = {"perpetual_store_url": f"redis://127.0.0.1:{free_port()}/0", "perpetual_store_timeout": 0.2}
    alone = begin(shop(list, {**dead, "perpetual_store_down": "run"}), "an id")
    assert isinstance(alone, Execution)
    assert not alone.leased

    answers: list[Execution | str] = []
    perpetual = shop(lambda: [(1,)], {"perpetual_store_down": "hold", "perpetual_store_timeout": 0.2})
    (task_id,) = perpetual.poll("deliver").task_ids
    perpetual.store.redis.client_pause(1000)
    waiting = threading.Thread(target=lambda: answers.append(begin(perpetual, task_id)))
    waiting.start()
    waiting.join(30)

    (answer,) = answers
    assert isinstance(answer, Execution)
    assert answer.leased


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
    beat.wait_for_log("timed out", count=2)

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
    """What is left of an end stays for as long as its setting says."""
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

    beat.wait_for_log("the store was lost")
    wait_until(lambda: proj.redis.get("perpetual:leader"), "it leads again")
    assert bool(proj.redis.hexists("perpetual:paused", "perpetual:proj.fetch")) is paused


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
