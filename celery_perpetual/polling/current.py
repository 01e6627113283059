"""The unit whose ``next_batch`` this thread evaluates."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from celery_perpetual.tasks.unit import TaskUnit

_unit: ContextVar[TaskUnit | None] = ContextVar("celery_perpetual.unit", default=None)


def polled_unit() -> TaskUnit | None:
    """That unit, or None outside of a poll."""
    return _unit.get()


@contextmanager
def polling(unit: TaskUnit) -> Iterator[None]:
    """Inside, this thread polls ``unit``."""
    token = _unit.set(unit)
    try:
        yield
    finally:
        _unit.reset(token)
