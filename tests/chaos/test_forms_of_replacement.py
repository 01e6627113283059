"""Items that replace themselves by any canvas: the task of it that ends last gets the id, and its end is the item's."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest

from tests.support import wait_until
from tests.support.leased_tasks import PREFIX, SETTINGS, events, final_ends

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.support import Project

SOURCE = """
import json
from celery import chain, chord, group, signature

@app.task
def add(*numbers):
    return sum(each if isinstance(each, int) else sum(each) for each in numbers)

def frozen(whole):
    whole.freeze()
    return whole

def pair():
    return [add.si(1), add.si(2)]

FORMS = {
    "task": lambda: add.si(1),
    "task with an id": lambda: add.si(1).set(task_id="of-its-own"),
    "frozen task": lambda: frozen(add.si(1)),
    "frozen chain": lambda: frozen(chain(add.si(1), add.s(2))),
    "frozen chord": lambda: frozen(chord(pair(), add.s())),
    "chain": lambda: chain(add.si(1), add.s(2), add.s(3)),
    "group": lambda: group(pair()),
    "chunks": lambda: add.chunks([(1, 2), (3, 4)], 1),
    "chord": lambda: chord(pair(), add.s()),
    "chord before a task": lambda: chain(chord(pair(), add.s()), add.s(4)),
    "chord within a chain": lambda: chain(add.si(1), chord([add.s(1), add.s(2)], add.s()), add.s(4)),
    "the same as JSON": lambda: signature(json.loads(json.dumps(FORMS["chord within a chain"]()))),
    "chord before a group": lambda: chord(pair(), group(add.s(1), add.s(2))),
    "chord before a chord": lambda: chord(pair(), chord([add.s(1), add.s(2)], group(add.s(1), add.s(2)))),
    "chain before a group": lambda: chain(add.si(1), group(add.s(1), add.s(2))),
    "chain before chunks": lambda: chain(add.si(1), add.chunks([(1, 2), (3, 4)], 1)),
    "itself": lambda: replaces.si("task"),
    "itself, behind a chain": lambda: chain(add.si(1), replaces.si("chord within a chain")),
}

@app.task(base=PerpetualTask, bind=True, poll_every=3600, next_batch=lambda: [Item((form,), key=form) for form in USED])
def replaces(self, form):
    raise self.replace(FORMS[form]())
"""

#: By form: what the task that ends last returns.
RESULTS: dict[str, Any] = {
    "task": 1, "task with an id": 1, "frozen task": 1, "frozen chain": 3, "frozen chord": 3, "chain": 6, "group": [1, 2],
    "chunks": [[3], [7]], "chord": 3, "chord before a task": 7, "chord within a chain": 9, "the same as JSON": 9,
    "chord before a group": [4, 5], "chord before a chord": [10, 11], "chain before a group": [2, 3],
    "chain before chunks": [[3], [7]], "itself": 1, "itself, behind a chain": 9,
}  # fmt: skip


#: Canvases that Celery itself runs rightly with task protocol 1: there it sends what is behind a chord several times,
#: and results of a group come in any order.
SIMPLE = ("task", "frozen task", "chain", "frozen chain", "chord", "itself")


@pytest.mark.parametrize(("protocol", "forms"), [(2, tuple(RESULTS)), (1, SIMPLE)], ids=["protocol 2", "protocol 1"])
def test_each_replacement_ends_its_item(
    project: Callable[..., Project], redis_url: str, protocol: int, forms: tuple[str, ...]
) -> None:
    """One success with the result of the canvas, for Celery too; its key is free, and nothing is left."""
    settings = {**SETTINGS, "perpetual_lease_ttl": 60, "task_protocol": protocol}
    proj = project(f"USED = {forms}\n{SOURCE}", **settings, result_backend=redis_url)
    proj.worker(concurrency=2).ready()

    ids = json.loads(
        proj.run_python("import json, proj; print(json.dumps(proj.perpetual.poll('proj.replaces').task_ids))")
    )

    wait_until(lambda: len(final_ends(proj)) >= len(forms), "all have ended")
    assert final_ends(proj) == {(task_id, "success"): 1 for task_id in ids}
    assert {end["key"]: end["result"] for end in events(proj, "completion")} == {form: RESULTS[form] for form in forms}
    stored = [json.loads(proj.redis.get(f"celery-task-meta-{task_id}")) for task_id in ids]
    assert [each["result"] for each in stored] == [RESULTS[form] for form in forms]
    assert proj.redis.hget(f"{PREFIX}:u:perpetual:proj.replaces", "inflight") == "0"
    keys = [f"{PREFIX}:{name}" for name in ("leases", "states", "copies", "resend", "open")]
    wait_until(lambda: not proj.redis.exists(*keys), "nothing of them is left")
