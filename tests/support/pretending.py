"""A beat that leads and workers that report, as far as the store has it; no process is there."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from celery_perpetual.tasks.discovery import load

if TYPE_CHECKING:
    from celery_perpetual import Perpetual


def lead(perpetual: Perpetual, seconds_ago: float = 60.0) -> None:
    """Let a beat lead since then, that knows this app's tasks."""
    keys, redis = perpetual.store.keys, perpetual.store.redis
    term = perpetual.store.now() - int(1000 * seconds_ago)
    info = {"app": perpetual.app.main, "owner": "host:1", "units": 1, "digest": load(perpetual.app).digest()}
    redis.set(keys.leader, f"host:1:{term}", px=60_000)
    redis.set(keys.leader_info, json.dumps(info), px=60_000)


def report(perpetual: Perpetual, name: str = "w@host", *, ago: float = 0.0, **info: Any) -> None:
    """Let a worker have reported so many seconds ago."""
    now, keys, redis = perpetual.store.now(), perpetual.store.keys, perpetual.store.redis
    at = now - int(1000 * ago)
    redis.zadd(keys.workers, {f"{name}#1": at + 60_000})
    facts = {"hostname": name, "concurrency": 2, "queues": ["celery"], "active": 0, **info}
    redis.hset(keys.worker(f"{name}#1"), mapping={"info": json.dumps(facts), "at": at, "report": 1})
