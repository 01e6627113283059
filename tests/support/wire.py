"""Messages as two processes write them: one with the package under test, one that never imported it.

This file is copied into test projects. ``CASES`` says what an app is configured with and what is sent; ``send`` writes
each case's messages to Redis and returns what lies there.
"""

from __future__ import annotations

import datetime as dt
import decimal
import json
import uuid

from celery import Celery
from kombu import Exchange, Queue

ODD = [
    ((), {}),
    ((1,), {}),
    ((1, 2.5, True, None), {"n": 1}),
    (("plain", "it's", 'say "x"', "back\\slash", "new\nline\ttab", "%s %d %% {}"), {}),
    (("ünï côdé", "\U0001f40d", "\x00\x7f"), {"schlüssel": "wert's"}),
    (((1, (2, (3, (4,)))), [1, [2, [3, [4]]]]), {"d": {"a": {"b": {"c": {"d": 1}}}}}),
    (("x" * 3000,), {}),
    (("y " * 600, "after"), {"z": "w" * 2000}),
    (tuple(range(400)), {str(n): n for n in range(300)}),
    ((float("1e300"), -0.0, 10**30), {"a": [], "b": {}, "c": ""}),
]
ARGUMENTS = [*ODD, *[((n,), {"row": n}) for n in range(10)]]
TYPES = [
    ((dt.datetime(2024, 1, 2, 3, 4, 5, tzinfo=dt.timezone.utc), dt.date(2024, 1, 2)), {}),
    ((decimal.Decimal("1.50"), uuid.UUID(int=7)), {"raw": b"bytes", "odd": b"\xff\xfe"}),
    (({"__type__": "bytes", "__value__": "x"},), {}),
]
TOPIC = Exchange("news", type="topic")
DIRECT = Exchange("desk", type="direct")


def case(*, conf=None, task=None, options=None, arguments=ARGUMENTS, stamped=True):
    return {
        "conf": conf or {},
        "task": task or {},
        "options": options or {},
        "arguments": arguments,
        "stamped": stamped,
    }


CASES = {
    "default": case(),
    "types of json": case(arguments=[*TYPES, *ARGUMENTS]),
    "many": case(arguments=[((n,), {"row": n}) for n in range(1100)]),
    "priority": case(options={"priority": 6}),
    "priority of the task": case(task={"priority": 3}),
    "result backend": case(conf={"result_backend": "cache+memory://"}),
    "result ignored": case(options={"ignore_result": True}),
    "task ignores results": case(task={"ignore_result": True}),
    "key prefix": case(conf={"broker_transport_options": {"global_keyprefix": "pre:"}}),
    "priority steps": case(conf={"broker_transport_options": {"priority_steps": [0, 5]}}, options={"priority": 7}),
    "topic exchange": case(
        conf={"task_queues": [Queue("sports", TOPIC, routing_key="sports.#")], "task_default_queue": "sports"},
        options={"routing_key": "sports.football"},
    ),
    "direct exchange": case(
        conf={"task_queues": [Queue("letters", DIRECT, routing_key="in")], "task_default_queue": "letters"}
    ),
    "named exchange": case(
        conf={"task_queues": [Queue("letters", DIRECT, routing_key="in")], "task_default_queue": "letters"},
        options={"exchange": "desk", "routing_key": "in"},
    ),
    "glob route": case(conf={"task_routes": {"wire.*": {"queue": "globbed", "priority": 2}}}),
    "exact route": case(conf={"task_routes": ({"wire.plain": "routed"},)}),
    "queue option": case(options={"queue": "elsewhere"}),
    "queue of the task": case(task={"queue": "own"}),
    "pickle": case(options={"serializer": "pickle"}, arguments=[*TYPES, *ARGUMENTS]),
    "pickle of the task": case(task={"serializer": "pickle"}),
    "headers": case(options={"headers": {"trace": "abc", "percent": "100%s"}}),
    "time limits": case(options={"time_limit": 30, "soft_time_limit": 20}),
    "time limit of the task": case(task={"time_limit": 5}),
    "shadow": case(options={"shadow": "other name"}),
    "transient": case(options={"delivery_mode": 1}),
    "no retry": case(conf={"task_publish_retry": False}),
    "two queues by one topic": case(
        conf={
            "task_queues": [Queue("a", TOPIC, routing_key="x"), Queue("b", TOPIC, routing_key="x")],
            "task_default_queue": "a",
        },
        stamped=False,
    ),
    "queue that expires": case(conf={"task_queues": [Queue("short", expires=60)], "task_default_queue": "short"},
                               stamped=False),
    "compression": case(options={"compression": "zlib"}, stamped=False),
    "compression of all": case(conf={"task_compression": "gzip"}, stamped=False),
    "chain of callbacks": case(options={"link": "signature"}, stamped=False),
    # Which has no integers of more than 64 bits.
    "msgpack": case(options={"serializer": "msgpack"}, arguments=[each for each in ARGUMENTS if 10**30 not in each[0]]),
    "yaml": case(options={"serializer": "yaml"}),
}  # fmt: skip


def make(case, url, **more):
    """An app and its task, as a case says."""
    app = Celery("wire", broker=url, set_as_current=False)
    app.conf.update(case["conf"])

    @app.task(name="wire.plain", **more, **case["task"])
    def plain(*args, **kwargs):
        pass

    if case["options"].get("link") == "signature":
        case = {**case, "options": {**case["options"], "link": plain.si(1)}}
    with app.connection_for_write() as connection:
        for queue in case["conf"].get("task_queues", ()):
            queue(connection.default_channel).declare()
    return app, plain, case


def normal(text):
    """A message without what differs from process to process and from call to call."""
    message = json.loads(text)
    headers, properties = message["headers"], message["properties"]
    for value in (headers["id"], properties["delivery_tag"], headers["origin"], properties["reply_to"]):
        text = text.replace(json.dumps(value), '"*"')
    return text


def found(redis):
    """All messages by list, oldest first, and clean up."""
    lists = {}
    for key in sorted(redis.keys("*")):
        if "_kombu" not in key and "perpetual:" not in key and redis.type(key) == "list":
            lists[key] = [normal(text) for text in reversed(redis.lrange(key, 0, -1))]
    redis.flushdb()
    return lists
