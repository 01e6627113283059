"""Verbs that act."""

from __future__ import annotations

import sys
from datetime import datetime
from typing import TYPE_CHECKING, Any, Literal

import click

from celery_perpetual.cli.group import answer, show, verb
from celery_perpetual.cli.inspect import in_one_line
from celery_perpetual.cli.parameters import a_task, a_tenant, as_json
from celery_perpetual.cli.times import localized
from celery_perpetual.cli.values import a_time

if TYPE_CHECKING:
    from collections.abc import Callable

    from celery_perpetual.app import Perpetual


def _scope(function: Callable[..., Any]) -> Callable[..., Any]:
    """The options that name the scope to pause or resume."""
    for option in (
        click.option("--all", "everything", is_flag=True, help="Every perpetual task, and every routine."),
        click.option("--routine", help="Id of a routine, or '*' for all of them."),
        click.option("--queue", help="Every task that the app's routes send to this queue."),
        click.option("--tenant", help="Tenant of the task, or of every task."),
        click.option("--task", help="One perpetual task."),
    ):
        function = option(function)
    return function


def _one_scope(everything: bool, **scopes: str | None) -> None:
    named = [name for name in ("task", "tenant", "queue", "routine") if scopes[name] is not None]
    if everything and named:
        raise click.UsageError(f"--all stands alone; leave it or --{' and --'.join(named)} out")
    if not everything and not named:
        raise click.UsageError(
            "nothing to act on was given; add --task NAME, --tenant NAME, --queue NAME, --routine ID, or --all"
        )


def _shown(task: str | None, tenant: str | None, queue: str | None, routine: str | None) -> str:
    """The scope in an answer."""
    named = [
        f"task {task}" if task and tenant else task,
        f"tenant {tenant}" if tenant else None,
        f"queue {queue}" if queue else None,
        f"routine {routine}" if routine else None,
    ]
    return ", ".join(each for each in named if each) or "everything"


@verb
@a_task
@a_tenant
@as_json
def poll(perpetual: Perpetual, task: str, tenant: str | None, json_: bool) -> None:
    """Poll a task here and now, and enqueue what it finds.

    Exit code 1 if the poll failed or timed out.
    """
    outcome = perpetual.poll(task, tenant)
    answer(outcome.to_dict(), in_one_line(outcome), json_)
    if not json_:
        state = perpetual.why(task, tenant).unit
        if state.state in ("paused", "disabled"):
            click.echo(f"it is {state.state} ({state.reason}); a poll by hand takes place all the same")
    sys.exit(0 if outcome.ok else 1)


@verb
@a_task
@a_tenant
@as_json
def nudge(perpetual: Perpetual, task: str, tenant: str | None, json_: bool) -> None:
    """Let the leader poll a task at once, out of turn.

    Exit code 1 if no leader polls the task: it is paused or disabled there, or no beat has led yet.
    """
    nudged = perpetual.nudge(task, tenant)
    answer({"nudged": nudged}, f"{task} is polled at once" if nudged else f"no leader polls {task}", json_)
    sys.exit(0 if nudged else 1)


@verb
@_scope
@click.option("--reason", default="", help="Why; shown with the pause.")
@click.option("--until", metavar="TIME", callback=a_time, help="When it ends by itself, like 2030-01-31T18:00:00Z.")
@as_json
def pause(
    perpetual: Perpetual,
    task: str | None,
    tenant: str | None,
    queue: str | None,
    routine: str | None,
    everything: bool,
    reason: str,
    until: datetime | None,
    json_: bool,
) -> None:
    """Stop polls or routines; what is enqueued runs.

    Name a task, a tenant, a queue or a routine, or --all.
    """
    _one_scope(everything, task=task, tenant=tenant, queue=queue, routine=routine)
    paused = perpetual.pause(task, tenant, queue, routine, everything, reason=reason, until=until)
    if json_:
        show(paused.to_dict())
    else:
        click.echo(f"paused {_shown(task, tenant, queue, routine)}: {localized(paused.text)}")
        if routine is None and not perpetual.holds_units(paused.scope):
            click.echo("no unit is in it now; if one should be, correct the name and resume this one", err=True)
        if paused.replaced is not None:
            click.echo(f"it replaces the pause: {localized(paused.replaced.text)}")


@verb
@_scope
@click.option(
    "--from",
    "from_",
    type=click.Choice(["now", "kept"]),
    default="now",
    show_default=True,
    help="Poll at once, or at the next slot.",
)
@click.option("--reason", default="", help="Why; on record with the event `resume`.")
@click.option("--until", metavar="TIME", callback=a_time, help="Taken as by `pause`; the pause ends now.")
@as_json
def resume(
    perpetual: Perpetual,
    task: str | None,
    tenant: str | None,
    queue: str | None,
    routine: str | None,
    everything: bool,
    from_: Literal["now", "kept"],
    reason: str,
    until: datetime | None,
    json_: bool,
) -> None:
    """End a pause. Exit code 1 if that scope was not paused."""
    _one_scope(everything, task=task, tenant=tenant, queue=queue, routine=routine)
    resumed = perpetual.resume(task, tenant, queue, routine, everything, reason=reason, until=until, from_=from_)
    shown = _shown(task, tenant, queue, routine)
    answer({"resumed": resumed}, f"resumed {shown}" if resumed else f"there is no pause of {shown} to end", json_)
    sys.exit(0 if resumed else 1)
