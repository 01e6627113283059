"""Asks the schedules that run code of the user's, each on a daemon thread.

The clock waits only a moment for an answer. One that comes later is taken by a later turn; a schedule that raises, or
has not answered for long, fails the poll of its own unit and no other, and is not asked again while it hangs.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from celery_perpetual.call_apart import CallApart
from celery_perpetual.errors import described
from celery_perpetual.tasks.cadence import Occurrence
from celery_perpetual.tasks.unit import TaskUnit

#: Seconds of one turn that may be spent waiting for answers.
MOMENT = 0.02
#: A schedule that has not answered for so many seconds hangs.
LONGEST_ANSWER = 5.0
#: Most schedules that are asked at the same time.
MOST_ASKED = 64


class ScheduleFailed(Exception):
    """A schedule raised, or hangs."""


class Schedules:
    """The cadences of units, for one thread."""

    def __init__(self, answered: Callable[[], object] = lambda: None) -> None:
        """Ask nothing yet.

        Args:
            answered: called on another thread when a schedule has answered.
        """
        self.answered = answered
        self._asked: dict[str, CallApart[Any]] = {}
        self._until = 0.0

    def begin_turn(self) -> None:
        """From here on, a moment may be spent waiting."""
        self._until = time.monotonic() + MOMENT

    def first(self, unit: TaskUnit, now: int, spread: float) -> int | None:
        """The due time of a unit that was never polled, or None while its schedule has not answered.

        Raises:
            ScheduleFailed: the schedule raised, or hangs.
        """
        cadence = unit.contract.cadence
        return self._ask(unit, lambda: cadence.first(now, spread))  # type: ignore[no-any-return]

    def occurrence(self, unit: TaskUnit, due: int, anchor: int | None, trigger: str, now: int) -> Occurrence | None:
        """The slot that is due, and the next one; None while the schedule has not answered.

        Raises:
            ScheduleFailed: the schedule raised, or hangs.
        """
        cadence = unit.contract.cadence
        found: Occurrence | None = self._ask(unit, lambda: cadence.occurrence(due, anchor, trigger, now))
        if found is None or found.following > now:
            return found
        return self.occurrence(unit, due, anchor, trigger, now)  # the answer to an earlier question

    def _ask(self, unit: TaskUnit, question: Callable[[], Any]) -> Any:
        if not unit.contract.cadence.runs_user_code:
            return question()
        asked = self._asked.get(unit.name)
        if asked is None:
            if len(self._asked) >= MOST_ASKED:
                self._refuse_if_all_hang()
                return None
            asked = self._asked[unit.name] = CallApart(question, "perpetual-schedule", self.answered)
        if not asked.is_over(max(0.0, self._until - time.monotonic())):
            self._refuse_if_it_hangs(asked)
            return None
        del self._asked[unit.name]
        if asked.error is not None:
            raise ScheduleFailed(f"the schedule in poll_every raised {described(asked.error)}") from asked.error
        return asked.answer()

    def _refuse_if_it_hangs(self, asked: CallApart[Any]) -> None:
        if asked.age > LONGEST_ANSWER:
            raise ScheduleFailed(f"the schedule in poll_every has not answered for {asked.age:.0f} s")

    def _refuse_if_all_hang(self) -> None:
        if all(each.age > LONGEST_ANSWER for each in self._asked.values()):
            raise ScheduleFailed(f"{MOST_ASKED} schedules of other tasks have not answered, so this one is not asked")
