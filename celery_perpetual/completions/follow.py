"""Following completions: as they happen, or at least once with a consumer group."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from celery.utils.log import get_logger
from redis.exceptions import ResponseError

from celery_perpetual.completions.completion import Completion, from_json
from celery_perpetual.errors import ContractError, StoreUnavailable

if TYPE_CHECKING:
    from celery_perpetual.store import Store

logger = get_logger(__name__)

BLOCK_MS = 1000
#: An entry that its consumer has held for this long is taken over: the consumer is dead or stuck.
IDLE_MS = 60_000
PAUSE_SECONDS = 0.2


@dataclass(frozen=True, slots=True, kw_only=True)
class Event:
    """One entry of the stream of events."""

    id: str
    event: str
    """Its name: ``completion``, ``poll``, ``leader`` …"""
    data: dict[str, Any]

    @property
    def completion(self) -> Completion | None:
        """The completion, where it is one."""
        return from_json(json.dumps(self.data)) if self.event == "completion" else None


def subscribe(store: Store) -> Iterator[Completion]:
    """Iterate completions of the namespace as they happen, for ever. What happens while nobody iterates is missed.

    Raises:
        StoreUnavailable: the connection was lost; :func:`stream` misses nothing.
    """
    with store.errors("subscribe"):
        pubsub = store.redis.pubsub(ignore_subscribe_messages=True)
        pubsub.subscribe(store.keys.everybody)
    try:
        while True:
            with store.errors("subscribe"):
                message = pubsub.get_message(timeout=BLOCK_MS / 1000)
            if message is not None:
                yield from_json(message["data"])
    finally:
        pubsub.close()


def stream(store: Store, group: str, consumer: str, *, idle: float = IDLE_MS / 1000) -> Iterator[Event]:
    """Iterate events at least once, for ever.

    An event is acknowledged when the next one is asked for, so the loop's body has seen it through. What a consumer
    has held for ``idle`` seconds without that is taken over. A new group starts with what the stream still has.

    Raises:
        ContractError: group or consumer is no name.
    """
    for name, value in (("group", group), ("consumer", consumer)):
        if not isinstance(value, str) or not value:
            raise ContractError(f"stream: {name} must be a non-empty string, got {value!r}")
    return _stream(store, group, consumer, round(idle * 1000))


def _stream(store: Store, group: str, consumer: str, idle: int) -> Iterator[Event]:
    mine = True  # what this consumer was given in an earlier life, and did not see through, comes first
    while True:
        try:
            entries = _read(store, group, consumer, idle, mine=mine)
            mine = mine and bool(entries)
            for entry, fields in entries:
                yield Event(id=entry.decode(), event=fields[b"event"].decode(), data=json.loads(fields[b"data"]))
                with store.errors("stream"):
                    store.redis.xack(store.keys.events, group, entry)
        except StoreUnavailable as error:
            logger.warning("perpetual: stream waits for the store: %s", error)
            mine = True
            time.sleep(PAUSE_SECONDS)


def _read(store: Store, group: str, consumer: str, idle: int, *, mine: bool) -> list[Any]:
    redis, key = store.redis, store.keys.events
    with store.errors("stream"):
        try:
            if mine:
                return _entries(redis.xreadgroup(group, consumer, {key: "0"}, count=100))
            taken = redis.xautoclaim(key, group, consumer, idle, start_id="0-0", count=100)[1]
            return [entry for entry in taken if entry[1]] or _entries(
                redis.xreadgroup(group, consumer, {key: ">"}, count=100, block=BLOCK_MS)
            )
        except ResponseError as error:
            if "NOGROUP" not in str(error):
                raise
    _create(store, group)
    return []


def _create(store: Store, group: str) -> None:
    try:
        with store.errors("stream"):
            store.redis.xgroup_create(store.keys.events, group, id="0", mkstream=True)
    except ResponseError as error:
        if "BUSYGROUP" not in str(error):
            raise


def _entries(reply: Any) -> list[Any]:
    """Replies differ between protocol versions: a list of pairs, or a dict."""
    streams = reply.values() if isinstance(reply, dict) else [entries for _, entries in reply or ()]
    found: list[Any] = []
    for entries in streams:
        flat = entries[0] if entries and isinstance(entries[0], list) else entries
        found += [entry for entry in flat if entry[1]]
    return found
