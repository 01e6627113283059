"""Work that is under way: parked tasks, batches that cannot be published."""

from __future__ import annotations

from typing import TYPE_CHECKING

from celery_perpetual.health.findings import WARNING, WORK, Finding
from celery_perpetual.store.work_list import entries_put_off
from celery_perpetual.times import to_datetime
from celery_perpetual.wording import counted_are

if TYPE_CHECKING:
    from collections.abc import Iterator

    from celery_perpetual.health.reading import Reading


def parked(reading: Reading) -> Iterator[Finding]:
    """Tasks that wait for an operator."""
    found = reading.parked
    if not found.tasks:
        return
    yield Finding(
        kind="tasks_parked", area=WORK, level=WARNING, since=to_datetime(found.since),
        evidence=f"{counted_are(found.tasks, 'task')} parked, the last one because {found.last_reason}",
        meaning="they keep their keys and their room until an operator acts",
        help="celery -A proj perpetual parked; then recover, fail or cancel them", about={"tasks": found.tasks},
    )  # fmt: skip


def put_off(reading: Reading) -> Iterator[Finding]:
    """Findings on work that waits because it cannot be done just now."""
    keys = reading.store.keys
    for kind, what, waiting in (
        ("batches_unpublished", "batches could not be published", keys.outbox),
        ("follow_ups_unsent", "messages on_batch_done could not be sent", keys.batches),
    ):
        if count := entries_put_off(reading.store, waiting):
            yield Finding(
                kind=kind, area=WORK, level=WARNING, evidence=f"{count} {what}",
                meaning="they are tried again, ever later",
                help="celery -A proj inspect ping asks the broker; the log of the leading beat says more",
            )  # fmt: skip
