"""Waiting for ends: always answered, in time, and with one subscription however many wait.

The tasks run in a real worker and end when the test opens their gate; foreign programs are plain Redis clients.
"""

from __future__ import annotations

import json
import threading
import time
from collections import Counter
from contextlib import contextmanager
from datetime import datetime, timedelta, timezone
from typing import TYPE_CHECKING

import psutil
import pytest
import redis
from celery import Celery

from celery_perpetual import NotFound, Perpetual, StoreUnavailable, TaskLost
from celery_perpetual.errors import ContractError, NotSuccessful
from tests.support import wait_until
from tests.support.gated import STRANGER, Call
from tests.support.proxy import Proxy

if TYPE_CHECKING:
    from collections.abc import Iterator


#: A missed message is made good by the look at the records every 5 s; whoever is woken sooner was told.
SOONER_THAN_A_LOOK = 3.0


@contextmanager
def waiter_at(url: str) -> Iterator[Perpetual]:
    """An app of this process at an address of its own."""
    app = Celery("proj", broker=url, set_as_current=False)
    perpetual = Perpetual(app)
    yield perpetual
    perpetual.store.close()
    app.close()


def connections(port: int) -> int:
    """How many connections to a server this process has."""
    return sum(bool(each.raddr) and each.raddr.port == port for each in psutil.Process().net_connections("tcp"))


def test_waiters_before_during_and_after_the_end_get_the_same_answer(shop):
    """Who waits before the task is started, while it runs, as it ends and long after it is told the same at once."""
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
    assert {"timed_out": False, **_record(shop.redis.get(f"perpetual:completion:{task_id}"))} == first.to_dict()


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


def test_a_foreign_blpop_does_not_starve_our_waits(shop):
    """One program may take the queue's element; who waits in Python gets the answer all the same."""
    gate = shop.gate()
    task_id = shop.poll({"gate": gate, "result": 1}).task_ids[0]
    with redis.Redis.from_url(shop.server.url, socket_timeout=None) as foreign:
        taken = Call(foreign.blpop, f"perpetual:done:{task_id}:queue", 30)
        waits = [Call(shop.perpetual.wait, task_id, 30) for _ in range(5)]
        wait_until(lambda: shop.redis.info("clients")["blocked_clients"] >= 2, "the foreign client blocks")
        shop.open(gate)

        _, text = taken.result()

    assert all(wait.result().ok for wait in waits)
    assert shop.perpetual.wait(task_id, 30).to_dict() == {"timed_out": False, **_record(text)}


def test_blmove_wakes_any_number_and_late_ones_too(shop):
    """`BLMOVE key key RIGHT LEFT` leaves the element for the next."""
    gate = shop.gate()
    task_id = shop.poll({"gate": gate}).task_ids[0]
    queue = f"perpetual:done:{task_id}:queue"
    with redis.Redis.from_url(shop.server.url, socket_timeout=None, decode_responses=True) as foreign:
        waits = [Call(foreign.blmove, queue, queue, 30, "RIGHT", "LEFT") for _ in range(20)]
        wait_until(lambda: shop.redis.info("clients")["blocked_clients"] >= 20, "all block")
        shop.open(gate)

        texts = {wait.result() for wait in waits}
        late = foreign.blmove(queue, queue, 30, "RIGHT", "LEFT")

    assert texts == {late}
    assert json.loads(late)["task_id"] == task_id
    assert 0 < shop.redis.pttl(queue) <= 300_000


def _record(text: bytes) -> dict[str, object]:
    record = json.loads(text)
    assert record.pop("v") == 1
    return record


def test_an_end_while_the_connection_was_cut_is_told_when_it_is_back(shop):
    """The waiter's network is cut, the task ends, Redis is as it was: the next connection brings the answer."""
    gates = [shop.gate(), shop.gate()]
    poll = shop.poll(*({"gate": gate, "result": 4} for gate in gates))
    with Proxy(shop.server.port) as proxy, waiter_at(f"redis://127.0.0.1:{proxy.port}/0") as perpetual:
        waits = [Call(perpetual.wait, poll.task_ids[0], 60) for _ in range(3)]
        batch = Call(perpetual.wait_batch, poll.poll_id, 60)
        wait_until(lambda: shop.subscribers(poll.task_ids[0], poll.poll_id), "they wait")
        proxy.cut()
        for gate in gates:
            shop.open(gate)
        wait_until(lambda: shop.redis.exists(f"perpetual:completion:{poll.task_ids[0]}"), "the task has ended")
        shop.perpetual.wait_batch(poll.poll_id, 30)
        assert all(each.is_alive() for each in (*waits, batch))
        proxy.mend()
        begun = time.monotonic()

        assert [wait.result().result for wait in waits] == [4, 4, 4]
        assert batch.result().finished
        assert time.monotonic() - begun < SOONER_THAN_A_LOOK


