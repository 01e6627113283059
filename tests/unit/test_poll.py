"""The Poll that a user's own test makes."""

from __future__ import annotations

from copy import copy
from dataclasses import FrozenInstanceError, replace
from datetime import datetime, timedelta, timezone

import pytest

from celery_perpetual import Poll
from celery_perpetual.polling.poll import count_when_read
from celery_perpetual.polling.rows import Rows


def due(poll: Poll) -> list[int]:
    """A ``next_batch`` as a user writes it."""
    left_out = poll.keys()
    return [row for row in range(10) if str(row) not in left_out][: poll.limit]


def test_a_test_makes_a_poll_with_what_it_needs() -> None:
    """Everything else has a value that a first poll would have."""
    poll = Poll(limit=3)

    assert due(poll) == [0, 1, 2]
    assert (poll.cursor, poll.attempt, poll.late_by, poll.last_polled_at, poll.tenant) == (None, 0, 0.0, None, None)
    assert datetime.now(timezone.utc) - poll.slot < timedelta(minutes=1)


def test_a_test_says_what_is_in_flight() -> None:
    """Keys that the query leaves out."""
    assert due(Poll(limit=2, keys=lambda: {"0", "2"})) == [1, 3]


def test_a_limit_may_be_counted_when_it_is_read() -> None:
    """It is counted once, and such a poll is like any other in all that can be done with it."""
    counted: list[int] = []
    plain = Poll(task="a", limit=8)

    def poll() -> Poll:
        return count_when_read(replace(plain), Rows(3, lambda: counted.append(5) or 5))

    one = poll()
    assert (one.task, counted) == ("a", [])
    assert (one.limit, one.limit, counted) == (8, 8, [5])
    assert poll() == plain
    assert repr(poll()) == repr(plain)
    assert (copy(poll()), replace(poll(), room=2).limit, replace(poll(), limit=2).limit) == (plain, 8, 2)
    with pytest.raises(AttributeError, match="limits"):
        assert poll().limits  # type: ignore[attr-defined]
    with pytest.raises(FrozenInstanceError):
        poll().limit = 3  # type: ignore[misc]
