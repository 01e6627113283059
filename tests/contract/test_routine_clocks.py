"""Routines through the nights in which clocks are changed, from the store's records: no waiting, each slot is run at
the time that the record says.
"""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import TYPE_CHECKING
from zoneinfo import ZoneInfo

from celery.schedules import crontab

from tests.support.routines import World

if TYPE_CHECKING:
    from collections.abc import Callable

    import redis
    from celery import Celery

BERLIN, NEW_YORK = ZoneInfo("Europe/Berlin"), ZoneInfo("America/New_York")
#: Both clocks are changed twice in it, on different days.
START, END = datetime(2031, 1, 1, tzinfo=BERLIN), datetime(2032, 1, 2, tzinfo=BERLIN)


def test_a_year_of_slots_in_two_zones(make_app: Callable[..., Celery], store_redis: redis.Redis) -> None:
    """A daily crontab has one slot a day at its time of day; an interval has one every twenty-four hours."""
    world = World(make_app("app"), store_redis)
    daily = crontab(hour=2, minute=30)
    world.create("berlin", id="berlin", schedule=daily, timezone="Europe/Berlin", start_at=START, end_at=END)
    world.create("york", id="york", schedule=daily, timezone="America/New_York", start_at=START, end_at=END)
    world.create("interval", id="interval", every=timedelta(days=1), start_at=START, end_at=END)
    found: dict[str, list[datetime]] = {"berlin": [], "york": [], "interval": []}

    while (at := world.routines.next_due_at()) is not None:
        for run in world.routines.run_due(at, run_inline=True):
            assert (run.slot, run.status) == (at, "success")
            found[run.routine_id].append(run.slot)

    assert {world.routines.get(each).state for each in found} == {"completed"}
    for name, zone, left_out, autumn in [
        ("berlin", BERLIN, "2031-03-30T03:30:00+02:00", "2031-10-26T02:30:00+02:00"),
        ("york", NEW_YORK, "2031-03-09T03:30:00-04:00", "2031-11-02T02:30:00-05:00"),
    ]:
        shown = [slot.astimezone(zone) for slot in found[name]]
        first = shown[0].toordinal()
        assert [slot.toordinal() for slot in shown] == list(range(first, first + 366))
        assert [slot.isoformat() for slot in shown if (slot.hour, slot.minute) != (2, 30)] == [left_out]
        assert autumn in {slot.isoformat() for slot in shown}
    steps = {later - earlier for earlier, later in zip(found["interval"], found["interval"][1:], strict=False)}
    assert steps == {timedelta(days=1)}
    assert {slot.astimezone(BERLIN).hour for slot in found["interval"]} == {0, 1}
    assert world.slots == sorted(slot for slots in found.values() for slot in slots)
    world.perpetual.store.close()
