"""Item keys that have failed: remembered, held back, parked, forgotten."""

from __future__ import annotations

import json
from functools import partial
from typing import TYPE_CHECKING, Any

import pytest

from celery_perpetual import ContractError, Item, PerpetualOptions, Poll, Retries, StoreUnavailable
from celery_perpetual.completions.end import FIRST, TaskEnd
from tests.support import wait_until
from tests.support.contract import finish

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.support.watched_app import WatchedApp

DEFAULT = Retries()
UNIT = "perpetual:app.work"
FAILED, FAILURES = f"perpetual:failed:{UNIT}", f"perpetual:failures:{UNIT}"


class Rows:
    """Rows that are due until their task has succeeded, read as the README reads them."""

    def __init__(self, one: WatchedApp, rows: int = 1, retries: Retries | None = DEFAULT, **options: Any) -> None:
        self.due = list(range(rows))
        self.one, self.polls = one, list[Poll]()
        options = {
            "perpetual_options": PerpetualOptions(failed_keys=retries, limit=options.pop("limit", 10_000)),
            **options,
        }
        self.task = one.task([], next_batch=self.next_batch, **options)

    def next_batch(self, poll: Poll) -> list[Item]:
        self.polls.append(poll)
        return [Item((row,), key=row) for row in self.due[: poll.limit]]

    def poll(self) -> Any:
        return self.one.perpetual.poll(self.task)

    def fail(self, task_id: str, status: str = "failure", error: Exception | None = None) -> None:
        finish(self.one.perpetual, task_id, status, error)
        # An end in the millisecond in which a poll begins makes a duplicate.
        ended, store = self.one.perpetual.store.now(), self.one.perpetual.store
        wait_until(lambda: store.now() > ended, "the store's clock goes on", interval=0.0005)

    def until(self, key: object = 0) -> float:
        """Seconds from the last failure of a key to the end of its hold."""
        (at,) = self.one.redis.zmscore(FAILED, [str(key)])
        return (float(at) - int(self.one.redis.hget(FAILURES, str(key)).split("|")[1])) / 1000

    def is_offered_again(self) -> list[str]:
        return wait_until(lambda: self.poll().task_ids, "the key is free again")  # type: ignore[no-any-return]


@pytest.fixture
def one(watched_app: Callable[..., WatchedApp]) -> WatchedApp:
    return watched_app()


@pytest.mark.parametrize("status", ["failure", "revoked", "expired", "rejected", "ignored", "lost"])
def test_every_end_but_success_is_remembered(one: WatchedApp, status: str) -> None:
    """How often, when, how and why are on record, and the key is left out."""
    rows = Rows(one, retries=Retries(jitter=False))
    rows.fail(rows.poll().task_ids[0], status, ValueError("no such address | é" + "ü" * 300))

    then = rows.poll()

    count, _, how, error = one.redis.hget(FAILURES, "0").split("|", 3)
    assert (count, how, error[:32]) == ("1", status, "ValueError: no such address | éü")
    assert len(error.encode()) <= 300
    assert (then.status, then.count, then.duplicates, then.held_back) == ("empty", 0, 0, 1)
    assert rows.until() == 30
    assert rows.polls[-1].keys() == {"0"}


def test_waits_grow_with_each_failure_in_a_row(one: WatchedApp) -> None:
    """The curve is that of the option, up to its longest wait."""
    rows = Rows(one, retries=Retries(backoff=0.02, multiplier=3, max_backoff=0.1, jitter=False))
    waits = []
    for _ in range(4):
        rows.fail(rows.is_offered_again()[0])
        waits.append(rows.until())

    assert waits == [0.02, 0.06, 0.1, 0.1]


def test_jitter_spreads_keys_and_is_repeatable(one: WatchedApp) -> None:
    """A wait is longer by up to a quarter; that of one failure of one key is always the same."""
    rows = Rows(one, rows=20, retries=Retries(backoff=60))
    for task_id in rows.poll().task_ids:
        rows.fail(task_id)
    waits = [rows.until(key) for key in range(20)]
    one.redis.delete(FAILED, FAILURES)
    for task_id in rows.poll().task_ids:
        rows.fail(task_id)

    assert [rows.until(key) for key in range(20)] == waits
    assert len(set(waits)) > 15
    assert all(60 <= wait <= 75 for wait in waits)


