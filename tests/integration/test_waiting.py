"""Waiting for ends: always answered, in time, and with one subscription however many wait.

The tasks run in a real worker and end when the test opens their gate; foreign programs are plain Redis clients.
"""

from __future__ import annotations

import time
from datetime import datetime, timedelta, timezone

import psutil
import pytest

from celery_perpetual import NotFound
from celery_perpetual.errors import ContractError
from tests.support import wait_until
from tests.support.held_tasks import SOONER_THAN_A_LOOK, STRANGER, Call, record_of


def connections(port: int) -> int:
    """How many connections to a server this process has."""
    return sum(bool(each.raddr) and each.raddr.port == port for each in psutil.Process().net_connections("tcp"))


def test_waiters_before_during_and_after_the_end_get_the_same_answer(shop):
    """Waiters get the same, at once: before the task is started, while it runs, as it ends and long after."""
    gate = shop.gate()
    task_id = "before-it-was-sent"
    early = Call(shop.perpetual.wait, task_id, 30)
    wait_until(lambda: shop.subscribers(task_id), "the early waiter is subscribed")
    shop.app.send_task("proj.work", kwargs={"gate": gate, "result": {"sum": 3}, "score": 0.93}, task_id=task_id)
    running = Call(shop.perpetual.wait, task_id, timedelta(seconds=30))

    shop.open(gate)
    during = [Call(shop.perpetual.wait, task_id, 30) for _ in range(10)]
    first = early.result()
    begun = time.monotonic()
    after = shop.perpetual.wait(task_id, 30)

    assert time.monotonic() - begun < 1
    assert all(answer == first for answer in (running.result(), after, *(each.result() for each in during)))
    assert first.ok
    assert (first.task, first.status, first.final) == ("proj.work", "success", True)
    assert (first.result, first.meta, first.timed_out) == ({"sum": 3}, {"score": 0.93}, False)
    assert first.finished_at.tzinfo is not None
    assert abs(datetime.now(timezone.utc) - first.finished_at) < timedelta(minutes=1)
    assert shop.perpetual.completion(task_id) == first
    assert {"timed_out": False, **record_of(shop.redis.get(f"perpetual:completion:{task_id}"))} == first.to_dict()


def test_a_thousand_threads_wait_for_one_id_over_a_handful_of_connections(shop):
    """All are woken by one message, and the process has one subscription and a few readers."""
    gate = shop.gate()
    task_id = shop.send(gate=gate, result=7)
    before = connections(shop.server.port)
    waiters = [Call(shop.perpetual.wait, task_id, 60) for _ in range(1000)]
    most = connections(shop.server.port)

    shop.open(gate)
    answers = [waiter.result(60) for waiter in waiters]

    assert [answer.result for answer in answers] == [7] * 1000
    assert most - before <= 8
    assert connections(shop.server.port) - before <= 8


def test_one_waiter_waits_for_ten_thousand_ids_over_a_handful_of_connections(shop):
    """Half of them ended before and half of them while it waits; every id is answered once."""
    ids = [f"many-{n}" for n in range(10_000)]
    shop.end(*ids[::2])
    before = connections(shop.server.port)
    wait = Call(shop.perpetual.wait_all, ids, 60)
    wait_until(lambda: shop.subscribers(ids[-1]), "all are subscribed")
    most = connections(shop.server.port)

    shop.end(*ids[1::2])
    answers = wait.result(60)

    assert set(answers) == set(ids)
    assert all(answer.ok for answer in answers.values())
    assert most - before <= 8


@pytest.mark.parametrize("kind", ["an item that runs", "a foreign id"])
def test_the_time_out_is_kept(shop, kind):
    """The wait is never shorter than asked, and over it the state is told: pending, timed out."""
    gate = shop.gate()
    task_id = shop.poll({"gate": gate}).task_ids[0] if kind == "an item that runs" else "of-somebody-else"
    shop.perpetual.wait(task_id, 0)
    late = []
    for _ in range(5):
        begun = time.monotonic()
        completion = shop.perpetual.wait(task_id, 0.3)
        late.append(time.monotonic() - begun - 0.3)
        assert (completion.task_id, completion.status) == (task_id, "pending")
        assert completion.timed_out
        assert not completion.final
        assert not completion.ok

    # The best of five within 50 ms; the worst may lose a second to whatever else this machine does.
    assert min(late) >= 0
    assert min(late) < 0.05
    assert max(late) < 1


