"""Records and arguments that this process cannot read: each is the matter of its own routine."""

from __future__ import annotations

import logging
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import pytest

from celery_perpetual import InvalidRoutine, Retries
from celery_perpetual.ledger.item import HIDDEN
from celery_perpetual.routines.due import DueRuns
from tests.support.waiting import wait_until

if TYPE_CHECKING:
    from datetime import datetime

    from tests.support.routines import World

STRANGE = b"9 of another release"


class OnlyThere:
    """An argument whose class the test takes away, as another program has it and this one has not."""


@pytest.fixture
def missing(world: World, now: datetime, monkeypatch: pytest.MonkeyPatch) -> str:
    """A routine whose arguments cannot be read here, and one behind it."""
    pickled = {"serializer": "pickle"}
    world.routines.create("app.work", (OnlyThere(),), id="there", at=now - timedelta(seconds=1), options=pickled)
    world.create("seen", id="here", at=now)
    monkeypatch.delattr(f"{__name__}.OnlyThere")
    return "there"


def reports(caplog: pytest.LogCaptureFixture, routine_id: str, name: str) -> list[str]:
    """The log records of one event about a routine."""
    return [
        each.getMessage()
        for each in caplog.records
        if getattr(each, "event", "") == f"perpetual.{name}" and routine_id in each.getMessage()
    ]


def test_a_run_in_this_process_whose_arguments_cannot_be_read(world: World, missing: str) -> None:
    """It is this routine's failure, with the reason; the one behind it runs."""
    first, second = world.run()

    assert (first.routine_id, first.status) == (missing, "failure")
    assert first.error is not None
    assert "OnlyThere" in first.error["message"]
    assert (second.routine_id, second.result) == ("here", ["seen"])
    found = world.routines.get(missing)
    assert (found.state, found.last_error, found.run_count) == ("exhausted", first.error, 1)


def test_a_routine_is_shown_without_arguments_that_cannot_be_read(
    world: World, missing: str, now: datetime, caplog: pytest.LogCaptureFixture
) -> None:
    """It is listed, paused, changed and cancelled like any other; new arguments replace those."""
    until = now + timedelta(seconds=1)
    lists = world.routines.list(), world.routines.list_due(until), world.routines.list(id=missing)

    assert [{each.id for each in found} for found in lists] == [{missing, "here"}, {missing, "here"}, {missing}]
    (shown,) = lists[2]
    assert (shown.args, shown.kwargs, shown.hides_args, shown.options) == ((), {}, True, {"serializer": "pickle"})
    assert (shown.to_dict()["args"], shown.to_dict()["kwargs"]) == HIDDEN
    assert reports(caplog, missing, "routine.arguments_unreadable")

    assert world.routines.pause(missing).state == "paused"
    assert world.routines.update(missing, metadata={"a": 1}).metadata == {"a": 1}
    assert world.routines.resume(missing).state == "active"
    with pytest.raises(InvalidRoutine, match="give both args and kwargs") as refused:
        world.routines.update(missing, args=(1,))
    assert refused.value.field == "args"
    changed = world.routines.update(missing, args=(1,), kwargs={}, options={})
    assert (changed.args, changed.hides_args) == ((1,), False)
    assert world.routines.cancel(missing).state == "cancelled"


def test_a_record_that_could_not_be_read_is_tried_again(
    world: World, now: datetime, caplog: pytest.LogCaptureFixture
) -> None:
    """Another release that has written it once may write it anew; it is reported once."""
    caplog.set_level(logging.ERROR)
    world.create(id="r", at=now)
    store = world.perpetual.store
    text = store.redis.hget(store.keys.routines, "r")
    store.redis.hset(store.keys.routines, "r", STRANGE)
    runs = DueRuns(world.app, store, world.perpetual.runner.publisher)

    def read() -> list[Any]:
        found = runs.read()
        assert found is not None
        return [name for name, _ in found.records]

    assert read() == ["r"]
    for _ in range(3):
        assert world.routines.run_due() == world.run() == []
        assert list(runs.run(None, None)) == []
        assert read() == []
    assert len(reports(caplog, "r", "routine.unreadable")) == 2, "once by each of the two"

    store.redis.hset(store.keys.routines, "r", text)
    assert read() == ["r"]
    assert [run.routine_id for run in world.routines.run_due()] == ["r"]


def test_retries_are_read_also_where_their_jitter_is_a_number(world: World, now: datetime) -> None:
    """Records were once written that way."""
    made = world.create(id="r", at=now, retries=Retries(max_attempts=2, jitter=False))
    store = world.perpetual.store
    text = store.redis.hget(store.keys.routines, "r")
    assert b",false]" in text
    store.redis.hset(store.keys.routines, "r", text.replace(b",false]", b",0]"))

    assert world.routines.get("r").retries == made.retries


def test_the_end_of_a_run_by_hand_that_was_started_before_its_routine(world: World, now: datetime) -> None:
    """The store's clock stepped back between the two: the last run of a routine is its run whenever it was made."""
    world.create(id="r", at=now + timedelta(days=30))
    run = world.routines.run_now("r")
    store = world.perpetual.store
    text = store.redis.hget(store.keys.routines, "r")
    later = str(world.perpetual.store.now() + 3_600_000).encode()
    created = b'"c":%d' % int(world.routines.get("r").created_at.timestamp() * 1000)
    assert created in text
    store.redis.hset(store.keys.routines, "r", text.replace(created, b'"c":' + later))

    world.ends(run, result=["mine"])

    wait_until(lambda: world.routines.get("r").last_result == ["mine"], "the result is noted")
