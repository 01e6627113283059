"""The messages of runs: stamped out like those of items, and the same as those that Celery builds one by one."""

from __future__ import annotations

from datetime import datetime, timedelta, timezone
from typing import TYPE_CHECKING, Any

import pytest
from celery import signals

from tests.support.watched_app import WatchedApp, nothing

if TYPE_CHECKING:
    from collections.abc import Callable

    from celery import Celery

ROWS = 30
AT = datetime(2040, 1, 2, 3, 4, 5, 678000, tzinfo=timezone.utc)


def taken(app: Celery) -> list[tuple[Any, Any]]:
    """Take all messages out of the queue: headers and body, by the routine."""
    with app.connection_for_read() as connection:
        channel, messages = connection.channel(), []
        while (message := channel.basic_get("celery", no_ack=True)) is not None:
            messages.append((dict(message.headers), message.body))
    return sorted(messages, key=lambda each: each[0]["perpetual-routine"]["id"])


def fields(number: int) -> dict[str, Any]:
    return {
        "task": "app.work", "args": (number, "ü%"), "kwargs": {"who": f"user {number}"}, "id": f"{number:02} %s ü",
        "at": AT + timedelta(seconds=number), "options": {"headers": {"own": "x"}, "priority": 3},
    }  # fmt: skip


@pytest.mark.parametrize("broker", ["redis", "rabbitmq"], indirect=True)
def test_runs_that_start_together_are_stamped(
    watched_app: Callable[..., WatchedApp], redis_url: str, broker: dict[str, Any], listening: Any
) -> None:
    """Header for header what Celery builds for a run that starts alone; signals after the publish name the run."""
    urls = {"broker_url": broker["broker"]} if broker else {}
    one = watched_app(**urls, perpetual_store_url=redis_url)
    one.app.task(nothing, name="app.work", shared=False)
    routines = one.perpetual.routines
    heard: list[Any] = []
    listening(signals.after_task_publish, lambda headers=None, **_: heard.append(headers["perpetual-routine"]))

    routines.create_many(fields(n) for n in range(ROWS))
    together = routines.run_due(AT + timedelta(hours=1))
    stamped = taken(one.app)
    built, told = len(one.built), list(heard)
    routines.clear()
    routines.create_many(fields(n) for n in range(ROWS))
    for _ in range(ROWS):
        routines.run_due(AT + timedelta(hours=1), limit=1)
    alone = taken(one.app)

    assert len(together) == len(stamped) == len(alone) == ROWS
    assert [each["perpetual-routine"] for each, _ in stamped] == [
        {"id": f"{n:02} %s ü", "slot": f"2040-01-02T03:04:{5 + n:02}.678Z", "attempt": 1} for n in range(ROWS)
    ]
    assert [each["id"] for each, _ in stamped] == [run.task_id for run in together]
    assert sorted(told, key=lambda each: each["id"]) == [each["perpetual-routine"] for each, _ in stamped]
    for (ours, body), (theirs, other) in zip(stamped, alone, strict=True):
        assert body == other
        assert without_ids(ours) == without_ids(theirs)
    if not broker:
        assert built <= 3


def without_ids(headers: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in headers.items() if name not in ("id", "root_id")}
