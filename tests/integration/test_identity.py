"""Messages that polls put into the broker, byte by byte against those of a process that never heard of this package.

Two projects are alike but for one line: in one ``task`` makes ordinary Celery tasks, in the other perpetual ones. The
first calls ``apply_async`` for each case, the second polls, and both say what they then find in the broker.
"""

from __future__ import annotations

import json
import re
from base64 import b64decode
from datetime import datetime
from typing import TYPE_CHECKING, Any

import pytest

from tests.support import wait_until

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.support import Project

ORDINARY = """
Base, found = app.Task, None

def task(**options):
    return app.task(bind=True, **options)
"""

PERPETUAL = """
Base, BATCH = PerpetualTask, []

def found():
    return BATCH

def task(**options):
    return app.task(bind=True, base=PerpetualTask, poll_every=3600, next_batch=found, **options)

@app.task(base=PerpetualTask, poll_every=3600, next_batch=found)
def finder(): ...
"""

TASKS = """
import decimal
import functools
import json
import uuid
from base64 import b64decode

import pydantic
import redis
from celery import VERSION, signals
from kombu import Exchange, Queue
from kombu.serialization import dumps, loads, registry

def by_args(name, args, kwargs, options, task=None, **_):
    if name.startswith("routed."):
        return {"queue": f"shard{args[0] % 2}", "priority": 2}

topic, direct = Exchange("topics", "topic"), Exchange("directs", "direct")
app.conf.task_queues = [
    Queue("celery"), Queue("slow"), Queue("feeds"), Queue("shard0"), Queue("shard1"),
    Queue("paid", topic, routing_key="order.paid"), Queue("orders", topic, routing_key="order.#"),
    Queue("south", direct, routing_key="s"), Queue("short", expires=60),
    Queue("long", queue_arguments={"x-expires": 120_000}), Queue("everybody", Exchange("everybody", "fanout")),
]
app.conf.task_routes = [{"feeds.*": {"queue": "feeds", "priority": 3}, "topics.*": {"queue": "paid"}}, by_args]
app.conf.accept_content = ["json", "pickle", "yaml", "msgpack"]

def body(self, *args, **kwargs):
    ledger.record(self.request.id, repr((list(args), kwargs)))

def named(name, **options):
    return task(name=name, **options)(body)

t = named("shop.t")
named("feeds.read")
named("topics.paid")
named("routed.shard")
named("own.serializer", serializer="pickle")
named("own.expires", expires=60)
named("own.limits", time_limit=20, soft_time_limit=10)
named("own.queue", queue="slow", priority=4)
named("own.exchange", exchange="directs", routing_key="s")
named("own.ignore_result", ignore_result=True)
named("own.everything", compression="zlib", delivery_mode=1, rate_limit="10/s", trail=False, track_started=True)

class Custom(Base):
    name = "custom.sender"
    poll_every, next_batch = (3600, staticmethod(found)) if found else (None, None)

    def run(self, *args, **kwargs):
        body(self, *args, **kwargs)

    def apply_async(self, args=None, kwargs=None, **options):
        options["headers"] = {**(options.get("headers") or {}), "sent-by": "custom"}
        return super().apply_async(args, kwargs, **{"priority": 8, **options})

class Shown(Base):
    name = "shown.otherwise"
    poll_every, next_batch = (3600, staticmethod(found)) if found else (None, None)

    def run(self, *args, **kwargs):
        body(self, *args, **kwargs)

    def shadow_name(self, args, kwargs, options):
        return f"shown {args[0]}"

app.register_task(Custom())
app.register_task(Shown())

UTC = datetime.timezone.utc
LATER = datetime.datetime(2040, 5, 1, 8, tzinfo=UTC)
VALUES = [
    datetime.datetime(2024, 5, 1, 8, 30, 15, 123456, tzinfo=UTC), datetime.datetime(2024, 5, 1), datetime.date(2024, 5, 1),
    datetime.time(8, 30), decimal.Decimal("1.50"), uuid.UUID(int=7), b"raw", bytes([255, 0]),
]

# name: (task, args, kwargs, options)
CASES = {
    # Before any case that declares these exchanges: on Redis, Kombu takes an exchange that its connection has not
    # declared for a direct one.
    "topic exchange": ("shop.t", (1,), {}, {"exchange": "topics", "exchange_type": "topic", "routing_key": "order.paid"}),
    "direct exchange": ("shop.t", (1,), {}, {"exchange": "directs", "exchange_type": "direct", "routing_key": "s"}),
    "task with an exchange": ("own.exchange", (1,), {}, {}),
    "default": ("shop.t", (1, "two"), {"three": 3.0}, {}),
    "no arguments": ("shop.t", (), {}, {}),
    "priority": ("shop.t", (1,), {}, {"priority": 7}),
    "priority 0": ("shop.t", (1,), {}, {"priority": 0}),
    "queue": ("shop.t", (1,), {}, {"queue": "slow"}),
    "queue that is made on demand": ("shop.t", (1,), {}, {"queue": "unheard-of"}),
    "queue that expires": ("shop.t", (1,), {}, {"queue": "short"}),
    "queue with x-expires": ("shop.t", (1,), {}, {"queue": "long", "priority": 3}),
    "queue of a topic exchange": ("shop.t", (1,), {}, {"queue": "paid"}),
    "queue and another routing key": ("shop.t", (1,), {}, {"queue": "orders", "routing_key": "order.sent"}),
    "queue of a fanout exchange": ("shop.t", (1,), {}, {"queue": "everybody"}),
    "route by glob": ("feeds.read", (1,), {}, {}),
    "route by glob and priority": ("feeds.read", (1,), {}, {"priority": 9}),
    "route to a topic exchange": ("topics.paid", (1,), {}, {}),
    "route by function": ("routed.shard", (3,), {}, {}),
    "route by function to another shard": ("routed.shard", (4,), {}, {}),
    "headers": ("shop.t", (1,), {}, {"headers": {"trace": "x", "nested": {"a": [1, None]}, "id-like": "é"}}),
    "time limits": ("shop.t", (1,), {}, {"time_limit": 10, "soft_time_limit": 5}),
    "shadow": ("shop.t", (1,), {}, {"shadow": "shown"}),
    "ignore_result": ("shop.t", (1,), {}, {"ignore_result": True}),
    "delivery mode": ("shop.t", (1,), {}, {"delivery_mode": 1}),
    "retry policy": ("shop.t", (1,), {}, {"retry": False, "retry_policy": {"max_retries": 1}}),
    "notations": ("shop.t", ("s3cret",), {}, {"argsrepr": "('***',)", "kwargsrepr": "{}"}),
    "unknown options": ("shop.t", (1,), {}, {"whatever": "goes along", "user_id": "guest"}),
    "eta": ("shop.t", (1,), {}, {"eta": LATER}),
    "naive eta": ("shop.t", (1,), {}, {"eta": LATER.replace(tzinfo=None)}),
    "eta as text": ("shop.t", (1,), {}, {"eta": "2040-05-01T08:00:00Z"}),
    "countdown": ("shop.t", (1,), {}, {"countdown": 3600}),
    "countdown 0": ("shop.t", (1,), {}, {"countdown": 0}),
    "expires at": ("shop.t", (1,), {}, {"expires": LATER}),
    "expires in": ("shop.t", (1,), {}, {"expires": 3600}),
    "link": ("shop.t", (1,), {}, {"link": t.s(9).set(queue="slow")}),
    "links": ("shop.t", (1,), {}, {"link": [t.s(8), t.si(9)], "link_error": t.s(7)}),
    "stamps": ("shop.t", (1,), {}, {"stamped_headers": ["tenant", "zone"], "tenant": "acme", "zone": 7}),
    "task with a serializer": ("own.serializer", (1, (2, {3})), {"a": frozenset({4})}, {}),
    "task with another serializer than the option": ("own.serializer", (1,), {}, {"serializer": "json"}),
    "task with limits": ("own.limits", (1,), {}, {}),
    "task with limits and an option": ("own.limits", (1,), {}, {"time_limit": 99}),
    "task with a queue": ("own.queue", (1,), {}, {}),
    "task with a queue and an option": ("own.queue", (1,), {}, {"queue": "feeds", "priority": 1}),
    "task that ignores its result": ("own.ignore_result", (1,), {}, {}),
    "task that ignores its result, but not this one": ("own.ignore_result", (1,), {}, {"ignore_result": False}),
    "task with everything": ("own.everything", (1,), {}, {}),
    "task that expires": ("own.expires", (1,), {}, {}),
    "task that expires later than usual": ("own.expires", (1,), {}, {"expires": 7200}),
    "task with its own apply_async": ("custom.sender", (1,), {"a": 2}, {}),
    "task with its own apply_async and options": ("custom.sender", (1,), {}, {"priority": 2, "queue": "slow"}),
    "task that is shown otherwise": ("shown.otherwise", (7,), {}, {}),
    "nested tuples": ("shop.t", ((1, (2, 3)), [(4,)]), {"k": (5,), "d": {"e": (6, ())}}, {}),
    "keys that are no text": ("shop.t", ({1: 2, None: 3, True: 4, 1.5: 5},), {}, {}),
    "values that kombu knows": ("shop.t", (*VALUES, VALUES), {"at": VALUES[0]}, {}),
    "non-ASCII": ("shop.t", ("zürich 東京 🐍", "\\x7f\\x80\\u2028"), {"größe": "ß"}, {}),
    "quotes": ("shop.t", ("it's", 'a "quote"', "back\\\\slash", "new\\nline", "both ' and \\""), {"q": "'\\"'"}, {}),
    "numbers": ("shop.t", (10**30, -1, 0.1, 1e300, float("inf"), True, None, -0.0), {}, {}),
    "names of options as kwargs": ("shop.t", (), {"queue": "x", "task_id": 1, "args": 2, "priority": 9}, {}),
    "long text": ("shop.t", ("x" * 5000,), {"y": "é" * 3000}, {}),
    "long list": ("shop.t", (list(range(2000)),), {"d": {str(n): n for n in range(500)}}, {}),
    "deep": ("shop.t", ([[[[[[[1]]]]]]],), {"d": {"e": {"f": {"g": {"h": 1}}}}}, {}),
    "compression": ("shop.t", ("x" * 1000,), {}, {"compression": "zlib"}),
    "more compression": ("shop.t", ("x" * 1000,), {}, {"compression": "bzip2"}),
    **{
        f"serializer {name}": ("shop.t", (1, "zürich", [2, {"a": None}], 1.5), {"k": ["v"]}, {"serializer": name})
        for name in ("json", "pickle", "yaml", "msgpack")
    },
    "task of another service": ("of.another.service", (1,), {"a": 2}, {"queue": "slow", "priority": 3}),
}
# What callers seldom say.
RARE = {
    "group": ("shop.t", (1,), {}, {"group_id": "g", "group_index": 3}),
    "notation of a tuple": ("shop.t", ((1, 2),), {}, {"argsrepr": "('***',)"}),
    "countdown and eta": ("shop.t", (1,), {}, {"countdown": 3600, "eta": LATER}),
}
# A signature that is enqueued gets parents and ids of its own, as a new task does.
ONLY_OF_ITEMS = {
    "parents": ("shop.t", (1,), {}, {"root_id": "the root", "parent_id": "the parent"}),
    "reply_to": ("shop.t", (1,), {}, {"reply_to": "mine"}),
    "retries": ("shop.t", (1,), {}, {"retries": 2}),
}
MANY = [("shop.t", (n, f"é{n}"), {"n": n}, {}) for n in range(501)]

# Before 5.7 Celery leaves models to the serializer, which cannot write them.
if VERSION >= (5, 7):
    class Order(pydantic.BaseModel):
        number: int
        lines: list[str] = ["a"]

    def pydantic_body(self, order: Order, fast: bool = False):
        ledger.record(self.request.id, repr((order, fast)))

    task(name="pydantic.order", pydantic=True)(pydantic_body)
    # One field is given: a pickle has the names of all that are in a set, whose order differs from process to process.
    CASES["pydantic model"] = ("pydantic.order", (Order(number=7),), {"fast": True}, {})

with app.connection_for_write() as declaring:
    for queue in app.amqp.queues.values():
        queue(declaring.default_channel).declare()
    Queue("watched", app.amqp._event_dispatcher.exchange, routing_key="#")(declaring.default_channel).declare()

client = redis.Redis.from_url(app.conf.broker_url)
ears = client.pubsub()
ears.psubscribe("*")
OURS = b"perpetual:"

def text(value):
    return value.decode("latin-1")

def seen():
    "Every key of the broker but its bindings, and every publication since the last call; then the queues are empty."
    found = {}
    for key in sorted(client.keys("*")):
        if not key.startswith(OURS) and b"_kombu.binding." not in key and client.type(key) == b"list":
            found[text(key)] = {"messages": [text(m) for m in client.lrange(key, 0, -1)], "expires": client.pttl(key) > 0}
            client.delete(key)
    heard = []
    client.publish("end", "of it")
    while (message := ears.get_message(timeout=5)) and message["channel"] != b"end":
        if message["type"] == "pmessage" and not message["channel"].startswith((OURS, b"celery-task-meta")):
            heard.append([text(message["channel"]), text(message["data"])])
    return {"keys": found, "heard": heard}

def bindings():
    return {text(key): sorted(map(text, client.smembers(key))) for key in client.keys("*_kombu.binding.*")}

def send(case):
    name, args, kwargs, options = case
    if name in app.tasks:
        return app.tasks[name].apply_async(args, kwargs, **options)
    return app.send_task(name, args, kwargs, **options)

def entries(case, forms):
    "What next_batch yields for a case, in each form, and the unit that yields it."
    name, args, kwargs, options = case
    known = app.tasks.get(name)
    if known is not None:
        yield "item of its own", name, Item(args, kwargs, key=False, **options)
    if known is not None and forms == "own":
        return
    yield "item", "proj.finder", Item(args, kwargs, task=name if known is None else known, key=False, **options)
    if forms == "all":
        signature = app.signature(name, args, kwargs) if known is None else known.signature(args, kwargs)
        yield "signature", "proj.finder", signature.set(**options)

def poll(case, forms):
    from celery_perpetual.completions.announce import End

    answers = {}
    for form, unit, entry in entries(case, forms):
        BATCH[:] = [entry]
        try:
            outcome = perpetual.poll(unit)
        except Exception as error:
            answers[form] = f"{type(error).__name__}: {error}"
            continue
        answers[form] = seen() if outcome.count == 1 else f"{outcome.status}: {outcome.error}"
        for task_id in outcome.task_ids:
            perpetual.announcer.finish(End(task_id=task_id, task=None, status="success", announce=False))
    return answers
"""

