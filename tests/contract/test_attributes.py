"""Attributes of a task: every one changes something or is refused as not available yet.

The table stands here a second time, on purpose. To make a name available, move it to the accepted ones, and
then needs a test called ``test_attribute_{name}`` in this folder, which shows what it changes.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

import pytest

from celery_perpetual import Item, Perpetual
from celery_perpetual.leases.execution import Execution
from celery_perpetual.leases.interest import Interest, interest_in
from celery_perpetual.worker.follow_ups import name_follow_ups
from tests.support import wait_until
from tests.support.contract import lose, queued_tasks, without_test
from tests.support.leading import LeadingClock

if TYPE_CHECKING:
    from collections.abc import Callable

    import redis

    from tests.support import Project

ATTRIBUTES = (
    "poll_every", "next_batch", "max_in_flight", "poll_timeout", "lease", "on_lost", "tenants", "after_success",
    "preflight",
)  # fmt: skip


def test_every_accepted_name_has_a_test_of_its_effect() -> None:
    """No name is accepted without a test here that shows what it changes."""
    assert without_test("attribute", ATTRIBUTES) == []


def test_attribute_poll_every(project: Callable[..., Project]) -> None:
    """``poll_every`` is the distance of the slots."""
    proj = project(
        """
        @app.task(base=PerpetualTask, poll_every=0.2, next_batch=lambda poll: ledger.record(poll.slot.timestamp()))
        def often(): ...
        """
    )
    proj.beat().ready()

    rows = wait_until(lambda: len(proj.rows()) > 2 and proj.rows(), "three polls")

    slots = [round(float(row.id) * 1000) for row in rows]
    assert len(set(slots)) == len(slots)
    assert {(slot - slots[0]) % 200 for slot in slots} == {0}


def test_attribute_next_batch(shop: Callable[..., Perpetual]) -> None:
    """``next_batch`` says what is enqueued."""
    assert shop(lambda: [(1,), (2,)]).poll("deliver").count == 2


def test_attribute_max_in_flight(shop: Callable[..., Perpetual]) -> None:
    """No more items are in flight than ``max_in_flight``."""
    perpetual = shop(lambda: [(n,) for n in range(5)], max_in_flight=2)

    assert [perpetual.poll("deliver").gate for _ in range(2)] == [None, "max_in_flight"]
    assert perpetual.units()[0].in_flight == 2


def test_attribute_tenants(shop: Callable[..., Perpetual]) -> None:
    """There is a unit for each of the ``tenants``, listed or found by a function; a poll gets the tenant itself."""
    seen: list[Any] = []
    tenants = ["acme", 7, {"key": "umbrella", "url": "https://umbrella.example"}]
    for given in (tenants, lambda: tenants):
        perpetual = shop(lambda poll: seen.append(poll.tenant), tenants=given)
        assert [unit.tenant for unit in perpetual.units()] == ["7", "acme", "umbrella"]
        outcomes = [perpetual.poll("deliver", tenant) for tenant in tenants]
        assert [outcome.tenant for outcome in outcomes] == ["acme", "7", "umbrella"]

    assert seen == [*tenants, *tenants]


def test_attribute_after_success(shop: Callable[..., Perpetual]) -> None:
    """Items of ``after_success`` are enqueued by the unit's next poll, once per key; ``next_batch`` waits for it."""
    perpetual = shop(lambda: [Item((9,), key="9")], after_success=lambda number: [Item((number + 1,), key=number + 1)])
    task = perpetual.app.tasks["deliver"]
    for result in (1, 2, 2):
        name_follow_ups(task, Execution(task_id="an id"), result)

    first = perpetual.poll("deliver")
    assert (first.count, first.duplicates) == (2, 1)
    assert sorted(perpetual.find("deliver", key).key for key in (2, 3)) == ["2", "3"]
    second = perpetual.poll("deliver")
    assert (second.count, perpetual.find("deliver", "9").key) == (1, "9")


def test_attribute_poll_timeout(shop: Callable[..., Perpetual]) -> None:
    """A ``next_batch`` that takes longer than ``poll_timeout`` is abandoned."""
    perpetual = shop(lambda: time.sleep(0.3), poll_timeout=0.1)

    outcome = perpetual.poll("deliver")

    assert (outcome.status, "0.1 s" in str(outcome.reason)) == ("timed_out", True)


def test_attribute_lease(shop: Callable[..., Perpetual]) -> None:
    """A task runs under a lease, unless it says ``lease = False``."""
    for given, guarded in (({}, True), ({"lease": True}, True), ({"lease": False}, False)):
        perpetual = shop(lambda: [(1,)], **given)
        task = perpetual.app.tasks["deliver"]
        assert (Interest.LEASE in interest_in(perpetual.app, task, "an id", {"perpetual": 1})) is guarded


@pytest.mark.parametrize(
    ("on_lost", "sent", "status"), [("requeue", 2, "pending"), ("fail", 1, "lost"), ("park", 1, "needs_attention")]
)
def test_attribute_on_lost(
    shop: Callable[..., Perpetual], raw_redis: redis.Redis, on_lost: str, sent: int, status: str
) -> None:
    """``on_lost`` says what becomes of a task whose worker is gone."""
    perpetual = shop(lambda: [(1,)], on_lost=on_lost)
    (task_id,) = perpetual.poll("deliver").task_ids

    lose(perpetual, task_id)

    assert len(queued_tasks(raw_redis)) == sent
    assert perpetual.completion(task_id).status == status
    assert [lease.task_id for lease in perpetual.parked()] == ([task_id] if on_lost == "park" else [])


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_attribute_preflight(shop: Callable[..., Perpetual]) -> None:
    """A unit is not polled before its preflight has passed."""

    def fail() -> None:
        raise KeyError("token")

    perpetual = shop(lambda: [(1,)], preflight=fail)
    clock = LeadingClock(perpetual)
    (poll,) = clock.until_polled("deliver")
    clock.close()
    assert (poll.status, poll.gate, poll.count) == ("skipped", "preflight", 0)
