"""What a poll does with everything that next_batch may return, and when it takes place."""

from __future__ import annotations

import json
import time
from datetime import datetime, timedelta, timezone
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import pytest
import redis

from tests.support import wait_until
from tests.support.broker import queued
from tests.support.console import Console
from tests.support.outside import PollEvent, poll_events, seconds, statuses

if TYPE_CHECKING:
    from collections.abc import Callable

    from celery_perpetual.embedded import EmbeddedServer
    from tests.support import Project

# How late a poll may be where seven more processes want each core of the machine.
MOST_LAG = 2.0

# A perpetual task whose next_batch is the expression in a file: the test says what the next poll finds.
SAID = """
def said(poll):
    with open("says") as file:
        text = file.read()
    return eval(text, globals(), {"poll": poll})

def fail(error):
    raise error

@app.task(base=PerpetualTask, poll_every=3600, next_batch=said, max_in_flight=5, poll_timeout=20)
def work(number=None, **names):
    pass

@app.task
def other(text):
    pass
"""
UNIT = "perpetual:proj.work"


class Said:
    """A project whose ``proj.work`` finds what it is told, polled by hand."""

    def __init__(self, proj: Project, console: Console) -> None:
        self.proj, self.console = proj, console

    def poll(self, says: str) -> dict[str, Any]:
        """Let the next poll evaluate ``says``; return its outcome."""
        self.proj.write("says", says)
        outcome: dict[str, Any] = self.console("perpetual.poll('proj.work')")
        return outcome

    def newest(self) -> dict[str, Any]:
        """The newest stored outcome."""
        return dict(self.console("perpetual.polls(work)")[0])


@pytest.fixture
def said(project: Callable[..., Project]) -> Any:
    """A console on a project that finds what it is told."""
    proj = project(SAID)
    with Console(proj) as console:
        yield Said(proj, console)


def numbers(outcome: dict[str, Any]) -> tuple[str, int, int, int]:
    """How a poll ended and what it counted."""
    return outcome["status"], outcome["count"], outcome["duplicates"], outcome["left_out"]


WRONG = {
    "7": "InvalidItem: proj.work.next_batch returned int '7'; return a list",
    "Item((1,))": "InvalidItem: proj.work.next_batch returned Item",
    "work.si(1)": "InvalidItem: proj.work.next_batch returned Signature",
    "{'number': 1}": "InvalidItem: proj.work.next_batch returned dict",
    "[(1,), (2,), 3]": "InvalidItem: proj.work.next_batch, item 2: got int 3;",
    "[(1,), 'text']": "InvalidItem: proj.work.next_batch, item 1: got str 'text';",
    "[(1,), None]": "InvalidItem: proj.work.next_batch, item 1: got NoneType None;",
    "[work]": "InvalidItem: proj.work.next_batch, item 0: got ",
    "[(1,), Item((2,), key=1.5)]": "InvalidItem: proj.work.next_batch, item 1: key must be a str, an int",
    "[Item((1,), key=None)]": "InvalidItem: proj.work.next_batch, item 0: key must be a str, an int",
    "[Item((1,), key=True)]": "InvalidItem: proj.work.next_batch, item 0: key must be a str, an int",
    "[Item('1')]": "InvalidItem: proj.work.next_batch, item 0: args must be a tuple or list, got str '1'",
    "[(object(),)]": "InvalidItem: proj.work.next_batch, item 0: arguments cannot be serialised as json",
    "[(1, 2, 3)]": "InvalidItem: proj.work.next_batch, item 0: arguments do not fit proj.work",
    "[other.s()]": "InvalidItem: proj.work.next_batch, item 0: arguments do not fit proj.other",
    "[Item((1,), task=3)]": "InvalidItem: proj.work.next_batch, item 0: task must be a task or the name of one",
    "[Item((1,), task_id='x')]": "InvalidItem: proj.work.next_batch, item 0: option task_id cannot be given",
    "Batch([(1,)], cursor=object())": "ContractError: proj.work.next_batch: the cursor must be a JSON value",
    "Defer('soon')": "ContractError: proj.work.next_batch: Defer(after) must be seconds",
    "Defer(-1)": "ContractError: proj.work.next_batch: Defer(after) must be at least 0 seconds, got -1",
    "((number,) if number else fail(KeyError(number)) for number in (1, 0))": "KeyError: 0",
}


def taken(client: redis.Redis) -> set[str]:
    """Item keys in flight."""
    return set(client.hkeys(f"perpetual:keys:{UNIT}"))


# ---- what next_batch may return


def test_every_form_of_an_item_becomes_a_message(said: Said, store_redis: redis.Redis) -> None:
    """Item, tuple, list, dict and signature, of its own task or of another: arguments and options arrive unchanged."""
    outcome = said.poll("""(each for each in [Item((1,), {"a": None}), (2,), [3], {"number": 4, "b": [1.5, "ü"]}])""")
    assert numbers(outcome) == ("enqueued", 4, 0, 0)
    assert [(m.task, m.args, m.kwargs) for m in queued(store_redis)] == [
        ("proj.work", [1], {"a": None}),
        ("proj.work", [2], {}),
        ("proj.work", [3], {}),
        ("proj.work", [], {"number": 4, "b": [1.5, "ü"]}),
    ]
    assert [m.id for m in queued(store_redis)] == outcome["task_ids"]
    assert {m.headers["perpetual"] for m in queued(store_redis)} == {1}
    store_redis.flushdb()

    outcome = said.poll(
        """[other.si("hello"), other.s("aside").set(queue="aside"), Item(("elsewhere",), task="else.where", key="e"),
            Item(("later",), task=other, key="k", countdown=60, headers={"x": "y"})]"""
    )
    assert numbers(outcome) == ("enqueued", 4, 0, 0)
    hello, elsewhere, later = queued(store_redis)
    (aside,) = queued(store_redis, "aside")
    assert [(m.task, m.args) for m in (hello, aside, elsewhere, later)] == [
        ("proj.other", ["hello"]),
        ("proj.other", ["aside"]),
        ("else.where", ["elsewhere"]),
        ("proj.other", ["later"]),
    ]
    assert [hello.id, aside.id, elsewhere.id, later.id] == outcome["task_ids"]
    assert (later.headers["x"], hello.headers["eta"]) == ("y", None)
    assert 55 < seconds(later.headers["eta"]) - time.time() <= 60
    assert {"e", "k"} < taken(store_redis)


