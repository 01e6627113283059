"""The store's data vanish under running beats: nothing is read from the beginning unless the operator says so."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest

from celery_perpetual.events import LEADER_STANDBY, STORE_LOST
from tests.support import wait_until
from tests.support.console import Console
from tests.support.stream_events import events, leader, poll_events

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    import redis

    from celery_perpetual.embedded import EmbeddedServer
    from tests.support import CeleryProcess, Project

    Losable = Callable[..., tuple[EmbeddedServer, Project]]

# A source with growing ids: next_batch notes each id that it hands out. `most` says up to where ids exist.
SOURCE = """
def feed(poll):
    with open("most") as file:
        most = int(file.read())
    first = poll.cursor or 0
    last = min(first + 3, most)
    for number in range(first, last):
        ledger.record(number, "read")
    return Batch([Item((number,), key=number) for number in range(first, last)], cursor=last)

@app.task(base=PerpetualTask, poll_every=0.5, next_batch=feed)
def follow(number): ...

def tick(poll):
    ledger.record(poll.poll_id, "ticked")

@app.task(base=PerpetualTask, poll_every=0.5, next_batch=tick)
def plain(): ...
"""
UNIT = "perpetual:proj.follow"
QUICK = {"perpetual_leader_ttl": 3, "perpetual_cycle_interval": 0.2}
REASON = "the store has lost data, so the cursor is gone or an old one; set the cursor, then resume"


@pytest.fixture
def losable(project: Callable[..., Project], private_redis: Callable[..., EmbeddedServer]) -> Losable:
    """Write the project for a server that may be lost."""

    def write(**config: Any) -> tuple[EmbeddedServer, Project]:
        server = private_redis()
        return server, project(SOURCE, broker=server.url, store=server.url, **QUICK, **config)

    return write


def ids(proj: Project) -> list[int]:
    """Ids in the order in which the source handed them out."""
    return [int(row.id) for row in proj.rows("read")]


def polled(client: redis.Redis) -> int:
    return len(poll_events(client, "proj.follow"))


def run_beats(proj: Project) -> tuple[CeleryProcess, CeleryProcess]:
    """Start a leader and a standby; return when the source is read to its end and both know of its cursor."""
    client = proj.redis
    proj.write("most", "10")
    first = proj.beat()
    wait_until(lambda: leader(client), "the first beat leads")
    second = proj.beat()
    second.wait_for_event(LEADER_STANDBY)
    wait_until(lambda: ids(proj) == list(range(10)), "ten ids are read")
    before = passes(client)
    wait_until(lambda: passes(client) >= before + 8, "both beats have seen the cursor")
    return first, second


def passes(client: redis.Redis) -> int:
    """How often a beat has asked which units have a cursor."""
    stats: dict[str, Any] = client.info("commandstats")
    return int(stats.get("cmdstat_smembers", {"calls": 0})["calls"])


def paused(client: redis.Redis) -> dict[str, str]:
    return {scope: json.loads(text)["reason"] for scope, text in client.hgetall("perpetual:paused").items()}


def wait_for_pause(proj: Project, beats: Sequence[CeleryProcess]) -> None:
    """Wait until these beats have noticed the loss and the other task is polled on."""
    for beat in beats:
        beat.wait_for_event(STORE_LOST)
    before = len(proj.rows("ticked"))
    wait_until(lambda: len(proj.rows("ticked")) > before + 3, "the task without a cursor is polled on")
    assert paused(proj.redis) == {UNIT: REASON}
    lost = events(proj.redis, "store.lost")
    assert lost
    assert {unit for event in lost for unit in event["paused"]} == {UNIT}
    assert all(event["was"] != event["epoch"] and event["at"] for event in lost)
    assert polled(proj.redis) == 0
    assert ids(proj) == list(range(10))


@pytest.mark.parametrize("how", ["flush", "restart"])
def test_units_with_a_cursor_wait_for_the_operator(losable: Losable, how: str) -> None:
    """Flushed, or restarted without its data: they are paused and say why; others go on; resumed they continue."""
    server, proj = losable()
    beats = run_beats(proj)

    if how == "flush":
        proj.redis.flushall()
    else:
        server.restart(keep_data=False)
    wait_for_pause(proj, beats)
    proj.write("most", "20")

    with Console(proj) as console:
        why = console("perpetual.why('proj.follow')")
        assert why["unit"]["state"] == "paused"
        assert why["unit"]["reason"] == REASON
        assert "resume --task proj.follow" in why["reasons"][0]["help"]
        console("perpetual.set_cursor('proj.follow', 10)")
        assert ids(proj) == list(range(10))
        assert console("perpetual.resume('proj.follow')") is True
    wait_until(lambda: ids(proj) == list(range(20)), "it continues from the cursor that was set")
    assert paused(proj.redis) == {}
    assert all(beat.alive for beat in beats)


def test_the_standby_pauses_too_when_the_leader_is_gone_with_the_data(losable: Losable) -> None:
    """Leader and data are lost at once: who takes over remembers the units, and pauses them before it polls."""
    _, proj = losable()
    first, second = run_beats(proj)

    first.kill9()
    proj.redis.flushall()
    wait_until(lambda: (leader(proj.redis) or (0, 0))[0] == second.pid, "the standby leads")

    wait_for_pause(proj, [second])


def test_a_beat_that_learns_of_the_loss_late_does_not_pause_again(losable: Losable) -> None:
    """A standby that was frozen meanwhile leaves a unit alone that the operator has resumed."""
    _, proj = losable()
    first, second = run_beats(proj)

    second.stop_signal()
    proj.redis.flushall()
    wait_for_pause(proj, [first])
    proj.write("most", "20")
    with Console(proj) as console:
        console("perpetual.set_cursor('proj.follow', 10)")
        assert console("perpetual.resume('proj.follow')") is True
    second.cont()
    second.wait_for_event(STORE_LOST)

    wait_until(lambda: ids(proj) == list(range(20)), "it continues")
    before = polled(proj.redis)
    wait_until(lambda: polled(proj.redis) > before + 3, "and is polled on")
    assert paused(proj.redis) == {}


def test_a_second_loss_does_not_set_free_what_the_first_one_paused(losable: Losable) -> None:
    """Data lost again before the operator came, cursors and pauses this time: the units are paused again."""
    server, proj = losable()
    beats = run_beats(proj)
    proj.redis.flushall()
    wait_for_pause(proj, beats)
    before = passes(proj.redis)
    wait_until(lambda: passes(proj.redis) >= before + 8, "both beats have looked again")

    server.restart(keep_data=False)
    for beat in beats:
        beat.wait_for_event(STORE_LOST, count=2)

    wait_for_pause(proj, beats)


def test_with_run_everything_is_polled_on(losable: Losable) -> None:
    """perpetual_on_store_lost = "run": the loss is announced, nothing is paused, the source is read again."""
    _, proj = losable(perpetual_on_store_lost="run")
    beats = run_beats(proj)

    proj.redis.flushall()
    wait_until(lambda: ids(proj) == [*range(10), *range(10)], "the source is read from the beginning")
    for beat in beats:
        beat.wait_for_event(STORE_LOST)

    assert paused(proj.redis) == {}
    assert {tuple(event["paused"]) for event in events(proj.redis, "store.lost")} == {()}
