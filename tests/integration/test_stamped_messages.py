"""Messages that are stamped out are those that Celery would have sent, and where that is not certain Celery does."""

from __future__ import annotations

import json
import shutil
from typing import TYPE_CHECKING, Any

import pytest
from celery import signals

from celery_perpetual import Item, Perpetual
from celery_perpetual.broker.destinations import by_index
from celery_perpetual.publishing import builder as building
from celery_perpetual.publishing import stampable as roads
from celery_perpetual.store.chunks import chunk_count
from celery_perpetual.store.commands.destinations import published_to
from tests.support import wait_until, wire
from tests.support.watched_app import ROWS, WatchedApp

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.support import Project

PLAIN = """
import json, sys
import redis, wire

url = app.conf.broker_url
client = redis.Redis.from_url(url, decode_responses=True)
told = {}
for name, case in wire.CASES.items():
    app, task, case = wire.make(case, url)
    options = {**case["options"], "headers": {**case["options"].get("headers", {}), "perpetual": 1}}
    for args, kwargs in case["arguments"]:
        task.apply_async(args, kwargs, **options)
    told[name] = wire.found(client)
assert not [name for name in sys.modules if name.startswith("celery_perpetual")]
print(json.dumps(told))
"""

OURS = """
import json
import redis, wire
from celery_perpetual.publishing.capture import Capture

built = []
usual = Capture.commands
Capture.commands = lambda self, *args, **more: built.append(1) or usual(self, *args, **more)
url = app.conf.broker_url
client = redis.Redis.from_url(url, decode_responses=True)
told = {}
for name, case in wire.CASES.items():
    found = lambda: [Item(args, kwargs, key=False, **case["options"]) for args, kwargs in case["arguments"]]
    app, task, case = wire.make(case, url, base=PerpetualTask, poll_every=60, next_batch=lambda: found())
    built.clear()
    outcome = Perpetual(app).poll(task)
    assert outcome.status == "enqueued", (name, outcome)
    told[name] = {"built": len(built), "lists": wire.found(client)}
print(json.dumps(told))
"""


def test_stamped_messages_are_celerys_own_to_the_byte(project: Callable[..., Project]) -> None:
    """Every option set: the same lists with the same bytes as from a process that never imported the package."""
    plain, ours = project(name="plain", perpetual=False), project(name="ours")
    for each in (plain, ours):
        shutil.copy(wire.__file__, each.folder / "wire.py")

    expected = json.loads(plain.run_python(f"from plain import *\n{PLAIN}"))
    seen = json.loads(ours.run_python(f"from ours import *\n{OURS}"))

    assert {name: told["lists"] for name, told in seen.items() if told["lists"] != expected[name]} == {}
    assert all(expected.values())
    wrong_road = {
        name: told["built"]
        for name, told in seen.items()
        if (told["built"] < len(wire.CASES[name]["arguments"])) is not wire.CASES[name]["stamped"]
    }
    assert wrong_road == {}


def test_nothing_unusual_is_stamped(watched_app: Callable[..., WatchedApp]) -> None:
    """The control of the table above."""
    one = watched_app()

    one.poll([(n,) for n in range(ROWS)])

    assert one.stamped
    assert [message["headers"]["argsrepr"] for message in one.messages()] == [f"({n},)" for n in range(ROWS)]


def test_kinds_are_stamped_apart_and_keep_their_order(watched_app: Callable[..., WatchedApp]) -> None:
    """Interleaved kinds in one queue: a stamp each, and the queue is in the order of the items."""
    one = watched_app()

    one.poll([Item((n,), priority=0, headers={"kind": n % 3}) for n in range(60)])

    assert len(one.built) == 9
    assert [message["headers"]["argsrepr"] for message in one.messages()] == [f"({n},)" for n in range(60)]
    assert [message["headers"]["kind"] for message in one.messages()] == [n % 3 for n in range(60)]


def test_few_of_a_kind_are_built_one_by_one(watched_app: Callable[..., WatchedApp]) -> None:
    """A stamp that costs more than it saves is not made."""
    one = watched_app()

    outcome = one.poll([(n,) for n in range(building.FEWEST - 1)])

    assert one.built == outcome.task_ids


def test_delivery_tags_are_unique(watched_app: Callable[..., WatchedApp]) -> None:
    """Kombu keys unacknowledged messages by tag."""
    one = watched_app()

    for _ in range(3):
        one.poll([Item((n,), key=False) for n in range(600)])

    tags = [message["properties"]["delivery_tag"] for message in one.messages()]
    assert len(tags) == len(set(tags)) == 1800


def test_every_objection_names_a_reason(watched_app: Callable[..., WatchedApp]) -> None:
    """A plain kind has none; options that nobody here knows have one."""
    one = watched_app()
    one.task([])

    assert roads.objection(one.app, ("app.work", "json", "")) is None
    assert "message_id" in str(roads.objection(one.app, ("app.work", "json", '{"message_id": "x"}')))


