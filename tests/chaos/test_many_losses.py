"""Workers killed at random under load: nothing is lost, nothing overlaps, everything ends once."""

from __future__ import annotations

import random
import time
from collections import Counter
from typing import TYPE_CHECKING

import pytest

from celery_perpetual.events import DELIVERY_LOST, MESSAGE_LOST
from tests.support.leased_tasks import SETTINGS, all_well, events, tokens

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.support import Project

WORKERS = 3

LOAD = """
@app.task(base=PerpetualTask, poll_every=3600, next_batch=lambda: [Item((n,), key=n) for n in range(ITEMS)], bind=True,
          perpetual_options=PerpetualOptions(max_recoveries=20))
def deliver(self, n):
    token = perpetual.lease_token()
    ledger.record(self.request.id, f"begin {token}")
    time.sleep(0.005)  # so that a killed worker is in the middle of it
    ledger.record(self.request.id, f"end {token}")
"""


@pytest.mark.parametrize(("items", "kills"), [(800, 4), pytest.param(5_000, 20, marks=pytest.mark.matrix)])
def test_kills_under_load_lose_no_item(project: Callable[..., Project], items: int, kills: int) -> None:
    """``kill -9`` of random workers while thousands of items are worked off."""
    proj = project(f"ITEMS = {items}\n{LOAD}", **SETTINGS)
    beat = proj.beat().ready()
    workers = [proj.worker().ready() for _ in range(WORKERS)]
    chance = random.Random(5)

    for _ in range(kills):
        time.sleep(chance.uniform(0.1, 0.8))  # the measure: a worker dies at any point of its work
        victim = workers.pop(chance.randrange(len(workers)))
        victim.kill9()
        workers.append(proj.worker().ready())

    all_well(proj, items, seconds=150)
    lost, recovered = (
        Counter(each["task_id"] for each in events(proj, name)) for name in ("lease.lost", "lease.recovered")
    )
    # A worker that dies between popping a message and asking for its lease takes the message along; it had no lease.
    others = Counter(each["task_id"] for kind in (MESSAGE_LOST, DELIVERY_LOST) for each in beat.events(kind))
    assert lost <= recovered <= lost + others
    overlapping = overlaps(proj)
    assert overlapping == []


def overlaps(proj: Project) -> list[str]:
    """Ids that began anew while an execution of them was alive that went on to its end."""
    begun: dict[str, str] = {}
    found = []
    for row in proj.rows():
        what, _, token = row.what.partition(" ")
        if what == "begin":
            begun[row.id] = token
        elif begun[row.id] != token:
            found.append(row.id)
    assert tokens(proj, "begin")
    return found


def test_the_record_shows_overlaps(project: Callable[..., Project]) -> None:
    """The check sees one that is made on purpose."""
    proj = project("")
    proj.run_python("import ledger; [ledger.record('a', what) for what in ('begin 1', 'begin 2', 'end 1', 'end 2')]")
    proj.run_python("import ledger; [ledger.record('b', what) for what in ('begin 1', 'begin 2', 'end 2')]")

    assert overlaps(proj) == ["a"]
