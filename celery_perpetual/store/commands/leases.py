"""Leases, states, and lists of lost and parked tasks. The only Python code that knows the text of a lease and a state.

The scripts write both, see ``include/lease.lua``.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from heapq import nsmallest
from itertools import islice
from typing import TYPE_CHECKING, Any, NamedTuple

from celery_perpetual.store.chunks import CHUNK

if TYPE_CHECKING:
    from celery_perpetual.store.connection import Store


class LeaseText(NamedTuple):
    """The store's facts on an execution."""

    worker: str
    nonce: str
    nesting: int
    retries: int
    has_state: bool
    """Whether the store has a state of the task."""
    token: int
    started_at: int
    """Milliseconds of the store's time."""
    most_recoveries: int
    on_lost: str
    tag: str
    task: str

    @classmethod
    def read(cls, text: bytes) -> LeaseText:
        worker, nonce, nesting, retries, has_state, *granted = text.decode().split("|", 10)
        token, started, most, on_lost, tag, task = granted
        return cls(
            worker, nonce, int(nesting), int(retries), has_state == "1", int(token), int(started), int(most), on_lost,
            tag, task,
        )  # fmt: skip


def asked_lease(
    worker: str, nonce: str, nesting: int, retries: int, *, most_recoveries: int, on_lost: str, tag: str, task: str
) -> dict[str, str]:
    """The facts of an execution that asks for its lease, as arguments of the scripts that grant one.

    Together they are the lease's text without what only the store knows: whether the task has a state, its
    token and the time of its start.
    """
    return {
        "worker": worker,
        "lease_begins": f"{worker}|{nonce}|{nesting}|{retries}|",
        "lease_ends": f"|{most_recoveries}|{on_lost}|{tag}|{task}",
    }


#: Flags of tasks whose message is on its way, if they have no lease. One that has sent itself again (``back`` or
#: ``came``) has a lease until it ends, unless that was lost with a part of the data.
WAITING = ("run", "wait", "back", "came")


#: Flag of a state that cannot be read: nothing is done about its task.
UNREADABLE = "unreadable"


class StateText(NamedTuple):
    """The store's facts on a task that has not ended."""

    nesting: int
    retries: int
    recoveries: int
    flag: str
    """``run``, ``wait``, ``back``, ``came``, ``delegated``, ``resend``, ``fail``, ``parked`` or :data:`UNREADABLE`."""
    tag: str
    task: str
    since: int = 0
    """When it was written: ms of the store's time."""

    @classmethod
    def read(cls, text: bytes) -> StateText:
        since, nesting, retries, recoveries, flag, tag, task = text.decode().split("|", 6)
        return cls(int(nesting), int(retries), int(recoveries), flag, tag, task, int(since))

    @classmethod
    def among_others(cls, text: bytes) -> StateText:
        """The same; what another program has written gets a flag of no task, so that it does not hide the others."""
        try:
            return cls.read(text)
        except ValueError:
            return cls(0, 0, 0, UNREADABLE, "", "")


def lease_of(store: Store, task_id: str) -> LeaseText | None:
    """The lease of a task, None if it is not executed."""
    with store.errors("lease"):
        text = store.redis.hget(store.keys.leases, task_id)
    return LeaseText.read(text) if text else None


def state_of(store: Store, task_id: str) -> StateText | None:
    """The state of a task, None if nothing is remembered of it."""
    with store.errors("state"):
        text = store.redis.hget(store.keys.states, task_id)
    return StateText.read(text) if text else None


def states_page(store: Store, cursor: int) -> tuple[int, list[tuple[str, bytes]]]:
    """Some states as they are stored, by task id, and the cursor of the next page; 0 is the first page and the end."""
    with store.errors("states"):
        following, found = store.redis.hscan(store.keys.states, cursor, count=CHUNK)
    return following, [(task_id.decode(), text) for task_id, text in found.items()]


def lease_and_trace(store: Store, task_id: str) -> tuple[LeaseText | None, bool]:
    """The lease of a task, and whether the store has a lease, a state or a completion of it; read in one step.

    Between two reads a worker may enter a lease that the store had forgotten.
    """
    keys = store.keys
    with store.errors("lease"):
        pipe = store.redis.pipeline(transaction=True)
        pipe.hget(keys.leases, task_id)
        pipe.hexists(keys.states, task_id)
        pipe.exists(keys.completion(task_id))
        text, *others = pipe.execute()
    return LeaseText.read(text) if text else None, bool(text) or any(others)


def first_leases(store: Store, limit: int) -> list[tuple[str, LeaseText]]:
    """So many leases by task id, in no order."""
    with store.errors("leases"):
        found = list(islice(store.redis.hscan_iter(store.keys.leases, count=CHUNK), limit))
    return [(task_id.decode(), LeaseText.read(text)) for task_id, text in found]


