"""``PerpetualOptions``: every field changes something.

The table stands here a second time, on purpose. To add a name, add it here; it then needs
a test called ``test_option_{name}`` in this folder, which shows what it changes.
"""

from __future__ import annotations

import json
from dataclasses import fields
from typing import TYPE_CHECKING

import pytest
from celery import signature

from celery_perpetual import ErrorRule, Item, Perpetual, PerpetualOptions
from celery_perpetual.beat.roster import Roster
from celery_perpetual.tasks.discovery import discover
from tests.support import wait_until
from tests.support.contract import finish, lose, queued_tasks, without_test

if TYPE_CHECKING:
    from collections.abc import Callable

    import redis

    from tests.support import Project

OPTIONS = (
    "poll_in", "overlap", "jitter", "limit", "dedup_window", "history", "enabled", "completions", "on_batch_done", "store_args",
    "max_recoveries", "failed_keys", "tenants_ttl", "error_rules", "low_water",
    "max_interval", "min_interval", "source_key", "max_queue_depth", "window", "preflight_ttl", "retry_classified",
    "poll_queue",
    "starvation",
)  # fmt: skip


def test_every_accepted_name_has_a_test_of_its_effect() -> None:
    """No name is accepted without a test here that shows what it changes."""
    assert without_test("option", OPTIONS) == []


def test_no_other_name_is_accepted() -> None:
    """The code accepts the options that the table above lists, and no others."""
    assert {field.name for field in fields(PerpetualOptions)} == set(OPTIONS)


def test_option_poll_in(project: Callable[..., Project]) -> None:
    """With ``poll_in="worker"`` beat does not call ``next_batch``, but sends a task that does."""
    proj = project(
        """
        @app.task(base=PerpetualTask, poll_every=3600, next_batch=lambda: ledger.record("polled in beat"),
                  perpetual_options=PerpetualOptions(poll_in="worker"))
        def deliver(): ...
        """
    )
    proj.beat().ready()

    wait_until(lambda: queued_tasks(proj.redis) == ["celery_perpetual.poll"], "the poll is on its way to a worker")
    assert proj.rows() == []


def test_option_overlap(shop: Callable[..., Perpetual]) -> None:
    """With ``overlap="skip"`` a unit is not polled while an item of an earlier batch has not ended."""
    numbers = iter(range(100))

    def due() -> list[tuple[int]]:
        return [(next(numbers),)]

    allowing = shop(due)
    assert [allowing.poll("deliver").count for _ in range(2)] == [1, 1]
    perpetual = shop(due, tenants=["acme"], perpetual_options=PerpetualOptions(overlap="skip"))
    first, second = (perpetual.poll("deliver", tenant="acme") for _ in range(2))
    assert (first.count, second.status, second.gate, second.value, second.limit) == (1, "skipped", "overlap", 1, 0)
    finish(perpetual, first.task_ids[0])
    assert perpetual.poll("deliver", tenant="acme").count == 1


@pytest.mark.parametrize("jitter", [0, 20])
def test_option_jitter(shop: Callable[..., Perpetual], jitter: float) -> None:
    """Slots stay on the grid, but are polled up to ``jitter`` later, and not all equally late."""
    perpetual = shop(list, poll_every=60, perpetual_options=PerpetualOptions(jitter=jitter))
    cadence = discover(perpetual.app).tasks["deliver"].cadence
    due, late = 1_000_000, []
    for _ in range(20):
        found = cadence.occurrence(due, 1_000_000, "", due)
        assert (found.slot - 1_000_000) % 60_000 == 0
        late.append(due - found.slot)
        due = found.following

    assert all(0 <= each <= jitter * 1000 for each in late)
    assert (len(set(late)) > 10) is (jitter > 0)


def test_option_limit(shop: Callable[..., Perpetual]) -> None:
    """A poll takes no more than ``limit`` items."""
    five = [(n,) for n in range(5)]

    assert shop(lambda: five).poll("deliver").count == 5
    found = shop(lambda: [(n,) for n in range(5, 10)], perpetual_options=PerpetualOptions(limit=2)).poll("deliver")
    assert (found.count, found.left_out) == (2, 3)


