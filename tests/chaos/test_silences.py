"""Twenty ways in which nothing runs: for each `status` or `why` names the cause and a command, and the command helps."""

from __future__ import annotations

import json
import re
import shlex
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import pytest

from tests.support import wait_until
from tests.support.console import Console

if TYPE_CHECKING:
    from collections.abc import Callable

    from celery_perpetual.embedded import EmbeddedServer
    from tests.support import Project
    from tests.support.processes import CeleryProcess

SETTINGS = {
    "perpetual_lease_ttl": 2, "perpetual_heartbeat_interval": 0.3, "perpetual_cycle_interval": 0.3, "perpetual_leader_ttl": 3,
    "perpetual_disabled": ["proj.disabled"], "task_routes": {"proj.lost_in_a_queue": {"queue": "nowhere"}},
    "worker_prefetch_multiplier": 1,
}  # fmt: skip

SOURCE = """
from pathlib import Path
from celery import signals
from celery.worker.control import control_command

def is_there(name):
    return Path(name).exists()

def run(row=0):
    ledger.record("ran")

def task(function=run, **options):
    return app.task(base=PerpetualTask, poll_every=0.3, **{"next_batch": lambda: [], **options})(function)

task(name="proj.paused")
task(name="proj.disabled")

def flaky():
    if not is_there("mended"):
        raise ConnectionRefusedError("the source is away")
    return []
task(name="proj.failing", next_batch=flaky)

def ready():
    if not is_there("configured"):
        raise KeyError("BANK_URL")
task(name="proj.unready", preflight=ready)

# Its items go to a queue that no worker consumes; until they have ended, its gate is closed.
task(name="proj.lost_in_a_queue", next_batch=lambda: [Item((1,), key=1)], max_in_flight=10)
task(name="proj.overlapping", next_batch=lambda: [Item((1,), key="one", queue="nowhere")],
     perpetual_options=PerpetualOptions(overlap="skip"))

def unsendable():
    return [Item((1,), key=1)]

class Own(PerpetualTask):
    name, poll_every = "proj.unsendable", 0.3

    def next_batch(self):
        return [Item((1,), key=1)]

    def run(self, row):
        ledger.record("sent at last")

    def apply_async(self, args=None, kwargs=None, **options):
        if not is_there("sendable"):
            raise RuntimeError("no route")
        return super().apply_async(args, kwargs, **options)
app.register_task(Own())

def hang():
    while not is_there("released"):
        time.sleep(0.05)
    return []
task(name="proj.hanging", next_batch=hang, poll_timeout=0.2)

def hold(row):
    ledger.record("held")
    while not is_there("finished"):
        time.sleep(0.05)
task(hold, name="proj.slow", next_batch=lambda: [Item((n,), key=n) for n in range(6)] if is_there("work") else [])

def quick(row):
    ledger.record(f"quick {row}")
task(quick, name="proj.quick",
     next_batch=lambda: [Item((n,), key=n) for n in range(2)] if is_there("quick") else [])

if os.environ.get("OLD_CODE"):
    task(name="proj.dropped")

@control_command(name="cut")
def cut(state):
    # A loss that Celery does not hear of: the consumer of its channel is gone.
    state.consumer.call_soon(state.consumer.task_consumer.cancel_by_queue, "celery")
    return {"ok": "cut"}
"""


