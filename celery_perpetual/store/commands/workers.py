"""Workers as they last reported."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from celery_perpetual.store.connection import Store


class WorkerReport(NamedTuple):
    """The last report of one worker."""

    name: str
    deadline: int
    """Milliseconds of the store's time."""
    said: dict[bytes, bytes]
    tags: dict[str, str]
    """Delivery tag -> task id."""
    held: int
    """How many leases it holds."""


def worker_deadlines(store: Store) -> dict[str, int]:
    """Every worker that is not forgotten, dead or alive, and its deadline (ms)."""
    with store.errors("workers"):
        found = store.redis.zrange(store.keys.workers, 0, -1, withscores=True)
    return {name.decode(): int(deadline) for name, deadline in found}


def living_workers(store: Store, dead_for: int = 0) -> list[WorkerReport]:
    """Workers whose deadline has not passed, or has passed less than so many ms ago."""
    keys, latest = store.keys, store.now() - dead_for
    with store.errors("workers"):
        found = store.redis.zrangebyscore(keys.workers, f"({latest}", "+inf", withscores=True)
        living = [(name.decode(), int(deadline)) for name, deadline in found]
        pipe = store.redis.pipeline(transaction=False)
        for name, _ in living:
            pipe.hgetall(keys.worker(name))
            pipe.hgetall(keys.tags(name))
            pipe.scard(keys.held(name))
        rows = iter(pipe.execute())
    return [
        WorkerReport(name, deadline, said, {tag.decode(): task.decode() for tag, task in tags.items()}, int(held))
        for (name, deadline), said, tags, held in zip(living, rows, rows, rows, strict=True)
    ]


def reported_tags(store: Store, worker: str) -> set[str]:
    """Delivery tags that a worker has reported."""
    with store.errors("worker"):
        return {tag.decode() for tag in store.redis.hkeys(store.keys.tags(worker))}


def newest_deadline(store: Store, host: str, name: str | None) -> int | None:
    """The latest deadline of a worker of one machine, or of this name; ms, None where none is known."""
    latest = None
    for instance, deadline in worker_deadlines(store).items():
        hostname = instance.partition("#")[0]
        if hostname == name if name is not None else hostname.rpartition("@")[2] == host:
            latest = max(latest or 0, deadline)
    return latest
