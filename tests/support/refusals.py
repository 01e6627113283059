"""A Redis server that answers, and says "not now"."""

from __future__ import annotations

import threading
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING

import redis

from tests.support.waiting import wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator

#: Settings under which a server refuses, and those under which it works again.
_BY_SETTING = {
    "full": ({"maxmemory": "1"}, {"maxmemory": "0"}),
    "too few replicas": ({"min-replicas-to-write": "1"}, {"min-replicas-to-write": "0"}),
    "another password": ({"requirepass": "another"}, {"requirepass": ""}),
    "no room for clients": ({"maxclients": "1"}, {"maxclients": "10000"}),
    "cut off from its primary": ({"replica-serve-stale-data": "no"}, {"replica-serve-stale-data": "yes"}),
}

WAYS = ("full", "too few replicas", "another password", "read-only", "cut off from its primary", "busy")
#: Further ones, which cost more to bring about.
MORE_WAYS = ("no room for clients", "cannot save", "loading")


@contextmanager
def refusing(url: str, way: str) -> Iterator[None]:
    """Have the server refuse, in one of `WAYS`, within the block. Its data stay as they are."""
    with redis.Redis.from_url(url, decode_responses=True) as client:
        if found := {"busy": _busy, "cannot save": _unable_to_save, "loading": _loading}.get(way):
            with found(url, client):
                yield
            return
        refuse, work = _BY_SETTING.get(way, ({}, {}))
        for name, value in refuse.items():
            client.config_set(name, value)
        is_replica = way in {"read-only", "cut off from its primary"}
        if is_replica:
            client.replicaof("127.0.0.1", 1)
        if way in ("another password", "no room for clients"):  # those who are in may stay
            client.client_kill_filter(_type="normal", skipme=True)
        try:
            yield
        finally:
            if is_replica:
                client.execute_command("REPLICAOF", "NO", "ONE")
            for name, value in work.items():
                client.config_set(name, value)


@contextmanager
def _busy(url: str, client: redis.Redis) -> Iterator[None]:
    """A script that does not end."""
    client.config_set("busy-reply-threshold", "50")

    def spin() -> None:
        with suppress(redis.ResponseError), redis.Redis.from_url(url) as other:
            other.eval("while true do end", 0)

    def is_busy() -> bool:
        try:
            client.get("a")
        except redis.ResponseError as error:
            return "BUSY" in str(error)
        return False

    thread = threading.Thread(target=spin, name="busy server")
    thread.start()
    try:
        wait_until(is_busy, "the server says that it is busy")
        yield
    finally:
        client.script_kill()
        thread.join()


@contextmanager
def _unable_to_save(url: str, client: redis.Redis) -> Iterator[None]:
    """Its snapshots fail, as a folder has the name of their file, and it is set to take no writes then (MISCONF)."""
    del url
    folder = Path(client.config_get("dir")["dir"]) / client.config_get("dbfilename")["dbfilename"]
    folder.mkdir()
    client.config_set("save", "3600 1000000")
    client.bgsave()
    wait_until(lambda: client.info("persistence")["rdb_last_bgsave_status"] == "err", "a snapshot has failed")
    try:
        yield
    finally:
        client.config_set("save", "")
        folder.rmdir()


@contextmanager
def _loading(url: str, client: redis.Redis) -> Iterator[None]:
    """It reads its data again, slowly; its DEBUG command must be allowed."""
    filler = [f"filler:{number}" for number in range(400)]
    for name in filler:
        client.set(name, name * 300)
    client.config_set("loading-process-events-interval-bytes", "1024")
    client.config_set("key-load-delay", "100000")

    def load() -> None:
        with suppress(redis.RedisError), redis.Redis.from_url(url, socket_timeout=None) as other:
            other.execute_command("DEBUG", "RELOAD")

    def is_loading() -> bool:
        try:
            client.get("a")
        except redis.BusyLoadingError:
            return True
        except redis.ConnectionError:
            return False
        return False

    thread = threading.Thread(target=load, name="loading server")
    thread.start()
    try:
        wait_until(is_loading, "the server says that it loads")
        yield
    finally:
        client.config_set("key-load-delay", "0")
        thread.join()
        client.delete(*filler)
