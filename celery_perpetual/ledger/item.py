"""From what ``next_batch`` yielded to items that can be stored: checked, serialised, keyed."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any, NamedTuple

from celery.utils.time import maybe_make_aware
from kombu.serialization import loads
from kombu.utils.json import dumps as json_dumps

from celery_perpetual.errors import InvalidItem, shown_value
from celery_perpetual.ledger.digests import Digests, are_plain
from celery_perpetual.ledger.entries import as_item, checked_key, checked_shape
from celery_perpetual.ledger.options import (
    REFUSED_OPTIONS,
    must_be_a_time,
    must_be_known,
    must_be_possible,
    must_be_storable,
)
from celery_perpetual.ledger.reprs import ArgumentReprs
from celery_perpetual.ledger.serializers import Encoding, codec
from celery_perpetual.tasks.items import UNSET

if TYPE_CHECKING:
    from celery import Celery

    from celery_perpetual.tasks.contract import TaskContract

#: Headers and events show this in place of arguments that are to be kept out of them.
HIDDEN = ("...", "...")


class CheckedItem(NamedTuple):
    """One task to enqueue, ready for the ledger."""

    task: str
    body: bytes
    """``(args, kwargs)`` in the task's serializer."""
    serializer: str
    options: Mapping[str, Any]
    """The item's own ``apply_async`` options; times are absolute."""
    key: str | None
    """Item key, or None if the item opted out."""
    kept_reprs: tuple[str, str] | None = None
    """``argsrepr`` and ``kwargsrepr``, where the serialised arguments do not give them back; kept by the ledger."""
    reprs: tuple[str, str] | None = None
    """The same for every item that a poll has just read; None for one from the ledger that did not keep them."""
    options_json: str = ""
    """JSON of the options; "" for none."""
    run: Mapping[str, Any] | None = None
    """Of which run of a routine it is the item; its message says so in a header of its own."""


class Target(NamedTuple):
    """The facts that all items of one task share."""

    name: str
    task: Any
    """The registered task, or None for one of another app."""
    check: Callable[..., Any] | None
    """Raises TypeError for arguments that do not fit."""
    dump_models: Callable[..., Any] | None
    serializer: str


