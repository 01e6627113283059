"""Ends of polls that are stored in one call: what goes wrong with one of them is no matter of the others."""

from __future__ import annotations

import json
import logging
import threading
import time
from typing import TYPE_CHECKING, Any

import pytest
from celery import Celery

from celery_perpetual import Item, Perpetual, PerpetualTask
from celery_perpetual.beat.due import LONGEST, DueReader
from celery_perpetual.embedded import EmbeddedServer
from celery_perpetual.events import POLL_NOT_STORED, POLL_SUPERSEDED
from celery_perpetual.polling.claims import Claim, Claims
from celery_perpetual.polling.closing import PollEnds
from celery_perpetual.polling.due_lines import Due
from celery_perpetual.polling.end import PollEnd
from celery_perpetual.polling.outcome import outcomes
from celery_perpetual.polling.runner import Runner
from celery_perpetual.polling.threads import PollThreads
from celery_perpetual.tasks.discovery import discover
from celery_perpetual.tasks.unit import TaskUnit
from tests.support import wait_until
from tests.support.event_log import logged
from tests.support.leading import Ending

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator


# That is how threads that never end are ended here.
pytestmark = pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")

NAMES = ("one", "two", "three")


class Shop:
    """Three tasks whose polls find nothing, and what beat has to run them."""

    def __init__(self, url: str, next_batch: Callable[[], Any] = lambda: None) -> None:
        app = Celery("shop", broker=url, set_as_current=False)
        self.perpetual = Perpetual(app)

        def nothing(number: int) -> None:
            pass

        for name in NAMES:
            app.task(base=PerpetualTask, poll_every=60, next_batch=next_batch, name=name, shared=False)(nothing)
        app.finalize()
        contracts = discover(app).tasks
        self.units = {name: TaskUnit(contract) for name, contract in contracts.items()}
        self.store = self.perpetual.store
        self.redis = self.store.redis
        self.runner = Runner(app, self.store)
        self.ends = PollEnds(self.store.clone())

    def claim(self, name: str) -> Claim:
        claim = Claims(self.store).by_hand(self.units[name])
        assert isinstance(claim, Claim)
        return claim

    def end(self, name: str) -> PollEnd:
        end = self.runner.poll(self.claim(name))
        assert isinstance(end, PollEnd)
        return end

    def statuses(self, name: str) -> list[str]:
        return [outcome.status for outcome in outcomes(self.store, self.units[name].name, 10)]

    def open(self, name: str) -> bool:
        return bool(self.redis.hexists(self.store.keys.unit(self.units[name].name), "claim"))


@pytest.fixture
def poll_threads() -> Iterator[Callable[..., PollThreads]]:
    """Poll threads that end with the test."""
    made: list[Any] = []

    def make(run: Callable[[Claim], object], size: int) -> PollThreads:
        made.append(PollThreads(run, size, 0))
        made[-1]._queue = Ending()
        return made[-1]

    yield make
    for threads in made:
        for _ in range(threads._threads):
            threads._queue.put(None)


@pytest.fixture
def shop(redis_url: str) -> Iterator[Shop]:
    shop = Shop(redis_url)
    shop.redis.flushdb()
    yield shop
    shop.store.close()


def test_all_are_stored_with_one_call(shop: Shop) -> None:
    """Each poll has its outcome, its event, and its claim is closed."""
    shop.ends.begin([shop.end("one")])()  # the store knows the script
    ends = [shop.end(name) for name in NAMES]
    shop.redis.config_resetstat()

    shop.ends.begin(ends)()

    calls = shop.redis.info("commandstats")
    assert calls["cmdstat_evalsha"]["calls"] == 1
    assert calls["cmdstat_xadd"]["calls"] == 3
    assert [shop.statuses(name) for name in NAMES] == [["empty"]] * 3
    assert not any(shop.open(name) for name in NAMES)


def test_one_that_is_refused_changes_nothing_for_the_others(shop: Shop, caplog: pytest.LogCaptureFixture) -> None:
    """A claim that somebody else has taken over meanwhile."""
    ends = [shop.end(name) for name in NAMES]
    shop.redis.hset(shop.store.keys.unit(shop.units["two"].name), "claim", "somebody else's")

    shop.ends.begin(ends)()

    assert [shop.statuses(name) for name in NAMES] == [["empty"], [], ["empty"]]
    assert [event["unit"] for event in logged(caplog, POLL_SUPERSEDED)] == [shop.units["two"].name]


def test_one_whose_key_is_of_a_wrong_type_fails_alone(shop: Shop, caplog: pytest.LogCaptureFixture) -> None:
    """The call fails as a whole and has written nothing; then each is tried by itself."""
    ends = [shop.end(name) for name in NAMES]
    polls = shop.store.keys.polls(shop.units["two"].name)
    shop.redis.set(polls, "of a wrong type")

    shop.ends.begin(ends)()

    assert [shop.statuses(name) for name in ("one", "three")] == [["empty"], ["empty"]]
    assert (shop.open("two"), shop.redis.get(polls)) == (True, b"of a wrong type")
    assert shop.redis.xlen(shop.store.keys.events) == 2
    assert [event["unit"] for event in logged(caplog, POLL_NOT_STORED)] == [shop.units["two"].name]
    assert [record.levelno for record in caplog.records if record.levelno >= logging.ERROR] == [logging.ERROR]


