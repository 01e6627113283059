"""Messages as the lists of a Redis broker have them: their age, and the tasks that they belong to."""

from __future__ import annotations

from typing import TYPE_CHECKING

from kombu.utils.json import loads

from celery_perpetual.broker.capturing import CapturingChannel
from celery_perpetual.broker.destinations import Destination
from celery_perpetual.ledger.ids import made_at, parse_item_id

if TYPE_CHECKING:
    from collections.abc import Iterator

    from celery import Celery

#: Messages that one call reads.
AT_ONCE = 500

#: How many of the messages that consumers get next are read.
NEXT_MESSAGES = 20


def oldest_publication(channel: CapturingChannel, key: str) -> int | None:
    """When the oldest message of a list was published, at the latest: ms of the store's time, by its id.

    None where the list is empty, 0 where nothing can be said. A redelivered message stands at the front at
    any age, and is passed over.
    """
    with channel.client() as client:
        oldest = client.lrange(key, -NEXT_MESSAGES, -1)
    if not oldest:
        return None
    for message in reversed(oldest):
        headers = loads(message).get("headers") or {}
        task_id = str(headers.get("id"))
        if not headers.get("redelivered") and parse_item_id(task_id) is not None:
            return made_at(task_id)
    return 0


def waiting_ids(channel: CapturingChannel, queue: str, most: int) -> Iterator[str]:
    """Ids of the tasks whose messages wait in a queue, at most so many; "" for a message without one.

    The messages stay where they are. Within a priority the next one that a consumer gets comes first.
    """
    for step in channel.kombu.priority_steps:
        key, read = f"{channel.prefix}{channel.kombu._q_for_pri(queue, step)}", 0  # noqa: SLF001  # the name of the list
        while count := min(AT_ONCE, most):
            with channel.client() as client:
                messages = client.lrange(key, -read - count, -read - 1)
            yield from map(_task_id, reversed(messages))
            read, most = read + len(messages), most - len(messages)
            if len(messages) < count:
                break


def _task_id(message: bytes) -> str:
    try:
        return str(loads(message)["headers"]["id"])
    except (ValueError, LookupError, TypeError):  # of another program
        return ""


class ListAges:
    """Ages of lists, each read once. For one thread and one moment."""

    def __init__(self, app: Celery, latest: int) -> None:
        """Connect to the app's broker.

        Args:
            latest: no message can have been published later (ms): one that seems to be says nothing of its age.
        """
        self._latest = latest
        self._channel = CapturingChannel(app)
        self._oldest: dict[str, int | None] = {}
        self._lists: dict[Destination, frozenset[str]] = {}

    def are_younger(self, destination: Destination, at: int) -> bool:
        """Whether every message of a destination was published after ``at`` (ms), or none is there."""
        oldest = self._of(destination)
        return bool(oldest) and all(each is None or each > at for each in oldest)

    def are_empty(self, destination: Destination) -> bool:
        """Whether no message of a destination is there."""
        oldest = self._of(destination)
        return bool(oldest) and all(each is None for each in oldest)

    def close(self) -> None:
        """Close the connection."""
        self._channel.close()

    def _of(self, destination: Destination) -> list[int | None]:
        lists = self._lists.get(destination)
        if lists is None:
            lists = self._lists[destination] = destination.lists(self._channel)
        for key in lists - self._oldest.keys():
            oldest = oldest_publication(self._channel, key)
            self._oldest[key] = 0 if oldest is not None and oldest > self._latest else oldest
        return [self._oldest[key] for key in lists]
