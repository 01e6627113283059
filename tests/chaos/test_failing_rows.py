"""Rows that always fail keep no other row waiting, and are tried again by their back-off."""

from __future__ import annotations

from collections import defaultdict
from typing import TYPE_CHECKING

from tests.support import wait_until

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.support import Project

FAILING = 5
ROWS = 200

SOURCE = f"""
def done():
    return {{int(id) for id, what, *_ in ledger.rows() if what == "done"}}

def due(poll):
    finished = done()
    return [Item((row,), key=row) for row in range({ROWS}) if row not in finished][: poll.limit]

@app.task(
    base=PerpetualTask, poll_every=0.2, next_batch=due, ignore_result=True,
    perpetual_options=PerpetualOptions(limit=5, failed_keys=Retries(backoff=2, multiplier=2, jitter=False)),
)
def deliver(row):
    if row < {FAILING}:
        ledger.record(row, "failed")
        raise ValueError("this row never works")
    ledger.record(row, "done")
"""


def attempts(proj: Project) -> dict[int, list[float]]:
    """When each failing row was tried."""
    found: dict[int, list[float]] = defaultdict(list)
    for row in proj.rows("failed"):
        found[int(row.id)].append(row.time)
    return found


def test_rows_that_always_fail_delay_no_other_row(project: Callable[..., Project]) -> None:
    """The first five of 200 rows fail, with ``limit=5``: the others are done at once, and the five wait longer each time.

    A beat that is killed and started again goes on with the same back-off.
    """
    proj = project(SOURCE, perpetual_leader_ttl=3)
    beat, worker = proj.beat(), proj.worker(pool="threads", concurrency=4)
    worker.ready()

    wait_until(lambda: len(proj.rows("done")) == ROWS - FAILING, "the rows that work are done", 20)
    done_at = proj.rows("done")[-1].time
    assert all(len([at for at in times if at < done_at]) <= 3 for times in attempts(proj).values())
    beat.kill9()
    proj.beat()
    wait_until(lambda: min(map(len, attempts(proj).values()), default=0) >= 3, "each is tried a third time", 30)

    tried = attempts(proj)
    assert sorted(tried) == list(range(FAILING))
    for first, second, third, *_ in tried.values():
        assert second - first >= 2
        assert third - second >= 4
    assert len({row.id for row in proj.rows("done")}) == ROWS - FAILING
    assert proj.celery("perpetual", "why", "proj.deliver").stdout.count("5 item keys are held back") == 1
