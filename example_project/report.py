"""Did everything arrive? The receiver's record decides; the table is compared with it."""

import hashlib
import json
import sqlite3
import sys
from collections import Counter
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from accident import Kill, Recovery, tasks
from digest_report import Digests
from endpoint_report import Treatments
from stage import Stage, changed_settings, hide_password
from webhooks.models import Delivery

SHOWN = 10  # ids named in a complaint


@dataclass
class Comparison:
    """Records of the receiver against those of the table, by delivery id."""

    items: int
    delivered: int
    duplicates: int
    refused: int
    last_at: float | None
    missing: list[int] = field(default_factory=list)
    changed: list[int] = field(default_factory=list)  # arrived with another body than the row's
    unknown: list[int] = field(default_factory=list)  # arrived, but no such row
    repeated: list[int] = field(default_factory=list)  # arrived more often than its task was sent again
    disagreeing: list[int] = field(default_factory=list)  # arrived, but the row does not say so

    @property
    def ok(self) -> bool:
        return self.delivered == self.items and not self.complaints()

    def complaints(self) -> list[str]:
        found = [
            ("never arrived at the receiver", self.missing),
            ("arrived with a body that is not the row's", self.changed),
            ("arrived without being in the table", self.unknown),
            ("arrived more than once although no worker had died with them", self.repeated),
            ("arrived but are not marked delivered in the table", self.disagreeing),
        ]
        return [f"{len(ids)} {text}: {listed(ids)}" for text, ids in found if ids]


def listed(ids: list[int]) -> str:
    more = f" and {len(ids) - SHOWN} more" if len(ids) > SHOWN else ""
    return ", ".join(str(each) for each in sorted(ids)[:SHOWN]) + more


def compare(record: Path, seeded: int, sent_again: Counter[int]) -> Comparison:
    """Hold the receiver's record against the table.

    `seeded` is how many rows the demo inserted; the table must still have exactly those. `sent_again` is how often the
    task of a delivery was recovered from a dead worker: so often may it come once more, and every other only once.
    """
    accepted, refused = read(record)
    arrived = Counter(delivery_id for delivery_id, _, _ in accepted)
    digests = {(delivery_id, digest) for delivery_id, _, digest in accepted}
    states = dict(Delivery.objects.values_list("pk", "state"))
    known = [pk for pk in states if pk in arrived]
    # Bodies are made anew from the table, and only of what arrived: that is the slow part.
    rows = (row for row in Delivery.objects.iterator(2000) if row.pk in arrived)
    bodies = {row.pk: hashlib.sha256(row.body()).hexdigest() for row in rows}
    return Comparison(
        items=seeded,
        delivered=len(known),
        duplicates=sum(count - 1 for count in arrived.values()),
        refused=refused,
        last_at=max((at for _, at, _ in accepted), default=None),
        missing=[pk for pk in states if pk not in arrived],
        changed=sorted({pk for pk, digest in digests if pk in bodies and bodies[pk] != digest}),
        unknown=[pk for pk in arrived if pk not in states],
        repeated=[pk for pk, count in arrived.items() if count > 1 + sent_again[pk]],
        disagreeing=[pk for pk in known if states[pk] != Delivery.State.DELIVERED],
    )


def read(record: Path) -> tuple[list[tuple[int, float, str]], int]:
    """(id, time, digest of the body) of each accepted delivery, and the number of refused attempts."""
    db = sqlite3.connect(f"file:{record}?mode=ro", uri=True)
    try:
        accepted = db.execute("SELECT delivery_id, at, body_sha256 FROM accepted").fetchall()
        (refused,) = db.execute("SELECT count(*) FROM refused").fetchone()
    finally:
        db.close()
    return accepted, refused


