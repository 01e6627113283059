"""Units: paused, failing, silent, too slow for their interval."""

from __future__ import annotations

from dataclasses import replace
from shlex import quote
from typing import TYPE_CHECKING

from celery_perpetual.health.findings import ERROR, UNITS, WARNING, Finding
from celery_perpetual.pauses import ALL_ROUTINES, EVERYTHING
from celery_perpetual.polling.outcome import EMPTY, ENQUEUED, FAILED, TIMED_OUT
from celery_perpetual.store.commands.tenants import noted_troubles
from celery_perpetual.tasks.names import parse_unit_name
from celery_perpetual.times import to_datetime, to_ms
from celery_perpetual.wording import counted_are, counted_in_a_row, one_line

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from celery_perpetual.health.reading import Reading, SeenUnit
    from celery_perpetual.pauses import Paused, Scope
    from celery_perpetual.polling.outcome import PollOutcome
    from celery_perpetual.tasks.contract import TaskContract

#: Failed polls in a row that make a finding an error, and an alert.
MANY_FAILURES = 5
#: Shares of the interval that a poll may take.
MUCH_OF_INTERVAL, WHOLE_INTERVAL = 0.8, 1.0
#: A unit is silent when it is overdue by so many intervals, and at least by so many ms.
SILENT_INTERVALS, SILENT_MS = 3, 30_000

#: Outcomes of polls that have called ``next_batch``.
EVALUATED = (ENQUEUED, EMPTY, FAILED, TIMED_OUT)


def budget_used(outcome: PollOutcome | None, every: float | None) -> float | None:
    """The share of its interval that the last poll took; None where that says nothing."""
    if outcome is None or not every or outcome.status not in EVALUATED:
        return None
    return (outcome.finished_at - outcome.started_at).total_seconds() / every


def command_of(unit: SeenUnit) -> str:
    """Task and tenant of a unit as a command line has them."""
    return in_command(unit.task, unit.tenant)


def in_command(task: str, tenant: str | None) -> str:
    """Names of a task and of a tenant as a command line has them."""
    return quote(task) if tenant is None else f"{quote(task)} --tenant {quote(tenant)}"


def pauses(reading: Reading, units: Sequence[SeenUnit]) -> Iterator[Finding]:
    """A finding for each paused scope, the widest first."""
    found = reading.pauses
    if EVERYTHING in found:
        yield _paused("everything is paused", found[EVERYTHING], "nothing is polled", "--all", {"scope": "*"})
        return
    by_scope: dict[str, tuple[Paused, list[SeenUnit]]] = {}
    for unit in units:
        if unit.pause is not None:
            by_scope.setdefault(unit.pause.scope.key, (unit.pause, []))[1].append(unit)
    for key, (pause, held) in by_scope.items():
        what = f"{held[0].name} is paused" if len(held) == 1 else f"{len(held)} units are paused"
        meaning = "it is not polled" if len(held) == 1 else "they are not polled"
        yield _paused(what, pause, meaning, _scope_option(pause, held[0]), {"scope": key})


def other_pauses(reading: Reading, units: Sequence[SeenUnit]) -> Iterator[Finding]:
    """Pauses by which no unit is paused: of a queue or a tenant that has none, of routines, within a wider pause."""
    found = reading.pauses
    if EVERYTHING not in found:
        held = {unit.pause.scope for unit in units if unit.pause is not None}
        for scope, pause in found.items():
            if scope not in held:
                yield _other_pause(reading, scope, pause)


def _other_pause(reading: Reading, scope: Scope, pause: Paused) -> Finding:
    about = {"scope": scope.key}
    if scope == ALL_ROUTINES:
        return _paused("every routine is paused", pause, "no routine runs", "--routine '*'", about)
    if scope.kind != "unit":
        meaning = f"it pauses no unit now, and those of this {scope.kind} that come are not polled"
        option = f"--{scope.kind} {quote(scope.name)}"
        return _paused(f"the {scope.kind} {scope.name} is paused", pause, meaning, option, about)
    what, meaning = f"{scope.name} is paused", "it pauses no unit now"
    try:
        task, tenant = parse_unit_name(scope.name)
    except ValueError:  # written by hand
        found = _paused(what, pause, meaning, "", about)
        return replace(found, help=f"redis-cli HDEL {reading.store.keys.paused} {quote(scope.key)}")
    option = f"--task {quote(task)}" + ("" if tenant is None else f" --tenant {quote(tenant)}")
    return _paused(what, pause, meaning, option, about)


def _paused(what: str, pause: Paused, meaning: str, option: str, about: dict[str, str]) -> Finding:
    return Finding(
        kind="paused", area=UNITS, level=WARNING, evidence=f"{what}: {pause.text_without_since}", since=pause.at,
        meaning=meaning, help=f"celery -A proj perpetual resume {option}", about=about,
    )  # fmt: skip


def _scope_option(pause: Paused, unit: SeenUnit) -> str:
    """The options of ``resume`` that name the scope of a pause."""
    scope = pause.scope
    if scope.kind == "unit":
        is_whole = unit.tenant is not None and scope.name != unit.name
        return f"--task {quote(unit.task)}" if is_whole else f"--task {command_of(unit)}"
    return f"--{scope.kind} {quote(scope.name)}"


def failing(units: Sequence[SeenUnit]) -> list[Finding]:
    """Polls that fail, one after the other."""
    found = [_failing(unit) for unit in units if unit.attempt and unit.state in ("active", "backing_off")]
    return sorted(found, key=lambda each: -each.about["failures"])


