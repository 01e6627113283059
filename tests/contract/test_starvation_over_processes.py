"""The starvation ladder where the process that climbs it ends: what it has noted is done, and a cron job drives it."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest

from celery_perpetual.starvation import assistance, queue_steps
from tests.support import wait_until
from tests.support.contract import report
from tests.support.ladder import NEVER, Beat, earlier, steps

if TYPE_CHECKING:
    from collections.abc import Callable

    import redis

    from celery_perpetual import Perpetual
    from celery_perpetual.beat.cycle_result import CycleResult


def test_a_step_of_a_process_that_has_died_is_done_by_the_next(
    shop: Callable[..., Perpetual], store_redis: redis.Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A step is noted, done, and noted as done; where the second note is missing it is done again, and not reported.

    The hook gets the same name of the episode, so that it can know the second call.
    """
    monkeypatch.setattr(queue_steps, "AGAIN_MS", 500)
    calls: list[str] = []
    perpetual = shop(
        lambda: [(1,)],
        {
            "perpetual_starvation": NEVER | {"notice": 0.1, "wake": 0.1, "spawn": 0.1},
            "perpetual_starvation_spawn": lambda *, episode, **_: calls.append(episode),
        },
    )
    perpetual.poll("deliver")
    dying, keeps = Beat(perpetual), assistance.Assistance.ask
    monkeypatch.setattr(assistance.Assistance, "ask", lambda *_: None)  # it dies before it does what it has noted
    wait_until(lambda: dying.once().spawned, "the step is noted")
    assert calls == []
    monkeypatch.setattr(assistance.Assistance, "ask", keeps)
    after = Beat(perpetual)
    wait_until(lambda: after.once() and calls, "another process does it")
    wait_until(lambda: "spawn" in note(store_redis)["done"], "that it is done is noted")
    assert calls == [note(store_redis)["name"]]

    # It was done, and its process has died before it could note that.
    stored = note(store_redis)
    del stored["done"]["spawn"]
    store_redis.hset("perpetual:starving", "celery", json.dumps(stored))
    wait_until(lambda: after.once() and len(calls) == 2, "it is done again")
    wait_until(lambda: "spawn" in note(store_redis)["done"], "that it is done is noted")
    after.passes(0.7)

    assert len(set(calls)) == 1
    assert len(calls) == 2
    assert steps(store_redis) == ["notice", "wake", "spawn"]


def note(client: redis.Redis) -> dict[str, Any]:
    """How far the ladder has come with the queue, as it is stored."""
    found: dict[str, Any] = json.loads(client.hget("perpetual:starving", "celery") or "{}")
    return found


class Cron:
    """Processes of their own that run ``perpetual.cycle()``, minutes apart.

    The time between two is made by setting back what is stored.
    """

    def __init__(self, perpetual: Perpetual, client: redis.Redis, poll: str, has_worker: bool) -> None:
        self._perpetual, self._client, self._batch, self._has_worker = (
            perpetual,
            client,
            f"perpetual:p:{poll}",
            has_worker,
        )
        self._poll = poll

    def later(self, seconds: int) -> CycleResult:
        """The pass of a new process, so much later."""
        client, back = self._client, 1000 * seconds
        for name in ("pub_at", *(each for each in client.hkeys(self._batch) if each.startswith("starved:"))):
            client.hincrby(self._batch, name, -back)
        client.zincrby("perpetual:open", -back, self._poll)
        if text := client.hget("perpetual:starving", "celery"):
            client.hset("perpetual:starving", "celery", json.dumps(earlier(json.loads(text), back)))
        if text := client.get("perpetual:watching"):
            client.set("perpetual:watching", json.dumps(earlier(json.loads(text), back)))
        if self._has_worker:
            report(self._perpetual, 1, begun=0)
        self._perpetual.__dict__.pop("_cycle", None)
        found = self._perpetual.cycle()
        assert found.errors == {}
        return found


@pytest.mark.parametrize("has_worker", [False, True])
def test_a_cron_job_drives_the_ladder(
    shop: Callable[..., Perpetual], store_redis: redis.Redis, has_worker: bool
) -> None:
    """A process every five minutes, and no beat: each step comes once, at its time, and the hook has returned.

    A night without passes does not count.
    """
    calls: list[str] = []
    perpetual = shop(
        lambda: [(1,)],
        {
            "perpetual_starvation": {"notice": 120, "wake": 300, "spawn": 600, "event": 900, "park": 3600},
            "perpetual_starvation_spawn": lambda *, queue, waiting, oldest_seconds, cause: calls.append(cause),
        },
    )
    cron = Cron(perpetual, store_redis, perpetual.poll("deliver").poll_id, has_worker)
    taken: list[tuple[str, int]] = []
    for minutes in range(5, 90, 5):
        found = cron.later(300)
        results = {"notice": found.noticed, "wake": found.woken, "spawn": found.spawned, "event": found.starved_ids,
                   "park": found.parked_ids}  # fmt: skip
        taken += [(step, minutes) for step, about in results.items() if about]
        assert len(calls) == sum(step == "spawn" for step, _ in taken)
        if minutes == 20:
            assert cron.later(8 * 3600).parked_ids == ()

    # An episode begins with the first pass that sees it. The gap behind that does not count, as no rhythm is known yet,
    # and neither does the night.
    assert taken == [("notice", 5), ("wake", 15), ("spawn", 20), ("event", 25), ("park", 70)]
    assert calls == ["no_consumer"]
    assert steps(store_redis) == ["notice", "wake", "spawn", "starved", "parked"]
