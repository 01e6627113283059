"""Messages in the broker's hash of received messages that are no concern of ours are looked into once, in steps."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

import pytest

from celery_perpetual import Item, Perpetual, PerpetualTask
from celery_perpetual.recovery import unacked as unacked_messages
from celery_perpetual.recovery.unacked import UnackedMessages
from tests.support.contract import begin, lose, nothing, report

if TYPE_CHECKING:
    import redis
    from celery import Celery

STEP, CALL = 40, 10


@pytest.fixture
def small_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    """A pass looks into few messages, so that a test needs not thousands."""
    monkeypatch.setattr(unacked_messages, "MOST_NEW", STEP)
    monkeypatch.setattr(unacked_messages, "AT_ONCE", CALL)


@pytest.fixture
def shop(make_app: Callable[..., Celery]) -> Iterator[Perpetual]:
    """An app with a perpetual task, one without a lease, and an ordinary one."""
    app = make_app("shop")
    perpetual = Perpetual(app)

    items = [Item((), key=n, task=name) for n, name in enumerate(["deliver", "unleased"])]
    options: dict[str, Any] = {"base": PerpetualTask, "poll_every": 3600, "shared": False}
    app.task(name="deliver", next_batch=lambda: items, **options)(nothing)
    app.task(name="unleased", base=PerpetualTask, lease=False, shared=False)(nothing)
    app.task(name="ordinary", shared=False)(nothing)
    yield perpetual
    for store in (perpetual.store, perpetual.grants.store):
        store.close()


@pytest.fixture
def received(shop: Perpetual) -> Iterator[Callable[[], None]]:
    """Receive every message that is there, as a worker does that dies at once."""
    with ExitStack() as stack:

        def receive() -> None:
            connection = stack.enter_context(shop.app.connection_for_read())
            queue = connection.SimpleQueue("celery")
            for _ in range(queue.qsize()):
                queue.get(timeout=5)

        yield receive


def reads(client: redis.Redis, keys: tuple[str, ...] = ("hget", "hmget")) -> int:
    """How often the server was asked for fields of a hash."""
    stats = client.info("commandstats")
    return sum(stats.get(f"cmdstat_{key}", {}).get("calls", 0) for key in keys)


@pytest.mark.usefixtures("small_steps")
def test_messages_of_ordinary_tasks_are_looked_into_once(
    shop: Perpetual, received: Callable[[], None], store_redis: redis.Redis
) -> None:
    """Each pass looks into some; when all are known, a pass reads no message at all, for as long as they lie there."""
    for _ in range(2 * STEP + STEP // 2):
        shop.app.send_task("ordinary", countdown=3600)
    received()
    messages = UnackedMessages(shop.app, shop.grants)

    whole, calls = [], []
    for _ in range(5):
        before = reads(store_redis)
        restored, known = messages.restore()
        assert restored == 0
        whole.append(known is not None)
        calls.append(reads(store_redis) - before)

    assert whole == [False, False, True, True, True]
    assert calls == [STEP // CALL, STEP // CALL, STEP // CALL // 2, 0, 0]
    assert store_redis.hlen("unacked") == 2 * STEP + STEP // 2


@pytest.mark.usefixtures("small_steps")
def test_messages_of_ours_are_found_behind_those_of_others(
    shop: Perpetual, received: Callable[[], None], store_redis: redis.Redis
) -> None:
    """An item that a dead worker had received goes back to its queue; one without a lease is known, and stays."""
    for _ in range(STEP):
        shop.app.send_task("ordinary")
    received()
    ids = shop.poll("deliver").task_ids
    received()
    messages = UnackedMessages(shop.app, shop.grants)
    # Their worker has reported them, lives, and has let go of them.
    report(shop, 1)
    tags = shop.store.keys.tags("w@host#1")
    store_redis.hset(tags, mapping=dict.fromkeys(store_redis.hkeys("unacked"), "task"))
    assert messages.restore() == (0, set())
    store_redis.delete(tags)

    assert messages.restore() == (0, None)
    restored, known = messages.restore()

    assert (restored, known) == (1, set(ids))
    assert store_redis.llen("celery") == 1
    assert store_redis.hlen("unacked") == STEP + 1


def test_what_a_dead_worker_had_received_goes_back_before_it_is_forgotten(
    shop: Perpetual, received: Callable[[], None], store_redis: redis.Redis
) -> None:
    """Messages of ordinary tasks, of tasks without a lease and of those that have begun stay where they are."""
    shop.app.send_task("ordinary")
    shop.app.send_task("deliver", task_id="begun")
    shop.poll("deliver")
    received()
    assert begin(shop, "begun").leased
    messages, tags = UnackedMessages(shop.app, shop.grants), set(store_redis.hkeys("unacked"))

    assert messages.died(tags) == 1

    assert (store_redis.llen("celery"), store_redis.hlen("unacked")) == (1, 3)
    assert messages.died(tags) == 0


def test_what_a_worker_had_that_dies_during_a_pass_is_left_to_the_next(
    shop: Perpetual, received: Callable[[], None], store_redis: redis.Redis
) -> None:
    """Its leases are not taken yet, so a message of a task that has begun would be put back beside the one resent."""
    shop.app.send_task("deliver", task_id="begun")
    received()
    assert begin(shop, "begun").leased
    keys = shop.store.keys
    (worker,) = store_redis.zrange(keys.workers, 0, -1)
    store_redis.hset(keys.tags(worker), store_redis.hkeys("unacked")[0], "begun")
    messages = UnackedMessages(shop.app, shop.grants)
    assert messages.restore() == (0, set())

    store_redis.zadd(keys.workers, {worker: shop.store.now()})

    assert [messages.restore() for _ in range(2)] == [(0, set())] * 2
    assert (store_redis.llen("celery"), store_redis.hlen("unacked")) == (0, 1)


def order_of_messages(client: redis.Redis) -> list[str]:
    """Ids of the tasks in the queue, the next one first."""
    return [json.loads(text)["headers"]["id"] for text in reversed(client.lrange("celery", 0, -1))]


def test_what_goes_back_comes_first_and_in_its_order(
    shop: Perpetual, received: Callable[[], None], store_redis: redis.Redis
) -> None:
    """A dead worker had received three messages; another one was sent after that."""
    for name in ("a", "b", "c"):
        shop.app.send_task("deliver", task_id=name)
    received()
    shop.app.send_task("deliver", task_id="later")

    assert UnackedMessages(shop.app, shop.grants).died(set(store_redis.hkeys("unacked"))) == 3

    assert order_of_messages(store_redis) == ["a", "b", "c", "later"]


def test_what_is_resent_comes_first_and_in_its_order(
    shop: Perpetual, received: Callable[[], None], store_redis: redis.Redis
) -> None:
    """The worker that ran three items is gone; another message was sent before that was noticed."""
    items = [Item((), key=n, task="deliver") for n in range(3)]
    options: dict[str, Any] = {"base": PerpetualTask, "poll_every": 3600, "shared": False}
    many = shop.app.task(name="many", next_batch=lambda: items, **options)(nothing)
    ids = shop.poll(many).task_ids
    received()
    store_redis.delete("unacked", "unacked_index")  # their worker was to acknowledge them
    shop.app.send_task("deliver", task_id="later")

    assert lose(shop, *ids).sent == 3

    assert order_of_messages(store_redis) == [*ids, "later"]


def test_what_is_no_message_of_celery_hinders_nothing(shop: Perpetual, store_redis: redis.Redis) -> None:
    """Anybody may write into a broker's keys."""
    for tag, text in (("a", "no JSON"), ("b", "[1, 2, 3]"), ("c", "{}"), ("d", '[{"body": ""}, "", ""]')):
        store_redis.hset("unacked", tag, text)
        store_redis.zadd("unacked_index", {tag: 1})

    assert UnackedMessages(shop.app, shop.grants).restore() == (0, set())
    assert store_redis.hlen("unacked") == 4
