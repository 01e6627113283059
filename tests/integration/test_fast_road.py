"""Messages that are stamped out are those that Celery would have sent, and where that is not certain Celery does."""

from __future__ import annotations

import json
import shutil
from typing import TYPE_CHECKING, Any

import pytest
from celery import Celery, signals
from celery.app import amqp as celery_amqp
from kombu import Queue

from celery_perpetual import Item, Perpetual, PerpetualTask
from celery_perpetual.publishing import builder as building
from celery_perpetual.publishing import capture as capturing
from celery_perpetual.publishing import roads
from tests.support import wait_until, wire

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    import redis

    from tests.support import Project

ROWS = 20

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


def nothing(*args: Any, **kwargs: Any) -> None:
    """Do what the tasks of this file do, but for those that a worker runs."""


class Spy:
    """An app in this process, and how many messages Celery built for it one by one."""

    def __init__(self, app: Celery, redis_client: redis.Redis, monkeypatch: pytest.MonkeyPatch) -> None:
        self.app, self.redis = app, redis_client
        self.perpetual = Perpetual(app)
        self.built: list[str] = []
        usual = capturing.Capture.commands

        def commands(capture: Any, record: Any, task_id: str, *args: Any, **more: Any) -> Any:
            self.built.append(task_id)
            return usual(capture, record, task_id, *args, **more)

        monkeypatch.setattr(capturing.Capture, "commands", commands)

    def task(self, items: list[Any], **options: Any) -> Any:
        # A shared task would come up in the apps of later tests as well.
        options = {"base": PerpetualTask, "name": "app.work", "shared": False, "next_batch": lambda: items, **options}
        return self.app.task(poll_every=60, **options)(nothing)

    def poll(self, items: list[Any], **options: Any) -> Any:
        outcome = self.perpetual.poll(self.task(items, **options))
        assert outcome.status == "enqueued", outcome
        return outcome

    def messages(self, queue: str = "celery") -> list[dict[str, Any]]:
        return [json.loads(text) for text in reversed(self.redis.lrange(queue, 0, -1))]

    @property
    def stamped(self) -> bool:
        return len(self.built) <= 3


@pytest.fixture
def spy(
    make_app: Callable[..., Celery], store_redis: redis.Redis, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Callable[..., Spy]]:
    made: list[Spy] = []

    def make(**config: Any) -> Spy:
        made.append(Spy(make_app(**config), store_redis, monkeypatch))
        return made[-1]

    yield make
    for each in made:
        each.perpetual.store.close()


@pytest.fixture
def listening() -> Iterator[Callable[[Any, Callable[..., None]], None]]:
    """Connect receivers of signals for one test."""
    connected: list[tuple[Any, Callable[..., None]]] = []

    def connect(signal: Any, receiver: Callable[..., None]) -> None:
        signal.connect(receiver, weak=False)
        connected.append((signal, receiver))

    yield connect
    for signal, receiver in connected:
        signal.disconnect(receiver)


class ShadowTask(PerpetualTask):
    """Names its messages after their arguments."""

    abstract = True

    def shadow_name(self, args: Any, kwargs: Any, options: Any) -> str:
        return f"row {args[0]}"


def router(name: str, args: Any, kwargs: Any, options: Any, task: Any = None, **_: Any) -> dict[str, Any] | None:
    return {"queue": f"q{args[0] % 2}"}


FALL_BACKS: dict[str, tuple[dict[str, Any], dict[str, Any], dict[str, Any]]] = {
    # what: (configuration, options of the task, options of every item)
    "router is a function": ({"task_routes": router}, {}, {}),
    "sent events": ({"task_send_sent_event": True}, {}, {}),
    "compression": ({"task_compression": "zlib"}, {}, {}),
    "compression of an item": ({}, {}, {"compression": "zlib"}),
    "queue that expires": ({"task_queues": [Queue("celery", expires=60)]}, {}, {}),
    "shadow name of the task": ({}, {"base": ShadowTask}, {}),
    "task expires": ({}, {"expires": 60}, {}),
    "expires": ({}, {}, {"expires": 60}),
    "countdown": ({}, {}, {"countdown": 60}),
    "stamps": ({}, {}, {"stamped_headers": ["mark"], "mark": "x"}),
    "unknown option": ({}, {}, {"message_id": "same"}),
}