def oldest_leases(store: Store, limit: int) -> list[tuple[str, LeaseText]]:
    """So many leases by task id, those of the tasks first that run for longest; there are as many as tasks run."""
    with store.errors("leases"):
        found = (
            (task_id.decode(), LeaseText.read(text))
            for task_id, text in store.redis.hscan_iter(store.keys.leases, count=CHUNK)
        )
        return nsmallest(limit, found, key=lambda each: each[1].started_at)


def leases_of(store: Store, ids: Sequence[str]) -> list[LeaseText | None]:
    """The leases of tasks, in their order."""
    if not ids:
        return []
    with store.errors("leases"):
        texts = store.redis.hmget(store.keys.leases, ids)
    return [LeaseText.read(text) if text else None for text in texts]


def states_of(store: Store, ids: Sequence[str]) -> list[StateText | None]:
    """The states of tasks, in their order."""
    if not ids:
        return []
    with store.errors("states"):
        texts = store.redis.hmget(store.keys.states, ids)
    return [StateText.among_others(text) if text else None for text in texts]


def parked_ids(store: Store) -> list[str]:
    """Ids of the tasks that wait for an operator."""
    with store.errors("parked"):
        return [task_id.decode() for task_id in store.redis.hkeys(store.keys.parked)]


def copy_of(store: Store, task_id: str) -> bytes | None:
    """The copy of a task's message, where the ledger does not have it."""
    with store.errors("copy"):
        found: bytes | None = store.redis.hget(store.keys.copies, task_id)
    return found


def is_parked(store: Store, task_id: str) -> bool:
    """Whether a task waits for an operator."""
    with store.errors("parked"):
        return bool(store.redis.hexists(store.keys.parked, task_id))


def parked_tasks(store: Store) -> Iterator[dict[str, Any]]:
    """The facts that are stored of each parked task, those first that are parked for longest; some are read at once."""
    first = 0
    while ids := _ids_of_parked(store, first, first + CHUNK - 1):
        with store.errors("parked"):
            texts = store.redis.hmget(store.keys.parked, ids)
        yield from (json.loads(text) for text in texts if text)
        first += len(ids)


def _ids_of_parked(store: Store, first: int, last: int) -> list[bytes]:
    with store.errors("parked"):
        found: list[bytes] = store.redis.zrange(store.keys.parked_at, first, last)
    return found


class ParkedTasks(NamedTuple):
    """The parked tasks together."""

    tasks: int
    since: int = 0
    """When the first of them was parked: ms of the store's time."""
    last_reason: str = ""
    """The reason of the last one."""


def all_parked(store: Store) -> ParkedTasks:
    """How many tasks are parked, since when, and why the last one is."""
    keys = store.keys
    with store.errors("parked"):
        pipe = store.redis.pipeline(transaction=True)
        pipe.zcard(keys.parked_at)
        pipe.zrange(keys.parked_at, 0, 0, withscores=True)
        pipe.zrange(keys.parked_at, 0, 0, desc=True)
        count, first, last = pipe.execute()
        text = store.redis.hget(keys.parked, last[0]) if count else None
    if not count:
        return ParkedTasks(0)
    return ParkedTasks(count, int(first[0][1]), str(json.loads(text)["reason"]) if text else "")


def lost_tasks(store: Store, limit: int) -> list[tuple[str, float]]:
    """The oldest entries of the list of tasks to be resent: their ids, and since when they wait (ms)."""
    with store.errors("lost tasks"):
        entries = store.redis.zrange(store.keys.resend, 0, limit - 1, withscores=True)
    return [(task_id.decode(), since) for task_id, since in entries]


def lost_since(store: Store, task_id: str) -> float | None:
    """Since when a task waits to be resent (ms), None if it does not."""
    with store.errors("lost task"):
        since: float | None = store.redis.zscore(store.keys.resend, task_id)
    return since


def remove_lost(store: Store, task_id: str) -> None:
    """Take a task off that list."""
    with store.errors("lost tasks"):
        store.redis.zrem(store.keys.resend, task_id)


def mark_suspect(store: Store, task_id: str, worker: str, *, ttl_ms: int) -> str | None:
    """Write a worker's name on a message; returns the name that was there."""
    with store.errors("suspect"):
        before = store.redis.set(store.keys.suspect(task_id), worker, px=ttl_ms, get=True)
    return None if before is None else str(before.decode())


def unmark_suspect(store: Store, task_id: str) -> None:
    """Take the name of the worker off."""
    with store.errors("suspect"):
        store.redis.delete(store.keys.suspect(task_id))
