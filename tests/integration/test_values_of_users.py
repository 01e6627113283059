"""Values that code of users changes, or that not every reader of JSON can read."""

from __future__ import annotations

import json
import math
from datetime import datetime, timedelta, timezone
from typing import TYPE_CHECKING, Any

import pytest

from celery_perpetual import Batch, ContractError, Item, PerpetualOptions, Poll
from celery_perpetual.leases.execution import Execution
from tests.support import wait_until
from tests.support.contract import finish
from tests.support.leading import LeadingClock

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.support.watched_app import WatchedApp

#: Python's form of the byte 0xFF in text that is not UTF-8: an argument of a command, the name of a file.
HALF = "\udcff"


@pytest.fixture
def one(watched_app: Callable[..., WatchedApp]) -> WatchedApp:
    return watched_app()


def test_a_cursor_may_be_changed_in_place(one: WatchedApp) -> None:
    """It does not pass what is in flight either; a failed poll has changed nothing for the next one."""
    given: list[Any] = []

    def next_batch(poll: Poll) -> Batch:
        cursor = poll.cursor or {"seen": []}
        given.append(json.dumps(cursor))
        cursor["seen"].append(len(given))
        return Batch([Item((1,), key="row")], cursor=cursor)

    task = one.task([], next_batch=next_batch)
    first = one.perpetual.poll(task)
    second, third = one.perpetual.poll(task), one.perpetual.poll(task)

    assert (first.status, first.cursor) == ("enqueued", {"seen": [1]})
    assert [(each.status, each.gate) for each in (second, third)] == [("skipped", "items_in_flight")] * 2
    assert given == ['{"seen": []}', '{"seen": [1]}', '{"seen": [1]}']


def test_a_tenant_may_be_changed_in_place(one: WatchedApp) -> None:
    """The next poll, and other code of the user, gets it as it was."""
    given: list[Any] = []

    def next_batch(poll: Poll) -> list[Any]:
        given.append((poll.tenant.pop("shard"), one.perpetual.tenant().pop("shard")))
        return []

    task = one.task([], next_batch=next_batch, tenants=[{"key": "a", "shard": 7}])

    assert [one.perpetual.poll(task, "a").status for _ in range(2)] == ["empty", "empty"]
    assert given == [(7, 7)] * 2


@pytest.mark.parametrize("value", [math.nan, [math.inf]])
def test_a_cursor_is_json(one: WatchedApp, value: Any) -> None:
    """Numbers that JSON does not have are refused: other programs could not read the outcome of the poll."""
    task = one.task([], next_batch=lambda: Batch([(1,)], cursor=value))
    outcome = one.perpetual.poll(task)

    assert (outcome.status, one.perpetual.cursor(task)) == ("failed", None)
    assert "ContractError: app.work.next_batch: the cursor must be a JSON value" in str(outcome.error)
    nested: list[Any] = []
    for _ in range(2000):
        nested = [nested]
    for each in (value, nested):
        with pytest.raises(ContractError, match=r"cursor of app.work must be a JSON value"):
            one.perpetual.set_cursor(task, each)


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_a_pause_ends_whatever_its_reason(one: WatchedApp) -> None:
    """Scripts read its end too, and poll the unit from then on."""
    task, clock = one.task([]), LeadingClock(one.perpetual)
    until = datetime.now(timezone.utc) + timedelta(seconds=0.3)
    paused = one.perpetual.pause(task, reason=f"migration{HALF}", until=until)
    clock.turn()
    assert paused.reason == "migration?"
    assert one.perpetual.polls(task) == []

    wait_until(lambda: not one.perpetual.pauses.now(), "it is over")
    one.perpetual.nudge(task)
    clock.until_polled(task)
    clock.close()


def test_the_error_of_a_key_is_kept_whatever_its_text(one: WatchedApp) -> None:
    """Of an error that names a file, for example."""
    task = one.task([], next_batch=lambda: [Item((1,), key="row")])
    (task_id,) = one.perpetual.poll(task).task_ids
    finish(one.perpetual, task_id, "failure", FileNotFoundError(f"/files/{HALF}"))

    (item,) = one.perpetual.items(task)
    assert item.error == "failure: FileNotFoundError: /files/?"


def test_the_event_of_a_parked_item_is_its_record(one: WatchedApp) -> None:
    """Large numbers keep their digits, and empty lists stay lists."""
    task = one.task(
        [], next_batch=lambda: [Item((1234567890123456789, []), key="row")],
        perpetual_options=PerpetualOptions(max_recoveries=0),
    )  # fmt: skip
    (task_id,) = one.perpetual.poll(task).task_ids
    one.perpetual.grants.be_a_worker("host")
    execution = Execution(task_id=task_id, nonce="1")
    one.perpetual.grants.start(task, execution, {})
    assert one.perpetual.grants.release(task_id, "1", "lost", "its worker is gone") == "parked"

    (event,) = [json.loads(data["data"]) for _, data in one.redis.xrange("perpetual:events")
                if data["event"] == "completion"]  # fmt: skip
    record = json.loads(one.redis.get(f"perpetual:completion:{task_id}"))
    assert event == {**record, "at": record["finished_at"]}
    assert record["arguments"] == [[1234567890123456789, []], {}]
