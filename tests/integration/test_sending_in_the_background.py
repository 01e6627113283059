"""A broker that takes nothing holds up neither the leader's cycle nor a worker's proof of life."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import pytest

from celery_perpetual.publishing import courier as sending
from celery_perpetual.publishing.courier import Courier
from celery_perpetual.recovery import resend
from celery_perpetual.recovery.resend import Resender
from celery_perpetual.store import work_list
from celery_perpetual.store.work_list import WorkList
from tests.support import wait_until

if TYPE_CHECKING:
    from tests.support.watched_app import WatchedApp


@pytest.fixture
def silent_broker() -> Iterator[str]:
    """A server that accepts connections and says nothing, until the test is over."""
    with socket.create_server(("127.0.0.1", 0), backlog=50) as server:
        yield f"amqp://guest:guest@127.0.0.1:{server.getsockname()[1]}//"


def no_sender() -> bool:
    return not any(thread.name.startswith("perpetual-re") for thread in threading.enumerate())


def test_the_cycle_goes_on_beside_a_broker_that_hangs(
    watched_app: Callable[..., WatchedApp], redis_url: str, silent_broker: str
) -> None:
    """Every step of a pass is made, while the relay still waits for its connection."""
    one = watched_app(
        broker_url="amqp://guest:guest@127.0.0.1:1//", perpetual_store_url=redis_url, broker_connection_timeout=3
    )
    outcome = one.perpetual.poll(one.task([(1,)]))
    assert one.redis.zrange("perpetual:outbox", 0, -1) == [outcome.poll_id]
    one.app.conf.broker_url = one.app.conf.broker_write_url = silent_broker
    began = time.monotonic()

    passes = [one.perpetual.cycle() for _ in range(3)]

    assert time.monotonic() - began < 12
    assert [(each.ok, each.relayed) for each in passes] == [(True, 0)] * 3
    assert one.redis.zrange("perpetual:outbox", 0, -1) == [outcome.poll_id]
    wait_until(no_sender, "the relay has given up", 90)


def test_what_is_new_while_something_is_sent_is_sent_too() -> None:
    """A call that comes while another one runs is not lost, and does not run beside it."""
    may_go, begun = threading.Event(), threading.Semaphore(0)
    calls: list[int] = []

    def send() -> int:
        calls.append(threading.active_count())
        begun.release()
        may_go.wait(30)
        return 1

    courier = Courier("test")
    assert courier.run(send, seconds=0) == 0
    assert begun.acquire(timeout=30)
    assert [courier.run(send, seconds=0) for _ in range(5)] == [0] * 5
    may_go.set()

    assert begun.acquire(timeout=30)
    wait_until(lambda: not any(each.name == "perpetual-test" for each in threading.enumerate()), "it has ended")
    assert len(calls) == 2


def test_what_is_raised_in_time_is_raised_here() -> None:
    """The caller hears of it as if it had sent by itself."""

    def fail() -> Any:
        raise ValueError("no")

    with pytest.raises(ValueError, match="no"):
        Courier("test").run(fail, seconds=30)
    assert Courier("test").run(lambda: 7, seconds=30) == 7


def test_an_entry_that_hangs_holds_up_no_other(
    watched_app: Callable[..., WatchedApp], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Code of the user's never returns for one entry of a list: the others are worked off beside it, one time each."""
    monkeypatch.setattr(sending, "HANGS", 0.2)
    monkeypatch.setattr(work_list, "LONGEST_CALL", 0.2)
    store, may_go, done = watched_app().perpetual.store, threading.Event(), list[str]()
    waiting = WorkList(store, store.keys.batches, lambda *_: None)

    def add(*entries: str) -> None:
        store.redis.zadd(store.keys.batches, dict.fromkeys(entries, 1))

    def work(entry: str) -> int:
        if entry == "hangs":
            may_go.wait(60)
        done.append(entry)
        store.redis.zrem(store.keys.batches, entry)
        return 1

    courier = Courier("test", of_list=True)
    add("another", "hangs", "others")

    def work_off() -> list[str]:
        courier.run(lambda: waiting.work_off(work, 10), seconds=0.02)
        return done

    wait_until(lambda: len(work_off()) == 2, "the others are done")
    add("later")
    wait_until(lambda: len(work_off()) == 3, "a later one is done")
    assert done == ["another", "others", "later"]
    may_go.set()
    wait_until(lambda: len(work_off()) == 4, "the one that hung is done")
    wait_until(lambda: not any(each.name == "perpetual-test" for each in threading.enumerate()), "all have ended")
    assert done == ["another", "others", "later", "hangs"]


def test_a_lost_task_that_hangs_holds_up_no_other(
    watched_app: Callable[..., WatchedApp], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The result backend never returns for one task that cannot be resent: the others are dealt with beside it."""
    monkeypatch.setattr(sending, "HANGS", 0.2)
    monkeypatch.setattr(resend, "LONGEST_CALL", 0.2)
    one, may_go, done = watched_app(), threading.Event(), list[str]()
    store = one.perpetual.store

    def mark_as_failure(_: Any, task_id: str, *args: Any, **options: Any) -> None:
        if task_id == "hangs":
            may_go.wait(60)
        done.append(task_id)

    monkeypatch.setattr(type(one.app.backend), "mark_as_failure", mark_as_failure)
    resender, courier = Resender(one.app, store, broker_is_redis=True), Courier("test", of_list=True)
    store.redis.zadd(store.keys.resend, {"another": 1, "hangs": 2, "others": 3})

    def work_off() -> list[str]:
        courier.run(resender.send_all, seconds=0.02)
        return done

    wait_until(lambda: sorted(work_off()) == ["another", "others"], "the others are done")
    may_go.set()
    wait_until(lambda: not store.redis.exists(store.keys.resend), "the list is empty")
    wait_until(lambda: not any(each.name == "perpetual-test" for each in threading.enumerate()), "all have ended")
    assert sorted(done) == ["another", "hangs", "others"]


def test_a_failure_is_forgotten_when_another_process_has_done_the_entry(watched_app: Callable[..., WatchedApp]) -> None:
    """It does not stay among what is put off."""
    store = watched_app().perpetual.store
    waiting = WorkList(store, store.keys.batches, lambda *_: None)
    store.redis.zadd(store.keys.batches, {"fails": 1, "fails here": 2})

    def work(entry: str) -> int:
        raise ValueError("no")

    assert waiting.work_off(work, 10) == 0
    assert set(waiting.put_off) == {"fails", "fails here"}
    store.redis.zrem(store.keys.batches, "fails here")
    waiting.work_off(work, 10)
    assert set(waiting.put_off) == {"fails"}