@pytest.mark.parametrize("what", FALL_BACKS)
def test_what_may_differ_is_built_by_celery(what: str, spy: Callable[..., Spy]) -> None:
    """Each line of the table: every message is built one by one, and all of them arrive."""
    config, task, options = FALL_BACKS[what]
    one = spy(**config)

    one.poll([Item((n,), **options) for n in range(ROWS)], **task)

    assert len(one.built) >= ROWS
    arrived = [key for key in one.redis.keys("*") if key in {"celery", "q0", "q1"}]
    assert sum(one.redis.llen(key) for key in arrived) == ROWS


def test_nothing_unusual_is_stamped(spy: Callable[..., Spy]) -> None:
    """The control of the table above."""
    one = spy()

    one.poll([(n,) for n in range(ROWS)])

    assert one.stamped
    assert [message["headers"]["argsrepr"] for message in one.messages()] == [f"({n},)" for n in range(ROWS)]


def test_a_listener_before_the_publish_may_change_messages(spy: Callable[..., Spy], listening: Any) -> None:
    """before_task_publish sees every message and what it changes is sent."""
    one = spy()

    def mark(headers: Any = None, **_: Any) -> None:
        headers["mark"] = headers["argsrepr"]

    listening(signals.before_task_publish, mark)
    one.poll([(n,) for n in range(ROWS)])

    assert [message["headers"]["mark"] for message in one.messages()] == [f"({n},)" for n in range(ROWS)]


def test_a_link_is_built_by_celery(spy: Callable[..., Spy]) -> None:
    """An item with a callback carries it."""
    one = spy()

    one.poll([Item((n,), link=one.app.signature("app.next")) for n in range(ROWS)])

    assert len(one.built) >= ROWS


def test_an_apply_async_of_the_tasks_own_is_called(spy: Callable[..., Spy]) -> None:
    """The task's own method sends each message."""
    one = spy()
    called: list[Any] = []

    class Own(PerpetualTask):
        abstract = True

        def apply_async(self, args: Any = None, kwargs: Any = None, **options: Any) -> Any:
            called.append(args)
            return super().apply_async(args, kwargs, **options)

    one.poll([(n,) for n in range(ROWS)], base=Own)

    assert called == [(n,) for n in range(ROWS)]
    assert len(one.messages()) == ROWS


def test_a_patched_producer_is_used(spy: Callable[..., Spy], monkeypatch: pytest.MonkeyPatch) -> None:
    """Tracing libraries put their own publish around Kombu's; they see every message."""
    import kombu

    one = spy()
    usual, seen = kombu.Producer.publish, []

    def publish(self: Any, *args: Any, **more: Any) -> Any:
        seen.append(more["headers"]["id"])
        return usual(self, *args, **more)

    monkeypatch.setattr(kombu.Producer, "publish", publish)
    outcome = one.poll([(n,) for n in range(ROWS)])

    assert seen == outcome.task_ids


def test_a_header_that_changes_is_noticed(spy: Callable[..., Spy], monkeypatch: pytest.MonkeyPatch) -> None:
    """What no rule foresees is seen by comparing: here an origin that is another one each time."""
    one = spy()
    numbers = iter(range(1000))
    monkeypatch.setattr(celery_amqp, "anon_nodename", lambda: f"node {next(numbers)}")

    one.poll([(n,) for n in range(ROWS)])

    assert len(one.built) >= ROWS
    assert len({message["headers"]["origin"] for message in one.messages()}) == ROWS


