"""The cost of units whose polls find nothing, and that nothing is seen later for it."""

from __future__ import annotations

import threading
import time
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest

from celery_perpetual import Item, PerpetualOptions, PerpetualTask, Poll
from celery_perpetual.beat import poll_source
from celery_perpetual.beat.due import DueUnits
from celery_perpetual.beat.engine import Engine
from celery_perpetual.beat.poll_source import MANY_ENDS
from celery_perpetual.polling.claims import Claim, Claims
from celery_perpetual.polling.end import PollEnd
from celery_perpetual.store.commands.units import unit_facts
from celery_perpetual.tasks.discovery import discover
from celery_perpetual.tasks.unit import TaskUnit
from tests.support import wait_until
from tests.support.contract import nothing
from tests.support.leading import LEADER, LeadingClock

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tests.support.watched_app import WatchedApp

# That is how the threads of a clock are ended here.
pytestmark = pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")


class Idle:
    """A task with one unit whose ``next_batch`` finds nothing, and the clock that polls it."""

    def __init__(
        self, one: WatchedApp, next_batch: Callable[..., Any] = lambda: None, every: float = 3600, **more: Any
    ) -> None:
        self.app = one.app
        self.redis = one.redis
        self.perpetual = one.perpetual
        options: dict[str, Any] = {"base": PerpetualTask, "shared": False, "poll_every": every, **more}
        one.app.task(name="idle", next_batch=next_batch, **options)(nothing)
        self.clock = LeadingClock(one.perpetual)

    def end(self) -> PollEnd:
        """The end of a poll by hand, which is not stored."""
        claim = Claims(self.perpetual.store).by_hand(TaskUnit(discover(self.app).tasks["idle"]))
        assert isinstance(claim, Claim)
        return self.perpetual.runner.poll(claim)

    def calls(self, command: str) -> int:
        found: dict[str, Any] = self.redis.info("commandstats").get(f"cmdstat_{command}", {})
        return int(found.get("calls", 0))


@pytest.fixture
def idle(watched_app: Callable[..., WatchedApp]) -> Iterator[Callable[..., Idle]]:
    made: list[Idle] = []

    def make(*args: Any, **options: Any) -> Idle:
        made.append(Idle(watched_app(), *args, **options))
        return made[-1]

    yield make
    for each in made:
        each.clock.close()


def test_the_store_is_not_asked_what_is_known(idle: Callable[..., Idle]) -> None:
    """A poll costs one call for each of what is due, its claim and its end, however often the clock turns meanwhile."""
    one = idle()
    one.clock.until_polled("idle")
    one.perpetual.nudge("idle")
    one.redis.config_resetstat()
    begun = time.monotonic()

    one.clock.until_polled("idle", 2)
    for _ in range(200):
        one.clock.turn()

    asked = 1 + (time.monotonic() - begun) / 0.5
    assert one.calls("evalsha") <= 2 + asked
    assert one.calls("hset") == 2


def test_a_nudge_from_elsewhere_is_seen_within_half_a_second(idle: Callable[..., Idle]) -> None:
    """The clock knows that nothing is due for an hour, and asks all the same."""
    one = idle()
    one.clock.until_polled("idle")
    one.clock.turn()

    one.perpetual.nudge("idle")

    assert [poll.trigger for poll in one.clock.until_polled("idle", 2)][-1] == "nudge"


def test_a_nudge_during_the_poll_is_seen_with_its_end(idle: Callable[..., Idle]) -> None:
    """The end of the poll makes the unit due at once, and the clock asks at its next turn."""
    begun, may_end = threading.Event(), threading.Event()

    def slow() -> None:
        begun.set()
        assert may_end.wait(20)

    one = idle(slow)
    wait_until(lambda: (one.clock.turn(), begun.is_set())[1], "the poll has begun", interval=0.005)
    one.perpetual.nudge("idle")
    may_end.set()
    wait_until(lambda: one.clock.threads._ends, "the poll has ended")

    one.clock.source.begin_storing()()

    assert isinstance(one.clock.source.due(LEADER), DueUnits)


def test_a_slot_during_the_poll_is_seen_with_its_end(idle: Callable[..., Idle]) -> None:
    """The clock has seen that the unit is polled, and asks again when that poll has ended."""
    begun, may_end = threading.Event(), threading.Event()

    def slow() -> None:
        begun.set()
        assert may_end.wait(20)

    one = idle(slow, every=0.05)
    wait_until(lambda: (one.clock.turn(), begun.is_set())[1], "the poll has begun", interval=0.005)
    store = one.perpetual.store
    wait_until(lambda: store.redis.zscore("perpetual:due", "perpetual:idle") <= store.now(), "its next slot has come")
    one.clock.source._reader.forget()
    wait_until(
        lambda: (one.clock.turn(), one.clock.source._reader.pause > 0)[1], "no unit can be polled", interval=0.005
    )
    may_end.set()
    wait_until(lambda: one.clock.threads._ends, "the poll has ended")

    one.clock.source.begin_storing()()

    assert isinstance(one.clock.source.due(LEADER), DueUnits)