# What the processes run at the end; each prints one JSON object.
SEND = """
import sys
from proj import *

seen()
answers = {{}}
for name, case in {cases}.items():
    send(case)
    answers[name] = seen()
assert not [module for module in sys.modules if module.startswith("celery_perpetual")]
print(json.dumps([answers, bindings()]))
"""

POLL = """
from proj import *

seen()
answers = {{name: poll(case, {forms!r}) for name, case in {cases}.items()}}
print(json.dumps([answers, bindings()]))
"""

PERPETUAL_HEADER = re.compile(r', "perpetual": 1(?=[,}])|"perpetual": 1, ')
DIGITS = re.compile(r"[0-9]")


class Pair:
    """The two projects of one configuration."""

    def __init__(self, project: Callable[..., Project], source: str = "", **config: Any) -> None:
        self.perpetual = project(PERPETUAL + TASKS + source, name="proj", **config)
        plain = {name: value for name, value in config.items() if not name.startswith("perpetual_")}
        self.ordinary = project(ORDINARY + TASKS + source, name="ordinary", perpetual=False, **plain)
        # App and module are called alike, so that nothing in a message can tell the two apart.
        module = (self.ordinary.folder / "ordinary.py").rename(self.ordinary.folder / "proj.py")
        module.write_text(module.read_text().replace("Celery('ordinary'", "Celery('proj'", 1))

    def differences(self, cases: str = "CASES", forms: str = "all") -> list[str]:
        """Send every case, poll it in the given forms (all, items, own), and say what the broker did not get alike."""
        sent, bound = json.loads(self.ordinary.run_python(SEND.format(cases=cases)))
        self.ordinary.redis.flushall()
        polled, bound_by_us = json.loads(self.perpetual.run_python(POLL.format(cases=cases, forms=forms)))
        assert sent
        assert sent.keys() == polled.keys()
        found = [] if bound == bound_by_us else [f"bindings: {bound} != {bound_by_us}"]
        for name, expected in sent.items():
            assert expected["keys"] or expected["heard"], f"{name}: Celery itself has sent nothing"
            found += [
                f"{name}, {form}: {text}" for form, answer in polled[name].items() if (text := differ(expected, answer))
            ]
        return found


