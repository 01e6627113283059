"""Numbers with their nouns, and texts on one line, for people."""

from __future__ import annotations


def counted(count: int, noun: str) -> str:
    """A number and its noun, which gets its plural from an s."""
    return f"{count} {noun}{'' if count == 1 else 's'}"


def counted_are(count: int, noun: str) -> str:
    """The same with its verb: ``1 task is``, ``2 tasks are``."""
    return f"{counted(count, noun)} {'is' if count == 1 else 'are'}"


def counted_in_a_row(count: int, noun: str) -> str:
    """``1 poll``, ``2 polls in a row``."""
    return counted(count, noun) + (" in a row" if count > 1 else "")


def one_line(text: object) -> str:
    """The first line of a text, with the mark of a cut where there are more."""
    first, _, rest = str(text).strip().partition("\n")
    return " ".join(first.split()) + (" ..." if rest else "")
