"""Tasks that collect their messages and run one body for many, as celery-batches does."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from tests.support import wait_until
from tests.support.leased_tasks import ANY_BROKER, PREFIX, SETTINGS, TTL, events

if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from tests.support import Project

SOURCE = """
from celery import Task, signals
from celery.utils.imports import symbol_by_name
from celery.utils import uuid
from celery.worker.request import create_request_cls

class Simple:
    def __init__(self, request):
        self.id, self.name, self.args, self.request_dict = request.id, request.name, request._payload[0], request.request_dict
        self.ignore_result, self.chord, self.errbacks, self.reply_to, self.correlation_id = False, None, None, None, None

def run_batch(task, requests):
    task_id = uuid()
    signals.task_prerun.send(sender=task, task_id=task_id, task=task, args=[requests], kwargs={})
    task(requests)
    signals.task_postrun.send(
        sender=task, task_id=task_id, task=task, args=[requests], kwargs={}, retval=None, state="SUCCESS")

class Batches(Task):
    abstract = True
    typing = False

    def Strategy(self, task, app, consumer):
        Req = create_request_cls(symbol_by_name(task.Request), task, consumer.pool, consumer.hostname,
                                 consumer.event_dispatcher, app=app)
        collected = []

        def received(message, body, ack, reject, callbacks, **_):
            collected.append(Req(
                message, on_ack=ack, on_reject=reject, app=app, hostname=consumer.hostname, task=task,
                body=message.body, headers=message.headers, decoded=False, utc=True,
                connection_errors=consumer.connection_errors))
            if len(collected) == 3:
                requests = collected[:]
                collected.clear()
                acks = lambda *_: [each.acknowledge() for each in requests]
                consumer.pool.apply_async(
                    run_batch, (task, [Simple(each) for each in requests]),
                    accept_callback=None if task.acks_late else acks, callback=acks if task.acks_late else None)
        return received

def body(self, requests):
    for request in requests:
        ledger.record(request.args[0])
        if request.args[0].endswith("bad"):
            app.backend.mark_as_failure(request.id, ValueError("bad"), request=request)
        elif request.args[0].endswith("good"):
            app.backend.mark_as_done(request.id, "well", request=request)

early = app.task(base=Batches, bind=True, name="proj.early")(body)
late = app.task(base=Batches, bind=True, name="proj.late", acks_late=True)(body)

@app.task(base=PerpetualTask, poll_every=3600, next_batch=lambda: [
    Item((f"{task} {name}",), key=f"{task} {name}", task=f"proj.{task}")
    for task in ("early", "late") for name in ("bad", "good", "any")])
def find():
    pass
"""


@ANY_BROKER
def test_tasks_that_run_in_batches(project: Callable[..., Project], broker: dict[str, Any], redis_url: str) -> None:
    """As items and under "all": their messages are acknowledged, they run once, and each has the end that it says."""
    config = {"perpetual_leases": "all", "perpetual_completions": "all", "result_backend": redis_url}
    proj = project(SOURCE, **{**SETTINGS, **config}, **broker)
    proj.beat().ready()  # finds the items
    proj.worker(concurrency=2).ready()
    proj.run_python("import proj; [task.delay('ordinary') for task in (proj.early, proj.late) for _ in range(3)]")

    wait_until(lambda: len(proj.rows()) == 12, "all have run")
    time.sleep(2 * TTL)  # the measure itself: nothing of them is taken for lost

    assert len(proj.rows()) == 12
    assert events(proj, "lease.lost") == events(proj, "lease.parked") == []
    ends = {end["key"]: end["status"] for end in events(proj, "completion") if end["key"]}
    # A message that is acknowledged before its body runs has ended by then.
    said = {f"{task} {name}": "success" for task in ("early", "late") for name in ("bad", "good", "any")}
    assert ends == said | {"late bad": "failure"}
    ordinary = [end["status"] for end in events(proj, "completion") if not end["key"]]
    assert ordinary == ["success"] * 6
    assert proj.redis.hget(f"{PREFIX}:u:perpetual:proj.find", "inflight") == "0"
    assert not proj.redis.exists("unacked", f"{PREFIX}:leases", f"{PREFIX}:states")
