"""Changes by annotations and options, in real polls: the pace, the jitter, the history."""

from __future__ import annotations

import json
import time
from typing import TYPE_CHECKING, Any

import pytest

from tests.support import wait_until
from tests.support.broker import queued
from tests.support.console import Console
from tests.support.stream_events import poll_events

if TYPE_CHECKING:
    from collections.abc import Callable

    import redis

    from tests.support import Project


def test_task_annotations_make_a_task_perpetual(project: Callable[..., Project], store_redis: redis.Redis) -> None:
    """poll_every, next_batch and max_in_flight from the app's settings alone; another one's are overridden."""
    proj = project(
        """
        @app.task
        def ordinary(n): ...

        @app.task(base=PerpetualTask, poll_every=3600, next_batch=lambda: [(n,) for n in range(9)])
        def overridden(n): ...

        app.conf.task_annotations = {
            "proj.ordinary": {"poll_every": 0.5, "next_batch": lambda poll: [(poll.limit,)], "max_in_flight": 7},
            "proj.overridden": {"poll_every": 0.5, "max_in_flight": 2},
        }
        """
    )
    proj.beat()

    wait_until(lambda: len(poll_events(store_redis, "proj.ordinary")) >= 3, "the ordinary task is polled")
    wait_until(lambda: len(poll_events(store_redis, "proj.overridden")) >= 3, "the other one at its new pace")

    assert [message.args for message in queued(store_redis) if message.task == "proj.ordinary"] == [[7]]
    assert [message.args for message in queued(store_redis) if message.task == "proj.overridden"] == [[0], [1]]


def test_jitter_moves_the_poll_but_not_the_slot(project: Callable[..., Project], store_redis: redis.Redis) -> None:
    """Polls come later than their slots by less than the jitter, and by the same on another beat."""
    every, jitter = 0.5, 0.4
    proj = project(
        f"""
        @app.task(base=PerpetualTask, poll_every={every}, next_batch=lambda: None,
                  perpetual_options=PerpetualOptions(jitter={jitter}))
        def work(): ...
        """
    )
    due: dict[float, set[float]] = {}

    def watch(seen: int) -> bool:
        """Note the due times that the beats have set, by slot."""
        at = store_redis.zscore("perpetual:due", "perpetual:proj.work")
        anchor = store_redis.hget("perpetual:u:perpetual:proj.work", "anchor")
        if at and anchor:
            slot = (at - int(anchor)) // (every * 1000)
            due.setdefault(slot, set()).add(at - int(anchor) - slot * every * 1000)
        return len(due) >= seen

    first = proj.beat()
    wait_until(lambda: watch(8), "eight slots", interval=0.01)
    # Another beat, asked for the same slots again.
    old = dict(due)
    first.terminate()
    anchor = int(str(store_redis.hget("perpetual:u:perpetual:proj.work", "anchor")))
    again = json.loads(
        proj.run_python(
            f"""
            import json
            from celery_perpetual.tasks.discovery import load
            import proj
            cadence = load(proj.app).tasks["proj.work"].cadence
            slots = [{anchor} + round(slot * {every} * 1000) for slot in {sorted(old)}]
            due = [cadence.occurrence(slot - 1, {anchor}, "", slot - 1).following - slot for slot in slots]
            print(json.dumps(due))
            """
        )
    )
    events = poll_events(store_redis)

    late = [offset for _, offsets in sorted(old.items()) for offset in offsets]
    assert all(0 <= offset < jitter * 1000 for offset in late)
    assert len(set(late)) > 3
    assert all(len(offsets) == 1 for offsets in old.values())
    assert late[1:] == again[1:]
    assert [(event.slot - events[0].slot) / every % 1 for event in events] == pytest.approx([0] * len(events), abs=1e-6)
    assert len({event.slot for event in events}) == len(events)


def kept(client: redis.Redis, task: str) -> list[dict[str, Any]]:
    """Stored outcomes, newest first."""
    entries = client.lrange(f"perpetual:polls:perpetual:{task}", 0, -1)
    return [json.loads(entry.partition("\n")[2]) for entry in entries]


def test_history_is_trimmed_by_count_and_by_age(project: Callable[..., Project], store_redis: redis.Redis) -> None:
    """At most `history` outcomes are kept; empty ones a day, failed ones thirty days, the others seven."""
    proj = project(
        """
        numbers = iter(range(1000))

        @app.task(base=PerpetualTask, poll_every=3600, next_batch=lambda: [(next(numbers),)],
                  perpetual_options=PerpetualOptions(history=5))
        def few(n): ...

        @app.task(base=PerpetualTask, poll_every=3600, next_batch=lambda: [(next(numbers),)])
        def many(n): ...
        """
    )
    # The oldest are the last; three that are in time, and three that are not.
    ages = [("empty", 0.5), ("enqueued", 6), ("failed", 29), ("empty", 2), ("enqueued", 8), ("failed", 31)]
    now = time.time() * 1000
    with Console(proj) as console:
        polls = [console("perpetual.poll('proj.few')")["poll_id"] for _ in range(8)]
        newest = console("perpetual.poll('proj.many')")["poll_id"]
        entry = store_redis.lindex("perpetual:polls:perpetual:proj.many", 0)
        _, _, text = str(entry).partition("\n")
        for status, days in ages:
            outcome = {**json.loads(text), "status": status, "poll_id": f"{status} {days}"}
            first_at = round(now - days * 86_400_000)
            store_redis.rpush("perpetual:polls:perpetual:proj.many", f"1 {first_at} \n{json.dumps(outcome)}")
        stale = [outcome["poll_id"] for outcome in kept(store_redis, "proj.many")]
        newer = [console("perpetual.poll('proj.many')")["poll_id"] for _ in range(2)]

    assert [outcome["poll_id"] for outcome in kept(store_redis, "proj.few")] == polls[:2:-1]
    assert len(stale) == 7
    assert {outcome["poll_id"] for outcome in kept(store_redis, "proj.many")} == {
        *newer, newest, "failed 29", "enqueued 6", "empty 0.5"
    }  # fmt: skip
