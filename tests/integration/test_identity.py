"""Messages that polls put into the broker, byte by byte against those of a process that never heard of this package.

Two projects are alike but for one line: in one ``task`` makes ordinary Celery tasks, in the other perpetual ones. The
first calls ``apply_async`` for each case, the second polls, and both say what they then find in the broker.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest

from tests.support.identity import CONFIGURATIONS, Pair, differ, normal
from tests.support.identity_programs import ALIKE
from tests.support.identity_tasks import ORDINARY, PERPETUAL

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.support import Project


#: Where the store is, and the app's other defaults, make no difference that other tests here do not see.
SELDOM = ("store in another database", "other defaults")


@pytest.mark.parametrize(
    "name", [pytest.param(each, marks=pytest.mark.matrix if each in SELDOM else ()) for each in CONFIGURATIONS]
)
def test_polled_messages_are_celerys_own(pair: Callable[..., Pair], name: str) -> None:
    """The broker gets the same bytes, for everything that a task, an item, a route or the configuration can say."""
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


@pytest.mark.parametrize(
    "name",
    [
        "Celery's defaults",
        "key prefix and priority steps",
        *(pytest.param(each, marks=pytest.mark.matrix) for each in SELDOM),
    ],
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