class ItemReader:
    """Turns the entries of one poll into :class:`CheckedItem`. For one thread and one poll."""

    def __init__(self, app: Celery, contract: TaskContract | None) -> None:
        """Check nothing yet.

        Args:
            contract: of the task whose poll it is; None where there is no poll, and each entry names its task.
        """
        self.app = app
        self.own: Any = None if contract is None else contract.task
        self._targets: dict[str, Target] = {}
        self._own: Target | None = None
        self._encodings: dict[str, Encoding] = {}
        self._reprs = ArgumentReprs(app)
        self._digests = Digests()
        self._hidden = contract is not None and not contract.options.store_args

    def read(self, index: int, entry: Any) -> CheckedItem:
        """Check one entry.

        Raises:
            InvalidItem: it cannot become a task; the message names task, index and type.
        """
        return self.read_part(index, [entry])[0]

    def read_part(self, first: int, entries: Sequence[Any]) -> list[CheckedItem]:
        """Check several entries, of which the first one has this index.

        Raises:
            InvalidItem: one cannot become a task; the message names task, index and type.
        """
        items: list[CheckedItem] = []
        try:
            for entry in entries:
                items.append(self.check(entry))  # noqa: PERF401  # their number is the index of one that is refused
        except InvalidItem as error:
            raise InvalidItem(f"{self.own.name}.next_batch, item {first + len(items)}: {error}") from None
        return items

    def check(self, entry: Any) -> CheckedItem:
        """Check one entry.

        Raises:
            InvalidItem: it cannot become a task; the message says why, and not of what.
        """
        kind = type(entry)
        if kind is dict:
            return self._checked(self._target(None), (), entry, {}, UNSET)
        if kind is tuple:
            return self._checked(self._target(None), entry, {}, {}, UNSET)
        item = as_item(entry)
        return self._checked(self._target(item.task), item.args, item.kwargs, dict(item.options), item.key)

    def without_key(self, task: Any, args: Any, kwargs: Any, options: Mapping[str, Any]) -> CheckedItem:
        """Check a task that is given by its parts, as :meth:`check` does."""
        return self._checked(self._target(task), args, kwargs, dict(options), False)

    def _checked(self, target: Target, args: Any, kwargs: Any, options: dict[str, Any], key: Any) -> CheckedItem:
        args, kwargs = checked_shape(args, kwargs)
        options_json = ""
        serializer = target.serializer
        if options:
            must_be_known(options)
            must_be_possible(options)
            serializer = str(options.get("serializer") or serializer)
            options, options_json = self._storable(options)
        if target.check is not None:
            try:
                target.check(*args, **kwargs)
            except TypeError as error:
                raise InvalidItem(f"arguments do not fit {target.name}: {error}") from None
        if target.dump_models is not None and serializer != "pickle":
            args, kwargs = target.dump_models(args, kwargs)
        encoding = self._encodings.get(serializer) or self._encoding(serializer)
        body = _encoded(encoding, serializer, args, kwargs)
        reprs = None if encoding.keeps_types else self._reprs.show_scalars(args, kwargs)
        if key is UNSET:
            key = self._digest(target.name, args, kwargs, body, encoding, are_scalars=reprs is not None)
        elif key is False:
            key = None
        else:
            key = checked_key(key)
        kept: tuple[str, str] | None = None
        if reprs is None or not encoding.is_plain_json:
            reprs, kept = self._reprs_to_keep(args, kwargs, body, serializer, encoding)
        if self._hidden:
            reprs = kept = HIDDEN
        return CheckedItem(target.name, body, serializer, options, key, kept, reprs, options_json)

    def _reprs_to_keep(
        self, args: Any, kwargs: Any, body: bytes, serializer: str, encoding: Encoding
    ) -> tuple[tuple[str, str] | None, tuple[str, str] | None]:
        """How the arguments show themselves, and again if the ledger keeps that."""
        if encoding.keeps_types:  # what it brings back shows itself as before
            return None, None
        # Any other value comes back in its JSON form, and from other serializers than JSON perhaps in another order.
        reprs, plain = self._reprs.show_and_judge(args, kwargs)
        if not plain:
            _must_come_back(body, serializer)
        return reprs, None if plain and encoding.is_plain_json else reprs

    def _encoding(self, serializer: str) -> Encoding:
        found = self._encodings[serializer] = Encoding.of(serializer)
        return found

    def _target(self, task: Any) -> Target:
        if task is None and self.own is not None:
            if self._own is None:
                self._own = self._found(self.own.name, self.own)
            return self._own
        name = task if isinstance(task, str) else getattr(task, "name", None)
        if not isinstance(name, str) or not name:
            raise InvalidItem(f"task must be a task or the name of one, got {shown_value(task)}")
        known = self._targets.get(name)
        if known is None:
            known = self._targets[name] = self._found(name, self.app.tasks.get(name))
        return known

    def _found(self, name: str, task: Any) -> Target:
        return Target(
            name=name,
            task=task,
            check=getattr(task, "__header__", None) if task is not None and task.typing else None,
            dump_models=getattr(task, "_dump_pydantic_arguments", None),
            serializer=str(getattr(task, "serializer", None) or self.app.conf.task_serializer),
        )

    def _digest(self, name: str, args: Any, kwargs: Any, body: bytes, encoding: Encoding, *, are_scalars: bool) -> str:
        if not (encoding.is_plain_json and (are_scalars or are_plain(args, kwargs))):
            try:
                return self._digests.of_values(name, args, kwargs, keeps_types=encoding.keeps_types)
            except Exception as error:  # whatever a value's own method raises
                raise InvalidItem(f"arguments have no digest, give the item a key: {error!r}") from None
        if len(kwargs) > 1 and (names := sorted(kwargs)) != list(kwargs):
            # the same arguments in another order are the same work
            body = encoding.encode((args, {each: kwargs[each] for each in names}))
        return self._digests.of_bytes(name, body)

    def _storable(self, options: dict[str, Any]) -> tuple[dict[str, Any], str]:
        """Options as they are kept, and their JSON."""
        for name in REFUSED_OPTIONS & options.keys():
            raise InvalidItem(f"option {name} cannot be given for an item; ids and connections are celery-perpetual's")
        options = self._absolute(options)
        try:
            return options, str(json_dumps(options)) if options else ""
        except (TypeError, ValueError):
            must_be_storable(options)
            raise

    def _absolute(self, options: dict[str, Any]) -> dict[str, Any]:
        """``countdown`` and ``expires`` count from the poll, however late the message is sent."""
        countdown = options.pop("countdown", None)
        if countdown:  # Celery prefers it to an eta
            options["eta"] = self._later("countdown", countdown)
        expires = options.get("expires")
        if isinstance(expires, int | float) and not isinstance(expires, bool):
            options["expires"] = self._later("expires", expires)
        for name in ("eta", "expires"):
            if isinstance(options.get(name), datetime):
                options[name] = options[name].isoformat()
            elif options.get(name) is not None:
                must_be_a_time(name, options[name])
        return {name: value for name, value in options.items() if value is not None}

    def _later(self, name: str, seconds: Any) -> datetime:
        try:
            later: datetime = maybe_make_aware(self.app.now() + timedelta(seconds=seconds), tz=self.app.timezone)
        except (TypeError, ValueError, OverflowError) as error:
            raise InvalidItem(
                f"option {name} must be a number of seconds, got {shown_value(seconds)} ({error})"
            ) from None
        return later


def _encoded(encoding: Encoding, serializer: str, args: Any, kwargs: Any) -> bytes:
    try:
        return encoding.encode((args, kwargs))
    except Exception as error:  # whatever the serializer or a value's own method raises
        raise InvalidItem(f"arguments cannot be serialised as {serializer}: {error}") from None


def _must_come_back(body: bytes, serializer: str) -> None:
    """Values with a notation of their own may be written by a serializer that cannot read them."""
    content_type, encoding = codec(serializer)
    try:
        loads(body, content_type, encoding, accept=[content_type])
    except Exception as error:  # whatever the serializer raises
        raise InvalidItem(f"arguments cannot be read back from {serializer}: {error}") from None
