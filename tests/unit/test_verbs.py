"""Every verb has a help text with an example that it takes, and completes words in a shell."""

from __future__ import annotations

import re
import shlex

import click
import pytest

from celery_perpetual.cli import perpetual
from celery_perpetual.cli.examples import EXAMPLES, verbs

VERBS = dict(verbs(perpetual))


def examples(words: str, command: click.Command) -> list[str]:
    """Return the words behind the verb in each example of its help."""
    text = f"{command.help}\n{command.epilog or ''}"
    return re.findall(rf"celery -A proj perpetual {words}( .*)?$", text, re.MULTILINE)


@pytest.mark.parametrize("words", sorted(VERBS))
def test_each_verb_has_an_example_that_it_takes(words: str) -> None:
    found = examples(words, VERBS[words])

    assert found, f"the help of {words} has no example"
    for rest in found:
        VERBS[words].make_context(words, shlex.split(rest.replace("$HOSTNAME", "host")))


def test_no_example_is_left_over() -> None:
    assert EXAMPLES.keys() <= VERBS.keys()


@pytest.mark.parametrize("words", sorted(VERBS))
def test_each_verb_says_what_it_does_in_one_line(words: str) -> None:
    """The list of verbs shows the first sentence; each option has a text."""
    command = VERBS[words]

    assert (command.help or "").strip()
    assert command.get_short_help_str(200).rstrip(".")
    silent = [each.name for each in command.params if isinstance(each, click.Option) and not each.help]
    assert silent == []
