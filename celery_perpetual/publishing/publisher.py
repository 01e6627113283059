"""Publishes committed batches; the ledger is the outbox.

On the store's own Redis a script pushes the messages and advances ``published`` together, so a repeat does nothing
and every item is in the broker exactly once. On any other broker kombu publishes, with confirms where the transport
has them, and then ``published`` advances: a repeat after a crash sends the same task ids again. A publisher that dies
is continued by the next leader (*relay*), which builds the same messages from the same records.
"""

from __future__ import annotations

import threading
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import cached_property
from typing import TYPE_CHECKING, Any

from celery.utils.log import get_logger

from celery_perpetual.errors import StoreUnavailable
from celery_perpetual.faults import reach
from celery_perpetual.ledger import CHUNK, decode, encode, item_id
from celery_perpetual.publishing.capture import Capture, Command
from celery_perpetual.publishing.message import has_own_sender, route, send
from celery_perpetual.store import Store, address, is_redis, script
from celery_perpetual.tasks.work import Work

if TYPE_CHECKING:
    from celery import Celery

logger = get_logger(__name__)

#: Broker commands that one script may run at once; a queue that expires takes several per message.
MOST_COMMANDS = 2000

#: Options that say nothing about the way of a message, and how many kinds of items are tried out.
VARYING = frozenset({"eta", "expires", "link", "link_error", "headers", "shadow"})
MOST_KINDS = 20


