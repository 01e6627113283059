"""Two namespaces share a broker: neither touches what the workers of the other one have received."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from celery_perpetual.events import ITEM_FOREIGN
from tests.support import wait_until
from tests.support.leased_tasks import SETTINGS

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.support import Project

SOURCE = """
@app.task(base=PerpetualTask, name="shop.deliver", poll_every=3600, next_batch=lambda: [Item((0,), key=0, queue="lost")])
def deliver(n):
    ledger.record(str(n), "ran")
"""


def test_messages_sent_by_hand_are_left_to_the_namespace_of_their_worker(project: Callable[..., Project]) -> None:
    """They wait for their time at a living worker that reports elsewhere: not put back, counted or parked."""
    theirs = project(SOURCE, name="theirs", **{**SETTINGS, "perpetual_key_prefix": "theirs"})
    theirs.worker(concurrency=1).ready()
    sent = theirs.run_python("import theirs; print(theirs.deliver.apply_async((7,), countdown=3600).id)").strip()
    redis = theirs.redis
    (tag,) = wait_until(lambda: redis.hkeys("unacked"), "the worker has received it")
    before = redis.hget("unacked", tag)

    ours = project(SOURCE, name="ours", **{**SETTINGS, "perpetual_key_prefix": "ours"}, task_default_queue="ours")
    ours.worker(concurrency=1).ready()
    ours.run_python("import ours; ours.perpetual.poll(ours.deliver); ours.perpetual.pause(everything=True)")
    wait_until(lambda: redis.llen("lost"), "an item of ours is in its queue")
    redis.delete("lost")
    ours.beat().ready()

    # An unclaimed message counts as lost sooner than a message that is in no queue.
    wait_until(lambda: redis.llen("lost"), "our leader has found what is lost of ours")
    assert redis.hkeys("unacked") == [tag]
    assert redis.hget("unacked", tag) == before
    assert redis.llen("celery") == 0
    assert sent in json.loads(before)[0]["headers"]["id"]
    assert not redis.exists("ours:parked", "theirs:parked")
    assert [
        data for _, data in redis.xrange("ours:events") if data["event"] == "lease.lost" and sent in data["data"]
    ] == []


def test_an_item_of_another_app_is_put_back(project: Callable[..., Project]) -> None:
    """Both consume from one queue, each under its own prefix; the first worker to receive it does not know the task."""
    theirs = project(
        SOURCE.replace(', queue="lost"', ""), name="theirs", **{**SETTINGS, "perpetual_key_prefix": "theirs"}
    )
    ours = project("", name="ours", **{**SETTINGS, "perpetual_key_prefix": "ours"})
    other = ours.worker(concurrency=1).ready()
    theirs.run_python("import theirs; assert theirs.perpetual.poll(theirs.deliver).count == 1")
    seen = other.wait_for_event(ITEM_FOREIGN)
    assert seen["task"] == "shop.deliver"

    theirs.worker(concurrency=1).ready()

    wait_until(lambda: theirs.rows("ran"), "a worker of its own app runs it")
    wait_until(lambda: theirs.redis.exists(f"theirs:completion:{seen['task_id']}"), "it ends")
    assert json.loads(theirs.redis.get(f"theirs:completion:{seen['task_id']}"))["status"] == "success"
    assert not theirs.redis.keys("ours:completion:*")
    other.terminate()
