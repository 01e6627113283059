"""The beat that leads."""

from __future__ import annotations

from typing import TYPE_CHECKING

from celery_perpetual.health.findings import BEAT, ERROR, WARNING, Finding
from celery_perpetual.leases.workers import app_name
from celery_perpetual.store.commands.stats import failed_step
from celery_perpetual.times import to_datetime
from celery_perpetual.wording import one_line

if TYPE_CHECKING:
    from collections.abc import Iterator

    from celery_perpetual.health.reading import Reading


def leader(reading: Reading) -> Iterator[Finding]:
    """No beat leads, or the leader is in trouble."""
    lead = reading.lead
    if lead.info is None:
        seen = lead.last_contact
        yield Finding(
            kind="no_leader", area=BEAT, level=WARNING, stops=True, evidence="no beat holds the lead",
            since=None if seen is None else to_datetime(seen),
            meaning="nothing is polled: no beat runs, or it runs with another scheduler (-S)",
            help="celery -A proj beat",
        )  # fmt: skip
    elif trouble := lead.info.get("trouble"):
        yield Finding(
            kind="leader_in_trouble", area=BEAT, level=ERROR,
            evidence=f"the leading beat {lead.info.get('owner')} is in trouble: {trouble}",
            meaning="what the text names is not done; where that is the clock, nothing is polled",
            help="correct what is wrong there; another beat would take the lead",
            about={"beat": lead.info.get("owner")},
        )  # fmt: skip


def failing_pass(reading: Reading) -> Iterator[Finding]:
    """A step of the newest maintenance pass has failed."""
    failed = failed_step(reading.store)
    if failed is not None:
        yield Finding(
            kind="cycle_failing", area=BEAT, level=WARNING,
            evidence=f"the step {failed['step']} of the last maintenance pass failed: {one_line(failed['error'])}",
            meaning="the other steps run; what this one does waits, as tasks of dead workers do for the step sweep",
            help="correct what the error names; celery -A proj perpetual stats shows whether it lasts",
            about={"step": failed["step"]},
        )  # fmt: skip


def other_app(reading: Reading) -> Iterator[Finding]:
    """A beat or a worker of another app uses this prefix."""
    mine, keys = app_name(reading.namespace.app), reading.store.keys
    lead = {} if reading.lead.info is None else {"app": mine, **reading.lead.info}
    processes = [
        *([(f"the leading beat {lead['owner']}", lead["app"])] if lead else ()),
        *((f"worker {worker.info.get('hostname')}", worker.info.get("app", mine)) for worker in reading.workers),
    ]
    found = next(((process, app) for process, app in processes if app != mine), None)
    if found is not None:
        process, app = found
        meaning = "workers receive messages of the other app"
        if lead.get("app", mine) != mine:
            meaning = f"no beat of this app starts, and {meaning}"
        yield Finding(
            kind="other_app", area=BEAT, level=ERROR,
            evidence=f"{process} is of the app {app!r}, and this app is {mine!r}; both have the prefix {keys.prefix!r}",
            meaning=meaning,
            help="give each app a perpetual_key_prefix and a queue (task_default_queue) of its own", about={"app": app},
        )  # fmt: skip


def other_code(reading: Reading, digest: str, tasks: int) -> Iterator[Finding]:
    """The leader knows other perpetual tasks than this process, and is of the same app.

    Args:
        digest: of the tasks of this process.
        tasks: how many they are.
    """
    info, mine = reading.lead.info, app_name(reading.namespace.app)
    if info is None or info.get("digest") in (None, digest) or info.get("app", mine) != mine:
        return
    owner, count = info.get("owner"), info.get("units")
    yield Finding(
        kind="leader_other_code", area=BEAT, level=ERROR,
        evidence=f"the leading beat {owner} knows other perpetual tasks ({count}) than this code ({tasks})",
        meaning="it runs other code, and may not poll new tasks", help="restart that beat", about={"beat": owner},
    )  # fmt: skip
