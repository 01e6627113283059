"""The Poll that a user's own test makes."""

from __future__ import annotations

from datetime import datetime, timedelta, timezone

from celery_perpetual import Poll


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
