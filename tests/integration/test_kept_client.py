"""A worker's channel keeps the client by which kombu notes each message that was received."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest
from kombu import Connection, Consumer, Producer, Queue

from celery_perpetual.worker.kept_client import KeptClientStep

if TYPE_CHECKING:
    import redis

    from tests.support import Project

COUNTED = """
import redis

made = 0
make = redis.Redis.__init__

def making(self, *args, **kwargs):
    global made
    make(self, *args, **kwargs)
    made += 1

redis.Redis.__init__ = making

def so_far():
    return made

@app.task(base=PerpetualTask, poll_every=3600, next_batch=lambda: [Item((n,), key=n) for n in range(20)])
def late(n):
    return made

@app.task
def early():
    return made
"""


def test_a_worker_makes_no_client_for_a_message(project: Callable[..., Project]) -> None:
    """Twenty late-acked messages and twenty that are acknowledged early; kombu alone makes one or two for each."""
    said = project(COUNTED, perpetual_completions="all").run_python(
        """
        import proj
        from proj import *
        from celery.contrib.testing.worker import start_worker
        with start_worker(app, pool="solo", perform_ping_check=False):
            with app.connection_for_write() as connection, connection.Producer() as producer:
                ids = [early.apply_async(producer=producer).id for _ in range(20)]
                ids += perpetual.poll("proj.late").task_ids
                sent = proj.so_far()
                ended = perpetual.wait_all(ids, 20)
        print(sorted(each.result - sent for each in ended.values())[-1], len(ended))
        """
    )

    most, ended = said.split()[-2:]
    assert ended == "40"
    # The subscription that waits, and the first message of the worker, need theirs.
    assert int(most) < 10


@pytest.mark.parametrize("prefix", ["", "mine:"], ids=["plain", "prefixed"])
def test_messages_are_entered_and_removed_as_ever(redis_url: str, raw_redis: redis.Redis, prefix: str) -> None:
    """Also after the channel has lost its connections, and under a prefix of all keys."""
    options = {"global_keyprefix": prefix} if prefix else {}
    with Connection(redis_url, transport_options=options) as connection:
        consumer = Consumer(connection, [Queue("q")], accept=["json"])
        channel: Any = consumer.channel
        KeptClientStep(None).start(SimpleNamespace(task_consumer=consumer))
        received: list[Any] = []
        consumer.register_callback(lambda _, message: received.append(message))

        def one() -> tuple[Any, Any]:
            with connection.channel() as other:
                Producer(other).publish({}, routing_key="q", declare=[Queue("q")])
            connection.drain_events(timeout=10)
            with channel.conn_or_acquire() as client:
                return client, received[-1]

        with consumer:
            (first, message), (second, _) = one(), one()
            tags = set(raw_redis.hkeys(f"{prefix}unacked"))
            assert tags == {each.delivery_tag.encode() for each in received}
            assert raw_redis.zcard(f"{prefix}unacked_index") == 2
            message.ack()
            assert raw_redis.hlen(f"{prefix}unacked") == raw_redis.zcard(f"{prefix}unacked_index") == 1
            assert second is first

            channel._disconnect_pools()  # as kombu does where a connection is lost, and after a fork
            third, _ = one()
            assert third is not first
            assert third.connection_pool is channel.pool
            assert channel._create_client(asynchronous=True).connection_pool is channel.async_pool
            for each in received[1:]:
                each.ack()
        assert not raw_redis.exists(f"{prefix}unacked", f"{prefix}unacked_index")


def test_a_channel_of_another_broker_is_left_as_it_is() -> None:
    """It has no such client."""
    with Connection("memory://") as connection:
        consumer = Consumer(connection, [Queue("q")])
        before = dict(vars(consumer.channel))

        KeptClientStep(None).start(SimpleNamespace(task_consumer=consumer))

        assert vars(consumer.channel) == before
