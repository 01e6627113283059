"""Work that waits in queues: since when, and what keeps the consumers of its queue from it.

The broker is not asked. Where items went is on record with their batch, and workers report their queues, what they run
and what they have received. The oldest batches are read, and no more than some of them.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from celery_perpetual.broker.destinations import Destination, by_index
from celery_perpetual.broker.native_delay import held_back
from celery_perpetual.broker.queue_sizes import UNKNOWN, place_of, queues_of, queues_with_known_bindings
from celery_perpetual.health.findings import WARNING, WORKERS, Finding
from celery_perpetual.ledger.ids import item_id, made_at
from celery_perpetual.store.chunks import CHUNK, chunk_count
from celery_perpetual.store.commands.batches import batch, open_batches
from celery_perpetual.store.commands.destinations import published_to
from celery_perpetual.store.commands.leases import leases_of, states_of
from celery_perpetual.store.commands.records import open_positions
from celery_perpetual.times import to_datetime
from celery_perpetual.wording import counted
from celery_perpetual.worker.wake import WAKE

if TYPE_CHECKING:
    from celery_perpetual.health.reading import Reading
    from celery_perpetual.leases.workers import WorkerState

#: Batches that are read, from the oldest.
MOST_BATCHES = 20
#: Items that are counted.
MOST_ITEMS = 2_000
#: An item waits for so many ms before anything is said of it: without a consumer, with an idle one, with busy ones.
NO_CONSUMER_MS, IDLE_MS, BUSY_MS = 10_000, 30_000, 120_000


@dataclass(slots=True)
class Waiting:
    """Items that wait in one queue, as far as the oldest batches show."""

    queue: str
    since: int
    """When the oldest was enqueued, ms."""
    items: int = 0


def waiting_items(reading: Reading, polls: Iterable[str] | None = None) -> dict[str, Waiting]:
    """The items that wait for a worker, by queue.

    Args:
        polls: ids of the batches that are read; the oldest of all unless given.
    """
    store, app = reading.store, reading.namespace.app
    held = {task_id for worker in reading.workers for task_id in worker.tags.values()}
    if polls is None:
        polls = [poll for poll, _ in open_batches(store, "-inf", reading.now, MOST_BATCHES)]
    found: dict[str, Waiting] = {}
    for poll in polls:
        facts = batch(store, poll)
        if facts is None:
            continue
        for index, task_id in _unbegun(reading, poll, facts.published):
            if task_id in held:
                continue
            if sum(each.items for each in found.values()) >= MOST_ITEMS:
                return found
            destination = _destination(reading, poll, index)
            since = made_at(poll) + (0 if destination is None else held_back(destination))
            if since > reading.now:
                continue
            places = () if destination is None else queues_of(app, destination) or (place_of(app, destination),)
            for queue in places:
                waits = found.setdefault(queue, Waiting(queue, since))
                waits.since = min(waits.since, since)
                waits.items += 1
    return found


def _unbegun(reading: Reading, poll: str, published: int) -> Iterator[tuple[int, str]]:
    """Published items that no worker executes, that wait for nothing and for no operator."""
    for chunk in range(chunk_count(published)):
        at = [chunk * CHUNK + position for position in open_positions(reading.store, poll, chunk)]
        ids = [item_id(poll, index) for index in at]
        for index, task_id, lease, state in zip(
            at, ids, leases_of(reading.store, ids), states_of(reading.store, ids), strict=True
        ):
            if lease is None and (state is None or state.flag == "run") and index < published:
                yield index, task_id


def _destination(reading: Reading, poll: str, index: int) -> Destination | None:
    known = reading.destinations
    chunk = index // CHUNK
    if (poll, chunk) not in known:
        (text,) = published_to(reading.store, poll, [chunk])
        known[poll, chunk] = by_index(text)
    return known[poll, chunk].get(index)


def is_busy(worker: WorkerState) -> bool:
    """Whether every place of a worker is taken."""
    places = worker.info.get("concurrency") or 1
    return max(int(worker.info.get("active", 0)), len(worker.tags)) >= int(places)


def queue_findings(reading: Reading, waiting: Iterable[Waiting], patience: float = 1.0) -> list[Finding]:
    """Reasons why items wait; none where no worker lives, as that is a finding of its own.

    Args:
        patience: the part of the usual times after which something is said.
    """
    if not reading.workers:
        return []
    return [each for waits in waiting if (each := _finding(reading, waits, patience)) is not None]


def _finding(reading: Reading, waits: Waiting, patience: float) -> Finding | None:
    age, queue = reading.now - waits.since, waits.queue
    known = queues_with_known_bindings(reading.namespace.app)
    consumers = [each for each in reading.workers if each.consumes(queue, known)]
    number = f"{'at least ' if waits.items >= MOST_ITEMS else ''}{counted(waits.items, 'item')}"
    seen = f"{number} wait{'s' if waits.items == 1 else ''} in the queue {queue!r}"
    if queue.startswith(UNKNOWN):
        if consumers:
            return None  # they may be in a queue of another app's settings, or of which only the broker knows the way
        kind, least = "queue_unknown", NO_CONSUMER_MS
        evidence = f"{number} went to {queue}, and neither the settings nor a worker have a queue for it"
        meaning = "the broker has dropped the messages, or keeps them in a queue that these settings do not bind"
        advice = "name the queue in task_queues and start a worker for it, or correct exchange and routing key"
    elif not consumers:
        queues = ", ".join(sorted({each for worker in reading.workers for each in worker.info.get("queues", ())}))
        kind, least = "queue_without_consumer", NO_CONSUMER_MS
        evidence, meaning = (
            f"{seen}, and no worker consumes it (they consume {queues})",
            "nothing in it is executed",
        )
        advice = f"celery -A proj worker -Q {queue}; celery -A proj control add_consumer {queue}"
    elif all(is_busy(worker) for worker in consumers):
        kind, least = "workers_busy", BUSY_MS
        evidence = f"{seen}, and every place of its {counted(len(consumers), 'worker')} is taken"
        meaning = "work comes faster than it is done, or tasks hang"
        advice = "add workers, or celery -A proj control pool_grow 4; celery -A proj perpetual leases shows what runs"
    else:
        kind, least = "queue_not_consumed", IDLE_MS
        evidence = f"{seen}, and workers that consume it have free places"
        meaning = (
            "a worker has stopped consuming without a word, or a limit of its own keeps it from it; or the broker has "
            "dropped the messages (purged, too old, too many), and they are sent again after some lease times"
        )
        advice = (
            f"celery -A proj control {WAKE} {queue}; that opens its consumers anew, as a restart of the worker does"
        )
    if age < least * patience:
        return None
    return Finding(
        kind=kind, area=WORKERS, level=WARNING, since=to_datetime(waits.since), evidence=evidence, meaning=meaning,
        help=advice, about={"queue": queue},
    )  # fmt: skip
