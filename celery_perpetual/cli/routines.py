"""``celery perpetual routines …``: verbs about routines."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import partial, wraps
from typing import IO, TYPE_CHECKING, Any, TypeVar

import click

from celery_perpetual.cli.group import show, verb
from celery_perpetual.cli.parameters import a_yes, argument, as_json
from celery_perpetual.cli.prompts import ask_about
from celery_perpetual.cli.routine_fields import from_lines, from_options, of_routine
from celery_perpetual.cli.routine_tables import show_deleted, show_many, show_one, show_runs, warn_of_unknown
from celery_perpetual.cli.times import shown
from celery_perpetual.cli.values import a_json, a_time
from celery_perpetual.errors import (
    AlreadyExists,
    IdempotencyConflict,
    NotFound,
    RoutineBusy,
    RoutineTerminal,
    StaleVersion,
)
from celery_perpetual.routines.record import CANCELLED, TERMINAL
from celery_perpetual.times import format_time

if TYPE_CHECKING:
    from celery_perpetual.app import Perpetual
    from celery_perpetual.routines.routine import Routine

REFUSED = 1
_REFUSALS = (AlreadyExists, IdempotencyConflict, RoutineBusy, RoutineTerminal, StaleVersion)
T = TypeVar("T")

an_id = argument("routine_id", "Id of a routine.", metavar="ID")
a_limit = click.option("--limit", default=100, show_default=True, type=click.IntRange(1), help="How many.")
an_at = click.option("--at", metavar="TIME", callback=a_time, help="As if it were this time.")


@click.group()
def routines() -> None:
    """Durable jobs that run once, at an interval, or by a crontab.

    Exit codes: 0 done, 1 refused because of the routine's state, version, id or key, 2 usage or an impossible field,
    3 an unknown id.
    """


def _verb(name: str) -> Callable[[Callable[..., Any]], click.Command]:
    """A verb of this group, with its exit codes."""

    def made(function: Callable[..., Any]) -> click.Command:
        @wraps(function)
        def call(*args: Any, **options: Any) -> Any:
            try:
                return function(*args, **options)
            except _REFUSALS as error:
                click.echo(f"Error: {error}", err=True)
                sys.exit(REFUSED)

        command = verb(call)
        routines.add_command(command, name)
        return command

    return made


def _filters(function: Callable[..., Any]) -> Callable[..., Any]:
    """Which routines."""
    for option in (
        click.option("--metadata", metavar="JSON", callback=a_json, help="Only those that have each of these values."),
        click.option("--due-before", metavar="TIME", callback=a_time, help="Only those that run next by then."),
        click.option("--task", help="Only routines of this task."),
        click.option("--state", help="Only routines in this state."),
    ):
        function = option(function)
    return function


@_verb("list")
@_filters
@a_limit
@as_json
def list_(perpetual: Perpetual, limit: int, json_: bool, **filters: Any) -> None:
    """List routines, the one that was changed last first."""
    show_many(perpetual.routines.list(**filters, limit=limit + 1), limit, json_)


@_verb("due")
@an_at
@a_limit
@click.option("--include-claimed", is_flag=True, help="Those too that run right now.")
@as_json
def due(perpetual: Perpetual, at: Any, limit: int, include_claimed: bool, json_: bool) -> None:
    """List the routines that are due, the earliest first."""
    show_many(perpetual.routines.list_due(at, limit + 1, include_claimed), limit, json_)


@_verb("next")
@as_json
def next_(perpetual: Perpetual, json_: bool) -> None:
    """Print when the next routine is due. Exit code 1 if none is."""
    at = perpetual.routines.next_due_at()
    if json_:
        show({"next_due_at": None if at is None else format_time(at)})
    else:
        click.echo("no routine is due" if at is None else shown(at))
    sys.exit(REFUSED if at is None else 0)


@_verb("show")
@an_id
@as_json
def show_(perpetual: Perpetual, routine_id: str, json_: bool) -> None:
    """Show a routine."""
    show_one(perpetual.routines.get(routine_id), json_)


@_verb("create")
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
    made = perpetual.routines.create_many(_progress(from_lines(lines), "creating"))
    new = sum(routine.created for routine in made)
    if json_:
        show({"created": new, "found": len(made) - new})
    else:
        click.echo(f"{new} created, {len(made) - new} were there under their idempotency keys")


@_verb("update")
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


@_verb("run-now")
@an_id
@as_json
def run_now(perpetual: Perpetual, routine_id: str, json_: bool) -> None:
    """Enqueue a run besides the routine's times."""
    show_runs([perpetual.routines.run_now(routine_id)], json_, one=True)


@_verb("run-due")
@an_at
@click.option("--limit", type=click.IntRange(1), help="At most so many.")
@click.option("--inline", is_flag=True, help="Execute the tasks here, one after the other.")
@as_json
def run_due(perpetual: Perpetual, at: Any, limit: int | None, inline: bool, json_: bool) -> None:
    """Run what is due, with or without a beat. Exit code 1 if a run failed here, or could not be enqueued."""
    runs = perpetual.routines.each_due(at, limit, run_inline=inline)
    ran = list(_progress(runs, "running" if inline else "starting"))
    show_runs(ran, json_)
    sys.exit(REFUSED if any(run.status == "failure" for run in ran) else 0)


