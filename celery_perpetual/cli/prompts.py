"""The questions that verbs ask before they destroy something; only where there is something to destroy."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from celery_perpetual.operations.purging import QueueContents


def ask(question: str) -> None:
    """Ask on standard error; the command ends unless the answer is yes."""
    click.confirm(question, abort=True, err=True)


def ask_about(ids: Sequence[str], noun: str, applies: Callable[[str], bool], question: str) -> list[str]:
    """Ask about those of some tasks or routines that a verb applies to, if to any; returns them.

    The verb acts on no other: what becomes possible only while the question waits was not agreed to.

    Args:
        ids: that were given.
        noun: ``task`` or ``routine``.
        applies: whether the verb would change the one with this id.
        question: with ``{those}`` in the place of the id or the number.
    """
    unique = list(dict.fromkeys(ids))
    found = [each for each in unique if applies(each)]
    if found:
        of = "" if len(found) == len(unique) else f" of {len(unique)}"
        ask(question.format(those=found[0] if len(unique) == 1 else f"{len(found)}{of} {noun}s"))
    return found


def about_key(once: bool) -> str:
    """The sequel for the key of an item that an operator ends."""
    if once:
        return "The next poll that finds its row enqueues it again."
    return "Polls leave its key out until you allow it; with --once the next poll enqueues it again."


def about_purge(queue: str, messages: str, found: QueueContents) -> str:
    """The question of a purge: what it deletes, and what follows."""
    if not found.read:
        items = "not shown by this broker"
    else:
        items = str(found.items) if found.read >= found.messages else f"{found.items} of the first {found.read}"
    follows = (
        " They end as revoked; a poll that finds their rows again enqueues them, after the back-off of failed_keys."
        if found.items or not found.read else ""
    )  # fmt: skip
    return f"Delete {messages} of queue {queue}? Items of perpetual tasks among them: {items}.{follows}"
