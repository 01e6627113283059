"""Items by their keys: found, and waited for, by those who know no id."""

from __future__ import annotations

import asyncio
import json
import threading
import time
from typing import TYPE_CHECKING, Any
from uuid import UUID, uuid4

import pytest

from celery_perpetual import ContractError, Item, PerpetualOptions
from celery_perpetual.leases.execution import Execution
from celery_perpetual.recovery.sweep import Sweep
from tests.support import wait_until
from tests.support.contract import finish
from tests.support.leased_tasks import SETTINGS

if TYPE_CHECKING:
    from collections.abc import Callable

    from celery_perpetual import Perpetual
    from tests.support import Project
    from tests.support.watched_app import WatchedApp

KEY = UUID("57cdd8a1-c030-4542-b90e-f8635ec1a311")


class Table:
    """Rows that are due, and how often they were read."""

    def __init__(self, one: WatchedApp, *due: Any) -> None:
        self.due, self.reads = list(due), 0
        self.perpetual: Perpetual = one.perpetual
        options = PerpetualOptions(failed_keys=None)
        self.task = one.task([], next_batch=self.next_batch, perpetual_options=options)

    def next_batch(self) -> list[Item]:
        self.reads += 1
        return [Item((1,), key=row) for row in self.due]

    def later(self, *calls: Callable[[], object]) -> threading.Thread:
        """Make these calls, one after the other, once somebody waits on the channel of the unit."""

        def run() -> None:
            channel, redis = "perpetual:done:perpetual:app.work", self.perpetual.store.redis
            wait_until(lambda: dict(redis.pubsub_numsub(channel))[channel.encode()], "somebody waits")
            for call in calls:
                call()

        thread = threading.Thread(target=run)
        thread.start()
        return thread

    def poll_and_finish(self, *results: str) -> None:
        for task_id, status in zip(self.perpetual.poll(self.task).task_ids, results, strict=True):
            finish(self.perpetual, task_id, status)


@pytest.fixture
def one(watched_app: Callable[..., WatchedApp]) -> WatchedApp:
    return watched_app()


def test_an_item_is_found_by_its_key(one: WatchedApp) -> None:
    """In flight it is pending, then its end is found; a key that was never seen, or has no end on record, is not."""
    table = Table(one, KEY, 7)
    assert table.perpetual.find(table.task, KEY) is None
    first, second = table.perpetual.poll(table.task).task_ids

    waits = table.perpetual.find("app.work", KEY)
    assert waits is not None
    assert (waits.task_id, waits.status, waits.final, waits.key, waits.task) == (
        first, "pending", False, str(KEY), "app.work",
    )  # fmt: skip
    assert waits.poll_id == first[:28] + "ffffffff"
    finish(table.perpetual, second, "failure", ValueError("no such row"))

    ended = table.perpetual.find(table.task, "7")
    assert ended is not None
    assert (ended.task_id, ended.status, ended.key) == (second, "failure", "7")
    assert asyncio.run(table.perpetual.aio.find(table.task, 7)) == ended
    recent, ttl = "perpetual:recent:perpetual:app.work", 3_600_000
    at, _, found = one.redis.hget(recent, "7").partition(" ")
    assert found == second
    assert 0 <= int(at) + ttl - one.redis.pexpiretime(f"perpetual:completion:{second}") + 1 <= 2, "written in one step"
    one.redis.hset(recent, "7", f"{int(at) - ttl} {second}")
    wait_until(lambda: table.perpetual.find(table.task, 7) is None, "its record would have expired by now")
    with pytest.raises(ContractError, match=r"an item key is a str, an int or a UUID, got float 1\.5"):
        table.perpetual.find(table.task, 1.5)  # type: ignore[arg-type]


def test_a_wait_for_a_key_ends_with_its_task(one: WatchedApp) -> None:
    """Of an item in flight when it ends, of one that has ended at once, and in time where there is none."""
    table = Table(one, "row")
    assert table.perpetual.wait_key(table.task, "row", 0).to_dict()["timed_out"]
    (task_id,) = table.perpetual.poll(table.task).task_ids

    late = table.perpetual.wait_key(table.task, "row", 0.05)
    ends = threading.Timer(0.1, lambda: finish(table.perpetual, task_id))
    ends.start()
    end = table.perpetual.wait_key(table.task, "row", 10)

    assert (late.task_id, late.status, late.key, late.timed_out) == (task_id, "pending", "row", True)
    assert (end.task_id, end.status, end.key) == (task_id, "success", "row")
    assert table.perpetual.wait_key(table.task, "row", 0).ok
    none = table.perpetual.wait_key(table.task, "no such row", 0.05)
    assert (none.task_id, none.status, none.final, none.timed_out) == ("", "pending", False, True)
    ends.join()


def test_a_wait_for_a_key_sees_the_item_of_a_coming_poll(one: WatchedApp) -> None:
    """It wakes when a poll brings the key, or when the item has come and gone; polls without it wake it in vain."""
    table = Table(one)
    brings = table.later(
        table.poll_and_finish, lambda: table.due.append("row"), lambda: table.poll_and_finish("success")
    )
    started = time.monotonic()
    end = table.perpetual.wait_key(table.task, "row", 20)
    brings.join()

    assert end.ok
    assert time.monotonic() - started < 4  # it did not wait until it would have read again


