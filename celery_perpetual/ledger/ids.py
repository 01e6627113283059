"""Ids that say where their ledger is.

A poll id and the task ids of its items are UUIDs of version 8 with one layout: 48 bits of the store's time in
milliseconds, 42 random bits, 32 bits of index. The poll has index ``ffffffff``, item n has index n, so from a task id
alone follow its poll, its chunk and its position, without a look-up.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import lru_cache
from secrets import randbits
from typing import TYPE_CHECKING, Any

from celery.result import AsyncResult

from celery_perpetual.errors import ContractError, encodable
from celery_perpetual.store.chunks import CHUNK
from celery_perpetual.store.commands.records import Place
from celery_perpetual.store.header import Filling, Of

if TYPE_CHECKING:
    from typing import TypeAlias

    from celery_perpetual.store.keys import Keys

    #: The types that callers may give where an id is asked for.
    TaskRef: TypeAlias = str | AsyncResult[Any]

POLL_INDEX = "ffffffff"

#: Of the message of ``on_batch_done``; no item has it.
BATCH_INDEX = "fffffffe"
_FORM = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-8[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}")


@dataclass(frozen=True, slots=True)
class ItemAddress:
    """Where an item's record is."""

    poll_id: str
    index: int

    @property
    def chunk(self) -> int:
        return self.index // CHUNK

    @property
    def position(self) -> int:
        return self.index % CHUNK

    @property
    def place(self) -> Place:
        """As the store's commands take it."""
        return Place(self.poll_id, self.chunk, self.position)


def id_of(task: TaskRef) -> str:
    """The id of a task, which callers give as such or as Celery's ``AsyncResult``.

    Raises:
        ContractError: it is neither.
    """
    task_id = task.id if isinstance(task, AsyncResult) else task
    if not isinstance(task_id, str) or not task_id:
        raise ContractError(f"a task id must be a non-empty string, or the AsyncResult of the task, got {task!r}")
    if not task_id.isascii() and encodable(task_id) != task_id:
        raise ContractError(f"a task id must be text that can be encoded, got {task_id!r}")
    return task_id


def new_poll_id(now: int) -> str:
    """A poll id made at the store's time ``now`` (milliseconds)."""
    return new_poll_ids(now, 1)[0]


def new_poll_ids(now: int, count: int) -> list[str]:
    """So many poll ids; the system is asked for random bits once, as every call lets other threads go first."""
    time = f"{now & 0xFFFF_FFFF_FFFF:012x}"
    bits, ids = randbits(42 * count), []
    for _ in range(count):
        high, low = bits & 0xFFF, (bits >> 12) & 0x3FFF_FFFF
        ids.append(f"{time[:8]}-{time[8:]}-8{high:03x}-{0x8000 | low >> 16:04x}-{low & 0xFFFF:04x}{POLL_INDEX}")
        bits >>= 42
    return ids


def base(poll_id: str) -> str:
    """The beginning of all ids of one poll."""
    return poll_id[:28]


def item_id(poll_id: str, index: int) -> str:
    """The task id of item ``index``."""
    return f"{poll_id[:28]}{index:08x}"


def parse_item_id(task_id: str) -> ItemAddress | None:
    """Where the record of a task is, or None if the id is not of our form."""
    if not isinstance(task_id, str) or len(task_id) != 36 or task_id[14] != "8":  # as nearly all ids of other packages
        return None
    return _parsed(task_id)


@lru_cache(maxsize=512)  # a process asks several times for an id that it works on
def _parsed(task_id: str) -> ItemAddress | None:
    if task_id.endswith(POLL_INDEX) or not _FORM.fullmatch(task_id):
        return None
    return ItemAddress(task_id[:28] + POLL_INDEX, int(task_id[28:], 16))


def item_address(task_id: str) -> ItemAddress | None:
    """Where the record of an item is; the message of a batch has an id of our form, but is no item of it."""
    return None if isinstance(task_id, str) and task_id.endswith(BATCH_INDEX) else parse_item_id(task_id)


def made_at(item_or_poll_id: str) -> int:
    """When an id of our form was made: ms of the store's time."""
    return int(item_or_poll_id.replace("-", "")[:12], 16)


def item_index(task_id: str) -> int:
    """The index of an item in its batch, by its task id."""
    return int(task_id[28:], 16)


def item_slots(keys: Keys, task_id: str) -> dict[str, str | int]:
    """Where the record of an item is, as arguments of a script: poll, keys of its chunk and position.

    For foreign ids: position -1 and unused key names, because access rules of a Redis user reject an empty key.
    """
    where = item_address(task_id)
    poll, chunk, position = ("", 0, -1) if where is None else (where.poll_id, where.chunk, where.position)
    return {"poll": poll, "chunk": keys.chunk(poll, chunk), "done": keys.done(poll, chunk), "position": position}


def item_place(keys: Keys, task_id: str) -> dict[str, str | int]:
    """The same for scripts that are filled with :func:`item_fillings`: the key of its chunk, and position."""
    where = item_address(task_id)
    poll, chunk, position = ("", 0, -1) if where is None else (where.poll_id, where.chunk, where.position)
    return {"chunk": keys.chunk(poll, chunk), "position": position}


def item_fillings(keys: Keys) -> dict[str, Filling]:
    """Slots that a script fills by itself from the id of an item and the key of its chunk."""
    behind_prefix = len(keys.chunks_prefix.encode()) + 1
    return {
        "batch": (keys.poll_prefix, Of("string.sub(id, 1, 28)"), POLL_INDEX),
        "done": (keys.done_prefix, Of(f"string.sub(chunk, {behind_prefix})")),
    }