def test_a_wrong_result_is_an_error_and_enqueues_nothing(said: Said, store_redis: redis.Redis) -> None:
    """The error names task, index and type; the right items of that batch stay out too."""
    for attempt, (says, error) in enumerate(WRONG.items(), 1):
        outcome = said.poll(says)
        assert numbers(outcome) == ("failed", 0, 0, 0), says
        assert outcome["error"].startswith(error), says
        assert said.newest() == outcome
        assert said.console("perpetual.units()[0].attempt") == attempt
    assert store_redis.exists("celery", f"perpetual:keys:{UNIT}", "perpetual:outbox") == 0


@pytest.mark.parametrize(
    ("says", "status"),
    [
        pytest.param("Skip('one line\\nand another')", "skipped", id="two lines"),
        pytest.param("Skip(ValueError('closed today'))", "skipped", id="skip with an exception"),
        pytest.param("Pause(ValueError('closed today'))", "paused", id="pause with an exception"),
        pytest.param("fail(type('Mute', (Exception,), {'__str__': lambda self: 1 / 0})())", "failed", id="no text"),
        pytest.param("fail(ValueError('\\ud800 lone'))", "failed", id="no UTF-8"),
        pytest.param("fail(ValueError('x' * 1_000_000))", "failed", id="a long text"),
    ],
)
def test_an_awkward_reason_is_stored_like_any_other(
    said: Said, store_redis: redis.Redis, says: str, status: str
) -> None:
    """Whatever the text, the poll ends with its outcome, which can be read and does not fill the store."""
    outcome = said.poll(says)

    assert outcome["status"] == status
    assert said.newest()["status"] == status
    assert said.console("perpetual.units()[0].last_poll.status") == status
    assert said.console("perpetual.why(work).polls[0].status") == status
    assert store_redis.memory_usage(f"perpetual:polls:{UNIT}") < 100_000


def test_nothing_to_do(said: Said, store_redis: redis.Redis) -> None:
    """No items and None are polls that end as empty, a skip has its reason; runs of one kind are folded and counted."""
    for says in ("[]", "None", "iter(())", "Batch()"):
        assert numbers(said.poll(says)) == ("empty", 0, 0, 0)
    assert said.poll("Skip('closed on Sundays')")["reason"] == "closed on Sundays"
    said.poll("Skip('closed on Sundays')")
    said.poll("Skip('closed on Mondays')")

    stored = said.console("perpetual.polls('proj.work')")
    assert [(poll["status"], poll["reason"], poll["repeated"]) for poll in stored] == [
        ("skipped", "closed on Mondays", 1),
        ("skipped", "closed on Sundays", 2),
        ("empty", None, 4),
    ]
    assert statuses(store_redis, "proj.work") == ["empty"] * 4 + ["skipped"] * 3
    assert store_redis.exists("celery") == 0


# ---- item keys, room, cursor


def test_item_keys(said: Said, store_redis: redis.Redis) -> None:
    """The same key is the same work, whatever its form; without one the arguments are the key; False opts out."""
    assert numbers(said.poll("[Item((1,), key='7'), Item((2,), key=7), Item((3,), key='b')]")) == ("enqueued", 2, 1, 0)
    assert taken(store_redis) == {"7", "b"}
    assert [m.args for m in queued(store_redis)] == [[1], [3]]
    assert numbers(said.poll("[Item((4,), key=7), Item((1,), key='b')]")) == ("empty", 0, 2, 0)
    assert numbers(said.poll("[Item((), {'a': 1, 'b': 2}), Item(kwargs={'b': 2, 'a': 1})]")) == ("enqueued", 1, 1, 0)
    assert numbers(said.poll("[{'b': 2, 'a': 1}]")) == ("empty", 0, 1, 0)
    assert numbers(said.poll("[Item((1,), key=False)]")) == ("enqueued", 1, 0, 0)
    assert numbers(said.poll("[Item((1,), key=False)]")) == ("enqueued", 1, 0, 0)
    assert len(taken(store_redis)) == 3
    assert said.console("perpetual.units()[0].in_flight") == 5


def test_room_is_enforced(said: Said, store_redis: redis.Redis) -> None:
    """Of a plain result the first that fit are taken; a full unit is not asked; a batch with a cursor is never cut."""
    assert numbers(said.poll("[(0,), (1,), (1,), (2,)]")) == ("enqueued", 3, 1, 0)
    whole = said.poll("Batch([(0,), (5,), (6,), (7,)], cursor=7)")
    assert numbers(whole) == ("skipped", 0, 1, 0)
    assert (whole["gate"], whole["value"], whole["limit"]) == ("max_in_flight", 6, 5)
    assert said.console("perpetual.cursor('proj.work')") is None
    # Duplicates cost no room: (0,) is in flight, and two of the four new ones fit.
    assert numbers(said.poll("[(0,), (3,), (4,), (5,), (6,)]")) == ("enqueued", 2, 1, 2)
    full = said.poll("fail(AssertionError('it was asked'))")
    assert (full["status"], full["gate"], full["value"], full["limit"]) == ("skipped", "max_in_flight", 5, 5)
    assert [m.args for m in queued(store_redis)] == [[number] for number in range(5)]
    assert len(taken(store_redis)) == 5


