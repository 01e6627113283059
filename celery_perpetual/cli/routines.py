"""``celery perpetual routines …``: verbs about routines."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Iterator
from functools import wraps
from typing import IO, TYPE_CHECKING, Any, TypeVar

import click

from celery_perpetual.cli.group import answer, verb
from celery_perpetual.cli.parameters import argument, as_json
from celery_perpetual.cli.routine_fields import from_lines, from_options, of_routine
from celery_perpetual.cli.routine_tables import show_many, show_one, show_runs, warn_of_unknown
from celery_perpetual.cli.times import shown
from celery_perpetual.cli.values import a_json, a_time
from celery_perpetual.errors import AlreadyExists, IdempotencyConflict, RoutineBusy, RoutineTerminal, StaleVersion
from celery_perpetual.times import format_time

if TYPE_CHECKING:
    from celery_perpetual.app import Perpetual

REFUSED = 1
REFUSALS = (AlreadyExists, IdempotencyConflict, RoutineBusy, RoutineTerminal, StaleVersion)
T = TypeVar("T")
#: The parameters of the options that say which routines.
FILTERS = ("state", "task", "due_before", "metadata")

an_id = argument("routine_id", "Id of a routine.", metavar="ID")
a_limit = click.option("--limit", default=100, show_default=True, type=click.IntRange(1), help="How many.")
an_at = click.option("--at", metavar="TIME", callback=a_time, help="As if it were this time.")


@click.group()
def routines() -> None:
    """Durable jobs that run once, at an interval, or by a crontab.

    Exit codes: 0 done, 1 refused because of the routine's state, version, id or key, 2 usage or an impossible field,
    3 an unknown id.
    """


def routine_verb(name: str) -> Callable[[Callable[..., Any]], click.Command]:
    """A verb of this group, with its exit codes."""

    def made(function: Callable[..., Any]) -> click.Command:
        @wraps(function)
        def call(*args: Any, **options: Any) -> Any:
            try:
                return function(*args, **options)
            except REFUSALS as error:
                click.echo(f"Error: {error}", err=True)
                sys.exit(REFUSED)

        command = verb(call)
        routines.add_command(command, name)
        return command

    return made


def filters(function: Callable[..., Any]) -> Callable[..., Any]:
    """Which routines."""
    for option in (
        click.option("--metadata", metavar="JSON", callback=a_json, help="Only those that have each of these values."),
        click.option("--due-before", metavar="TIME", callback=a_time, help="Only those that run next by then."),
        click.option("--task", help="Only routines of this task."),
        click.option("--state", help="Only routines in this state."),
    ):
        function = option(function)
    return function


@routine_verb("list")
@filters
@a_limit
@as_json
def list_(perpetual: Perpetual, limit: int, json_: bool, **given: Any) -> None:
    """List routines, the one that was changed last first."""
    show_many(perpetual.routines.list(**given, limit=limit + 1), limit, json_)


@routine_verb("due")
@an_at
@a_limit
@click.option("--include-claimed", is_flag=True, help="Those too that run right now.")
@as_json
def due(perpetual: Perpetual, at: Any, limit: int, include_claimed: bool, json_: bool) -> None:
    """List the routines that are due, the earliest first."""
    show_many(perpetual.routines.list_due(at, limit + 1, include_claimed), limit, json_)


@routine_verb("next")
@as_json
def next_(perpetual: Perpetual, json_: bool) -> None:
    """Print when the next routine is due. Exit code 1 if none is."""
    at = perpetual.routines.next_due_at()
    if at is None:
        answer({"next_due_at": None}, "no routine is due", json_)
        sys.exit(REFUSED)
    answer({"next_due_at": format_time(at)}, shown(at) or "", json_)


@routine_verb("show")
@an_id
@as_json
def show_(perpetual: Perpetual, routine_id: str, json_: bool) -> None:
    """Show a routine."""
    show_one(perpetual.routines.get(routine_id), json_)


@routine_verb("create")
@argument("task", "Name of the task that each run executes; not with --from.", required=False)
@click.option("--id", "id", help="Its id; else one is made.")
@click.option("--paused", is_flag=True, help="Create it paused.")
@of_routine
@click.option("--from", "lines", type=click.File(), help="Create many: one JSON object of fields a line; - is stdin.")
@as_json
def create(perpetual: Perpetual, task: str | None, lines: IO[str] | None, json_: bool, **options: Any) -> None:
    """Create a routine, or many from a file.

    Of each 500 lines of a file all are created or none; a wrong line is refused before any is created. In a file,
    fields have the names of `perpetual.routines.create`, and "cron" for a crontab.
    """
    paused = options.pop("paused") or None
    fields = from_options({**options, "paused": paused})
    if lines is None:
        if task is None:
            raise click.UsageError("give the name of a task, or --from FILE")
        show_one(perpetual.routines.create(task, **fields), json_)
        warn_of_unknown(perpetual.app, task)
        return
    if fields or task is not None:
        raise click.UsageError("--from FILE goes alone: the fields are in its lines")
    made = perpetual.routines.create_many(progress(from_lines(lines), "creating"))
    new = sum(routine.created for routine in made)
    text = f"{new} created, {len(made) - new} were there under their idempotency keys"
    answer({"created": new, "found": len(made) - new}, text, json_)


@routine_verb("update")
@an_id
@of_routine
@click.option("--task", help="Another task.")
@click.option("--if-version", type=int, help="Only if this is still its version.")
@as_json
def update(perpetual: Perpetual, routine_id: str, if_version: int | None, json_: bool, **options: Any) -> None:
    """Change fields of an active or paused routine.

    The value `none` removes a field.
    """
    patch = from_options(options)
    if not patch:
        raise click.UsageError("nothing to change was given; see --help for the fields")
    show_one(perpetual.routines.update(routine_id, if_version, **patch), json_)


@routine_verb("run-now")
@an_id
@as_json
def run_now(perpetual: Perpetual, routine_id: str, json_: bool) -> None:
    """Enqueue a run besides the routine's times."""
    show_runs([perpetual.routines.run_now(routine_id)], json_, one=True)


@routine_verb("run-due")
@an_at
@click.option("--limit", type=click.IntRange(1), help="At most so many.")
@click.option("--inline", is_flag=True, help="Execute the tasks here, one after the other.")
@as_json
def run_due(perpetual: Perpetual, at: Any, limit: int | None, inline: bool, json_: bool) -> None:
    """Run what is due, with or without a beat. Exit code 1 if a run failed here, or could not be enqueued."""
    runs = perpetual.routines.each_due(at, limit, run_inline=inline)
    ran = list(progress(runs, "running" if inline else "starting"))
    show_runs(ran, json_)
    sys.exit(REFUSED if any(run.status == "failure" for run in ran) else 0)


def progress(items: Iterable[T], label: str) -> Iterator[T]:
    """Pass items through; on a terminal, with a bar or a count."""
    if not sys.stderr.isatty():
        yield from items
        return
    with click.progressbar(items, label=label, file=sys.stderr, show_pos=True) as bar:
        yield from bar
