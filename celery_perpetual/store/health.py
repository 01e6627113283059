"""What about a Redis server would lose state."""

from __future__ import annotations

from redis.exceptions import RedisError

from celery_perpetual.errors import StoreUnavailable
from celery_perpetual.store.connection import Store


def store_warnings(store: Store) -> list[str]:
    """Settings of the server under which state may vanish; empty if it cannot be asked."""
    try:
        with store.errors("info"):
            info = store.redis.info()
            saves = _saves(store)
    except (StoreUnavailable, RedisError):
        return []
    found = []
    policy = str(info.get("maxmemory_policy", "noeviction"))
    if policy != "noeviction":
        found.append(f"the store may evict keys (maxmemory-policy {policy}); set it to noeviction")
    if not int(info.get("aof_enabled", 0)) and not saves:
        found.append("the store keeps nothing on disk (no appendonly, no save); a restart of it loses the state")
    return found


def _saves(store: Store) -> bool:
    try:
        return bool(store.redis.config_get("save").get("save"))
    except RedisError:  # CONFIG is forbidden on many hosted servers, which do persist
        return True