def test_a_batch_longer_than_limit(said: Said) -> None:
    """With a cursor it is an error, because it is never cut; without one the rest is left out."""
    said.console("setattr(work, 'perpetual_options', PerpetualOptions(limit=2))")
    too_large = said.poll("Batch([(1,), (2,), (3,)], cursor=3)")
    assert too_large["error"].startswith("BatchTooLarge: proj.work.next_batch returned a Batch with a cursor and more")
    assert numbers(said.poll("[(1,), (2,), (3,)]")) == ("enqueued", 2, 0, 1)
    assert numbers(said.poll("Batch([(3,), (4,)], cursor='end')")) == ("enqueued", 2, 0, 0)
    assert said.console("perpetual.cursor(work)") == "end"


def test_the_cursor_goes_from_poll_to_poll(said: Said) -> None:
    """Any JSON value; moved by an empty batch too, left alone by a plain result, an error and a skip."""
    assert said.poll("[Item((poll.cursor,), key=0)]")["cursor"] is None
    values: list[Any] = [17, "abc", [1, {"a": [None, 2.5]}], {"after": "ü", "n": 2**60}, 0, False, None, "last"]
    previous: Any = None
    for value in values:
        outcome = said.poll(f"Batch([], cursor={value!r}) if poll.cursor == {previous!r} else fail(ValueError)")
        assert numbers(outcome) == ("empty", 0, 0, 0)
        assert outcome["cursor"] == value
        assert said.console("perpetual.cursor('proj.work')") == value
        previous = value
    for says in ("[]", "Batch([])", "fail(OSError())", "Skip()", "[Item((1,), key=poll.cursor)]", "Defer(5)"):
        said.poll(says)
        assert said.console("perpetual.units()[0].cursor") == "last"


def test_what_next_batch_is_told(said: Said, store_redis: redis.Redis) -> None:
    """Slot, limits, attempt, last poll and the keys in flight are those of the unit at this moment."""
    tell = (
        "[Item((1,), key='one'), Item((2,), key=2)] if ledger.record(poll.poll_id, "
        "__import__('json').dumps([poll.task, poll.tenant, poll.slot.isoformat(), str(poll.slot.tzinfo), poll.trigger, "
        "poll.cursor, poll.limit, poll.room, poll.attempt, poll.late_by, "
        "poll.last_polled_at and poll.last_polled_at.isoformat(), sorted(poll.in_flight_keys())])) is None else None"
    )
    first = said.poll(tell)
    failed = said.poll("fail(OSError())")
    second = said.poll(tell)

    told = {row.id: json.loads(row.what) for row in said.proj.rows()}
    assert told.keys() == {first["poll_id"], second["poll_id"]}
    for outcome, room, attempt, keys in ((first, 5, 0, []), (second, 3, 1, ["2", "one"])):
        task, tenant, slot, zone, trigger, cursor, limit, *rest, in_flight = told[outcome["poll_id"]]
        assert (task, tenant, zone, trigger, cursor, limit) == ("proj.work", None, "UTC", "manual", None, 5)
        assert seconds(slot) == seconds(outcome["slot"])
        assert rest[:2] == [room, attempt]
        assert 0 <= rest[2] < MOST_LAG
        assert in_flight == keys
    assert told[first["poll_id"]][10] is None
    assert 0 <= seconds(told[second["poll_id"]][10]) - seconds(failed["finished_at"]) < MOST_LAG
    assert store_redis.llen("celery") == 2


# ---- polls by hand


def test_a_poll_by_hand_passes_over_what_stops_the_clock(said: Said, store_redis: redis.Redis) -> None:
    """Pause, back-off and enabled=False do not stop it, and it leaves the cadence alone."""
    assert said.poll("fail(OSError())")["status"] == "failed"
    said.console("perpetual.pause('proj.work', reason='for the night')")
    said.console("perpetual.pause(reason='all of it')")
    said.console("setattr(work, 'perpetual_options', PerpetualOptions(enabled=False))")
    store_redis.zadd("perpetual:due", {UNIT: 10**15})

    outcome = said.poll("[(1,)]")

    assert (outcome["status"], outcome["trigger"]) == ("enqueued", "manual")
    assert seconds(outcome["started_at"]) - seconds(outcome["slot"]) < 0.1
    assert store_redis.zscore("perpetual:due", UNIT) == 10**15
    assert store_redis.hget(f"perpetual:u:{UNIT}", "slot") is None
    (unit,) = said.console("perpetual.units()")
    assert (unit["state"], unit["reason"], unit["attempt"]) == ("disabled", "perpetual option enabled=False", 0)


def test_a_poll_by_hand_is_bounded_and_alone(said: Said, store_redis: redis.Redis) -> None:
    """A second one is told that the unit is busy, a hanging one times out; its late result is refused."""
    hang = "ledger.record(1, 'begun') or [time.sleep(0.05) for _ in range(60) if not os.path.exists('go')] and [(1,)]"
    said.proj.write("says", hang)
    with Console(said.proj) as elsewhere:
        elsewhere.send("perpetual.poll('proj.work')")
        wait_until(said.proj.rows, "the poll has begun")
        busy = said.console("perpetual.poll('proj.work')")
        said.proj.write("go", "")
        assert elsewhere.answer()["status"] == "enqueued"
    assert (busy["status"], busy["gate"], busy["task_ids"]) == ("skipped", "busy", [])
    assert len(said.console("perpetual.polls('proj.work')")) == 1

    said.console("setattr(work, 'poll_timeout', 0.5)")
    begun = time.monotonic()
    outcome = said.poll("time.sleep(1.2) or ledger.record(1, 'late') or [(2,)]")
    assert 0.5 <= time.monotonic() - begun < 0.5 + MOST_LAG
    assert outcome["status"] == "timed_out"
    assert "poll_timeout (0.5 s)" in outcome["reason"]
    wait_until(lambda: said.proj.rows("late"), "next_batch returned at last")
    assert said.poll("[]")["status"] == "empty"
    assert statuses(store_redis, "proj.work") == ["enqueued", "timed_out", "empty"]
    assert [m.args for m in queued(store_redis)] == [[1]]


