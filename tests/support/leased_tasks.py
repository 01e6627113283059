"""Tasks under leases, and what their own record says about how they ran."""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from typing import TYPE_CHECKING, Any

import pytest

from tests.support.waiting import wait_until

if TYPE_CHECKING:
    from tests.support.projects import Project

PREFIX = "perpetual"

#: Short enough for a test, long enough for a stalled machine.
TTL = 3.0

SETTINGS: dict[str, Any] = {"perpetual_lease_ttl": TTL, "perpetual_cycle_interval": 0.3, "perpetual_leader_ttl": 3}

#: A lost task must begin again within this many seconds of the loss.
IN_TIME = TTL + 5

#: A test that takes ``broker``: on Redis, and in the matrix on RabbitMQ.
ANY_BROKER = pytest.mark.parametrize(
    "broker", ["redis", pytest.param("rabbitmq", marks=pytest.mark.matrix)], indirect=True
)

#: Every task writes down its token when it begins and when it has ended; `deliver` waits for its sign to go on.
TASKS = """
EARLY = {"acks_late": False} if app.conf.get("test_early") else {}

def begin(self, what="begin"):
    ledger.record(self.request.id, f"{what} {perpetual.lease_token()}")

def linger(self, name="released"):
    while not os.path.exists(name):
        time.sleep(0.05)

@app.task(base=PerpetualTask, poll_every=3600, next_batch=lambda: [Item((n,), key=n) for n in range(ITEMS)], bind=True,
          **EARLY)
def deliver(self, n):
    begin(self)
    linger(self)
    begin(self, "end")
"""


def tokens(proj: Project, what: str) -> dict[str, list[int]]:
    """Task id -> tokens with which it began, or ended, in the order in which it said so."""
    found: dict[str, list[int]] = defaultdict(list)
    for row in proj.rows():
        said, _, token = row.what.partition(" ")
        if said == what:
            found[row.id].append(int(token))
    return found


def events(proj: Project, name: str) -> list[dict[str, Any]]:
    """Read the events of one name."""
    return [json.loads(entry["data"]) for _, entry in proj.redis.xrange(f"{PREFIX}:events") if entry["event"] == name]


def final_ends(proj: Project) -> Counter[tuple[str, str]]:
    """How often each (task id, status) was announced as final."""
    return Counter((end["task_id"], end["status"]) for end in events(proj, "completion") if end["final"])


def all_well(proj: Project, count: int, *, seconds: float = 60) -> None:
    """Everything has run to its end: announced once as a success, with growing tokens, and nothing is left."""
    wait_until(lambda: sum(final_ends(proj).values()) >= count, f"{count} ends are announced", seconds)
    begun, ended = tokens(proj, "begin"), tokens(proj, "end")
    assert final_ends(proj) == Counter({(task_id, "success"): 1 for task_id in ended})
    assert len(ended) == count
    assert all(several == sorted(set(several)) for several in begun.values())
    # The end under the newest lease counts, and there is one.
    assert {task_id: max(several) for task_id, several in ended.items()} == {
        task_id: max(several) for task_id, several in begun.items()
    }
    wait_until(
        lambda: (
            not proj.redis.exists(*(f"{PREFIX}:{name}" for name in ("leases", "states", "copies", "resend", "open")))
        ),
        "nothing of them is left",
    )
