"""User code that misbehaves in a poll delays its own unit and nothing else, and the outcome says why."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.support import wait_until
from tests.support.broker import queued
from tests.support.cadence import GOOD, LONG_WAIT, MOST_LAG, check_cadence
from tests.support.console import Console
from tests.support.stream_events import poll_events, seconds, statuses

if TYPE_CHECKING:
    from collections.abc import Callable

    import redis

    from tests.support import Project


BAD = """
def perpetual_task(name, every=1, **options):
    def task(number):
        pass

    options.update(base=PerpetualTask, poll_every=every, name=f"proj.{name}")
    return lambda next_batch: app.task(next_batch=next_batch, **options)(task)

@perpetual_task("raises")
def raises(poll):
    called(poll)
    raise LookupError("the database is not there")

@perpetual_task("hangs", poll_timeout=1)
def hangs(poll):
    called(poll)
    time.sleep(600)

@perpetual_task("text")
def text(poll):
    called(poll)
    return "rows"

@perpetual_task("floods", every=3600)
def floods(poll):
    called(poll)
    return [Item((number,), queue="flood") for number in range(50_000)]

@perpetual_task("endless", every=3600, max_in_flight=700)
def endless(poll):
    called(poll)
    try:
        number = 0
        while True:
            yield Item((number,), queue="endless")
            number += 1
    finally:
        ledger.record(poll.task, f"closed after {number + 1}")

@perpetual_task("repeats", poll_timeout=1)
def repeats(poll):
    called(poll)
    while True:
        yield Item((1,), key="the same")

@perpetual_task("leaves")
def leaves(poll):
    called(poll)
    sys.exit(3)

@perpetual_task("interrupts")
def interrupts(poll):
    called(poll)
    raise KeyboardInterrupt

@perpetual_task("chains")
def chains(poll):
    called(poll)
    return [(1,), chain(entry.si(), entry.si())]

@perpetual_task("groups")
def groups(poll):
    called(poll)
    return [group(entry.si(), entry.si())]

@perpetual_task("too_long", perpetual_options=PerpetualOptions(limit=10))
def too_long(poll):
    called(poll)
    return Batch([(number,) for number in range(11)], cursor=11)

@perpetual_task("misfits")
def misfits(poll):
    called(poll)
    return [(1,), (2,), (3, "one too many")]
"""

# Text of the outcome's error, by the task that is to blame.
ERRORS = {
    "raises": "LookupError: the database is not there",
    "text": "InvalidItem: proj.text.next_batch returned str 'rows'; return a list",
    "leaves": "SystemExit: 3",
    "interrupts": "KeyboardInterrupt",
    "chains": "InvalidItem: proj.chains.next_batch, item 1: a chain is not one task",
    "groups": "InvalidItem: proj.groups.next_batch, item 0: a group is not one task",
    "too_long": "BatchTooLarge: proj.too_long.next_batch returned a Batch with a cursor and more than 10 items",
    "misfits": "InvalidItem: proj.misfits.next_batch, item 2: arguments do not fit proj.misfits",
}


def test_bad_polls_delay_nobody_else(project: Callable[..., Project], store_redis: redis.Redis) -> None:
    """A dozen kinds of bad next_batch in one beat: a good unit and a beat entry stay on time, outcomes show all."""
    proj = project(GOOD + BAD)
    beat = proj.beat().ready()
    late = ("hangs", "repeats")
    bad = {*ERRORS, *late, "floods", "endless"}
    wait_until(
        lambda: len({poll.unit for poll in poll_events(store_redis)} - {"perpetual:proj.good"}) == len(bad),
        "all polled",
    )
    wait_until(lambda: store_redis.llen("good") >= 12, "the good unit has been polled for some seconds")
    wait_until(lambda: store_redis.llen("flood") >= 10_000, "the flood is published")

    check_cadence(beat, store_redis)
    with Console(proj) as console:
        units = {unit["task"].removeprefix("proj."): unit for unit in console("perpetual.units()")}
        for name, error in ERRORS.items():
            assert units[name]["last_poll"]["error"].startswith(error)
            assert statuses(store_redis, f"proj.{name}") == ["failed"]
        for name in late:
            assert statuses(store_redis, f"proj.{name}") == ["timed_out"]
            assert "poll_timeout (1 s)" in units[name]["last_poll"]["reason"]
        for name in (*ERRORS, *late):
            unit, last = units[name], units[name]["last_poll"]
            assert (unit["state"], unit["attempt"]) == ("backing_off", 1)
            assert unit["reason"] == (last["error"] or last["reason"])
            assert 0 <= seconds(unit["next_poll_at"]) - seconds(last["finished_at"]) < LONG_WAIT + 1
            assert unit["in_flight"] == 0
        flood, endless = console("perpetual.polls('proj.floods')"), console("perpetual.polls('proj.endless')")
        assert [(p["status"], p["count"], p["left_out"]) for p in flood] == [("enqueued", 10_000, 40_000)]
        assert [(p["status"], p["count"]) for p in endless] == [("enqueued", 700)]
    assert units["good"]["state"] == units["floods"]["state"] == "active"
    assert store_redis.llen("flood") == 10_000
    assert [m.args for m in queued(store_redis, "endless")] == [[number] for number in range(700)]
    assert store_redis.llen("celery") == 0
    calls = [row.what for row in proj.rows() if row.id == "proj.endless"]
    assert calls == ["0", f"closed after {700 + endless[0]['left_out']}"]
    assert all(len([r for r in proj.rows() if r.id == f"proj.{name}"]) == 1 for name in bad - {"endless"})


@pytest.mark.slow
def test_a_failing_unit_backs_off_over_a_restart(project: Callable[..., Project], store_redis: redis.Redis) -> None:
    """The second poll comes 12 s after the first, from another beat, and knows of one failure; then it takes 24 s."""
    proj = project(
        """
        def raises(poll):
            ledger.record(poll.trigger, poll.attempt)
            raise LookupError("the database is not there")

        waits = ErrorRule(LookupError, backoff=lambda before: 12 * 2**before)

        @app.task(
            base=PerpetualTask, poll_every=1, next_batch=raises, perpetual_options=PerpetualOptions(error_rules=[waits])
        )
        def find():
            pass
        """
    )
    first = proj.beat().ready()
    wait_until(lambda: statuses(store_redis, "proj.find") == ["failed"], "the first poll")
    assert first.terminate()[0] == 0
    proj.beat().ready()

    with Console(proj) as console:
        # The 12 s are what is tested; nothing else makes the clock go on.
        wait_until(lambda: len(statuses(store_redis, "proj.find")) > 1, "the second poll", timeout=60, interval=0.1)
        (unit,) = console("perpetual.units()")

    one, two = poll_events(store_redis, "proj.find")
    assert [row[:2] for row in proj.rows()] == [("schedule", "0"), ("backoff", "1")]
    assert 12 <= seconds(two.data["started_at"]) - seconds(one.data["finished_at"]) < 12 + MOST_LAG
    assert two.slot - seconds(one.data["finished_at"]) < 12.5
    assert (unit["state"], unit["attempt"]) == ("backing_off", 2)
    assert 24 <= seconds(unit["next_poll_at"]) - seconds(two.data["finished_at"]) < 25