def test_a_success_forgets_the_failures(one: WatchedApp) -> None:
    """Nothing is left of them, and a later failure is the first again."""
    rows = Rows(one, rows=2, retries=Retries(backoff=0))
    for task_id in rows.poll().task_ids:
        rows.fail(task_id)
    first, second = rows.is_offered_again()
    finish(one.perpetual, first)
    rows.fail(second)

    assert one.redis.hkeys(FAILURES) == ["1"]
    assert one.redis.zrange(FAILED, 0, -1) == ["1"]
    assert one.redis.hget(FAILURES, "1").startswith("2|")
    rows.fail(rows.is_offered_again()[0])
    assert one.redis.hget(FAILURES, "0").startswith("1|")


def test_a_key_that_has_failed_too_often_is_parked(one: WatchedApp) -> None:
    """After ``max_attempts`` it is left out for good, with an event; switching the option off does not free it."""
    rows = Rows(one, retries=Retries(max_attempts=2, backoff=0))
    for _ in range(2):
        rows.fail(rows.is_offered_again()[0], error=ValueError("bad row"))

    assert rows.poll().held_back == 1
    assert one.redis.zscore(FAILED, "0") == float("inf")
    alerts = [
        json.loads(data["data"])
        for _, data in one.redis.xrange("perpetual:events")
        if data["event"] == "alert.key_parked"
    ]
    assert len(alerts) == 1
    at = alerts[0].pop("at")
    assert at.endswith("Z")
    assert alerts == [{"unit": UNIT, "key": "0", "count": 2, "status": "failure", "error": "ValueError: bad row"}]


def test_nothing_is_remembered_where_the_option_is_off(one: WatchedApp) -> None:
    """The row is due again at the next poll."""
    rows = Rows(one, retries=None)
    rows.fail(rows.poll().task_ids[0])

    assert rows.poll().count == 1
    assert not one.redis.exists(FAILED, FAILURES)


def test_a_success_does_not_look_for_failures_where_there_are_none(one: WatchedApp) -> None:
    """It would meet these keys of a wrong type."""
    rows = Rows(one, rows=2)
    first, second = rows.poll().task_ids
    one.redis.set(FAILED, "spoilt")
    one.redis.set(FAILURES, "spoilt")

    assert one.perpetual.announcer.announce_now(TaskEnd(task_id=first, task="app.work", status="success")) == FIRST
    with pytest.raises(StoreUnavailable):
        one.perpetual.announcer.announce_now(TaskEnd(task_id=second, task="app.work", status="failure"))


def test_old_failures_are_trimmed_with_the_next_one(one: WatchedApp) -> None:
    """A key that has not come again for a week after its hold is forgotten."""
    rows = Rows(one, rows=2)
    rows.fail(rows.poll().task_ids[0])
    one.redis.zadd(FAILED, {"gone": one.perpetual.store.now() - 8 * 24 * 3600 * 1000})
    one.redis.hset(FAILURES, "gone", "1|1|failure|")
    (second,) = one.redis.hvals(f"perpetual:keys:{UNIT}")
    rows.fail(second)

    assert sorted(one.redis.hkeys(FAILURES)) == ["0", "1"]
    assert sorted(one.redis.zrange(FAILED, 0, -1)) == ["0", "1"]


