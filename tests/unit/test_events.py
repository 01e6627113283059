"""The table of events is true: of the code that emits, of the Lua scripts and of the documentation."""

from __future__ import annotations

import ast
import logging
import re
from pathlib import Path
from typing import TYPE_CHECKING

import celery_perpetual
from celery_perpetual import events
from celery_perpetual.event_kind import EventKind
from celery_perpetual.events import TABLE

if TYPE_CHECKING:
    from collections.abc import Iterator

PACKAGE = Path(celery_perpetual.__path__[0])
DOCS = Path(__file__).parents[2] / "docs" / "events.md"

ROW = re.compile(r"^\| `(?P<name>[\w.]+)` \| (?P<when>.+?) \| (?P<fields>.*?) \|(?: (?P<level>\w+) \|)?$", re.MULTILINE)
IN_LUA = re.compile(r"'event', '([\w.]+)'")
LEVELS = {"debug", "info", "warning", "warn", "error", "exception", "critical", "fatal", "log"}


def trees() -> Iterator[tuple[str, ast.Module]]:
    """Every Python file of the package."""
    for file in sorted(PACKAGE.rglob("*.py")):
        yield str(file.relative_to(PACKAGE)), ast.parse(file.read_text())


def emitted() -> Iterator[tuple[str, EventKind, set[str]]]:
    """Place, kind and keywords of every call of `emit`."""
    for name, tree in trees():
        for node in ast.walk(tree):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "emit":
                (kind,) = node.args
                assert isinstance(kind, ast.Attribute), f"{name}:{node.lineno} does not name a kind of `events`"
                keywords = {keyword.arg or "**" for keyword in node.keywords}
                yield f"{name}:{node.lineno}", getattr(events, kind.attr), keywords


def problem(kind: EventKind, keywords: set[str]) -> str:
    """List the faults of the keywords of a call."""
    wanted = {*kind.fields, *(["error"] if kind.has_error else [])}
    missing = set() if "**" in keywords else wanted - keywords
    unknown = keywords - wanted - {"**"}
    if kind.level is None:
        return "is an event of the stream only"
    return f"missing {sorted(missing)}, unknown {sorted(unknown)}" if missing or unknown else ""


def lua() -> str:
    """The text of all Lua scripts."""
    return "\n".join(file.read_text() for file in sorted(PACKAGE.rglob("*.lua")))


def documented(heading: str) -> dict[str, tuple[set[str], str]]:
    """Name, fields and level of each row below a heading of the page."""
    section = DOCS.read_text().split(f"\n## {heading}\n")[1].split("\n## ")[0]
    return {
        row["name"]: (set(re.findall(r"`(\w+)`", row["fields"])), row["level"] or "") for row in ROW.finditer(section)
    }


def test_calls_give_the_fields_of_the_table() -> None:
    """Every `emit` names a kind, and gives its fields and no other."""
    calls = list(emitted())

    assert {place: wrong for place, kind, keywords in calls if (wrong := problem(kind, keywords))} == {}
    assert len(calls) > 50


def test_every_event_of_the_log_is_emitted() -> None:
    """The table names nothing that does not happen."""
    used = {kind.name for _, kind, _ in emitted()} | {events.SINK_FAILED.name}

    assert {kind.name for kind in TABLE.values() if kind.level is not None} - used == set()


def test_only_telemetry_writes_to_the_log() -> None:
    """A log record without an event cannot be found by programs: `telemetry.emit` writes all of them."""
    found = [
        f"{name}:{node.lineno}: use celery_perpetual.telemetry.emit(events.…) and add a row to events.py and docs/events.md"
        for name, tree in trees()
        if name != "telemetry.py"
        for node in ast.walk(tree)
        if isinstance(node, ast.Call)
        and isinstance(node.func, ast.Attribute)
        and node.func.attr in LEVELS
        and "log" in ast.unparse(node.func.value).lower()
    ]

    assert found == []


def test_python_adds_to_the_stream_in_one_place() -> None:
    """Entries of the stream that no script writes have one form."""
    calls = [
        name
        for name, tree in trees()
        for node in ast.walk(tree)
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr == "xadd"
    ]

    assert calls == ["store/commands/events.py"]


def test_no_handler_of_every_exception_is_silent() -> None:
    """Code that catches `Exception` raises, uses the exception, or says in a comment why nothing is to be done."""
    silent = []
    for name, tree in trees():
        lines = (PACKAGE / name).read_text().splitlines()
        for node in ast.walk(tree):
            if not isinstance(node, ast.ExceptHandler) or not isinstance(node.type, ast.Name):
                continue
            inside = [part for statement in node.body for part in ast.walk(statement)]
            is_heard = any(
                isinstance(part, ast.Raise) or (isinstance(part, ast.Name) and part.id == node.name) for part in inside
            )
            if node.type.id in {"Exception", "BaseException"} and not is_heard and "#" not in lines[node.lineno - 1]:
                silent.append(f"{name}:{node.lineno}")

    assert silent == []


def test_the_stream_has_the_events_of_the_table() -> None:
    """Lua scripts write each event of the table and no other; only three come from Python."""
    in_stream = {kind.name for kind in TABLE.values() if kind.in_stream}
    text = lua()

    assert set(IN_LUA.findall(text)) - in_stream == set()
    assert {name for name in in_stream if f"'{name}'" not in text} == {"store.lost", "alert.tenants_failed", "operator"}


def test_the_page_of_the_stream_is_true() -> None:
    """The documentation names every event of the stream."""
    assert documented("The stream").keys() == {kind.name for kind in TABLE.values() if kind.in_stream}


def test_the_page_of_the_log_is_true() -> None:
    """The documentation names every event of the log with its fields and its level."""
    table = {
        kind.name: ({*kind.fields, *(["error"] if kind.has_error else [])}, logging.getLevelName(kind.level))
        for kind in TABLE.values()
        if kind.level is not None
    }

    assert documented("The log") == table
