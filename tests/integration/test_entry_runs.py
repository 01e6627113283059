"""The last runs of the base scheduler's entries in the store."""

from __future__ import annotations

from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest

from celery_perpetual import Perpetual
from celery_perpetual.beat.entry_runs import EntryRuns
from celery_perpetual.polling.claims import NotLeading
from celery_perpetual.store.commands.leadership import EntryRun

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

    of_leader.save()

    assert store_redis.hkeys(BASE) == ["nightly", "hourly"]
    of_leader.begin("a:1", NIGHTLY)
    assert len(woken) == 2


def test_entries_that_are_gone_are_forgotten(runs: Callable[[], EntryRuns], store_redis: redis.Redis) -> None:
    """New ones are remembered with the time from which their first run counts."""
    of_leader = runs()
    of_leader.add({"old": EntryRun(1.5, 0), "kept": EntryRun(2.5, 7)})

    of_leader.keep_only({"kept", "other"})

    assert store_redis.hgetall(BASE) == {"kept": "2.5 7"}
    assert of_leader.of("old") is None
