"""A cursor never passes an item that was left out because its key was taken."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from celery_perpetual import Batch, Item, PerpetualOptions, Retries
from tests.support import wait_until
from tests.support.contract import finish

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.support.watched_app import WatchedApp


class Feed:
    """Changes of rows, read from a cursor on; a change is (number, row)."""

    def __init__(self, one: WatchedApp, **options: Any) -> None:
        self.changes: list[tuple[int, int]] = []
        self.one = one
        self.task = one.task([], next_batch=self.next_batch, **options)

    def next_batch(self, poll: Any) -> Batch:
        after = poll.cursor or 0
        found = [(number, row) for number, row in self.changes if number > after]
        return Batch([Item((row,), key=row) for _, row in found], cursor=found[-1][0] if found else after)

    def poll(self) -> Any:
        return self.one.perpetual.poll(self.task)

    def end(self, task_id: str) -> None:
        finish(self.one.perpetual, task_id)


@pytest.fixture
def one(watched_app: Callable[..., WatchedApp]) -> WatchedApp:
    return watched_app()


def test_the_second_change_of_a_row_in_flight_is_worked_on(one: WatchedApp) -> None:
    """The batch waits as a whole, and is enqueued once the row's task has ended; nothing is enqueued twice."""
    feed = Feed(one)
    feed.changes = [(1, 10), (2, 20)]
    first = feed.poll()
    assert (first.status, first.count, first.cursor) == ("enqueued", 2, 2)

    feed.changes += [(3, 10), (4, 30)]
    held = [feed.poll() for _ in range(3)]

    assert {(each.status, each.gate, each.value, each.count) for each in held} == {("skipped", "items_in_flight", 1, 0)}
    assert one.perpetual.cursor(feed.task) == 2
    assert any("its cursor would pass them" in reason.evidence for reason in one.perpetual.why(feed.task).reasons)

    feed.end(first.task_ids[0])
    ended = one.perpetual.store.now()
    # A poll that begins in the millisecond of the end may have read its rows before it.
    wait_until(lambda: one.perpetual.store.now() > ended, "that millisecond is over")
    then = feed.poll()

    assert (then.status, then.count, then.cursor) == ("enqueued", 2, 4)
    assert one.perpetual.cursor(feed.task) == 4


def test_an_item_that_ends_while_its_batch_is_read_holds_the_cursor(one: WatchedApp) -> None:
    """Its row was read before the end, so what changed since may not have been seen by the task."""
    feed = Feed(one)
    feed.changes = [(1, 10)]
    (task_id,) = feed.poll().task_ids
    feed.changes += [(2, 10)]
    usual = feed.next_batch

    def ends_meanwhile(poll: Any) -> Batch:
        batch = usual(poll)
        feed.end(task_id)
        return batch

    feed.task.next_batch = ends_meanwhile
    held = feed.poll()
    feed.task.next_batch = usual
    then = feed.poll()

    assert (held.status, held.gate) == ("skipped", "items_in_flight")
    assert (then.status, then.count, then.cursor) == ("enqueued", 1, 2)


def test_a_batch_of_nothing_but_taken_items_does_not_move_the_cursor(one: WatchedApp) -> None:
    """Without anything new to enqueue the poll would have ended as empty, with the cursor moved."""
    feed = Feed(one)
    feed.changes = [(1, 10)]
    feed.poll()
    feed.changes += [(2, 10)]

    held = feed.poll()

    assert (held.status, held.gate) == ("skipped", "items_in_flight")
    assert one.perpetual.cursor(feed.task) == 1


def test_with_a_window_repeats_are_dropped_by_intention(one: WatchedApp) -> None:
    """``dedup_window`` says that a key which comes again within it is no new work."""
    feed = Feed(one, perpetual_options=PerpetualOptions(dedup_window=60))
    feed.changes = [(1, 10)]
    feed.poll()
    feed.changes += [(2, 10), (3, 30)]

    then = feed.poll()

    assert (then.status, then.count, then.duplicates, then.cursor) == ("enqueued", 1, 1, 3)


@pytest.mark.parametrize("window", [0, 60])
def test_the_second_change_of_a_row_that_has_failed_is_worked_on(one: WatchedApp, window: float) -> None:
    """The batch waits until the row's back-off is over; a window drops repeats, but not work that has failed."""
    feed = Feed(
        one, perpetual_options=PerpetualOptions(failed_keys=Retries(backoff=0.5, jitter=False), dedup_window=window)
    )
    feed.changes = [(1, 10)]
    finish(one.perpetual, feed.poll().task_ids[0], "failure")
    feed.changes += [(2, 10), (3, 30)]

    held = feed.poll()

    assert (held.status, held.gate, held.value, held.held_back) == ("skipped", "items_held_back", 1, 1)
    assert one.perpetual.cursor(feed.task) == 1

    if not window:
        wait_until(lambda: feed.poll().status == "enqueued", "the back-off is over")
        assert one.perpetual.cursor(feed.task) == 3
