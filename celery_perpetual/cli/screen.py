"""The screen of ``top``, drawn by rich."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich.console import Console, Group
from rich.live import Live
from rich.text import Text

from celery_perpetual.cli.tables import lines_of
from celery_perpetual.cli.times import age
from celery_perpetual.cli.unit_rows import SPARE, heads, part_text, row
from celery_perpetual.operations.overview import in_order

if TYPE_CHECKING:
    from types import TracebackType

    from typing_extensions import Self

    from celery_perpetual.operations.overview import Overview
    from celery_perpetual.operations.status import Area

STYLES = {"well": "green", "degraded": "yellow", "down": "bold red"}
#: Of a unit, by its state.
UNIT_STYLES = {"backing_off": "yellow", "paused": "cyan", "disabled": "dim", "orphaned": "magenta"}
#: The key of each order, the first letter of its name that is free.
LETTERS = {"n": "name", "s": "state", "f": "flight", "b": "backlog", "r": "rate", "l": "lag", "o": "source",
           "w": "wait", "u": "budget"}  # fmt: skip
#: Lines that are no units: the five parts, an empty one above and below the heads, and the foot.
OTHER_LINES = 9


class Screen:
    """The terminal while ``top`` runs."""

    def __init__(self, sort: str, console: Console | None = None) -> None:
        self._console = console or Console()
        self._live = Live(console=self._console, screen=True, auto_refresh=False)
        self._sort, self._first, self._units = sort, 0, 0
        self.is_over = False

    def __enter__(self) -> Self:
        self._live.__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._live.__exit__(kind, error, trace)

    def press(self, key: str) -> None:
        """React to a key."""
        if key == "q":
            self.is_over = True
        elif key in LETTERS:
            self._sort, self._first = LETTERS[key], 0
        steps = {"up": -1, "down": 1, "page up": -self._room, "page down": self._room, "home": -self._units,
                 "end": self._units}  # fmt: skip
        self._first = max(0, min(self._first + steps.get(key, 0), max(0, self._units - self._room)))

    def show(self, found: Overview | None, trouble: str) -> None:
        """Draw what was read last."""
        self._live.update(self._picture(found, trouble), refresh=True)

    @property
    def _room(self) -> int:
        """How many units fit."""
        return max(1, self._console.size.height - OTHER_LINES)

    def _picture(self, found: Overview | None, trouble: str) -> Group | Text:
        if found is None:
            return Text(trouble or "reading …")
        self._units = len(found.units)
        foot = [f"{letter} {name}" for letter, name in LETTERS.items()]
        last = min(self._first + self._room, self._units)
        place = f"{self._first + 1 if self._units else 0}-{last} of {self._units} by {self._sort}"
        read = f"read {age(found.status.at)}" + (f"; {trouble}" if trouble else "")
        return Group(
            *map(_part, found.status.areas), Text(), *self._units_of(found), Text(),
            Text(f"{place}, {read}   q quit  {'  '.join(foot)}", style="reverse", no_wrap=True, overflow="ellipsis"),
        )  # fmt: skip

    def _units_of(self, found: Overview) -> list[Text]:
        page = in_order(found.units, self._sort)[self._first : self._first + self._room]
        if not page:
            return [Text("no units")]
        columns = heads(found.units)
        head, *lines = lines_of(columns, [row(unit, columns) for unit in page], self._console.size.width, spare=SPARE)
        return [
            Text(head, style="bold", no_wrap=True),
            *(
                Text(line, style=UNIT_STYLES.get(unit.state, ""), no_wrap=True, overflow="ellipsis")
                for unit, line in zip(page, lines, strict=True)
            ),
        ]


def _part(area: Area) -> Text:
    """The line of one part."""
    line = Text(f"{area.state:<9}", style=STYLES[area.state], no_wrap=True, overflow="ellipsis")
    return line.append(f" {area.name:<8} {part_text(area)}", style="default")
