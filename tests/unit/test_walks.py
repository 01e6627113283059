"""`docs/walks.md` names functions that exist, in an order in which one leads to the next."""

from __future__ import annotations

import inspect
import re
from importlib import import_module
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from celery_perpetual.store.scripts import script

PAGE = (Path(__file__).parents[2] / "docs" / "walks.md").read_text(encoding="utf-8")


class Row(NamedTuple):
    """One function of a walk."""

    name: str
    says: str

    @property
    def room(self) -> str:
        """The folder of its module."""
        return self.name.partition(".")[0]


class Walk(NamedTuple):
    """One walk of the page."""

    title: str
    rooms: list[str]
    rows: list[Row]


def walks() -> list[Walk]:
    """All walks of the page."""
    found = []
    for section in PAGE.split("\n## ")[1:]:
        rooms = re.search(r"^Rooms: (.*)$", section, re.MULTILINE)
        assert rooms is not None
        rows = [Row(*row) for row in re.findall(r"^\| `([\w.]+)` \| (.*) \|$", section, re.MULTILINE)]
        assert len(rows) == section.count("\n| ") - 1, "each row but the head has one function and says something"
        found.append(Walk(section.partition("\n")[0], rooms[1].split(" → "), rows))
    return found


WALKS = pytest.mark.parametrize("walk", walks(), ids=lambda walk: walk.title)


def found(name: str) -> Any:
    """The function or class of that name, in the module that defines it."""
    parts = name.split(".")
    for length in range(len(parts) - 1, 0, -1):
        try:
            module = import_module(".".join(["celery_perpetual", *parts[:length]]))
        except ModuleNotFoundError:
            continue
        thing: Any = module
        for part in parts[length:]:
            thing = vars(thing)[part]
        assert thing.__module__ == module.__name__, f"{name} is defined in {thing.__module__}"
        return thing
    raise AssertionError(f"no module of {name}")


@WALKS
def test_every_function_exists(walk: Walk) -> None:
    """By its full name, in the module that defines it."""
    for row in walk.rows:
        thing = found(row.name)
        assert inspect.isroutine(thing) or inspect.isclass(thing), row.name


@WALKS
def test_every_script_exists(walk: Walk) -> None:
    """Those that the rows name."""
    for row in walk.rows:
        for name in re.findall(r"script `(\w+)`", row.says):
            assert script(name).name == name


@WALKS
def test_the_rooms_are_those_of_the_functions(walk: Walk) -> None:
    """In their order; a room counts once as long as the walk stays in it."""
    rooms = [row.room for index, row in enumerate(walk.rows) if not index or walk.rows[index - 1].room != row.room]

    assert walk.rooms == rooms


@WALKS
def test_one_leads_to_the_next(walk: Walk) -> None:
    """Each function is named by the code of one above it, unless its row says what calls it."""
    code = ""
    for row in walk.rows:
        thing = found(row.name)
        if not row.says.startswith("called by"):
            assert re.search(rf"\b{thing.__name__}\b", code), f"nothing above names {row.name}"
        # Small helpers between two rows stand in the same module.
        code += inspect.getsource(inspect.getmodule(thing) or thing)
