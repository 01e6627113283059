"""From what ``next_batch`` yielded to work that can be stored: checked, serialised, keyed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from hashlib import blake2b
from typing import TYPE_CHECKING, Any

from celery import Signature
from celery.utils.saferepr import saferepr
from celery.utils.time import maybe_make_aware
from kombu.exceptions import EncodeError
from kombu.serialization import dumps
from kombu.utils.json import dumps as json_dumps

from celery_perpetual.errors import InvalidItem
from celery_perpetual.tasks.items import UNSET, Item

if TYPE_CHECKING:
    from celery import Celery

    from celery_perpetual.tasks.contract import Perpetuity

#: Options that only make sense for a call that is made now, by this process.
REFUSED_OPTIONS = frozenset({"task_id", "producer", "publisher", "connection", "router", "result_cls", "chord"})

#: Set by freezing a signature; the item gets an id of our own.
FROZEN_OPTIONS = frozenset({"task_id", "reply_to", "root_id", "parent_id"})

LONGEST_KEY = 1024


@dataclass(frozen=True, slots=True)
class Work:
    """One task to enqueue, ready for the ledger."""

    task: str
    body: bytes
    """``(args, kwargs)`` in the task's serializer."""
    serializer: str
    options: Mapping[str, Any]
    """The item's own ``apply_async`` options; times are absolute."""
    key: str | None
    """Item key, or None if the item opted out."""
    reprs: tuple[str, str] | None = None
    """How Celery shows the arguments, where that cannot be told from the serialised ones."""


class Reader:
    """Turns the entries of one poll into :class:`Work`."""

    def __init__(self, app: Celery, perpetuity: Perpetuity) -> None:
        self.app = app
        self.own = perpetuity.task

    def read(self, index: int, entry: Any) -> Work:
        """Check one entry.

        Raises:
            InvalidItem: it cannot become a task; the message names task, index and type.
        """
        try:
            return self._work(_as_item(entry))
        except InvalidItem as error:
            raise InvalidItem(f"{self.own.name}.next_batch, item {index}: {error}") from None

    def _work(self, item: Item) -> Work:
        name, task = self._target(item.task)
        args, kwargs, options = _arguments(item)
        serializer = str(
            options.get("serializer") or getattr(task, "serializer", None) or self.app.conf.task_serializer
        )
        if task is not None:
            args, kwargs = _checked_arguments(task, args, kwargs, serializer)
        body = _dumped(args, kwargs, serializer)
        options = self._absolute(options)
        _must_be_storable(options)
        key = _key(item.key, name, args, kwargs, body, serializer)
        return Work(name, body, serializer, options, key, self._reprs(args, kwargs, serializer))

    def _reprs(self, args: Any, kwargs: Any, serializer: str) -> tuple[str, str] | None:
        """A tuple within the arguments comes back as a list, but Celery's headers show the tuple."""
        if serializer == "pickle" or (all(map(_is_plain, args)) and _is_plain(kwargs)):
            return None
        amqp, levels = self.app.amqp, self.app.conf.get("task_repr_maxlevels") or 3
        return (
            saferepr(args, amqp.argsrepr_maxsize, maxlevels=levels),
            saferepr(kwargs, amqp.kwargsrepr_maxsize, maxlevels=levels),
        )

    def _target(self, task: Any) -> tuple[str, Any]:
        if task is None:
            return str(self.own.name), self.own
        name = task if isinstance(task, str) else getattr(task, "name", None)
        if not isinstance(name, str) or not name:
            raise InvalidItem(f"task must be a task or the name of one, got {task!r}")
        return name, self.app.tasks.get(name)

    def _absolute(self, options: dict[str, Any]) -> dict[str, Any]:
        """``countdown`` and ``expires`` count from the poll, however late the message is sent."""
        countdown = options.pop("countdown", None)
        if countdown is not None and not options.get("eta"):
            options["eta"] = self._later(countdown) if countdown else None
        expires = options.get("expires")
        if isinstance(expires, int | float) and not isinstance(expires, bool):
            options["expires"] = self._later(expires)
        for name in ("eta", "expires"):
            if isinstance(options.get(name), datetime):
                options[name] = options[name].isoformat()
            elif options.get(name) is not None and not isinstance(options[name], str):
                raise InvalidItem(f"{name} must be a datetime or seconds, got {options[name]!r}")
        return {name: value for name, value in options.items() if value is not None}

    def _later(self, seconds: Any) -> datetime:
        try:
            later: datetime = maybe_make_aware(self.app.now() + timedelta(seconds=seconds), tz=self.app.timezone)
        except (TypeError, OverflowError) as error:
            raise InvalidItem(f"{seconds!r} is not a number of seconds ({error})") from None
        return later


