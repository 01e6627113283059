"""Celery's results, which the script that stores an end stores too where the result backend is the store's own."""

from __future__ import annotations

import json
import threading
from typing import TYPE_CHECKING, Any

import pytest
import redis

from tests.support import wait_until

if TYPE_CHECKING:
    from collections.abc import Callable

    from typing_extensions import Self

    from tests.support import Project

SOURCE = """
from celery import chord

@app.task(base=PerpetualTask)
def deliver(value, name="default"):
    return value

@app.task(base=PerpetualTask)
def odd():
    return object()

@app.task(bind=True, base=PerpetualTask)
def goes_on(self, done):
    self.update_state(state="PROGRESS", meta={"status": "SUCCESS", "done": done})
    return "end"

@app.task
def gathered(values):
    return sorted(values)
"""

EXTENDED = {"result_extended": True, "result_expires": 1000}
PREFIX = "celery-task-meta-"

AGAIN = """
@app.task(acks_late=True)
def again(number):
    return number * number // number
"""


class Monitor:
    """Every command that a server runs."""

    def __init__(self, url: str) -> None:
        self._client = redis.Redis.from_url(url)
        self.seen: list[dict[str, Any]] = []

    def __enter__(self) -> Self:
        self._monitor = self._client.monitor().__enter__()
        threading.Thread(target=self._listen, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._client.echo("the monitor has seen all before this")
        wait_until(lambda: any("ECHO" in each["command"] for each in self.seen), "all has been seen")
        self._client.close()

    def _listen(self) -> None:
        for each in self._monitor.listen():
            self.seen.append(each)
            if "ECHO" in each["command"]:
                return

    def stores(self, task_id: str) -> list[str]:
        """Name the client that stored a result: ``lua`` for a script, ``tcp`` for Celery."""
        return [
            each["client_type"]
            for each in self.seen
            if each["command"].split()[0].upper() in ("SET", "SETEX") and f"{PREFIX}{task_id}" in each["command"]
        ]


def deliver(proj: Project, call: str = "deliver.delay({'a': [1, 'zürich']}, name='x')") -> str:
    """Send a task, wait for Celery's result of it, and return its id."""
    code = f"from {proj.name} import *; sent = {call}; sent.get(timeout=30, propagate=False); print(sent.id)"
    return proj.run_python(code).strip()


def meta(client: redis.Redis, task_id: str) -> dict[str, Any]:
    """Read the stored result, but for the fields that differ from task to task."""
    stored = json.loads(client.get(PREFIX + task_id) or "{}")
    assert stored.pop("task_id") == task_id
    assert stored.pop("date_done")
    return {**stored, "worker": None, "name": stored["name"].partition(".")[2]}


@pytest.mark.parametrize("pool", ["prefork", pytest.param("threads", marks=pytest.mark.matrix)])
def test_it_is_what_celery_stores(
    project: Callable[..., Project], raw_redis: redis.Redis, redis_url: str, pool: str
) -> None:
    """The same text under the same key for the same time, and nothing is stored twice."""
    found = []
    for name, perpetual in (("without", False), ("with", True)):
        source = SOURCE if perpetual else SOURCE.replace("base=PerpetualTask", "")
        proj = project(source, name=name + "_it", perpetual=perpetual, result_backend=redis_url, **EXTENDED)
        worker = proj.worker(pool=pool, concurrency=1).ready()
        with Monitor(redis_url) as monitor:
            task_id = deliver(proj)
        worker.terminate()
        assert monitor.stores(task_id) == ["lua" if perpetual else "tcp"]
        assert 990 < raw_redis.ttl(PREFIX + task_id) <= 1000
        found.append(meta(raw_redis, task_id))
    assert found[0] == found[1]
    assert (found[1]["status"], found[1]["result"]) == ("SUCCESS", {"a": [1, "zürich"]})


def test_what_only_celery_can_store(project: Callable[..., Project], raw_redis: redis.Redis, redis_url: str) -> None:
    """A failure, what cannot be encoded, a large result and a part of a chord; and one that is kept for ever is not."""
    proj = project(SOURCE, result_backend=redis_url, result_expires=None)
    proj.worker(concurrency=1).ready()
    states, stored = {}, {}
    with Monitor(redis_url) as monitor:
        calls = {"for ever": "deliver.delay(1)", "odd": "odd.delay()", "large": "deliver.delay('x' * 70_000)"}
        ids = {what: deliver(proj, call) for what, call in calls.items()}
        ids["chord"] = deliver(proj, "chord([deliver.s(2), deliver.s(1)])(gathered.s())")
    for what, task_id in ids.items():
        stored[what] = monitor.stores(task_id)
        states[what] = json.loads(raw_redis.get(PREFIX + task_id) or "{}")["status"]

    assert states == {"for ever": "SUCCESS", "odd": "FAILURE", "large": "SUCCESS", "chord": "SUCCESS"}
    assert stored == {"for ever": ["lua"], "odd": ["tcp"], "large": ["tcp"], "chord": ["tcp"]}
    assert raw_redis.ttl(PREFIX + ids["for ever"]) == -1
    assert json.loads(raw_redis.get(PREFIX + ids["chord"]) or "{}")["result"] == [1, 2]


PATCHED = """
from celery.backends.redis import RedisBackend
RedisBackend._set = lambda self, *args, _set=RedisBackend._set: _set(self, *args)
"""


@pytest.mark.parametrize(
    "changed",
    [
        PATCHED,
        "app.backend.store_result = lambda *args, _store=app.backend.store_result, **kwargs: _store(*args, **kwargs)",
        "app.conf.result_serializer = 'pickle'\napp.conf.result_accept_content = ['json', 'pickle']",
        "app.conf.result_backend = app.conf.result_backend[:-1] + '7'",
    ],
)
def test_another_backend_is_left_to_celery(project: Callable[..., Project], redis_url: str, changed: str) -> None:
    """One with a step of somebody else's, with another serializer, or in another database."""
    proj = project(f"{changed}\n{SOURCE}", result_backend=redis_url)
    proj.worker(pool="solo").ready()
    with Monitor(redis_url) as monitor:
        task_id = deliver(proj)

    assert monitor.stores(task_id) == ["tcp"]
    assert proj.redis.exists(f"perpetual:completion:{task_id}")


def test_a_state_that_is_there(project: Callable[..., Project], raw_redis: redis.Redis, redis_url: str) -> None:
    """A success replaces every state that a task has stored; one that is too large to read hinders no other."""
    proj = project(SOURCE, result_backend=redis_url)
    proj.worker(concurrency=1).ready()
    with Monitor(redis_url) as monitor:
        ids = [deliver(proj, f"goes_on.delay({done})") for done in ("1", "'x' * 70_000", "2")]

    assert [monitor.stores(task_id) for task_id in ids] == [["tcp", "lua"], ["tcp", "tcp"], ["tcp", "lua"]]
    for task_id in ids:
        assert json.loads(raw_redis.get(PREFIX + task_id) or "{}")["result"] == "end"
        assert proj.redis.exists(f"perpetual:completion:{task_id}")


@pytest.mark.parametrize("forbidden", [{"keys": ["[^c]*", "celery", "celery[^-]*"], "channels": ["*"]},
                                       {"keys": ["*"], "channels": ["perpetual:*", "/0.*", "_kombu*"]}])  # fmt: skip
def test_what_is_forbidden_to_us(
    project: Callable[..., Project], redis_url: str, raw_redis: redis.Redis, forbidden: dict[str, Any]
) -> None:
    """Where its key or its channel is, Celery stores the result, and waiters hear of it; then the end is announced."""
    raw_redis.acl_setuser(
        "perpetual", enabled=True, passwords=["+secret"], reset_channels=True, categories=["+@all"], **forbidden
    )
    url = redis_url.replace("redis://", "redis://perpetual:secret@")
    try:
        proj = project(SOURCE, result_backend=redis_url, perpetual_store_url=url)
        proj.worker(concurrency=1).ready()
        with Monitor(redis_url) as monitor:
            ids = [deliver(proj) for _ in range(2)]
    finally:
        raw_redis.acl_deluser("perpetual")

    assert [monitor.stores(task_id)[-1:] for task_id in ids] == [["tcp"], ["tcp"]]
    for task_id in ids:
        writes = [each["command"] for each in monitor.seen if task_id in each["command"] and "SET" in each["command"]]
        assert "completion" in next(each for each in reversed(writes) if each.startswith("SET "))
        assert raw_redis.exists(f"perpetual:completion:{task_id}", PREFIX + task_id) == 2


@pytest.mark.parametrize("perpetual", [False, True])
def test_an_id_that_is_used_again(
    project: Callable[..., Project], redis_url: str, raw_redis: redis.Redis, perpetual: bool
) -> None:
    """Results are those that Celery has without us, and no lease is left: the record alone is that of the first end."""
    config = {"perpetual_leases": "all", "perpetual_completions": "all"} if perpetual else {}
    proj = project(AGAIN, result_backend=redis_url, perpetual=perpetual, **config)
    proj.worker(concurrency=1).ready()

    out = proj.run_python("""
        from proj import *
        forgotten = again.apply_async((1,), task_id="forgotten")
        seen = [forgotten.get(timeout=10)]
        forgotten.forget()
        seen.append(again.apply_async((2,), task_id="forgotten").get(timeout=10))
        failed = again.apply_async((0,), task_id="failed")
        seen.append(type(failed.get(timeout=10, propagate=False)).__name__)
        again.apply_async((3,), task_id="failed")
        again.apply_async((9,), task_id="the last").get(timeout=10)
        seen.append(app.AsyncResult("failed").result)
        print(seen)
    """)

    assert out.strip() == "[1, 2, 'ZeroDivisionError', 3]"
    wait_until(lambda: not raw_redis.exists("perpetual:leases", "unacked"), "no lease and no message is left")
