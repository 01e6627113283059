"""Work that is under way: parked tasks, batches that cannot be published, results that cannot be stored."""

from __future__ import annotations

from itertools import islice
from typing import TYPE_CHECKING, NamedTuple

from celery_perpetual.health.findings import WARNING, WORK, Finding
from celery_perpetual.health.unit_checks import in_command
from celery_perpetual.ledger.ids import item_address
from celery_perpetual.publishing.publisher import PATIENCE_MS
from celery_perpetual.store.commands.batches import commits, open_batches_of
from celery_perpetual.store.work_list import MOST_SHOWN, Undone, undone
from celery_perpetual.tasks.names import parse_unit_name
from celery_perpetual.times import to_datetime
from celery_perpetual.wording import counted, counted_are, one_line

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from celery_perpetual.health.reading import Reading

#: An entry that was not tried is due for so many ms before anything is said of it.
LATE_MS = 15_000


class _Other(NamedTuple):
    """The other side of work that cannot be done."""

    silence: str
    """The meaning of it where no error is known."""
    help: str


BROKER = _Other(
    "the broker takes no messages, without a word (RabbitMQ: an alarm?), or no beat leads to send them",
    "celery -A proj inspect ping asks the broker; the log of the leading beat says more",
)
BACKEND = _Other(
    "the result backend takes no results, without a word, or no beat leads to store them",
    "the beat that leads has to reach the result backend; a result is given up after a day, and get() waits until then",
)


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


def replaced(reading: Reading, unit: str | None = None) -> Iterator[Finding]:
    """Items that replaced themselves by several tasks, which have not ended for long.

    Args:
        reading: the namespace.
        unit: only its items.
    """
    found = reading.replaced
    if unit is not None and found:
        polls = {each.task_id: where.poll_id for each in found if (where := item_address(each.task_id)) is not None}
        of_polls = commits(reading.store, sorted(set(polls.values())))
        found = [each for each in found if (of := of_polls.get(polls[each.task_id])) is not None and of.unit == unit]
    if not found:
        return
    oldest, is_one = found[0], len(found) == 1
    where = item_address(oldest.task_id)
    of = None if where is None else commits(reading.store, [where.poll_id]).get(where.poll_id)
    lists = ""
    if of is not None and not is_one:
        lists = f"; celery -A proj perpetual items {in_command(*parse_unit_name(of.unit))} --state replaced lists more"
    yield Finding(
        kind="items_replaced", area=WORK, level=WARNING, since=to_datetime(oldest.since),
        evidence=f"{counted(len(found), 'item')} replaced {'itself' if is_one else 'themselves'} by several tasks and "
        f"{'has' if is_one else 'have'} not ended since, the oldest is {oldest.task_id} of {oldest.task}",
        meaning="one of those tasks takes long, or the broker has lost its message, and then the item never ends; "
        "until its end it keeps its key and its room",
        help=f"celery -A proj perpetual fail {oldest.task_id} --reason lost ends it, and then "
        f"celery -A proj perpetual retry {oldest.task_id} enqueues it again{lists}",
        about={"items": len(found), "task_id": oldest.task_id},
    )  # fmt: skip


def put_off(reading: Reading) -> Iterator[Finding]:
    """Findings on work that waits because it cannot be done just now."""
    keys = reading.store.keys
    for kind, key, what in (
        ("batches_unpublished", keys.outbox, ("batch", "batches", "could not be published")),
        ("follow_ups_unsent", keys.batches, ("message", "messages", "on_batch_done could not be sent")),
    ):
        yield from _undone(kind, what, undone(reading.store, key, LATE_MS), BROKER)
    results = ("result", "results", "could not be stored in Celery's backend")
    yield from _undone("results_unstored", results, undone(reading.store, keys.owed, LATE_MS), BACKEND)


def unpublished(reading: Reading, unit: str, patience: float) -> Iterator[Finding]:
    """The same for the batches of one unit that are not published.

    Args:
        reading: the namespace.
        unit: its name.
        patience: the part of the usual time after which something is said of a batch that was not tried.
    """
    batches = [poll for poll, _ in islice(open_batches_of(reading.store, unit), MOST_SHOWN)]
    late_ms = max(round(LATE_MS * patience), PATIENCE_MS)  # until then its publisher may be at it
    mine = undone(reading.store, reading.store.keys.outbox, late_ms, batches)
    yield from _undone("batches_unpublished", ("batch", "batches", "of it could not be published"), mine, BROKER)


def _undone(kind: str, what: tuple[str, str, str], found: Sequence[Undone], other: _Other) -> Iterator[Finding]:
    if not found:
        return
    one, many, trouble = what
    seen = f"{'at least ' if len(found) >= MOST_SHOWN else ''}{len(found)} {one if len(found) == 1 else many} {trouble}"
    reason = next((each.reason for each in reversed(found) if each.reason), "")
    if reason or any(each.late_ms < 0 for each in found):
        because, meaning = (
            f", the last one because {one_line(reason)}" if reason else "",
            "they are tried again, ever later",
        )
    else:
        because = f": the first has waited for {found[0].late_ms / 1000:.0f} s"
        meaning = other.silence
    yield Finding(
        kind=kind, area=WORK, level=WARNING, evidence=seen + because, meaning=meaning,
        help=other.help,
    )  # fmt: skip