def test_a_wait_outlives_a_killed_and_restarted_redis(shop, private_redis, project, tmp_path):
    """SIGKILL and a start with the data in mid-wait: an end of before the reconnection and one of after it are told."""
    server = private_redis(appendonly=True)
    source = "@app.task\ndef work(n):\n    return n\n"
    other = project(source, store=server.url, settings={"perpetual_completions": "all"})
    with Proxy(server.port) as proxy, waiter_at(f"redis://127.0.0.1:{proxy.port}/0") as perpetual:
        with waiter_at(server.url) as sender:
            ids = [sender.app.send_task("proj.work", args=[n]).id for n in range(2)]
        waits = [Call(perpetual.wait, task_id, 60) for task_id in ids]
        stays = Call(perpetual.wait, "never", 60)
        with redis.Redis.from_url(server.url) as client:
            wait_until(lambda: len(client.pubsub_channels("perpetual:done:*")) == 3, "they wait")
        proxy.cut()
        psutil.Process(server.pid).kill()
        server.restart()
        worker = other.worker(pool="solo", concurrency=1)
        with redis.Redis.from_url(server.url) as client:
            wait_until(lambda: client.exists(*(f"perpetual:completion:{i}" for i in ids)) == 2, "both have ended")
            begun = time.monotonic()
            proxy.mend()
            assert [wait.result().result for wait in waits] == [0, 1]
            assert time.monotonic() - begun < SOONER_THAN_A_LOOK
            wait_until(lambda: client.pubsub_channels("perpetual:done:never"), "the third is subscribed again")
            with waiter_at(server.url) as sender:
                sender.app.send_task("proj.work", args=[9], task_id="never")
            assert stays.result(20).result == 9
        worker.kill9()


def test_a_killed_subscription_is_made_anew(shop):
    """`CLIENT KILL` of the subscribed connection loses nothing, neither before it is back nor after."""
    gates = [shop.gate() for _ in range(6)]
    ids = list(shop.poll(*({"gate": gate} for gate in gates)).task_ids)
    wait = Call(lambda: [each.task_id for each in shop.perpetual.as_completed(ids, 60)])
    for n, gate in enumerate(gates):
        wait_until(lambda n=n: shop.subscribers(ids[n]), "it is subscribed")
        shop.redis.client_kill_filter(_type="pubsub")
        shop.open(gate)

    begun = time.monotonic()
    assert set(wait.result()) == set(ids)
    assert time.monotonic() - begun < SOONER_THAN_A_LOOK


def test_a_wait_at_a_store_that_is_down_is_patient_for_its_time(private_redis):
    """It waits for a server that comes back within the time-out, and otherwise says that the store is unreachable."""
    server = private_redis()
    server.stop()
    with waiter_at(server.url) as perpetual:
        begun = time.monotonic()
        with pytest.raises(StoreUnavailable):
            perpetual.wait("some", 0.3)
        assert time.monotonic() - begun < 3

        wait = Call(perpetual.wait, STRANGER, 60)
        wait_until(lambda: any(each.name == "perpetual-hub" for each in threading.enumerate()), "it tries")
        server.start()
        assert wait.result().status == "unknown"


def test_the_thread_and_its_connection_end_when_nobody_waits(shop):
    """There is one thread however many wait, and afterwards none; the next wait starts one again."""

    def threads() -> int:
        return sum(each.name == "perpetual-hub" for each in threading.enumerate())

    for _ in range(2):
        gate = shop.gate()
        task_id = shop.send(gate=gate)
        waits = [Call(shop.perpetual.wait, task_id, 30) for _ in range(10)]
        wait_until(lambda: threads() == 1, "they wait")
        shop.open(gate)
        assert {wait.result().status for wait in waits} == {"success"}
        wait_until(lambda: threads() == 0, "the thread ends", timeout=5)
        assert shop.subscribers(task_id) == 0


def test_waits_do_not_delay_each_other(shop):
    """One that begins while another waits, and after a third has gone, is heard at once."""
    long = Call(shop.perpetual.wait, "long", 4)
    wait_until(lambda: shop.subscribers("long"), "it waits")
    shop.perpetual.wait("short", 0.05)

    begun = time.monotonic()
    shop.perpetual.wait("long", 0.05)

    assert time.monotonic() - begun < 1
    shop.end("long")
    assert long.result().ok


def test_a_foreign_message_on_a_channel_is_passed_over(shop):
    """Whatever anybody publishes there, the record decides."""
    gate = shop.gate()
    task_id = shop.send(gate=gate)
    wait = Call(shop.perpetual.wait, task_id, 30)
    wait_until(lambda: shop.redis.publish(f"perpetual:done:{task_id}", "nonsense"), "somebody hears it")
    for text in ("{}", "[]", "null", '{"poll_id": "x"}', '{"task_id": "other", "status": "success"}'):
        shop.redis.publish(f"perpetual:done:{task_id}", text)
    shop.open(gate)

    assert wait.result().ok


