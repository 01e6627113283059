"""Writes the table of figures in the docs from the results of a run: ``make figures`` after ``make bench``."""

from __future__ import annotations

import json
import sys
from typing import TYPE_CHECKING, Any

from measuring import HERE

if TYPE_CHECKING:
    from pathlib import Path

PAGE, RESULTS = HERE.parent / "docs" / "benchmarks.md", HERE / "results.json"
BEGIN, END = "<!-- figures: written by make figures -->", "<!-- end of figures -->"


def table(results: dict[str, Any]) -> str:
    """The rows as Markdown, under the surroundings in which they were seen."""
    where = ", ".join(f"{name} {value}" for name, value in results["surroundings"].items())
    lines = [f"Seen with {where}.", "", "| bench | what | seen | must |", "|---|---|---:|---:|"]
    for row in results["rows"]:
        seen = row["text"] or f"{row['seen']:.3g} {row['unit']}"
        must = "" if row["must"] is None else f"{'≥' if row['more_is_better'] else '≤'} {row['must']:g}"
        missed = " (missed)" if row["verdict"] == "MISSED" else ""
        lines.append(f"| {row['bench']} | {row['what']} | {seen} | {must}{missed} |")
    return "\n".join(lines)


def write(page: Path, results: dict[str, Any]) -> None:
    """Put the table between the marks of the page.

    Raises:
        ValueError: the page has no such marks.
    """
    text = page.read_text(encoding="utf-8")
    begin, end = text.index(BEGIN) + len(BEGIN), text.index(END)
    page.write_text(f"{text[:begin]}\n{table(results)}\n{text[end:]}", encoding="utf-8")


if __name__ == "__main__":
    if not RESULTS.exists():
        sys.exit(f"{RESULTS} is not there; make bench writes it")
    write(PAGE, json.loads(RESULTS.read_text(encoding="utf-8")))
