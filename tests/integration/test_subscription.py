"""A subscribed connection tells a quiet server from one that is gone."""

from __future__ import annotations

import time
from collections.abc import Iterator

import pytest
import redis
from redis.exceptions import ConnectionError as NoConnection

from celery_perpetual.store.connection import Store
from celery_perpetual.waiting import subscription
from celery_perpetual.waiting.subscription import Subscription
from tests.support.proxy import Proxy
from tests.support.scripts import store_at

READ = 0.05


@pytest.fixture
def soon(monkeypatch: pytest.MonkeyPatch) -> None:
    """The server is asked after a moment of silence."""
    monkeypatch.setattr(subscription, "SILENCE", 0.1)


@pytest.fixture
def store(redis_url: str) -> Iterator[Store]:
    store = store_at(redis_url, timeout=0.5)
    yield store
    store.close()


def read_for(subscribed: Subscription, seconds: float) -> list[bytes]:
    """The kinds of what came."""
    kinds, until = [], time.monotonic() + seconds
    while time.monotonic() < until:
        kinds += [frame[0] for frame in subscribed.read(READ)]
    return kinds


def subscribe_often(subscribed: Subscription) -> None:
    """The kernel may still take what is written first to a connection that is gone."""
    for _ in range(3):
        subscribed.subscribe(["d"])
        time.sleep(0.05)


@pytest.mark.usefixtures("soon")
def test_a_quiet_server_is_asked_and_kept(store: Store) -> None:
    """It answers, and what is published afterwards is heard."""
    subscribed = Subscription(store)
    subscribed.subscribe(["c"])
    read_for(subscribed, 1.5)  # the measure: several times as long as a server may be silent

    store.redis.publish("c", "x")

    assert b"message" in read_for(subscribed, 0.3)
    subscribed.close()


@pytest.mark.usefixtures("soon")
def test_a_server_that_says_nothing_any_more_is_given_up(store: Store) -> None:
    """Whether it stands still or the way there is gone, no reader waits for ever."""
    subscribed = Subscription(store)
    subscribed.subscribe(["c"])
    read_for(subscribed, 0.05)
    store.redis.client_pause(1500)
    with pytest.raises(NoConnection, match="sent nothing"):
        read_for(subscribed, 1.4)
    subscribed.close()


def test_a_connection_that_was_cut_is_no_connection(redis_url: str) -> None:
    """Neither reading nor subscribing connects anew behind the back of whoever has to subscribe to everything again."""
    port = int(redis_url.rsplit(":", 1)[1].split("/", 1)[0])
    with Proxy(port) as proxy:
        store = store_at(redis_url.replace(str(port), str(proxy.port)), timeout=0.5)
        subscribed = Subscription(store)
        subscribed.subscribe(["c"])
        read_for(subscribed, 0.1)
        proxy.cut()
        with pytest.raises((redis.RedisError, OSError)):
            read_for(subscribed, 2)
        proxy.mend()
        for _ in range(2):  # also once it has been told
            with pytest.raises((redis.RedisError, OSError)):
                subscribe_often(subscribed)
        subscribed.close()
        store.close()
