"""Default item keys: digests of a task and the values of its arguments.

Not of a serializer's bytes: those may carry a nonce or a signature, and write dicts in the order of their insertion and
sets in the order of a process's hash seed. Only Kombu's own JSON of plain values has one text for one value, and is
taken as it is, because it is at hand.
"""

from __future__ import annotations

import copyreg
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping
from collections.abc import Set as AbstractSet
from datetime import date, time, timedelta, tzinfo
from decimal import Decimal
from enum import Enum
from hashlib import blake2b
from typing import Any
from uuid import UUID

from kombu.utils.json import JSONEncoder

#: Types whose ``repr`` is their value.
_SCALARS = (bool, int, float, complex, str, bytes, bytearray, type(None))
_SHOWN = (date, time, timedelta, tzinfo, Decimal, UUID)
#: Types that JSON has. Of a subclass (an enum, safe text of Django) a serializer for plain data writes the value.
_PLAIN = (str, int, float, type(None))


def are_plain(args: Any, kwargs: Mapping[str, Any]) -> bool:
    """Whether all arguments are scalars that JSON has."""
    return all(isinstance(value, _PLAIN) for value in args) and all(
        isinstance(value, _PLAIN) for value in kwargs.values()
    )


class Digests:
    """Digests of arguments. For one thread."""

    def __init__(self) -> None:
        self._begun: dict[str, Any] = {}

    def of_bytes(self, task: str, body: bytes) -> str:
        """The digest of a task and a text that equal arguments alone have."""
        begun = self._begun.get(task)
        if begun is None:
            begun = self._begun[task] = blake2b(task.encode() + b"\0", digest_size=16)
        digest = begun.copy()
        digest.update(body)
        text: str = digest.hexdigest()
        return text

    def of_values(self, task: str, args: Any, kwargs: Mapping[str, Any], *, keeps_types: bool) -> str:
        """The digest of a task and its arguments.

        Args:
            keeps_types: the serializer brings back the very types. For all others a tuple is a list, and what JSON
                does not know is what Kombu makes of it.

        Raises:
            Exception: what a value's own methods raise.
        """
        canonical = _Pickled() if keeps_types else _Json()
        return self.of_bytes(task, canonical.text(list(args)) + canonical.text(dict(kwargs)))


class _Canonical(ABC):
    """One text for one value. A container that contains itself refers to it by its depth."""

    def __init__(self) -> None:
        self._open: list[int] = []

    def text(self, value: Any) -> bytes:
        if type(value) in _SCALARS:
            return _framed(type(value).__name__, repr(value).encode("utf-8", "surrogatepass"))
        if id(value) in self._open:
            return _framed("self", str(self._open.index(id(value))).encode())
        self._open.append(id(value))
        try:
            name, parts = self._parts(value)
            return _framed(name, b"".join(parts))
        finally:
            self._open.pop()

    def _parts(self, value: Any) -> tuple[str, Iterator[bytes] | list[bytes]]:
        if isinstance(value, Enum):
            return _name(type(value)), [self.text(value.name)]
        if isinstance(value, _SHOWN):
            return _name(type(value)), [repr(value).encode()]
        return self._container(value)

    @abstractmethod
    def _container(self, value: Any) -> tuple[str, Iterator[bytes] | list[bytes]]:
        """The name and the parts of a value that is neither a scalar nor an enum."""

    def _pairs(self, value: Any) -> list[bytes]:
        return sorted(self.text(key) + self.text(each) for key, each in value.items())

    def _taken_apart(self, value: Any) -> tuple[str, list[bytes]]:
        """As pickle does it."""
        if isinstance(value, type) or (callable(value) and hasattr(value, "__qualname__")):
            return "name", [_name(value).encode()]
        reduced = self._reduced(value)
        if isinstance(reduced, str):
            return "name", [reduced.encode()]
        call, arguments, *rest = reduced
        state, items, pairs = (*rest, None, None, None)[:3]
        return _name(type(value)), [
            self.text(call), self.text(arguments), self.text(state), self.text(list(items or ())),
            b"".join(sorted(self.text(each) for each in pairs or ())),
        ]  # fmt: skip

    @staticmethod
    def _reduced(value: Any) -> Any:
        reduce: Callable[[Any], Any] | None = copyreg.dispatch_table.get(type(value))
        return reduce(value) if reduce is not None else value.__reduce_ex__(4)


class _Json(_Canonical):
    """Values as a serializer for plain data knows them."""

    def _parts(self, value: Any) -> tuple[str, Iterator[bytes] | list[bytes]]:
        for kind in (str, int, float):
            if isinstance(value, kind):
                return kind.__name__, [kind.__repr__(value).encode("utf-8", "surrogatepass")]
        return super()._parts(value)

    def _container(self, value: Any) -> tuple[str, Iterator[bytes] | list[bytes]]:
        if isinstance(value, list | tuple):
            return "list", map(self.text, value)
        if isinstance(value, Mapping):
            return "dict", self._pairs(value)
        if isinstance(value, AbstractSet):
            return "set", sorted(map(self.text, value))
        try:
            return "as JSON", [self.text(JSONEncoder().default(value))]
        except TypeError:  # a serializer that knows more than JSON
            return self._taken_apart(value)


class _Pickled(_Canonical):
    """Values as pickle takes them apart."""

    def _container(self, value: Any) -> tuple[str, Iterator[bytes] | list[bytes]]:
        kind = type(value)
        if kind in (list, tuple):
            return kind.__name__, map(self.text, value)
        if kind is dict:
            return "dict", self._pairs(value)
        if kind in (set, frozenset):
            return kind.__name__, sorted(map(self.text, value))
        return self._taken_apart(value)


def _name(value: Any) -> str:
    return f"{getattr(value, '__module__', '')}.{getattr(value, '__qualname__', repr(value))}"


def _framed(name: str, body: bytes) -> bytes:
    """A type and a text, so that no two values run into one another."""
    return f"{name}:{len(body)}:".encode() + body