def test_an_id_of_our_form_that_nobody_knows_is_told_at_once(shop):
    """It is `unknown` without waiting; the others of the same call are waited for."""
    gate = shop.gate()
    known = shop.poll({"gate": gate}).task_ids[0]
    begun = time.monotonic()
    stranger = shop.perpetual.wait(STRANGER, 30)
    assert time.monotonic() - begun < SOONER_THAN_A_LOOK
    assert (stranger.status, stranger.timed_out) == ("unknown", False)
    assert shop.perpetual.completion(STRANGER).status == "unknown"
    assert shop.perpetual.completion(known).status == "pending"

    both = shop.perpetual.as_completed([known, STRANGER], 30)
    assert next(both).task_id == STRANGER
    shop.open(gate)
    assert next(both).task_id == known
    assert list(both) == []


@pytest.mark.filterwarnings("ignore:Call to deprecated setex")  # Celery's own
def test_celerys_own_result_is_asked_at_the_start_and_at_the_time_out(shop):
    """An end that was never announced is known at once if Celery knew it before, and at the time-out if after."""
    shop.app.backend.store_result("ended-before", {"sum": 3}, "SUCCESS")
    begun = time.monotonic()
    ends = shop.perpetual.as_completed(["ended-before", "ended-meanwhile"], 2)
    before = next(ends)
    assert time.monotonic() - begun < 2
    shop.app.backend.store_result("ended-meanwhile", ValueError("boom"), "FAILURE")
    meanwhile = next(ends)
    assert time.monotonic() - begun >= 2

    assert (before.task_id, before.status, before.timed_out) == ("ended-before", "success", False)
    assert before.result == {"sum": 3}
    assert before.finished_at.tzinfo is not None
    assert (meanwhile.task_id, meanwhile.status, meanwhile.timed_out) == ("ended-meanwhile", "failure", False)
    assert meanwhile.error == {"type": "ValueError", "message": "boom"}
    assert list(ends) == []


def test_a_record_that_has_expired_is_made_good_by_celerys_result(shop):
    """Items whose completions are gone are answered from the result backend, at once and with the same status."""
    poll = shop.poll({"result": 5}, {"raises": "boom"}, {"exits": True}, {"expires": 0.001})
    before = shop.perpetual.wait_all(poll.task_ids, 30)
    assert shop.redis.delete(*(f"perpetual:completion:{task_id}" for task_id in poll.task_ids)) == 4

    after = shop.perpetual.wait_all(poll.task_ids, 30)

    assert [after[task_id].status for task_id in poll.task_ids] == ["success", "failure", "lost", "expired"]
    for task_id in poll.task_ids:
        told = before[task_id]
        assert (after[task_id].status, after[task_id].result) == (told.status, told.result)
        assert (after[task_id].error, after[task_id].poll_id) == (told.error, poll.poll_id)
    # Where that is gone too, nobody knows an item that has ended.
    shop.redis.delete(*(f"celery-task-meta-{task_id}" for task_id in poll.task_ids))
    assert {each.status for each in shop.perpetual.wait_all(poll.task_ids, 30).values()} == {"unknown"}


def test_wait_any_returns_what_has_ended_by_then(shop):
    """It returns with the first end; at the time-out with nothing."""
    gates = [shop.gate() for _ in range(3)]
    ids = list(shop.poll(*({"gate": gate, "result": n} for n, gate in enumerate(gates))).task_ids)
    assert shop.perpetual.wait_any(ids, 0.2) == {}

    wait = Call(shop.perpetual.wait_any, ids, 30)
    shop.open(gates[1])
    first = wait.result()
    assert {task_id: completion.result for task_id, completion in first.items()} == {ids[1]: 1}

    shop.open(gates[2])
    shop.perpetual.wait(ids[2], 30)
    assert set(shop.perpetual.wait_any(ids, 30)) == {ids[1], ids[2]}
    assert shop.perpetual.wait_any([], 30) == {}