def differ(expected: Any, answer: Any) -> str | None:
    """In what two looks at the broker differ, None if in nothing that must be alike."""
    if isinstance(answer, str):
        return answer
    (one, times), (other, other_times) = everything(expected), everything(answer)
    if one != other:
        return first_difference(one, other)
    return None if other_times == pytest.approx(times, abs=120) else f"times {times} and {other_times} from now"


def everything(answer: dict[str, Any]) -> tuple[list[Any], list[float]]:
    """All that was found in the broker, without what differs from message to message; and times from now."""
    times: list[float] = []
    keys = {
        key: [[normal(text, times) for text in value["messages"]], value["expires"]]
        for key, value in answer["keys"].items()
    }
    return [keys, [[channel, normal(text, times)] for channel, text in answer["heard"]]], times


def normal(text: str, times: list[float]) -> str:
    """A message as it lies in the broker, but for ids, process, thread, our header, and times that count from now."""
    message = json.loads(text)
    headers, properties = message["headers"], message["properties"]
    if "id" not in headers:
        return normal_event(message, times)
    assert properties["correlation_id"] == headers["id"]
    for name, value in (
        ("ID", headers["id"]), ("TAG", properties["delivery_tag"]), ("THREAD", properties["reply_to"]),
        ("ORIGIN", headers["origin"]),
    ):  # fmt: skip
        text = text.replace(json.dumps(value), f'"{name}"')
    for name in ("eta", "expires"):
        text = text.replace(json.dumps(headers[name]), json.dumps(from_now(headers[name], times)))
    if (expiration := properties.get("expiration")) is not None:
        times.append(int(expiration) / 1000)
        text = text.replace(f'"expiration": "{expiration}"', '"expiration": "soon"')
    return PERPETUAL_HEADER.sub("", text)