def test_a_poll_whose_gate_is_closed_ends_with_the_next_turn(idle: Callable[..., Idle]) -> None:
    """No thread wakes the clock for it, so the clock takes no rest: the claim would be open for half a second."""
    one = idle(lambda: [Item()], perpetual_options=PerpetualOptions(overlap="skip"))
    one.clock.until_polled("idle")
    one.perpetual.nudge("idle")
    source = one.clock.source
    found = wait_until(
        lambda: (source.begin_storing()(), due)[1] if isinstance(due := source.due(LEADER), DueUnits) else None,
        "the unit is due", interval=0.005,
    )  # fmt: skip

    assert source.start(source.claim(LEADER, found)) == 0.0
    source.begin_storing()()

    assert one.perpetual.polls("idle")[0].gate == "overlap"


def test_polls_come_at_each_slot(idle: Callable[..., Idle]) -> None:
    """The next slot is known from the claim, also where another unit is due after hours."""
    one = idle(every=0.05)

    polls = one.clock.until_polled("idle", 12)

    assert sum(poll.repeated for poll in polls) >= 12
    assert polls[-1].trigger == "schedule"


def test_a_limit_that_is_not_read_costs_nothing(idle: Callable[..., Idle]) -> None:
    """It is counted once, when ``next_batch`` reads it first."""
    limits: list[int] = []
    reads = threading.Event()

    def read(poll: Poll) -> None:
        if reads.is_set():
            limits.extend((poll.limit, poll.limit))

    one = idle(read)
    one.redis.config_resetstat()
    one.clock.until_polled("idle")
    assert (one.calls("hlen"), one.calls("zcount"), limits) == (1, 0, [])  # the length is that of the pauses

    reads.set()
    one.perpetual.nudge("idle")
    one.clock.until_polled("idle", 2)
    assert (one.calls("zcount"), limits) == (1, [10_000, 10_000])


def test_few_ends_wait_for_a_unit_that_is_due_soon(idle: Callable[..., Idle], monkeypatch: pytest.MonkeyPatch) -> None:
    """They are stored with its claim, and wake no clock; many are stored at once, and so are all where none is due."""
    one = idle()
    wakes: list[None] = []
    one.clock.source.call_when_ready(lambda: wakes.append(None))
    one.clock.until_polled("idle")
    wait_until(lambda: (one.clock.turn(), one.clock.source._reader.pause > 0)[1], "nothing is due", interval=0.005)
    end = one.end()
    one.clock.threads.has_ended(end)
    one.clock.source.begin_storing()()
    assert one.clock.threads.ends_waiting == 0

    monkeypatch.setattr(poll_source, "TOGETHER", 60)
    monkeypatch.setattr(poll_source, "LONGEST_PAUSE", 60)
    one.redis.zadd("perpetual:due", {"perpetual:idle": one.perpetual.store.now() + 50_000})
    one.clock.source._reader.forget()
    one.clock.turn()
    ends = [replace(end, claim=replace(end.claim, poll_id=f"poll {n}")) for n in range(MANY_ENDS)]
    del wakes[:]

    for each in ends[:-1]:
        one.clock.threads.has_ended(each)
    assert 0 < one.clock.source.begin_storing()() < 60
    assert one.clock.threads.ends_waiting == MANY_ENDS - 1
    one.clock.threads.on_end(True)
    assert wakes == []
    one.clock.threads.on_end(False)
    assert wakes == [None]

    one.clock.threads.has_ended(ends[-1])
    one.clock.source.begin_storing()()
    assert one.clock.threads.ends_waiting == 0


def test_a_unit_with_a_short_interval_waits_for_no_other(
    idle: Callable[..., Idle], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its next slot may be a hundredth of a second away."""
    one = idle(every=0.5)
    monkeypatch.setattr(poll_source, "TOGETHER", 60)

    one.clock.until_polled("idle", 3)


def test_the_health_of_a_unit_costs_one_command_where_its_polls_are_quick(idle: Callable[..., Idle]) -> None:
    """The newest outcome is read where the poll may have taken its whole interval, has failed, or goes on."""
    one = idle()
    one.clock.until_polled("idle")
    redis, store = one.redis, one.perpetual.store
    unit = store.keys.unit("perpetual:idle")

    def newest() -> str | None:
        return unit_facts(store, ["perpetual:idle"], 1.0, brief=True)[0].newest_outcome

    slot = redis.hget(unit, "slot")
    newest()  # the store knows the script
    redis.config_resetstat()
    assert newest() is None
    assert (one.calls("hmget"), one.calls("lindex")) == (1, 0)

    for field, value in (("slot", int(slot) - 3_600_000), ("slot", int(slot) + 3_600_000), ("attempt", 1)):
        redis.hset(unit, mapping={"slot": slot, "attempt": 0})
        redis.hset(unit, field, value)
        redis.config_resetstat()
        newest()
        assert (field, one.calls("lindex")) == (field, 1)


def test_ends_that_wait_are_stored_before_a_lead_is_given_up(idle: Callable[..., Idle]) -> None:
    """Their polls were not abandoned."""
    one = idle()
    one.clock.threads.has_ended(one.end())

    Engine(one.perpetual)._let_go(LEADER, one.perpetual.runner, one.clock.threads)

    assert [poll.status for poll in one.perpetual.polls("idle")] == ["empty"]
    assert one.clock.threads.running == []
