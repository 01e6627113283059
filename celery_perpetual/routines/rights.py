"""The operations that each state of a routine allows."""

from __future__ import annotations

from celery_perpetual.errors import RoutineBusy, RoutineTerminal
from celery_perpetual.routines.record import BUSY, Record


def must_not_be_busy(record: Record, what: str) -> None:
    """Refuse a routine that runs, or waits for its next attempt.

    Raises:
        RoutineBusy: it does.
    """
    if record.state in BUSY:
        raise RoutineBusy(f"routine {record.id} is {record.state} and cannot {what} now; wait until its run has ended")


def must_be_open(record: Record, what: str) -> None:
    """Refuse a routine that is busy or has ended.

    Raises:
        RoutineBusy: it runs, or waits for its next attempt.
        RoutineTerminal: it has ended.
    """
    if record.is_terminal:
        raise RoutineTerminal(f"routine {record.id} is {record.state} and cannot {what}; create another one")
    must_not_be_busy(record, what)