def test_a_poll_whose_process_was_killed_is_abandoned(said: Said, store_redis: redis.Redis) -> None:
    """Its claim holds the unit until its time is over; then the next poll says so, and everything can be read."""
    said.console("setattr(work, 'poll_timeout', 0.5)")
    with Console(said.proj) as elsewhere:
        elsewhere("setattr(work, 'poll_timeout', 0.5)")
        said.proj.write("says", "ledger.record(1, 'begun') or time.sleep(600)")
        elsewhere.send("perpetual.poll('proj.work')")
        wait_until(said.proj.rows, "the poll has begun")
        elsewhere.kill9()
    assert said.poll("[(1,)]")["gate"] == "busy"

    wait_until(lambda: said.poll("[(1,)]")["status"] == "enqueued", "the claim has expired", timeout=5)

    assert [poll["status"] for poll in said.console("perpetual.polls('proj.work')")] == ["enqueued", "abandoned"]
    assert [e.data["slot"] for e in poll_events(store_redis)] == [
        poll["slot"] for poll in reversed(said.console("perpetual.polls('proj.work')"))
    ]
    assert said.console("perpetual.why('proj.work').polls[-1].status") == "abandoned"


def test_unknown_names(said: Said) -> None:
    """Operations name what is not there, and the nearest that is."""
    error = said.console.error
    assert error("perpetual.poll('proj.wrok')").startswith(
        "UnknownTask: task proj.wrok is not registered; did you mean"
    )
    assert "has not both poll_every and next_batch" in error("perpetual.polls(other)")
    assert error("perpetual.why('proj.work', 'acme')").startswith("UnknownUnit: task proj.work has no tenants")
    assert error("perpetual.cursor(3)").startswith("ContractError: task must be the name of a perpetual task")
    assert error("perpetual.pause('nobody')").startswith("UnknownTask")
    assert error("perpetual.resume('nobody')").startswith("UnknownTask")
    assert error("perpetual.resume(from_='then')").startswith("ContractError: resume: from_ must be 'now' or 'kept'")
    assert "aware datetime" in error("perpetual.pause(until=datetime.datetime(2040, 1, 1))")


def test_a_broker_that_fails_gets_every_item_once(
    project: Callable[..., Project], private_redis: Callable[..., EmbeddedServer]
) -> None:
    """What was committed while the broker was away is sent when it is back, under its ids; offered again it is not."""
    broker = private_redis()
    proj = project(SAID, broker=broker.url)
    with Console(proj) as console:
        said = Said(proj, console)
        broker.stop()
        outcome = said.poll("[(1,), (2,), (3,), (4,), (5,)]")
        assert numbers(outcome) == ("enqueued", 5, 0, 0)
        assert said.poll("[(number,) for number in range(1, 6)]")["gate"] == "max_in_flight"
        broker.start()
        proj.write("says", "[(number,) for number in range(1, 7)]")
        proj.beat("-l", "WARNING")
        with redis.Redis.from_url(broker.url, decode_responses=True) as client:
            wait_until(lambda: client.llen("celery") >= 5, "the batch is sent")
            wait_until(lambda: not proj.redis.zcard("perpetual:outbox"), "nothing is left to send")
            assert [m.id for m in queued(client)] == outcome["task_ids"]
            assert [m.args for m in queued(client)] == [[number] for number in range(1, 6)]


# ---- when polls take place

CLOCK = """
def perpetual_task(name, every, **options):
    def task(*args, **kwargs):
        ledger.record(name, "ran")

    def registered(next_batch):
        def called(poll):
            ledger.record(poll.task, f"polled {poll.trigger}")
            return next_batch(poll)
        app.task(base=PerpetualTask, poll_every=every, next_batch=called, name=f"proj.{name}", **options)(task)

    return registered
"""


def check_grid(polls: list[PollEvent], every: float) -> None:
    """Every slot is a point of one grid and is polled once, not before its time and not much after it."""
    anchor = polls[0].slot
    for poll in polls:
        assert abs((poll.slot - anchor + every / 2) % every - every / 2) < 0.002
        assert 0 <= seconds(poll.data["started_at"]) - poll.slot < MOST_LAG
    assert all(before.slot < after.slot for before, after in pairwise(polls))


def elected(client: redis.Redis) -> float:
    """When the newest leader was elected."""
    leaders = [entry for entry, fields in client.xrange("perpetual:events") if '"elected"' in fields["data"]]
    return int(leaders[-1].split("-")[0]) / 1000


def calls(proj: Project, task: str) -> list[str]:
    """The triggers with which a task's next_batch was called."""
    return [row.what.split()[-1] for row in proj.rows() if row.id == f"proj.{task}" and row.what.startswith("polled")]


