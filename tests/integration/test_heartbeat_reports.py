"""Reports of a worker on what it has received: news only, and everything where the store does not have it."""

from __future__ import annotations

import time
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest
from celery import Celery

from celery_perpetual import Perpetual
from celery_perpetual.times import steady
from celery_perpetual.worker import deliveries
from celery_perpetual.worker.heartbeat import Heartbeat


class Worker:
    """Celery's side is what a heartbeat reads of it: requests, and how large the pool is."""

    def __init__(self, url: str, **settings: Any) -> None:
        self.app = Celery("proj", broker=url, set_as_current=False)
        self.app.conf.update(settings)
        self.perpetual = Perpetual(self.app)
        grants = self.perpetual.grants
        self.instance = instance = grants.be_a_worker("w@h")
        self.redis, self.tags = grants.store.redis, grants.store.keys.tags(instance.name)
        self.heartbeat = Heartbeat(SimpleNamespace(app=self.app, pool=None, concurrency=1), grants)

    def receives(self, *names: str) -> None:  # deliveries, by their tags
        for name in names:
            request = SimpleNamespace(
                id=f"id of {name}", perpetual_tag=name, acknowledged=False, is_held=False, time_start=None,
                perpetual_execution=None,
            )  # fmt: skip
            deliveries.enter(name, request)

    def acknowledges(self, *names: str) -> None:
        for name in names:
            deliveries.remove(name)

    def _report(self) -> None:
        self.heartbeat._at = 0.0  # it is due
        self.heartbeat._once()

    def reports(self) -> list[str]:
        self._report()
        return sorted(tag.decode() for tag in self.redis.hkeys(self.tags))

    def bytes_of_a_report(self) -> int:
        """That the server reads."""
        before = self.redis.info("stats")["total_net_input_bytes"]
        self._report()
        read: int = self.redis.info("stats")["total_net_input_bytes"] - before
        return read


@pytest.fixture
def worker(redis_url: str) -> Iterator[Worker]:
    deliveries.forget_all()
    worker = Worker(redis_url)
    yield worker
    deliveries.forget_all()


def test_a_report_costs_no_more_where_much_was_received_before(worker: Worker) -> None:
    """Ten thousand messages that wait in a worker are reported once."""
    worker.reports()
    few = worker.bytes_of_a_report()
    worker.receives(*(f"tag {n}" for n in range(10_000)))
    assert len(worker.reports()) == 10_000

    assert worker.bytes_of_a_report() < 2 * few


@pytest.mark.parametrize("loss", ["all", "one", "replies"])
def test_what_the_store_has_lost_is_reported_anew(worker: Worker, loss: str) -> None:
    """Its data, or the reply to a report that it has taken: the report after next is right again."""
    worker.receives("a", "b", "c")
    assert worker.reports() == ["a", "b", "c"]
    if loss == "all":
        worker.redis.flushall()
    elif loss == "one":
        worker.redis.hdel(worker.tags, "b")
    else:
        worker.redis.hset(worker.tags, "never acknowledged", "id")
    worker.acknowledges("c")
    worker.receives("d")
    worker.reports()

    assert worker.reports() == ["a", "b", "d"]
    assert worker.redis.hget(worker.tags, "d") == b"id of d"


def test_a_report_has_the_time_of_its_machine(worker: Worker, monkeypatch: pytest.MonkeyPatch) -> None:
    """By which the clocks of workers are compared with the store's."""
    worker.reports()
    (right,) = worker.perpetual.grants.workers.all()
    assert abs(right.info["clock"] - right.reported_at) < 10_000
    usual = time.time
    monkeypatch.setattr(time, "time", lambda: usual() - 60)
    worker.reports()
    (behind,) = worker.perpetual.grants.workers.all()
    assert 50_000 < behind.reported_at - behind.info["clock"] < 70_000


def test_a_report_whose_answer_comes_after_a_lease_time_proves_nothing(redis_url: str) -> None:
    """The store renews the lease when it is asked, and another worker may have it when the answer comes."""
    worker = Worker(redis_url, perpetual_lease_ttl=1, perpetual_heartbeat_interval=0.3)
    begun = steady()
    worker.reports()
    assert worker.instance.surely_holds(begun)

    worker.redis.client_pause(1200)
    begun = steady()
    worker.reports()

    assert steady() - begun > 1
    assert not worker.instance.surely_holds(begun)
