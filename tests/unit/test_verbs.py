"""Every verb has a help text with an example that it takes, and completes words in a shell."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import click
import pytest

from celery_perpetual.cli import perpetual
from celery_perpetual.cli.examples import EXAMPLES, verbs

VERBS = dict(verbs(perpetual))
PACKAGE = Path(__file__).parents[2] / "celery_perpetual"


def examples(words: str, command: click.Command) -> list[str]:
    """Return the words behind the verb in each example of its help."""
    text = f"{command.help}\n{command.epilog or ''}"
    return re.findall(rf"celery -A proj perpetual {words}( .*)?$", text, re.MULTILINE)


@pytest.mark.parametrize("words", sorted(VERBS))
def test_each_verb_has_an_example_that_it_takes(words: str) -> None:
    found = examples(words, VERBS[words])

    assert found, f"the help of {words} has no example"
    shown = VERBS[words].get_help(click.Context(VERBS[words], info_name=words, terminal_width=80)).splitlines()
    for rest in found:
        assert any(line.endswith(f"celery -A proj perpetual {words}{rest}") for line in shown), "it is on two lines"
        VERBS[words].make_context(words, shlex.split(rest.replace("$HOSTNAME", "host")))


def test_no_example_is_left_over() -> None:
    assert EXAMPLES.keys() <= VERBS.keys()


@pytest.mark.parametrize("words", sorted(VERBS))
def test_each_verb_says_what_it_does_in_one_line(words: str) -> None:
    """The list of verbs shows the first sentence; each argument and option has a text in the help."""
    command = VERBS[words]

    assert (command.help or "").strip()
    assert command.get_short_help_str(200).rstrip(".")
    ctx = click.Context(command, info_name=words)
    records = {each.name: each.get_help_record(ctx) for each in command.params}
    assert [name for name, record in records.items() if record is None or not record[1]] == []
    text = " ".join(command.get_help(ctx).split())
    assert [name for name, record in records.items() if record and " ".join(record[1].split()) not in text] == []
    assert ("Arguments:" in command.get_help(ctx)) is any(isinstance(each, click.Argument) for each in command.params)


@pytest.mark.parametrize(
    "group", [perpetual, *(each for each in perpetual.commands.values() if isinstance(each, click.Group))]
)
def test_lists_of_verbs_cut_no_sentence_off(group: click.Group) -> None:
    _, _, listed = group.get_help(click.Context(group, terminal_width=80)).partition("Commands:")

    assert listed
    assert [line for line in listed.splitlines() if line.endswith("...")] == []


def test_each_command_that_a_text_names_is_one() -> None:
    """The commands in findings, errors and help texts are verbs, with options that these have."""
    texts = [file.read_text(encoding="utf-8") for file in PACKAGE.rglob("*.py")]
    typed = {line for text in texts for line in re.findall(r"celery -A proj perpetual ([a-z][a-z-]*[^\n;`(]*)", text)}
    assert len(typed) > 40
    unknown = []
    for line in sorted(typed):
        words = re.split(r"[\s\"',.]+", line)
        verb = next((" ".join(words[:count]) for count in (2, 1) if " ".join(words[:count]) in VERBS), None)
        if verb is None and words[0] not in perpetual.commands:
            unknown.append(line)
        elif verb is not None:
            known = {option for each in VERBS[verb].params for option in each.opts + each.secondary_opts}
            unknown += [line for word in words if re.fullmatch(r"--[a-z-]+", word) and word not in known]
    assert unknown == []
