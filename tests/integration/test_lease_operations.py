"""Leases as an operator sees and changes them, by the command line and by Python, with real workers."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest

from tests.support import wait_until
from tests.support.leased_tasks import SETTINGS, TASKS, events, final_ends, tokens

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.support import Project

SOURCE = "ITEMS = 1\n" + TASKS


def running(project: Callable[..., Project], redis_url: str, **worker: Any) -> tuple[Project, str]:
    """A project whose only item runs; and its id."""
    proj = project(SOURCE, result_backend=redis_url, **SETTINGS)
    proj.run_python("from proj import *; perpetual.poll('proj.deliver')")
    proj.worker(**{"concurrency": 1, **worker}).ready()
    begun = wait_until(lambda: tokens(proj, "begin"), "it has begun")
    return proj, next(iter(begun))


def verb(proj: Project, *args: str) -> Any:
    """Run a verb with ``--json``; what it printed."""
    return json.loads(proj.celery("perpetual", *args, "--json").stdout)


def test_leases_and_workers_are_listed(project: Callable[..., Project], redis_url: str) -> None:
    """A running task shows its worker, its token and its worker's deadline; the worker shows itself."""
    proj, task_id = running(project, redis_url)

    (lease,) = verb(proj, "leases")
    (worker,) = wait_until(lambda: [each for each in verb(proj, "workers") if each["reserved"]], "it has reported")

    assert lease["task_id"] == task_id
    assert (lease["task"], lease["worker"], lease["state"]) == ("proj.deliver", "worker1@proj", "running")
    assert (lease["attempt"], lease["recoveries"], lease["reason"], lease["parked_at"]) == (1, 0, None, None)
    assert tokens(proj, "begin") == {task_id: [lease["token"]]}
    assert lease["started_at"] < lease["deadline"]
    assert (worker["name"], worker["pool"], worker["concurrency"]) == ("worker1@proj", "prefork", 1)
    assert (worker["queues"], worker["leases"], worker["state"]) == (["celery"], 1, "running")
    assert verb(proj, "parked") == []
    told = proj.celery("perpetual", "leases").stdout
    assert task_id in told
    proj.write("released", "")


def test_release_takes_a_lease_away(project: Callable[..., Project], redis_url: str) -> None:
    """The task is sent again at once, and what the first execution brings is dropped; it counts as no recovery."""
    proj, task_id = running(project, redis_url, concurrency=2)

    assert proj.celery("perpetual", "release", task_id).returncode != 0  # no operator has said yes
    assert verb(proj, "release", task_id, "--yes") == {"released": True}
    wait_until(lambda: len(tokens(proj, "begin")[task_id]) == 2, "it has begun again")
    proj.write("released", "")

    wait_until(lambda: final_ends(proj) == {(task_id, "success"): 1}, "it has ended once")
    assert [end["recoveries"] for end in events(proj, "completion")] == [0]
    assert proj.celery("perpetual", "release", task_id, "--yes").returncode == 1


def test_a_running_task_is_cancelled(project: Callable[..., Project], redis_url: str) -> None:
    """Its process is terminated, it ends as revoked, and Celery's own result says so."""
    proj, task_id = running(project, redis_url)

    assert verb(proj, "cancel", task_id, "--yes") == {"cancelled": True}

    wait_until(lambda: final_ends(proj) == {(task_id, "revoked"): 1}, "it has ended")
    wait_until(lambda: proj.run_python(f"import proj; print(proj.app.AsyncResult({task_id!r}).state)").strip()
               == "REVOKED", "Celery knows")  # fmt: skip
    assert proj.celery("perpetual", "cancel", task_id, "--yes").returncode == 1
    proj.write("released", "")
    assert tokens(proj, "end") == {}
    assert verb(proj, "leases") == []


def test_a_waiting_task_is_cancelled(project: Callable[..., Project], redis_url: str) -> None:
    """It never begins, its room is free and its waiter hears of it; its key is left out until an operator allows it."""
    proj = project(SOURCE, result_backend=redis_url, **SETTINGS)
    task_id = proj.run_python("from proj import *; print(*perpetual.poll('proj.deliver').task_ids)").strip()

    assert proj.run_python(f"from proj import *; print(perpetual.cancel({task_id!r}))").strip() == "True"
    proj.write("released", "")
    proj.worker(concurrency=1).ready()

    assert verb(proj, "wait", task_id, "--timeout", "10")["status"] == "revoked"
    wait_until(lambda: proj.redis.llen("celery") == 0, "its message has been taken")
    assert verb(proj, "poll", "proj.deliver")["held_back"] == 1
    assert verb(proj, "allow", "proj.deliver", "0") == {"allowed": True}
    assert verb(proj, "poll", "proj.deliver")["count"] == 1
    wait_until(lambda: len(tokens(proj, "end")) == 1, "the next one runs")
    assert task_id not in tokens(proj, "begin")


