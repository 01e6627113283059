"""Lists of routines, due and all: which are in them, in which order, and which questions are refused."""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING, Any

import pytest

from celery_perpetual import InvalidRoutine
from tests.support.routines import after

if TYPE_CHECKING:
    from datetime import datetime

    from tests.support.routines import World


EVERY = timedelta(milliseconds=5000)


def test_the_first_run_is_when_its_fields_say(world: World, now: datetime) -> None:
    """At ``start_at``, at once without it, or when ``next_run_at`` says, whatever the schedule."""
    assert world.create(every=EVERY, start_at=after(now, 700)).next_run_at == after(now, 700)
    assert timedelta(0) <= world.create(every=EVERY).next_run_at - now < timedelta(seconds=5)  # type: ignore[operator]
    assert world.create(every=EVERY, next_run_at=after(now, 99)).next_run_at == after(now, 99)


def test_what_is_due_in_order(world: World, now: datetime) -> None:
    """By time, then by id; a limit counts what is shown; one that is run is shown only if asked for."""
    for name, at in (("c", 3), ("b", 1), ("a", 1), ("z", 9000)):
        world.create(at=after(now, at), id=name)
    at = after(now, 100)

    def ids(**options: Any) -> list[str]:
        return [each.id for each in world.routines.list_due(at, **options)]

    assert ids() == ["a", "b", "c"]
    assert ids(limit=2) == ["a", "b"]
    assert world.routines.next_due_at() == after(now, 1)
    assert [run.routine_id for run in world.routines.run_due(at, limit=1)] == ["a"]
    assert ids(limit=2) == ["b", "c"]
    assert ids(limit=2, include_claimed=True) == ["a", "b"]
    assert world.routines.due(at) == world.routines.list_due(at)


def test_a_paused_one_is_not_due(world: World, now: datetime) -> None:
    """It keeps its time, and is due at once when it is resumed after it."""
    made = world.create(at=after(now, -100), paused=True)

    assert made.state == "paused"
    assert world.routines.list_due() == []
    assert world.routines.next_due_at() is None
    assert [each.id for each in world.routines.list(due_before=now)] == [made.id]
    assert world.run() == []

    assert world.routines.resume(made.id).next_run_at == after(now, -100)
    assert [each.id for each in world.routines.list_due()] == [made.id]


@pytest.mark.parametrize("options", [{"limit": 0}, {"limit": True}, {"at": 5}, {"include_claimed": "yes"}])
def test_a_wrong_question_is_refused(world: World, options: dict[str, Any]) -> None:
    with pytest.raises(InvalidRoutine, match=next(iter(options))):
        world.routines.list_due(**options)


def test_wrong_filters_are_refused(world: World) -> None:
    for filters in ({"state": "idle"}, {"limit": 0}, {"due_before": 7}, {"task": 7}, {"metadata": 7}, {"id": 7}):
        with pytest.raises(InvalidRoutine, match=next(iter(filters))):
            world.routines.list(**filters)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="foo"):
        world.routines.list(foo=1)  # type: ignore[call-arg]


def test_lists_show_the_newest_change_first(world: World, now: datetime) -> None:
    """Ties by id; filters match exactly."""
    world.routines.create_many([{"task": "app.work", "at": after(now, 60_000), "id": each} for each in "cab"])
    world.routines.create("app.note", every=60, id="n", metadata={"user": 7, "kind": "x"})
    changed = world.routines.update("b", metadata={"user": 7})

    assert [each.id for each in world.routines.list(limit=1)] == ["b" if changed.updated_at > now else "n"]
    assert [each.id for each in world.routines.list(task="app.work")][-2:] == ["a", "c"]
    assert {each.id for each in world.routines.list(metadata={"user": 7})} == {"b", "n"}
    assert [each.id for each in world.routines.list(task="app.note", state="active")] == ["n"]
    assert world.routines.list(state="paused") == []
