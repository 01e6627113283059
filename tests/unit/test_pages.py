"""The pages about the code say what is so: CONTRIBUTING's table of rooms, the verbs, the index of the docs."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING

import click

from celery_perpetual.cli import perpetual
from tests.unit.test_layers import LAYERS, PACKAGE

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT = Path(__file__).parents[2]


def verbs(group: click.Group, before: str = "") -> Iterator[tuple[str, click.Command]]:
    """Every command of the group, with the words to type."""
    for name, command in group.commands.items():
        if isinstance(command, click.Group):
            yield from verbs(command, f"{name} ")
        elif not command.hidden:
            yield before + name, command


def test_verbs_and_their_exit_codes() -> None:
    """In the reference page; the codes are those that the verb's help says, besides 0 and 2, which all have."""
    page = (ROOT / "docs" / "reference.md").read_text(encoding="utf-8").partition("| verb |")[2].partition("\n\n")[0]
    rows = [line.split(" | ") for line in page.splitlines() if line.startswith("| `")]
    listed = {row[0].strip("`| "): set(re.findall(r"\b[1-9]\b", row[2])) - {"2"} for row in rows}
    said = {}
    for words, command in verbs(perpetual):
        _, _, codes = (command.help or "").split("Example")[0].partition("Exit code")
        said[words] = set(re.findall(r"\b[1-9]\b", codes)) - {"2"}

    assert listed == said


def test_summaries_of_verbs_are_whole() -> None:
    """In the list of verbs on a terminal of 80 columns."""
    shown = {words: command.get_short_help_str(limit=62) for words, command in verbs(perpetual) if " " not in words}

    assert {words: text for words, text in shown.items() if text.endswith("...")} == {}


def is_there(part: str) -> bool:
    """Whether a part of the package exists; a layer may name one that is to come."""
    return (PACKAGE / part).is_dir() or (PACKAGE / f"{part}.py").is_file()


def test_the_table_of_rooms_is_that_of_the_imports() -> None:
    """Same parts in the same order, a row for each layer."""
    text = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    cells = [line.split("|")[1] for line in text.splitlines() if line.startswith("| `")]
    rows = [re.findall(r"`(\w+)`", cell) for cell in cells]

    expected = [[part for part in layer if is_there(part)] for layer in LAYERS]
    assert rows == [row for row in expected if row]
    assert len(text.splitlines()) < 100


def test_the_index_links_every_page() -> None:
    """And no page that is not there; the glossary is linked from CONTRIBUTING too."""
    docs = ROOT / "docs"
    linked = re.findall(r"\]\(([\w-]+\.md)\)", (docs / "index.md").read_text(encoding="utf-8"))

    assert sorted(linked) == sorted(page.name for page in docs.glob("*.md") if page.name != "index.md")
    assert "docs/glossary.md" in (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")


def test_links_between_pages_lead_somewhere() -> None:
    """In the docs, README and CONTRIBUTING."""
    pages = [*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md")]
    dead = [
        f"{page.name}: {link}"
        for page in pages
        for link in re.findall(r"\]\(([^)#:\s]+)(?:#[^)]*)?\)", page.read_text(encoding="utf-8"))
        if not (page.parent / link).exists()
    ]
    assert not dead


def test_the_tests_of_the_guarantees_exist() -> None:
    """Every row of the table names at least one."""
    text = (ROOT / "docs" / "guarantees.md").read_text(encoding="utf-8")
    rows = [line for line in text.splitlines() if line.startswith("| ")][1:]
    named = [re.findall(r"`(tests/[\w/.]+)`", row) for row in rows]

    assert all(named)
    assert not [name for names in named for name in names if not (ROOT / name).is_file()]
