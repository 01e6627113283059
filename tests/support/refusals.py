"""A Redis server that answers, and says "not now"."""

from __future__ import annotations

import threading
from contextlib import contextmanager, suppress
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
    "cut off from its primary": ({"replica-serve-stale-data": "no"}, {"replica-serve-stale-data": "yes"}),
}

WAYS = ("full", "too few replicas", "another password", "read-only", "cut off from its primary", "busy")


@contextmanager
def refusing(url: str, way: str) -> Iterator[None]:
    """Have the server refuse, in one of `WAYS`, within the block. Its data stay as they are."""
    with redis.Redis.from_url(url, decode_responses=True) as client:
        if way == "busy":
            with _busy(url, client):
                yield
            return
        refuse, work = _BY_SETTING.get(way, ({}, {}))
        for name, value in refuse.items():
            client.config_set(name, value)
        is_replica = way in {"read-only", "cut off from its primary"}
        if is_replica:
            client.replicaof("127.0.0.1", 1)
        if way == "another password":  # those who have shown the old one are believed as long as they stay
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
