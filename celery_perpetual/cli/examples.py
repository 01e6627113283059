"""An example for the help of each verb, and names of tasks for shells that complete words."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import click
from celery.app.utils import find_app
from click.shell_completion import CompletionItem

from celery_perpetual.tasks.discovery import load

_ID = "01995e0c-7a3e-8f10-9c44-0d2b00000000"

#: Words behind the name of a verb. A verb whose own text has an example is not listed.
EXAMPLES = {
    "allow": "proj.deliver 4711",
    "completions": "--task proj.deliver",
    "cursor reset": "proj.deliver --yes",
    "cursor set": "proj.deliver 1200",
    "cursor show": "proj.deliver",
    "items": "proj.deliver --state parked",
    "leases": "--limit 20",
    "nudge": "proj.deliver --tenant acme",
    "parked": "--json",
    "pause": '--task proj.deliver --reason "upgrade" --until 2030-01-31T18:00:00Z',
    "poll": "proj.deliver",
    "polls": "proj.deliver --limit 50",
    "preview": "proj.deliver",
    "purge": "celery --yes",
    "resume": "--task proj.deliver --from kept",
    "routines cancel": "nightly",
    "routines create": "proj.report --id nightly --every 1d",
    "routines delete": "nightly",
    "routines due": "--limit 20",
    "routines list": "--state paused",
    "routines next": "",
    "routines pause": "nightly",
    "routines resume": "nightly",
    "routines run-due": "--inline",
    "routines run-now": "nightly",
    "routines show": "nightly",
    "routines update": "nightly --every 12h",
    "stream": "--group billing --consumer one",
    "wait": f"{_ID} --timeout 30",
    "wait-batch": f"{_ID} --timeout 300",
    "why": "proj.deliver --tenant acme",
    "workers": "--json",
}


def verbs(group: click.Group, before: str = "") -> Iterator[tuple[str, click.Command]]:
    """Every verb below a group, with the words to type."""
    for name, command in group.commands.items():
        if isinstance(command, click.Group):
            yield from verbs(command, f"{before}{name} ")
        else:
            yield before + name, command


def add_to(group: click.Group) -> None:
    """Give each verb its example, and each argument TASK the names of the tasks."""
    for words, command in verbs(group):
        if words in EXAMPLES:
            line = f"celery -A proj perpetual {words} {EXAMPLES[words]}".rstrip()
            command.epilog = f"\b\nExample:\n  {line}"  # one line, also where the terminal is narrow
        for parameter in command.params:
            if parameter.name == "task":
                parameter._custom_shell_complete = task_names  # noqa: SLF001  # as click's own argument shell_complete does


def task_names(ctx: click.Context, _parameter: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """Names of perpetual tasks; none where the app cannot be loaded."""
    given: Any = ctx.find_root().params.get("app")
    try:
        app = find_app(given) if isinstance(given, str) else given
        return [CompletionItem(name) for name in load(app).tasks if name.startswith(incomplete)] if app else []
    except Exception:  # of the user's modules; a shell that completes a word shows no errors
        return []
