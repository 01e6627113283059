"""The demo's accident: a worker is killed at work, another one takes its place, and its tasks are resent."""

import json
import re
import time
from collections import Counter
from dataclasses import dataclass, field

from redis import Redis
from redis.exceptions import RedisError

from celery_perpetual import PerpetualError
from celery_perpetual.events import DELIVERIES_RESTORED
from progress import Snapshot
from stage import BEATS, TASK, WORKERS, Stage

VICTIM = WORKERS[0]
REPLACEMENT = "worker-3"
#: Looks in a row: between two tasks a worker executes nothing.
TRIES = 5
#: Lines of beat's log about messages that are back in their queue, up to their number.
PUT_BACK = re.compile(
    re.escape(DELIVERIES_RESTORED.phrase.partition("%(tasks)s")[0]).replace(re.escape("%(count)s"), r"(\d+)")
)


@dataclass(frozen=True)
class Kill:
    """The killed worker, the time of its death by the store's clock, and the tasks that it was executing."""

    worker: str
    pid: int
    at: int  # ms
    delivered: int  # rows, until then
    held: frozenset[str]


@dataclass(frozen=True)
class Recovery:
    """Measures of celery-perpetual after the accident, by its own events."""

    tasks: frozenset[str] = frozenset()  # sent again under their ids
    seconds: float | None = None  # from the kill until the last of them had been sent again
    deliveries: Counter[int] = field(default_factory=Counter)  # how often the task of each was sent again
    put_back: int = 0  # further messages that the dead worker had received, back in the queue
    ended: frozenset[str] = frozenset()  # since the kill, in whatever way


class Accident:
    """Happens once, as soon as a third of the rows is delivered and the worker is executing something."""

    def __init__(self, stage: Stage, server: Redis) -> None:
        self._stage = stage
        self._server = server
        self.kill: Kill | None = None

    def consider(self, snapshot: Snapshot) -> None:
        """Is it time?"""
        if snapshot.pending and snapshot.delivered * 3 >= snapshot.items:
            for _ in range(TRIES):
                if self.kill is None:
                    self._try(snapshot)

    def _try(self, snapshot: Snapshot) -> None:
        """Look at the worker while it is frozen, so that the look is still true when the signal comes."""
        process = self._stage.fleet.all[VICTIM]
        with process.frozen():
            time.sleep(0.1)  # so that its earlier calls have reached the store
            try:
                at, held = store_time(self._server), leases_of(VICTIM)
            except (PerpetualError, RedisError):
                return
            if not held:
                return
            self._stage.fleet.crash(VICTIM)
        self.kill = Kill(VICTIM, process.pid, at, snapshot.delivered, held)
        print(f"  {VICTIM} and its children: killed with SIGKILL while executing {tasks(len(held))}", flush=True)
        self._stage.start_worker(REPLACEMENT)

    def recovery(self) -> Recovery:
        """The events since the kill; none as long as nothing has happened or the store does not answer."""
        if self.kill is None:
            return Recovery()
        try:
            return read_recovery(self._server, self._stage, self.kill)
        except RedisError:
            return Recovery()


def tasks(count: int) -> str:
    return f"{count} task" if count == 1 else f"{count} tasks"


def store_time(server: Redis) -> int:
    seconds, microseconds = server.time()
    return int(seconds) * 1000 + int(microseconds) // 1000


def leases_of(worker: str) -> frozenset[str]:
    """Ids of the deliveries that a worker is executing."""
    from outbox_site.celery import perpetual

    held = [lease for lease in perpetual.leases() if lease.worker.startswith(f"{worker}@")]
    return frozenset(lease.task_id for lease in held if lease.task == TASK)


def read_recovery(server: Redis, stage: Stage, kill: Kill) -> Recovery:
    """From the stream of events, whose entries are named by the store's time in ms."""
    from outbox_site.celery import perpetual

    recovered: set[str] = set()
    ended: set[str] = set()
    deliveries: Counter[int] = Counter()
    last = None
    for name, entry in server.xrange(f"{perpetual.settings.key_prefix}:events", min=kill.at):
        event, data = entry[b"event"], json.loads(entry[b"data"])
        if event in (b"lease.lost", b"lease.recovered"):
            last = int(name.partition(b"-")[0])
        ended_again = event == b"completion" and data["recoveries"] > 0
        if event == b"lease.recovered" or ended_again:
            recovered.add(data["task_id"])
        if event == b"completion" and data["final"]:
            ended.add(data["task_id"])
        if ended_again and data["task"] == TASK:
            deliveries[int(data["key"])] = data["recoveries"]
    return Recovery(
        tasks=frozenset(recovered),
        ended=frozenset(ended),
        seconds=None if last is None else round((last - kill.at) / 1000, 2),
        deliveries=deliveries,
        # The worker held no lease for these, so there is no event of them in the stream; beat logs how many they are.
        put_back=sum(int(count) for beat in BEATS for count in PUT_BACK.findall(stage.fleet.all[beat].text())),
    )
