"""Pool processes that wait for their last result to be read: none stops its worker's main process if it is killed."""

from __future__ import annotations

import os
import signal
import time
from typing import TYPE_CHECKING

import psutil

from tests.support import wait_until

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.support import Project

PROGRAM = """
import os, signal, time
from billiard import get_context
from billiard.pool import Worker
from billiard.queues import _SimpleQueue
from celery_perpetual.worker import pool_endings

pool_endings.LONGEST_WAIT = 3.0
counter, pipe = get_context().Value("i"), _SimpleQueue()
ending = Worker(_SimpleQueue(), pipe, on_ready_counter=counter)

killed = os.fork()
if not killed:
    counter.get_lock().acquire()
    os.kill(os.getpid(), signal.SIGKILL)
os.waitpid(killed, 0)

def seconds(*, completed, counted=0, sent=b""):
    counter.get_obj().value = counted
    begun, child = time.monotonic(), os.fork()
    if not child:
        signal.alarm(20)
        if sent:
            pipe.put(sent)
        os._exit(0 if ending._ensure_messages_consumed(completed=completed) else 1)
    assert os.waitpid(child, 0)[1] == 0
    if sent:
        pipe.get()
    return time.monotonic() - begun

print(
    seconds(completed=3),
    seconds(completed=3, counted=3, sent=b"a result"),
    seconds(completed=3, counted=2, sent=b"a result"),
)
"""


def test_a_pool_process_that_ends_waits_for_no_lock_and_not_long_for_its_reader(
    project: Callable[..., Project],
) -> None:
    """Another process was killed with the lock of the counter.

    The main process has read everything; it has counted every task; and it has still to read something.
    """
    empty, counted, left = map(float, project("").run_python(f"import proj\n{PROGRAM}").split())
    assert max(empty, counted) < 3 <= left < 15


# A process that has the lock of a counter keeps it for longer here than a killed one lives; otherwise it would take luck
# to kill it in that moment.
KILLED = """
from billiard.sharedctypes import SynchronizedBase

MAIN, create = os.getpid(), SynchronizedBase.__init__

def creating(self, *args, **kwargs):
    create(self, *args, **kwargs)
    release = self.release
    def releasing():
        if os.getpid() != MAIN:
            time.sleep(5)
        release()
    self.release = releasing

SynchronizedBase.__init__ = creating

@app.task(base=PerpetualTask, time_limit=3)
def first():
    try:
        time.sleep(600)
    finally:
        open("first-ends", "w").close()

@app.task(base=PerpetualTask, time_limit=3.04)
def second():
    while not os.path.exists("first-ends"):
        time.sleep(0.002)

@app.task(base=PerpetualTask)
def third():
    return 3
"""


def test_a_worker_goes_on_when_a_process_is_killed_that_waits_for_its_result_to_be_read(
    project: Callable[..., Project], redis_url: str
) -> None:
    """Two time limits pass at once: while the first process is stopped, the task of the second one returns.

    Then the second is asked to end, waits until its result is read, and is killed in that.
    """
    proj = project(KILLED, result_backend=redis_url)
    proj.worker(concurrency=2).ready()
    proj.run_python("import proj\nproj.first.delay(), proj.second.delay()")
    wait_until((proj.folder / "first-ends").exists, "the first task is stopped")
    assert proj.run_python("import proj\nprint(proj.third.delay().get(timeout=30))").split() == ["3"]


HANDED_OVER = """
from celery_perpetual.worker import pool_endings

pool_endings.LONGEST_WAIT = 1.0

@app.task
def handed_over():
    ledger.record("the task", "ran")
"""


def test_a_worker_stops_soon_that_has_just_handed_over_a_task(project: Callable[..., Project]) -> None:
    """Its pool process accepts the task when the worker does not wait for it any more, and runs it."""
    proj = project(HANDED_OVER)
    worker = proj.worker(concurrency=1).ready()
    (child,) = worker.children()
    os.kill(child, signal.SIGSTOP)
    proj.run_python("import proj\nproj.handed_over.delay()")
    wait_until(lambda: not proj.redis.llen("celery"), "the worker has received the task")
    # Its event loop answers in the turn in which it hands over the task, or in a later one.
    proj.run_python("import proj\nassert proj.app.control.ping(timeout=20, limit=1)")
    threads = psutil.Process(worker.pid).num_threads()
    worker.signal(signal.SIGTERM)
    # Celery starts a thread when it begins to wait for its pool.
    wait_until(lambda: psutil.Process(worker.pid).num_threads() > threads, "the worker waits for its pool")
    begun = time.monotonic()
    os.kill(child, signal.SIGCONT)
    worker.wait()
    assert time.monotonic() - begun < 25
    assert [row.what for row in proj.rows("ran")] == ["ran"]
