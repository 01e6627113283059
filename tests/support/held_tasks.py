"""A worker whose tasks end when the test says so, for tests of those who wait for the ends."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import count
from typing import TYPE_CHECKING, Any

import redis
from celery import Celery
from kombu import pools

from celery_perpetual import Item, Perpetual, PerpetualTask
from celery_perpetual.embedded import EmbeddedServer
from tests.support.processes import Processes
from tests.support.projects import Project

if TYPE_CHECKING:
    from pathlib import Path

SOURCE = """
import redis

@app.task(bind=True)
def work(self, gate=None, result=None, raises=None, exits=False, **annotations):
    if annotations:
        perpetual.annotate(**annotations)
    if gate:
        with redis.Redis.from_url(app.conf.result_backend, socket_timeout=None) as client:
            assert client.blpop(f"gate:{gate}", 60)
    if raises:
        raise ValueError(raises)
    if exits:
        raise SystemExit
    return result
"""

#: A missed message is made good by the look at the records every 5 s; whoever is woken sooner was told.
SOONER_THAN_A_LOOK = 3.0

#: Of the form of our ids, but of no poll.
STRANGER = "019b0000-0000-8abc-8abc-abcdef000000"


class HeldTasks:
    """A server and a real worker with eight threads; ``app`` and ``perpetual`` wait in this process."""

    def __init__(self, folder: Path, server: EmbeddedServer, processes: Processes) -> None:
        self.server = server
        self.redis = redis.Redis.from_url(server.url, decode_responses=True)
        self.project = Project(
            folder, SOURCE, processes=processes, redis_url=server.url,
            config={"result_backend": server.url, "perpetual_completions": "all"},
        )  # fmt: skip
        self._numbers = count()
        self._gates: set[str] = set()
        self._items: list[Any] = []

    def connect(self) -> None:
        """Make an app for this process."""
        self.app = Celery("proj", broker=self.server.url, backend=self.server.url, set_as_current=False)
        self.perpetual = Perpetual(self.app)

        options = {"base": PerpetualTask, "poll_every": 3600, "next_batch": lambda: self._items}

        @self.app.task(shared=False, name="proj.find", **options)
        def find():
            pass

    def disconnect(self) -> None:
        """Let all tasks end, and close the app."""
        for gate in list(self._gates):
            self.open(gate)
        self.perpetual.store.close()
        self.app.close()
        # Kombu keeps connections per address, not per app.
        pools.reset()

    def gate(self) -> str:
        """A new gate, closed."""
        gate = f"g{next(self._numbers)}"
        self._gates.add(gate)
        return gate

    def open(self, gate: str) -> None:
        """Let one task through that stands there or comes."""
        self.redis.rpush(f"gate:{gate}", 1)
        self._gates.discard(gate)

    def send(self, **kwargs: Any) -> str:
        """Send an ordinary task, whose id is a foreign one."""
        return self.app.send_task("proj.work", kwargs=kwargs).id

    def poll(self, *items: dict[str, Any]) -> Any:
        """Poll these items, given as the task's arguments or ``expires``; their ids are of our form."""
        options = [{"expires": each.pop("expires", None)} for each in items]
        self._items = [
            Item(kwargs=kwargs, key=f"k{next(self._numbers)}", task="proj.work", **option)
            for kwargs, option in zip(items, options, strict=True)
        ]
        return self.perpetual.poll("proj.find")

    def end(self, *ids: str, result: Any = None) -> None:
        """Write and publish ends as the documentation has them, for tests of many."""
        pipe = self.redis.pipeline(transaction=False)
        for task_id in ids:
            facts = {
                "v": 1, "task_id": task_id, "task": "t", "status": "success", "final": True, "result": result,
                "finished_at": "2026-01-01T00:00:00.000Z", "attempt": 1, "recoveries": 0, "meta": {}, "error": None,
            }  # fmt: skip
            pipe.set(f"perpetual:completion:{task_id}", json.dumps(facts), px=60_000)
            pipe.publish(f"perpetual:done:{task_id}", json.dumps(facts))
        pipe.execute()

    def subscribers(self, *ids: str) -> int:
        """How many connections are subscribed to the ends of each of these tasks, at least."""
        return min(number for _, number in self.redis.pubsub_numsub(*(f"perpetual:done:{each}" for each in ids)))


@contextmanager
def held_tasks(folder: Path) -> Iterator[HeldTasks]:
    """A server and a worker for one module of tests."""
    processes = Processes()
    with EmbeddedServer() as server:
        shop = HeldTasks(folder, server, processes)
        try:
            shop.project.worker(pool="threads", concurrency=8)
            yield shop
        finally:
            shop.redis.close()
            shop.project.close()
            complaints = processes.end()
            assert not complaints, complaints


class Call(threading.Thread):
    """A call in a thread of its own; ``result()`` waits for it."""

    def __init__(self, function: Any, *args: Any, **kwargs: Any) -> None:
        super().__init__()
        self._call = lambda: function(*args, **kwargs)
        self._outcome: list[Any] = []
        self._error: BaseException | None = None
        self.start()

    def run(self) -> None:
        try:
            self._outcome.append(self._call())
        except BaseException as error:  # it is the caller's
            self._error = error

    def result(self, timeout: float = 30) -> Any:
        """Return the result of the call.

        Raises:
            BaseException: what it raised; AssertionError if it is not over in time.
        """
        self.join(timeout)
        assert not self.is_alive(), "the call is not over"
        if self._error:
            raise self._error
        return self._outcome[0]


@contextmanager
def waiter_at(url: str) -> Iterator[Perpetual]:
    """An app of this process at an address of its own."""
    app = Celery("proj", broker=url, set_as_current=False)
    perpetual = Perpetual(app)
    yield perpetual
    perpetual.store.close()
    app.close()


def record_of(text: bytes) -> dict[str, object]:
    """A stored completion, without the version of its form."""
    record = json.loads(text)
    assert record.pop("v") == 1
    return record
