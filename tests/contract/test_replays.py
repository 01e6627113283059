"""``retry`` and ``replay``: what has ended otherwise than by success is enqueued again; and verbs for many tasks."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest

from celery_perpetual import ContractError, Item, PerpetualOptions, Retries
from celery_perpetual.errors import NotFound
from celery_perpetual.store.commands.lock import Lock
from tests.support import wait_until
from tests.support.contract import begin, finish
from tests.support.stream_events import events

if TYPE_CHECKING:
    from collections.abc import Callable

    import redis

    from celery_perpetual import Perpetual
    from tests.support import Project


def messages(client: redis.Redis) -> dict[str, dict[str, Any]]:
    """Read the messages in the queue: headers by task id."""
    found = [json.loads(message)["headers"] for message in client.lrange("celery", 0, -1)]
    return {headers["id"]: headers for headers in found}


def test_a_batch_is_replayed_without_what_has_succeeded(
    shop: Callable[..., Perpetual], store_redis: redis.Redis
) -> None:
    """New ids, the same arguments and keys; each item once, and the record of who did it and why."""
    perpetual = shop(lambda: [Item((n,), key=n, countdown=3600 if n == 1 else None) for n in range(4)])
    poll = perpetual.poll("deliver")
    failed, revoked, succeeded, open_ = poll.task_ids
    finish(perpetual, failed, "failure", ValueError("no"))
    finish(perpetual, revoked, "revoked")
    finish(perpetual, succeeded)

    again = perpetual.replay(poll.poll_id, reason="the bank is back")

    assert (again.status, again.trigger, again.count, again.duplicates) == ("enqueued", "replay", 2, 0)
    waiting = messages(store_redis)
    assert {waiting[new]["perpetual-replay-of"] for new in again.task_ids} == {failed, revoked}
    assert [waiting[new]["argsrepr"] for new in again.task_ids] == ["(0,)", "(1,)"]
    assert [waiting[new]["eta"] for new in again.task_ids] == [None, None]
    assert {each.key for each in perpetual.items("deliver")} == {"0", "1", "3"}
    (record,) = events(store_redis, "operator")
    assert (record["verb"], record["reason"], record["poll_id"]) == ("replay", "the bank is back", poll.poll_id)
    assert (record["task_ids"], "@" in record["by"]) == (list(again.task_ids), True)

    with pytest.raises(NotFound, match=r"no item of .* can be enqueued again"):
        perpetual.replay(poll.poll_id)
    # The others are there while an item of their chunk has not ended.
    assert perpetual.replay(poll.poll_id, only_failed=False).count == 1
    finish(perpetual, open_)
    with pytest.raises(NotFound):
        perpetual.replay(poll.poll_id, only_failed=False)
    with pytest.raises(NotFound, match="knows no batch"):
        perpetual.replay("019b0000-0000-8abc-8abc-abcdefffffff")


def test_what_does_not_fit_stays_for_the_next_replay(shop: Callable[..., Perpetual]) -> None:
    """A replay keeps to the room of its unit, and leaves out keys that are in flight again."""
    rows = list(range(5))
    perpetual = shop(
        lambda: [Item((n,), key=n) for n in rows], max_in_flight=5, perpetual_options=PerpetualOptions(failed_keys=None)
    )
    poll = perpetual.poll("deliver")
    for task_id in poll.task_ids:
        finish(perpetual, task_id, "failure", ValueError("no"))
    rows[:] = [0, 10, 11]
    perpetual.poll("deliver")

    first = perpetual.replay(poll.poll_id)
    assert (first.count, first.duplicates, first.left_out) == (2, 1, 2)
    for task_id in first.task_ids:
        finish(perpetual, task_id)
    second = perpetual.replay(poll.poll_id)
    assert (second.count, second.duplicates) == (2, 1)


def test_an_item_is_retried_once(shop: Callable[..., Perpetual], store_redis: redis.Redis) -> None:
    """Under a new id, whatever its back-off says; what has not failed is not retried."""
    perpetual = shop(lambda: [Item((1,), key="a"), Item((2,), key="b")])
    poll = perpetual.poll("deliver")
    first, second = poll.task_ids
    finish(perpetual, first, "failure", ValueError("no"))

    new = perpetual.retry(first, reason="mended")
    assert new is not None
    assert messages(store_redis)[new]["perpetual-replay-of"] == first
    assert perpetual.find("deliver", "a").task_id == new
    for task_id, text in (
        (first, "can be enqueued again"), (second, "can be enqueued again"), ("of-somebody-else", "is no item"),
    ):  # fmt: skip
        with pytest.raises(NotFound, match=text):
            perpetual.retry(task_id)

    # An item that has failed again may be retried again.
    finish(perpetual, new, "failure", ValueError("no"))
    store_redis.hset("perpetual:u:perpetual:deliver", mapping={"claim": "other", "claimed": f"1 1 {10**15} manual "})
    assert perpetual.retry(new) is None
    store_redis.hdel("perpetual:u:perpetual:deliver", "claim", "claimed")
    assert perpetual.retry(new) is not None
    assert len(events(store_redis, "operator")) == 2


def test_two_replays_at_once_enqueue_once(shop: Callable[..., Perpetual], store_redis: redis.Redis) -> None:
    """While one is at a batch another one is refused, and frees no parked key; nor does one that finds its unit busy."""
    perpetual = shop(
        lambda: [Item((1,), key="a")], perpetual_options=PerpetualOptions(failed_keys=Retries(max_attempts=1))
    )
    poll = perpetual.poll("deliver")
    finish(perpetual, poll.task_ids[0], "failure", ValueError("no"))
    parked = store_redis.zrange("perpetual:failed:perpetual:deliver", 0, -1, withscores=True)
    assert parked == [("a", float("inf"))]

    other = Lock(perpetual.store, perpetual.store.keys.replaying(poll.poll_id), 30)
    assert other.acquire()
    assert (perpetual.replay(poll.poll_id).gate, perpetual.retry(poll.task_ids[0])) == ("busy", None)
    other.release()
    store_redis.hset("perpetual:u:perpetual:deliver", mapping={"claim": "other", "claimed": f"1 1 {10**15} manual "})
    assert perpetual.retry(poll.task_ids[0]) is None
    assert store_redis.zrange("perpetual:failed:perpetual:deliver", 0, -1, withscores=True) == parked
    store_redis.hdel("perpetual:u:perpetual:deliver", "claim", "claimed")

    assert perpetual.retry(poll.task_ids[0]) is not None
    assert store_redis.keys("perpetual:replaying:*") == []


def test_verbs_take_up_to_fifty_tasks_with_a_result_each(
    shop: Callable[..., Perpetual], store_redis: redis.Redis
) -> None:
    """Each once; one that the verb does not apply to, or that is in error, does not stop the next."""
    perpetual = shop(lambda: [(n,) for n in range(4)])
    ids = list(perpetual.poll("deliver").task_ids)
    finish(perpetual, ids[1])
    begin(perpetual, ids[2])

    results = perpetual.fail([ids[0], ids[1], ids[0], "unknown"], "bad address")
    assert [(each.task_id, each.done) for each in results] == [(ids[0], True), (ids[1], False), ("unknown", False)]
    assert [each.done for each in perpetual.recover(ids)] == [False] * 4
    assert [each.done for each in perpetual.release(ids, reason="stuck")] == [False, False, True, False]
    assert [each.done for each in perpetual.cancel((ids[3],))] == [True]
    retried = perpetual.retry([ids[0], ids[1]])
    assert [(each.done, each.new_task_id is not None) for each in retried] == [(True, True), (False, False)]
    assert (retried[1].error or "").startswith("NotFound")

    assert [(each["verb"], each["reason"]) for each in events(store_redis, "operator")] == [
        ("fail", "bad address"), ("release", "stuck"), ("cancel", ""), ("retry", ""),
    ]  # fmt: skip
    with pytest.raises(ContractError, match="at most 50 tasks at once, got 51"):
        perpetual.cancel([f"task-{n}" for n in range(51)])
    with pytest.raises(ContractError, match="the reason must be a text"):
        perpetual.fail(ids[0], " ")


def test_retry_and_replay_from_the_command_line(project: Callable[..., Project]) -> None:
    """A retried task names the one that it repeats; several ids are one command, with a line or an object each."""
    proj = project(
        """
        @app.task(base=PerpetualTask, poll_every=3600, next_batch=lambda: [Item((n,), key=n) for n in range(3)])
        def deliver(n):
            if not os.path.exists("mended"):
                raise ValueError(n)
        """
    )
    proj.worker(pool="threads").ready()
    poll = json.loads(proj.celery("perpetual", "poll", "proj.deliver", "--json").stdout)
    wait_until(lambda: len(events(proj.redis, "completion")) == 3, "they fail")
    proj.write("mended", "")

    first, second, _ = poll["task_ids"]
    one = proj.celery("perpetual", "retry", first, "--json")
    assert (one.returncode, json.loads(one.stdout)["retried"]) == (0, True), one
    both = proj.celery("perpetual", "retry", first, second)
    assert (both.returncode, len(both.stdout.splitlines())) == (1, 2)
    assert "is enqueued again as" in both.stdout
    rest = proj.celery("perpetual", "replay", poll["poll_id"], "--json")
    assert (rest.returncode, json.loads(rest.stdout)["count"]) == (0, 1), rest
    wait_until(lambda: len(events(proj.redis, "completion")) == 6, "they succeed")
    ends = events(proj.redis, "completion")[3:]
    assert {end["status"] for end in ends} == {"success"}
    assert {end["meta"]["replay_of"] for end in ends} == set(poll["task_ids"])
    none = proj.celery("perpetual", "replay", poll["poll_id"])
    assert (none.returncode, "can be enqueued again" in none.stderr) == (3, True)
    many = proj.celery("perpetual", "cancel", first, second, "--yes", "--json")
    assert (many.returncode, [each["done"] for each in json.loads(many.stdout)]) == (1, [False, False])