class Operator:
    """A person at a shell: asks, reads the answer, and runs the command that it names."""

    def __init__(self, proj: Project, console: Console) -> None:
        self._proj, self._console = proj, console

    def why(self, task: str, *words: str, timeout: float = 30.0) -> str:
        """Wait until a reason has these words; return what it says helps."""
        return self._wait(
            lambda: self._console(f"perpetual.why('proj.{task}').to_dict()['reasons']"), task, words, timeout
        )

    def status(self, *words: str, timeout: float = 30.0) -> str:
        """The same for a finding of the status."""
        read = "[each.to_dict() for each in perpetual.status().findings]"
        return self._wait(lambda: self._console(read), "status", words, timeout)

    def run(self, command: str) -> None:
        """Run the first command of an advice."""
        found = re.search(r"celery -A proj ((?:[\w.@=-]+ ?)+)", command)
        assert found is not None, f"no command in {command!r}"
        done = self._proj.celery(*shlex.split(found[1]))
        assert done.returncode in (0, 1), done.stderr

    def last_poll(self, task: str) -> str:
        found = self._console(f"[poll.status for poll in perpetual.why('proj.{task}').polls[:1]]")
        return str(found[0]) if found else "none"

    @staticmethod
    def _wait(read: Callable[[], Any], of: str, words: tuple[str, ...], timeout: float) -> str:
        seen: list[Any] = [None]

        def found() -> str | None:
            seen[0] = read()
            hits = [each for each in seen[0] if all(word in each["evidence"] for word in words)]
            return hits[0]["help"] if hits else None

        try:
            return str(wait_until(found, f"{of} says {words}", timeout, interval=0.2))
        except AssertionError as error:
            raise AssertionError(f"{error}\n{json.dumps(seen[0], indent=1)}") from None


@pytest.mark.long
def test_silences_of_units_workers_and_beats(project: Callable[..., Project]) -> None:
    """One project goes through them, one after the other; each ends by the command that was named."""
    proj = project(SOURCE, **SETTINGS)
    old = proj.beat(env={"OLD_CODE": "1"}).ready()
    wait_until(lambda: proj.redis.zscore("perpetual:due", "perpetual:proj.dropped"), "the old code is polled")
    old.kill9()
    with Console(proj) as console:
        operator = Operator(proj, console)
        # No beat, then one that is frozen.
        assert operator.status("no beat holds the lead") == "celery -A proj beat"
        beat = proj.beat().ready()
        wait_until(lambda: operator.last_poll("paused") == "empty", "it is polled")
        beat.stop_signal()
        operator.why("paused", "no beat holds the lead")
        beat.cont()
        # No worker.
        assert operator.status("no worker has reported") == "celery -A proj worker"
        first = proj.worker("-Q", "celery", pool="threads", concurrency=2).ready()
        # A unit that this code does not know.
        assert "deploy code that has it" in operator.status("proj.dropped is orphaned")
        of_units(proj, operator)
        of_queues_and_workers(proj, operator, first)


def times(proj: Project, what: str) -> int:
    """How often a task has recorded that."""
    return sum(row.id == what for row in proj.rows())


def of_units(proj: Project, operator: Operator) -> None:
    """Each unit is quiet for a reason of its own."""
    # Paused, disabled.
    proj.celery("perpetual", "pause", "--task", "proj.paused", "--reason", "upgrade")
    operator.run(operator.why("paused", "is paused: upgrade (by "))
    assert "remove its name from perpetual_disabled" in operator.why("disabled", "named in perpetual_disabled")
    # Backing off, and a preflight.
    advice = operator.why("failing", "in a row failed; the last: ConnectionRefusedError")
    proj.write("mended", "")
    operator.run(advice)
    wait_until(lambda: operator.last_poll("failing") == "empty", "the command has polled it")
    advice = operator.why("unready", "BANK_URL")
    proj.write("configured", "")
    operator.run(advice)
    wait_until(lambda: operator.last_poll("unready") == "empty", "the preflight has passed")
    # All in flight, a closed gate, and a queue that no worker consumes.
    operator.why("lost_in_a_queue", "all that the last poll found is in flight: 1 item")
    operator.why("overlapping", "the last poll was skipped: overlap is 1 of 0")
    advice = operator.why("lost_in_a_queue", "queue 'nowhere'", "no worker consumes it")
    operator.run(advice.partition("; ")[2])
    wait_until(lambda: times(proj, "ran") >= 2, "the worker consumes that queue now")
    # Parked.
    operator.why("unsendable", "1 task is parked", "no route")
    proj.write("sendable", "")
    (parked,) = json.loads(proj.celery("perpetual", "parked", "--json").stdout)
    proj.celery("perpetual", "recover", parked["task_id"])
    wait_until(lambda: times(proj, "sent at last"), "it runs")
    # A next_batch that hangs.
    assert "a restart of beat ends it" in operator.why("hanging", "has not returned")
    proj.write("released", "")
    wait_until(lambda: operator.last_poll("hanging") == "empty", "it has returned")