def test_a_forked_child_waits_by_itself(shop):
    """A process that waits in one thread forks in another: parent and child each get their own answers."""
    gates = [shop.gate(), shop.gate(), shop.gate()]
    ids = [shop.send(gate=gate, result=n) for n, gate in enumerate(gates)]
    parent = shop.project.process(
        "forking",
        [
            "-c",
            f"""
import gc, os, sys, threading, warnings
warnings.simplefilter("ignore")
from proj import perpetual
ids = {ids!r}
mine = perpetual.as_completed(ids[:1], 60)
thread = threading.Thread(target=lambda: print("thread", next(mine).result, flush=True))
thread.start()
other = perpetual.as_completed([*ids[1:2], "ended"], 60)
print(next(other).task_id, flush=True)
pid = os.fork()
if pid == 0:
    del other
    gc.collect()
    print("child waits", flush=True)
    print("child", perpetual.wait(ids[2], 60).result, perpetual.wait(ids[0], 60).result, flush=True)
    os._exit(0)
thread.join()
print("parent", next(other).result, flush=True)
print("exit", os.waitpid(pid, 0)[1], flush=True)
""",
        ],
    )
    wait_until(lambda: shop.redis.publish("perpetual:done:ended", "{}"), "it waits")
    shop.end("ended")
    parent.wait_for_log("child waits")
    wait_until(lambda: shop.subscribers(ids[2]), "the child is subscribed")
    for gate in reversed(gates):
        shop.open(gate)

    parent.wait_for_log("exit")
    assert parent.wait() == 0
    assert set(parent.log().splitlines()) == {"ended", "child waits", "child 2 0", "thread 0", "parent 1", "exit 0"}


def test_annotations_come_as_meta(shop):
    """Those of all calls together; too much, or what is no JSON, is refused inside the task."""
    ids = shop.poll({"score": 0.93, "exit_code": 0}, {"facts": "x" * 8000}, {"facts": "x" * 8200}).task_ids
    answers = shop.perpetual.wait_all(ids, 30)
    fine, near, beyond = (answers[task_id] for task_id in ids)

    assert fine.meta == {"score": 0.93, "exit_code": 0}
    assert near.meta == {"facts": "x" * 8000}
    assert (beyond.status, beyond.error["type"], beyond.meta) == ("failure", "ContractError", {})
    assert "at most 8192" in beyond.error["message"]
    with pytest.raises(ContractError, match="inside a task"):
        shop.perpetual.annotate(score=1)


def test_results_of_up_to_eight_kib_come_along(shop):
    """Counted as JSON; a longer one is left to Celery, and the record says null."""
    results = ["x" * 8190, "x" * 8191, ["ä", None, 1.5], 0]
    ids = shop.poll(*({"result": result} for result in results)).task_ids
    answers = shop.perpetual.wait_all(ids, 30)

    assert [answers[task_id].result for task_id in ids] == ["x" * 8190, None, ["ä", None, 1.5], 0]
    assert shop.app.AsyncResult(ids[1]).result == "x" * 8191
    assert json.loads(shop.redis.get(f"perpetual:completion:{ids[1]}"))["result"] is None


def test_raise_for_status_raises_on_everything_but_success(shop):
    """`TaskLost` for lost, `NotSuccessful` for other ends and for none; the completion hangs on it."""
    gate = shop.gate()
    ids = shop.poll({}, {"raises": "boom"}, {"exits": True}, {"gate": gate}).task_ids
    good, bad, lost = (shop.perpetual.wait(task_id, 30) for task_id in ids[:3])
    late = shop.perpetual.wait(ids[3], 0.1)
    unknown = shop.perpetual.wait(STRANGER, 0.1)

    good.raise_for_status()
    with pytest.raises(TaskLost, match="ended as lost"):
        lost.raise_for_status()
    for completion, text in ((bad, "ended as failure: ValueError: boom"), (late, "in time"), (unknown, "not known")):
        with pytest.raises(NotSuccessful, match=text) as caught:
            completion.raise_for_status()
        assert not isinstance(caught.value, TaskLost)
        assert caught.value.completion is completion


def test_every_item_of_a_large_batch_wakes_its_waiter(shop):
    """A real worker ends three hundred items while `as_completed` iterates: each comes once, none is missed."""
    poll = shop.poll(*({"result": n} for n in range(300)))

    results = Counter(each.result for each in shop.perpetual.as_completed(poll.task_ids, 60))

    assert results == Counter(range(300))
