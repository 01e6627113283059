"""A batch is being published to RabbitMQ by one process, and the leader's relay comes by."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.support import wait_until
from tests.support.broker import taken
from tests.support.stream_events import poll_events

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.support import Project

SOURCE = """
SLOW = os.environ.get("SLOW")

class Slow(PerpetualTask):
    abstract = True
    def apply_async(self, *args, **options):
        time.sleep(0.25)
        return super().apply_async(*args, **options)

@app.task(base=Slow, poll_every=3600, next_batch=lambda: [Item((n,), key=n) for n in range(12)] if SLOW else [])
def work(n): ...
"""


@pytest.mark.matrix
def test_the_relay_leaves_a_batch_to_its_publisher(project: Callable[..., Project], rabbitmq_url: str) -> None:
    """A poll by hand takes three seconds to publish, with thirty passes of the leader beside it: nothing goes twice."""
    proj = project(SOURCE, broker=rabbitmq_url, perpetual_cycle_interval=0.1, perpetual_leader_ttl=3)
    proj.beat().ready()
    # While the beat's first poll is open, one by hand would be skipped.
    wait_until(lambda: poll_events(proj.redis, "proj.work"), "the beat has polled")

    proj.run_python("import proj; assert proj.perpetual.poll('proj.work').count == 12", env={"SLOW": "1"})

    wait_until(lambda: not proj.redis.exists("perpetual:outbox"), "the batch is published")
    assert [message.args for message in taken(rabbitmq_url)] == [[n] for n in range(12)]
