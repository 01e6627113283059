"""Workers: none, late, gone."""

from __future__ import annotations

from typing import TYPE_CHECKING

from celery_perpetual.health.findings import WARNING, WORKERS, Finding
from celery_perpetual.times import to_datetime
from celery_perpetual.wording import counted_are

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from celery_perpetual.health.reading import Reading
    from celery_perpetual.leases.workers import WorkerState

#: Seconds by which the clock of a worker may differ from the store's; a report may be under way for some of them.
MOST_SKEW = 10.0
#: Heartbeats that a worker may be late.
LATE_HEARTBEATS = 2


def is_late(worker: WorkerState, now: int, heartbeat: float) -> bool:
    """Whether a worker has missed two heartbeats; one that has not reported yet has missed none."""
    return bool(worker.reported_at) and now - worker.reported_at > LATE_HEARTBEATS * 1000 * heartbeat


def absent(reading: Reading, waiting: int) -> Iterator[Finding]:
    """No worker lives.

    Args:
        waiting: items in flight.
    """
    if reading.workers:
        return
    gone = reading.dead_workers
    yield Finding(
        kind="no_worker", area=WORKERS, level=WARNING, since=max(gone.values()) if gone else None,
        evidence="no worker has reported" + (f", and {counted_are(waiting, 'item')} in flight" if waiting else ""),
        meaning="what is enqueued is not executed", help="celery -A proj worker", about={},
    )  # fmt: skip


def late(reading: Reading) -> Sequence[Finding]:
    """Workers that have missed heartbeats, and dead ones that no leader has swept."""
    heartbeat = reading.settings.heartbeat
    found = [
        Finding(
            kind="worker_late", area=WORKERS, level=WARNING, since=to_datetime(each.reported_at),
            evidence=f"worker {_host(each.name)} has not reported for {(reading.now - each.reported_at) / 1000:.0f} s",
            meaning="it is frozen or cannot reach the store; its tasks are resent if it stays so",
            help="look at its machine and its log; celery -A proj perpetual workers", about={"worker": each.name},
        )
        for each in reading.workers if is_late(each, reading.now, heartbeat)
    ]  # fmt: skip
    grace = 1000 * LATE_HEARTBEATS * reading.settings.cycle_interval
    found += [
        Finding(
            kind="worker_lost", area=WORKERS, level=WARNING, since=at,
            evidence=f"worker {_host(name)} is gone, and its tasks are not resent yet",
            meaning="a leader resends them with its next cycle; is one there?",
            help="celery -A proj beat; celery -A proj perpetual status", about={"worker": name},
        )
        for name, at in reading.dead_workers.items() if reading.now - at.timestamp() * 1000 > grace
    ]  # fmt: skip
    return found


def skewed(reading: Reading) -> Sequence[Finding]:
    """Workers whose machine has another time than the store, as their last report says."""
    found = []
    for each in reading.workers:
        clock = each.info.get("clock")
        if clock is None or not each.reported_at:
            continue
        seconds = (each.reported_at - clock) / 1000
        if abs(seconds) > MOST_SKEW:
            found.append(
                Finding(
                    kind="worker_clock", area=WORKERS, level=WARNING,
                    evidence=f"the clock of worker {_host(each.name)} is {abs(seconds):.0f} s "
                    f"{'behind' if seconds > 0 else 'ahead of'} the store's",
                    meaning="tasks with an ETA begin there too early or too late, and so do tasks expire",
                    help="synchronise the clock of its machine: timedatectl status", about={"worker": each.name},
                )
            )  # fmt: skip
    return found


def _host(worker: str) -> str:
    return worker.partition("#")[0]