def from_now(time: str | None, times: list[float]) -> str | None:
    """The notation of a time that counts from now; its distance goes to ``times``. Other times stay as they are."""
    if time is None or time.startswith("2040"):
        return time
    at = datetime.fromisoformat(time)
    times.append((at - datetime.now(at.tzinfo)).total_seconds())
    return DIGITS.sub("0", time)


def normal_event(message: dict[str, Any], times: list[float]) -> str:
    """A task-sent event, but for id, process and time."""
    body = json.loads(b64decode(message.pop("body")))
    for name in ("uuid", "root_id", "pid", "clock", "timestamp", "hostname"):
        body[name] = type(body[name]).__name__
    for name in ("eta", "expires"):
        body[name] = from_now(body[name], times)
    message["properties"]["delivery_tag"] = message["headers"]["hostname"] = ""
    return json.dumps([message, body])


def first_difference(one: Any, other: Any) -> str:
    """Where two looks at the broker part, with some of what is around."""
    texts = [json.dumps(each, ensure_ascii=False) for each in (one, other)]
    at = next((n for n, (a, b) in enumerate(zip(*texts, strict=False)) if a != b), min(map(len, texts)))
    around = [text[max(0, at - 60) : at + 100] for text in texts]
    return f"Celery {around[0]!r}, polled {around[1]!r}"


