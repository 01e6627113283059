"""Messages that a worker receives from Redis are entered among the unacknowledged ones as kombu does it, in fewer steps."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import pytest
from kombu import Connection, Consumer, Producer, Queue
from kombu.transport.redis import QoS

from celery_perpetual.broker.entering import enter_quickly

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


@contextmanager
def receiving(url: str, *, quickly: bool = True, **options: Any) -> Iterator[tuple[Any, Callable[[], Any]]]:
    """A channel that consumes a queue, and what sends it one message and receives that."""
    with Connection(url, transport_options=options) as connection:
        consumer = Consumer(connection, [Queue("q")], accept=["json"])
        received: list[Any] = []
        consumer.register_callback(lambda _, message: received.append(message))
        if quickly:
            enter_quickly(consumer.channel)

        def one() -> Any:
            with connection.channel() as other:
                Producer(other).publish({"n": "é"}, routing_key="q", declare=[Queue("q")])
            connection.drain_events(timeout=10)
            return received[-1]

        with consumer:
            yield consumer.channel, one


def entries(raw_redis: Any, prefix: str = "") -> dict[str, Any]:
    """The entries, by delivery tag; each with the time of its receipt."""
    found = raw_redis.hgetall(f"{prefix}unacked")
    times = dict(raw_redis.zrange(f"{prefix}unacked_index", 0, -1, withscores=True))
    assert times.keys() == found.keys()
    assert all(time.time() - 60 < at <= time.time() for at in times.values())
    return {tag.decode(): json.loads(text) for tag, text in found.items()}


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
    """The entries are kombu's own, under a prefix of all keys too, and after the channel has lost its connections."""
    options = {"global_keyprefix": prefix} if prefix else {}
    with receiving(redis_url, quickly=False, **options) as (_, one):
        message = one()
        theirs = entries(raw_redis, prefix)[message.delivery_tag]
        message.ack()

    with receiving(redis_url, **options) as (channel, one):
        first, second = one(), one()
        ours = entries(raw_redis, prefix)
        assert set(ours) == {first.delivery_tag, second.delivery_tag}
        payload, *where = ours[first.delivery_tag]
        assert where == theirs[1:]
        assert payload["body"] == theirs[0]["body"]
        assert payload.keys() == theirs[0].keys()
        first.ack()
        assert set(entries(raw_redis, prefix)) == {second.delivery_tag}
        with channel.conn_or_acquire() as kept, channel.conn_or_acquire() as again:
            assert kept is again

        channel._disconnect_pools()  # as kombu does where a connection is lost, and after a fork
        third = one()
        assert set(entries(raw_redis, prefix)) == {second.delivery_tag, third.delivery_tag}
        with channel.conn_or_acquire() as new:
            assert new is not kept
            assert new.connection_pool is channel.pool
        assert channel._create_client(asynchronous=True).connection_pool is channel.async_pool
        for each in (second, third):
            each.ack()
    assert not raw_redis.exists(f"{prefix}unacked", f"{prefix}unacked_index")


def test_a_message_is_entered_though_the_connection_is_gone(redis_url: str, raw_redis: redis.Redis) -> None:
    """The server has closed it, as after a long silence."""
    with receiving(redis_url) as (channel, one):
        first = one()
        mine = channel.qos.append._wire._idle[0].connection
        raw_redis.client_kill_filter(_id=mine_id(raw_redis, mine))

        second = one()

        assert set(entries(raw_redis)) == {first.delivery_tag, second.delivery_tag}


def mine_id(raw_redis: Any, connection: Any) -> str:
    """The server's number of a connection, by its port on this side."""
    port = connection._sock.getsockname()[1]
    return next(str(each["id"]) for each in raw_redis.client_list() if each["addr"].endswith(f":{port}"))


def test_an_error_of_the_server_is_kombus(redis_url: str, raw_redis: redis.Redis) -> None:
    """A command that fails inside the transaction is seen, and raised as kombu raises it; later messages are entered."""
    with receiving(redis_url) as (channel, one):
        one().ack()
        raw_redis.set("unacked", "of a strange hand")

        with pytest.raises(channel.ResponseError, match="WRONGTYPE"):
            one()

        raw_redis.delete("unacked", "unacked_index")
        message = one()
        assert set(entries(raw_redis)) == {message.delivery_tag}


@pytest.mark.parametrize("most", [1, 2, 3, None])
def test_a_channel_of_few_connections_does_what_it_ever_did(
    most: int | None, redis_url: str, raw_redis: redis.Redis
) -> None:
    """The broker's option `max_connections`: a message is acknowledged, and put back where kombu can do that."""
    with receiving(redis_url, max_connections=most) as (_, one):
        one().ack()
        if most != 1:  # kombu alone puts a message back over two
            one().requeue()
            assert raw_redis.llen("q") == 1
        assert not raw_redis.exists("unacked", "unacked_index")


def test_channels_that_enter_nothing_are_left_as_they_are(redis_url: str, raw_redis: redis.Redis) -> None:
    """Of another broker, and of one whose acknowledgements are not emulated."""
    with Connection("memory://") as connection:
        channel: Any = connection.default_channel
        before = dict(vars(channel))
        enter_quickly(channel)
        assert vars(channel) == before

    with receiving(redis_url, ack_emulation=False) as (channel, one):
        assert not isinstance(channel.qos, QoS)
        one()
        assert not raw_redis.exists("unacked")
