"""Everything that next_batch may return, and how its poll ends: items, keys, room and cursors."""

from __future__ import annotations

import json
import time
from typing import TYPE_CHECKING, Any

import pytest

from tests.support.broker import queued
from tests.support.clock import MOST_LAG
from tests.support.scripted_polls import UNIT, ScriptedPolls, numbers
from tests.support.stream_events import seconds, statuses

if TYPE_CHECKING:
    import redis

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


def test_every_form_of_an_item_becomes_a_message(polls: ScriptedPolls, store_redis: redis.Redis) -> None:
    """Item, tuple, list, dict and signature, of its own task or of another: arguments and options arrive unchanged."""
    outcome = polls.poll("""(each for each in [Item((1,), {"a": None}), (2,), [3], {"number": 4, "b": [1.5, "ü"]}])""")
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

    outcome = polls.poll(
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


def test_a_wrong_result_is_an_error_and_enqueues_nothing(polls: ScriptedPolls, store_redis: redis.Redis) -> None:
    """The error names task, index and type; the right items of that batch stay out too."""
    for attempt, (says, error) in enumerate(WRONG.items(), 1):
        outcome = polls.poll(says)
        assert numbers(outcome) == ("failed", 0, 0, 0), says
        assert outcome["error"].startswith(error), says
        assert polls.newest() == outcome
        assert polls.console("perpetual.units()[0].attempt") == attempt
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
    polls: ScriptedPolls, store_redis: redis.Redis, says: str, status: str
) -> None:
    """The poll ends with its outcome for every text of an error; it can be read and does not fill the store."""
    outcome = polls.poll(says)

    assert outcome["status"] == status
    assert polls.newest()["status"] == status
    assert polls.console("perpetual.units()[0].last_poll.status") == status
    assert polls.console("perpetual.why(work).polls[0].status") == status
    assert store_redis.memory_usage(f"perpetual:polls:{UNIT}") < 100_000


def test_polls_without_items_end_as_empty_or_skipped(polls: ScriptedPolls, store_redis: redis.Redis) -> None:
    """No items and None are polls that end as empty, a skip has its reason; runs of one kind are folded and counted."""
    for says in ("[]", "None", "iter(())", "Batch()"):
        assert numbers(polls.poll(says)) == ("empty", 0, 0, 0)
    assert polls.poll("Skip('closed on Sundays')")["reason"] == "closed on Sundays"
    polls.poll("Skip('closed on Sundays')")
    polls.poll("Skip('closed on Mondays')")

    stored = polls.console("perpetual.polls('proj.work')")
    assert [(poll["status"], poll["reason"], poll["repeated"]) for poll in stored] == [
        ("skipped", "closed on Mondays", 1),
        ("skipped", "closed on Sundays", 2),
        ("empty", None, 4),
    ]
    assert statuses(store_redis, "proj.work") == ["empty"] * 4 + ["skipped"] * 3
    assert store_redis.exists("celery") == 0


def test_the_same_key_is_the_same_work(polls: ScriptedPolls, store_redis: redis.Redis) -> None:
    """The same key is the same work, whatever its form; without one the arguments are the key; False opts out."""
    assert numbers(polls.poll("[Item((1,), key='7'), Item((2,), key=7), Item((3,), key='b')]")) == ("enqueued", 2, 1, 0)
    assert taken(store_redis) == {"7", "b"}
    assert [m.args for m in queued(store_redis)] == [[1], [3]]
    assert numbers(polls.poll("[Item((4,), key=7), Item((1,), key='b')]")) == ("empty", 0, 2, 0)
    assert numbers(polls.poll("[Item((), {'a': 1, 'b': 2}), Item(kwargs={'b': 2, 'a': 1})]")) == ("enqueued", 1, 1, 0)
    assert numbers(polls.poll("[{'b': 2, 'a': 1}]")) == ("empty", 0, 1, 0)
    assert numbers(polls.poll("[Item((1,), key=False)]")) == ("enqueued", 1, 0, 0)
    assert numbers(polls.poll("[Item((1,), key=False)]")) == ("enqueued", 1, 0, 0)
    assert len(taken(store_redis)) == 3
    assert polls.console("perpetual.units()[0].in_flight") == 5