class Publisher:
    """Builds and publishes the messages of one app."""

    def __init__(self, app: Celery, store: Store) -> None:
        self.app = app
        self.store = store
        self._local = threading.local()
        self._busy: set[str] = set()

    @cached_property
    def shares_redis(self) -> bool:
        """Whether the broker is the store's own server and database."""
        conf: Any = self.app.conf
        url = conf.broker_write_url
        if not isinstance(url, str) or not is_redis(url):
            return False
        return address(url, conf.broker_transport_options, conf.broker_use_ssl) == self.store.address

    def rehearse(self, works: Sequence[Work]) -> None:
        """Route one of each kind of item, so that what cannot be sent is refused before it is committed.

        Raises:
            Exception: whatever the router or a queue that does not exist raises.
        """
        kinds = {(work.task, tuple(sorted((name, str(value)) for name, value in work.options.items()
                                          if name not in VARYING))): work for work in works}  # fmt: skip
        for work in list(kinds.values())[:MOST_KINDS]:
            route(self.app, decode(encode(work, work.task), work.task))

    def commands(self, unit_task: str, poll_id: str, works: Sequence[Work]) -> tuple[list[Any], list[str]]:
        """Broker commands of a small batch, for the commit to run; none where it cannot.

        Returns:
            Arguments and keys as ``push.lua`` takes them, the keys counted from the commit's tenth.
        """
        if len(works) > CHUNK or not self.shares_redis or any(self._plain(work.task) for work in works):
            return [], []
        captured = self._captured(unit_task, poll_id, ((i, encode(w, unit_task)) for i, w in enumerate(works)))
        return ([], []) if len(captured) > MOST_COMMANDS else packed(captured, first_key=10)

    def publish(self, poll_id: str) -> int:
        """Publish what a committed batch has not published yet, and return how many items that were.

        Raises:
            StoreUnavailable: the store did not answer.
            kombu.exceptions.OperationalError: the broker did not; what is missing is relayed later.
        """
        with self._alone(poll_id) as alone:
            return self._publish(poll_id) if alone else 0

    def relay(self, limit: int = 100) -> int:
        """Continue what others left unpublished, and return how many items that were."""
        with self.store.errors("outbox"):
            waiting = self.store.redis.zrange(self.store.keys.outbox, 0, limit - 1)
        return sum(self.publish(poll.decode()) for poll in waiting)

    def _publish(self, poll_id: str) -> int:
        sent = 0
        while (state := self._state(poll_id)) is not None:
            task, first, total = state
            if first >= total:
                break
            last = min(total, (first // CHUNK + 1) * CHUNK)
            if not self._publish_part(task, poll_id, first, last):
                break
            reach("poll.published")
            sent += last - first
        return sent

    def _state(self, poll_id: str) -> tuple[str, int, int] | None:
        with self.store.errors("batch"):
            task, published, total = self.store.redis.hmget(self.store.keys.poll(poll_id), "task", "pub", "n")
        if task is None:
            with self.store.errors("outbox"):
                self.store.redis.zrem(self.store.keys.outbox, poll_id)
            return None
        return task.decode(), int(published), int(total)

    def _publish_part(self, unit_task: str, poll_id: str, first: int, last: int) -> bool:
        records = list(self._unfinished(poll_id, first, last))
        tasks = {decode(record, unit_task).task for _, record in records}
        keys: list[str] = []
        arguments: list[Any] = []
        if self.shares_redis and not any(map(self._plain, tasks)):
            captured = self._captured(unit_task, poll_id, records)
            reach("poll.publishing")
            arguments, keys = packed(captured, first_key=3)
        else:
            self._send(unit_task, poll_id, records)
            reach("poll.publishing")
        names = self.store.keys
        return bool(
            script("publish")(
                self.store, batch=names.poll(poll_id), outbox=names.outbox, more_keys=keys,
                poll=poll_id, first=first, last=last, tail=arguments,
            )
        )  # fmt: skip

    def _unfinished(self, poll_id: str, first: int, last: int) -> Iterator[tuple[int, bytes]]:
        """Records of one chunk that have not ended; a relay need not send again what ran already."""
        chunk, names = first // CHUNK, self.store.keys
        with self.store.errors("records"):
            pipe = self.store.redis.pipeline(transaction=False)
            pipe.lrange(names.chunk(poll_id, chunk), first % CHUNK, (last - 1) % CHUNK)
            pipe.get(names.done(poll_id, chunk))
            records, done = pipe.execute()
        for index, record in enumerate(records, first):
            at = index % CHUNK
            if not (done and at // 8 < len(done) and done[at // 8] >> (7 - at % 8) & 1):
                yield index, record

    def _send(self, unit_task: str, poll_id: str, records: Iterable[tuple[int, bytes]]) -> None:
        options = {**(self.app.conf.broker_transport_options or {}), "confirm_publish": True}
        with self.app.connection_for_write(transport_options=options) as connection:
            producer = self.app.amqp.Producer(connection, auto_declare=False)
            for index, record in records:
                send(self.app, producer, decode(record, unit_task), item_id(poll_id, index))

    def _captured(self, unit_task: str, poll_id: str, records: Iterable[tuple[int, bytes]]) -> list[Command]:
        capture = getattr(self._local, "capture", None) or Capture(self.app)
        self._local.capture = None  # not kept if this fails

        def publish(producer: Any) -> None:
            for index, record in records:
                send(self.app, producer, decode(record, unit_task), item_id(poll_id, index))

        captured: list[Command] = capture.commands(publish)
        self._local.capture = capture
        return captured

    def release(self) -> None:
        """Close this thread's connection to the broker."""
        capture = getattr(self._local, "capture", None)
        if capture is not None:
            self._local.capture = None
            capture.close()

    def _plain(self, task: str) -> bool:
        return has_own_sender(self.app.tasks.get(task))

    @contextmanager
    def _alone(self, poll_id: str) -> Iterator[bool]:
        """One publisher per batch in this process; between processes the store decides."""
        alone = poll_id not in self._busy
        self._busy.add(poll_id)
        try:
            yield alone
        finally:
            if alone:
                self._busy.discard(poll_id)


def packed(commands: Sequence[Command], first_key: int) -> tuple[list[Any], list[str]]:
    """Commands as ``push.lua`` takes them: neighbours of one name and key become one variadic call."""
    keys: dict[str, int] = {}
    arguments: list[Any] = []
    run: list[Any] = []
    previous: tuple[str, str] | None = None
    for command in commands:
        position = keys.setdefault(command.key, first_key + len(keys))
        if command.name != "LPUSH" or (command.name, command.key) != previous:
            arguments.extend(run)
            run = [command.name, position, 0]
        run[2] += 1
        run.append(command.value)
        previous = (command.name, command.key)
    return [*arguments, *run], list(keys)


def publish_or_leave(publisher: Publisher, poll_id: str) -> None:
    """Publish at once; what cannot be sent now is relayed by the leader."""
    try:
        publisher.publish(poll_id)
    except StoreUnavailable as error:
        logger.warning("perpetual: publishing of poll %s is left to the relay: %s", poll_id, error)
    except Exception:
        logger.exception("perpetual: publishing of poll %s failed, the relay will try again", poll_id)
