"""Polled messages as others see them: signals, subscriptions, a worker; and the messages that are refused."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest

from tests.support import wait_until
from tests.support.identity import Pair, differ
from tests.support.identity_programs import ALIKE

if TYPE_CHECKING:
    from collections.abc import Callable

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
    """Receivers of Celery's publish signals hear the same, and their changes are in the message."""
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
    """With a result backend Celery subscribes to every result it sends for; a poll, which has no waiters, does not."""
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
    wait_until(lambda: proj.run_python(units).strip() == "0", "every end is stored")


POISON = """
from proj import *
# Nothing can read this back from JSON, no worker either: to kombu it is a value of an unknown type.
poison = Item(({"__type__": "order", "__value__": 1},), key="poison")
BATCH[:] = [*(Item((n,), key=n) for n in range(%d)), poison, Item(("last",), key="last")]
outcome = perpetual.poll("shop.t")
print(json.dumps([outcome.status, outcome.count, outcome.error, seen()["keys"], perpetual.units()[-1].in_flight]))
print(client.exists("perpetual:outbox"))
"""


@pytest.mark.parametrize("size", [10, 700], ids=["small", "large"])
def test_arguments_that_nobody_can_read_back_are_refused(pair: Callable[..., Pair], size: int) -> None:
    """A message that could never be delivered fails the poll, and is not committed to fail in the outbox for ever."""
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