@pytest.mark.parametrize(("rows", "options"), [(3, {}), (ROWS, {}), (600, {}), (ROWS, {"countdown": 60})])
def test_after_the_publish_is_after_the_push(
    watched_app: Callable[..., WatchedApp], listening: Any, rows: int, options: dict[str, Any]
) -> None:
    """after_task_publish comes once per task, when its message is in the queue, and says what Celery says."""
    one = watched_app()
    told: list[tuple[str, Any]] = []
    early: list[str] = []

    def published(sender: Any = None, headers: Any = None, body: Any = None, **more: Any) -> None:
        told.append((headers["id"], body))
        assert sender == "app.work"
        assert more["routing_key"] == "celery"
        if not early and not any(headers["id"] in text for text in one.redis.lrange("celery", 0, -1)):
            early.append(headers["id"])

    listening(signals.after_task_publish, published)
    outcome = one.poll([Item((n, "x"), {"k": n}, **options) for n in range(rows)])

    assert early == []
    assert [task_id for task_id, _ in told] == outcome.task_ids
    assert [tuple(body[0]) for _, body in told] == [(n, "x") for n in range(rows)]
    assert told[0][1][1:] == ({"k": 0}, {"callbacks": None, "errbacks": None, "chain": None, "chord": None})


@pytest.mark.parametrize("rows", [3, 520])
def test_what_is_opened_before_a_publish_is_closed_after_it(
    watched_app: Callable[..., WatchedApp], listening: Any, rows: int
) -> None:
    """A message is published before the next one is built where both signals have receivers: a trace for each item."""
    one = watched_app()
    open_now: list[str] = []
    pairs: list[str] = []

    def opens(headers: Any = None, **_: Any) -> None:
        open_now.append(headers["id"])

    def closes(headers: Any = None, **_: Any) -> None:
        assert headers["id"] in one.redis.lindex("celery", 0)
        pairs.append(headers["id"])
        assert open_now == [headers["id"]]
        open_now.clear()

    listening(signals.before_task_publish, opens)
    listening(signals.after_task_publish, closes)
    outcome = one.poll([Item((n, "x")) for n in range(rows)])

    assert pairs == outcome.task_ids
    # Where they went is on record as ever.
    texts = published_to(one.perpetual.store, outcome.poll_id, range(chunk_count(rows)))
    assert sum(len(by_index(text)) for text in texts) == rows


def test_a_refused_commit_tells_nobody(watched_app: Callable[..., WatchedApp], listening: Any) -> None:
    """A message that is not in the queue was not published."""
    one = watched_app()
    told: list[Any] = []
    listening(signals.after_task_publish, lambda **more: told.append(more))

    def found() -> list[Any]:
        one.redis.hdel("perpetual:u:perpetual:app.work", "claim")
        return [(n,) for n in range(ROWS)]

    outcome = one.perpetual.poll(one.task([], next_batch=found))

    assert outcome.status == "superseded"
    assert told == []
    assert one.messages() == []


@pytest.mark.parametrize("rows", [ROWS, 1100])
def test_a_relay_sends_the_same_bytes(watched_app: Callable[..., WatchedApp], rows: int) -> None:
    """A batch that is built from the ledger again is the one that was built from memory, tags aside."""
    one = watched_app()
    items = [Item(args, kwargs, key=False) for args, kwargs in wire.TYPES + wire.ODD]
    items += [Item((n,), key=False, headers={"odd": n % 2}) for n in range(rows)]
    outcome = one.poll(items)

    def bare() -> list[str]:
        texts = one.redis.lrange("celery", 0, -1)
        return [text.replace(json.loads(text)["properties"]["delivery_tag"], "*") for text in reversed(texts)]

    first = bare()
    one.redis.delete("celery")
    one.redis.hset(f"perpetual:p:{outcome.poll_id}", "pub", 0)
    one.redis.zadd("perpetual:outbox", {outcome.poll_id: 1})
    other = Perpetual(one.app)
    try:
        assert other.runner.publisher.relay() == len(items)
        other.runner.publisher.release()
    finally:
        other.store.close()

    # Another thread of the same process has another reply_to.
    reply_to = {json.loads(text)["properties"]["reply_to"] for text in first}
    again = bare()
    for value in {json.loads(text)["properties"]["reply_to"] for text in again}:
        again = [text.replace(value, next(iter(reply_to))) for text in again]
    assert len(reply_to) == 1
    assert again == first


TASKS = """
import json

ITEMS = json.loads(open(os.path.join(os.path.dirname(__file__), "items.json")).read())

def found():
    return [Item(tuple(args), kwargs) for args, kwargs in ITEMS]

@app.task(base=PerpetualTask, poll_every=3600, next_batch=found, bind=True)
def work(self, *args, **kwargs):
    ledger.record(self.request.id, json.dumps([args, kwargs]))
"""


@pytest.mark.parametrize("broker", ["store", pytest.param("other redis", marks=pytest.mark.matrix), "rabbitmq"])
def test_a_worker_runs_stamped_messages(
    broker: str, project: Callable[..., Project], request: pytest.FixtureRequest
) -> None:
    """Every argument of every item reaches a real worker as it was, once, over every kind of broker."""
    urls = {"store": None, "rabbitmq": "rabbitmq_url", "other redis": "system_redis"}
    found = urls[broker] and request.getfixturevalue(str(urls[broker]))
    proj = project(TASKS, broker=getattr(found, "url", found))
    items = [[args, kwargs] for args, kwargs in [*wire.ODD, *[((n,), {"row": n}) for n in range(700)]]]
    (proj.folder / "items.json").write_text(json.dumps(items))

    printed = proj.run_python("from proj import *\nprint(*perpetual.poll(work).task_ids)")
    assert proj.redis.exists("perpetual:outbox") == 0
    worker = proj.worker(concurrency=1, pool="solo").ready()
    wait_until(lambda: len(proj.rows()) >= len(items), "all ran", timeout=90)
    worker.terminate()

    ids = printed.split()
    assert {row.id: json.loads(row.what) for row in proj.rows()} == dict(
        zip(ids, json.loads(json.dumps(items)), strict=True)
    )
    assert len(proj.rows()) == len(items)