def _failing(unit: SeenUnit) -> Finding:
    last = unit.last_poll
    trouble = "" if last is None else (last.error or last.reason or last.status).partition("\n")[0]
    return Finding(
        kind="unit_failing", area=UNITS, level=ERROR if unit.attempt >= MANY_FAILURES else WARNING,
        evidence=f"{unit.name} is failing: {counted_in_a_row(unit.attempt, 'poll')} failed, the last: {trouble}",
        meaning="it is polled ever less often", since=None if last is None else last.finished_at,
        help=f"celery -A proj perpetual why {command_of(unit)}", about={"unit": unit.name, "failures": unit.attempt},
    )  # fmt: skip


def silent(reading: Reading, units: Sequence[SeenUnit]) -> list[Finding]:
    """Units that are long overdue although a beat leads."""
    if reading.lead.info is None:
        return []
    begun, found = reading.lead.since or 0, []
    for unit in units:
        if unit.next_poll_at is None or unit.state not in ("active", "backing_off"):
            continue
        since = max(to_ms(unit.next_poll_at), begun)
        if reading.now - since > max(SILENT_MS, SILENT_INTERVALS * 1000 * (unit.poll_every or 0.0)):
            found.append((since, unit))
    owner = reading.lead.info.get("owner")
    return [
        Finding(
            kind="unit_silent", area=UNITS, level=ERROR, since=to_datetime(since),
            evidence=f"{unit.name} is silent: it is due, and is not polled",
            meaning=f"all threads of the leading beat {owner} are taken, or it hangs",
            help=f"celery -A proj perpetual why {command_of(unit)}", about={"unit": unit.name},
        )
        for since, unit in sorted(found, key=lambda each: each[0])
    ]  # fmt: skip


def slow(units: Sequence[SeenUnit]) -> list[Finding]:
    """Polls that take nearly their whole interval, or more."""
    found = []
    for unit in units:
        used = budget_used(unit.last_poll, unit.poll_every)
        # Of one that fails another finding says what is wrong.
        if used is None or used < MUCH_OF_INTERVAL or unit.attempt or unit.state not in ("active", "backing_off"):
            continue
        is_over = used >= WHOLE_INTERVAL
        found.append(
            Finding(
                kind="poll_budget", area=UNITS, level=ERROR if is_over else WARNING,
                evidence=f"{unit.name}: the last poll took {used:.0%} of its interval of {unit.poll_every:g} s",
                meaning="it cannot be polled so often" if is_over else "it is nearly too slow for its interval",
                help=f"make next_batch faster, or poll_every longer; celery -A proj perpetual polls {command_of(unit)}",
                about={"unit": unit.name, "used": round(used, 3)},
            )
        )  # fmt: skip
    return found


def orphaned(units: Sequence[SeenUnit]) -> list[Finding]:
    """Units that the store remembers and this code does not know."""
    return [
        Finding(
            kind="unit_orphaned", area=UNITS, level=WARNING,
            evidence=f"{unit.name} is orphaned: this code has no such task or tenant",
            meaning="it is not polled, and is forgotten a week after a beat has known it last",
            help="deploy code that has it, or leave it; celery -A proj perpetual units --state orphaned",
            about={"unit": unit.name},
        )
        for unit in units if unit.state == "orphaned"
    ]  # fmt: skip


def unevaluated(units: Sequence[SeenUnit]) -> list[Finding]:
    """Units whose ``next_batch`` hangs, or whose preflight has failed."""
    found = []
    for unit in units:
        last = unit.last_poll
        if last is None or last.gate not in ("hanging", "preflight") or unit.state not in ("active", "backing_off"):
            continue
        hangs = last.gate == "hanging"
        found.append(
            Finding(
                kind="poll_hanging" if hangs else "preflight_failed", area=UNITS, level=ERROR,
                evidence=f"{unit.name}: {last.reason}" + (f" for {last.value:g} s" if hangs and last.value else ""),
                meaning="it is not polled until that returns" if hangs else "it is not polled until that passes",
                help=(
                    "find what it waits for (a query, a lock, a server without a time-out); a restart of beat ends it"
                    if hangs else f"correct that, then celery -A proj perpetual nudge {command_of(unit)}"
                ),
                about={"unit": unit.name},
            )
        )  # fmt: skip
    return found


def parked_keys(units: Sequence[SeenUnit]) -> list[Finding]:
    """Units that leave out keys for good."""
    return [
        Finding(
            kind="keys_parked", area=UNITS, level=WARNING,
            evidence=f"{unit.name} is leaving keys out: {counted_are(unit.parked_keys, 'item key')} parked",
            meaning="polls leave them out until an operator allows them",
            help=f"celery -A proj perpetual items {command_of(unit)} --state parked_key", about={"unit": unit.name},
        )
        for unit in units if unit.parked_keys
    ]  # fmt: skip


def tenants(reading: Reading, contracts: Iterable[TaskContract]) -> list[Finding]:
    """Functions that do not say which tenants there are, as the leader has noted.

    Args:
        contracts: those that this code has; a note outlives a function that is gone, or is not called any more.
    """
    disabled = reading.namespace.settings.disabled
    called = {
        each.name for each in contracts if each.find_tenants and each.options.enabled and each.name not in disabled
    }
    return [
        Finding(
            kind="tenants_failed", area=UNITS, level=ERROR, since=to_datetime(facts["since"]),
            evidence=f"task {task}: its tenants function {one_line(facts['trouble'])}",
            meaning=f"tenants that come or go are not noticed; {counted_are(facts['kept'], 'tenant')} kept",
            help="correct the function, or what it asks; celery -A proj perpetual check calls it", about={"task": task},
        )
        for task, facts in sorted(noted_troubles(reading.store).items()) if task in called
    ]  # fmt: skip