def test_a_task_is_failed_by_hand(project: Callable[..., Project], redis_url: str) -> None:
    """Its waiter hears the reason, and ``AsyncResult.get()`` raises."""
    proj, task_id = running(project, redis_url)

    assert verb(proj, "fail", task_id, "--reason", "bad address", "--yes") == {"failed": True}

    completion = verb(proj, "wait", task_id, "--timeout", "10")
    assert (completion["status"], completion["error"]["message"]) == ("failure", "bad address")
    code = f"""
        from proj import app
        try:
            app.AsyncResult({task_id!r}).get(timeout=10)
        except Exception as error:
            print(error)
    """
    assert "bad address" in proj.run_python(code)
    proj.write("released", "")
    wait_until(lambda: tokens(proj, "end"), "the body has gone on to its end")
    assert final_ends(proj) == {(task_id, "failure"): 1}


def test_a_queue_is_purged(project: Callable[..., Project], redis_url: str) -> None:
    """Every task in it ends as revoked, so nothing waits for it, and nothing sends it again."""
    proj = project("ITEMS = 5\n" + TASKS, result_backend=redis_url, **SETTINGS)
    ids = proj.run_python("from proj import *; print(*perpetual.poll('proj.deliver').task_ids)").split()

    assert verb(proj, "purge", "celery", "--yes") == {"purged": 5}

    assert final_ends(proj) == {(task_id, "revoked"): 1 for task_id in ids}
    assert proj.redis.hget("perpetual:u:perpetual:proj.deliver", "inflight") == "0"


def test_a_purge_does_not_revoke_what_runs(project: Callable[..., Project], redis_url: str) -> None:
    """A second message of a running task, as a broker delivers it, goes; the task, its result and its end stay."""
    proj, task_id = running(project, redis_url)
    proj.run_python(f"from proj import *; deliver.apply_async((0,), task_id={task_id!r}, queue='other')")

    assert verb(proj, "purge", "other", "--yes") == {"purged": 1}

    state = f"from proj import *; print(app.AsyncResult({task_id!r}).state, *perpetual.leases())"
    assert proj.run_python(state).split("(")[0].split() == ["PENDING", "Lease"]
    proj.write("released", "")
    assert verb(proj, "wait", task_id, "--timeout", "10")["status"] == "success"
    assert proj.run_python(state).split() == ["SUCCESS"]
    assert final_ends(proj) == {(task_id, "success"): 1}


def test_a_queue_that_nobody_knows_is_not_purged(project: Callable[..., Project]) -> None:
    """A misspelt name is an error, not answered with zero; a queue that only the broker knows is purged."""
    proj = project(SOURCE, **SETTINGS)
    proj.run_python("from proj import *; deliver.apply_async((1,), queue='other')")

    done = proj.celery("perpetual", "purge", "cellery", "--yes")

    assert (done.returncode, done.stdout) == (3, "")
    assert "queue 'cellery' was not purged: this app does not know it; it knows celery" in done.stderr
    assert verb(proj, "purge", "other", "--yes") == {"purged": 1}


@pytest.mark.parametrize("verb_", ["recover", "release", "cancel"])
def test_an_unknown_id_is_refused(project: Callable[..., Project], verb_: str) -> None:
    """Nothing happens to an unknown id of our form."""
    proj = project(SOURCE, **SETTINGS)
    unknown = "01a1fa18-c0de-80d8-8c2b-697300000825"

    yes = [] if verb_ == "recover" else ["--yes"]
    assert proj.celery("perpetual", verb_, unknown, *yes).returncode == 1

    assert proj.redis.keys("perpetual:completion:*") == []


def test_tokens_only_grow(project: Callable[..., Project]) -> None:
    """Every execution has a greater token than the one before; outside of a task there is none."""
    proj = project("ITEMS = 8\n" + TASKS, **SETTINGS)
    proj.write("released", "")
    proj.run_python("from proj import *; perpetual.poll('proj.deliver')")
    proj.worker(concurrency=1).ready()

    wait_until(lambda: len(tokens(proj, "end")) == 8, "all have run")
    order = [int(row.what.split()[1]) for row in proj.rows() if row.what.startswith("begin")]
    assert order == sorted(set(order))
    outside = proj.run_python("from proj import *; print(perpetual.lease_token(), perpetual.still_mine())")
    assert outside.split() == ["None", "False"]
