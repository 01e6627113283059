"""Following completions: as they happen, or at least once with a consumer group."""

from __future__ import annotations

import json
import time
from collections.abc import Generator, Iterator
from contextlib import closing, suppress
from dataclasses import dataclass, replace
from datetime import timedelta
from typing import TYPE_CHECKING, Any, TypeVar

from celery_perpetual import events
from celery_perpetual.completions.completion import Completion, from_json
from celery_perpetual.errors import ContractError, StoreRefused, StoreUnavailable
from celery_perpetual.settings import seconds
from celery_perpetual.store.commands.completions import open_subscription
from celery_perpetual.store.commands.events import (
    StreamEntry,
    acknowledge_entry,
    create_group,
    next_entries,
    own_entries,
)
from celery_perpetual.telemetry import emit
from celery_perpetual.times import ms

if TYPE_CHECKING:
    from celery_perpetual.store.connection import Store

T = TypeVar("T")
#: Finds, one after the other, and None at times, so that the thread that asks is never held for long.
Steps = Generator[T | None, None, None]

BLOCK_SECONDS = 1.0
#: An entry that its consumer has held for this long is taken over: the consumer is dead or stuck.
IDLE_SECONDS = 60.0
PAUSE_SECONDS = 0.2
#: Entries that a consumer is given at a time; few, so that consumers share and a dead one holds little.
COUNT = 10


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
    """Iterate completions of the namespace as they happen, from now on and for ever.

    Raises:
        StoreUnavailable: the connection was lost; :func:`stream` misses nothing.
    """
    return _found(subscribe_steps(store))


def subscribe_steps(store: Store) -> Steps[Completion]:
    """The same, with a None at least every second in which nothing happens."""
    with store.errors("subscribe"):
        pubsub = open_subscription(store)
        pubsub.subscribe(store.keys.ends_channel)
        word = pubsub.get_message(timeout=store.timeout)
    if word is None:
        raise StoreUnavailable(f"store {store.shown} did not answer (subscribe)")
    return _messages(store, pubsub)


def _messages(store: Store, pubsub: Any) -> Steps[Completion]:
    try:
        while True:
            with store.errors("subscribe"):
                message = pubsub.get_message(timeout=BLOCK_SECONDS)
            if message is None:
                yield None
                continue
            if message["type"] == "subscribe":  # redis-py has connected anew by itself
                raise StoreUnavailable(
                    f"the connection to store {store.shown} was lost and completions may have been missed "
                    "(subscribe); stream() misses none"
                )
            yield from_json(message["data"])
    finally:
        pubsub.close()


@dataclass(frozen=True, slots=True, kw_only=True)
class Following:
    """The consumer that follows the stream of events, and its start; see :func:`stream`."""

    group: str
    consumer: str
    start: str = "all"
    idle: float | timedelta = IDLE_SECONDS
    """Seconds."""

    def checked(self) -> Following:
        """The same with ``idle`` in seconds.

        Raises:
            ContractError: group or consumer is no name, start is neither, or idle is no duration.
        """
        for name, value in (("group", self.group), ("consumer", self.consumer)):
            if not isinstance(value, str) or not value:
                raise ContractError(f"stream: {name} must be a non-empty string, got {value!r}")
        if self.start not in ("all", "new"):
            raise ContractError(f"stream: start must be 'all' or 'new', got {self.start!r}")
        return replace(self, idle=seconds("stream: idle", self.idle, least=0.05, error=ContractError))


def stream(store: Store, following: Following) -> Iterator[Event]:
    """Iterate events at least once, for ever.

    An event is acknowledged when the next one is asked for, so the loop's body has seen it through. What a consumer
    has held for ``idle`` seconds without that is taken over. A new group starts with ``all`` that the stream still has,
    or with what happens from this call on (``new``); a group that exists goes on where it is.

    Raises:
        ContractError: group or consumer is no name, start is neither, or idle is no duration.
    """
    return _found(stream_steps(store, following.checked()))


def stream_steps(store: Store, following: Following) -> Steps[Event]:
    """The same, with a None at least every second in which nothing happens."""
    if following.start == "new":
        with suppress(StoreUnavailable):  # then it begins with what the store has when it is back
            create_group(store, following.group, "$")
    return _stream(store, following.group, following.consumer, float(following.idle))  # type: ignore[arg-type]  # checked


def _found(steps: Steps[T]) -> Iterator[T]:
    """The finds of the steps, without the steps that find nothing."""
    with closing(steps):
        for found in steps:
            if found is not None:
                yield found


def _stream(store: Store, group: str, consumer: str, idle: float) -> Steps[Event]:
    mine = True  # what this consumer was given in an earlier life, and did not see through, comes first
    down = False
    while True:
        try:
            entries = _read(store, group, consumer, idle, mine=mine)
            down = False
            fresh_until = time.monotonic() + idle / 2
            mine = mine and bool(entries)
            if not entries:
                yield None
            for entry in entries:
                if time.monotonic() > fresh_until:  # others may be about to take over the rest
                    mine = True
                    break
                if entry.event:  # else the stream's cap has removed it
                    yield Event(id=entry.id, event=entry.event, data=json.loads(entry.data))
                acknowledge_entry(store, group, entry.id)
        except StoreRefused:
            raise
        except StoreUnavailable as error:
            if not down:
                emit(events.STORE_UNREACHABLE, part="the stream of events", error=error)
            mine = down = True
            yield None
            time.sleep(PAUSE_SECONDS)


def _read(store: Store, group: str, consumer: str, idle: float, *, mine: bool) -> list[StreamEntry]:
    if mine:
        found = own_entries(store, group, consumer, count=COUNT)
    else:
        block_ms = ms(min(BLOCK_SECONDS, idle, store.timeout / 2))
        found = next_entries(store, group, consumer, count=COUNT, idle_ms=ms(idle), block_ms=block_ms)
    if found is None:
        create_group(store, group)
    return found or []
