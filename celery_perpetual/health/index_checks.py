"""Records that are on no list: what works off the lists never finds them."""

from __future__ import annotations

from itertools import islice
from typing import TYPE_CHECKING

from celery_perpetual.health.findings import ERROR, STORE, Finding
from celery_perpetual.routines.storage import listed, read_readable
from celery_perpetual.store.commands.leases import StateText
from celery_perpetual.store.commands.repair import hash_pages, times_of

if TYPE_CHECKING:
    from collections.abc import Iterator

    from celery_perpetual.health.reading import Reading

#: Records that are read, in pages of some hundred, and those that are named.
MOST_PAGES, NAMED = 10, 3


def unlisted(reading: Reading) -> Iterator[Finding]:
    """Routines and lost tasks of which a list was deleted, by hand or by a server that evicts keys.

    A list may change while this runs, so what seems to be missing is looked at a second time.
    """
    missing = [f"routine {each}" for each in _routines(reading, _routines(reading))]
    missing += [f"task {each}" for each in _lost_tasks(reading, _lost_tasks(reading))]
    if not missing:
        return
    rest = f" and {len(missing) - NAMED} more" if len(missing) > NAMED else ""
    yield Finding(
        kind="index_lost", area=STORE, level=ERROR,
        evidence=f"{', '.join(missing[:NAMED])}{rest}: there is a record, and no list that leads to it",
        meaning="a list was deleted; what is on none is never run again",
        help="celery -A proj perpetual rebuild", about={"missing": len(missing)},
    )  # fmt: skip


def _routines(reading: Reading, among: list[str] | None = None) -> list[str]:
    store, keys = reading.store, reading.store.keys
    lists = {
        "due": keys.routines_due, "running": keys.routines_running, "paused": keys.routines_pauses,
        "over": keys.routines_over,
    }  # fmt: skip
    if among is None:
        among = [each for page in islice(hash_pages(store, keys.routines), MOST_PAGES) for each, _ in page]
    records = read_readable(store, among) if among else []
    ids = [record.id for record in records]
    times = {name: times_of(store, key, ids) for name, key in lists.items()}
    places = [listed(record, store.limits.tombstone_ttl)[0] for record in records]
    return [
        each
        for at, (each, name) in enumerate(zip(ids, places, strict=True))
        if name != "none" and times[name][at] is None
    ]


def _lost_tasks(reading: Reading, among: list[str] | None = None) -> list[str]:
    store, keys = reading.store, reading.store.keys
    lists = {"resend": keys.resend, "fail": keys.resend, "parked": keys.parked_at}
    flags = {
        each: StateText.among_others(text).flag
        for page in islice(hash_pages(store, keys.states), MOST_PAGES)
        for each, text in page
        if among is None or each in among
    }
    ids = [each for each, flag in flags.items() if flag in lists]
    times = {key: times_of(store, key, ids) for key in set(lists.values())}
    return [each for at, each in enumerate(ids) if times[lists[flags[each]]][at] is None]
