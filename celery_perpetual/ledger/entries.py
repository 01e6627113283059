"""The forms in which ``next_batch`` may yield an item, and what its arguments and its key may be."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any
from uuid import UUID

from celery import Signature

from celery_perpetual.errors import InvalidItem, short
from celery_perpetual.ledger.options import FROZEN_OPTIONS
from celery_perpetual.tasks.items import Item

LONGEST_KEY = 1024


def as_item(entry: Any) -> Item:
    """One entry in the form of an :class:`Item`.

    Raises:
        InvalidItem: it has none of the forms that an item may have.
    """
    if isinstance(entry, Item):
        return entry
    if isinstance(entry, Signature):
        if entry.subtask_type:
            raise InvalidItem(f"a {entry.subtask_type} is not one task; enqueue a small task that starts it")
        options = {k: v for k, v in entry.options.items() if k not in FROZEN_OPTIONS}
        return Item(tuple(entry.args or ()), entry.kwargs or {}, task=entry.task, **options)
    if isinstance(entry, tuple | list):
        return Item(tuple(entry))
    if isinstance(entry, Mapping):
        return Item((), dict(entry))
    raise InvalidItem(
        f"got {type(entry).__name__} {short(entry)}; yield a signature, an Item, a tuple of args or a dict of kwargs"
    )


def checked_shape(args: Any, kwargs: Any) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Arguments as a tuple and a dict.

    Raises:
        InvalidItem: they are something else than arguments of a call.
    """
    if type(args) is not tuple:
        if isinstance(args, str | bytes | Mapping) or not hasattr(args, "__iter__"):
            raise InvalidItem(f"args must be a tuple or list, got {type(args).__name__} {short(args)}")
        args = tuple(args)
    if type(kwargs) is not dict:
        if not isinstance(kwargs, Mapping):
            raise InvalidItem(f"kwargs must be a dict with names as keys, got {short(kwargs)}")
        kwargs = dict(kwargs)
    for name in kwargs:
        if not isinstance(name, str):
            raise InvalidItem(f"kwargs must be a dict with names as keys, got {short(kwargs)}")
    return args, kwargs


def checked_key(key: Any) -> str:
    """An item key as it is compared and stored.

    Raises:
        InvalidItem: it is no key, or too long for one.
    """
    if isinstance(key, bool) or not isinstance(key, str | int | UUID):
        raise InvalidItem(f"key must be a str, an int, or False to opt out, got {type(key).__name__} {short(key)}")
    text = str(key)
    try:
        text.encode()
    except UnicodeEncodeError:
        raise InvalidItem(f"key {short(key)} is not valid Unicode") from None
    if len(text) > LONGEST_KEY:
        raise InvalidItem(f"key has {len(text)} characters, at most {LONGEST_KEY} are allowed")
    return text
