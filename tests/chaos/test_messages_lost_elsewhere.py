"""Items whose message a RabbitMQ broker does not have any more: each ends, or is in its queue again."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest
from kombu import Connection, Queue

from tests.support import wait_until
from tests.support.leased_tasks import SETTINGS, final_ends

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.support import Project

#: Seconds after which kombu restores a message on Redis.
VISIBILITY = 6

SOURCE = """
from kombu import Queue

DROPS = {"x-message-ttl": 500, "x-dead-letter-exchange": "", "x-dead-letter-routing-key": "dead"}
app.conf.task_queues = [Queue("celery"), Queue("short", queue_arguments=DROPS)]

@app.task(base=PerpetualTask, poll_every=3600, next_batch=lambda: [
    Item((name,), key=name, queue=name, expires=1 if name == "expiring" else None)
    for name in ("expiring", "kept", "purged", "deleted", "short")
])
def wait(name): ...

@app.task(base=PerpetualTask, poll_every=3600, bind=True, max_retries=5, next_batch=lambda: [()])
def moved(self):
    if self.request.delivery_info["routing_key"] != "slow":
        raise self.retry(queue="slow", countdown=0)

def next_of_line(poll):
    return [Item((n,), key=n, queue="line") for n in ([0] if poll.cursor is None else range(1, 5))]

@app.task(base=PerpetualTask, poll_every=3600, next_batch=lambda poll: Batch(next_of_line(poll), cursor=1))
def line(n):
    ledger.record(str(n), "begin")
    while not os.path.exists("released"):
        time.sleep(0.05)

@app.task(base=PerpetualTask, poll_every=3600, bind=True, lease=False, next_batch=lambda: [Item((), queue="fragile")])
def late(self):
    ledger.record(self.request.id, "late")
    while not os.path.exists("released"):
        time.sleep(0.05)

@app.task(base=PerpetualTask, poll_every=3600, bind=True, lease=False, acks_late=False,
          next_batch=lambda: [Item((), queue="fragile")])
def early(self):
    ledger.record(self.request.id, "early")
    while not os.path.exists("released"):
        time.sleep(0.05)
"""


def poll(proj: Project, *names: str) -> dict[str, list[str]]:
    """Poll by hand, and return the ids of the items; the leader polls nothing."""
    found = proj.run_python(f"""
        import proj
        for name in {names!r}:
            outcome = proj.perpetual.poll("proj." + name)
            assert outcome.status == "enqueued", outcome
            print(name, *outcome.task_ids)
        if proj.perpetual.cycle().errors: raise SystemExit("the items were not published")
        proj.perpetual.pause(everything=True)
    """)
    return {words[0]: words[1:] for words in map(str.split, found.splitlines())}


class Queues:
    """The queues of the broker."""

    def __init__(self, connection: Connection) -> None:
        self.channel = connection.default_channel

    def size(self, name: str) -> int:
        """How many messages are ready."""
        return Queue(name, channel=self.channel).queue_declare(passive=True).message_count

    def take(self, name: str) -> tuple[str, int] | None:
        """Take a message away: its task id, and how often the task was retried."""
        message = Queue(name, channel=self.channel).get(no_ack=True)
        return message and (message.headers["id"], message.headers["retries"])


@pytest.fixture
def queues(rabbitmq_url: str) -> Iterator[Queues]:
    with Connection(rabbitmq_url) as connection:
        yield Queues(connection)


@pytest.fixture
def proj(project: Callable[..., Project], rabbitmq_url: str) -> Project:
    return project(SOURCE, broker=rabbitmq_url, broker_heartbeat=2, **SETTINGS)


@pytest.mark.matrix
def test_a_message_that_is_gone_is_in_its_queue_again(proj: Project, queues: Queues) -> None:
    """Purged, deleted with its queue, dropped by a rule of its queue, popped by others, expired; first or retried."""
    Queue("dead", channel=queues.channel).queue_declare()
    proj.worker("-Q", "celery", concurrency=1).ready()
    ids = poll(proj, "wait", "moved", "line")
    expiring, kept, purged, deleted, short = ids["wait"]
    assert queues.take("line") == (ids["line"][0], 0)
    wait_until(lambda: queues.size("slow") == 1, "the task has sent its retry to the other queue")
    queues.channel.queue_purge("purged")
    queues.channel.queue_purge("slow")
    queues.channel.queue_delete("deleted")
    proj.run_python("import proj; proj.perpetual.resume(everything=True)")
    poll(proj, "line")
    proj.worker("-Q", "line", "--prefetch-multiplier", "1", concurrency=1).ready()
    wait_until(lambda: proj.rows("begin"), "a later item of that queue runs")

    proj.beat().ready()

    wait_until(lambda: final_ends(proj) == {(expiring, "expired"): 1}, "what has expired ends")
    assert wait_until(lambda: queues.take("purged"), "what was purged is in its queue again") == (purged, 0)
    assert wait_until(lambda: queues.take("slow"), "the retry too") == (ids["moved"][0], 1)
    wait_until(lambda: proj.redis.hexists("perpetual:states", deleted), "what was in a queue that is deleted is lost")
    assert wait_until(lambda: queues.take("deleted"), "that queue is there again, and the message") == (deleted, 0)
    wait_until(lambda: queues.size("dead") > 1, "what its queue has dropped is sent there again")
    assert {queues.take("dead") for _ in range(2)} == {(short, 0)}
    wait_until(lambda: queues.size("line") == 4, "so is what is gone from a queue that is not empty")
    assert queues.size("kept") == 1
    assert queues.take("kept") == (kept, 0)
    proj.write("released", "")
    wait_until(lambda: len({row.id for row in proj.rows("begin")}) == 5, "all of that queue run", 60)
    assert len(proj.rows("begin")) == 5


@pytest.mark.parametrize("broker", ["redis", pytest.param("rabbitmq", marks=pytest.mark.matrix)], indirect=True)
def test_an_item_without_a_lease_ends_when_its_worker_dies(
    project: Callable[..., Project], broker: dict[str, object]
) -> None:
    """It ends as lost where its message was acknowledged early; else the broker has it still. Running tasks stay."""
    proj = project(SOURCE, **{"broker_transport_options": {"visibility_timeout": VISIBILITY}, **broker, **SETTINGS})
    ids = poll(proj, "late", "early")
    proj.beat().ready()
    doomed = proj.worker("-Q", "fragile").ready()
    wait_until(lambda: proj.rows("late") and proj.rows("early"), "both run")
    doomed.kill9()
    other = proj.worker("-Q", "fragile").ready()

    wait_until(lambda: final_ends(proj), "one of them ends")
    assert final_ends(proj) == {(ids["early"][0], "lost"): 1}
    if "broker" not in broker:
        # A worker of kombu restores when it starts, and then only every hundred seconds.
        received = max(at for _, at in proj.redis.zrange("unacked_index", 0, -1, withscores=True))
        wait_until(lambda: time.time() > received + VISIBILITY, "the message may be restored")
        proj.worker("-Q", "fragile").ready()
    wait_until(lambda: len(proj.rows("late")) > 1, "the other one runs again")
    assert proj.redis.hget("perpetual:u:perpetual:proj.early", "inflight") == "0"
    assert other.alive
    proj.write("released", "")
    wait_until(lambda: len(final_ends(proj)) == 2, "and ends")
    assert (ids["late"][0], "success") in final_ends(proj)