def test_room_is_enforced(polls: ScriptedPolls, store_redis: redis.Redis) -> None:
    """Of a plain result the first that fit are taken; a full unit is not asked; a batch with a cursor is never cut."""
    assert numbers(polls.poll("[(0,), (1,), (1,), (2,)]")) == ("enqueued", 3, 1, 0)
    whole = polls.poll("Batch([(0,), (5,), (6,), (7,)], cursor=7)")
    assert numbers(whole) == ("skipped", 0, 1, 0)
    assert (whole["gate"], whole["value"], whole["limit"]) == ("max_in_flight", 6, 5)
    assert polls.console("perpetual.cursor('proj.work')") is None
    # Duplicates cost no room: (0,) is in flight, and two of the four new ones fit.
    assert numbers(polls.poll("[(0,), (3,), (4,), (5,), (6,)]")) == ("enqueued", 2, 1, 2)
    full = polls.poll("fail(AssertionError('it was asked'))")
    assert (full["status"], full["gate"], full["value"], full["limit"]) == ("skipped", "max_in_flight", 5, 5)
    assert [m.args for m in queued(store_redis)] == [[number] for number in range(5)]
    assert len(taken(store_redis)) == 5


def test_a_batch_longer_than_limit(polls: ScriptedPolls) -> None:
    """With a cursor it is an error, because it is never cut; without one the rest is left out."""
    polls.console("setattr(work, 'perpetual_options', PerpetualOptions(limit=2))")
    too_large = polls.poll("Batch([(1,), (2,), (3,)], cursor=3)")
    assert too_large["error"].startswith("BatchTooLarge: proj.work.next_batch returned a Batch with a cursor and more")
    assert numbers(polls.poll("[(1,), (2,), (3,)]")) == ("enqueued", 2, 0, 1)
    assert numbers(polls.poll("Batch([(3,), (4,)], cursor='end')")) == ("enqueued", 2, 0, 0)
    assert polls.console("perpetual.cursor(work)") == "end"


def test_the_cursor_goes_from_poll_to_poll(polls: ScriptedPolls) -> None:
    """Any JSON value; moved by an empty batch too, left alone by a plain result, an error and a skip."""
    assert polls.poll("[Item((poll.cursor,), key=0)]")["cursor"] is None
    values: list[Any] = [17, "abc", [1, {"a": [None, 2.5]}], {"after": "ü", "n": 2**60}, 0, False, None, "last"]
    previous: Any = None
    for value in values:
        outcome = polls.poll(f"Batch([], cursor={value!r}) if poll.cursor == {previous!r} else fail(ValueError)")
        assert numbers(outcome) == ("empty", 0, 0, 0)
        assert outcome["cursor"] == value
        assert polls.console("perpetual.cursor('proj.work')") == value
        previous = value
    for says in ("[]", "Batch([])", "fail(OSError())", "Skip()", "[Item((1,), key=poll.cursor)]", "Defer(5)"):
        polls.poll(says)
        assert polls.console("perpetual.units()[0].cursor") == "last"


def test_what_next_batch_is_told(polls: ScriptedPolls, store_redis: redis.Redis) -> None:
    """Slot, limits, attempt, last poll and the keys in flight are those of the unit at this moment."""
    tell = (
        "[Item((1,), key='one'), Item((2,), key=2)] if ledger.record(poll.poll_id, "
        "__import__('json').dumps([poll.task, poll.tenant, poll.slot.isoformat(), str(poll.slot.tzinfo), poll.trigger, "
        "poll.cursor, poll.limit, poll.room, poll.attempt, poll.late_by, "
        "poll.last_polled_at and poll.last_polled_at.isoformat(), sorted(poll.keys())])) is None else None"
    )
    first = polls.poll(tell)
    failed = polls.poll("fail(OSError())")
    second = polls.poll(tell)

    told = {row.id: json.loads(row.what) for row in polls.proj.rows()}
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
