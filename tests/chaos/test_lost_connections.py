"""A worker that loses its connection to the broker lets go of what Celery forgets then, and of nothing else."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from tests.support import wait_until
from tests.support.leased_tasks import ANY_BROKER, PREFIX, SETTINGS, TASKS, all_well, events, tokens
from tests.support.proxy import Proxy

if TYPE_CHECKING:
    from collections.abc import Callable

    import redis

    from tests.support import Project


def reset_consumers(client: redis.Redis) -> None:
    """Close the connections on which workers wait for messages."""
    waiting = [each for each in client.client_list() if each["cmd"] == "brpop"]
    assert waiting
    for each in waiting:
        client.client_kill_filter(_id=each["id"])


def test_a_running_task_that_celery_cancels(project: Callable[..., Project]) -> None:
    """It loses its lease before its message is received again: it runs again, and that is no recovery."""
    proj = project("ITEMS = 2\n" + TASKS, **{**SETTINGS, "worker_cancel_long_running_tasks_on_connection_loss": True})
    proj.beat().ready()
    worker = proj.worker().ready()
    wait_until(lambda: len(tokens(proj, "begin")) == 2, "both have begun")

    reset_consumers(proj.redis)

    wait_until(lambda: all(len(each) == 2 for each in tokens(proj, "begin").values()), "both have begun again")
    assert "Celery has cancelled task" in worker.log()
    proj.write("released", "")
    all_well(proj, 2)
    assert not any(len(each) > 2 for each in tokens(proj, "begin").values())


def test_a_running_task_that_celery_leaves_alone(project: Callable[..., Project]) -> None:
    """It runs on, its message comes again and is dropped."""
    proj = project("ITEMS = 2\n" + TASKS, **SETTINGS)
    proj.beat().ready()
    proj.worker(concurrency=4).ready()
    wait_until(lambda: len(tokens(proj, "begin")) == 2, "both have begun")

    reset_consumers(proj.redis)
    wait_until(lambda: proj.redis.hget(f"{PREFIX}:counters", "dropped_adopted"), "a second delivery was dropped")
    proj.write("released", "")

    all_well(proj, 2)
    assert all(len(each) == 1 for each in tokens(proj, "begin").values())


def test_what_a_worker_received_that_cannot_reach_the_broker(
    project: Callable[..., Project], redis_url: str, store_redis: redis.Redis
) -> None:
    """Others run what it had not begun, though it lives and reports to the store; what it runs stays its own."""
    port = store_redis.connection_pool.connection_kwargs["port"]
    broker = "app.conf.broker_url = os.environ.get('OTHER_BROKER', app.conf.broker_url)\nITEMS = 4\n"
    proj = project(broker + TASKS, perpetual_store_url=redis_url, **SETTINGS)
    proj.beat().ready()
    with Proxy(port) as proxy:
        behind: dict[str, Any] = {"OTHER_BROKER": redis_url.replace(f":{port}/", f":{proxy.port}/")}
        cut_off = proj.worker(concurrency=1, env=behind).ready()
        wait_until(proj.rows, "one has begun")
        wait_until(lambda: proj.redis.zcard("unacked_index") == 4, "the others are received too")
        wait_until(
            lambda: sum(proj.redis.hlen(key) for key in proj.redis.keys(f"{PREFIX}:tags:*")) == 4, "and are reported"
        )

        proxy.cut()
        proj.worker(concurrency=4).ready()

        wait_until(lambda: len(tokens(proj, "begin")) == 4, "the others have begun elsewhere", 20)
        assert cut_off.alive
        proxy.mend()
        proj.write("released", "")
        all_well(proj, 4)
    assert all(len(each) == 1 for each in tokens(proj, "begin").values())


def test_a_lease_of_another_delivery_than_the_one_that_waits(project: Callable[..., Project]) -> None:
    """A worker has a second delivery of a task whose execution it has lost sight of: that does not hide the loss."""
    proj = project(TASKS.replace("ITEMS", "0"), **SETTINGS)
    proj.worker(concurrency=1).ready()
    task_id = proj.run_python("import proj; print(proj.deliver.apply_async([0], countdown=60).id)").strip()
    wait_until(
        lambda: any(task_id in proj.redis.hvals(tags) for tags in proj.redis.keys(f"{PREFIX}:tags:*")),
        "it waits in the worker",
    )

    (worker,) = proj.redis.zrange(f"{PREFIX}:workers", 0, -1)
    proj.run_python(f"""
        import proj
        from celery_perpetual.leases.execution import Execution
        proj.perpetual.grants.be_a_worker("here").name = "{worker}"
        vanished = Execution(task_id="{task_id}", nonce="vanished", copy="{{}}")
        assert proj.perpetual.grants.start(proj.deliver, vanished, {{}}) == ""
    """)

    wait_until(lambda: events(proj, "lease.lost"), "its lease is given back", 10)


@ANY_BROKER
def test_queues_that_come_and_go(project: Callable[..., Project], broker: dict[str, Any]) -> None:
    """Tasks that a worker has received of a queue that it left still run, once, under leases."""
    proj = project("ITEMS = 0\n" + TASKS, **SETTINGS, **broker)
    worker = proj.worker(concurrency=1).ready()

    def send(queue: str) -> None:
        proj.run_python(f"import proj; [proj.deliver.apply_async([n], queue='{queue}') for n in range(3)]")

    proj.run_python("import proj; proj.app.control.add_consumer('other', reply=True)")
    send("other")
    wait_until(lambda: worker.log().count("proj.deliver") >= 3 + 1, "it has received all")
    proj.run_python("import proj; proj.app.control.cancel_consumer('other', reply=True)")
    proj.write("released", "")
    all_well(proj, 3)

    send("other")
    send("celery")
    proj.run_python("import proj; proj.app.control.add_consumer('other', reply=True)")
    all_well(proj, 9)
    assert all(len(each) == 1 for each in tokens(proj, "begin").values())
    assert events(proj, "lease.lost") == []


def test_what_waits_in_the_pool_of_a_worker_that_reconnects(project: Callable[..., Project]) -> None:
    """Celery flushes its pool: what no process had begun comes again and runs once, and nothing counts as lost."""
    # Two more, and the worker would not read from its connection.
    proj = project("ITEMS = 6\n" + TASKS, **SETTINGS)
    proj.beat().ready()
    worker = proj.worker(concurrency=2).ready()
    wait_until(lambda: len(tokens(proj, "begin")) == 2, "two have begun")
    wait_until(lambda: worker.log().count("proj.deliver[") == 6, "the others are received, and wait in the pool")

    reset_consumers(proj.redis)
    wait_until(lambda: worker.log().count("proj.deliver[") >= 6 + 4, "they are received again")
    proj.write("released", "")

    all_well(proj, 6)
    assert all(len(each) == 1 for each in tokens(proj, "begin").values())
    assert events(proj, "lease.lost") == []
