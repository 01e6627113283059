"""A unit and an entry that are on time, whatever other units do."""

from __future__ import annotations

import re
from datetime import datetime
from itertools import pairwise
from typing import TYPE_CHECKING

from tests.support.stream_events import poll_events

if TYPE_CHECKING:
    import redis

    from tests.support import CeleryProcess


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