CONFIGURATIONS: dict[str, dict[str, Any]] = {
    "Celery's defaults": {},
    "key prefix and priority steps": {
        "broker_transport_options": {
            "global_keyprefix": "{shop}", "priority_steps": [0, 2, 4, 8], "sep": ":", "queue_order_strategy": "priority",
        },
    },
    "other defaults": {
        "task_serializer": "pickle", "task_compression": "zlib", "task_default_queue": "slow",
        "task_default_priority": 5, "task_default_delivery_mode": 1, "timezone": "Asia/Tokyo", "task_ignore_result": True,
        "task_time_limit": 99,
    },
    "local time, sent events and results": {
        "enable_utc": False, "timezone": "America/New_York", "task_inherit_parent_priority": True,
        "task_send_sent_event": True, "result_backend": "", "result_extended": True,
    },
    "store in another database": {"perpetual_store_url": ""},
}  # fmt: skip


@pytest.fixture
def pair(project: Callable[..., Project], redis_url: str) -> Callable[..., Pair]:
    """Make both projects of one configuration; an empty URL is completed."""
    urls = {"result_backend": redis_url, "perpetual_store_url": redis_url.removesuffix("/0") + "/1"}

    def make(name: str = "Celery's defaults", source: str = "", **more: Any) -> Pair:
        config = {**CONFIGURATIONS[name], **more}
        return Pair(project, source, **{key: urls[key] if value == "" else value for key, value in config.items()})

    return make


@pytest.mark.parametrize("name", CONFIGURATIONS)
def test_polled_messages_are_celerys_own(pair: Callable[..., Pair], name: str) -> None:
    """Whatever a task, an item, a route or the configuration says, the broker gets the same bytes."""
    # As a pickled link is among the rare ones below.
    cases = "CASES" if name != "other defaults" else "{n: case for n, case in CASES.items() if 'link' not in case[3]}"

    assert pair(name).differences(cases, "all" if name == "Celery's defaults" else "own") == []


def test_seldom_given_options_are_celerys_own(pair: Callable[..., Pair]) -> None:
    """Options that hardly anybody gives to a single task arrive as with ``apply_async``, and nothing else does."""
    both = pair()

    found = both.differences("RARE")
    both.ordinary.redis.flushall()
    assert [*found, *both.differences("ONLY_OF_ITEMS", "items")] == []


def test_messages_of_a_large_batch_are_celerys_own(pair: Callable[..., Pair]) -> None:
    """More items than one script takes: the same messages in the same order."""
    both = pair()
    sent = both.ordinary.run_python("from proj import *; [send(case) for case in MANY]; print(json.dumps(seen()))")
    polled = both.perpetual.run_python(
        """
        from proj import *
        BATCH[:] = [Item(args, kwargs, key=False) for _, args, kwargs, _ in MANY]
        assert perpetual.poll("shop.t").count == 501
        print(json.dumps(seen()))
        """
    )

    expected = json.loads(sent)
    assert len(expected["keys"]["celery"]["messages"]) == 501
    assert differ(expected, json.loads(polled)) is None