def test_kinds_are_stamped_apart_and_keep_their_order(spy: Callable[..., Spy]) -> None:
    """Interleaved kinds in one queue: a stamp each, and the queue is in the order of the items."""
    one = spy()

    one.poll([Item((n,), priority=0, headers={"kind": n % 3}) for n in range(60)])

    assert len(one.built) == 9
    assert [message["headers"]["argsrepr"] for message in one.messages()] == [f"({n},)" for n in range(60)]
    assert [message["headers"]["kind"] for message in one.messages()] == [n % 3 for n in range(60)]


def test_few_of_a_kind_are_built_one_by_one(spy: Callable[..., Spy]) -> None:
    """A stamp that costs more than it saves is not made."""
    one = spy()

    outcome = one.poll([(n,) for n in range(building.FEWEST - 1)])

    assert one.built == outcome.task_ids


def test_delivery_tags_are_unique(spy: Callable[..., Spy]) -> None:
    """Kombu keys unacknowledged messages by tag."""
    one = spy()

    for _ in range(3):
        one.poll([Item((n,), key=False) for n in range(600)])

    tags = [message["properties"]["delivery_tag"] for message in one.messages()]
    assert len(tags) == len(set(tags)) == 1800


def test_every_objection_names_a_reason(spy: Callable[..., Spy]) -> None:
    """A plain kind has none; options that nobody here knows have one."""
    one = spy()
    one.task([])

    assert roads.objection(one.app, ("app.work", "json", "")) is None
    assert "message_id" in str(roads.objection(one.app, ("app.work", "json", '{"message_id": "x"}')))


@pytest.mark.parametrize(("rows", "options"), [(3, {}), (ROWS, {}), (600, {}), (ROWS, {"countdown": 60})])
def test_after_the_publish_is_after_the_push(
    spy: Callable[..., Spy], listening: Any, rows: int, options: dict[str, Any]
) -> None:
    """after_task_publish comes once per task, when its message is in the queue, and says what Celery says."""
    one = spy()
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


def test_a_refused_commit_tells_nobody(spy: Callable[..., Spy], listening: Any) -> None:
    """What is not in the queue was not published."""
    one = spy()
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
def test_a_relay_sends_the_same_bytes(spy: Callable[..., Spy], rows: int) -> None:
    """A batch that is built from the ledger again is the one that was built from memory, tags aside."""
    one = spy()
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
        assert other._runner.publisher.relay() == len(items)
        other._runner.publisher.release()
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


@pytest.mark.parametrize("broker", ["store", "other redis", "rabbitmq"])
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


@pytest.fixture
def rabbit(rabbitmq_url: str, redis_url: str, spy: Callable[..., Spy]) -> Iterator[Callable[..., Spy]]:
    """Apps whose broker is RabbitMQ."""

    def make(**config: Any) -> Spy:
        return spy(broker_url=rabbitmq_url, perpetual_store_url=redis_url, **config)

    return make


def received(app: Celery, queue: str = "celery") -> list[Any]:
    """Take all messages out of a queue."""
    with app.connection_for_read() as connection:
        channel = connection.channel()
        messages = []
        while (message := channel.basic_get(queue, no_ack=True)) is not None:
            messages.append(message)
        return messages


def test_rabbitmq_confirms_every_message(rabbit: Callable[..., Spy], listening: Any) -> None:
    """Stamped messages arrive in order and to the byte; the ledger counts them, and then it is told."""
    one = rabbit()
    items = [Item(args, kwargs, key=False) for args, kwargs in [*wire.TYPES, *wire.ODD]]
    items += [Item((n,), key=False) for n in range(700)]
    counts: list[int] = []
    listening(
        signals.after_task_publish,
        lambda headers=None, **_: counts.append(
            int(one.redis.hget(f"perpetual:p:{headers['id'][:28]}ffffffff", "pub") or 0)
        ),
    )

    outcome = one.poll(items)

    assert one.redis.hget(f"perpetual:p:{outcome.poll_id}", "pub") == str(len(items))
    assert one.redis.exists("perpetual:outbox") == 0
    # The chunk of which a message is part was counted before.
    assert counts == [500] * 500 + [len(items)] * (len(items) - 500)
    messages = received(one.app)
    assert [message.headers["id"] for message in messages] == outcome.task_ids
    task = one.app.tasks["app.work"]
    for args, kwargs in wire.TYPES + wire.ODD:
        task.apply_async(args, kwargs)
    for ours, theirs in zip(messages, received(one.app), strict=False):
        assert ours.body == theirs.body
        assert shape(ours) == shape(theirs)


