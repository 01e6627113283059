"""``perpetual_store_down = "hold"``: waiting for the store costs a task nothing."""

from __future__ import annotations

import socket
import threading
import time
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING

import pytest
import redis

from celery_perpetual.events import LEASE_WAITING
from tests.support import wait_until
from tests.support.leased_tasks import SETTINGS, final_ends

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from celery_perpetual.embedded import EmbeddedServer
    from tests.support import Project

SOURCE = """
@app.task(base=PerpetualTask, time_limit=2)
def late(name):
    ledger.record(name)

@app.task(base=PerpetualTask, acks_late=False, time_limit=2)
def early(name):
    ledger.record(name)
"""


def ran(proj: Project) -> list[str]:
    return sorted(row.id for row in proj.rows())


@pytest.mark.parametrize("pool", ["prefork", "threads"])
def test_a_task_waits_longer_than_its_time_limit(
    project: Callable[..., Project], private_redis: Callable[..., EmbeddedServer], pool: str
) -> None:
    """The store is gone, or stands still, for longer than any limit; each task runs once when it is back."""
    server = private_redis(appendonly=True)
    proj = project(
        SOURCE, **SETTINGS, perpetual_store_url=server.url, perpetual_store_down="hold", perpetual_store_timeout=3
    )
    worker = proj.worker(pool=pool, concurrency=2).ready()
    store = redis.Redis.from_url(server.url)

    server.stop()
    sent = "import proj; [t.apply_async([name := f'{n} {t.__name__}'], task_id=name) for t in (proj.late, proj.early)"
    proj.run_python(f"{sent} for n in ['gone', 'revoked']]")
    worker.wait_for_event(LEASE_WAITING, count=2)
    time.sleep(3)  # the measure itself: longer than the limit
    assert ran(proj) == []
    proj.run_python("import proj; proj.app.control.revoke(['revoked late', 'revoked early'], reply=True)")
    server.start()
    wait_until(lambda: ran(proj) == ["gone early", "gone late"], "they run")
    # The stream is in the store.
    proj.redis = redis.Redis.from_url(server.url, decode_responses=True)
    ends = {(f"gone {task}", "success"): 1 for task in ("early", "late")}
    ends |= {(f"revoked {task}", "revoked"): 1 for task in ("early", "late")}
    # A store that stood still before that would let a limit end a task that has run.
    wait_until(lambda: final_ends(proj) == ends, "each has one end")

    store.client_pause(4000)
    proj.run_python(f"{sent} for n in ['still']]")
    wait_until(lambda: ran(proj) == ["gone early", "gone late", "still early", "still late"], "they run")

    ends |= {(f"still {task}", "success"): 1 for task in ("early", "late")}
    wait_until(lambda: final_ends(proj) == ends, "each has one end")


def test_a_worker_stops_while_tasks_wait(
    project: Callable[..., Project], private_redis: Callable[..., EmbeddedServer]
) -> None:
    """It does not wait for the store, and the next worker runs them: those too that the broker does not have any more."""
    server = private_redis(appendonly=True)
    proj = project(
        SOURCE, **SETTINGS, perpetual_store_url=server.url, perpetual_store_down="hold", perpetual_store_timeout=1
    )
    worker = proj.worker(concurrency=2).ready()
    server.stop()
    proj.run_python("import proj; proj.late.delay('late'); proj.early.delay('early')")
    worker.wait_for_event(LEASE_WAITING, count=2)

    worker.terminate()
    server.start()
    proj.worker(concurrency=2).ready()

    wait_until(lambda: ran(proj) == ["early", "late"], "both run")


#: So long each way to a store that is far away: longer than the usual part of the limit below leaves for an answer.
FAR = 0.05


@contextmanager
def far_from(port: int) -> Iterator[int]:
    """A port of loopback from which everything needs some time to another one and back."""
    server = socket.create_server(("127.0.0.1", 0))
    ends, threads = list[socket.socket](), list[threading.Thread]()

    def begin(target: Callable[..., None], *given: socket.socket) -> None:
        threads.append(threading.Thread(target=target, args=given))
        threads[-1].start()

    def forward(source: socket.socket, target: socket.socket) -> None:
        with suppress(OSError):
            while data := source.recv(65536):
                time.sleep(FAR)
                target.sendall(data)
            target.shutdown(socket.SHUT_WR)

    def accept() -> None:
        with suppress(OSError):
            while True:
                near, far = server.accept()[0], socket.create_connection(("127.0.0.1", port))
                ends.extend((near, far))
                for pair in ((near, far), (far, near)):
                    begin(forward, *pair)

    begin(accept)
    try:
        yield server.getsockname()[1]
    finally:
        server.shutdown(socket.SHUT_RDWR)
        server.close()
        threads[0].join()  # there come no more
        for each in ends:
            with suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)
            each.close()
        for thread in threads:
            thread.join()


def test_a_store_that_is_far_away_holds_no_task_for_ever(project: Callable[..., Project], redis_url: str) -> None:
    """A quarter of its short limit is never enough for an answer, so the task asks longer when it has come back twice."""
    with far_from(int(redis_url.rpartition(":")[2].partition("/")[0])) as port:
        # With the usual lease time: its end may come some round trips after the pool has let go of the task.
        proj = project(SOURCE, perpetual_store_url=f"redis://127.0.0.1:{port}/0", perpetual_store_down="hold")
        worker = proj.worker(concurrency=1).ready()
        proj.run_python("import proj; proj.late.apply_async(['far'], task_id='far', time_limit=60, soft_time_limit=1)")

        wait_until(lambda: ran(proj) == ["far"], "it runs", 20)
        wait_until(lambda: final_ends(proj) == {("far", "success"): 1}, "it has ended")
        assert len(worker.events(LEASE_WAITING)) == 1
