"""Waiting while something is in the way: foreign clients, cut connections, a store that dies, forks."""

from __future__ import annotations

import json
import threading
import time

import psutil
import pytest
import redis

from celery_perpetual import StoreUnavailable
from celery_perpetual.waiting import hub
from celery_perpetual.waiting import waits as waiting
from tests.support import wait_until
from tests.support.held_tasks import SOONER_THAN_A_LOOK, STRANGER, Call, record_of, waiter_at
from tests.support.proxy import Proxy


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
    assert shop.perpetual.wait(task_id, 30).to_dict() == {"timed_out": False, **record_of(text)}


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
    """The record decides, and no message that another program publishes there."""
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
def say(*words):  # in one write: others write at the same time
    os.write(1, (" ".join(map(str, words)) + "\\n").encode())
mine = perpetual.as_completed(ids[:1], 60)
thread = threading.Thread(target=lambda: say("thread", next(mine).result))
thread.start()
other = perpetual.as_completed([*ids[1:2], "ended"], 60)
say(next(other).task_id)
pid = os.fork()
if pid == 0:
    del other
    gc.collect()
    say("child waits")
    say("child", perpetual.wait(ids[2], 60).result, perpetual.wait(ids[0], 60).result)
    os._exit(0)
thread.join()
say("parent", next(other).result)
say("exit", os.waitpid(pid, 0)[1])
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


def test_a_child_that_goes_on_with_its_parents_wait_takes_nothing_from_it(shop):
    """After a fork in mid-wait the connection is the parent's, whoever asks for the next end."""
    out = shop.project.run_python(
        """
        import os, time, warnings
        warnings.simplefilter("ignore")
        from proj import app, perpetual
        from celery_perpetual.completions.end import TaskEnd
        ids = [f"shared-{n}" for n in range(20)]
        mine = perpetual.as_completed(["first", *ids], 60)
        def end(task_id):
            perpetual.announcer.announce_now(TaskEnd(task_id=task_id, task="t", status="success"))
        end("first")
        assert next(mine).task_id == "first"
        pid = os.fork()
        if pid == 0:
            for _ in mine:
                pass
            os._exit(0)
        late = []
        for task_id in ids:
            end(task_id)
            since = time.monotonic()
            assert next(mine).ok
            late.append(time.monotonic() - since)
        os.kill(pid, 9)
        os.waitpid(pid, 0)
        print(max(late))
        """
    )

    assert float(out) < SOONER_THAN_A_LOOK


def test_a_reader_that_was_interrupted_is_replaced(shop, monkeypatch):
    """A signal's handler may raise where a waiter cannot say any more that it stops reading."""
    monkeypatch.setattr(waiting, "READ_AGAIN_SECONDS", 60.0)  # nobody makes good for a lost message
    monkeypatch.setattr(hub, "CONFIRM_SECONDS", 0.2)
    gate = shop.gate()
    task_id = shop.send(gate=gate)
    assert shop.perpetual.wait("nobody", 0.2).timed_out
    gone = object()
    turn = shop.perpetual._hub._turn
    wait_until(lambda: turn.take(gone), "no thread reads")

    wait = Call(shop.perpetual.wait, task_id, 30)
    wait_until(lambda: not turn.is_of(gone), "the hub's thread takes the turn over")
    wait_until(lambda: shop.subscribers(task_id), "it is subscribed")
    shop.open(gate)

    assert wait.result().ok
