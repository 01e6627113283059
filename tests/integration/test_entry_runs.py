"""The last runs of the base scheduler's entries in the store."""

from __future__ import annotations

import time
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest

from celery_perpetual import Perpetual
from celery_perpetual.beat.entry_runs import EntryRuns
from celery_perpetual.events import BASE_RUNS_AHEAD
from celery_perpetual.polling.claims import NotLeading
from celery_perpetual.store.commands.leadership import EntryRun
from tests.support.event_log import logged

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    import redis
    from celery import Celery

NIGHTLY: Any = SimpleNamespace(name="nightly", total_run_count=4)
LEADER, BASE = "perpetual:leader", "perpetual:base"


@pytest.fixture
def runs(make_app: Callable[..., Celery]) -> Iterator[Callable[[], EntryRuns]]:
    """Make what a beat keeps, each over connections of its own."""
    perpetual = Perpetual(make_app())
    made: list[Any] = []

    def make() -> EntryRuns:
        made.append(perpetual.store.clone())
        return EntryRuns(made[-1])

    yield make
    for store in made:
        store.close()


def test_the_next_leader_knows_the_run_before_the_entry_is_sent(
    runs: Callable[[], EntryRuns], store_redis: redis.Redis
) -> None:
    """Time and count; one who does not lead may not send, and leaves the store as it was."""
    store_redis.set(LEADER, "a:1")
    first, second = runs(), runs()
    first.begin("a:1", NIGHTLY)
    stored = store_redis.hgetall(BASE)

    with pytest.raises(NotLeading):
        second.begin("b:2", NIGHTLY)

    assert store_redis.hgetall(BASE) == stored
    second.load()
    run = second.of("nightly")
    assert run is not None
    assert run.count == 5
    assert second.of("nightly") == first.of("nightly")


def test_while_the_store_is_away_runs_are_kept_and_written_later(
    runs: Callable[[], EntryRuns], store_redis: redis.Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Only the first run waits for the store; the clock writes all of them, unless the lead is lost."""
    store_redis.set(LEADER, "a:1")
    of_leader, woken = runs(), []
    of_leader.on_run = lambda: woken.append(True)
    store_redis.config_set("maxmemory", "1")  # it refuses to write
    try:
        of_leader.begin("a:1", NIGHTLY)
        of_leader.begin("a:1", SimpleNamespace(name="hourly", total_run_count=0))
    finally:
        store_redis.config_set("maxmemory", "0")
    assert len(woken) == 2
    assert not store_redis.exists(BASE)

    of_leader.save("a:1")

    assert store_redis.hkeys(BASE) == ["nightly", "hourly"]
    of_leader.begin("a:1", NIGHTLY)
    assert len(woken) == 2


def test_a_run_that_was_not_written_counts_in_the_next_lead(
    runs: Callable[[], EntryRuns], store_redis: redis.Redis
) -> None:
    """It was sent. Where the leader in between has run its entry later, that counts."""
    store_redis.set(LEADER, "a:1")
    first, hourly = runs(), SimpleNamespace(name="hourly", total_run_count=0)
    store_redis.config_set("maxmemory", "1")
    try:
        first.begin("a:1", NIGHTLY)
        first.begin("a:1", hourly)
    finally:
        store_redis.config_set("maxmemory", "0")
    sent = first.of("nightly")
    first.forget()
    later = EntryRun(time.time() + 1, 2)
    store_redis.hset(BASE, mapping={"nightly": "1000.5 4", "hourly": later.to_text()})
    store_redis.set(LEADER, "a:3")

    first.load()
    first.save("a:3")

    assert (first.of("nightly"), first.of("hourly")) == (sent, later)
    second = runs()
    second.load()
    assert (second.of("nightly"), second.of("hourly")) == (sent, later)


def test_entries_that_are_gone_are_forgotten(runs: Callable[[], EntryRuns], store_redis: redis.Redis) -> None:
    """After a week, as a newer code may know them; new ones are remembered with the time from which they count."""
    store_redis.set(LEADER, "a:1")
    of_leader, lately = runs(), EntryRun(time.time() - 3600, 1)
    of_leader.add("a:1", {"old": EntryRun(1.5, 0), "kept": EntryRun(2.5, 7), "newer": lately})

    of_leader.keep_only("a:1", {"kept", "other"})

    assert store_redis.hgetall(BASE) == {"kept": "2.5 7", "newer": lately.to_text()}
    assert of_leader.of("old") is None


def test_a_beat_that_was_frozen_overwrites_no_run(runs: Callable[[], EntryRuns], store_redis: redis.Redis) -> None:
    """Neither with runs that it could not write, nor with first sights, nor by forgetting what it does not know."""
    store_redis.set(LEADER, "a:1")
    frozen = runs()
    frozen.add("a:1", {"nightly": EntryRun(1.5, 4)})
    store_redis.config_set("maxmemory", "1")
    try:
        frozen.begin("a:1", NIGHTLY)
    finally:
        store_redis.config_set("maxmemory", "0")
    store_redis.set(LEADER, "b:2")
    store_redis.hset(BASE, "nightly", "1000.5 9")

    for write in (
        lambda: frozen.save("a:1"),
        lambda: frozen.add("a:1", {"nightly": EntryRun(2.5, 0)}),
        lambda: (frozen.load(), frozen.keep_only("a:1", set())),
    ):
        with pytest.raises(NotLeading) as raised:
            write()
        assert raised.value.refused == "a:1"

    assert store_redis.hgetall(BASE) == {"nightly": "1000.5 9"}


def test_a_time_of_next_week_counts_as_now(
    runs: Callable[[], EntryRuns], store_redis: redis.Redis, caplog: pytest.LogCaptureFixture
) -> None:
    """A wrong clock wrote a time of next week: it counts as now, or the entry would not run until then."""
    now = time.time()
    stored = {
        "ahead": f"{now + 7 * 86_400} 3",
        "skewed": f"{now + 5} 2",
        "odd": "x y z",
        "endless": "inf 1",
        "nan": "nan 1",
    }
    store_redis.hset(BASE, mapping=stored)
    of_leader = runs()

    of_leader.load()

    ahead, skewed = of_leader.of("ahead"), of_leader.of("skewed")
    assert ahead is not None
    assert skewed is not None
    assert ahead.at == pytest.approx(now, abs=5)
    assert (ahead.count, skewed.count) == (3, 2)
    assert skewed.at == pytest.approx(now + 5)
    assert [of_leader.of(name) for name in ("odd", "endless", "nan")] == [None, None, None]
    assert logged(caplog, BASE_RUNS_AHEAD) == [{"entries": "ahead"}]
