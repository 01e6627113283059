"""A large batch is published in parts, and the next one is made ready while the store works."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from celery.signals import after_task_publish

from celery_perpetual.errors import StoreUnavailable
from celery_perpetual.store.chunks import CHUNK

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.support.watched_app import WatchedApp


def test_a_record_that_cannot_be_read_in_time_costs_no_signal(watched_app: Callable[..., WatchedApp]) -> None:
    """The next part of a batch is read while the store pushes the one before, whose signals are sent all the same."""
    watched = watched_app()
    sent: list[str] = []

    def note(sender: str, headers: dict[str, Any], **_: Any) -> None:
        sent.append(headers["id"])

    publisher = watched.perpetual.runner.publisher
    read, failures = publisher._indexed, [StoreUnavailable("the store does not answer")]

    def read_once(task: str, poll_id: str, first: int, *more: Any) -> Any:
        if first and failures:
            raise failures.pop()
        return read(task, poll_id, first, *more)

    publisher._indexed = read_once  # type: ignore[method-assign]
    after_task_publish.connect(note, weak=False)
    try:
        outcome = watched.poll([(n,) for n in range(CHUNK + 1)])
    finally:
        after_task_publish.disconnect(note)
    assert sorted(sent) == sorted(outcome.task_ids)
    assert len(watched.messages()) == CHUNK + 1
