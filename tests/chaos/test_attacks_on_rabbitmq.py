"""RabbitMQ under the hands of its operator, while tasks run, retry and replace themselves, and workers die."""

from __future__ import annotations

import os
import signal
import time
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any
from uuid import uuid4

import pytest

from tests.support import wait_until
from tests.support.console import Console
from tests.support.leased_tasks import SETTINGS, events, final_ends

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.support import CeleryProcess, Project
    from tests.support.rabbitmq import Node

pytestmark = [pytest.mark.long, pytest.mark.timeout(240)]

ALL = {"configure": ".*", "write": ".*", "read": ".*"}

SOURCE = """
from kombu import Queue

app.conf.task_queues = [Queue("celery"), Queue("q", queue_arguments={arguments})]

def rows(poll):
    start = poll.cursor or 0
    return None if os.path.exists("stop") else Batch([Item((n,), key=n) for n in range(start, start + {size})],
                                                     cursor=start + {size})

def run(self):
    what = f"{{self.request.retries}} {{self.request.replaced_task_nesting}}"
    ledger.record(self.request.id, f"begin {{what}}")
    time.sleep(0.02)
    ledger.record(self.request.id, f"end {{what}}")

@app.task(base=PerpetualTask, poll_every=1, bind=True, next_batch=rows, max_in_flight=400, queue="q")
def work(self, n, again=False):
    run(self)
    if n % 3 == 1 and not again:
        raise self.retry(args=(n, True), countdown=0)
    if n % 3 == 2:
        raise self.replace(follows.si())

@app.task(base=PerpetualTask, bind=True, queue="q")
def follows(self):
    run(self)

@app.task(base=PerpetualTask, poll_every=1, next_batch=lambda: None if os.path.exists("stop") else [Item(key=False)])
def other(): ...
"""


class Attacked:
    """A project on a virtual host and with a user of its own, with one beat and two workers."""

    def __init__(self, project: Callable[..., Project], node: Node, arguments: dict[str, Any], size: int) -> None:
        self.node = node
        self.vhost = self.user = f"attacked-{uuid4().hex}"
        node.api("PUT", f"vhosts/{self.vhost}")
        node.api("PUT", f"users/{self.user}", {"password": "secret", "tags": ""})
        self.allow(ALL)
        self.project = project(
            SOURCE.format(arguments=arguments, size=size),
            broker=f"amqp://{self.user}:secret@127.0.0.1:{node.amqp_port}/{self.vhost}",
            broker_heartbeat=2,
            broker_connection_max_retries=None,
            **SETTINGS,
        )
        self.workers = [self.worker() for _ in range(2)]
        self.beat = self.project.beat().ready()
        wait_until(lambda: len(self.project.rows()) > 20, "tasks run")

    def worker(self) -> CeleryProcess:
        return self.project.worker("-Q", "celery,q", concurrency=2).ready()

    def replace_ended(self) -> None:
        """As a supervisor does: Celery's worker ends where the broker refuses how it declares a queue."""
        self.workers = [each if each.alive else self.worker() for each in self.workers]

    def allow(self, rights: dict[str, str]) -> None:
        self.node.api("PUT", f"permissions/{self.vhost}/{self.user}", rights)

    def close_connections(self) -> None:
        self.node.control("close_all_connections", "--vhost", self.vhost, "attacked")

    def meanwhile(self, text: str, seconds: float = 5) -> None:
        """Time goes by, in which both units are polled, and `why` says this text."""
        before = len(events(self.project, "poll"))
        with Console(self.project) as console:
            until = time.monotonic() + seconds
            question = "[each.evidence for each in perpetual.why('proj.work').reasons]"
            wait_until(lambda: text in " ".join(console(question)), f"why says: {text}", 30)
            time.sleep(max(0.0, until - time.monotonic()))  # the measure
        units = Counter(each["unit"] for each in events(self.project, "poll")[before:])
        assert min(units["perpetual:proj.work"], units["perpetual:proj.other"]) > seconds / 2

    def judge(self) -> None:
        """Each item has ended once, as a success; none of its orders ran twice that was not lost; nothing is left."""
        self.project.write("stop", "")
        redis = self.project.redis
        units = [f"perpetual:u:perpetual:proj.{each}" for each in ("work", "other")]
        wait_until(lambda: {redis.hget(each, "inflight") for each in units} == {"0"}, "all have ended", 90)
        ends = final_ends(self.project)
        assert set(ends.values()) == {1}
        assert {status for _, status in ends} == {"success"}
        begun = Counter((row.id, row.what) for row in self.project.rows() if row.what.startswith("begin"))
        assert {task_id for task_id, _ in begun} <= {task_id for task_id, _ in ends}
        lost = {each["task_id"] for each in events(self.project, "lease.lost")}
        assert {task_id for (task_id, _), times in begun.items() if times > 1} <= lost
        left = ("leases", "states", "copies", "resend", "open", "parked")
        wait_until(lambda: not redis.exists(*(f"perpetual:{name}" for name in left)), "nothing of them is left")
        assert self.beat.alive
        assert all(each.alive for each in self.workers)


def rights_taken(it: Attacked) -> None:
    """And given back while batches are tried item by item."""
    it.allow(ALL | {"configure": "^$"})
    it.meanwhile("ACCESS_REFUSED")
    it.allow(ALL)


def queue_with_other_arguments(it: Attacked) -> None:
    it.node.api("DELETE", f"queues/{it.vhost}/q")
    it.node.api("PUT", f"queues/{it.vhost}/q", {"durable": True, "arguments": {"x-max-length": 1000}})
    it.close_connections()
    it.meanwhile("PRECONDITION_FAILED")
    it.node.api("DELETE", f"queues/{it.vhost}/q")


def workers_killed(it: Attacked) -> None:
    for _ in range(2):
        time.sleep(1)  # tasks run
        it.workers[0].kill9()
        it.replace_ended()


def node_killed(it: Attacked) -> None:
    """By SIGKILL; it is started again five seconds later."""
    os.kill(int(Path(it.node.variables["RABBITMQ_PID_FILE"]).read_text()), signal.SIGKILL)
    it.meanwhile("could not be published")
    it.node.start_again()
    wait_until(it.node.listens, "the node accepts connections", 60)


SHORT = {"x-max-length": 5}
CASES: dict[str, tuple[Callable[[Attacked], None], dict[str, Any], int]] = {
    "rights are taken": (rights_taken, {}, 10),
    "a queue has other arguments": (queue_with_other_arguments, {}, 10),
    "a short queue drops": (workers_killed, SHORT, 60),
    "a short queue refuses": (workers_killed, SHORT | {"x-overflow": "reject-publish"}, 60),
    "the node is killed": (node_killed, {}, 10),
}


@pytest.mark.parametrize("case", CASES)
def test_every_item_ends_once(case: str, project: Callable[..., Project], request: pytest.FixtureRequest) -> None:
    """It succeeds, `why` names the cause meanwhile, and the other unit is polled."""
    attack, arguments, size = CASES[case]
    node = request.getfixturevalue("own_rabbitmq" if attack is node_killed else "rabbitmq_node")
    it = Attacked(project, node, arguments, size)
    attack(it)
    it.replace_ended()
    it.judge()