@pytest.mark.parametrize("is_due", [True, False], ids=["the row is due", "the row is not due"])
def test_a_wait_with_a_nudge_waits_for_the_next_poll(one: WatchedApp, is_due: bool) -> None:
    """The end of an earlier item counts only if the poll that was asked for brings no other one."""
    table = Table(one, "row")
    table.poll_and_finish("failure")
    if not is_due:
        table.due.clear()

    async def wait() -> Any:
        return await table.perpetual.aio.wait_key(table.task, "row", 20, nudge=True)

    polls = table.later(lambda: table.poll_and_finish(*["success"] * is_due))
    end = asyncio.run(wait())
    polls.join()

    assert end.status == ("success" if is_due else "failure")


def test_items_are_listed_with_their_state_key_and_arguments(one: WatchedApp) -> None:
    """In flight with ids, oldest first, then the keys that are left out; `leases` and `parked` name the row too."""
    perpetual, rows = one.perpetual, [Item((n,), {"to": KEY}, key=f"row {n}") for n in range(4)]
    task = one.task([], next_batch=lambda: [*rows, Item((4,), key=False)], on_lost="park")
    ids = perpetual.poll(task).task_ids
    finish(perpetual, ids[0], "failure", ValueError("no such\naddress"))
    start(perpetual, ids[1])
    lose_all(perpetual)
    start(perpetual, ids[2])
    perpetual.cancel(ids[3])

    found = perpetual.items(task)

    assert [(each.key, each.state, each.task_id, each.args) for each in found] == [
        ("row 1", "parked", ids[1], (1,)), ("row 2", "running", ids[2], (2,)), (None, "waiting", ids[4], (4,)),
        ("row 0", "held_back", None, None), ("row 3", "parked_key", None, None),
    ]  # fmt: skip
    assert (found[3].failures, found[3].error) == (1, "failure: ValueError: no such\naddress")
    assert found[1].to_dict()["kwargs"] == {"to": str(KEY)}
    assert [each.key for each in perpetual.items(task, state="running")] == ["row 2"]
    assert perpetual.items(task, key="row 2") == [found[1]]
    assert perpetual.items(task, key="row 9") == []
    (lease,), (parked,) = perpetual.leases(), perpetual.parked()
    assert (lease.key, lease.args, parked.key, parked.to_dict()["args"]) == ("row 2", (2,), "row 1", [1])
    assert perpetual.completion(ids[1]).key == "row 1"
    perpetual.allow(task, "row 3")
    (ended,) = perpetual.items(task, key="row 3")
    assert (ended.state, ended.task_id) == ("revoked", ids[3])
    with pytest.raises(ContractError, match="there is no state 'runing', did you mean running"):
        perpetual.items(task, state="runing")


def test_arguments_that_are_not_to_be_stored_are_not_listed(one: WatchedApp) -> None:
    """With ``store_args=False`` the key is all that is shown."""
    options = PerpetualOptions(store_args=False)
    task = one.task([], next_batch=lambda: [Item(("secret",), key=1)], perpetual_options=options)
    start(one.perpetual, *one.perpetual.poll(task).task_ids)

    (item,), (lease,) = one.perpetual.items(task), one.perpetual.leases()

    assert (item.key, item.args, item.kwargs) == ("1", None, None)
    assert (lease.key, lease.args) == ("1", None)
    assert "secret" not in str([item.to_dict(), lease.to_dict()])


def start(perpetual: Perpetual, *ids: str) -> None:
    """Ask for leases, as a worker does."""
    perpetual.grants.be_a_worker("host")
    for task_id in ids:
        execution = Execution(task_id=task_id, nonce=uuid4().hex)
        perpetual.grants.start(perpetual.app.tasks["app.work"], execution, {})
        assert execution.leased


def lose_all(perpetual: Perpetual) -> None:
    """All workers die."""
    store = perpetual.store
    for worker in store.redis.zrange(store.keys.workers, 0, -1):
        store.redis.zadd(store.keys.workers, {worker: 1})
    Sweep(perpetual.app, perpetual.grants).once()


SOURCE = """
ROWS = os.path.join(os.path.dirname(__file__), "rows")

def due():
    return [Item((row,), key=row) for row in (os.listdir(ROWS) if os.path.isdir(ROWS) else [])]

@app.task(base=PerpetualTask, poll_every=3600, next_batch=due)
def deliver(row):
    return f"delivered {row}"
"""


def test_a_row_is_waited_for_with_real_processes(project: Callable[..., Project]) -> None:
    """A nudge makes the leader poll now, long before its next slot."""
    proj = project(SOURCE, **SETTINGS)
    proj.beat().ready()
    proj.worker(concurrency=1).ready()
    wait_until(lambda: proj.redis.lrange("perpetual:polls:perpetual:proj.deliver", 0, -1), "the first poll has ended")
    proj.write("rows/ada", "")

    end = proj.run_python("from proj import *; c = perpetual.wait_key(deliver, 'ada', 20, nudge=True); print(c.result)")
    assert end.strip() == "delivered ada"
    proj.write("rows/new", "")
    proj.celery("perpetual", "poll", "proj.deliver")
    shown = proj.celery("perpetual", "items", "proj.deliver", "--key", "ada")
    assert (shown.returncode, shown.stdout.splitlines()[1].split()[:2]) == (0, ["ada", "success"])
    assert proj.celery("perpetual", "items", "proj.deliver", "--key", "nobody").returncode == 1
    assert json.loads(proj.celery("perpetual", "items", "proj.deliver", "--state", "lost", "--json").stdout) == []