def test_nobody_is_hurt_where_the_store_is_away(caplog: pytest.LogCaptureFixture) -> None:
    """Each poll is reported; the next call goes through as soon as the store is there."""
    with EmbeddedServer() as server:
        shop = Shop(server.url)
        ends = [shop.end(name) for name in NAMES]
    shop.ends.begin(ends)()

    units = [shop.units[name].name for name in NAMES]
    assert [event["unit"] for event in logged(caplog, POLL_NOT_STORED)] == units
    shop.store.close()


def test_scripts_that_the_store_has_forgotten_are_sent_again(shop: Shop) -> None:
    """A restart or SCRIPT FLUSH costs a call more."""
    for _ in range(2):
        shop.redis.script_flush()
        ends = [shop.end(name) for name in NAMES]
        shop.redis.script_flush()
        shop.ends.begin(ends)()

    assert [len(shop.statuses(name)) for name in NAMES] == [1, 1, 1]  # folded
    assert shop.redis.xlen(shop.store.keys.events) == 6


@pytest.mark.parametrize("when", ["before it is sent", "before its reply"])
def test_a_lost_connection_costs_a_call_more(shop: Shop, when: str) -> None:
    """Whether the store had the first sending or not, each end is stored once."""
    shop.ends.begin([shop.end("one")])()
    ends = [shop.end(name) for name in NAMES]
    connection = shop.ends.store.wire._idle[-1].connection

    if when == "before it is sent":
        shop.redis.client_kill_filter(_type="normal", skipme=True)
        finish = shop.ends.begin(ends)
    else:
        finish = shop.ends.begin(ends)
        wait_until(lambda: not shop.open("three"), "the store has had the call")
        connection.disconnect()
    finish()

    assert shop.redis.xlen(shop.store.keys.events) == 4
    assert not any(shop.open(name) for name in NAMES)


def test_a_thread_is_free_before_its_end_is_stored(shop: Shop, poll_threads: Callable[..., PollThreads]) -> None:
    """But open claims are never more than twice as many as threads."""
    threads = poll_threads(shop.runner.poll, 2)
    claims = [shop.claim(name) for name in NAMES]

    threads.start(*claims[:2])
    wait_until(lambda: threads.free == 2, "both have been evaluated")
    assert {claim.unit.name for claim in threads.running} == {"perpetual:one", "perpetual:two"}
    threads.start(claims[2])
    wait_until(lambda: threads.free == 1, "three ends wait, and one of them holds a place")
    time.sleep(0.05)
    assert threads.free == 1

    ends = threads.ended()
    shop.ends.begin(ends)()
    threads.were_stored(ends)
    assert (threads.free, threads.running, threads.ended()) == (2, [], [])


def test_a_poll_that_hangs_holds_up_no_end_and_no_other_poll(
    redis_url: str, poll_threads: Callable[..., PollThreads]
) -> None:
    """The ends of polls that came before it, beside it and after it can be stored while it hangs."""
    hang, seen = threading.Event(), []

    def next_batch() -> None:
        seen.append(1)
        if len(seen) == 2:
            hang.wait(30)

    shop = Shop(redis_url, next_batch)
    shop.redis.flushdb()
    threads = poll_threads(shop.runner.poll, 3)
    try:
        threads.start(*[shop.claim(name) for name in NAMES])
        wait_until(lambda: len(threads.running) == 3 and threads.free == 2, "two of three have ended")
        assert len(threads.ended()) == 2
    finally:
        hang.set()
        shop.store.close()


def test_a_batch_is_stored_by_its_own_thread(redis_url: str, poll_threads: Callable[..., PollThreads]) -> None:
    """A poll that enqueues commits its items before it counts as ended."""
    shop = Shop(redis_url, lambda: [Item((1,), key=False)])
    shop.redis.flushdb()
    threads = poll_threads(shop.runner.poll, 2)
    threads.start(shop.claim("one"))

    wait_until(lambda: not threads.running, "the poll has ended")
    assert (threads.ended(), shop.statuses("one")) == ([], ["enqueued"])
    shop.store.close()


def test_what_is_stored_has_all_fields(shop: Shop) -> None:
    """The text of an outcome is put together from two parts."""
    outcome = shop.end("one").outcome

    told = outcome.to_dict(task_ids=False)
    del told["cursor"]
    assert json.loads(outcome.to_json()) == {**told, "at": told["finished_at"]}


class Clockwork:
    """Claims of which so many units are due."""

    def __init__(self, due: int) -> None:
        self.left = [Due(f"unit {n}", n, None, "", suspect=False) for n in range(due)]
        self.asked: list[int] = []

    def due(self, leader: str, limit: int) -> tuple[int, int | None, list[Due]]:
        self.asked.append(limit)
        found, self.left = self.left[:limit], self.left[limit:]
        return 1000, None, found


def test_what_is_due_is_read_ahead() -> None:
    """One call of the store serves several turns of the clock; each unit is given once, in order."""
    claims: Any = Clockwork(20)
    ahead = DueReader(claims)

    found = [row.at for _ in range(7) for row in ahead.take("me:1", 3, 0.5).rows]

    assert found == list(range(20))
    assert claims.asked == [24]
    assert not ahead.take("me:1", 3, 0.5).rows


@pytest.mark.parametrize("why", ["another term", "too old", "forgotten"])
def test_what_was_read_ahead_is_read_again(why: str) -> None:
    """Another term, or too long ago."""
    claims: Any = Clockwork(20)
    ahead = DueReader(claims)
    ahead.take("me:1", 1, 0.5)

    if why == "too old":
        time.sleep(LONGEST * 1.5)
    elif why == "forgotten":
        ahead.forget()
    ahead.take("me:2" if why == "another term" else "me:1", 1, 0.5)

    assert len(claims.asked) == 2
