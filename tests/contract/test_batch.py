"""``Batch``, which ``next_batch`` may return beside items: every field changes something.

The table stands here a second time, on purpose. To make a name available, move it to the accepted ones, and
then needs a test called ``test_batch_{name}`` in this folder, which shows what it changes.
"""

from __future__ import annotations

import json
from datetime import datetime, timezone
from typing import TYPE_CHECKING

from celery_perpetual import Batch, Perpetual, Poll
from tests.support import wait_until
from tests.support.contract import without_test

if TYPE_CHECKING:
    from collections.abc import Callable

    import redis

    from tests.support import Project

BATCH = ("items", "cursor", "more", "watermark")


def test_every_accepted_name_has_a_test_of_its_effect() -> None:
    """No name is accepted without a test here that shows what it changes."""
    assert without_test("batch", BATCH) == []


def test_batch_items(shop: Callable[..., Perpetual]) -> None:
    """The items of ``Batch.items`` are enqueued."""
    assert shop(lambda: Batch([(1,), (2,)])).poll("deliver").count == 2


def test_batch_cursor(shop: Callable[..., Perpetual]) -> None:
    """``Batch.cursor`` is given to the unit's next poll."""
    seen = []

    def due(poll: Poll) -> Batch:
        seen.append(poll.cursor)
        return Batch([], cursor=[len(seen), "x"])

    perpetual = shop(due)
    for _ in range(3):
        perpetual.poll("deliver")

    assert seen == [None, [1, "x"], [2, "x"]]


def test_batch_more(project: Callable[..., Project]) -> None:
    """``Batch.more`` polls again at once, long before the next slot."""
    proj = project(
        """
        def due(poll):
            ledger.record(poll.trigger)
            return Batch([Item(key=False)], more=poll.trigger != "drain")

        @app.task(base=PerpetualTask, poll_every=3600, next_batch=due)
        def deliver(): ...
        """
    )
    proj.beat().ready()

    rows = wait_until(lambda: len(proj.rows()) == 2 and proj.rows(), "a second poll")

    assert [row.id for row in rows] == ["schedule", "drain"]


def test_batch_watermark(shop: Callable[..., Perpetual], raw_redis: redis.Redis) -> None:
    """``Batch.watermark`` is found again in what is reported of the poll."""
    watermark = datetime(2024, 5, 1, 8, tzinfo=timezone.utc)
    perpetual = shop(lambda: Batch([(1,)], watermark=watermark))

    told = json.dumps([perpetual.poll("deliver").to_dict(), perpetual.units()[0].to_dict()])
    events = raw_redis.xrange("perpetual:events")

    assert "2024-05-01T08:00:00" in f"{told} {events}"
