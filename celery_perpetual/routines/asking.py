"""Asks timetables for slots. A schedule of the user's own may hang, so it is asked on a thread of its own."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

from celery_perpetual.call_apart import CallApart
from celery_perpetual.errors import InvalidRoutine
from celery_perpetual.routines.slots import Timetable

#: Seconds in which a schedule must answer.
LONGEST_ANSWER = 5.0

T = TypeVar("T")


def asked(table: Timetable, question: Callable[[], T]) -> T:
    """The answer to a question that asks a timetable for slots.

    Raises:
        InvalidRoutine: as the question, or the schedule has not answered in time. Then its thread goes on.
    """
    if not table.runs_user_code:
        return question()
    call = CallApart(question, "perpetual-schedule")
    if not call.is_over(LONGEST_ANSWER):
        message = f"routine field schedule must answer within {LONGEST_ANSWER:g} seconds, and {table} has not"
        raise InvalidRoutine(message, "schedule", table)
    return call.answer()
