"""A batch of three items, of which some end."""

from __future__ import annotations

import json
from typing import Any

from celery_perpetual.ledger.ids import item_id, parse_item_id
from celery_perpetual.ledger.item import CheckedItem
from celery_perpetual.ledger.record import encode
from celery_perpetual.store.scripts import script
from tests.support.script_slots import end_slots
from tests.support.scripts import store_at

UNIT = "perpetual:proj.find"
POLL = "018bcfe5-6800-8abc-8def-0123ffffffff"
HOUR = 3_600_000


class EndedBatch:
    """A batch of three items as a commit leaves it; the second opted out of having a key."""

    def __init__(self, url: str) -> None:
        self.store = store_at(url)
        self.redis: Any = self.store.redis

    def commit(self, *, window: int = 0, on_done: bool = False, items: int = 3) -> None:
        """Start anew with a batch in which everything is open."""
        keys, client = self.store.keys, self.redis
        client.flushall()
        for index in range(items):
            key = None if index == 1 else f"key {index}"
            client.rpush(
                keys.chunk(POLL, 0), encode(CheckedItem("proj.work", b"[[],{}]", "json", {}, key), "proj.find")
            )
            if key is not None:
                client.hset(keys.item_keys(UNIT), key, item_id(POLL, index))
        facts = {"unit": UNIT, "task": "proj.find", "n": items, "left": items, "pub": items, "at": 1}
        client.hset(keys.poll(POLL), mapping=facts | {"closing": f"{window} {int(on_done)} 0 - - -"})
        client.hset(keys.unit(UNIT), "inflight", items)

    def finish(self, index: int = 0, status: str = "success", *, task_id: str = "", **changed: Any) -> list[Any]:
        """End one item, or a task that is none; returns the script's answer."""
        task_id = task_id or item_id(POLL, index)
        head = json.dumps({"v": 1, "task_id": task_id, "status": status, "final": True})[:-1]
        name = "end_item" if parse_item_id(task_id) else "end_task"
        reply: list[Any] = script(name)(self.store, **{**end_slots(self.store.keys, task_id, status, head), **changed})
        return reply

    def once(self) -> int:
        """Send the batch's message."""
        reply: int = script("push_once")(
            self.store, waiting=self.store.keys.batches, targets=["broker"], entry=POLL,
            commands=["LPUSH", 1, 1, "message"],
        )  # fmt: skip
        return reply

    def dump(self) -> dict[str, Any]:
        """Everything that is stored, and until when."""
        found = self.redis.scan_iter()
        return {key.decode(): (self.redis.dump(key), self.redis.pexpiretime(key)) for key in found}

    def spoil(self, key: str) -> None:
        """Give a key another type than it has or would have."""
        was = self.redis.type(key)
        self.redis.delete(key)
        if was == b"list":
            self.redis.set(key, "spoilt")
        else:
            self.redis.rpush(key, "spoilt")
