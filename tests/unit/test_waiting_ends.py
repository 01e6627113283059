"""Memory by which a worker knows which ends wait in its processes."""

from __future__ import annotations

import os
import threading
from typing import TYPE_CHECKING

from celery_perpetual.completions import waiting_ends
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


def test_what_has_no_place_gets_one_later(monkeypatch: pytest.MonkeyPatch) -> None:
    """All places are taken, or another process has written over one."""
    monkeypatch.setattr(waiting_ends, "MOST", 2)
    shared = SharedEnds()
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
    OwnEnds(lambda: None).enter("of no worker")


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
