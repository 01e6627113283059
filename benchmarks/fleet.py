"""The app of the tenants bench: many units of one task, or one unit that is refilled; it notes what it sees."""

from __future__ import annotations

import atexit
import os
import time
from array import array
from pathlib import Path

from celery import Celery

from celery_perpetual import Item, Perpetual, PerpetualOptions, PerpetualTask, Poll

TENANTS, EVERY = int(os.environ["BENCH_TENANTS"]), float(os.environ["BENCH_EVERY"])
FILE = Path(os.environ["BENCH_FILE"])

app = Celery("fleet", broker=os.environ["BENCH_BROKER"])
app.conf.task_ignore_result = True
perpetual = Perpetual(app)

#: Time of the call, and how late it was, in turns.
seen: array[float] = array("d")


@atexit.register
def write() -> None:
    """Write the polls that this process has seen, when it ends."""
    if seen:
        FILE.write_bytes(seen.tobytes())


def note(poll: Poll) -> None:
    """Nothing to do."""
    seen.extend((time.time(), poll.late_by))


def refill(poll: Poll) -> list[Item]:
    """Twenty items, whenever fewer than ten are left."""
    seen.extend((time.time(), poll.late_by))
    return [Item((n,), key=False) for n in range(20)]


def nothing(number: int = 0) -> None:
    """The body of both."""


if TENANTS:
    app.task(name="fleet.poll", base=PerpetualTask, poll_every=EVERY, next_batch=note, tenants=lambda: range(TENANTS))(
        nothing
    )
else:
    app.task(
        name="fleet.refill",
        base=PerpetualTask,
        poll_every=3600,
        next_batch=refill,
        perpetual_options=PerpetualOptions(low_water=10),
    )(nothing)
