"""Items that replace themselves by a chain, a group or a chord, of which the broker loses a message."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from tests.support import wait_until
from tests.support.leased_tasks import SETTINGS

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.support import Project

SOURCE = """
from celery import chain, chord, group

app.conf.task_routes = {"proj.lost": {"queue": "lost"}}

@app.task
def lost(*args): ...

@app.task
def there(*args):
    ledger.record("there")

FORMS = {
    "chain": lambda: chain(there.si(), lost.si(), there.si()),
    "first of a chain": lambda: chain(lost.si(), there.si()),
    "group": lambda: group(there.si(), lost.si()),
    "chord": lambda: chord([lost.si(), there.si()], there.si()),
    "body of a chord": lambda: chord([there.si(), there.si()], lost.si()),
}

@app.task(base=PerpetualTask, poll_every=3600, bind=True, next_batch=lambda: [Item((form,), key=form) for form in FORMS])
def grow(self, form):
    ledger.record(form)
    raise self.replace(FORMS[form]())
"""

FORMS = {"chain", "first of a chain", "group", "chord", "body of a chord"}


def replaced(proj: Project) -> dict[str, str]:
    """Ids of the items that are replaced, by their forms."""
    found = json.loads(proj.celery("perpetual", "items", "proj.grow", "--state", "replaced", "--json").stdout)
    return {each["key"]: each["task_id"] for each in found}


def finding(proj: Project) -> dict[str, Any] | None:
    found = json.loads(proj.celery("perpetual", "status", "--json").stdout)
    every = [each for area in found["areas"] for each in area["findings"]]
    return next((each for each in every if each["kind"] == "items_replaced"), None)


def test_an_operator_sees_these_items_and_ends_and_repeats_one(project: Callable[..., Project], redis_url: str) -> None:
    """The alert begins by itself; the item that is enqueued again has a new id, and the others wait on."""
    ladder = {"notice": 1, "wake": None, "spawn": None, "event": 1, "park": None}
    proj = project(SOURCE, **SETTINGS, perpetual_starvation=ladder, result_backend=redis_url)
    proj.worker("-Q", "celery", concurrency=1).ready()
    proj.beat().ready()
    wait_until(lambda: proj.redis.llen("lost") == len(FORMS), "each form has sent the message that will be lost")
    proj.redis.delete("lost")

    wait_until(lambda: proj.redis.zcard("perpetual:replaced") == len(FORMS), "all of them are noted")
    ids = replaced(proj)
    assert ids.keys() == FORMS
    found = finding(proj)
    assert found is not None
    assert found["about"]["items"] == len(FORMS)
    oldest = found["about"]["task_id"]
    assert oldest in ids.values()
    assert oldest in proj.celery("perpetual", "why", "proj.grow", "--json").stdout
    wait_until(lambda: proj.redis.hexists("perpetual:alerts", "items_replaced"), "the alert is on")

    for verb in (("fail", oldest, "--reason", "lost", "--yes"), ("retry", oldest)):
        done = proj.celery("perpetual", *verb)
        assert done.returncode == 0, done.stdout + done.stderr
    wait_until(lambda: proj.redis.llen("lost") == 1, "the item runs again, and has replaced itself again")
    again = wait_until(lambda: len(found := replaced(proj)) == len(FORMS) and found, "all of them are open again")
    assert len(set(again.values()) - set(ids.values())) == 1
    assert oldest not in again.values()
