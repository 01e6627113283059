"""A Redis server's facts on itself."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from redis.exceptions import RedisError, ResponseError

from celery_perpetual.errors import StoreRefused, StoreUnavailable
from celery_perpetual.store.refusals import is_forbidden

if TYPE_CHECKING:
    from celery_perpetual.store.connection import Store

#: A key of the probe lives for no longer, ms.
PROBE_MS = 1000
#: How often the time of an answer is measured.
TRIES = 5


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerInfo:
    """The facts about a server that matter here."""

    software: str
    """``redis``, ``valkey`` …"""
    version: str
    used_memory: int
    """Bytes."""
    memory_limit: int
    """Bytes, 0 = none."""
    policy: str
    """The policy at this limit: ``maxmemory-policy``."""
    evicted: int
    """Keys that it has removed to make room, since its start."""
    is_persistent: bool
    """Whether it keeps data on disk."""
    save_failed: bool
    """Whether its last try to write to disk has failed."""
    clients: int
    client_limit: int
    """0 = not known."""

    @property
    def memory_share(self) -> float:
        """How much of the limit is used; 0 without one."""
        return self.used_memory / self.memory_limit if self.memory_limit else 0.0

    @property
    def may_evict(self) -> bool:
        """Whether it removes keys where its memory is full."""
        return self.policy != "noeviction"


def server_info(store: Store) -> ServerInfo | None:
    """The server's facts on itself, None where its user may not ask, or it does not know the question.

    Raises:
        StoreUnavailable: it did not answer.
    """
    try:
        with store.errors("info"):
            info: dict[str, Any] = store.redis.info()
    except StoreUnavailable as error:
        if isinstance(error, StoreRefused) or is_forbidden(error.__cause__):
            return None
        raise
    failed = [info.get(name, "ok") for name in ("rdb_last_bgsave_status", "aof_last_write_status")]
    return ServerInfo(
        software=str(info.get("server_name", "redis")),
        version=str(info.get("valkey_version") or info.get("redis_version") or "0"),
        used_memory=int(info.get("used_memory", 0)),
        memory_limit=int(info.get("maxmemory", 0)),
        policy=str(info.get("maxmemory_policy", "noeviction")),
        evicted=int(info.get("evicted_keys", 0)),
        is_persistent=bool(int(info.get("aof_enabled", 0))) or _saves(store),
        save_failed=any(status != "ok" for status in failed),
        clients=int(info.get("connected_clients", 0)),
        client_limit=int(info.get("maxclients", 0)),
    )


def why_no_write(store: Store) -> str:
    """Why the server takes no data, "" where it does. It writes one key, which expires at once, and publishes its name.

    Raises:
        StoreUnavailable: it did not answer.
    """
    try:
        with store.errors("probe"):
            store.redis.set(store.keys.receipt("probe"), 1, px=PROBE_MS)
            # A user of the server may write, and yet reach no channel.
            store.redis.publish(f"{store.keys.channel_prefix}probe", "")
    except StoreUnavailable as error:
        cause = error.__cause__
        if isinstance(error, StoreRefused) or _answered(cause):
            return str(cause)
        raise
    return ""


def answer_seconds(store: Store) -> float:
    """How long an answer takes, the median of a few."""
    times = []
    for _ in range(TRIES):
        begun = time.perf_counter()
        store.now()
        times.append(time.perf_counter() - begun)
    return sorted(times)[TRIES // 2]


def store_warnings(store: Store) -> list[str]:
    """Settings of the server under which state may vanish; empty if it cannot be asked."""
    try:
        info = server_info(store)
    except StoreUnavailable:
        return []
    if info is None:
        return []
    found = []
    if info.may_evict:
        found.append(f"the store may evict keys (maxmemory-policy {info.policy}); set it to noeviction")
    if not info.is_persistent:
        found.append("the store keeps nothing on disk (no appendonly, no save); a restart of it loses the state")
    return found


def _answered(error: BaseException | None) -> bool:
    """Whether the server has answered, with an error."""
    return isinstance(error, ResponseError)


def _saves(store: Store) -> bool:
    try:
        return bool(store.redis.config_get("save").get("save"))
    except RedisError:  # CONFIG is forbidden on many hosted servers, which do persist
        return True
