"""Asks timetables for slots. A schedule of the user's own may hang, so it is asked on a thread of its own."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Generic, TypeVar

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
    thread = _Question(question)
    thread.start()
    thread.join(LONGEST_ANSWER)
    if thread.is_alive():
        message = f"routine field schedule must answer within {LONGEST_ANSWER:g} seconds, and {table} has not"
        raise InvalidRoutine(message, "schedule", table)
    if thread.error is not None:
        raise thread.error
    return thread.answers[0]


class _Question(threading.Thread, Generic[T]):
    def __init__(self, question: Callable[[], T]) -> None:
        super().__init__(name="perpetual-schedule", daemon=True)
        self._question = question
        self.answers: list[T] = []
        self.error: BaseException | None = None

    def run(self) -> None:
        try:
            self.answers.append(self._question())
        except BaseException as error:  # raised where it was asked
            self.error = error