def test_one_beat_polls_each_unit_at_its_slots(project: Callable[..., Project], store_redis: redis.Redis) -> None:
    """At once and then on a grid; the hourly unit once; a unit that raises holds up none; half a contract is told."""
    proj = project(
        CLOCK
        + """
@perpetual_task("hourly", 3600)
def hourly(poll):
    return [Item(("one",), {"deep": {"er": [1, None]}}, key=1), ("two",)]

@perpetual_task("bad", 0.5)
def bad(poll):
    raise OSError("no route to host")

@perpetual_task("often", 0.25)
def often(poll):
    return [Item((poll.slot.isoformat(),), key=False)] if poll.late_by < 0 else []

@perpetual_task("delta", datetime.timedelta(seconds=0.5))
def delta(poll):
    return None

from celery.schedules import crontab, schedule

@perpetual_task("yearly", crontab(minute=0, hour=0, day_of_month=1, month_of_year=1))
def yearly(poll):
    return []

@perpetual_task("scheduled", schedule(run_every=1800))
def scheduled(poll):
    return []

@perpetual_task("off", 0.25, perpetual_options=PerpetualOptions(enabled=False))
def off(poll):
    return []

@perpetual_task("off_too", 0.25)
def off_too(poll):
    return []

@app.task(base=PerpetualTask, poll_every=1)
def only_every():
    pass

@app.task(base=PerpetualTask, next_batch=lambda: ledger.record("proj.only_batch", "polled"))
def only_batch():
    pass
""",
        perpetual_disabled=["proj.off_too"],
    )
    beat = proj.beat().ready()
    wait_until(lambda: len(statuses(store_redis, "proj.often")) >= 12, "one unit was polled often")

    first = {poll.data["task"]: poll for poll in reversed(poll_events(store_redis))}
    assert first.keys() == {f"proj.{name}" for name in ("hourly", "bad", "often", "delta", "scheduled")}
    assert max(poll.written for poll in first.values()) - elected(store_redis) < MOST_LAG
    assert {name: calls(proj, name) for name in ("hourly", "bad", "scheduled", "yearly", "off", "off_too")} == {
        "hourly": ["schedule"], "bad": ["schedule"], "scheduled": ["schedule"], "yearly": [], "off": [], "off_too": [],
    }  # fmt: skip
    assert calls(proj, "only_batch") == []
    check_grid(poll_events(store_redis, "proj.often"), 0.25)
    check_grid(poll_events(store_redis, "proj.delta"), 0.5)
    assert [(m.task, m.args, m.kwargs) for m in queued(store_redis)] == [
        ("proj.hourly", ["one"], {"deep": {"er": [1, None]}}),
        ("proj.hourly", ["two"], {}),
    ]
    assert "task proj.only_every has poll_every but no next_batch, so it is not polled" in beat.log()
    assert "task proj.only_batch has next_batch but no poll_every, so it is not polled" in beat.log()
    with Console(proj) as console:
        assert beat.terminate()[0] == 0
        (folded,) = console("perpetual.polls('proj.often')")
        assert (folded["status"], folded["repeated"]) == ("empty", len(statuses(store_redis, "proj.often")))
        units = {unit["task"].removeprefix("proj."): unit for unit in console("perpetual.units()")}
    assert {name: unit["state"] for name, unit in units.items()} == {
        "hourly": "active", "bad": "backing_off", "often": "active", "delta": "active", "scheduled": "active",
        "yearly": "active", "off": "disabled", "off_too": "disabled",
    }  # fmt: skip
    assert seconds(units["hourly"]["next_poll_at"]) == first["proj.hourly"].slot + 3600
    assert units["hourly"]["in_flight"] == 2
    new_year = datetime.fromtimestamp(seconds(units["yearly"]["next_poll_at"]), timezone.utc)
    assert (new_year.month, new_year.day, new_year.hour, new_year.minute) == (1, 1, 0, 0)
    assert units["bad"]["last_poll"]["error"] == "OSError: no route to host"


def test_a_missed_stretch_gives_one_poll(project: Callable[..., Project], store_redis: redis.Redis) -> None:
    """After a stretch without beat there is one poll, at the latest slot, and the grid goes on; a restart is none."""
    proj = project(
        CLOCK
        + """
@perpetual_task("hourly", 3600)
def hourly(poll):
    return []

@perpetual_task("often", 0.3)
def often(poll):
    return []
"""
    )
    beat = proj.beat().ready()
    wait_until(lambda: len(statuses(store_redis, "proj.often")) >= 3, "the unit is polled")
    assert beat.terminate()[0] == 0
    before = poll_events(store_redis, "proj.often")
    # The missed stretch: several intervals.
    time.sleep(1.5)
    proj.beat().ready()
    wait_until(lambda: len(statuses(store_redis, "proj.often")) >= len(before) + 4, "the unit is polled again")

    polls = poll_events(store_redis, "proj.often")
    check_grid(polls, 0.3)
    after = polls[len(before) :]
    assert after[0].slot - before[-1].slot > 1.5
    assert elected(store_redis) < after[0].written < elected(store_redis) + MOST_LAG
    assert after[1].slot - after[0].slot < 0.301 + MOST_LAG
    assert calls(proj, "hourly") == ["schedule"]
    assert statuses(store_redis, "proj.hourly") == ["empty"]


def test_a_standby_polls_nothing_until_it_leads(project: Callable[..., Project], store_redis: redis.Redis) -> None:
    """Only the leader calls next_batch; when it ends the standby goes on with the same slots."""
    proj = project(CLOCK + '@perpetual_task("often", 0.3)\ndef often(poll):\n    return []\n')
    leader = proj.beat().ready()
    wait_until(proj.rows, "the unit is polled")
    standby = proj.beat().ready()
    standby.wait_for_log("standing by")
    wait_until(lambda: len(proj.rows()) >= 8, "the unit is polled for some time")
    assert {row.pid for row in proj.rows()} == {leader.pid}

    leader.terminate()
    wait_until(lambda: {row.pid for row in proj.rows()} == {leader.pid, standby.pid}, "the standby polls", timeout=10)

    assert standby.alive
    check_grid(poll_events(store_redis, "proj.often"), 0.3)


