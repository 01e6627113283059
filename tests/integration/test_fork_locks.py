"""Pool processes that begin while a thread of their worker holds a lock."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.support import Project

PROGRAM = """
import functools, gc, os, signal, threading
from celery import signals
from kombu.utils.objects import cached_property
from celery_perpetual.worker import fork_locks

entered = threading.Event()

class Channel:
    def __init__(self, waits):
        self.waits = waits

    @cached_property
    def client(self):
        if self.waits:
            entered.set()
            threading.Event().wait()
        return "connected"

gc.freeze()
fork_locks.watch()
signals.before_task_publish.lock.acquire()
threading.Thread(target=lambda: Channel(True).client, daemon=True).start()
entered.wait()
child = os.fork()
if not child:
    signal.alarm(5)
    signals.before_task_publish.connect(lambda **_: None, weak=False)
    os._exit(0 if Channel(False).client == "connected" else 1)
print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
os._exit(0)
"""


def test_a_new_process_waits_for_no_thread_of_its_parent(project: Callable[..., Project]) -> None:
    """A thread hangs in a cached property, as it does where it connects; a process that is forked then uses the same one.

    Another thread sends a signal, and the program has frozen its garbage collector, as many do before they fork.
    """
    assert project("").run_python(PROGRAM).split() == ["0"]
