"""Each table of the reference page says what the code says."""

from __future__ import annotations

import inspect
import re
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from celery_perpetual import Batch, Completion, Item, Poll, PollOutcome
from celery_perpetual.cli.completions import STATUSES
from celery_perpetual.completions.completion import PENDING, UNKNOWN
from celery_perpetual.health.reading import SeenUnit
from celery_perpetual.operations.items import STATES
from celery_perpetual.operations.replaying import TRIGGER as REPLAY
from celery_perpetual.polling import outcome as outcomes
from celery_perpetual.polling import poll as polls
from celery_perpetual.polling.preflights import PREFIX
from celery_perpetual.store.keys import Keys

if TYPE_CHECKING:
    from collections.abc import Iterator

PACKAGE = Path(outcomes.__file__).parents[1]
PAGE = (PACKAGE.parent / "docs" / "reference.md").read_text(encoding="utf-8")


def tables() -> Iterator[list[list[str]]]:
    """The tables of the page: rows of cells, the heads first."""
    for block in re.findall(r"(?:^\|.*\n)+", PAGE, re.MULTILINE):
        rows = [[cell.strip() for cell in line.strip("|\n").split(" | ")] for line in block.splitlines()]
        yield [row for row in rows if not set("".join(row)) <= set("-| ")]


def column(head: str, contains: str = "") -> list[str]:
    """The names in the first column of a table, which is found by its head, and by one of its names."""
    found = [[row[0].strip("`| ") for row in rows[1:]] for rows in tables() if rows[0][0].strip("| ") == head]
    return next(names for names in found if not contains or contains in names)


def words_of(module: object, attribute: str) -> list[str]:
    """The names that the docstring of an attribute lists."""
    source = inspect.getsource(module)  # type: ignore[arg-type]
    text = re.search(rf'^    {attribute}: [^\n]*\n    """(.*?)"""', source, re.MULTILINE | re.DOTALL)
    assert text
    return [word for quoted in re.findall(r"``(.*?)``", text[1], re.DOTALL) for word in re.split(r"[,\s]+", quoted)]


@pytest.mark.parametrize(
    ("contains", "kind"), [("slot", Poll), ("args", Item), ("watermark", Batch)], ids=["Poll", "Item", "Batch"]
)
def test_the_documented_fields_are_those_of_the_classes(contains: str, kind: type) -> None:
    """Of what goes into ``next_batch`` and comes out of it."""
    assert sorted(column("field", contains)) == sorted(field.name for field in fields(kind))


def test_the_documented_words_are_those_of_the_code() -> None:
    """Triggers, states, statuses, gates."""
    assert sorted(column("trigger")) == sorted([*words_of(polls, "trigger"), REPLAY])
    assert sorted(column("state of a unit")) == sorted(words_of(inspect.getmodule(SeenUnit), "state"))
    assert sorted(column("status of a poll")) == sorted(words_of(outcomes, "status"))
    assert sorted(column("status of a completion")) == sorted([*STATUSES, PENDING, UNKNOWN])
    assert sorted(column("state of an item")) == sorted(STATES)
    code = "\n".join(path.read_text(encoding="utf-8") for path in PACKAGE.rglob("*.py"))
    assert sorted(column("gate")) == sorted({*re.findall(r'\bgate="(\w+)"', code), PREFIX})
    assert {"gate", "value", "limit"} <= {field.name for field in fields(PollOutcome)}


def test_the_documented_keys_and_fields_are_those_of_the_store() -> None:
    """Its keys are those of the table of keys, and the JSON of an end has these fields."""
    keys = Keys("{prefix}")
    known = {
        keys.ends_channel, keys.events, keys.channel("{task_id}"), keys.queue("{task_id}"), keys.completion("{task_id}")
    }  # fmt: skip
    assert set(column("key or channel")) == known
    assert sorted(column("field", "v")) == sorted({field.name for field in fields(Completion)} - {"timed_out"} | {"v"})
