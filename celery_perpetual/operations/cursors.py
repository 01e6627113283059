"""Cursors by hand."""

from __future__ import annotations

from typing import Any

from celery_perpetual.errors import ContractError
from celery_perpetual.polling.outcome import HISTORY_TTL_MS
from celery_perpetual.polling.reading import cursor_text
from celery_perpetual.store.connection import Store
from celery_perpetual.store.scripts import script
from celery_perpetual.tasks.unit import TaskUnit


def write_cursor(store: Store, unit: TaskUnit, value: Any) -> None:
    """Set a unit's cursor; the next poll gets it.

    Raises:
        ContractError: it is not JSON, or a poll of the unit is open in the leading beat, in a worker, or by hand (pause
            it, or try again).
    """
    _write(store, unit, cursor_text(f"cursor of {unit.contract.name}", value))


def forget_cursor(store: Store, unit: TaskUnit) -> None:
    """Forget a unit's cursor; the next poll gets None and reads from the beginning.

    Raises:
        ContractError: a poll of the unit is open.
    """
    _write(store, unit, "")


def _write(store: Store, unit: TaskUnit, text: str) -> None:
    done = script("set_cursor")(
        store, unit_hash=store.keys.unit(unit.name), unit=unit.name, cursor=text,
        history=unit.contract.options.history, ttl=HISTORY_TTL_MS,
    )  # fmt: skip
    if not done:
        raise ContractError(
            f"the cursor of {unit.contract.name} was not set: a poll is open and may move it; pause the task, or try "
            "again"
        )
