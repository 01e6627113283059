"""Code of the user's that hangs after a commit, or after an end: it takes neither all threads of a beat nor of a worker."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from itertools import count
from typing import TYPE_CHECKING, Any

import pytest

from celery_perpetual import Item, PerpetualOptions, PerpetualTask
from celery_perpetual.completions.announce import MOST_FOLLOWING
from tests.support import wait_until
from tests.support.contract import finish, nothing
from tests.support.leading import LeadingClock

if TYPE_CHECKING:
    from tests.support.watched_app import WatchedApp

# That is how the threads of a clock are ended here.
pytestmark = pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")


class Sender:
    """A base class for tasks that send themselves, and do so only when the test says so."""

    def __init__(self) -> None:
        self.go_on, go_on = (threading.Event(),) * 2

        class Hangs(PerpetualTask):
            abstract = True

            def apply_async(self, *args: Any, **options: Any) -> Any:
                assert go_on.wait(60)
                return super().apply_async(*args, **options)

        self.base = Hangs


@pytest.fixture
def sender() -> Iterator[Sender]:
    sender = Sender()
    yield sender
    sender.go_on.set()


def test_a_unit_whose_items_are_sent_by_code_that_hangs_holds_up_no_other(
    watched_app: Callable[..., WatchedApp], sender: Sender
) -> None:
    """Each of its batches is committed; the threads that hang over them are replaced, and it is not polled meanwhile."""
    one, keys = watched_app(), count()
    options: dict[str, Any] = {"shared": False, "poll_every": 0.05}
    one.app.task(
        base=sender.base, name="hangs", poll_timeout=0.3, next_batch=lambda: [Item(key=next(keys))], **options
    )(nothing)
    one.app.task(base=PerpetualTask, name="plain", next_batch=lambda: None, **options)(nothing)
    clock = LeadingClock(one.perpetual, threads=2)
    try:
        clock.until_polled("plain", 60)
        (skipped,) = one.perpetual.polls("hangs", limit=1)
        assert (skipped.status, skipped.gate) == ("skipped", "hanging")
        assert skipped.reason is not None
        assert skipped.reason.startswith("publishing the batch of poll ")

        sender.go_on.set()
        wait_until(lambda: clock.turn() or one.perpetual.polls("hangs", limit=1)[0].count, "it is polled again")
    finally:
        sender.go_on.set()
        clock.close()


def test_ends_whose_follow_up_hangs_leave_it_to_the_cycle(
    watched_app: Callable[..., WatchedApp], sender: Sender
) -> None:
    """A worker goes on ending tasks, and does not begin a thread for each: every message is sent in the end."""
    one, more = watched_app(), 8
    done = one.app.task(base=sender.base, name="done", shared=False)(nothing)
    keys = count()
    task = one.task(
        [], next_batch=lambda: [Item(key=next(keys))], perpetual_options=PerpetualOptions(on_batch_done=done.si())
    )
    polls = [one.perpetual.poll(task) for _ in range(MOST_FOLLOWING + more)]
    ids = [task_id for poll in polls for task_id in poll.task_ids]
    before = set(threading.enumerate())

    for task_id in ids:
        finish(one.perpetual, task_id)

    assert len(set(threading.enumerate()) - before) == MOST_FOLLOWING
    sender.go_on.set()
    wait_until(lambda: one.redis.zcard("perpetual:batches") == more, "the threads have ended")
    wait_until(lambda: one.perpetual.cycle() and not one.redis.exists("perpetual:batches"), "a cycle has done the rest")
    sent = [message["headers"]["task"] for message in one.messages()]
    assert sent.count("done") == MOST_FOLLOWING + more
