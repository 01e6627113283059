"""User code that misbehaves in a poll delays its own unit and nothing else, and the outcome says why."""

from __future__ import annotations

import re
from datetime import datetime
from itertools import pairwise
from typing import TYPE_CHECKING

import pytest

from tests.support import wait_until
from tests.support.broker import queued
from tests.support.console import Console
from tests.support.stream_events import poll_events, seconds, statuses

if TYPE_CHECKING:
    from collections.abc import Callable

    import redis

    from tests.support import CeleryProcess, Project

# How late the good unit's items and beat's own entries may be: some tens of milliseconds on a machine of one's own,
# more than a second where seven more processes want each of its cores. What is tested would cost many seconds.
MOST_LAG = 2.0

#: Seconds. Back-offs are spread over this time, so that no second poll comes while a test looks.
LONG_WAIT = 1_000_000

GOOD = (
    f"""
app.conf.perpetual_error_policies = {{"degraded": ({LONG_WAIT}, {LONG_WAIT})}}
"""
    """
import sys

from celery import chain, group

def on_time(poll):
    return [Item((poll.slot.timestamp(),), key=poll.slot.isoformat(), queue="good")]

@app.task(base=PerpetualTask, poll_every=0.5, next_batch=on_time)
def good(slot):
    pass

@app.task
def entry():
    pass

app.conf.beat_schedule = {"entry": {"task": "proj.entry", "schedule": 0.5, "options": {"queue": "entries"}}}

def called(poll):
    ledger.record(poll.task, poll.attempt)
"""
)

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


def check_cadence(beat: CeleryProcess, client: redis.Redis) -> None:
    """The good unit and beat's own entry were never late by more than the bound."""
    polls = poll_events(client, "proj.good")
    assert {poll.status for poll in polls} == {"enqueued"}
    assert max(poll.lag for poll in polls) < MOST_LAG
    # A late poll takes the latest slot and leaves out those before, so the lag alone does not tell.
    assert max(after.written - before.written for before, after in pairwise(polls)) < 0.5 + MOST_LAG
    assert abs(client.llen("good") - len(polls)) <= 1
    sent = [
        datetime.strptime(stamp, "%Y-%m-%d %H:%M:%S,%f").astimezone()
        for stamp in re.findall(r"\[([^:\]]+:[^:]+:[^:]+): INFO/MainProcess\] Scheduler: Sending due", beat.log())
    ]
    assert len(sent) >= 4
    assert max((after - before).total_seconds() for before, after in pairwise(sent)) < 0.5 + MOST_LAG
    assert abs(client.llen("entries") - len(sent)) <= 1


def test_bad_polls_delay_nobody_else(project: Callable[..., Project], store_redis: redis.Redis) -> None:
    """A dozen kinds of bad next_batch in one beat: a good unit and a beat entry stay on time, outcomes tell all."""
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


HANGING = """
def until_released(poll):
    ledger.record(poll.task, "called")
    while not os.path.exists("released"):
        time.sleep(0.05)
    ledger.record(poll.task, "returns")
    return [Item((poll.poll_id,), key="late", queue="late")]

def hangs(poll_id):
    pass

for number in range(COUNT):
    app.task(
        base=PerpetualTask, poll_every=1, poll_timeout=TIMEOUT, next_batch=until_released, name=f"proj.hangs{number}"
    )(hangs)
"""


def test_a_hanging_poll_is_not_started_twice_and_its_result_is_refused(
    project: Callable[..., Project], store_redis: redis.Redis
) -> None:
    """The unit is skipped until next_batch has returned; what that brings at last is dropped; then it is polled."""
    proj = project(GOOD + "COUNT, TIMEOUT = 1, 1" + HANGING)
    beat = proj.beat().ready()
    wait_until(lambda: statuses(store_redis, "proj.hangs0") == ["timed_out"], "the poll timed out")
    with Console(proj) as console:
        assert console("perpetual.pause('proj.hangs0')")
        # Passes over the back-off.
        assert console("perpetual.resume('proj.hangs0')") is True
        wait_until(lambda: statuses(store_redis, "proj.hangs0").count("skipped") >= 2, "the unit is skipped")
        skipped = console("perpetual.polls('proj.hangs0', limit=1)")[0]
        assert skipped["gate"] == "hanging"
        assert poll_events(store_redis, "proj.hangs0")[0].data["poll_id"] in skipped["reason"]
        assert skipped["repeated"] >= 2
        assert [row.what for row in proj.rows()] == ["called"]

        proj.write("released", "")
        wait_until(lambda: store_redis.llen("late"), "the unit is polled again")

        (message,) = queued(store_redis, "late")
        enqueued = next(poll for poll in poll_events(store_redis, "proj.hangs0") if poll.status == "enqueued")
        assert message.args == [enqueued.data["poll_id"]]
        assert [row.what for row in proj.rows()][:4] == ["called", "returns", "called", "returns"]
        wait_until(lambda: len(proj.rows()) > 4, "the next poll")
        assert store_redis.llen("late") == 1
    assert "enqueued" not in statuses(store_redis, "proj.hangs0")[:2]
    check_cadence(beat, store_redis)


def test_more_hanging_polls_than_threads_delay_nobody_else(
    project: Callable[..., Project], store_redis: redis.Redis
) -> None:
    """Three units that hang and two threads for polls: the good unit stays on time, before and after they time out."""
    proj = project(GOOD + "COUNT, TIMEOUT = 3, 4" + HANGING, perpetual_poll_threads=2)
    beat = proj.beat().ready()

    wait_until(
        lambda: sum(poll.status == "timed_out" for poll in poll_events(store_redis)) == 3, "all of them timed out"
    )
    wait_until(lambda: store_redis.llen("good") >= 6, "the good unit has been polled for some seconds")

    check_cadence(beat, store_redis)
