"""The page about JSON is true: every record has just the fields that it lists, of the types that it says."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import TYPE_CHECKING, Any

from celery_perpetual import Batch, Item, Perpetual, PerpetualOptions, PerpetualTask, Retries
from tests.support.contract import begin, finish
from tests.support.pretending import lead, report

if TYPE_CHECKING:
    from collections.abc import Callable

    from celery import Celery

PAGE = (Path(__file__).parents[2] / "docs" / "json.md").read_text(encoding="utf-8")
TIME = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z")


def table(record: str) -> dict[str, str]:
    """Field and type of each row of a record's table."""
    section = PAGE.split(f"\n## {record}\n")[1].split("\n## ")[0]
    rows = re.findall(r"^\| (`.+?) \| (.+?) \|$", section, re.MULTILINE)
    return {name: kind for names, kind in rows for name in re.findall(r"`(\w+)`", names)}


def is_a(value: Any, kind: str) -> bool:
    """Whether a value is of a type of the page."""
    if " or " in kind:
        return any(is_a(value, each) for each in kind.split(" or "))
    plain: dict[str, Any] = {
        "string": str, "boolean": bool, "object": dict, "array": list, "null": type(None), "any": object,
    }  # fmt: skip
    if kind in ("integer", "number"):
        return isinstance(value, int if kind == "integer" else (int, float)) and not isinstance(value, bool)
    if kind == "time":
        return isinstance(value, str) and bool(TIME.fullmatch(value))
    if kind.startswith("array of "):
        record = kind.removeprefix("array of ").partition(",")[0].removesuffix("s")
        return isinstance(value, list) and all(fits(each, record, kind) for each in value)
    if kind in plain:
        return isinstance(value, plain[kind])
    return isinstance(value, dict) and fits(value, kind.partition(",")[0], kind)


def fits(value: dict[str, Any], record: str, kind: str = "") -> bool:
    """Whether a record has the fields of its table."""
    wanted = table(record)
    for name in re.findall(r"without `(\w+)`", kind):
        del wanted[name]
    assert value.keys() == wanted.keys(), f"{record}: {value.keys() ^ wanted.keys()}"
    wrong = {name: (each, wanted[name]) for name, each in value.items() if not is_a(each, wanted[name])}
    assert wrong == {}, record
    return True


def test_every_record_is_as_the_page_says(make_app: Callable[..., Celery]) -> None:
    """A unit that was polled, one that fails, one that is paused; an item that runs, one that waits, one that has failed."""
    perpetual = Perpetual(make_app())
    rows = [[Item((n,), {"fast": True}, key=n) for n in range(3)]]
    mark = datetime.now(timezone.utc) - timedelta(minutes=1)

    @perpetual.app.task(
        base=PerpetualTask, name="deliver", shared=False, poll_every=60, tenants=["acme", "other"],
        next_batch=lambda: Batch(rows[0], watermark=mark), perpetual_options=PerpetualOptions(failed_keys=Retries()),
    )  # fmt: skip
    def deliver(row: int, *, fast: bool) -> None: ...

    @perpetual.app.task(base=PerpetualTask, name="broken", shared=False, poll_every=60, next_batch=lambda: 1 / 0)
    def broken() -> None: ...

    lead(perpetual)
    outcome = perpetual.poll("deliver", "acme")
    perpetual.poll("broken")
    begin(perpetual, outcome.task_ids[0])
    finish(perpetual, outcome.task_ids[1], "failure", ValueError("bad"))
    perpetual.pause("deliver", "other", reason="the first")
    pause = perpetual.pause("deliver", "other", until=datetime.now(timezone.utc) + timedelta(hours=1))
    report(perpetual)

    def plain(records: Any) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = json.loads(json.dumps([each.to_dict() for each in records]))
        return found

    found = {
        "unit": plain(perpetual.units()),
        "poll": plain([outcome, *perpetual.polls("broken")]),
        "explanation": plain(
            [perpetual.why("deliver", "acme"), perpetual.why("deliver", "other"), perpetual.why("broken")]
        ),
        "finding": plain(perpetual.doctor()),
        "status": plain([perpetual.status()]),
        "lease": plain(perpetual.leases()),
        "worker": plain(perpetual.workers()),
        "item": plain(perpetual.items("deliver", "acme")),
        "pause": plain([pause, replace(pause, replaced=None)]),
        "routine": plain([*_routines(perpetual), *perpetual.routines.list()]),
        "routine run": plain([perpetual.routines.run_now("rests"), *perpetual.routines.run_due(run_inline=True)]),
    }

    for record, values in found.items():
        assert values, record
        assert all(fits(value, record) for value in values)


def _routines(perpetual: Perpetual) -> list[Any]:
    """One that has just been made, one that has failed, one that is paused, one that has ended."""
    soon, routines = datetime.now(timezone.utc) + timedelta(hours=1), perpetual.routines
    routines.create("broken", every=60, id="fails", retries=Retries(max_attempts=3, backoff=60))
    routines.run_due(run_inline=True)
    routines.create("broken", at=soon, id="ends", metadata={"a": 1}, idempotency_key="k")
    routines.cancel("ends")
    routines.create("deliver", (1,), {"fast": True}, every=60, start_at=soon, id="rests", options={"queue": "q"})
    paused = routines.pause("rests", until=soon)
    return [paused, routines.create("broken", every=60, id="new", max_runs=3)]