ALIKE = """
# A function that routes would look at each item; without one, messages of one kind have much in common.
app.conf.task_routes = [{"feeds.*": {"queue": "feeds", "priority": 3}, "topics.*": {"queue": "paid"}}]
MORE = [
    0, 10**20, 1.5, None, True, "", "zürich 東京 🐍", "it's \\"quoted\\" \\\\ back\\nnew", "%s {} \\u2028", "x" * 3000,
    [], {}, [1, [2, "ü"]], {"a": {"b": None}}, (1, (2,)), {1: 2}, VALUES, {"__type__": "uuid"}, -0.0, float("-inf"),
]

def plain(value):
    return repr(json.loads(json.dumps(value, default=str))) == repr(value)

# What kombu cannot write with a serializer, or no worker can read: a poll does not send it.
BEYOND = {"yaml": [VALUES], "msgpack": [10**20, VALUES, {1: 2}]}

def several(case):
    name, args, kwargs, options = case
    # A task's own apply_async is given what the ledger kept: a tuple has become a list.
    own_sender = name.startswith("custom.")
    beyond = BEYOND.get(options.get("serializer"), ())
    return [
        (name, (*args, more), {**kwargs, "more": more}, options)
        for more in MORE if more not in beyond and (plain(more) or not own_sender)
    ]

def send_several(case):
    for each in several(case):
        send(each)

def poll_several(case):
    BATCH[:] = [Item(args, kwargs, key=False, **options) for _, args, kwargs, options in several(case)]
    outcome = perpetual.poll(case[0])
    assert outcome.count == len(several(case)), outcome
    from celery_perpetual.completions.announce import End
    for task_id in outcome.task_ids:
        perpetual.announcer.finish(End(task_id=task_id, task=None, status="success", announce=False))

def seen_after(act):
    seen()
    answers = {}
    for name, case in CASES.items():
        if case[0] in app.tasks and name not in ("pydantic model", "deep", "notations"):
            act(case)
            answers[name] = seen()
    return answers
"""


@pytest.mark.parametrize(
    "name", ["Celery's defaults", "key prefix and priority steps", "other defaults", "store in another database"]
)
def test_messages_of_one_kind_are_celerys_own(pair: Callable[..., Pair], name: str) -> None:
    """Many items of one kind, which differ in their arguments alone: the same bytes in the same order."""
    both = pair(name, ALIKE)
    tell = "from proj import *; print(json.dumps(seen_after({})))"

    sent = json.loads(both.ordinary.run_python(tell.format("send_several")))
    both.ordinary.redis.flushall()
    polled = json.loads(both.perpetual.run_python(tell.format("poll_several")))

    wrong = {case: text for case, expected in sent.items() if (text := differ(expected, polled[case]))}
    # The pickle of equal values depends on which of them are one object.
    pickled = {"link", "links", "values that kombu knows"} if name == "other defaults" else set()
    assert {case: text for case, text in wrong.items() if case not in pickled} == {}


SIGNALS = """
told = []

@signals.before_task_publish.connect
def before(sender=None, headers=None, body=None, exchange=None, routing_key=None, properties=None, declare=None, **_):
    headers["added-by-signal"] = [sender, routing_key]
    properties["priority"] = 6
    told.append(["before", sender, exchange, routing_key, [str(queue) for queue in declare or ()], repr(body)])

@signals.after_task_publish.connect
def after(sender=None, headers=None, body=None, exchange=None, routing_key=None, **_):
    told.append(["after", sender, exchange, routing_key, repr(body)])
"""


def test_publish_signals_are_sent(pair: Callable[..., Pair]) -> None:
    """Who listens to Celery's publish signals hears the same, and what is changed there is in the message."""
    both = pair(source=SIGNALS)
    tell = "from proj import *; {}; print(json.dumps([told, seen()]))"
    polling = "BATCH[:] = [Item(*CASES['default'][1:3])]; perpetual.poll('shop.t')"

    told, sent = json.loads(both.ordinary.run_python(tell.format("send(CASES['default'])")))
    told_by_us, polled = json.loads(both.perpetual.run_python(tell.format(polling)))

    assert [event[0] for event in told] == ["before", "after"]
    assert told_by_us == told
    assert differ(sent, polled) is None


LISTENING = """
def listening():
    "Who is subscribed to something in the name of this process, but for its own ears, and to which results."
    patterns = client.execute_command("PUBSUB", "CHANNELS", "celery-task-meta-*")
    clients = [each for each in client.client_list() if int(each["sub"]) or int(each["ssub"])]
    return [len(clients), [text(pattern) for pattern in patterns]]
"""