def test_pause_and_resume(project: Callable[..., Project], store_redis: redis.Redis) -> None:
    """What is paused, by whom and for how long ever, is not polled; resumed it is, at once or at its next slot."""
    proj = project(
        CLOCK
        + """
@perpetual_task("one", 0.3)
def one(poll):
    return []

@perpetual_task("two", 0.3)
def two(poll):
    return []

@perpetual_task("hourly", 3600)
def hourly(poll):
    return []

@perpetual_task("stops", 0.3)
def stops(poll):
    return Pause("the contract has ended")
"""
    )
    proj.beat().ready()
    wait_until(lambda: len(calls(proj, "two")) >= 2, "the units are polled")

    def polls_while(stretch: float) -> dict[str, int]:
        # The stretch in which something must not happen.
        time.sleep(0.1)
        before = {name: len(calls(proj, name)) for name in ("one", "two", "hourly", "stops")}
        time.sleep(stretch)
        return {name: len(calls(proj, name)) - count for name, count in before.items()}

    with Console(proj) as console:
        state = "{u.task.removeprefix('proj.'): (u.state, u.reason) for u in perpetual.units()}"
        paused = console("perpetual.pause('proj.one', reason='moving house')")
        assert (paused["scope"], paused["reason"]) == ("perpetual:proj.one", "moving house")
        counts = polls_while(1.0)
        assert (counts["one"], counts["stops"]) == (0, 0)
        assert counts["two"] >= 2
        states = console(state)
        assert states["one"] == ["paused", "moving house"]
        assert states["stops"] == ["paused", "the contract has ended"]
        assert states["two"] == ["active", None]
        assert statuses(store_redis, "proj.stops") == ["paused"]
        assert "moving house" in console("perpetual.why('proj.one')")["reasons"][0]["evidence"]
        assert console("perpetual.resume('proj.two')") is False

        console("perpetual.pause('proj.hourly')")
        assert console("perpetual.resume('proj.hourly', from_='kept')") is True
        assert console("perpetual.resume('proj.one')") is True
        assert console("perpetual.resume('proj.stops')") is True
        wait_until(lambda: len(calls(proj, "stops")) == 2, "it is polled again")
        wait_until(lambda: "resume" in calls(proj, "one"), "it is polled at once")
        assert calls(proj, "hourly") == ["schedule"]

        until = datetime.now(timezone.utc) + timedelta(seconds=1.5)
        paused = console(f"perpetual.pause(until=datetime.datetime.fromisoformat({until.isoformat()!r}))")
        assert paused["scope"] == "*"
        assert abs(seconds(paused["until"]) - until.timestamp()) < 0.002
        assert polls_while(0.8) == {"one": 0, "two": 0, "hourly": 0, "stops": 0}
        assert {u[0] for u in console(state).values()} == {"paused"}
        wait_until(lambda: poll_events(store_redis, "proj.two")[-1].slot > until.timestamp(), "the pause is over")
        assert console(state)["two"] == ["active", None]
        assert not [
            p for p in poll_events(store_redis) if seconds(paused["at"]) + 0.1 < p.slot < until.timestamp() - 0.1
        ]

        console("perpetual.pause(reason='all')")
        console("perpetual.pause('proj.hourly', reason='this one too')")
        assert console("perpetual.resume()") is True
        wait_until(lambda: len(calls(proj, "two")) > 6, "the rest goes on")
        assert console(state)["hourly"] == ["paused", "this one too"]
        assert console("perpetual.resume('proj.hourly')") is True
        wait_until(lambda: calls(proj, "hourly") == ["schedule", "resume"], "the hourly unit is polled at once")
    check_grid([poll for poll in poll_events(store_redis, "proj.two") if poll.data["trigger"] == "schedule"], 0.3)
    told = [fields["event"] for _, fields in store_redis.xrange("perpetual:events") if fields["event"] != "poll"]
    assert (told.count("pause"), told.count("resume")) == (7, 5)


def test_defer_and_drain(project: Callable[..., Project], store_redis: redis.Redis) -> None:
    """A deferred unit is polled at its time, then on its grid; one with more to read at once, not for duplicates."""
    proj = project(
        CLOCK
        + """
@perpetual_task("defers", 4)
def defers(poll):
    ledger.record("attempt", poll.attempt)
    return Defer(1.25) if poll.trigger == "schedule" and poll.last_polled_at is None else []

@perpetual_task("defers_delta", 3600)
def defers_delta(poll):
    return Defer(datetime.timedelta(milliseconds=700)) if poll.trigger == "schedule" else []

@perpetual_task("reads", 3600)
def reads(poll):
    at = poll.cursor or 0
    return Batch([(number,) for number in range(at, at + 2)], cursor=at + 2, more=at < 22)

@perpetual_task("fills", 3600, perpetual_options=PerpetualOptions(limit=3))
def fills(poll):
    left = [number for number in range(7) if str(number) not in poll.in_flight_keys()]
    return [Item((number,), key=number) for number in left[:poll.limit]]

@perpetual_task("repeats", 3600)
def repeats(poll):
    return Batch([Item((1,), key=1)], more=True)
"""
    )
    proj.beat().ready()
    wait_until(lambda: len(calls(proj, "defers")) >= 3, "the deferred unit is back on its grid")
    wait_until(lambda: len(statuses(store_redis, "proj.reads")) >= 12, "everything is read")

    first, second, third = poll_events(store_redis, "proj.defers")[:3]
    assert [poll.status for poll in (first, second, third)] == ["deferred", "empty", "empty"]
    assert calls(proj, "defers") == ["schedule", "defer", "schedule"]
    assert abs(second.slot - first.written - 1.25) < 0.01
    assert 0 <= seconds(second.data["started_at"]) - second.slot < MOST_LAG
    assert abs(third.slot - first.slot - 4) < 0.002
    assert {row.what for row in proj.rows() if row.id == "attempt"} == {"0"}
    first, second = poll_events(store_redis, "proj.defers_delta")
    assert abs(second.slot - first.written - 0.7) < 0.01
    assert calls(proj, "reads") == ["schedule"] + ["drain"] * 11
    assert [m.args[0] for m in queued(store_redis) if m.task == "proj.reads"] == list(range(24))
    assert calls(proj, "fills") == ["schedule", "drain", "drain"]
    assert [m.args[0] for m in queued(store_redis) if m.task == "proj.fills"] == list(range(7))
    assert statuses(store_redis, "proj.repeats") == ["enqueued", "empty"]
    drained = poll_events(store_redis, "proj.reads")
    assert drained[-1].written - drained[0].written < MOST_LAG


