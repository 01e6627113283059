"""The tenants that ``tenants`` functions have found, as the leader keeps them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from celery_perpetual.store.chunks import chunks
from celery_perpetual.store.scripts import script

if TYPE_CHECKING:
    from celery_perpetual.store.connection import Store

#: A function that has no answer is called again and again; what is noted of one that is gone is forgotten, seconds.
NOTED_SECONDS = 86_400


def stored_tenants(store: Store, task: str) -> dict[str, Any]:
    """Name -> value of the tenants that a task had when its function last returned; empty if that is not known."""
    with store.errors("tenants"):
        found = store.redis.hgetall(store.keys.tenants(task))
    return {name.decode(): json.loads(value) for name, value in found.items()}


def stored_tenant(store: Store, task: str, name: str) -> Any:
    """The value of one of them, None if there is no such tenant."""
    with store.errors("tenants"):
        found = store.redis.hget(store.keys.tenants(task), name)
    return None if found is None else json.loads(found)


def keep_tenants(store: Store, leader: str, task: str, before: Mapping[str, Any], now: Mapping[str, Any]) -> bool:
    """Bring the stored tenants of a task up to date; False where ``leader`` does not lead any more."""
    rows = [(name, json.dumps(value)) for name, value in now.items() if name not in before or before[name] != value]
    rows += [(name, "") for name in before if name not in now]
    key = store.keys.tenants(task)
    return all(
        script("keep_tenants")(store, mine=leader, tenants=key, rows=[text for row in part for text in row])
        for part in chunks(rows)
    )


def note_trouble(store: Store, task: str, text: str) -> None:
    """Note why the function of a task has no answer, JSON; "" once it has one."""
    key = store.keys.tenants_failed
    with store.errors("tenants"):
        if not text:
            store.redis.hdel(key, task)
            return
        pipe = store.redis.pipeline(transaction=False)
        pipe.hset(key, task, text)
        pipe.expire(key, NOTED_SECONDS)
        pipe.execute()


def noted_troubles(store: Store) -> dict[str, dict[str, Any]]:
    """Task -> ``trouble``, ``since`` (ms) and how many tenants were ``kept``, of functions that have no answer."""
    with store.errors("tenants"):
        found = store.redis.hgetall(store.keys.tenants_failed)
    return {task.decode(): json.loads(text) for task, text in found.items()}
