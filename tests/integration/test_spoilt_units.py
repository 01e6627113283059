"""A strange hand has written into what the store knows of units: the others are polled on."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from celery_perpetual import PerpetualTask
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
    """Both were polled before; from now on the other one is polled at its pace."""
    one = watched_app()
    options: dict[str, Any] = {"base": PerpetualTask, "shared": False, "poll_every": 0.05, "next_batch": lambda: None}
    for name in ("spoilt", "plain"):
        one.app.task(name=name, **options)(nothing)
    clock = LeadingClock(one.perpetual)
    try:
        clock.until_polled("spoilt")
        clock.until_polled("plain")
        SPOILT[kind](one.redis)
        clock.until_polled("plain", sum(each.repeated for each in one.perpetual.polls("plain")) + 10)
    finally:
        clock.close()
