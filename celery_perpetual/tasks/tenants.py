"""Tenants: the values over which a perpetual task fans out, and how each is named.

A tenant is a text, a whole number, or a JSON object with a ``key``. Its *name* is the text, the number as a text, or
the key: units, pauses, outcomes and completions have it. Its *value* is what ``next_batch`` and the task get.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from celery_perpetual.errors import ContractError, short

#: Names are parts of keys in the store. One that is longer is data that was given for a name by mistake.
LONGEST_NAME = 16_384
#: More are a mistake, such as an iterator that never ends.
MOST_TENANTS = 1_000_000


@dataclass(frozen=True, slots=True)
class TenantList:
    """The result of one reading of ``tenants``."""

    values: Mapping[str, Any]
    """Name -> value, in the order of the reading."""
    refused: tuple[str, ...] = field(default=())
    """The faults of the values that were left out."""


def read_list(found: Any) -> TenantList:
    """Check what ``tenants`` is or has returned. Equal values count once.

    A value that cannot be a tenant is left out, and so is one whose name another value has already.

    Raises:
        ContractError: it is no list of values at all.
    """
    if isinstance(found, str | bytes | Mapping) or not isinstance(found, Iterable):
        raise ContractError(f"tenants must be a list (or any iterable) of tenants, got {short(found)}")
    values: dict[str, Any] = {}
    refused: list[str] = []
    for count, each in enumerate(found):
        if count == MOST_TENANTS:
            raise ContractError(f"tenants must be at most {MOST_TENANTS}, got more")
        try:
            name, value = tenant_of(each)
        except ContractError as error:
            refused.append(str(error))
            continue
        if name not in values:
            values[name] = value
        elif values[name] != value:
            refused.append(f"tenants {short(values[name])} and {short(value)} have the same name {short(name)}")
    return TenantList(values, tuple(refused))


def tenant_of(value: Any) -> tuple[str, Any]:
    """Name and value of one tenant; the value is what JSON makes of it.

    Raises:
        ContractError: it cannot be a tenant.
    """
    key = value.get("key") if isinstance(value, Mapping) else value
    if isinstance(key, bool) or not isinstance(key, str | int):
        raise ContractError(
            f"a tenant must be a str, an int, or a dict of JSON values with a key (str or int), got {short(value)}"
        )
    name = str(key)
    must_be_one_line("a tenant", name)
    if not isinstance(value, Mapping):
        return name, key
    try:
        return name, json.loads(json.dumps(dict(value), allow_nan=False))
    except (TypeError, ValueError, RecursionError) as error:
        raise ContractError(f"tenant {short(name)} is no JSON value, got {short(value)} ({error})") from None


def must_be_one_line(of: str, name: str) -> None:
    """Refuse a name of which the name of a unit cannot be made.

    Raises:
        ContractError: it is empty, too long, or not one line of text.
    """
    if not name or len(name) > LONGEST_NAME or not _is_one_line(name):
        raise ContractError(
            f"the name of {of} must be one line of text of 1 to {LONGEST_NAME} characters, got {len(name)}: "
            f"{short(name)}"
        )


def _is_one_line(name: str) -> bool:
    """Whether it can be stored, and does not break the lines of scripts, logs and tables."""
    try:
        name.encode()
    except UnicodeEncodeError:
        return False
    return not any(ord(char) < 32 or ord(char) == 127 for char in name)
