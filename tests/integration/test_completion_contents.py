"""Contents of a completion: annotations, results and errors."""

from __future__ import annotations

import json
from collections import Counter
from datetime import datetime, timezone

import pytest

from celery_perpetual import Item, TaskLost
from celery_perpetual.errors import ContractError, NotSuccessful
from tests.support.contract import finish
from tests.support.held_tasks import STRANGER


def test_annotations_come_as_meta(shop):
    """Those of all calls together; too much, or what is no JSON, is refused inside the task."""
    ids = shop.poll({"score": 0.93, "exit_code": 0}, {"facts": "x" * 8000}, {"facts": "x" * 8200}).task_ids
    answers = shop.perpetual.wait_all(ids, 30)
    fine, near, beyond = (answers[task_id] for task_id in ids)

    assert fine.meta == {"score": 0.93, "exit_code": 0}
    assert near.meta == {"facts": "x" * 8000}
    assert (beyond.status, beyond.error["type"], beyond.meta) == ("failure", "ContractError", {})
    assert "at most 8192" in beyond.error["message"]
    with pytest.raises(ContractError, match="inside a task"):
        shop.perpetual.annotate(score=1)


def test_results_of_up_to_eight_kib_come_along(shop):
    """Counted as JSON; a longer one is left to Celery, and the record says null."""
    results = ["x" * 8190, "x" * 8191, ["ä", None, 1.5], 0]
    ids = shop.poll(*({"result": result} for result in results)).task_ids
    answers = shop.perpetual.wait_all(ids, 30)

    assert [answers[task_id].result for task_id in ids] == ["x" * 8190, None, ["ä", None, 1.5], 0]
    assert shop.app.AsyncResult(ids[1]).result == "x" * 8191
    assert json.loads(shop.redis.get(f"perpetual:completion:{ids[1]}"))["result"] is None


def test_short_arguments_of_items_come_along(watched_app):
    """Arguments that JSON can say are in it; others, and those of a task that is no item, are null."""
    one = watched_app()
    rows = [
        Item((17,), {"again": False}, key=17), Item((["ä", {"x": [1.5, None]}],), key='%s \\ "quoted"'),
        Item(("x" * 300,)), Item((float("nan"),)), Item((datetime.now(timezone.utc),)), Item((1,), priority=3),
        Item((2,), serializer="pickle"), Item(),
    ]  # fmt: skip
    ids = one.poll(rows).task_ids
    for task_id in ids:
        finish(one.perpetual, task_id)
    finish(one.perpetual, "my-own-id")

    found = [one.perpetual.completion(task_id).arguments for task_id in (*ids, "my-own-id")]

    some = [[17], {"again": False}], [[["ä", {"x": [1.5, None]}]], {}]
    assert found == [*some, None, None, None, [[1], {}], None, [[], {}], None]
    recorded = one.redis.xrange("perpetual:events")
    ends = [json.loads(entry["data"]) for _, entry in recorded if entry["event"] == "completion"]
    assert [end["arguments"] for end in ends] == found


def test_raise_for_status_raises_on_everything_but_success(shop):
    """`TaskLost` for lost, `NotSuccessful` for other ends and for none; the completion hangs on it."""
    gate = shop.gate()
    ids = shop.poll({}, {"raises": "boom"}, {"exits": True}, {"gate": gate}).task_ids
    good, bad, lost = (shop.perpetual.wait(task_id, 30) for task_id in ids[:3])
    late = shop.perpetual.wait(ids[3], 0.1)
    unknown = shop.perpetual.wait(STRANGER, 0.1)

    good.raise_for_status()
    with pytest.raises(TaskLost, match="ended as lost"):
        lost.raise_for_status()
    for completion, text in ((bad, "ended as failure: ValueError: boom"), (late, "in time"), (unknown, "not known")):
        with pytest.raises(NotSuccessful, match=text) as caught:
            completion.raise_for_status()
        assert not isinstance(caught.value, TaskLost)
        assert caught.value.completion is completion


def test_every_item_of_a_large_batch_wakes_its_waiter(shop):
    """A real worker ends three hundred items while `as_completed` iterates: each comes once, none is missed."""
    poll = shop.poll(*({"result": n} for n in range(300)))

    results = Counter(each.result for each in shop.perpetual.as_completed(poll.task_ids, 60))

    assert results == Counter(range(300))