@pytest.mark.parametrize(("window", "count"), [(0, 1), (60, 0)])
def test_option_dedup_window(shop: Callable[..., Perpetual], window: float, count: int) -> None:
    """A key stays taken after the end of its item, for as long as the window is."""
    perpetual = shop(lambda: [Item((1,), key="a")], perpetual_options=PerpetualOptions(dedup_window=window))
    first = perpetual.poll("deliver")
    finish(perpetual, first.task_ids[0])

    second = perpetual.poll("deliver")

    assert (first.count, second.count, second.duplicates) == (1, count, 1 - count)


def test_option_failed_keys(shop: Callable[..., Perpetual]) -> None:
    """A key that has failed is left out until its back-off is over; with None it is due again at once."""
    perpetual = shop(lambda: [Item((1,), key="a")])
    (task_id,) = perpetual.poll("deliver").task_ids
    finish(perpetual, task_id, "failure")
    second = perpetual.poll("deliver")
    assert (second.status, second.count, second.duplicates, second.held_back) == ("empty", 0, 0, 1)

    perpetual = shop(lambda: [Item((1,), key="b")], perpetual_options=PerpetualOptions(failed_keys=None))
    (task_id,) = perpetual.poll("deliver").task_ids
    finish(perpetual, task_id, "failure")
    wait_until(lambda: perpetual.poll("deliver").count == 1, "the key is offered again")


def test_option_tenants_ttl(shop: Callable[..., Perpetual]) -> None:
    """A ``tenants`` function is called again when ``tenants_ttl`` is over."""
    found = ["acme"]
    perpetual = shop(list, tenants=lambda: list(found), perpetual_options=PerpetualOptions(tenants_ttl=0.05))
    assert [unit.tenant for unit in perpetual.units()] == ["acme"]
    found.append("umbrella")
    wait_until(lambda: [unit.tenant for unit in perpetual.units()] == ["acme", "umbrella"], "it is called again")

    patient = shop(list, tenants=lambda: list(found), perpetual_options=PerpetualOptions(tenants_ttl=600))
    assert len(patient.units()) == 2
    found.clear()
    assert len(patient.units()) == 2


def test_option_error_rules(shop: Callable[..., Perpetual]) -> None:
    """A rule says what an error of the task means: with this one the unit is paused, without it it is tried again."""

    def fail() -> None:
        raise KeyError("no such account")

    options = PerpetualOptions(error_rules=[ErrorRule(KeyError, error_class="permanent")])
    for given, expected in ((PerpetualOptions(), ("degraded", "active")), (options, ("permanent", "paused"))):
        perpetual = shop(fail, perpetual_options=given)
        assert (perpetual.poll("deliver").error_class, perpetual.units()[0].state) == expected


def test_option_retry_classified(project: Callable[..., Project]) -> None:
    """True: a body that raises is retried by the class of its error; without it, it fails."""
    proj = project(
        """
        app.conf.perpetual_error_policies = {"node": (0.001, 0.001)}

        def raises(self):
            ledger.record(self.name, self.request.retries)
            raise ConnectionError

        for name, value in (("once", False), ("again", True)):
            app.task(
                base=PerpetualTask, bind=True, name=name, poll_every=3600, next_batch=lambda: [], max_retries=1,
                perpetual_options=PerpetualOptions(retry_classified=value),
            )(raises)

        def both():
            ids = [app.tasks[name].delay().id for name in ("once", "again")]
            return [end.status for end in perpetual.wait_all(ids, timeout=30).values()]
        """
    )
    proj.worker(pool="threads", concurrency=1).ready()
    assert proj.run_python("from proj import both; print(both())").strip() == "['failure', 'failure']"
    assert [(row.id, row.what) for row in proj.rows()].count(("again", "1")) == 1
    assert sorted(row.id for row in proj.rows()) == ["again", "again", "once"]


