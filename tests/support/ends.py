"""Ends as the world outside hears of them: a subscriber that speaks to Redis alone and never imports the package."""

from __future__ import annotations

import json
import threading
from collections import Counter
from typing import TYPE_CHECKING, Any, NamedTuple

import pytest
import redis

from tests.support.waiting import wait_until

if TYPE_CHECKING:
    from types import TracebackType

    from typing_extensions import Self

PREFIX = "perpetual"

EVERY_POOL = pytest.mark.parametrize(
    "pool",
    ["prefork", "threads", *(pytest.param(name, marks=pytest.mark.matrix) for name in ("solo", "gevent"))],
)


class Heard(NamedTuple):
    """One message of a channel, and what Redis said when it came."""

    channel: str
    text: str
    record: str | None
    queue: list[str]
    stored: str | None
    """Celery's own state of the task."""

    @property
    def completion(self) -> dict[str, Any]:
        """The message, decoded."""
        found: dict[str, Any] = json.loads(self.text)
        return found


class Listener:
    """Subscribes to every channel of ends, and looks at the records whenever a message comes."""

    def __init__(self, url: str) -> None:
        self.heard: list[Heard] = []
        self._redis = redis.Redis.from_url(url, decode_responses=True)
        self._pubsub = self._redis.pubsub(ignore_subscribe_messages=False)
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._listen, name="listener")

    def of(self, task_id: str) -> list[Heard]:
        """Return the messages of the task's own channel."""
        return [heard for heard in list(self.heard) if heard.channel == f"{PREFIX}:done:{task_id}"]

    def everybody(self) -> Counter[str]:
        """How often the namespace's channel named each task."""
        return Counter(heard.completion["task_id"] for heard in list(self.heard) if heard.channel == f"{PREFIX}:done")

    def drain(self) -> None:
        """Return when everything that was published before this call has been heard."""
        self._redis.publish(f"{PREFIX}:done:last", "{}")
        wait_until(lambda: self.of("last"), "the listener has heard everything")

    def _listen(self) -> None:
        while not self._ended.is_set():
            message = self._pubsub.get_message(timeout=0.1)
            if message is not None and message["type"] == "pmessage":
                self._hear(message["channel"], message["data"])

    def _hear(self, channel: str, text: str) -> None:
        task_id = json.loads(text).get("task_id", "")
        meta = self._redis.get(f"celery-task-meta-{task_id}")
        self.heard.append(
            Heard(
                channel=channel,
                text=text,
                record=self._redis.get(f"{PREFIX}:completion:{task_id}"),
                queue=self._redis.lrange(f"{PREFIX}:done:{task_id}:queue", 0, -1),
                stored=None if meta is None else json.loads(meta)["status"],
            )
        )

    def __enter__(self) -> Self:
        self._pubsub.psubscribe(f"{PREFIX}:done*")
        wait_until(lambda: self._pubsub.get_message(timeout=0.1), "the subscription is confirmed", interval=0)
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._ended.set()
        self._thread.join()
        self._pubsub.close()
        self._redis.close()


def record(client: redis.Redis, task_id: str) -> dict[str, Any] | None:
    """The stored completion of a task, or None."""
    text = client.get(f"{PREFIX}:completion:{task_id}")
    found: dict[str, Any] | None = None if text is None else json.loads(text)
    return found


def announced(client: redis.Redis) -> Counter[str]:
    """How often the stream of events names each task as ended."""
    return Counter(
        json.loads(fields["data"])["task_id"]
        for _, fields in client.xrange(f"{PREFIX}:events")
        if fields["event"] == "completion"
    )


def batch(client: redis.Redis, poll_id: str) -> dict[str, str]:
    """A batch as the store counts it."""
    found: dict[str, str] = client.hgetall(f"{PREFIX}:p:{poll_id}")
    return found


def by_status(counters: dict[str, str]) -> dict[str, int]:
    """How many items of a batch ended how."""
    own = {"owner", "moved", "unit", "task", "n", "left", "pub", "pub_at", "closing", "at", "young_until"}
    # Counters of where messages went have the number of an item or a chunk in their names.
    counts = {name: value for name, value in counters.items() if name not in own and name.isidentifier()}
    return {name: int(value) for name, value in counts.items()}
