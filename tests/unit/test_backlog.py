"""Ends that wait in a process."""

from __future__ import annotations

import threading
from collections.abc import Callable
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

from celery import Celery
from celery.exceptions import SoftTimeLimitExceeded

from celery_perpetual.completions.announce import Announcer
from celery_perpetual.completions.backlog import Backlog, UnstoredResult, WaitingEnd
from celery_perpetual.completions.end import FIRST, LATE, EndReply
from celery_perpetual.completions.result_in_script import ResultToStore
from celery_perpetual.errors import StoreUnavailable
from celery_perpetual.events import FOLLOW_UPS_FAILED
from celery_perpetual.worker.follow_ups import NamedItems
from tests.support import wait_until
from tests.support.event_log import logged
from tests.support.scripts import store_at

if TYPE_CHECKING:
    import pytest


class Closing:
    """An end of a task that ran under a lease."""

    leased = True

    def __init__(self, task_id: str) -> None:
        self.task_id = task_id


def end(task_id: str, store: Callable[[], object] | None = None, passes: Callable[[Any], bool] = bool) -> WaitingEnd:
    unstored = None if store is None else UnstoredResult(store, lambda: None, passes)
    closing: Any = Closing(task_id)
    return WaitingEnd(closing, "success", "", unstored=unstored)


def test_a_backend_that_hangs_holds_up_no_end_of_another_task() -> None:
    """Ends that wait for the store alone are announced beside it; the process knows that the store answers."""
    announced, is_away, may_go = list[str](), threading.Event(), threading.Event()

    def announce(each: WaitingEnd) -> EndReply:
        if is_away.is_set():
            raise StoreUnavailable("away")
        announced.append(each.expected.task_id)
        return EndReply(FIRST, 0, 0)

    backlog = Backlog(announce)
    begun = threading.Event()
    backlog.add(end("slow", lambda: (begun.set(), may_go.wait(60))))
    backlog.try_later()
    assert begun.wait(30)
    is_away.set()
    backlog.add(end("fast"))
    assert not backlog.announce_oldest_first()
    assert backlog.is_away
    is_away.clear()

    backlog.try_later()
    wait_until(lambda: announced == ["fast"] and not backlog.is_away, "the other end is announced")
    assert not backlog.is_empty
    may_go.set()
    wait_until(lambda: announced == ["fast", "slow"] and backlog.is_empty, "both are announced")


def test_whatever_a_backend_raises_no_end_is_dropped() -> None:
    """Also where it cannot say whether its error passes, or wants the process to end."""
    announced = list[str]()

    def announce(each: WaitingEnd) -> EndReply:
        announced.append(each.expected.task_id)
        return EndReply(FIRST, 0, 0)

    def fail(error: BaseException) -> Callable[[], object]:
        def store() -> None:
            raise error

        return store

    def never(error: BaseException) -> bool:
        raise TypeError("no such rule")

    backlog = Backlog(announce)
    backlog.add(end("odd", fail(ValueError("no")), never))
    backlog.add(end("exit", fail(SystemExit(1)), lambda _: False))
    backlog.add(end("good", lambda: None))
    backlog.try_later()

    wait_until(lambda: backlog.is_empty, "nothing waits")
    assert announced == ["odd", "exit", "good"]
    wait_until(lambda: not any(each.name == "perpetual-ends" for each in threading.enumerate()), "its thread has ended")


def test_the_result_of_an_execution_that_has_lost_its_lease_is_not_stored() -> None:
    """Its end was delayed, and another one counts; where the script has only left the result out, Celery stores it."""
    stored = list[str]()
    verdicts = {"overtaken": LATE, "mine": FIRST}
    backlog = Backlog(lambda each: EndReply(verdicts[each.expected.task_id], 0, 0))
    for task_id in verdicts:
        waiting = end(task_id, lambda name=task_id: stored.append(name))  # type: ignore[misc]
        waiting.result = ResultToStore("key", "value", 0)
        backlog.add(waiting)

    backlog.try_later()

    wait_until(lambda: backlog.is_empty, "nothing waits")
    assert stored == ["mine"]


def test_an_end_that_had_little_time_does_not_say_that_the_store_is_away() -> None:
    """Other tasks ask for their leases all the same; the end is announced soon after."""
    announced = list[str]()

    def announce(each: WaitingEnd) -> EndReply:
        announced.append(each.expected.task_id)
        return EndReply(FIRST, 0, 0)

    backlog = Backlog(announce)
    backlog.add_failed(end("hurried"), StoreUnavailable("slow"), is_hurried=True)
    assert (backlog.is_away, backlog.comes_first) == (False, True)
    backlog.add_failed(end("patient"), StoreUnavailable("away"))
    assert backlog.is_away
    backlog.add_failed(end("hurried too"), StoreUnavailable("away"), is_hurried=True)
    assert backlog.is_away

    backlog.try_later()
    wait_until(lambda: backlog.is_empty, "nothing waits")
    assert sorted(announced) == ["hurried", "hurried too", "patient"]


def test_items_without_a_unit_are_not_tried_for_ever(caplog: pytest.LogCaptureFixture) -> None:
    """They waited for the store, and then turn out to be of no tenant."""
    contract: Any = SimpleNamespace(name="app.work", has_tenants=True)
    execution: Any = SimpleNamespace(task_id="by hand", tenant=None)
    store: Any = None
    backlog = Backlog(lambda each: each.expected.announce(each.status, each.head))
    backlog.add(WaitingEnd(NamedItems(contract=contract, execution=execution, records=[b"1"], store=store), "", ""))

    assert backlog.announce_oldest_first()

    assert backlog.is_empty
    assert len(logged(caplog, FOLLOW_UPS_FAILED)) == 1


def test_a_call_that_the_soft_limit_interrupts_is_kept() -> None:
    """The pool raises it wherever the task is: whether the store has the call by then is not known."""
    calls = list[str]()

    class Interrupted(Closing):
        def announce(self, status: str, head: str, stored: Any, over: Any) -> EndReply:
            calls.append(self.task_id)
            if len(calls) == 1:
                raise SoftTimeLimitExceeded
            return EndReply(FIRST, 0, 0)

    announcer, closing = Announcer(Celery("proj"), store_at("redis://127.0.0.1:1")), Interrupted("names items")
    announcer.call_or_keep(closing)

    wait_until(lambda: len(calls) == 2, "the call is made once more")
    assert not announcer.down