def test_wait_all_answers_for_every_id(shop):
    """Those that have not ended come with `timed_out`; no ids need no time."""
    gate = shop.gate()
    quick, slow = shop.poll({"result": 1}, {"gate": gate}).task_ids
    shop.perpetual.wait(quick, 30)

    begun = time.monotonic()
    answers = shop.perpetual.wait_all([quick, slow], 0.5)

    assert time.monotonic() - begun >= 0.5
    assert {task_id: (each.status, each.timed_out) for task_id, each in answers.items()} == {
        quick: ("success", False),
        slow: ("pending", True),
    }
    begun = time.monotonic()
    assert shop.perpetual.wait_all([], 30) == {}
    assert time.monotonic() - begun < 0.5


def test_as_completed_yields_in_the_order_of_the_ends(shop):
    """Not in the order of the ids; an id that is given twice comes once; a generator that is left early is fine."""
    gates = [shop.gate() for _ in range(4)]
    ids = list(shop.poll(*({"gate": gate} for gate in gates)).task_ids)

    ends = shop.perpetual.as_completed([*ids, ids[0], *ids], 30)
    seen = []
    for n in (2, 0, 3, 1):
        shop.open(gates[n])
        seen.append(next(ends).task_id)

    assert seen == [ids[2], ids[0], ids[3], ids[1]]
    assert list(ends) == []
    assert next(shop.perpetual.as_completed(ids, 30)).ok
    wait_until(lambda: shop.subscribers(*ids) == 0, "the generator that was left is unsubscribed")


def test_wait_batch_tells_how_all_items_of_a_poll_have_ended(shop):
    """It wakes with the last end; before that, at the time-out, it has the counts so far."""
    gate = shop.gate()
    poll = shop.poll(*({"result": n} for n in range(5)), {"raises": "boom"}, {"exits": True}, {"gate": gate})
    shop.perpetual.wait_all(poll.task_ids[:-1], 30)

    begun = time.monotonic()
    so_far = shop.perpetual.wait_batch(poll.poll_id, 0.3)
    assert time.monotonic() - begun >= 0.3
    counts = {"success": 5, "failure": 1, "lost": 1}
    assert so_far.to_dict() == {
        "poll_id": poll.poll_id, "total": 8, "by_status": counts, "finished": False, "timed_out": True
    }  # fmt: skip

    waits = [Call(shop.perpetual.wait_batch, poll.poll_id, 30) for _ in range(3)]
    shop.open(gate)
    for wait in waits:
        result = wait.result()
        assert (result.by_status, result.finished, result.timed_out) == (counts | {"success": 6}, True, False)
    assert shop.perpetual.wait_batch(poll.poll_id, 0).finished


@pytest.mark.parametrize("poll_id", [STRANGER.replace("00000000", "ffffffff"), "nonsense"])
def test_wait_batch_of_no_known_poll_is_not_found(shop, poll_id):
    """It raises at once instead of waiting."""
    with pytest.raises(NotFound, match=poll_id):
        shop.perpetual.wait_batch(poll_id, 30)


@pytest.mark.parametrize("timeout", [None, "5", -1, float("inf"), float("nan"), True])
def test_an_impossible_timeout_is_refused(shop, timeout):
    """Every wait needs a time-out in seconds, and says so before it does anything."""
    perpetual = shop.perpetual
    for wait in (perpetual.wait, perpetual.wait_batch):
        with pytest.raises(ContractError, match="timeout"):
            wait("some", timeout)
    for wait in (perpetual.wait_any, perpetual.wait_all, perpetual.as_completed):
        with pytest.raises(ContractError, match="timeout"):
            wait(["some"], timeout)


@pytest.mark.parametrize("ids", ["one-id", None, 5, [None], [""], [b"bytes"], ["good", 7]])
def test_impossible_ids_are_refused(shop, ids):
    """Ids are a list of non-empty strings; one string is a mistake, not its letters."""
    perpetual = shop.perpetual
    for wait in (perpetual.wait_any, perpetual.wait_all, perpetual.as_completed):
        with pytest.raises(ContractError, match="id"):
            wait(ids, 1)
