"""The tests' own support does what the tests rely on; Celery alone, without the package under test."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from itertools import pairwise
from pathlib import Path
from textwrap import dedent
from typing import TYPE_CHECKING

import psutil
import pytest

from tests.support import Processes, wait_until
from tests.support.forks import start
from tests.support.order import SLOW_FIXTURES, in_parts
from tests.support.processes import group_members

if TYPE_CHECKING:
    from collections.abc import Callable

    import redis

    from tests.support import Project

ROOT = Path(__file__).parents[2]

TASKS = """
@app.task(bind=True)
def note(self, what):
    ledger.record(self.request.id, what)

@app.task(bind=True)
def linger(self, seconds):
    ledger.record(self.request.id, "begun")
    time.sleep(seconds)
    ledger.record(self.request.id, "done")

app.conf.beat_schedule = {"often": {"task": "proj.note", "schedule": 0.5, "args": ("from beat",)}}
"""


def test_beat_and_worker_run_a_project(project: Callable[..., Project], store_redis: redis.Redis) -> None:
    """Beat's task is run by the worker, which writes it into the ledger; both end politely on SIGTERM."""
    # Celery's default scheduler, which writes a file, ends with 1 where the signal finds it writing.
    proj = project(TASKS, perpetual=False, beat_scheduler="celery.beat:Scheduler")
    beat, worker = proj.beat().ready(), proj.worker(concurrency=1).ready()

    row = wait_until(lambda: proj.rows("from beat"), "the task ran")[0]

    assert row.pid in worker.children()
    assert beat.terminate()[0] == 0
    code, seconds = worker.terminate()
    assert code == 0
    assert seconds < 10
    assert f"Task proj.note[{row.id}] received" in worker.log()
    assert store_redis.exists("_kombu.binding.celery")


def test_a_killed_worker_takes_its_children_along(project: Callable[..., Project]) -> None:
    """kill9() of a worker ends the whole group, in the middle of a task."""
    proj = project(TASKS, perpetual=False)
    worker = proj.worker().ready()
    proj.run_python("import proj; proj.linger.delay(60)")
    row = wait_until(lambda: proj.rows("begun"), "the task began")[0]

    worker.kill9()

    assert worker.exit_code == -9
    assert not psutil.pid_exists(row.pid) or psutil.Process(row.pid).status() == psutil.STATUS_ZOMBIE
    assert proj.rows("done") == []


def test_a_frozen_worker_works_after_being_continued(project: Callable[..., Project]) -> None:
    """Between stop_signal() and cont() nothing is executed."""
    proj = project(TASKS, perpetual=False)
    worker = proj.worker(pool="solo").ready()
    worker.stop_signal()
    proj.run_python("import proj; proj.note.delay('late')")
    wait_until(lambda: psutil.Process(worker.pid).status() == psutil.STATUS_STOPPED, "the worker is stopped", timeout=5)
    assert proj.rows() == []

    worker.cont()

    wait_until(proj.rows, "the task ran")


def test_a_group_that_outlives_its_process_is_reported(tmp_path: Path, project: Callable[..., Project]) -> None:
    """A test whose process leaves a child behind fails, and the child is killed."""
    proj = project(perpetual=False)
    mine = Processes()
    code = "import subprocess; print(subprocess.Popen(['sleep', '600']).pid, flush=True)"
    parent = mine.start("parent", ["python3", "-c", code], folder=tmp_path, env=proj.env())
    assert parent.wait() == 0

    complaints = mine.end(grace=0.2)

    assert len(complaints) == 1
    assert "parent ended with 0 and left behind" in complaints[0]
    assert "sleep 600" in complaints[0]
    assert group_members(parent.pid) == []


def test_processes_end_with_a_killed_test_run(tmp_path: Path, project: Callable[..., Project]) -> None:
    """When the test process itself is killed, the processes that it started go too."""
    code = """
        import os, pathlib, signal, sys, time
        from tests.support import Processes
        child = [sys.executable, "-c", "import time; time.sleep(600)"]
        print(Processes().start("child", child, folder=pathlib.Path("."), env=os.environ).pid, flush=True)
        os.kill(os.getpid(), signal.SIGKILL)
    """
    run = project(perpetual=False).process("run", ["-c", dedent(code)], env={"PYTHONPATH": str(ROOT)})
    assert run.wait() == -9

    group = int(run.log())

    wait_until(lambda: not group_members(group), "the child is gone", timeout=5)


