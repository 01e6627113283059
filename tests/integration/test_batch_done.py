"""``on_batch_done`` is sent exactly once per batch, whichever process ends the last item, and whatever becomes of it."""

from __future__ import annotations

import json
from collections import Counter
from typing import TYPE_CHECKING

import pytest

from celery_perpetual.events import PROCESS_LOST
from tests.support import wait_until
from tests.support.ends import announced, batch

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.support import Project

TASKS = """
import json

def rows(poll):
    return [Item((number,), key=False) for number in range(ITEMS)]

@app.task
def batch_done(counters, *rest):
    ledger.record(counters["poll_id"], json.dumps([counters, *rest]))

@app.task
def barrier():
    ledger.record("barrier", "barrier")

@app.task(
    base=PerpetualTask, poll_every=3600, next_batch=rows, bind=True,
    perpetual_options=PerpetualOptions(on_batch_done=batch_done.s("more")),
)
def work(self, number):
    ledger.record(self.request.id, "ran")
    if number % 10 == 7:
        raise ValueError("as it was told")
"""


def poll(proj: Project, times: int) -> list[str]:
    """Enqueue so many batches, and let no beat add any; return the polls' ids."""
    ask = f"print(*[proj.perpetual.poll('proj.work').poll_id for _ in range({times})])"
    return proj.run_python(f"import proj; proj.perpetual.pause(everything=True); {ask}").split()


def told(proj: Project) -> dict[str, list[object]]:
    """Read the contents of each batch's message; the caller compares the batches."""
    return {row.id: json.loads(row.what) for row in proj.rows() if row.what not in ("ran", "barrier")}


def expected(poll_id: str, items: int) -> list[object]:
    """Compute the contents that a batch's message must have: the counters first, then the arguments of its own."""
    failed = len(range(7, items, 10))
    by_status = {"success": items - failed, **({"failure": failed} if failed else {})}
    counters = {"poll_id": poll_id, "total": items, "by_status": by_status, "finished": True, "timed_out": False}
    return [counters, "more"]


def check(proj: Project, polls: list[str], items: int) -> None:
    """Every batch was announced once, and with its own counters; nothing waits any more."""
    wait_until(lambda: told(proj).keys() >= set(polls), "every batch is announced", timeout=60)
    wait_until(lambda: proj.redis.zcard("perpetual:batches") == 0, "nothing waits to be sent")
    # Messages that were sent before this one have been received before it. The workers stay: a message that is given
    # back at a shutdown would be received twice though it was sent once.
    proj.run_python("import proj; proj.barrier.delay()")
    wait_until(lambda: proj.rows("barrier"), "all messages have been received")
    messages = [f"{each[:28]}fffffffe" for each in polls]
    wait_until(lambda: announced(proj.redis).keys() >= set(messages), "the messages, being tasks, have ended")
    times = Counter(row.id for row in proj.rows() if row.what not in ("ran", "barrier"))
    assert times == dict.fromkeys(polls, 1)
    assert told(proj) == {each: expected(each, items) for each in polls}
    assert set(announced(proj.redis).values()) == {1}
    assert {batch(proj.redis, each)["left"] for each in polls} == {"0"}


def test_concurrent_last_ends_send_one_message_per_batch(project: Callable[..., Project]) -> None:
    """Ten batches of fifty, in processes and threads of two workers: ten messages, each with the right counters."""
    proj = project(f"ITEMS = 50\n{TASKS}")
    polls = poll(proj, 10)
    proj.worker(concurrency=2)
    proj.worker(pool="threads", concurrency=8)

    check(proj, polls, 50)

    assert sum(row.what == "ran" for row in proj.rows()) == 500
    assert len(announced(proj.redis)) == 510


@pytest.mark.parametrize("pool", ["prefork", "threads"])
def test_a_message_that_its_process_could_not_send_is_relayed(project: Callable[..., Project], pool: str) -> None:
    """Where the process that ended the last item dies at once, beat's cycle sends the message, once."""
    proj = project(f"ITEMS = 5\n{TASKS}", perpetual_cycle_interval=0.5, result_backend=None)
    (poll_id,) = poll(proj, 1)
    worker = proj.worker(pool=pool, concurrency=1, env={"PERPETUAL_CRASH_AT": "task.finished:5"})
    wait_until(lambda: batch(proj.redis, poll_id).get("left") == "0", "every item has ended")
    if pool == "prefork":
        worker.wait_for_event(PROCESS_LOST)
        worker.kill9()
    else:
        worker.wait()
        assert proj.redis.zrange("perpetual:batches", 0, -1) == [poll_id]

    proj.beat()
    proj.worker()

    check(proj, [poll_id], 5)


def test_the_message_goes_over_another_broker(project: Callable[..., Project], rabbitmq_url: str) -> None:
    """With RabbitMQ as the broker each batch is announced once too."""
    proj = project(f"ITEMS = 20\n{TASKS}", broker=rabbitmq_url)
    polls = poll(proj, 3)
    proj.worker(concurrency=2)
    proj.worker(pool="threads", concurrency=4)

    check(proj, polls, 20)
