"""Routines and their runs as commands print them."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import click

from celery_perpetual.cli.group import show
from celery_perpetual.cli.tables import listing
from celery_perpetual.cli.times import localized, shown
from celery_perpetual.hints import nearest

if TYPE_CHECKING:
    from celery import Celery

    from celery_perpetual.routines.routine import Routine, RoutineRun


def show_one(routine: Routine, json_: bool) -> None:
    """Each field that has a value, on a line."""
    if json_:
        show(routine.to_dict())
        return
    for name, value in (routine.to_dict() | {"schedule": str(routine.schedule)}).items():
        if value not in (None, {}, []):
            text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
            click.echo(f"{name.replace('_', ' ')}: {localized(text)}")


def show_many(found: list[Routine], limit: int, json_: bool) -> None:
    """A row each; one more than the limit was asked for, to say whether there are more."""
    listing(
        found, json_, limit, heads=("ID", "TASK", "STATE", "NEXT RUN", "RUNS", "SCHEDULE", "LAST ERROR"),
        row=lambda x: (x.id, x.task, x.state, shown(x.next_run_at), x.run_count, str(x.schedule), _error(x)),
        empty="there is no such routine", whole=("ID",),
    )  # fmt: skip


def show_runs(runs: list[RoutineRun], json_: bool, *, one: bool = False) -> None:
    """A row each."""
    if json_ and one:
        show(runs[0].to_dict())
        return
    listing(
        runs, json_, heads=("ID", "SLOT", "ATTEMPT", "TASK ID", "STATUS", "ERROR"),
        row=lambda x: (
            x.routine_id, shown(x.slot), x.attempt, x.task_id, x.status, x.error and x.error["message"]
        ),
        empty="no routine was due", whole=("ID", "TASK ID"),
    )  # fmt: skip


def _error(routine: Routine) -> str:
    return f"{routine.last_error['type']}: {routine.last_error['message']}" if routine.last_error else ""


def warn_of_unknown(app: Celery, task: str) -> None:
    """A routine may run a task that only its workers know, so this is no refusal."""
    app.loader.import_default_modules()
    if task not in app.tasks:
        near = nearest(task, app.tasks)
        hint = f"; did you mean {near}?" if near else ""
        click.echo(f"this app has no task {task!r}: its runs fail, unless a worker has it{hint}", err=True)