def _as_item(entry: Any) -> Item:
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
        f"got {type(entry).__name__} {_short(entry)}; yield a signature, an Item, a tuple of args or a dict of kwargs"
    )


def _arguments(item: Item) -> tuple[tuple[Any, ...], dict[str, Any], dict[str, Any]]:
    if isinstance(item.args, str | bytes | Mapping) or not hasattr(item.args, "__iter__"):
        raise InvalidItem(f"args must be a tuple or list, got {type(item.args).__name__} {_short(item.args)}")
    if not isinstance(item.kwargs, Mapping) or not all(isinstance(name, str) for name in item.kwargs):
        raise InvalidItem(f"kwargs must be a dict with names as keys, got {_short(item.kwargs)}")
    for name in REFUSED_OPTIONS & item.options.keys():
        raise InvalidItem(f"option {name} cannot be given for an item; ids and connections are celery-perpetual's")
    return tuple(item.args), dict(item.kwargs), dict(item.options)


def _checked_arguments(task: Any, args: Any, kwargs: Any, serializer: str) -> tuple[Any, Any]:
    """What ``apply_async`` does with the arguments before it sends them."""
    if task.typing and (check := getattr(task, "__header__", None)) is not None:
        try:
            check(*args, **kwargs)
        except TypeError as error:
            raise InvalidItem(f"arguments do not fit {task.name}: {error}") from None
    dump_models = getattr(task, "_dump_pydantic_arguments", None)
    if dump_models is not None and serializer != "pickle":
        args, kwargs = dump_models(args, kwargs)
    return args, kwargs


def _dumped(args: Any, kwargs: Any, serializer: str) -> bytes:
    try:
        data = dumps((args, kwargs), serializer)[2]
    except EncodeError as error:
        raise InvalidItem(f"arguments cannot be serialised as {serializer}: {error}") from None
    return data.encode() if isinstance(data, str) else bytes(data)


def _must_be_storable(options: Mapping[str, Any]) -> None:
    for name, value in options.items():
        try:
            json_dumps(value)
        except (TypeError, ValueError) as error:
            raise InvalidItem(f"option {name} cannot be stored: {error}") from None


def _is_plain(value: Any) -> bool:
    kind = type(value)
    if kind is list:
        return all(map(_is_plain, value))
    if kind is dict:
        return all(type(name) is str for name in value) and all(map(_is_plain, value.values()))
    return kind in (str, int, float, bool, type(None))


def _key(key: Any, name: str, args: Any, kwargs: Any, body: bytes, serializer: str) -> str | None:
    if key is False:
        return None
    if key is UNSET:
        if len(kwargs) > 1:  # the same arguments in another order are the same work
            body = _dumped(args, dict(sorted(kwargs.items())), serializer)
        return blake2b(name.encode() + b"\0" + body, digest_size=16).hexdigest()
    if isinstance(key, bool) or not isinstance(key, str | int):
        raise InvalidItem(f"key must be a str, an int, or False to opt out, got {type(key).__name__} {_short(key)}")
    text = str(key)
    if len(text) > LONGEST_KEY:
        raise InvalidItem(f"key has {len(text)} characters, at most {LONGEST_KEY} are allowed")
    return text


def _short(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:77]}..."