def test_the_limit_counts_in_what_is_left_out(one: WatchedApp) -> None:
    """A query that stops at ``poll.limit`` reaches the rows behind those in flight, held back or parked."""
    rows = Rows(one, rows=20, limit=5, retries=Retries(max_attempts=2, backoff=60))
    first = rows.poll()
    for task_id in first.task_ids[:3]:
        rows.fail(task_id)
    second = rows.poll()

    assert [(poll.limit, poll.room) for poll in rows.polls] == [(5, 10_000), (5 + 5, 10_000 - 2)]
    assert (second.count, second.duplicates, second.held_back) == (5, 2, 3)
    preview = one.perpetual.preview(rows.task)
    assert (preview.count, preview.read, preview.bound) == (5, 15, "limit")
    third = rows.poll()
    assert (third.count, rows.polls[-1].limit) == (5, 5 + 3 + 2 + 5)
    assert rows.polls[-1].keys() == {str(row) for row in range(15)}


def test_the_limit_is_bounded_by_the_room(one: WatchedApp) -> None:
    """An item in flight needs room, and is read once more."""
    rows = Rows(one, rows=20, max_in_flight=8)
    counts = [rows.poll().count, rows.poll().status]

    preview = one.perpetual.preview(rows.task)
    assert (preview.count, preview.read, preview.bound) == (0, 8, "max_in_flight")
    assert counts == [8, "skipped"]
    finish(one.perpetual, one.redis.hget(f"perpetual:keys:{UNIT}", "0"))
    rows.due.remove(0)
    assert rows.poll().count == 1
    assert (rows.polls[-1].limit, rows.polls[-1].room) == (1 + 7, 1)


@pytest.mark.parametrize("end", ["cancel", "fail"])
def test_an_operators_end_holds_the_key_until_it_is_allowed(one: WatchedApp, end: str) -> None:
    """It parks the key also without the option; with ``once`` the next poll enqueues it again. It takes AsyncResult."""
    rows = Rows(one, rows=2, retries=None)
    ends = {"cancel": one.perpetual.cancel, "fail": partial(one.perpetual.fail, reason="bad row")}[end]
    held, free = rows.poll().task_ids

    assert ends(one.app.AsyncResult(held)) is True
    assert ends(free, once=True) is True
    assert ends(held) is False
    then = wait_until(lambda: (found := rows.poll()).count and found, "the other one is offered again")

    assert (then.count, then.held_back) == (1, 1)
    assert one.redis.zrange(FAILED, 0, -1, withscores=True) == [("0", float("inf"))]
    (unit,) = one.perpetual.units()
    assert (unit.held_back, unit.parked_keys) == (0, 1)
    assert one.perpetual.preview(rows.task).held_back == 1
    assert one.perpetual.allow(rows.task, 0) is True
    assert rows.poll().count == 1


@pytest.mark.parametrize(
    "task_id", ["typo", "57cdd8a1-c030-4542-b90e-f8635ec1a311", "01a1fa18-c0de-80d8-8c2b-697300000825"]
)
def test_an_id_that_is_not_known_cannot_be_ended(one: WatchedApp, task_id: str) -> None:
    """Nothing is written, and its waiters hear nothing."""
    keys = set(one.redis.keys("perpetual:*"))

    assert one.perpetual.fail(task_id, "no such task") is False
    assert one.perpetual.cancel(task_id) is False

    assert set(one.redis.keys("perpetual:*")) == keys
    with pytest.raises(ContractError, match="a task id must be a non-empty string, or the AsyncResult of the task"):
        one.perpetual.cancel(7)  # type: ignore[arg-type]


@pytest.mark.parametrize("most", [None, 1])
def test_an_operator_allows_a_key(one: WatchedApp, most: int | None) -> None:
    """A key that is held back or parked is explained, and free at once when it is allowed; its failures are forgotten."""
    rows = Rows(one, retries=Retries(max_attempts=most))
    rows.fail(rows.poll().task_ids[0], error=ValueError("bad row"))
    assert rows.poll().held_back == 1
    what = "1 item key is " + ("parked" if most else "held back") + "; the last ended as failure: ValueError: bad row"
    assert what in [reason.evidence for reason in one.perpetual.why(rows.task).reasons]

    assert one.perpetual.allow(rows.task, 0) is True
    assert one.perpetual.allow(rows.task, 0) is False
    assert rows.poll().count == 1
    assert not one.redis.exists(FAILED, FAILURES)