def test_a_poll_by_hand_at_a_slot_costs_that_slot_only(
    project: Callable[..., Project], store_redis: redis.Redis
) -> None:
    """Slots that come while a poll by hand is open give one poll when it has ended; the cadence does not move."""
    proj = project(
        CLOCK
        + """
@perpetual_task("often", 1, poll_timeout=30)
def often(poll):
    while poll.trigger == "manual" and not os.path.exists("go"):
        time.sleep(0.05)
    return []
"""
    )
    proj.beat().ready()
    with Console(proj) as console:
        console("perpetual.units()")
        count = len(statuses(store_redis, "proj.often"))
        # Right after a slot, so that the poll by hand does not meet a poll of beat.
        wait_until(lambda: len(statuses(store_redis, "proj.often")) > count, "the unit is polled")
        console.send("perpetual.poll('proj.often')")
        wait_until(lambda: "manual" in calls(proj, "often"), "the poll by hand has begun")
        # Two slots pass meanwhile.
        time.sleep(2)
        proj.write("go", "")
        assert console.answer()["status"] == "empty"
    count = len(calls(proj, "often"))
    wait_until(lambda: len(calls(proj, "often")) >= count + 2, "the unit is polled at its slots", timeout=6)
    slots = [poll.slot for poll in poll_events(store_redis, "proj.often") if poll.data["trigger"] == "schedule"]
    assert all(abs((slot - slots[0] + 0.5) % 1 - 0.5) < 0.002 for slot in slots)
    assert len(set(slots)) == len(slots)


# ---- with a worker


def test_rows_in_retry_do_not_starve_those_behind_them(
    project: Callable[..., Project], store_redis: redis.Redis
) -> None:
    """Rows whose task waits for its next attempt keep key and room; all others get their turn; each is done once."""
    proj = project(
        """
import sqlite3

def database():
    return sqlite3.connect("rows.sqlite", timeout=30, isolation_level=None)

def due(poll):
    with database() as rows:
        found = rows.execute("SELECT id FROM row WHERE NOT done ORDER BY id LIMIT ?", (poll.limit,)).fetchall()
    return [Item((number,), key=number) for number, in found]

@app.task(bind=True, base=PerpetualTask, poll_every=0.3, next_batch=due, max_in_flight=4, max_retries=None)
def deliver(self, number):
    if number <= 3 and not os.path.exists("reachable"):
        raise self.retry(countdown=0.5)
    with database() as rows:
        rows.execute("UPDATE row SET done = 1 WHERE id = ?", (number,))
    ledger.record(number, "delivered")

def fill():
    with database() as rows:
        rows.execute("PRAGMA journal_mode=WAL")
        rows.execute("CREATE TABLE row (id INTEGER PRIMARY KEY, done INTEGER DEFAULT 0)")
        rows.executemany("INSERT INTO row (id) VALUES (?)", [(number,) for number in range(1, 13)])

@app.task(base=PerpetualTask, poll_every=3600, next_batch=lambda: ledger.record("hourly", "polled") or [(1,), (2,)])
def hourly(number):
    ledger.record("hourly", f"ran {number}")

@app.task(base=PerpetualTask, poll_every=0.3, next_batch=lambda: [Item((), key="once")],
          perpetual_options=PerpetualOptions(dedup_window=2))
def windowed():
    ledger.record("windowed", "ran")
"""
    )
    proj.run_python("import proj; proj.fill()")
    worker = proj.worker(pool="threads", concurrency=4).ready()
    proj.beat().ready()
    in_flight: list[int] = []

    def delivered() -> set[int]:
        in_flight.append(int(store_redis.hget("perpetual:u:perpetual:proj.deliver", "inflight") or 0))
        return {int(row.id) for row in proj.rows("delivered")}

    wait_until(lambda: delivered() == set(range(4, 13)), "all rows behind those in retry are delivered")
    assert set(store_redis.hkeys("perpetual:keys:perpetual:proj.deliver")) == {"1", "2", "3"}
    proj.write("reachable", "")
    wait_until(lambda: delivered() == set(range(1, 13)), "every row is delivered")

    assert len(proj.rows("delivered")) == 12
    assert max(in_flight) == 4
    wait_until(lambda: not store_redis.hkeys("perpetual:keys:perpetual:proj.deliver"), "every key is free")
    assert sorted(row.what for row in proj.rows() if row.id == "hourly") == ["polled", "ran 1", "ran 2"]
    wait_until(lambda: len(proj.rows()) and sum(r.id == "windowed" for r in proj.rows()) >= 2, "the window has passed")
    one, two = [row for row in proj.rows() if row.id == "windowed"][:2]
    assert 2 <= two.time - one.time < 2 + 0.3 + MOST_LAG
    assert worker.alive


def test_a_row_whose_task_ends_while_a_poll_reads_is_not_enqueued_again(
    project: Callable[..., Project], store_redis: redis.Redis
) -> None:
    """What was in flight when the poll began may have been read before its end, so it is a duplicate."""
    proj = project(
        """
def due(poll):
    found = [] if os.path.exists("done") else [Item((1,), key=1)]
    ledger.record(1, "read")
    while len(ledger.rows()) > 1 and not os.path.exists("return"):
        time.sleep(0.02)
    return found

@app.task(base=PerpetualTask, poll_every=3600, next_batch=due)
def deliver(number):
    ledger.record(number, "begun")
    while not os.path.exists("done"):
        time.sleep(0.02)
    ledger.record(number, "delivered")
"""
    )
    proj.worker(pool="threads", concurrency=2).ready()
    with Console(proj) as console:
        assert console("perpetual.poll('proj.deliver')")["status"] == "enqueued"
        wait_until(lambda: proj.rows("begun"), "the task runs")
        console.send("perpetual.poll('proj.deliver')")
        wait_until(lambda: len(proj.rows("read")) == 2, "the row is read")
        proj.write("done", "")
        unit = "perpetual:u:perpetual:proj.deliver"
        wait_until(lambda: store_redis.hget(unit, "inflight") == "0", "the task has ended")
        proj.write("return", "")
        outcome = console.answer()
    assert numbers(outcome) == ("empty", 0, 1, 0)
    assert store_redis.llen("celery") == 0
    assert len(proj.rows("delivered")) == 1


