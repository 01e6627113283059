"""The address of the store stands for another server after a fail-over; old connections stay at the old primary."""

from __future__ import annotations

from contextlib import ExitStack
from typing import TYPE_CHECKING

import pytest
import redis

from tests.support import wait_until
from tests.support.console import Console
from tests.support.proxy import Proxy
from tests.support.stream_events import poll_events

if TYPE_CHECKING:
    from collections.abc import Callable

    from celery_perpetual.embedded import EmbeddedServer
    from tests.support import Project

TASKS = """
@app.task(base=PerpetualTask, bind=True)
def work(self, n):
    ledger.record(n, f"token {perpetual.lease_token()}")
    while n == 1 and not os.path.exists("released"):
        time.sleep(0.05)
    return n * 10

@app.task(base=PerpetualTask, poll_every=0.5, next_batch=lambda: [])
def look(): ...
"""


def fail_over(old: EmbeddedServer, new: EmbeddedServer) -> None:
    """Let the replica take over; the old primary replicates from it, and refuses writes."""
    with redis.Redis.from_url(old.url) as client:
        client.execute_command("FAILOVER", "TO", "127.0.0.1", new.port)
        wait_until(lambda: client.info("replication")["role"] == "slave", "the old primary is a replica")


@pytest.mark.parametrize("pool", ["prefork", "threads"])
def test_everybody_follows_the_address(
    project: Callable[..., Project], redis_url: str, private_redis: Callable[..., EmbeddedServer], pool: str
) -> None:
    """Connections to the old primary stay open: beat, worker and a wait go on at the new one all the same."""
    old, new = (private_redis(options={"repl-diskless-sync-delay": "0"}) for _ in range(2))
    with (
        redis.Redis.from_url(old.url) as before,
        redis.Redis.from_url(new.url, decode_responses=True) as after,
        Proxy(old.port) as proxy,
        ExitStack() as stack,
    ):
        after.replicaof("127.0.0.1", old.port)
        wait_until(lambda: after.info("replication")["master_link_status"] == "up", "the replica follows")
        url = old.url.replace(str(old.port), str(proxy.port))
        proj = project(TASKS, broker=redis_url, store=url, perpetual_leader_ttl=3, perpetual_lease_ttl=5)
        beat, worker = proj.beat().ready(), proj.worker(pool=pool, concurrency=2).ready()
        console, waiter = stack.enter_context(Console(proj)), stack.enter_context(Console(proj))
        task_id = console("str(work.delay(1))")
        wait_until(lambda: len(proj.rows()) == 1, "a task runs")
        waiter.send(f"perpetual.wait('{task_id}', timeout=90).result")
        wait_until(lambda: before.pubsub_numsub(f"perpetual:done:{task_id}")[0][1] == 1, "a process waits for it")
        console("str(work.delay(2))")
        wait_until(lambda: len(proj.rows()) == 2, "another process of the pool has a connection too")
        wait_until(lambda: after.get("perpetual:leader"), "the replica has everything")

        fail_over(old, new)
        proxy.move(new.port)
        polls, reports = len(poll_events(after)), after.zrange("perpetual:workers", 0, -1, withscores=True)
        wait_until(lambda: len(poll_events(after)) > polls + 2, "polls go on at the new primary")
        # Until its next report the worker may believe that the store is away, and start tasks without a lease.
        wait_until(
            lambda: after.zrange("perpetual:workers", 0, -1, withscores=True) != reports, "the worker reports there"
        )
        console("str(work.delay(3))")
        wait_until(lambda: len(proj.rows()) == 3, "a further task runs")
        proj.write("released", "")

        assert waiter.answer() == 10
        wait_until(lambda: not after.exists("perpetual:leases"), "every end is stored at the new primary")
        tokens = [row.what.split()[1] for row in proj.rows()]
        assert all(token.isdigit() for token in tokens), tokens
        assert len(set(tokens)) == 3
        assert before.info("clients")["connected_clients"] > 1
        assert beat.alive
        assert worker.alive
        # Before the proxy: a worker that stops says goodbye to the store.
        beat.kill9()
        worker.kill9()