def test_polling_subscribes_to_no_result(pair: Callable[..., Pair]) -> None:
    """With a result backend Celery subscribes to every result it sends for; a poll, which nobody waits for, does not."""
    both = pair("local time, sent events and results", LISTENING)
    code = "from proj import *; {}; print(json.dumps(listening()))"
    polling = """
from proj import *
for name in ("shop.t", "own.serializer"):
    BATCH[:] = [Item((n,)) for n in range(3)]
    assert perpetual.poll(name).count == 3
print(json.dumps(listening()))
"""

    waiting = "results = [send(CASES['default']) for _ in range(3)]"
    clients, channels = json.loads(both.ordinary.run_python(code.format(waiting)))
    assert (clients, len(channels)) == (1, 3)
    assert json.loads(both.perpetual.run_python(polling)) == [0, []]
    # A task's own apply_async does subscribe; what it left is taken back.
    custom = "BATCH[:] = [Item((1,))]; assert perpetual.poll('custom.sender').count == 1"
    assert json.loads(both.perpetual.run_python(code.format(custom)))[1] == []


REFUSED = """
from proj import *

def refusal(case):
    "How Celery refuses to send a case, or a worker to read it."
    try:
        send(case)
        (message,) = seen()["keys"]["celery"]["messages"]
        loads(b64decode(json.loads(message)["body"]), "application/x-msgpack", "binary", accept=["application/x-msgpack"])
    except Exception as error:
        return type(error).__name__

answers = []
for serializer, values in BEYOND.items():
    for value in values:
        options = {"serializer": serializer}
        BATCH[:] = [Item((1,)), Item((value,), **options)]
        outcome = perpetual.poll("shop.t")
        answers.append([serializer, refusal(("shop.t", (value,), {}, options)), outcome.status, outcome.error])
print(json.dumps([answers, seen()["keys"]]))
"""


def test_what_a_serializer_does_not_carry_is_refused(pair: Callable[..., Pair]) -> None:
    """Where ``apply_async`` or the worker would raise, the poll fails, says why, and enqueues nothing."""
    answers, keys = json.loads(pair(source=ALIKE).perpetual.run_python(REFUSED))

    assert keys == {}
    assert [(serializer, refusal) for serializer, refusal, *_ in answers] == [
        ("yaml", "EncodeError"), ("msgpack", "EncodeError"), ("msgpack", "EncodeError"), ("msgpack", "DecodeError"),
    ]  # fmt: skip
    wrong = {"EncodeError": "serialised as", "DecodeError": "read back from"}
    for serializer, refusal, status, error in answers:
        assert status == "failed"
        assert error.startswith(
            f"InvalidItem: shop.t.next_batch, item 1: arguments cannot be {wrong[refusal]} {serializer}: "
        )


POLL_ALL = """
from proj import *

NOT_RUN = ("eta", "countdown", "topic", "fanout", "another routing key", "another service")
expected = {}
for name, case in CASES.items():
    if any(word in name for word in NOT_RUN) or name == "direct exchange":
        continue
    task_name, args, kwargs, options = case
    serializer = options.get("serializer") or app.tasks[task_name].serializer or "json"
    content_type, encoding, body = dumps((args, kwargs), serializer) if name != "pydantic model" else (None,) * 3
    args, kwargs = loads(body, content_type, encoding, accept=[content_type]) if body else (None, None)
    for form, unit, entry in entries(case, "all"):
        BATCH[:] = [entry] if form != "signature" else [Item(case[1], case[2], task=task_name, key=False, **options)]
        (task_id,) = perpetual.poll(unit).task_ids
        expected[task_id] = [f"{name}, {form}", body and repr((list(args), kwargs))]
print(json.dumps(expected))
"""


def test_a_worker_runs_them_with_the_right_arguments(pair: Callable[..., Pair]) -> None:
    """A real worker takes every kind of polled message and calls its task with what was in the item."""
    proj = pair().perpetual
    expected = json.loads(proj.run_python(POLL_ALL))
    queues = "celery,slow,feeds,shard0,shard1,south,short,long,unheard-of"
    proj.worker("-Q", queues, pool="solo", env={"C_FORCE_ROOT": "1"}).ready()

    wait_until(lambda: expected.keys() <= {row.id for row in proj.rows()}, "every task has run", timeout=60)

    rows = [row for row in proj.rows() if row.id in expected]
    assert len(rows) == len(expected)
    wrong = [(expected[row.id], row.what) for row in rows if expected[row.id][1] not in (None, row.what)]
    assert wrong == []
    units = "from proj import *; print(sum(unit.in_flight for unit in perpetual.units()))"
    wait_until(lambda: proj.run_python(units).strip() == "0", "every end is settled")


POISON = """
from proj import *
# Nothing can read this back from JSON, no worker either: to kombu it is a value of a type that nobody registered.
poison = Item(({"__type__": "order", "__value__": 1},), key="poison")
BATCH[:] = [*(Item((n,), key=n) for n in range(%d)), poison, Item(("last",), key="last")]
outcome = perpetual.poll("shop.t")
print(json.dumps([outcome.status, outcome.count, outcome.error, seen()["keys"], perpetual.units()[-1].in_flight]))
print(client.exists("perpetual:outbox"))
"""


