"""A strange hand has written into what the store knows of units: the others are polled on."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from celery_perpetual import PerpetualTask
from celery_perpetual.operations.lookup import find
from celery_perpetual.polling.claims import Claim, Claims
from tests.support.contract import nothing
from tests.support.leading import LeadingClock

if TYPE_CHECKING:
    from collections.abc import Callable

    import redis

    from tests.support.watched_app import WatchedApp

# That is how the threads of a clock are ended here.
pytestmark = pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")

UNIT, DUE = "perpetual:u:perpetual:spoilt", "perpetual:due"

#: Each kind of spoilt data, and what writes it.
SPOILT: dict[str, Callable[[redis.Redis], Any]] = {
    "a name of two lines": lambda client: client.zadd(DUE, {"perpetual:spoilt\nand more": 1}),
    "a due time that is none": lambda client: client.zadd(DUE, {"perpetual:spoilt": float("-inf")}),
    "a due time before all times": lambda client: client.zadd(DUE, {"perpetual:spoilt": -5}),
    "a hundred of them": lambda client: client.zadd(DUE, {f"perpetual:spoilt\n{n}": float("-inf") for n in range(150)}),
    "a name that is no text": lambda client: client.zadd(DUE, {b"\xff": 1}),
    "a trigger that is no text": lambda client: client.hset(UNIT, "trigger", b"\xff"),
    "no name of a unit": lambda client: client.zadd(DUE, {"of a strange hand": 1}),
    "a first slot that is no number": lambda client: client.hset(UNIT, "anchor", "of a strange hand"),
    "a last slot that is no number": lambda client: client.hset(UNIT, "slot", "of a strange hand"),
    "items in flight that are no number": lambda client: client.hset(UNIT, "inflight", "of a strange hand"),
    "failures that are no JSON": lambda client: client.hset(UNIT, mapping={"attempt": 1, "failures": "{"}),
    "a cursor that is no JSON": lambda client: client.hset(UNIT, "cursor", "{"),
    "a trigger of two words": lambda client: client.hset(UNIT, "trigger", "a strange hand"),
    "a claim without facts": lambda client: client.hset(UNIT, mapping={"claim": "strange", "claimed": "hand"}),
}


@pytest.mark.parametrize("kind", SPOILT)
def test_a_spoilt_unit_holds_up_no_other(watched_app: Callable[..., WatchedApp], kind: str) -> None:
    """Both were polled before; the other one is polled at its pace, and so is this one, or its polls say what is wrong."""
    one = watched_app()
    options: dict[str, Any] = {"base": PerpetualTask, "shared": False, "poll_every": 0.05, "next_batch": lambda: None}
    for name in ("spoilt", "plain"):
        one.app.task(name=name, **options)(nothing)
    clock = LeadingClock(one.perpetual)
    try:
        clock.until_polled("spoilt")
        clock.until_polled("plain")
        before = {name: sum(each.repeated for each in one.perpetual.polls(name)) for name in ("plain", "spoilt")}
        SPOILT[kind](one.redis)
        clock.until_polled("plain", before["plain"] + 10)
        clock.until_polled("spoilt", before["spoilt"] + 1)
        assert set(one.redis.zrange(DUE, 0, -1)) == {"perpetual:plain", "perpetual:spoilt"}
    finally:
        clock.close()


#: Fields of a unit, and what a poll that has failed over them leaves wrong.
FIELDS: dict[str, tuple[dict[str, Any], bool]] = {
    "failures that are no JSON": ({"attempt": 1, "failures": "{"}, False),
    "failures that are no object": ({"attempt": 1, "failures": "3"}, False),
    "failures without counts": ({"attempt": 1, "failures": '{"unknown": "many"}'}, False),
    "failures that are too deep": ({"attempt": 1, "failures": "[" * 100_000}, False),
    "an attempt that is no number": ({"attempt": "many"}, False),
    "a last poll that is no time": ({"polled": "yesterday"}, False),
    "items in flight that are no number": ({"inflight": "many"}, True),
    "a cursor that is no text": ({"cursor": b"\xff"}, True),
}


@pytest.mark.parametrize("kind", FIELDS)
def test_a_poll_of_a_unit_that_cannot_be_read_fails(watched_app: Callable[..., WatchedApp], kind: str) -> None:
    """Its outcome says so, here and in a worker, and its claim is closed."""
    one, (fields, stays) = watched_app(), FIELDS[kind]
    one.app.task(name="spoilt", base=PerpetualTask, shared=False, poll_every=60, next_batch=lambda: None)(nothing)
    unit, claims = find(one.app, "spoilt", None), Claims(one.perpetual.store)
    claim = claims.by_hand(unit)
    assert isinstance(claim, Claim)
    one.redis.hset(UNIT, mapping=fields)

    travelled = claims.received_by_worker(unit, claim.poll_id, "")
    assert travelled is not None
    first = one.perpetual.runner.poll_and_store(travelled)
    assert first is not None
    one.redis.hset(UNIT, mapping=fields)
    second = one.perpetual.poll("spoilt")

    for outcome in (first, second):
        assert (outcome.status, "what the store has of perpetual:spoilt cannot be read" in outcome.error) == (
            "failed",
            True,
        )
    assert not one.redis.hexists(UNIT, "claim")
    assert one.perpetual.poll("spoilt").status == ("failed" if stays else "empty")
