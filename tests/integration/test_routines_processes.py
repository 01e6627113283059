"""Routines with real beats and workers: due within a second, each slot once, tried again, followed at once."""

from __future__ import annotations

import json
import signal
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime, timedelta, timezone
from typing import TYPE_CHECKING, Any

import pytest

from celery_perpetual import Perpetual, Retries
from tests.support import wait_until
from tests.support.leased_tasks import ANY_BROKER, SETTINGS

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from celery import Celery

    from tests.support import Project

TASKS = """
@app.task(bind=True)
def work(self, name, seconds=0):
    slot = perpetual.slot()
    ledger.record(name, f"{slot.timestamp():.3f} {self.request.id}")
    time.sleep(seconds)
    return name

@app.task
def fail(name):
    ledger.record(name, "failed")
    raise ValueError(name)
"""


@pytest.fixture
def client(make_app: Callable[..., Celery]) -> Iterator[Callable[[Project], Perpetual]]:
    """A process that has the broker and the store of a project, and not its code."""
    made: list[Perpetual] = []

    def make(proj: Project) -> Perpetual:
        made.append(Perpetual(make_app("proj", broker_url=proj.broker, perpetual_store_url=proj.url)))
        return made[-1]

    yield make
    for each in made:
        each.store.close()


def runs(proj: Project, name: str) -> list[Any]:
    return [row for row in proj.rows() if row.id == name]


@pytest.mark.parametrize("broker", ["redis", "rabbitmq"], indirect=True)
def test_beat_runs_what_is_due(
    project: Callable[..., Project], client: Callable[[Project], Perpetual], broker: dict[str, Any]
) -> None:
    """Once, at an interval, and after failures; within a second of the due time, and the record follows at once."""
    proj = project(TASKS, **SETTINGS, **broker)
    proj.beat().ready()
    proj.worker(pool="threads").ready()
    routines = client(proj).routines
    begun = datetime.now(timezone.utc)

    once = routines.create("proj.work", ["once"], at=begun + timedelta(seconds=1))
    grid = routines.create("proj.work", ["grid"], every=1, start_at=begun, max_runs=3, catch_up=True)
    failing = routines.create("proj.fail", ["failing"], at=begun, retries=Retries(max_attempts=3, backoff=0.2))
    by_hand = routines.create("proj.work", ["by hand"], every=3600, start_at=begun + timedelta(hours=1))
    routines.run_now(by_hand.id)
    ended = {once.id: "completed", grid.id: "completed", failing.id: "exhausted"}
    wait_until(lambda: {each: routines.get(each).state for each in ended} == ended, "all have ended")
    wait_until(lambda: routines.get(by_hand.id).last_result == "by hand", "the run by hand is noted")

    (ran,) = runs(proj, "once")
    assert 0 <= ran.time - (begun.timestamp() + 1) < 1.5
    assert [float(row.what.split()[0]) - begun.timestamp() for row in runs(proj, "grid")] == pytest.approx(
        [0, 1, 2], abs=0.002
    )
    assert len(runs(proj, "failing")) == 3
    after = routines.get(failing.id)
    assert (after.attempt_count, after.last_error) == (3, {"type": "ValueError", "message": "failing"})
    assert (routines.get(once.id).last_result, routines.get(once.id).run_count) == ("once", 1)
    assert routines.get(by_hand.id).state == "active"
    assert runs(proj, "by hand")[0].what.endswith(routines.get(by_hand.id).last_run_id or "")


@ANY_BROKER
def test_the_run_of_a_killed_worker_counts_as_an_attempt(
    project: Callable[..., Project], client: Callable[[Project], Perpetual], broker: dict[str, Any]
) -> None:
    """The lost run counts as an attempt and a recovery: with attempts left the slot runs again, else that was it."""
    proj = project(TASKS, **SETTINGS, **broker)
    proj.beat().ready()
    victim = proj.worker(concurrency=3).ready()
    routines = client(proj).routines
    now = datetime.now(timezone.utc)
    again = routines.create("proj.work", ["again", 600], at=now, retries=Retries(max_attempts=2))
    single = routines.create("proj.work", ["single", 600], at=now)
    wait_until(lambda: len(proj.rows()) == 2, "both run")

    victim.kill9()
    proj.worker(concurrency=3).ready()
    wait_until(lambda: len(runs(proj, "again")) == 2, "the slot runs again")
    wait_until(lambda: routines.get(single.id).state == "exhausted", "the one without attempts has ended")

    lost = routines.get(again.id)
    assert (lost.state, lost.attempt_count, lost.recovery_count) == ("running", 2, 1)
    assert len({row.what.split()[0] for row in runs(proj, "again")}) == 1, "the same slot"
    assert len({row.what.split()[1] for row in runs(proj, "again")}) == 2, "an id for each attempt"
    for each in (lost, routines.get(single.id)):
        assert each.last_error is not None
        assert each.last_error["type"] == "TaskLost"
    assert len(runs(proj, "single")) == 1


def run_until_ended(perpetual: Perpetual, ids: list[str]) -> None:
    """Run what is due, and the maintenance of a leader, as a process without a beat does."""

    def have_ended() -> bool:
        perpetual.routines.run_due()
        perpetual.cycle()
        return all(perpetual.routines.get(each).state in ("completed", "exhausted") for each in ids)

    wait_until(have_ended, "all have ended", interval=0.1)