@pytest.mark.parametrize("size", [10, 700], ids=["small", "large"])
def test_arguments_that_nobody_can_read_back_are_refused(pair: Callable[..., Pair], size: int) -> None:
    """What could never be delivered fails the poll, and is not committed to fail in the outbox for ever."""
    answer, outbox = pair().perpetual.run_python(POISON % size).splitlines()
    status, count, error, keys, in_flight = json.loads(answer)

    assert (status, count, in_flight, keys, outbox) == ("failed", 0, 0, {}, "0")
    assert f"item {size}" in error


UNROUTABLE = """
from proj import *
BATCH[:] = [*(Item((n,), key=n) for n in range(%d)), Item((0,), queue="no-such-queue")]
outcome = perpetual.poll("shop.t")
print(json.dumps([outcome.status, outcome.count, seen()["keys"], "no-such-queue" in (outcome.error or "")]))
"""


@pytest.mark.parametrize("size", [10, 700], ids=["small", "large"])
def test_what_celery_refuses_to_route_fails_the_poll(pair: Callable[..., Pair], size: int) -> None:
    """An item for a queue that does not exist is a failed poll with Celery's error, and nothing is enqueued."""
    proj = pair(task_create_missing_queues=False).perpetual

    assert json.loads(proj.run_python(UNROUTABLE % size)) == ["failed", 0, {}, True]


ON_RABBITMQ = """
import json
from kombu import Queue

app.conf.accept_content = ["json", "pickle"]
app.conf.task_queues = [Queue("celery", max_priority=9), Queue("slow")]

def anything(*args, **kwargs): ...

t = task(name="shop.t")(anything)
task(name="own.expires", expires=60)(anything)
CASES = {
    "default": ("shop.t", (1, "zürich"), {"three": 3.0}, {}),
    "priority": ("shop.t", (1,), {}, {"priority": 7}),
    "queue": ("shop.t", (1,), {}, {"queue": "slow"}),
    "headers": ("shop.t", (1,), {}, {"headers": {"trace": "x", "n": 7}}),
    "serializer": ("shop.t", (1, (2,)), {}, {"serializer": "pickle"}),
    "compression": ("shop.t", ("x" * 1000,), {}, {"compression": "zlib"}),
    "transient": ("shop.t", (1,), {}, {"delivery_mode": 1}),
    "task that expires": ("own.expires", (1,), {}, {}),
    "link": ("shop.t", (1,), {}, {"link": t.s(9), "shadow": "shown", "time_limit": 5}),
}

def seen():
    "The one message that waits, as a Redis message would look like."
    with app.connection_for_read() as connection:
        for queue in ("celery", "slow"):
            message = connection.default_channel.basic_get(queue, no_ack=True)
            if message is not None:
                body = message.body if isinstance(message.body, str) else message.body.decode("latin-1")
                properties = {**message.properties, "delivery_tag": "", "application_headers": None}
                info = {name: message.delivery_info[name] for name in ("exchange", "routing_key")}
                return json.dumps({
                    "queue": queue, "body": body, "headers": message.headers, "properties": properties, "info": info,
                    "types": [message.content_type, message.content_encoding],
                })

with app.connection_for_write() as connection:
    for queue in app.amqp.queues.values():
        queue(connection.default_channel).declare()
"""


def test_messages_on_rabbitmq_are_celerys_own(project: Callable[..., Project], rabbitmq_url: str) -> None:
    """Where the broker is not Redis, Kombu sends what it would have sent."""
    sent_by = {
        "ordinary": ORDINARY + ON_RABBITMQ + "\ndef send(name, args, kwargs, options):\n"
        "    app.tasks[name].apply_async(args, kwargs, **options)\n",
        "proj": PERPETUAL + ON_RABBITMQ + "\ndef send(name, args, kwargs, options):\n"
        "    BATCH[:] = [Item(args, kwargs, key=False, **options)]\n    assert perpetual.poll(name).count == 1\n",
    }
    answers = []
    for name, source in sent_by.items():
        proj = project(source, name=name, perpetual=name == "proj", broker=rabbitmq_url)
        code = f"from {name} import *; print(json.dumps({{n: [send(*case), seen()][1] for n, case in CASES.items()}}))"
        answers.append(json.loads(proj.run_python(code)))

    ordinary, polled = answers
    assert all(ordinary.values())
    wrong = [name for name in ordinary if normal(ordinary[name], []) != normal(polled[name], [])]
    assert wrong == []
