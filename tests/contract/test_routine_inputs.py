"""Values that no routine can have: each is refused with its field, whatever it is, and nothing is stored."""

from __future__ import annotations

import math
from datetime import datetime, timedelta, timezone
from decimal import Decimal
from functools import partial
from typing import TYPE_CHECKING, Any

import pytest
from celery.schedules import crontab

from celery_perpetual import ContractError, InvalidRoutine, Retries
from celery_perpetual.errors import PerpetualError
from tests.support.routines import after

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.support.routines import World

UTC = timezone.utc
HUGE = 10**5000
"""Python refuses to write this number."""
NAN, INF = math.nan, math.inf
FIRST, LAST = (
    datetime.min.replace(tzinfo=timezone(timedelta(hours=14))),
    datetime.max.replace(tzinfo=timezone(timedelta(hours=-12))),
)
"""Times that a datetime in UTC does not have."""

NO_TIMES = (7, True, "2030-01-01", HUGE, NAN, datetime(2030, 1, 1), datetime(1969, 1, 1, tzinfo=UTC), FIRST, LAST)
NO_SECONDS = (True, "60", NAN, INF, -1, -HUGE, HUGE, 1e308, Decimal(5), timedelta(-1), timedelta.max)
NO_COUNTS = (True, 0, -1, 1.0, "3", NAN, HUGE, 2**63)
NO_TRUTHS = (0, 1, "yes", NAN, HUGE)
NO_NAMES = ("", "x" * 256, 7, True, HUGE, "\ud800", b"id")

WRONG: dict[str, tuple[Any, ...]] = {
    "id": NO_NAMES,
    "idempotency_key": NO_NAMES,
    "task": ("", 7, True, HUGE, object()),
    "args": ("ab", b"ab", 7, {"a": 1}, HUGE, (object(),)),
    "kwargs": ([1], 7, "ab", HUGE, {1: 2}, {"a": object()}),
    "options": (
        [1],
        7,
        HUGE,
        {"queue": object()},
        {"expires": NAN},
        {"expires": HUGE},
        {"expires": True},
        {1: 2},
        {"expires": "soon"},
        {"expires": "2030-01-01"},
        {"headers": 5},
        {"headers": {1: 2}},
        {"priority": NAN},
        {"priority": [1]},
        {"serializer": []},
        {"compression": {}},
    ),
    "every": (0, *NO_SECONDS),
    "schedule": (7, HUGE, "* * * * *", object()),
    "timezone": ("Mars/Olympus", 7, HUGE, "", "../etc/passwd", "\0", "\ud800"),
    "at": NO_TIMES,
    "start_at": NO_TIMES,
    "end_at": NO_TIMES,
    "next_run_at": NO_TIMES,
    "max_runs": NO_COUNTS,
    "max_catch_up": (*NO_COUNTS, 10**9),
    "catch_up": NO_TRUTHS,
    "paused": NO_TRUTHS,
    "jitter": NO_SECONDS,
    "retries": (3, True, HUGE, {"max_attempts": 3}, Retries),
    "metadata": ([1], 7, HUGE, {1: 2}, {"a": NAN}, {"a": HUGE}, {"a": {"b": object()}}),
}
CASES = [(field, value) for field, values in WRONG.items() for value in values]


def _fields(field: str, value: Any) -> dict[str, Any]:
    """The fields of a routine that is right but for one of them."""
    fields: dict[str, Any] = {"task": "app.work", "every": 60}
    if field in ("at", "schedule", "timezone"):
        del fields["every"]
    if field == "timezone":
        fields["schedule"] = crontab(minute=0)
    if field == "max_catch_up":
        fields["catch_up"] = True
    return {**fields, field: value}


def test_a_value_that_a_field_cannot_have_is_refused(world: World) -> None:
    """By ``create``, by ``create_many`` and by ``update``, with the field's name; what is there stays as it was."""
    kept = world.create(id="kept", every=60)
    calendar = world.create(id="calendar", schedule=crontab(minute=0), catch_up=True)
    wrong = []
    for field, value in CASES:
        fields = _fields(field, value)
        patch = {field: value, **({"catch_up": True} if field == "max_catch_up" else {})}
        name = "calendar" if field == "timezone" else "kept"
        calls: list[Callable[[], Any]] = [
            partial(world.routines.create_many, [{"task": "app.work", "every": 60}, fields]),
            partial(world.routines.update, name, **patch),
        ]
        for call in calls[: 1 if field == "id" else 2]:
            try:
                call()
            except InvalidRoutine as error:
                if error.field != field or field not in str(error) or len(str(error)) > 4000:
                    wrong.append((field, type(value), str(error)[:200]))
            except Exception as error:  # each is a fault
                wrong.append((field, type(value), repr(error)[:200]))
            else:
                wrong.append((field, type(value), "was not refused"))

    assert wrong == []
    assert world.routines.list() == [calendar, kept]


def test_a_field_that_there_is_not_is_refused(world: World) -> None:
    """Also where its name is no text."""
    for name in (7, "", "\ud800", None):
        with pytest.raises(InvalidRoutine, match="is unknown"):
            world.routines.create_many([{"task": "app.work", "every": 60, name: 1}])  # type: ignore[dict-item]


@pytest.mark.parametrize("field", ["max_attempts", "backoff", "multiplier", "max_backoff", "jitter"])
def test_retries_refuse_what_they_cannot_have(field: str) -> None:
    """Numbers that cannot be stored, and those that are none."""
    for value in (HUGE, -1, NAN, INF, "3", b"3", 2**70):
        with pytest.raises(ContractError, match=f"Retries: {field}"):
            Retries(**{field: value})


def test_arguments_of_calls_are_checked(world: World, now: datetime) -> None:
    """Those that are no fields: times, limits, versions and words."""
    made = world.create(id="r", every=60)
    routines = world.routines
    calls: list[Callable[[], Any]] = []
    for time in (7, True, HUGE, NAN, datetime(2030, 1, 1)):
        calls += [
            partial(routines.run_due, time), partial(routines.list_due, time),
            partial(routines.list, due_before=time), partial(routines.pause, "r", until=time),
        ]  # fmt: skip
    for count in (0, True, 1.5, "3", NAN):
        calls += [
            partial(routines.run_due, limit=count), partial(routines.list_due, limit=count),
            partial(routines.list, limit=count),
        ]  # fmt: skip
    for version in (True, "1", 1.0, NAN, 0, -1):
        calls.append(partial(routines.update, "r", if_version=version, metadata={"a": 1}))
    for word in ("later", None, True, HUGE):
        calls.append(partial(routines.resume, "r", from_=word))
    wrong = []
    for n, call in enumerate(calls):
        try:
            call()
        except InvalidRoutine:
            continue
        except Exception as error:  # each is a fault
            wrong.append((n, repr(error)[:200]))
        else:
            wrong.append((n, "was not refused"))

    assert wrong == []
    assert routines.get("r") == made
    for routine_id in (7, None, True, b"r"):
        with pytest.raises(PerpetualError, match="the id of a routine is text"):
            routines.get(routine_id)  # type: ignore[arg-type]
    assert routines.update("r", if_version=made.version, metadata={"a": 1}).version == made.version + 1
    long = routines.pause("r", reason="x" * 10_000 + "\ud800")
    assert long.pause is not None
    assert len(long.pause["reason"]) == 2000
    assert after(now, 0) <= long.updated_at
