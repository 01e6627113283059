"""Another program deletes a key of ours, or writes over it."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from typing import TYPE_CHECKING

import pytest

from celery_perpetual import Item
from tests.support.leading import LeadingClock
from tests.support.pretending import lead, report

if TYPE_CHECKING:
    from tests.support.watched_app import WatchedApp


# That is how the threads of a clock are ended here.
pytestmark = pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")


def test_units_whose_due_times_are_deleted_are_polled_on(
    watched_app: Callable[..., WatchedApp], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The leader goes on leading, and registers them once more; a moment later again, if they are deleted again."""
    monkeypatch.setattr("celery_perpetual.beat.registration.EVERY_WITHOUT", 0.1)
    watched = watched_app()
    task = watched.task([])
    task.poll_every = 0.05
    leading = LeadingClock(watched.perpetual)
    for times in (1, 2, 3):
        leading.until_polled(task, times)
        watched.redis.delete("perpetual:due")
    leading.until_polled(task, 4)
    leading.close()


OF_A_UNIT = [f"{kind}:perpetual:app.work" for kind in ("u", "recent", "recent_before")]


@pytest.mark.parametrize("key", ["due", "routines:keys", "outbox", "held:w@host#1", *OF_A_UNIT])
def test_a_key_of_another_type_is_named(watched_app: Callable[..., WatchedApp], key: str) -> None:
    """The checks say which key it is and what helps, and never that the store is away."""
    watched = watched_app()
    watched.task([])
    lead(watched.perpetual)
    report(watched.perpetual)
    watched.perpetual.poll("app.work")
    assert not {each.kind for each in watched.perpetual.check()} & {"wrong_type", "store_error"}
    name = "perpetual:" + key
    watched.redis.delete(name)
    watched.redis.set(name, "of another program")

    found = {each.kind: each for each in watched.perpetual.check()}
    assert name in found["wrong_type"].evidence
    assert f"RENAME {name} aside:{name}" in found["wrong_type"].help
    assert "store_unreachable" not in found
    found = {each.kind: each for each in watched.perpetual.status().findings}
    if "store_error" in found:
        assert name in found["wrong_type"].evidence
        assert watched.perpetual.status().state == "down"
    watched.redis.delete(name)


def test_a_record_whose_list_is_deleted_is_named_until_it_is_rebuilt(watched_app: Callable[..., WatchedApp]) -> None:
    """Of a routine and of a task that is to be sent again."""
    watched = watched_app()
    perpetual, keys = watched.perpetual, watched.perpetual.store.keys
    task = watched.task([Item((1,), key=1)])
    routine = perpetual.routines.create(task.name, every=timedelta(hours=1))
    (task_id,) = perpetual.poll(task).task_ids
    watched.redis.hset(keys.states, task_id, f"{0:064d}|0|0|1|resend||{task.name}")
    watched.redis.zadd(keys.resend, {task_id: 1})

    def lost() -> list[str]:
        return [each.evidence for each in perpetual.doctor() if each.kind == "index_lost"]

    assert lost() == []
    watched.redis.delete(keys.routines_due, keys.resend)
    (evidence,) = lost()
    assert f"routine {routine.id}, task {task_id}: " in evidence
    perpetual.rebuild()
    assert lost() == []