@dataclass
class Outcome:
    comparison: Comparison
    problem: str  # why the demo could not come to its end, if it could not
    in_flight: int | None
    kill: Kill | None
    recovery: Recovery
    digests: Digests
    treatments: Treatments

    @property
    def ok(self) -> bool:
        return self.comparison.ok and not self.complaints()

    def complaints(self) -> list[str]:
        found = [self.problem] if self.problem else []
        if self.kill is None:
            return [*found, "no worker was killed: it was over before (too few rows?), or never got that far"]
        # One that had just published its retry when it died needs no recovery: its retry runs, and ends.
        if forgotten := self.kill.held - self.recovery.tasks - self.recovery.ended:
            found.append(f"{tasks(len(forgotten))} of the killed worker not sent again: {', '.join(sorted(forgotten))}")
        return [*found, *self.digests.complaints(), *self.treatments.complaints()]


def show(outcome: Outcome, stage: Stage, json_file: str | None) -> None:
    """The short report, and the same as JSON if a file is named."""
    result = outcome.comparison
    seconds = round((result.last_at or stage.beat_started_at) - stage.beat_started_at, 2)
    print(
        f"\n{result.delivered} of {result.items} deliveries arrived at the receiver, the last one {seconds} s "
        f"after beat was started ({result.delivered / max(seconds, 0.01):.0f}/s).\n"
        f"{result.refused} attempts were refused, as planned, and made again."
    )
    if outcome.kill:
        tell_recovery(outcome.kill, outcome.recovery)
    why = ", as a worker died before it could say that they had arrived"
    print(f"{result.duplicates} came twice{why if result.duplicates and not result.repeated else ''}.")
    digests = outcome.digests
    print(f"{digests.count} digests of {digests.endpoints} endpoints were made, one for each slot of their routines.")
    print("\n".join(outcome.treatments.lines()))
    if outcome.in_flight:
        print(f"The store still has {outcome.in_flight} in flight although every row is done.")
    killed = [process.name for process in stage.fleet.all.values() if process.killed]
    if killed:
        print(f"Did not end when asked and had to be killed: {', '.join(killed)}.")
    if json_file:
        document = {
            **asdict(result),
            "ok": outcome.ok,
            "problem": outcome.problem,
            "seconds": seconds,
            "in_flight": outcome.in_flight,
            "killed": killed,
            "accident": accident(outcome),
            "digests": asdict(outcome.digests),
            "treatments": outcome.treatments.to_dict(),
            "settings": changed_settings(),
            "broker_url": hide_password(stage.broker_url),
            "pids": stage.pids,
        }
        Path(json_file).write_text(json.dumps(document, indent=2) + "\n")
    if outcome.ok:
        print("Every delivery arrived, and the table says the same.")
    else:
        tell_failure(outcome, stage)


def tell_recovery(kill: Kill, recovery: Recovery) -> None:
    print(
        f"{kill.worker} was killed after {kill.delivered} deliveries, while it was executing {tasks(len(kill.held))}.\n"
        f"{tasks(len(recovery.tasks))} recovered, the last one sent again {recovery.seconds} s after the kill. "
        f"Of the messages that it had only received,\n{recovery.put_back} were put back into their queue."
    )


def accident(outcome: Outcome) -> dict[str, Any] | None:
    """The same as JSON."""
    kill, recovery = outcome.kill, outcome.recovery
    if kill is None:
        return None
    return {
        "worker": kill.worker,
        "pid": kill.pid,
        "delivered_before": kill.delivered,
        "held": sorted(kill.held),
        "recovered": sorted(recovery.tasks),
        "seconds": recovery.seconds,
        "put_back": recovery.put_back,
    }


def tell_failure(outcome: Outcome, stage: Stage) -> None:
    print("\nFAILED")
    for complaint in [*outcome.complaints(), *outcome.comparison.complaints()]:
        print(f"  {complaint}")
    for process in stage.fleet.all.values():
        print(f"\n--- the end of {process.log}\n{process.tail()}")
    print(
        f"\nTo look further: all files are still in {stage.folder}\n"
        f"  less {stage.folder}/worker-1.log\n"
        f"or leave it all running and ask it: {sys.executable} demo.py --keep"
    )
