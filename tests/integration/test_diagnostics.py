"""`check` and `why` say what stands still: nothing is called well that is not."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest

from celery_perpetual import Item, PerpetualOptions, Retries
from celery_perpetual.tasks.discovery import load
from tests.support.contract import finish
from tests.support.pretending import report

if TYPE_CHECKING:
    from collections.abc import Callable

    from celery_perpetual import Perpetual
    from tests.support import Project
    from tests.support.watched_app import WatchedApp


@pytest.fixture
def one(watched_app: Callable[..., WatchedApp]) -> WatchedApp:
    return watched_app()


def lead(perpetual: Perpetual, digest: str, app: str = "app") -> None:
    """Let a beat lead that knows these tasks."""
    info = {"app": app, "owner": "host:1", "units": 1, "digest": digest}
    perpetual.store.redis.set(perpetual.store.keys.leader_info, json.dumps(info), px=60_000)


def evidence(found: Any) -> str:
    return "\n".join(each.evidence for each in found)


def test_check_names_everything_that_stands_still(one: WatchedApp) -> None:
    """No worker, a pause, a failing poll, parked keys, and a leader that runs other code."""
    rows: list[Any] = [Item((1,), key=1)]
    options = PerpetualOptions(failed_keys=Retries(max_attempts=1))
    task = one.task([], next_batch=lambda: [rows[0]], perpetual_options=options)
    finish(one.perpetual, *one.perpetual.poll(task).task_ids, "failure", ValueError("bad row"))
    one.perpetual.pause(task, reason="upgrade")
    lead(one.perpetual, "of other code")

    found = evidence(one.perpetual.check())

    assert "the leading beat host:1 knows other perpetual tasks (1) than this code (1)" in found
    assert "no worker has reported" in found
    assert "perpetual:app.work is paused: upgrade (by " in found
    assert "until it is resumed)" in found
    assert "perpetual:app.work is leaving keys out: 1 item key is parked" in found
    one.perpetual.resume(task)
    rows[0] = None
    assert one.perpetual.poll(task).status == "failed"
    one.perpetual.grants.be_a_worker("host")
    found = evidence(one.perpetual.check())
    assert "is failing: 1 poll failed, the last: " in found
    assert "paused" not in found
    one.perpetual.pause(everything=True, reason="all of it")
    assert "everything is paused: all of it" in evidence(one.perpetual.check())


def test_check_says_whose_prefix_it_is(one: WatchedApp) -> None:
    """The leader, or a worker, of another app is named with that app; it is not called old code of this one."""
    one.task([])
    lead(one.perpetual, "of another app", "of others")

    (finding,) = [each for each in one.perpetual.check() if each.kind in ("other_app", "leader_other_code")]

    assert finding.kind == "other_app"
    assert finding.evidence == (
        "the leading beat host:1 is of the app 'of others', and this app is 'app'; both have the prefix 'perpetual'"
    )
    lead(one.perpetual, load(one.app).digest())
    assert "other_app" not in [each.kind for each in one.perpetual.check()]
    report(one.perpetual, "w@host", app="of others", ago=40.0)
    assert [worker.state for worker in one.perpetual.workers()] == ["late"]
    report(one.perpetual, "w@host", app="of others")
    assert [worker.state for worker in one.perpetual.workers()] == ["running"]
    assert "worker w@host is of the app 'of others'" in evidence(one.perpetual.check())

    lead(one.perpetual, "of other code")
    found = {each.kind: each for each in one.perpetual.check()}
    assert {"other_app", "leader_other_code"} <= found.keys()
    assert found["other_app"].meaning == "workers receive messages of the other app"
    lead(one.perpetual, "of another app", "of others")
    found = {each.kind: each for each in one.perpetual.check()}
    assert "leader_other_code" not in found
    assert found["other_app"].meaning.startswith("no beat of this app starts")


def test_why_names_what_holds_the_unit(one: WatchedApp) -> None:
    """All in flight, a full room without a worker, a leader that does not know the task; "no work" only without them."""
    task = one.task([Item((n,), key=n) for n in range(3)], max_in_flight=3)
    lead(one.perpetual, "of other code")
    why = one.perpetual.why

    assert "the leading beat host:1 does not know this task" in evidence(why(task).reasons)
    one.perpetual.poll(task)
    assert "no worker has reported, and 3 items are in flight" in evidence(why(task).reasons)
    (reason,) = [each for each in why(task).reasons if "no worker" in each.evidence]
    assert reason.help == "celery -A proj worker"
    assert not [each for each in why(task).reasons if each.meaning == "there is no work to enqueue"]


def test_why_says_since_when_what_was_found_is_in_flight(one: WatchedApp) -> None:
    """Duplicates are no empty source."""
    task = one.task([Item((n,), key=n) for n in range(3)])
    one.perpetual.poll(task)
    one.perpetual.poll(task)

    found = one.perpetual.why(task)

    assert "all that the last poll found is in flight: 3 items, the oldest batch since 2" in evidence(found.reasons)
    assert "there is no work to enqueue" not in [each.meaning for each in found.reasons]


UNWIRED = """
from celery_perpetual import PerpetualTask

@app.task(base=PerpetualTask, poll_every=60, next_batch=lambda: [])
def deliver(): ...
"""


def test_the_command_line_says_that_an_app_is_not_wired_or_not_led(project: Callable[..., Project]) -> None:
    """`check` with exit code 2 and the app's own name in its advice; `units` above its table."""
    proj = project(UNWIRED, perpetual=False, name="shop")

    found, units = proj.celery("perpetual", "check"), proj.celery("perpetual", "units")

    assert found.returncode == 2
    assert "this app is not wired: Perpetual(app) is missing" in found.stdout
    assert "celery -A shop beat" in found.stdout
    assert "no beat holds the lead: nothing is polled" in units.stderr
