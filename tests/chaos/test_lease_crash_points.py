"""A process that dies between two steps of a lease: nothing is lost, and everything ends once."""

from __future__ import annotations

import signal
from typing import TYPE_CHECKING, Any

import pytest

from tests.support import wait_until
from tests.support.leased_tasks import ANY_BROKER, SETTINGS, TASKS, events, final_ends, tokens

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.support import Project

SIX = "ITEMS = 6\n" + TASKS


def check(proj: Project) -> None:
    """All six have run to an end that was announced once, and nothing of them is left."""
    wait_until(lambda: len(final_ends(proj)) == 6, "six ends are announced", 60)
    assert final_ends(proj) == {(task_id, "success"): 1 for task_id in tokens(proj, "end")}
    keys = [f"perpetual:{name}" for name in ("leases", "states", "copies", "resend", "open")]
    wait_until(lambda: not proj.redis.exists(*keys), "nothing of them is left")
    assert proj.redis.hget("perpetual:u:perpetual:proj.deliver", "inflight") == "0"


@pytest.mark.parametrize("point", ["task.starting:2", "task.started:2", "task.finishing:2", "task.finished:2"])
def test_a_worker_that_dies_between_two_steps(project: Callable[..., Project], point: str) -> None:
    """Before and after the lease is granted, before and after the end is stored."""
    proj = project(SIX, **SETTINGS)
    proj.write("released", "")
    proj.beat().ready()

    # Threads, so that the point takes the whole worker along.
    assert proj.worker(pool="threads", env={"PERPETUAL_CRASH_AT": point}).wait(60) == -signal.SIGKILL
    proj.worker(pool="threads").ready()

    check(proj)


def test_a_child_that_dies_before_it_asks_for_a_lease(project: Callable[..., Project]) -> None:
    """Its message goes back to the front of the queue, not behind all others."""
    proj = project(SIX, **SETTINGS)
    proj.write("released", "")
    proj.beat().ready()

    # Every child dies over its second task, which the next one begins with.
    proj.worker("--prefetch-multiplier=1", concurrency=1, env={"PERPETUAL_CRASH_AT": "task.starting:2"}).ready()

    check(proj)
    numbers = {task_id: int(task_id[-8:], 16) for task_id in tokens(proj, "begin")}
    assert [numbers[row.id] for row in proj.rows() if row.what.startswith("begin")] == [0, 1, 2, 3, 4, 5]


@pytest.mark.parametrize("point", ["task.finishing:2", "task.finished:2"])
def test_a_result_is_there_when_its_end_is(project: Callable[..., Project], redis_url: str, point: str) -> None:
    """Celery's result is stored in the step that stores the end: a death beside it leaves both or none."""
    proj = project(SIX, result_backend=redis_url, **SETTINGS)
    proj.write("released", "")
    proj.beat().ready()
    dying = proj.worker(pool="threads", env={"PERPETUAL_CRASH_AT": point})
    assert dying.wait(60) == -signal.SIGKILL

    ended, stored = (
        {key.rpartition(infix)[2] for key in proj.redis.keys(f"*{infix}*")}
        for infix in ("perpetual:completion:", "celery-task-meta-")
    )
    assert ended == stored
    proj.worker(pool="threads").ready()

    check(proj)
    assert len(proj.redis.keys("celery-task-meta-*")) == 6


@pytest.mark.parametrize(
    "point", ["lost.sent", "lost.sending:2", pytest.param("lost.sending", marks=pytest.mark.matrix)]
)
@ANY_BROKER
def test_a_leader_that_dies_while_it_sends_lost_tasks(
    project: Callable[..., Project], broker: dict[str, Any], point: str
) -> None:
    """Tasks that it has not sent, the next leader sends; those that it has sent do not run twice."""
    proj = project(SIX, **SETTINGS, **broker)
    leader = proj.beat(env={"PERPETUAL_CRASH_AT": point}).ready()
    victim = proj.worker().ready()
    wait_until(lambda: len(tokens(proj, "begin")) == 2, "two have begun")

    victim.kill9()
    assert leader.wait(60) == -signal.SIGKILL
    proj.write("released", "")
    proj.beat().ready()
    proj.worker().ready()

    check(proj)
    lost = {event["task_id"] for event in events(proj, "lease.lost")}
    assert tokens(proj, "begin").keys() >= lost


@pytest.mark.parametrize(
    "point", ["task.released", "lost.sent", pytest.param("lost.sending", marks=pytest.mark.matrix)]
)
def test_a_worker_that_dies_while_it_gives_a_lost_child_back(project: Callable[..., Project], point: str) -> None:
    """Its child is gone, and it dies over that too: the leader takes over."""
    source = SIX.replace("    linger(self)\n", """
    if n == 0 and not os.path.exists("died"):
        open("died", "w").close()
        os._exit(1)
""", 1)  # fmt: skip
    # The leader looks seldom, so that the worker is the first to send.
    proj = project(source, **{**SETTINGS, "perpetual_cycle_interval": 5})
    proj.beat().ready()

    assert proj.worker(env={"PERPETUAL_CRASH_AT": point}).wait(60) == -signal.SIGKILL
    proj.worker().ready()

    check(proj)
