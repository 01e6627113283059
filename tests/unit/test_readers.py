"""Reads of waits: a few threads at most, in order, and none that was given up before its turn."""

from __future__ import annotations

import threading
from concurrent.futures import wait

import pytest

from celery_perpetual.waiting.readers import Readers
from tests.support import wait_until


def test_no_more_threads_than_were_asked_for() -> None:
    """However many reads there are; all are made."""
    readers, gate, names = Readers(3, "reading"), threading.Event(), set()

    def read() -> int:
        names.add(threading.current_thread().ident)
        assert gate.wait(30)
        return 1

    reads = [readers.submit(read) for _ in range(20)]
    wait_until(lambda: len(names) == 3, "three read")
    gate.set()

    assert sum(each.result(30) for each in reads) == 20
    assert len(names) == 3
    wait_until(lambda: not [each for each in threading.enumerate() if each.name == "reading"], "the threads end")
    assert readers.submit(lambda: 2).result(30) == 2


def test_a_read_that_was_given_up_is_not_made() -> None:
    """It is cancelled while another one is in its way."""
    readers, gate, made = Readers(1, "reading"), threading.Event(), []
    first = readers.submit(lambda: gate.wait(30))
    second = readers.submit(lambda: made.append("second"))
    third = readers.submit(lambda: made.append("third"))
    assert second.cancel()
    gate.set()

    wait([first, third], 30)
    assert made == ["third"]


def test_an_error_is_that_of_its_own_read() -> None:
    """Others go on."""
    readers = Readers(1, "reading")
    fails, works = readers.submit(lambda: 1 // 0), readers.submit(lambda: 1)

    with pytest.raises(ZeroDivisionError):
        fails.result(30)
    assert works.result(30) == 1


def test_the_caller_reads_where_no_thread_can_start(monkeypatch: pytest.MonkeyPatch) -> None:
    """So it is from Python 3.12 on while the interpreter ends."""

    def start(_: threading.Thread) -> None:
        raise RuntimeError("can't create new thread at interpreter shutdown")

    monkeypatch.setattr(threading.Thread, "start", start)
    assert Readers(2, "reading").submit(threading.get_ident).result(0) == threading.get_ident()