def _of_many(name: str, text: str, *more: Callable[[Any], Any]) -> None:
    """Add a verb, named as its operation, that acts on the routines named, or on all that match."""

    @argument("ids", "Ids of routines; or name them by the options below.", metavar="[ID]...", nargs=-1)
    @_filters
    @click.option("--all", "everything", is_flag=True, help="Every routine.")
    @as_json
    def call(
        perpetual: Perpetual, ids: tuple[str, ...], state: str | None, task: str | None, due_before: Any, metadata: Any,
        everything: bool, json_: bool, yes: bool = True, **options: Any,
    ) -> None:  # fmt: skip
        filters = {"state": state, "task": task, "due_before": due_before, "metadata": metadata}
        is_filtered = everything or any(value is not None for value in filters.values())
        if bool(ids) == is_filtered:
            raise click.UsageError("give ids, or filters such as --task, or --all")
        states = {found.id: found.state for found in perpetual.routines.list(**filters)} if is_filtered else {}
        ids = tuple(states) if is_filtered else ids
        applies = partial(_applies, perpetual, name, states)
        agreed = set(ids if yes else ask_about(ids, "routine", applies, QUESTIONS[name]))
        verb_of_it = partial(getattr(perpetual.routines, name), **options)
        left_alone = partial(_left_alone, perpetual, name)
        if len(ids) == 1 and not is_filtered:
            found = verb_of_it(ids[0]) if agreed else left_alone(ids[0])
            show_one(found, json_) if found else show_deleted(ids[0], json_)
            return
        done, ended_before, refused = 0, 0, list[str]()
        for routine_id in _progress(ids, name):
            try:
                changes = name != "cancel" or applies(routine_id)
                found = verb_of_it(routine_id) if routine_id in agreed else left_alone(routine_id)
            except (*_REFUSALS, NotFound) as error:
                refused.append(str(error))
                continue
            is_done = changes and (name != "cancel" or found.state == CANCELLED)
            done, ended_before = done + is_done, ended_before + (not is_done)
        if json_:
            show({"done": done, "refused": refused})
        else:
            before = f", {ended_before} had ended before" if ended_before else ""
            click.echo("\n".join([f"{name}: {done} done, {len(refused)} refused{before}", *refused[:20]]))
        sys.exit(REFUSED if refused else 0)

    call.__doc__ = text
    for option in more:
        call = option(call)
    _verb(name)(call)


#: Asked before a verb, by its name.
QUESTIONS = {
    "cancel": "Cancel {those} for good? The record stays.",
    "delete": "Delete {those}? The record is removed.",
}


def _applies(perpetual: Perpetual, name: str, states: Mapping[str, str], routine_id: str) -> bool:
    """Whether a verb would change this routine; its state is read unless it is given."""
    try:
        return _fits(name, states.get(routine_id) or perpetual.routines.get(routine_id).state)
    except NotFound:
        return False


def _fits(name: str, state: str) -> bool:
    """Whether `cancel` or `delete` changes a routine in this state."""
    return (state in TERMINAL) is (name == "delete")


def _left_alone(perpetual: Perpetual, name: str, routine_id: str) -> Routine:
    """A routine that the question has not named, as the verb would do nothing to it.

    Raises:
        NotFound: there is none of this id.
        RoutineBusy: it cannot be deleted, or is in another state by now.
    """
    found = perpetual.routines.get(routine_id)
    if _fits(name, found.state):
        raise RoutineBusy(f"routine {routine_id} is {found.state} only by now, and was not asked about; try again")
    if name == "delete":
        raise RoutineBusy(f"routine {routine_id} is {found.state} and cannot be deleted; cancel it first")
    return found


a_revoke = click.option("--revoke", is_flag=True, help="Revoke the run that is under way, if it has not begun.")
a_terminate = click.option("--terminate", is_flag=True, help="End the run that is under way, even if it has begun.")

a_reason = click.option("--reason", default="", help="Why; shown with the routine.")
an_until = click.option("--until", metavar="TIME", callback=a_time, help="When it ends by itself.")
a_from = click.option(
    "--from", "from_", type=click.Choice(["now", "kept"]), default="now", show_default=True,
    help="Run a slot whose time has passed at once, or go on with the next one.",
)  # fmt: skip

_of_many("pause", "Stop running routines until they are resumed.", an_until, a_reason)
_of_many("resume", "Let routines run again.", a_from)
_of_many("cancel", "End routines for good.", a_yes, a_terminate, a_revoke)
_of_many("delete", "Remove routines that have ended.", a_yes)


def _progress(items: Iterable[T], label: str) -> Iterator[T]:
    """Pass items through; on a terminal, with a bar or a count."""
    if not sys.stderr.isatty():
        yield from items
        return
    with click.progressbar(items, label=label, file=sys.stderr, show_pos=True) as bar:
        yield from bar
