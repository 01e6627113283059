"""Memory by which a worker knows which ends wait in its processes."""

from __future__ import annotations

import os
import threading
from typing import TYPE_CHECKING

from celery.exceptions import SoftTimeLimitExceeded

from celery_perpetual.completions.backlog import Backlog, UnstoredResult, WaitingEnd
from celery_perpetual.completions.end import FIRST, EndReply
from celery_perpetual.completions.waiting_ends import OwnEnds, SharedEnds
from celery_perpetual.errors import StoreUnavailable
from tests.support import wait_until
from tests.unit.test_backlog import Closing

if TYPE_CHECKING:
    import pytest

OWN = {os.getpid()}


def test_a_task_waits_until_its_last_end_does_not() -> None:
    """Here the release of an execution and what it has named wait."""
    shared = SharedEnds()
    ends = OwnEnds(lambda: shared)
    ends.enter("one")
    ends.enter("one")
    ends.enter("\ud800")
    assert all(task_id in shared.read(OWN) for task_id in ("one", "\ud800"))
    ends.remove("one")
    assert "one" in shared.read(OWN)
    ends.remove("one")
    assert "one" not in shared.read(OWN)
    assert "\ud800" in shared.read(OWN)


def test_a_child_that_is_gone_has_no_ends() -> None:
    """Its parent reads what the child wrote; once it is gone, its places are free again."""
    shared = SharedEnds()
    child = os.fork()
    if not child:
        OwnEnds(lambda: shared).enter("of a child")
        os._exit(0)
    os.waitpid(child, 0)
    assert "of a child" in shared.read({child})
    assert "of a child" not in shared.read(OWN)
    assert "of a child" not in shared.read({child})


def test_what_has_no_place_gets_one_later() -> None:
    """All places are taken, or another process has written over one."""
    shared = SharedEnds(places=2)
    ends = OwnEnds(lambda: shared)
    for task_id in ("one", "two", "three"):
        ends.enter(task_id)
    assert "three" not in shared.read(OWN)
    ends.remove("one")
    ends.write_again()
    assert "three" in shared.read(OWN)
    shared.read({1})  # as if this process was gone
    ends.write_again()
    assert all(task_id in shared.read(OWN) for task_id in ("two", "three"))
    of_no_worker = OwnEnds(lambda: None)
    of_no_worker.enter("of no worker")
    of_no_worker.write_again()


def test_however_many_have_no_place_only_one_is_tried_again() -> None:
    """The end of every other task waits meanwhile."""
    tried = list[str]()

    class Seen(SharedEnds):
        def write(self, task_id: str) -> int | None:
            tried.append(task_id)
            return super().write(task_id)

    shared = Seen(places=2)
    ends = OwnEnds(lambda: shared)
    names = [f"task {n}" for n in range(50)]
    for name in names:
        ends.enter(name)
    tried.clear()
    ends.write_again()
    assert tried == [names[2]]
    ends.remove(names[0])
    ends.remove(names[1])
    ends.write_again()
    assert [name in shared.read(OWN) for name in names[1:5]] == [False, True, True, False]


def test_a_worker_knows_each_end_that_waits_until_it_is_announced(monkeypatch: pytest.MonkeyPatch) -> None:
    """While it is tried, and while its result is stored too; one that is given up for want of room does not wait."""
    shared, may_store, seen = SharedEnds(), threading.Event(), list[bool]()

    def announce(each: WaitingEnd) -> EndReply:
        seen.append(each.expected.task_id in shared.read(OWN))
        return EndReply(FIRST, 0, 0)

    backlog = Backlog(announce, lambda: shared)
    unstored = UnstoredResult(lambda: may_store.wait(30), lambda: None, bool)
    closing = [Closing(name) for name in ("alone", "with a result", "given up", "refused")]
    away, refused = StoreUnavailable("away"), ValueError("of the store's")
    backlog.add_failed(WaitingEnd(closing[0], "success", ""), away)  # type: ignore[arg-type]
    backlog.add(WaitingEnd(closing[1], "success", "", unstored=unstored))  # type: ignore[arg-type]
    backlog.add_failed(WaitingEnd(closing[3], "success", ""), refused)  # type: ignore[arg-type]
    assert all(name in shared.read(OWN) for name in ("alone", "with a result", "refused"))
    backlog.try_later()
    wait_until(lambda: "alone" not in shared.read(OWN), "the first one is announced")
    assert "with a result" in shared.read(OWN)
    may_store.set()
    wait_until(lambda: backlog.is_empty, "all are announced")
    wait_until(lambda: not any(end.task_id in shared.read(OWN) for end in closing), "no end waits")
    assert seen == [True, True, True]

    monkeypatch.setattr("celery_perpetual.completions.backlog.MOST_WAITING", 1)
    for end in (closing[2], closing[0]):
        backlog.add(WaitingEnd(end, "success", ""))  # type: ignore[arg-type]
    assert "given up" not in shared.read(OWN)
    assert "alone" in shared.read(OWN)


def test_no_task_waits_whose_end_was_given_up_when_two_came_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """There is room for one of them; the one that is given up for the other has its task count as lost."""
    monkeypatch.setattr("celery_perpetual.completions.backlog.MOST_WAITING", 2)
    shared, announced = SharedEnds(), list[str]()
    is_entering, is_coming, may_enter = threading.Event(), threading.Event(), threading.Event()

    class Coming(Closing):
        @property
        def task_id(self) -> str:
            is_coming.set()
            return "second"

        @task_id.setter
        def task_id(self, _: str) -> None: ...

    def slow() -> SharedEnds:
        is_entering.set()
        assert may_enter.wait(30)
        return shared

    def announce(each: WaitingEnd) -> EndReply:
        announced.append(each.expected.task_id)
        return EndReply(FIRST, 0, 0)

    def keep(closing: Closing) -> threading.Thread:
        thread = threading.Thread(target=backlog.add, args=(WaitingEnd(closing, "success", ""),))  # type: ignore[arg-type]
        thread.start()
        return thread

    backlog = Backlog(announce, slow)
    may_enter.set()
    keep(Closing("oldest")).join()
    may_enter.clear()
    is_entering.clear()
    first = keep(Closing("first"))
    assert is_entering.wait(30)
    second = keep(Coming("second"))
    assert is_coming.wait(30)
    may_enter.set()
    for thread in (first, second):
        thread.join()

    waiting = {name for name in ("oldest", "first", "second") if name in shared.read(OWN)}
    assert backlog.announce_oldest_first()
    assert len(announced) == 2
    assert waiting == set(announced)
    assert not any(name in shared.read(OWN) for name in ("oldest", "first", "second"))


def test_an_end_is_kept_also_where_a_time_limit_interrupts_that() -> None:
    """The pool raises it wherever the task is."""
    announced, is_over = list[str](), list[bool]()

    def interrupted() -> None:
        if not is_over:
            is_over.append(True)
            raise SoftTimeLimitExceeded

    def announce(each: WaitingEnd) -> EndReply:
        announced.append(each.expected.task_id)
        return EndReply(FIRST, 0, 0)

    backlog = Backlog(announce, interrupted)
    backlog.add(WaitingEnd(Closing("one"), "success", ""))  # type: ignore[arg-type]
    assert backlog.announce_oldest_first()
    assert announced == ["one"]
