"""`top` and the verbs that say how all is, on a real terminal: narrow and wide, with no units, three, and 10 000."""

from __future__ import annotations

import json
import os
import shutil
from typing import TYPE_CHECKING

import pytest

from tests.support import wait_until
from tests.support.terminal import Terminal

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tests.support import Project

SOURCE = """
count = int(os.environ.get("UNITS", "3"))
if count > 100:
    @app.task(base=PerpetualTask, poll_every=60, next_batch=lambda: [], tenants=[f"t{n:05}" for n in range(count)])
    def many(): ...
else:
    for number in range(count):
        @app.task(base=PerpetualTask, name=f"proj.task{number}", poll_every=60, next_batch=lambda: [Item((1,), key=1)])
        def one(row): ...
"""


@pytest.fixture
def terminal(project: Callable[..., Project]) -> Iterator[Terminal]:
    if shutil.which("tmux") is None:
        (pytest.fail if os.environ.get("CI") else pytest.skip)("tmux is not installed")
    terminal = Terminal(project(SOURCE))
    yield terminal
    terminal.close()


@pytest.mark.slow
def test_top_sorts_scrolls_and_quits_on_a_narrow_and_a_wide_terminal(terminal: Terminal) -> None:
    """Lines that do not fit go, and come back with the room; the terminal is as before at the end."""
    terminal.start("top", "--interval", "0.5")
    narrow = terminal.shows("1-3 of 3 by state", "down      beat     no beat holds the lead")
    assert "proj.task2" in narrow
    assert "HELD BACK" not in narrow
    terminal.resize(200)
    terminal.shows("HELD BACK", "u budget")
    terminal.press("r")
    terminal.shows("of 3 by rate")
    terminal.press("q")
    assert "by rate" not in terminal.shows("exit code 0")


@pytest.mark.long
def test_ten_thousand_units_and_none(terminal: Terminal) -> None:
    """They are scrolled through page by page."""
    terminal.start("top", "--sort", "name", UNITS="10000")
    terminal.shows("1-15 of 10000 by name", "t00000")
    terminal.press("NPage")
    terminal.shows("16-30 of 10000 by name", "t00015")
    terminal.press("End")
    terminal.shows("9986-10000 of 10000", "t09999")
    terminal.press("q")
    terminal.shows("exit code 0")
    terminal.start("top", UNITS="0")
    terminal.shows("0-0 of 0", "no units")


@pytest.mark.long
@pytest.mark.parametrize("units", [0, 3, 10_000])
@pytest.mark.parametrize("width", [80, 200])
def test_each_verb_on_each_terminal(terminal: Terminal, width: int, units: int) -> None:
    """`status`, `doctor`, `why`, `units` and `top`, narrow and wide, with no units, three and 10 000."""
    one = {0: ["proj.nothing"], 3: ["proj.task1"], 10_000: ["proj.many", "--tenant", "t09999"]}[units]
    terminal.start_all(
        ("status",), ("doctor",), ("why", *one), ("units", "--limit", "5"), width=width, UNITS=str(units)
    )  # fmt: skip

    def ended() -> list[str]:
        return [line for line in terminal.lines() if line.startswith("exit code")]

    wait_until(lambda: len(ended()) == 4, "all of them have ended", 60)
    assert ended() == ["exit code 2", "exit code 1", f"exit code {0 if units else 2}", "exit code 0"]
    text = "\n".join(terminal.lines(joined=True))
    assert f"well      units    {f'{units}: {units} active' if units else 'none'}" in text
    assert "down      beat     no beat holds the lead" in text
    assert ("means: nothing is polled" if units else "Error: ") in text
    table = text.partition("TASK  ")[2].partition("exit code")[0].splitlines()
    if units:
        # A row of a table is never wrapped, and uses the room that there is.
        assert len(table) == 1 + min(units, 5) + (units > 5)
        assert all(line in terminal.lines() for line in table[1:])
        assert ("HELD BACK" in table[0]) == (width == 200)
    else:
        assert (table, "there is no such unit" in text) == ([], True)

    terminal.start("top", width=width, UNITS=str(units))
    last = min(units, 15)
    seen = terminal.shows(f"{min(units, 1)}-{last} of {units} by state", "down      beat     no beat holds the lead")
    assert ("HELD BACK" in seen) == (width == 200 and units > 0)
    terminal.press("q")
    terminal.shows("exit code 0")


@pytest.mark.slow
def test_the_verbs_fit_eighty_columns(terminal: Terminal) -> None:
    """A table is cut and not wrapped; what is said in sentences may be as long as it likes."""
    terminal.start("units", "--limit", "5", UNITS="10000")
    seen = terminal.shows("exit code 0", "more units follow: --after perpetual:proj.many:t00004")
    assert [line.split()[1] for line in seen.splitlines() if line.startswith("proj.many")] == [
        f"t0000{n}" for n in range(5)
    ]
    terminal.start("status")
    terminal.shows("exit code 2", "down      beat     no beat holds the lead", "helps: celery -A proj beat")
    terminal.start("doctor")
    terminal.shows("exit code 1", "helps: celery -A proj beat")
    terminal.start("why", "proj.task1")
    terminal.shows("exit code 0", "proj.task1: active, 0 in flight", "no beat holds the lead")


def test_a_snapshot_where_the_output_is_no_terminal(project: Callable[..., Project]) -> None:
    """A table, or one JSON object; sorted and bounded."""
    proj = project(SOURCE)
    proj.celery("perpetual", "poll", "proj.task1")

    text, one = (
        proj.celery("perpetual", "top", "--sort", "flight"),
        proj.celery("perpetual", "top", "--json", "--limit", "1"),
    )

    assert text.returncode == one.returncode == 0
    lines = text.stdout.splitlines()
    assert [line.split()[1] for line in lines[:5]] == ["store", "beat", "units", "work", "workers"]
    assert [line.split()[0] for line in lines[7:]] == ["proj.task1", "proj.task0", "proj.task2"]
    found = json.loads(one.stdout)
    assert (found["state"], len(found["units"])) == ("down", 1)
    assert found["units"][0]["lag"]["backlog"] == 0
