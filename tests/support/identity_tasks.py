"""Two projects that are alike but for one line: one makes ordinary Celery tasks, the other perpetual ones."""

from __future__ import annotations

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
# Options that callers seldom give.
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
    from celery_perpetual.completions.end import TaskEnd

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
            perpetual.announcer.announce(TaskEnd(task_id=task_id, task=None, status="success", announce=False))
    return answers
"""
