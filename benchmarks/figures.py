"""Writes the table of figures in the docs from the results of ``make bench``: ``make figures``.

The results are kept beside it, so that a test can check whether the page shows them as they were.
"""

from __future__ import annotations

import json
import sys
from typing import TYPE_CHECKING, Any

from measuring import HERE, kept

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

PAGE, RESULTS, KEPT = HERE.parent / "docs" / "benchmarks.md", HERE / "results.json", HERE / "figures.json"
BEGIN, END = "<!-- figures: written by make figures -->", "<!-- end of figures -->"


def table(results: Mapping[str, Any]) -> str:
    """The rows of all benches as Markdown, under the surroundings in which they were seen."""
    lines = [*_surroundings(results), "", "| bench | what | seen | must |", "|---|---|---:|---:|"]
    for result in results.values():
        lines += [_line(row) for row in result["rows"]]
    return "\n".join(lines)


def _surroundings(results: Mapping[str, Any]) -> list[str]:
    """One line for all benches that ran in the same surroundings."""
    benches: dict[str, list[str]] = {}
    for name, result in results.items():
        benches.setdefault(", ".join(f"{key} {value}" for key, value in result["surroundings"].items()), []).append(
            name
        )
    if len(benches) == 1:
        return [f"Seen with {where}." for where in benches]
    return [f"- Seen with {where}: {', '.join(f'`{name}`' for name in names)}." for where, names in benches.items()]


def _line(row: Mapping[str, Any]) -> str:
    seen = row["text"] or f"{_number(row['seen'])} {row['unit']}".strip()
    must = "" if row["must"] is None else f"{'≥' if row['more_is_better'] else '≤'} {_number(row['must'])}"
    missed = " (missed)" if row["verdict"] == "MISSED" else ""
    return f"| {row['bench']} | {row['what']} | {seen} | {must}{missed} |"


def _number(value: float) -> str:
    """Three digits that mean something; large numbers whole, in groups."""
    return f"{value:.3g}" if abs(value) < 1000 else f"{value:,.0f}".replace(",", " ")


def shown(page: Path) -> str:
    """The table that stands between the marks of a page.

    Raises:
        ValueError: the page has no such marks.
    """
    text = page.read_text(encoding="utf-8")
    return text[text.index(BEGIN) + len(BEGIN) : text.index(END)].strip("\n")


def write(page: Path, results: Mapping[str, Any]) -> None:
    """Put the table between the marks of the page.

    Raises:
        ValueError: the page has no such marks.
    """
    text = page.read_text(encoding="utf-8")
    begin, end = text.index(BEGIN) + len(BEGIN), text.index(END)
    page.write_text(f"{text[:begin]}\n{table(results)}\n{text[end:]}", encoding="utf-8")


def without_details(results: Mapping[str, Any]) -> dict[str, Any]:
    """The results without the single measurements."""
    return {
        name: {**result, "rows": [{key: row[key] for key in row if key != "detail"} for row in result["rows"]]}
        for name, result in results.items()
    }


def main(page: Path = PAGE, results: Path = RESULTS, copy: Path = KEPT) -> None:
    """Write the page and the copy of the results."""
    if not (found := without_details(kept(results))):
        sys.exit(f"{results} is not there; make bench writes it")
    write(page, found)
    copy.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
