"""The public names as a user's typed code uses them; ``mypy --strict`` must find nothing in it. Never run."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime, timedelta, timezone
from typing import Any

from celery import Celery
from celery.schedules import crontab
from typing_extensions import assert_type

from celery_perpetual import (
    AlreadyExists,
    Batch,
    BatchResult,
    BatchTooLarge,
    Completion,
    ContractError,
    Defer,
    ErrorClass,
    ErrorRule,
    IdempotencyConflict,
    InvalidItem,
    InvalidRoutine,
    Item,
    NotFound,
    NotSuccessful,
    Pause,
    Perpetual,
    PerpetualError,
    PerpetualOptions,
    PerpetualScheduler,
    PerpetualTask,
    Poll,
    PollOutcome,
    Retries,
    Routine,
    RoutineBusy,
    RoutineRun,
    RoutineTerminal,
    SettingsError,
    Skip,
    StaleVersion,
    StoreUnavailable,
    TaskLost,
    UnknownTask,
    UnknownUnit,
)
from celery_perpetual.health.findings import Finding
from celery_perpetual.operations.forcing import Forced
from celery_perpetual.operations.units import Unit
from celery_perpetual.operations.why import Explanation
from celery_perpetual.pauses import Paused

app = Celery("shop", broker="redis://")

# ---- wiring

perpetual = Perpetual(app)
later = Perpetual()
assert_type(later.init_app(app), Perpetual)
assert_type(perpetual.app, Celery)

# ---- what next_batch may be


def due() -> list[Item]:
    return [Item((1,), {"fast": True}, key=1, queue="slow", priority=3), Item(kwargs={"order": 1}, key="1")]


def due_by_poll(poll: Poll) -> list[Any]:
    assert_type(poll.task, str)
    assert_type(poll.tenant, Any)
    assert_type(poll.poll_id, str)
    assert_type(poll.slot, datetime)
    assert_type(poll.trigger, str)
    assert_type(poll.limit, int)
    assert_type(poll.room, int)
    assert_type(poll.attempt, int)
    assert_type(poll.late_by, float)
    assert_type(poll.last_polled_at, datetime | None)
    assert_type(poll.keys(), set[str])
    return [(1, "two"), {"order": 1}, Item(task="shop.other", key=False), deliver.s(1), Item(task=deliver)]


def one_by_one(poll: Poll) -> Iterator[tuple[int, ...]]:
    yield (poll.room,)


def with_cursor(poll: Poll) -> Batch | Skip | Defer | Pause | None:
    if poll.attempt > 3:
        return Pause("the source is gone")
    if poll.attempt:
        return Defer(timedelta(minutes=1)) if poll.attempt > 1 else Defer(30)
    if poll.room < 10:
        return Skip("too little room")
    if poll.cursor is None:
        return None
    return Batch(due(), cursor={"after": 7}, more=True, watermark=datetime.now(timezone.utc))


async def soon(poll: Poll) -> list[Item]:
    return [Item((poll.room,))]


# ---- tenants

assert_type(perpetual.tenant(), Any)
assert_type(perpetual.tenant_context("acme").get("id", lambda: 7, ttl=timedelta(hours=1)), int)
perpetual.tenant_context().forget("id")
perpetual.include("shop.accounts")

# ---- tasks

OPTIONS = PerpetualOptions(
    poll_in="worker",
    jitter=timedelta(seconds=1),
    limit=500,
    dedup_window=timedelta(minutes=5),
    history=10,
    enabled=True,
    completions=True,
    on_batch_done=app.signature("shop.report"),
    store_args=False,
    failed_keys=Retries(max_attempts=5, backoff=timedelta(seconds=10)),
    error_rules=(ErrorRule(KeyError, ErrorClass.PERMANENT), ErrorRule((OSError, ValueError), backoff=(10, 600))),
)
assert_type(OPTIONS.limit, int)
assert_type(OPTIONS.dedup_window, float)
assert_type(OPTIONS.enabled, bool)


@app.task(base=PerpetualTask, poll_every=30, next_batch=due)
def deliver(order: int, *, fast: bool = False) -> None: ...


@app.task(
    base=PerpetualTask,
    poll_every=crontab(minute="*/5"),
    next_batch=with_cursor,
    max_in_flight=100,
    poll_timeout=timedelta(seconds=20),
    perpetual_options=OPTIONS,
)
def fetch(feed: str) -> int:
    return len(feed)


@app.task(base=PerpetualTask, poll_every=timedelta(minutes=5), next_batch=soon)
def follow(room: int) -> None:
    perpetual.annotate(room=room)


class Sync(PerpetualTask):
    name = "shop.sync"
    poll_every = timedelta(minutes=1)
    max_in_flight = 10
    perpetual_options = PerpetualOptions(limit=10)

    def next_batch(self, poll: Poll) -> list[Item]:
        return [Item((poll.limit,))]

    def run(self, number: int) -> str:
        return str(number)


sync = app.register_task(Sync())


def more(task: PerpetualTask) -> None:
    @task.batch
    def orders(poll: Poll) -> list[Item]:
        return [Item((poll.limit,))]

    assert_type(orders.__name__, str)


# ---- operations


def operate() -> None:
    outcome = perpetual.poll(deliver)
    assert_type(outcome, PollOutcome)
    assert_type(outcome.task_ids, list[str])
    assert_type(outcome.slot, datetime)
    assert_type(outcome.error, str | None)
    assert_type(outcome.count, int)
    assert_type(outcome.to_dict(), dict[str, Any])
    assert_type(perpetual.poll("shop.deliver").status, str)
    assert_type(perpetual.polls(deliver, limit=5), list[PollOutcome])
    assert_type(perpetual.units(), list[Unit])
    assert_type(perpetual.units()[0].next_poll_at, datetime | None)
    assert_type(perpetual.units()[0].to_dict(), dict[str, Any])
    assert_type(perpetual.why(deliver), Explanation)
    assert_type(perpetual.check(), list[Finding])
    assert_type(perpetual.check()[0].level, str)
    paused = perpetual.pause(deliver, reason="holidays", until=datetime.now(timezone.utc) + timedelta(days=1))
    assert_type(paused, Paused)
    assert_type(perpetual.pause(everything=True, reason="everything").until, datetime | None)
    assert_type(perpetual.resume(deliver, from_="kept"), bool)
    cursor: Any = perpetual.cursor(deliver)
    perpetual.pause(cursor)


def wait(ids: list[str]) -> None:
    completion = perpetual.wait(ids[0], timeout=5)
    assert_type(completion, Completion)
    assert_type(completion.ok, bool)
    assert_type(completion.status, str)
    assert_type(completion.error, dict[str, str] | None)
    assert_type(completion.finished_at, datetime | None)
    assert_type(completion.meta, dict[str, Any])
    assert_type(completion.to_dict(), dict[str, Any])
    assert_type(perpetual.completion(ids[0]), Completion)
    assert_type(perpetual.wait_any(ids, timedelta(seconds=5)), dict[str, Completion])
    assert_type(perpetual.wait_all(ids, 5), dict[str, Completion])
    for each in perpetual.as_completed(ids, timeout=5):
        assert_type(each, Completion)
    batch = perpetual.wait_batch(ids[0], timeout=5)
    assert_type(batch, BatchResult)
    assert_type(batch.by_status, dict[str, int])
    assert_type(perpetual.channel(ids[0]), str)
    assert_type(next(perpetual.subscribe()), Completion)
    assert_type(next(perpetual.stream("group", "consumer")).completion, Completion | None)
    try:
        completion.raise_for_status()
    except TaskLost:
        pass
    except NotSuccessful as error:
        assert_type(str(error), str)


async def wait_for_them(ids: list[str]) -> None:
    assert_type(await perpetual.aio.wait(ids[0], timeout=5), Completion)
    assert_type(await perpetual.aio.wait_all(ids, 5), dict[str, Completion])
    assert_type(await perpetual.aio.wait_any(ids, 5), dict[str, Completion])
    assert_type(await perpetual.aio.wait_batch(ids[0], 5), BatchResult)
    async for each in perpetual.aio.as_completed(ids, timeout=5):
        assert_type(each, Completion)


def steer() -> None:
    assert_type(perpetual.nudge(deliver), bool)
    perpetual.set_cursor(deliver, {"after": 7})
    perpetual.reset_cursor("shop.deliver")
    perpetual.preview(deliver, cursor=None)


def have_the_last_word(ids: list[str]) -> None:
    assert_type(perpetual.recover(ids[0]), bool)
    assert_type(perpetual.recover(ids, reason="the disk has room"), list[Forced])
    assert_type(perpetual.release([deliver.delay(1)]), list[Forced])
    assert_type(perpetual.fail(ids[0], "bad address"), bool)
    assert_type(perpetual.cancel(ids, once=True), list[Forced])
    assert_type(perpetual.retry(ids[0]), str | None)
    assert_type(perpetual.retry(ids)[0].new_task_id, str | None)
    assert_type(perpetual.replay(ids[0], only_failed=False), PollOutcome)
    assert_type(perpetual.drain(timedelta(minutes=5)).completed, bool)
    assert_type(perpetual.rebuild().repaired["open"], int)
    assert_type(perpetual.stats().cycles, int)
    assert_type(perpetual.cycle().parked_ids, tuple[str, ...])


def recover(error: PerpetualError) -> str:
    try:
        raise error
    except (UnknownTask, UnknownUnit, NotFound, LookupError):
        return "look up"
    except (SettingsError, InvalidItem, BatchTooLarge, ValueError):
        return "value"
    except (AlreadyExists, IdempotencyConflict, StaleVersion):
        return "stored by another one"
    except (RoutineBusy, RoutineTerminal):
        return "not now"
    except (ContractError, StoreUnavailable) as known:
        return str(known)


def routines() -> None:
    routine = perpetual.routines.create("shop.report", kwargs={"user": 7}, every=timedelta(hours=6), retries=Retries(3))
    assert_type(routine.created, bool)
    assert_type(routine.next_run_at, datetime | None)
    every = crontab(hour="8")
    perpetual.routines.create(deliver, [1], schedule=every, timezone="Europe/Berlin", id="one", metadata={"user": 7})
    assert_type(perpetual.routines.run_due(limit=10), list[RoutineRun])
    try:
        perpetual.routines.update(routine.id, every=5, if_version=routine.version)
    except InvalidRoutine as error:
        assert_type(error.field, str)


async def routines_of_a_loop() -> None:
    routine = await perpetual.aio.routines.create(deliver, every=60.5, paused=True)
    assert_type(await perpetual.aio.routines.update(routine.id, args=[2], retries=None), Routine)
    assert_type(await perpetual.aio.routines.list(state="active", limit=7), list[Routine])


def scheduler() -> float:
    return PerpetualScheduler(app, lazy=True).tick()
