"""``celery perpetual top``: a live view of the whole; a snapshot where the output is no terminal."""

from __future__ import annotations

import signal
import sys
import threading
import time
from typing import TYPE_CHECKING, Any

import click

from celery_perpetual.cli.group import USAGE, show, verb
from celery_perpetual.cli.keyboard import keys
from celery_perpetual.cli.parameters import as_json
from celery_perpetual.cli.tables import table
from celery_perpetual.cli.unit_rows import SPARE, heads, part_text, row
from celery_perpetual.errors import PerpetualError, described
from celery_perpetual.operations.overview import ORDERS, in_order, overview

if TYPE_CHECKING:
    from celery_perpetual.app import Perpetual
    from celery_perpetual.operations.overview import Overview

#: Seconds between two readings, and how many times as long as a reading takes the pause is at least.
INTERVAL, PAUSE = 2.0, 3.0
#: Longest pause between two pictures, seconds.
PICTURE = 0.5
#: Seconds that the end waits for a reading.
PATIENCE = 1.0


class Reader(threading.Thread):
    """Reads again and again; the screen and the keys never wait for the store."""

    def __init__(self, perpetual: Perpetual, interval: float) -> None:
        super().__init__(name="perpetual-top", daemon=True)
        self._perpetual, self._interval = perpetual, interval
        self._halt = threading.Event()
        self.latest: Overview | None = None
        self.trouble = ""
        """Why the last reading failed."""

    def run(self) -> None:
        while not self._halt.is_set():
            begun = time.monotonic()
            try:
                self.latest, self.trouble = overview(self._perpetual), ""
            except PerpetualError as error:
                self.trouble = described(error)
            except Exception as error:  # of the user's tenants function, for example; the view goes on
                self.trouble = described(error)
            self._halt.wait(max(self._interval, PAUSE * (time.monotonic() - begun)))

    def halt(self) -> None:
        """Read no more."""
        self._halt.set()
        self.join(PATIENCE)


@verb
@click.option("--sort", type=click.Choice(list(ORDERS)), default="state", show_default=True, help="Order of the units.")
@click.option(
    "--interval", type=click.FloatRange(0.2), default=INTERVAL, show_default=True, help="Seconds between two."
)
@click.option("--limit", type=click.IntRange(1), help="Units of a snapshot; all unless given.")
@click.option("--once", is_flag=True, help="Print one snapshot, also on a terminal.")
@as_json
def top(perpetual: Perpetual, sort: str, interval: float, limit: int | None, once: bool, json_: bool) -> None:
    """Watch units, rates, lag, leases, workers and the leader.

    q quits; the letter of an order sorts (the last line has them); arrows, space and page keys scroll. It needs
    the extra celery-perpetual[top]. Where the output is no terminal it prints one snapshot.

    \b
    Examples:
      celery -A proj perpetual top --sort rate
      celery -A proj perpetual top --once --limit 20
    """
    if json_ or once or not sys.stdout.isatty():
        _print_snapshot(overview(perpetual), sort, limit, json_)
        return
    try:
        from celery_perpetual.cli.screen import Screen
    except ImportError as error:
        if error.name is None or error.name.partition(".")[0] != "rich":
            raise
        click.echo("Error: top needs rich: pip install 'celery-perpetual[top]'; or use top --once", err=True)
        sys.exit(USAGE)
    reader = Reader(perpetual, interval)
    reader.start()
    usual: Any = signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))  # the terminal is restored on the way out
    try:
        with keys() as pressed, Screen(sort) as screen:
            while not screen.is_over:
                screen.show(reader.latest, reader.trouble)
                for key in pressed.wait(PICTURE if reader.latest else PICTURE / 5):
                    screen.press(key)
    except KeyboardInterrupt:
        pass  # as q
    finally:
        signal.signal(signal.SIGTERM, usual)
        reader.halt()


def _print_snapshot(found: Overview, sort: str, limit: int | None, json_: bool) -> None:
    units = in_order(found.units, sort)[:limit]
    if json_:
        show(found.to_dict() | {"units": [unit.to_dict() for unit in units]})
        return
    for area in found.status.areas:
        click.echo(f"{area.state:<9} {area.name:<8} {part_text(area)}")
    if units:
        click.echo()
        columns = heads(units)
        table(columns, [row(unit, columns) for unit in units], empty="there is no unit", spare=SPARE)
    if len(units) < len(found.units):
        click.echo(f"{len(found.units) - len(units)} more units", err=True)