def of_queues_and_workers(proj: Project, operator: Operator, first: CeleryProcess) -> None:
    """Items wait, and their workers do not begin them."""
    # A consumer that is gone without a word.
    proj.celery("control", "cut")
    proj.write("quick", "")
    operator.run(operator.why("quick", "items wait in the queue 'celery'", "have free places"))
    wait_until(lambda: times(proj, "quick 0"), "its consumer is open again")
    (proj.folder / "quick").unlink()
    # Workers that are busy, and then gone.
    proj.write("work", "")
    advice = operator.why("slow", "items wait in the queue 'celery'", "every place of its 1 worker is taken")
    assert "add workers" in advice
    first.kill9()
    operator.why("slow", "no worker has reported, and 6 items are in flight")
    proj.write("finished", "")
    proj.worker("-Q", "celery", pool="threads", concurrency=2).ready()
    wait_until(lambda: times(proj, "held") >= 8, "what was lost runs again, and the rest", 40)


@pytest.mark.long
def test_silences_of_the_store_and_of_another_scheduler(
    project: Callable[..., Project], private_redis: Callable[..., EmbeddedServer]
) -> None:
    """A beat that does not poll; a store that evicts, is full, and is away."""
    server = private_redis()
    proj = project(
        """
        @app.task(base=PerpetualTask, poll_every=0.3, next_batch=lambda: [])
        def work(): ...
        """,
        store=server.url, beat_scheduler="celery.beat:Scheduler", **{k: v for k, v in SETTINGS.items() if "ttl" in k},
    )  # fmt: skip
    proj.beat().ready()
    with Console(proj) as console:
        operator = Operator(proj, console)
        assert operator.status("beat_scheduler is 'celery.beat:Scheduler'").startswith("beat_scheduler = ")
        operator.why("work", "beat_scheduler is 'celery.beat:Scheduler'")
        beat = proj.beat("-S", "perpetual").ready()
        wait_until(lambda: operator.last_poll("work") == "empty", "it is polled")

        config = "redis-cli CONFIG SET "
        proj.redis.config_set("maxmemory-policy", "allkeys-random")
        for number in range(300):
            proj.redis.set(f"something {number}", "x" * 5_000)
        proj.redis.config_set("maxmemory", int(proj.redis.info("memory")["used_memory"]) - 20_000)
        wait_until(lambda: proj.redis.info("stats")["evicted_keys"], "keys are evicted")
        assert operator.status("may evict keys (maxmemory-policy allkeys-random) and has removed").startswith(config)
        proj.redis.config_set("maxmemory-policy", "noeviction")
        proj.redis.config_set("maxmemory", 1)
        operator.status("the store takes no data: ")
        operator.why("work", "the store takes no data: ")
        assert proj.celery("perpetual", "status").returncode == 2
        proj.redis.config_set("maxmemory", 0)
        wait_until(lambda: console("perpetual.status().state") != "down", "it goes on", 30)
        server.stop()
        assert "redis-cli ping" in operator.status("did not answer")
        server.start()
        wait_until(lambda: console("perpetual.status().state") != "down", "it goes on", 40)
        assert beat.alive


SKEWED = """
import time
real = time.time
time.time = lambda: real() - 100
from proj import perpetual
print([each.evidence for each in perpetual.status().findings])
"""


def test_a_machine_whose_clock_is_wrong_is_named(project: Callable[..., Project]) -> None:
    proj = project("@app.task(base=PerpetualTask, poll_every=60, next_batch=lambda: [])\ndef work(): ...")

    done = subprocess.run(
        [sys.executable, "-c", SKEWED], cwd=proj.folder, env=proj.env(), check=True, capture_output=True, text=True
    )

    assert "the store's clock is 100 s ahead of this machine's" in done.stdout