def shape(message: Any) -> Any:
    """Everything that RabbitMQ tells of a message, but for ids."""
    properties = {name: value for name, value in message.properties.items() if name != "correlation_id"}
    properties["application_headers"] = {
        name: value for name, value in message.headers.items() if name not in {"id", "root_id"}
    }
    del properties["reply_to"]
    delivery = {name: message.delivery_info[name] for name in ("exchange", "routing_key")}
    return properties, delivery


def test_what_rabbitmq_refuses_is_relayed_under_the_same_ids(rabbit: Callable[..., Spy]) -> None:
    """A queue that is full refuses: the chunk counts as unpublished, and the relay sends all of it later."""
    full = Queue("celery", queue_arguments={"x-max-length": 620, "x-overflow": "reject-publish"})
    one = rabbit(task_queues=[full])

    outcome = one.poll([Item((n,), key=False) for n in range(700)])

    assert one.redis.hget(f"perpetual:p:{outcome.poll_id}", "pub") == "500"
    assert one.redis.zrange("perpetual:outbox", 0, -1) == [outcome.poll_id]
    first = [message.headers["id"] for message in received(one.app)]
    assert len(first) == 620

    assert one.perpetual._runner.publisher.relay() == 200
    again = [message.headers["id"] for message in received(one.app)]
    assert again == outcome.task_ids[500:]
    assert one.redis.exists("perpetual:outbox") == 0


def test_a_broker_that_is_away_leaves_the_batch_to_the_relay(
    spy: Callable[..., Spy], redis_url: str, rabbitmq_url: str
) -> None:
    """Nobody listens: the poll is enqueued in the ledger, and published when the broker is back."""
    away = spy(broker_url="amqp://guest:guest@127.0.0.1:1//", perpetual_store_url=redis_url)

    outcome = away.poll([Item((n,), key=False) for n in range(30)])

    assert away.redis.zrange("perpetual:outbox", 0, -1) == [outcome.poll_id]
    away.app.close()
    back = spy(broker_url=rabbitmq_url, perpetual_store_url=redis_url)
    back.task([])
    assert back.perpetual._runner.publisher.relay() == 30
    assert [message.headers["id"] for message in received(back.app)] == outcome.task_ids


def test_rabbitmq_holds_back_what_is_due_later(rabbitmq_url: str, project: Callable[..., Project]) -> None:
    """With quorum queues an eta goes through native delayed delivery, as apply_async sends it."""
    proj = project(
        """
        from kombu import Exchange, Queue

        app.conf.task_queues = [
            Queue("later", Exchange("later", type="topic"), "later", queue_arguments={"x-queue-type": "quorum"})
        ]
        app.conf.update(task_default_queue="later", task_default_exchange="later", task_default_exchange_type="topic",
                        task_default_routing_key="later", task_default_queue_type="quorum")

        @app.task(base=PerpetualTask, poll_every=3600, bind=True,
                  next_batch=lambda: [Item((n,), countdown=3) for n in range(10)])
        def work(self, n):
            ledger.record(n, self.request.delivery_info["routing_key"])
        """,
        broker=rabbitmq_url,
    )
    proj.worker(concurrency=1, pool="solo").ready()

    begun = float(proj.run_python("from proj import *\nimport time\nperpetual.poll(work)\nprint(time.time())"))
    rows = wait_until(lambda: len(proj.rows()) == 10 and proj.rows(), "all ran", timeout=30)

    assert all(row.what.startswith("0.0.0.") for row in rows)
    assert min(row.time for row in rows) > begun + 1
