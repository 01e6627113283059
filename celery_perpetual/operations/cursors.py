"""Cursors by hand."""

from __future__ import annotations

import json
from typing import Any

from celery_perpetual.errors import ContractError
from celery_perpetual.store.connection import Store
from celery_perpetual.store.scripts import script
from celery_perpetual.tasks.contract import TaskContract


def write_cursor(store: Store, contract: TaskContract, value: Any) -> None:
    """Set a unit's cursor; the next poll gets it.

    Raises:
        ContractError: it is not JSON, or a poll of the unit is open (pause it, or try again).
    """
    try:
        text = json.dumps(value)
    except (TypeError, ValueError) as error:
        raise ContractError(f"cursor of {contract.name} must be a JSON value, got {value!r} ({error})") from None
    _write(store, contract, text)


def forget_cursor(store: Store, contract: TaskContract) -> None:
    """Forget a unit's cursor; the next poll gets None and reads from the beginning.

    Raises:
        ContractError: a poll of the unit is open.
    """
    _write(store, contract, "")


def _write(store: Store, contract: TaskContract, text: str) -> None:
    keys, unit = store.keys, contract.unit
    if not script("set_cursor")(store, key=keys.unit(unit), cursors=keys.cursors, unit=unit, cursor=text):
        raise ContractError(f"a poll of {contract.name} is open and may move the cursor; pause it, or try again")
