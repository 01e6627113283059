"""Tables that fit the terminal."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Callable, Iterable, Sequence
from typing import TypeVar

import click

from celery_perpetual.cli.group import show
from celery_perpetual.json_fields import JsonFields
from celery_perpetual.wording import one_line

T = TypeVar("T", bound=JsonFields)

#: No column is made narrower.
NARROWEST = 8
GAP = "  "


def table(
    heads: Sequence[str], rows: Sequence[Sequence[object]], *, empty: str, whole: Sequence[str] = (),
    spare: Sequence[str] = (),
) -> None:  # fmt: skip
    """Print aligned columns, a row in one line.

    Where the terminal is too narrow, columns are left out or cut. Nothing is where the output goes into a file.

    Args:
        empty: the line that stands for a table without rows.
        whole: columns that are never cut, such as ids.
        spare: columns that may be left out, the most important one first.
    """
    if not rows:
        click.echo(empty)
        return
    for line in lines_of(heads, rows, width_of_terminal(), whole=whole, spare=spare):
        click.echo(line)


def listing(
    found: Sequence[T], json_: bool, limit: int | None = None, *, heads: Sequence[str],
    row: Callable[[T], Sequence[object]], empty: str, whole: Sequence[str] = (), spare: Sequence[str] = (),
) -> None:  # fmt: skip
    """Print reports, each as JSON or as the row of a table.

    Args:
        limit: no more are printed; where one more was found, a line on stderr says how to see it. None: all are.
        row: the cells of one.
        empty, whole, spare: see :func:`table`.
    """
    page = found[:limit]
    if json_:
        show([each.to_dict() for each in page])
    else:
        table(heads, [row(each) for each in page], empty=empty, whole=whole, spare=spare)
    if limit is not None and len(found) > limit:
        click.echo(f"there are more than {limit}; --limit {10 * limit} shows more of them", err=True)


def lines_of(
    heads: Sequence[str], rows: Iterable[Sequence[object]], width: int | None, *, whole: Sequence[str] = (),
    spare: Sequence[str] = (),
) -> list[str]:  # fmt: skip
    """The lines of a table.

    Args:
        width: of the terminal, None = no bound.
    """
    lines = [list(heads), *(["" if cell is None else one_line(cell) for cell in row] for row in rows)]
    widths = [max(len(line[column]) for line in lines) for column in range(len(heads))]
    columns = list(range(len(heads)))
    if width is not None:
        for name in reversed(spare):
            if _total(widths, columns) <= width:
                break
            columns.remove(heads.index(name))
        _narrow(widths, [column for column in columns if heads[column] not in whole], columns, width)
    return [
        GAP.join(_cut(line[column], widths[column]).ljust(widths[column]) for column in columns).rstrip()
        for line in lines
    ]


def width_of_terminal() -> int | None:
    """Columns of the terminal; None where the output goes elsewhere."""
    return shutil.get_terminal_size().columns if sys.stdout.isatty() else None


def _total(widths: Sequence[int], columns: Sequence[int]) -> int:
    return sum(widths[column] for column in columns) + len(GAP) * (len(columns) - 1)


def _narrow(widths: list[int], may_be_cut: Sequence[int], columns: Sequence[int], width: int) -> None:
    """Take from the widest column until it fits, or nothing is left to take."""
    while _total(widths, columns) > width and may_be_cut:
        widest = max(may_be_cut, key=widths.__getitem__)
        if widths[widest] <= NARROWEST:
            return
        widths[widest] -= 1


def _cut(cell: str, width: int) -> str:
    return cell if len(cell) <= width else f"{cell[: width - 1]}…"