def test_waiting_for_a_line_ends_with_the_process(project: Callable[..., Project]) -> None:
    """A process that ended without the awaited line fails the wait at once, and says so."""
    proj = project(perpetual=False)
    process = proj.process("short", ["-c", "print('hello')"])
    process.wait()

    assert process.wait_for_log("hell") == "hello"
    with pytest.raises(AssertionError, match=r"short ended with 0 and never wrote 'bye'"):
        process.wait_for_log("bye")


def test_rabbitmq_carries_a_project(rabbitmq_url: str, project: Callable[..., Project]) -> None:
    """The private RabbitMQ works as a broker; each test has a virtual host of its own."""
    proj = project(TASKS, perpetual=False, broker=rabbitmq_url)
    proj.worker(pool="solo").ready()

    proj.run_python("import proj; proj.note.delay('over RabbitMQ')")

    assert wait_until(proj.rows, "the task ran")[0].what == "over RabbitMQ"
    assert proj.redis.dbsize() == 0


def test_rabbitmq_starts_each_test_empty(rabbitmq_url: str, project: Callable[..., Project]) -> None:
    """Messages that an earlier test left in a queue are not seen."""
    proj = project("", perpetual=False, broker=rabbitmq_url, broker_transport_options={"confirm_publish": True})
    code = """
        import proj
        with proj.app.connection_for_read() as connection:
            queue = proj.app.amqp.queues["celery"].bind(connection.default_channel)
            print(queue.queue_declare().message_count)
            proj.app.send_task("any")
            print(queue.queue_declare(passive=True).message_count)
    """

    assert proj.run_python(code).split() == ["0", "1"]


def test_processes_do_not_see_the_test_run(project: Callable[..., Project]) -> None:
    """Variables of pytest and crash points of this process do not reach the project."""
    os.environ["PERPETUAL_CRASH_AT"] = "nowhere"
    try:
        env = project(perpetual=False).env({"EXTRA": "1"})
    finally:
        del os.environ["PERPETUAL_CRASH_AT"]

    assert env["EXTRA"] == "1"
    assert not [key for key in env if key.startswith(("PYTEST", "PERPETUAL_CRASH"))]


SEEN = """
import json, os, signal, sys
print(json.dumps({
    "argv": sys.argv, "path": sys.path, "folder": os.getcwd(), "name": __name__, "env": dict(os.environ),
    "group": os.getpgid(0) == os.getpid() == os.getsid(0), "signals": [str(signal.getsignal(n)) for n in (2, 15, 17)],
    "files": sorted(os.readlink(f"/proc/self/fd/{n}") for n in range(3)), "more": os.path.exists("/proc/self/fd/4"),
}))
sys.exit(7)
"""


def test_a_forked_process_sees_what_a_fresh_one_sees(
    project: Callable[..., Project], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Arguments, search path, folder, environment, session, handlers of signals, files; and its exit code is its own."""
    proj = project()
    seen = []
    for by_exec in (False, True):
        monkeypatch.setattr("tests.support.forks.BY_EXEC", by_exec)
        with (tmp_path / "out").open("w+b") as out:
            argv = [sys.executable, "-c", SEEN, "--word"]
            process = start(argv, folder=proj.folder, env=proj.env({"TZ": "Asia/Tokyo"}), out=out, err=out)
            assert process.wait(20) == 7
            out.seek(0)
            seen.append(json.loads(out.read()))

    assert isinstance(process, subprocess.Popen)
    forked, fresh = seen
    assert forked["argv"] == ["-c", "--word"]
    assert forked.pop("path")[1:3] == fresh.pop("path")[1:3]
    assert forked == fresh


@pytest.mark.parametrize("count", [1, 2, 6])
def test_a_run_begins_with_what_waits_and_has_each_test_once(request: pytest.FixtureRequest, count: int) -> None:
    """In each part that xdist gives to a test process no test that starts processes comes behind one that does not."""
    items = request.session.items
    ordered = in_parts(items, count)

    assert sorted(item.nodeid for item in ordered) == sorted(item.nodeid for item in items)
    usual = [item for item in ordered if isinstance(item, pytest.Function) and not item.get_closest_marker("slow")]
    waits = [not SLOW_FIXTURES.isdisjoint(item.fixturenames) for item in usual]
    assert sum(before and not after for before, after in pairwise(waits)) <= count