def test_option_history(shop: Callable[..., Perpetual]) -> None:
    """No more outcomes are kept than ``history`` says."""
    perpetual = shop(lambda: [Item(key=False)], perpetual_options=PerpetualOptions(history=3))

    polls = [perpetual.poll("deliver").poll_id for _ in range(5)]

    assert [outcome.poll_id for outcome in perpetual.polls("deliver")] == polls[:1:-1]


def test_option_enabled(shop: Callable[..., Perpetual]) -> None:
    """A task that is not enabled is no unit to poll, and is shown as disabled."""
    perpetual = shop(list, perpetual_options=PerpetualOptions(enabled=False))

    assert [(unit.state, unit.reason) for unit in perpetual.units()] == [("disabled", "perpetual option enabled=False")]
    roster = Roster(perpetual.app, perpetual.settings)
    assert (dict(roster.units), roster.disabled) == ({}, {"perpetual:deliver"})


def test_option_completions(project: Callable[..., Project]) -> None:
    """With ``completions=False`` the ends of a task are stored, but not announced."""
    proj = project(
        """
        for name, announced in (("silent", False), ("loud", True)):
            @app.task(name=name, base=PerpetualTask, poll_every=3600, next_batch=lambda: [()],
                      perpetual_options=PerpetualOptions(completions=announced))
            def deliver(): ...
        """
    )
    silent, loud = proj.run_python(
        "from proj import *; print(*perpetual.poll('silent').task_ids, *perpetual.poll('loud').task_ids)"
    ).split()
    proj.worker(pool="solo").ready()

    wait_until(lambda: proj.redis.exists(f"perpetual:completion:{loud}"), "the end is announced")
    assert not proj.redis.exists(f"perpetual:completion:{silent}")
    assert proj.redis.hget("perpetual:u:perpetual:silent", "inflight") == "0"


def test_option_on_batch_done(shop: Callable[..., Perpetual], raw_redis: redis.Redis) -> None:
    """``on_batch_done`` is sent when the last item of a batch has ended."""
    options = PerpetualOptions(on_batch_done=signature("report"))
    perpetual = shop(lambda: [(1,), (2,)], perpetual_options=options)
    ids = perpetual.poll("deliver").task_ids

    finish(perpetual, ids[0])
    assert queued_tasks(raw_redis) == ["deliver", "deliver"]
    finish(perpetual, ids[1])

    wait_until(lambda: queued_tasks(raw_redis) == ["deliver", "deliver", "report"], "the report is sent")


def test_option_store_args(shop: Callable[..., Perpetual], raw_redis: redis.Redis) -> None:
    """With ``store_args=False`` no dashboard can show the arguments: headers, events and completions leave them out."""
    perpetual = shop(lambda: [("s3cret",), ("s3cret", 2)], perpetual_options=PerpetualOptions(store_args=False))

    ended, parked = perpetual.poll("deliver").task_ids

    for message in raw_redis.lrange("celery", 0, -1):
        assert "s3cret" not in json.dumps(json.loads(message)["headers"])
    finish(perpetual, ended)
    for _ in range(4):
        lose(perpetual, parked)
    assert [perpetual.completion(each).arguments for each in (ended, parked)] == [None, None]
    assert b"s3cret" not in b"".join(raw_redis.mget(raw_redis.keys("perpetual:completion:*")))
    assert "s3cret" not in str(raw_redis.xrange("perpetual:events"))


@pytest.mark.parametrize("most", [0, 1])
def test_option_max_recoveries(shop: Callable[..., Perpetual], most: int) -> None:
    """A task is sent again as often as ``max_recoveries`` says; then it is parked."""
    perpetual = shop(lambda: [(1,)], perpetual_options=PerpetualOptions(max_recoveries=most))
    (task_id,) = perpetual.poll("deliver").task_ids

    for _ in range(most):
        lose(perpetual, task_id)
        assert perpetual.parked() == []
    lose(perpetual, task_id)

    assert [lease.recoveries for lease in perpetual.parked()] == [most + 1]
