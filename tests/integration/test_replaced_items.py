"""Items that replaced themselves by several tasks and do not end: an operator sees them, and can end and repeat them."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any
from uuid import uuid4

import pytest

from celery_perpetual import Item, PerpetualOptions
from celery_perpetual.health.alerts import Alerts
from celery_perpetual.leases.execution import Execution
from celery_perpetual.starvation.replaced import ReplacedItems
from celery_perpetual.store.commands import replaced as module
from celery_perpetual.thresholds import Thresholds
from celery_perpetual.times import to_ms
from tests.support import wait_until
from tests.support.pretending import report

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from celery_perpetual.health.findings import Finding
    from tests.support.watched_app import WatchedApp

KEY = "perpetual:replaced"
MINUTE = 60_000


@pytest.fixture
def one(watched_app: Callable[..., WatchedApp]) -> WatchedApp:
    found = watched_app()
    found.perpetual.grants.be_a_worker("host")
    return found


def replace(one: WatchedApp, ids: Sequence[str], ago: int = 20 * MINUTE) -> None:
    """Let items have replaced themselves by several tasks, so many ms ago."""
    for task_id in ids:
        execution = Execution(task_id=task_id, nonce=uuid4().hex)
        assert one.perpetual.grants.start(one.app.tasks["app.work"], execution, {}) == ""
        assert one.perpetual.grants.release(task_id, execution.nonce, "delegated") == "released"
        moved_to(one, task_id, one.perpetual.store.now() - ago)


def moved_to(one: WatchedApp, task_id: str, at: int) -> None:
    """Let the state of a task be of another time."""
    text = one.redis.hget("perpetual:states", task_id)
    one.redis.hset("perpetual:states", task_id, f"{at:064d}{text[64:]}")


def findings(one: WatchedApp) -> list[Finding]:
    """The finding of `status`; that of `check` is the same."""
    found = [each for each in one.perpetual.status().findings if each.kind == "items_replaced"]
    assert [each for each in one.perpetual.check() if each.kind == "items_replaced"] == found
    return found


def reasons(one: WatchedApp, task: Any) -> list[str]:
    return [each.evidence for each in one.perpetual.why(task).reasons if "replaced" in each.evidence]


def test_status_why_and_an_alert_name_the_oldest_and_what_helps(one: WatchedApp) -> None:
    """Only those that wait for longer than the step `event`; an end, also a late one, ends the alert."""
    task = one.task([Item((n,), key=n) for n in range(4)])
    ids = one.perpetual.poll(task).task_ids
    replace(one, ids[:1], ago=14 * MINUTE)
    one.perpetual.cycle()
    assert (findings(one), reasons(one, task)) == ([], [])
    replace(one, ids[1:2], ago=30 * MINUTE)
    replace(one, ids[2:3])
    other = one.task([Item((1,), key=1)], name="app.other")
    one.perpetual.poll(other)

    one.perpetual.cycle()

    (finding,) = findings(one)
    assert (finding.area, finding.level, finding.stops) == ("work", "warning", False)
    seen = "2 items replaced themselves by several tasks and have not ended since, the oldest is "
    assert finding.evidence == f"{seen}{ids[1]} of app.work"
    assert finding.since is not None
    assert abs(to_ms(finding.since) - one.perpetual.store.now() + 30 * MINUTE) < 20_000
    assert finding.about == {"items": 2, "task_id": ids[1]}
    for command in (f"perpetual fail {ids[1]}", f"retry {ids[1]} ", "items app.work --state replaced"):
        assert command in finding.help
    assert reasons(one, task) == [finding.evidence]
    assert reasons(one, other) == []
    listed = one.perpetual.items(task, state="replaced")
    assert {each.task_id for each in listed} == set(ids[:3])

    assert one.perpetual.fail(ids[1], "lost", once=True)
    (finding,) = findings(one)  # before the next pass
    assert finding.evidence == (
        f"1 item replaced itself by several tasks and has not ended since, the oldest is {ids[2]} of app.work"
    )
    assert "--state" not in finding.help
    assert one.perpetual.cancel(ids[2])
    assert findings(one) == []
    one.perpetual.cycle()
    assert one.redis.exists(KEY) == 0
    entries = [(e["event"], json.loads(e["data"])) for _, e in one.redis.xrange("perpetual:events")]
    said = [data["change"] for name, data in entries if name == "alert.items_replaced"]
    assert said == ["begun", "ended"]
    assert Alerts(one.perpetual).once() == 0


def test_such_an_item_can_be_failed_and_enqueued_again(one: WatchedApp) -> None:
    """`retry` alone does nothing, as the key is in flight; what was sent for the item before ends nothing then."""
    task = one.task([Item((1,), key="row")])
    (old,) = one.perpetual.poll(task).task_ids
    replace(one, [old])
    with pytest.raises(LookupError, match="no item of"):
        one.perpetual.retry(old)
    assert one.perpetual.completion(old).final is False

    assert one.perpetual.fail(old, "the broker has lost it")
    assert one.perpetual.completion(old).status == "failure"
    new = one.perpetual.retry(old)

    assert new is not None
    assert [(each.task_id, each.state) for each in one.perpetual.items(task)] == [(new, "waiting")]
    late = Execution(task_id=old, nonce=uuid4().hex)
    assert one.perpetual.grants.start(task, late, {}) == "final"


def test_the_time_is_that_of_the_task_that_polled_the_item(one: WatchedApp) -> None:
    """With `event` off, or later, nothing is said; a list that others have written is put right."""
    patient = PerpetualOptions(starvation={"event": 3600, "park": None})
    never = PerpetualOptions(starvation={"event": None})
    one.task([])
    item = Item((1,), task="app.work", key=1)
    ids = [
        one.poll([item], name=name, **options).task_ids[0]
        for name, options in (
            ("app.patient", {"perpetual_options": patient}), ("app.never", {"perpetual_options": never}),
            ("app.usual", {}),
        )
    ]  # fmt: skip
    replace(one, ids)
    one.perpetual.cycle()
    assert one.redis.zrange(KEY, 0, -1) == ids[2:]

    one.redis.zadd(KEY, dict.fromkeys(ids, 1) | {"no-id-of-an-item": 1})
    one.perpetual.cycle()
    assert one.redis.zrange(KEY, 0, -1) == ids[2:]


def test_one_that_goes_on_is_none(one: WatchedApp) -> None:
    """The last task of a chain runs under the id of the item; it may replace itself once more."""
    task = one.task([Item((1,), key=1)])
    (task_id,) = one.perpetual.poll(task).task_ids
    replace(one, [task_id])
    one.perpetual.cycle()
    assert len(findings(one)) == 1

    execution = Execution(task_id=task_id, nonce=uuid4().hex)
    assert one.perpetual.grants.start(task, execution, {"replaced_task_nesting": 1}) == ""
    assert findings(one) == []
    one.perpetual.grants.release(task_id, execution.nonce, "delegated")
    assert findings(one) == []
    one.perpetual.cycle()
    assert one.redis.exists(KEY) == 0


def test_a_state_from_a_clock_that_was_ahead_is_as_old_as_it_was_seen(one: WatchedApp) -> None:
    """It is not hidden until the clock has come there again, nor found at once."""
    task = one.task([Item((1,), key=1)])
    (task_id,) = one.perpetual.poll(task).task_ids
    replace(one, [task_id], ago=-24 * 60 * MINUTE)
    soon = Thresholds(notice=None, wake=None, spawn=None, event=0.2, park=None)
    replaced = ReplacedItems(one.app, one.perpetual.store, soon)

    replaced.once()
    assert findings(one) == []
    begun = one.perpetual.store.now()
    wait_until(lambda: one.perpetual.store.now() > begun + 200, "the time of the step is over")
    replaced.once()

    (finding,) = findings(one)
    assert finding.since is not None
    assert abs(to_ms(finding.since) - begun) < 5_000


def test_the_list_is_bounded_and_every_state_is_read(one: WatchedApp, monkeypatch: pytest.MonkeyPatch) -> None:
    """A pass that may be the only one reads all states, however many there are."""
    monkeypatch.setattr(module, "MOST_NOTED", 3)
    ids = one.poll([Item((n,), key=False) for n in range(5)]).task_ids
    text = f"{1:064d}|0|1|0|wait||app.work"
    one.redis.hset("perpetual:states", mapping={f"other-{n}": text for n in range(1200)})
    replace(one, ids)

    one.perpetual.cycle()

    assert one.redis.zcard(KEY) == 3
    assert findings(one)[0].about["items"] == 3


def test_what_another_program_has_written_stops_no_alert(one: WatchedApp) -> None:
    """A state that cannot be read is taken off the list; a list of a wrong type leaves this alert as it is."""
    ids = one.perpetual.poll(one.task([Item((n,), key=n) for n in range(2)])).task_ids
    replace(one, ids)
    one.perpetual.cycle()
    assert findings(one)[0].about["items"] == 2
    one.redis.hset("perpetual:states", ids[0], "not a state")

    assert one.perpetual.cycle().errors == {}
    assert findings(one)[0].about["items"] == 1
    assert one.redis.zrange(KEY, 0, -1) == [ids[1]]

    one.redis.set(KEY, "of another program")
    report(one.perpetual, "slow@host", ago=40)
    assert set(one.perpetual.cycle().errors) == {"states"}
    assert {name.split(" ")[0] for name in one.redis.hkeys("perpetual:alerts")} == {"items_replaced", "worker_late"}
