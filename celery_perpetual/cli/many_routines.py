"""``celery perpetual routines …``: verbs that act on the routines named, or on all that match filters."""

from __future__ import annotations

import sys
from collections.abc import Callable, Collection, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

import click

from celery_perpetual.cli.group import answer
from celery_perpetual.cli.parameters import a_yes, argument, as_json
from celery_perpetual.cli.prompts import ask_about
from celery_perpetual.cli.routine_tables import show_one
from celery_perpetual.cli.routines import FILTERS, REFUSALS, REFUSED, filters, progress, routine_verb
from celery_perpetual.cli.values import a_time
from celery_perpetual.errors import NotFound, RoutineBusy
from celery_perpetual.routines.record import CANCELLED, TERMINAL

if TYPE_CHECKING:
    from celery_perpetual.app import Perpetual
    from celery_perpetual.routines.routine import Routine

#: Asked before a verb, by its name.
QUESTIONS = {
    "cancel": "Cancel {those} for good? The record stays.",
    "delete": "Delete {those}? The record is removed.",
}


class _Action:
    """One operation on routines, with its options."""

    def __init__(self, perpetual: Perpetual, name: str, options: Mapping[str, Any], states: Mapping[str, str]) -> None:
        """Do nothing yet.

        Args:
            states: of routines that have been read, by id.
        """
        self.name = name
        self._routines = perpetual.routines
        self._operation = partial(getattr(perpetual.routines, name), **options)
        self._states = states

    def applies(self, routine_id: str) -> bool:
        """Whether `cancel` or `delete` would change this routine."""
        try:
            return self._fits(self._states.get(routine_id) or self._routines.get(routine_id).state)
        except NotFound:
            return False

    def on(self, routine_id: str, agreed: Collection[str]) -> Routine | None:
        """Do it to a routine that was agreed to; returns the routine, None where it is deleted.

        Raises:
            NotFound: there is none of this id.
            RoutineBusy: it cannot be deleted, or is in another state than when the question was asked.
        """
        found: Routine | None = self._operation(routine_id) if routine_id in agreed else self._left_alone(routine_id)
        return found

    def has_changed(self, routine_id: str, agreed: Collection[str]) -> bool:
        """Do it, and say whether it has changed the routine: `cancel` leaves alone what has ended. Raises as `on`."""
        changes = self.name != "cancel" or self.applies(routine_id)
        found = self.on(routine_id, agreed)
        return changes and (self.name != "cancel" or (found is not None and found.state == CANCELLED))

    def _fits(self, state: str) -> bool:
        return (state in TERMINAL) is (self.name == "delete")

    def _left_alone(self, routine_id: str) -> Routine:
        """A routine that the question has not named, as the operation would do nothing to it."""
        found = self._routines.get(routine_id)
        if self._fits(found.state):
            raise RoutineBusy(f"routine {routine_id} is {found.state} only by now, and was not asked about; try again")
        if self.name == "delete":
            raise RoutineBusy(f"routine {routine_id} is {found.state} and cannot be deleted; cancel it first")
        return found


def _of_many(name: str, text: str, *more: Callable[[Any], Any]) -> None:
    """Add a verb, named as its operation."""

    @argument("ids", "Ids of routines; or name them by the options below.", metavar="[ID]...", nargs=-1)
    @filters
    @click.option("--all", "everything", is_flag=True, help="Every routine.")
    @as_json
    def call(
        perpetual: Perpetual, ids: tuple[str, ...], everything: bool, json_: bool, yes: bool = True, **options: Any
    ) -> None:
        wanted = {each: options.pop(each) for each in FILTERS}
        is_filtered = everything or any(value is not None for value in wanted.values())
        if bool(ids) == is_filtered:
            raise click.UsageError("give ids, or filters such as --task, or --all")
        states = {found.id: found.state for found in perpetual.routines.list(**wanted)} if is_filtered else {}
        action, named = _Action(perpetual, name, options, states), ids or tuple(states)
        agreed = set(named if yes else ask_about(named, "routine", action.applies, QUESTIONS[name]))
        if len(ids) == 1:
            found = action.on(ids[0], agreed)
            show_one(found, json_) if found else answer({"id": ids[0], "deleted": True}, "deleted", json_)
        else:
            _act_on_all(action, named, agreed, json_)

    call.__doc__ = text
    for option in more:
        call = option(call)
    routine_verb(name)(call)


def _act_on_all(action: _Action, ids: Sequence[str], agreed: Collection[str], json_: bool) -> None:
    """Do it to each, and say how often it was done and refused."""
    done, ended_before, refused = 0, 0, list[str]()
    for routine_id in progress(ids, action.name):
        try:
            is_done = action.has_changed(routine_id, agreed)
        except (*REFUSALS, NotFound) as error:
            refused.append(str(error))
            continue
        done, ended_before = done + is_done, ended_before + (not is_done)
    before = f", {ended_before} had ended before" if ended_before else ""
    lines = [f"{action.name}: {done} done, {len(refused)} refused{before}", *refused[:20]]
    answer({"done": done, "refused": refused}, "\n".join(lines), json_)
    sys.exit(REFUSED if refused else 0)


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
