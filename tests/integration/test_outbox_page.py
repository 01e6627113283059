"""The program of docs/outbox.md: full batches, a bad event, a crash between effect and mark; on a leading beat's clock."""

from __future__ import annotations

import re
from contextlib import closing
from datetime import datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from tests.support import wait_until
from tests.support.contract import finish
from tests.support.leading import LeadingClock

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from celery import Celery

# That is how the threads of a clock are ended here.
pytestmark = pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")

PAGE = (Path(__file__).parents[2] / "docs" / "outbox.md").read_text(encoding="utf-8")
(PROGRAM,) = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
# A shared task would come up in the apps of later tests as well.
PROGRAM = PROGRAM.replace("@app.task(", "@app.task(shared=False, ")


class Shop:
    """The program, its clock, and workers that are this test."""

    def __init__(self, folder: Path, url: str) -> None:
        self.names: dict[str, Any] = {"__name__": "shop"}
        exec(PROGRAM.replace("redis://", url).replace("shop.sqlite3", str(folder / "shop.sqlite3")), self.names)
        self.perpetual, self.relay, self.sent = self.names["perpetual"], self.names["relay"], self.names["SENT"]
        self.clock = LeadingClock(self.perpetual)

    def pay(self, *numbers: int) -> None:
        for number in numbers:
            self.names["pay_invoice"](number)

    def execute(self, statement: str) -> Any:
        with closing(self.names["database"]()) as db, db:
            return db.execute(statement).fetchone()

    def pending(self) -> int:
        (found,) = self.execute("select count(*) from outbox where done_at is null")
        return int(found)

    def poll(self) -> Any:
        """Poll now, until nothing follows at once; return the newest outcome."""
        before = self.polled()
        self.perpetual.nudge(self.relay)

        def is_quiet() -> bool:
            self.clock.turn()
            if self.polled() == before or self.clock.threads.running:
                return False
            next_at = self.perpetual.units()[0].next_poll_at
            return next_at is not None and next_at.timestamp() * 1000 > self.perpetual.store.now() + 1000

        wait_until(is_quiet, "polls have ended", timeout=20, interval=0.005)
        return self.perpetual.polls(self.relay)[0]

    def polled(self) -> int:
        """How often the unit has been polled; equal outcomes are folded."""
        return sum(poll.repeated for poll in self.perpetual.polls(self.relay))

    def work(self) -> int:
        """Run every item in flight, as workers do; return how many failed."""
        failed = 0
        for item in self.perpetual.items(self.relay):
            if item.task_id is None:
                continue
            try:
                self.relay(int(item.key))
            except self.names["UnknownTopic"] as error:
                failed += 1
                finish(self.perpetual, item.task_id, "failure", error)
            else:
                finish(self.perpetual, item.task_id)
        return failed


@pytest.fixture
def shop(make_app: Callable[..., Celery], redis_url: str, tmp_path: Path) -> Iterator[Shop]:
    shop = Shop(tmp_path, redis_url)
    yield shop
    shop.clock.close()
    shop.perpetual.store.close()
    shop.perpetual.app.close()


def test_a_full_batch_is_followed_by_the_rest(shop: Shop) -> None:
    """Twenty-five events: twenty by the first poll, five by the next one, at once; the lag is in the outcomes."""
    shop.pay(*range(25))
    shop.poll()
    polls = shop.perpetual.polls(shop.relay)[::-1]

    assert [(poll.trigger, poll.count) for poll in polls] == [("schedule", 20), ("drain", 5)]
    (oldest,) = shop.execute("select min(created_at) from outbox")
    assert abs(polls[0].watermark - datetime.fromisoformat(oldest)) < timedelta(milliseconds=1)
    assert shop.work() == 0
    assert (shop.pending(), len(shop.sent)) == (0, 25)


def test_bad_events_delay_no_other(shop: Shop) -> None:
    """Nineteen of twenty are done and the bad one stays pending; twenty bad ones hide nothing that is behind them."""
    shop.pay(*range(20))
    shop.execute("update outbox set topic = 'no such' where id = 7")
    shop.poll()
    assert (shop.work(), shop.pending()) == (1, 1)
    poll = shop.poll()
    assert (poll.status, poll.held_back) == ("empty", 1)

    shop.pay(*range(20))
    shop.execute("update outbox set topic = 'no such' where done_at is null")
    shop.poll()
    assert (shop.work(), shop.pending()) == (20, 21)
    shop.pay(99)
    poll = shop.poll()
    assert (poll.count, poll.held_back) == (1, 21)
    assert (shop.work(), shop.pending()) == (0, 21)


def test_a_crash_between_effect_and_mark_repeats_the_effect_under_its_number(shop: Shop) -> None:
    """So that the other side does nothing the second time; and a row that is marked is not worked on again."""
    shop.pay(1)
    asked: list[int] = []

    def crashes(event: int, payload: dict[str, Any]) -> None:
        asked.append(event)
        shop.sent.setdefault(event, payload)
        if len(asked) == 1:
            raise SystemExit

    shop.names["HANDLERS"]["invoice.paid"] = crashes
    with pytest.raises(SystemExit):
        shop.relay(1)
    assert shop.pending() == 1
    assert (shop.relay(1), shop.relay(1)) == ("done", "done before")
    assert asked == [1, 1]
    assert shop.sent == {1: {"invoice": 1}}


def test_what_is_in_flight_is_not_enqueued_again(shop: Shop) -> None:
    """Rows are not marked by the poll: their keys say so, also to the beat that leads next."""
    shop.pay(1, 2)
    assert shop.poll().count == 2
    shop.pay(3)
    poll = shop.poll()
    assert (poll.count, poll.duplicates) == (1, 2)