@ANY_BROKER
def test_a_slot_runs_though_its_caller_dies(
    project: Callable[..., Project], client: Callable[[Project], Perpetual], broker: dict[str, Any]
) -> None:
    """Killed at any step, without a beat: the slot runs, once for each attempt that had begun, and nothing stays running."""
    proj = project(TASKS, **SETTINGS, **broker)
    perpetual = client(proj)
    routines, now = perpetual.routines, datetime.now(timezone.utc)
    proj.worker(pool="threads").ready()
    made, begun = {}, {}
    # On another broker the messages come after the step that starts the runs.
    later = ("poll.publishing", "poll.published") if broker else ()
    for point in ("routine.inline", "routine.executed", "routine.starting", "routine.started", *later):
        made[point] = routines.create("proj.work", [point], at=now, retries=Retries(max_attempts=2)).id
        inline = point in ("routine.inline", "routine.executed")
        call = f"import proj; proj.perpetual.routines.run_due(run_inline={inline})"
        caller = proj.process(point, ["-c", call], env={"PERPETUAL_CRASH_AT": point})
        assert caller.wait(30) == -signal.SIGKILL, point
        begun[point] = routines.get(made[point]).attempt_count

    run_until_ended(perpetual, list(made.values()))
    for point, routine_id in made.items():
        assert (routines.get(routine_id).state, routines.get(routine_id).last_result) == ("completed", point)
    assert [begun[point] for point in ("routine.inline", "routine.executed", "routine.starting")] == [1, 1, 0]
    assert {point: len(runs(proj, point)) for point in begun} == {
        "routine.starting": 1, "routine.started": 1, "routine.inline": 1, "routine.executed": 2, **dict.fromkeys(later, 1),
    }  # fmt: skip


@ANY_BROKER
def test_a_slot_runs_once_though_beat_dies(
    project: Callable[..., Project], client: Callable[[Project], Perpetual], broker: dict[str, Any]
) -> None:
    """Killed at any step: the next one goes on, the slot runs once, and nothing stays running."""
    proj = project(TASKS, **SETTINGS, **broker)
    perpetual = client(proj)
    routines, now = perpetual.routines, datetime.now(timezone.utc)
    proj.worker(pool="threads").ready()
    points = ["routine.starting", "routine.started", *(["poll.publishing", "poll.published"] if broker else [])]
    for point in points:
        routines.create("proj.work", [point], at=now, id=point)
        # The lead of a beat that was killed is over when its time is.
        proj.redis.delete("perpetual:leader")
        beat = proj.beat(env={"PERPETUAL_CRASH_AT": point})
        wait_until(lambda beat=beat: not beat.alive, f"it is dead at {point}")
        assert beat.exit_code == -signal.SIGKILL

    proj.redis.delete("perpetual:leader")
    proj.beat().ready()
    wait_until(lambda: all(routines.get(each).state == "completed" for each in points), "all have ended")
    assert {each: len(runs(proj, each)) for each in points} == dict.fromkeys(points, 1)
    assert {routines.get(each).attempt_count for each in points} == {0}
    assert not proj.redis.exists("perpetual:routines:running")


def test_a_worker_that_dies_after_the_end(
    project: Callable[..., Project], client: Callable[[Project], Perpetual]
) -> None:
    """Its task has ended, and what follows has not been done: the next process that runs what is due does it."""
    proj = project(TASKS, **SETTINGS)
    perpetual = client(proj)
    routines = perpetual.routines
    for point, is_followed in (("routine.following", False), ("routine.followed", True)):
        made = routines.create("proj.work", [point], every=3600)
        worker = proj.worker(pool="threads", env={"PERPETUAL_CRASH_AT": point}).ready()

        routines.run_due()
        wait_until(lambda worker=worker: not worker.alive, "the worker is dead")
        assert (routines.get(made.id).state == "active") is is_followed

        routines.run_due()
        after = routines.get(made.id)
        assert (after.state, after.run_count, after.last_result) == ("active", 1, point)
        assert len(runs(proj, point)) == 1


def test_many_beats_and_callers_enqueue_each_slot_once(
    project: Callable[..., Project], client: Callable[[Project], Perpetual]
) -> None:
    """Two beats, of which the leading one is killed in the middle, and three callers: each of 5 000 slots is enqueued once."""
    proj = project(TASKS, **SETTINGS)
    routines = client(proj).routines
    at = datetime.now(timezone.utc) + timedelta(seconds=5)
    routines.create_many({"task": "proj.work", "args": (n,), "at": at, "id": str(n)} for n in range(5000))
    leader = proj.beat(env={"PERPETUAL_CRASH_AT": "routine.started"}).ready()
    wait_until(lambda: proj.redis.exists("perpetual:leader"), "it leads")
    proj.beat().ready()
    loop = (
        "import proj, time\nend = time.time() + 9\nwhile time.time() < end: proj.perpetual.routines.run_due(limit=300)"
    )
    with ThreadPoolExecutor(3) as callers:
        done = [callers.submit(proj.run_python, loop) for _ in range(3)]
        wait_until(lambda: proj.redis.llen("celery") >= 5000, "all are enqueued")
        for each in done:
            each.result()
    assert leader.exit_code == -signal.SIGKILL

    messages = [json.loads(text)["headers"] for text in proj.redis.lrange("celery", 0, -1)]
    assert Counter(each["perpetual-routine"]["id"] for each in messages) == Counter(str(n) for n in range(5000))
    assert {each["id"]: each["perpetual-routine"]["id"] for each in messages} == {
        each.current_run_id: each.id for each in routines.list(state="running")
    }
