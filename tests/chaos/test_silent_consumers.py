"""A worker that lives and consumes nothing: the ladder's step ``wake`` opens its consumer anew."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from celery_perpetual.events import CONSUMER_REOPENED
from tests.support import wait_until
from tests.support.leased_tasks import SETTINGS
from tests.support.stream_events import events

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.support import Project

SILENT = """
from celery.worker.control import control_command

app.conf.task_create_missing_queues = True

def cancel(consumer):
    for tag in list(consumer.task_consumer._active_tags.values()):
        consumer.task_consumer.channel.basic_cancel(tag)
    ledger.record("silent", "silent")

@control_command()
def go_silent(state):
    "Cancel the consumers on their channel; Celery and Kombu believe that they consume."
    state.consumer.call_soon(cancel, state.consumer)
    return {"ok": "silent"}

@app.task(base=PerpetualTask, poll_every=3600, next_batch=lambda: [Item((1,)), Item((2,))], bind=True)
def deliver(self, n):
    ledger.record(self.request.id, "ran")
"""


@pytest.mark.parametrize("broker", ["redis", "rabbitmq"], indirect=True)
@pytest.mark.parametrize("pool", ["prefork", pytest.param("threads", marks=pytest.mark.matrix)])
def test_a_consumer_that_was_cancelled_is_opened_anew(
    project: Callable[..., Project], broker: dict[str, Any], pool: str
) -> None:
    """Its worker reports that it lives and consumes the queue; what waits there is started after ``wake``."""
    starvation = {"notice": 1, "wake": 3, "spawn": 60, "event": None, "park": None}
    proj = project(SILENT, **broker, perpetual_starvation=starvation, **SETTINGS)
    worker = proj.worker(pool=pool).ready()
    assert "silent" in proj.celery("control", "go_silent").stdout
    wait_until(lambda: proj.rows("silent"), "its consumers are gone")

    assert proj.celery("perpetual", "poll", "proj.deliver").returncode == 0
    proj.beat()
    wait_until(lambda: events(proj.redis, "starvation.notice"), "it is noticed that they wait")
    assert proj.rows("ran") == []

    wait_until(lambda: len(proj.rows("ran")) >= 2, "the items run", 20)
    (woken,) = events(proj.redis, "starvation.wake")
    assert (woken["queue"], woken["cause"], len(woken["workers"])) == ("celery", "no_consumer", 1)
    assert worker.events(CONSUMER_REOPENED)
    wait_until(lambda: proj.redis.hlen("perpetual:starving") == 0, "nothing starves any more")


def test_a_saturated_pool_grows_within_its_bound(project: Callable[..., Project]) -> None:
    """``perpetual_max_pool_grow`` processes are added to a worker that has enough to do, and no more at the next time."""
    proj = project(
        """
        @app.task(base=PerpetualTask, poll_every=3600, next_batch=lambda: [Item((n,)) for n in range(6)], bind=True)
        def deliver(self, n):
            ledger.record(self.request.id, "begun")
            while not os.path.exists("released"):
                time.sleep(0.05)
        """,
        perpetual_starvation={"notice": 1, "wake": None, "spawn": 1, "event": None, "park": None},
        perpetual_max_pool_grow=2,
        **SETTINGS,
    )
    worker = proj.worker(concurrency=1).ready()
    assert proj.celery("perpetual", "poll", "proj.deliver").returncode == 0
    wait_until(lambda: proj.rows("begun"), "one has begun")
    assert len(worker.children()) == 1
    proj.beat()

    wait_until(lambda: len(proj.rows("begun")) == 3, "three run at the same time", 20)
    assert len(worker.children()) == 3
    (spawned,) = events(proj.redis, "starvation.spawn")
    assert (spawned["queue"], spawned["cause"], spawned["how"]) == ("celery", "saturated", "pool_grow")
    replies = proj.celery("control", "--json", "perpetual_grow", "2").stdout
    assert "perpetual_max_pool_grow is 2" in replies
    proj.write("released", "")
    wait_until(lambda: len(proj.rows("begun")) == 6, "all have run")