# ---- which tasks are polled

FORMS = """
def generate(poll, size=1):
    yield from [("d",)] * size

app.conf.imports = ["later"]
app.conf.task_annotations = {"proj.annotated": {"poll_every": 3600, "next_batch": generate}}

class Reads(PerpetualTask):
    letter = "a"

    def next_batch(self, poll):
        ledger.record(self.name, f"{self.letter} {poll.task}")
        return [(self.letter,)]

class Own(Reads):
    name = "proj.own"
    poll_every = 3600

    def run(self, letter):
        pass

class Heir(Own):
    name = "proj.heir"
    letter = "b"

app.register_task(Own())
app.register_task(Heir())

class OptedOut(Own):
    name = "proj.opted_out"
    poll_every = None

app.register_task(OptedOut())

@app.task(bind=True, base=Reads, poll_every=3600)
def on_base(self, letter):
    pass

@app.task(base=PerpetualTask, poll_every=3600, next_batch=lambda: [("c",)])
def no_argument(letter):
    pass

@app.task(bind=True, base=PerpetualTask, poll_every=3600, next_batch=generate)
def generator(self, letter):
    pass

@app.task(poll_every=3600, next_batch=generate)
def plain_base(letter):
    pass

class Source:
    def due(self, poll):
        return [("e",)]

@app.task(base=PerpetualTask, poll_every=3600, next_batch=Source().due)
def bound(letter):
    pass

@app.task(base=PerpetualTask)
def annotated(letter):
    pass
"""
LATER = """
from celery import shared_task
from celery_perpetual import PerpetualTask
from proj import app

@app.task(base=PerpetualTask, poll_every=3600)
def decorated(letter):
    pass

@decorated.batch
def due(poll):
    return [("f",)]

@shared_task(base=PerpetualTask, poll_every=3600)
def shared(letter):
    pass

@shared.batch
def shared_due():
    return [("g",)]
"""
LETTERS = {
    "proj.own": "a", "proj.heir": "b", "proj.on_base": "a", "proj.no_argument": "c", "proj.generator": "d",
    "proj.plain_base": "d", "proj.bound": "e", "proj.annotated": "d", "later.decorated": "f", "later.shared": "g",
}  # fmt: skip


def test_every_way_to_write_a_perpetual_task(project: Callable[..., Project], store_redis: redis.Redis) -> None:
    """Class or decorator, own, inherited, annotated or shared: each is polled, and a method gets its own task."""
    proj = project(FORMS)
    proj.write("later.py", LATER)
    beat = proj.beat().ready()
    wait_until(lambda: len(poll_events(store_redis)) >= len(LETTERS), "every task is polled")

    assert {m.task: m.args[0] for m in queued(store_redis)} == LETTERS
    assert {poll.status for poll in poll_events(store_redis)} == {"enqueued"}
    assert sorted((row.id, row.what) for row in proj.rows()) == [
        ("proj.heir", "b proj.heir"),
        ("proj.on_base", "a proj.on_base"),
        ("proj.own", "a proj.own"),
    ]
    assert "opted_out" not in beat.log()


def test_a_shared_task_made_before_its_app(project: Callable[..., Project], store_redis: redis.Redis) -> None:
    """``@task.batch`` above a function of a module that is imported before any app exists reaches the app's task."""
    proj = project()
    proj.write(
        "early.py",
        """
        from celery import shared_task
        from celery_perpetual import PerpetualTask

        @shared_task(base=PerpetualTask, poll_every=3600, name="early.shared")
        def shared(letter):
            pass

        @shared.batch
        def due(poll):
            return [(poll.task,)]
        """,
    )
    head = (proj.folder / "proj.py").read_text()
    proj.write("proj.py", f"import early\n{head}")

    proj.beat().ready()

    wait_until(lambda: queued(store_redis), "the task is polled")
    assert [(m.task, m.args) for m in queued(store_redis)] == [("early.shared", ["early.shared"])]


REFUSED = {
    "zero": ("poll_every=0, next_batch=list", "poll_every must be at least 0.01 seconds, got 0"),
    "negative": ("poll_every=-1, next_batch=list", "poll_every must be at least 0.01 seconds, got -1"),
    "text": ("poll_every='soon', next_batch=list", "poll_every must be seconds, a timedelta or a Celery schedule"),
    "number": ("poll_every=1, next_batch=5", "next_batch must be a function, method or generator function, got 5"),
    "two": ("poll_every=1, next_batch=lambda self, poll: []", "next_batch takes no argument or one Poll"),
    "options": ("poll_every=1, next_batch=due, perpetual_options={}", "perpetual_options must be a PerpetualOptions"),
    "full": ("poll_every=1, next_batch=due, max_in_flight=0", "max_in_flight must be a whole number of at least 1"),
    "hasty": ("poll_every=1, next_batch=due, poll_timeout=-1", "poll_timeout must be at least"),
    "tenants": ("poll_every=1, next_batch=due, tenants=['a']", "tenants is not available yet"),
}


@pytest.mark.parametrize("command", ["beat", "worker"])
def test_wrong_tasks_are_refused_at_start(project: Callable[..., Project], command: str) -> None:
    """Beat and worker end with an error that names every wrong task, its file and line, and what is wrong."""
    tasks = [
        f"@app.task(base=PerpetualTask, {options})\ndef {name}(number=1):\n    pass\n"
        for name, (options, _) in REFUSED.items()
    ]
    proj = project("def due():\n    return []\n" + "\n".join(tasks))

    process = proj.beat() if command == "beat" else proj.worker()

    assert process.wait() == 1
    lines = (proj.folder / "proj.py").read_text().splitlines()
    for name, (options, error) in REFUSED.items():
        line = lines.index(f"@app.task(base=PerpetualTask, {options})") + 1
        assert f"task proj.{name} ({proj.folder}/proj.py:{line}): {error}" in process.log()
