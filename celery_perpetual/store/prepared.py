"""Scripts of which some slots are filled in for good, for what every task calls."""

from __future__ import annotations

import re
from collections import ChainMap
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from redis.exceptions import NoScriptError

from celery_perpetual.store.scripts import Script, script, sha_of
from celery_perpetual.store.wire import packed

if TYPE_CHECKING:
    from celery_perpetual.store.connection import Store

Slots = Mapping[str, str | int]

#: One argument on the wire: its length and its text.
_ARGUMENT = "$%d\r\n%s\r\n"


class Of(str):
    """The name of an open slot, as a part of what another slot is filled with."""

    __slots__ = ()


#: What fills a slot for good: a value, or its parts, of which some are what a call names.
Filling = str | int | tuple[str, ...]


class Prepared:
    """A script of one store with some of its slots filled in for good; calls name the others.

    The values stand in the text as literals, so that a call neither sends nor unpacks them, and the rest is packed by
    one formatting. A key that is made of a prefix and an id is filled in as ``(prefix, Of("id"))``.
    """

    def __init__(self, store: Store, name: str, *, yielding: bool = False, **fixed: Filling) -> None:
        """Fill slots in.

        Args:
            store: where it runs.
            name: of the script.
            yielding: let the server write first to those to whom the script publishes, and then to the caller.
            **fixed: what fills which slots.
        """
        base = script(name)
        if unknown := fixed.keys() - {*base.keys, *base.args}:
            raise TypeError(f"{name}.lua has no slot {', '.join(unknown)}")
        self._store = store
        self._name = name
        self._yielding = yielding
        self._keys = [slot for slot in base.keys if slot not in fixed]
        self.slots = [*self._keys, *(slot for slot in base.args if slot not in fixed)]
        self.text = _with_literals(base, fixed)
        self._sha = sha_of(self.text)
        self.head = packed("EVALSHA", self._sha, len(self._keys), more=len(self.slots)).decode()
        self._template = self.head + _ARGUMENT * len(self.slots)

    def __call__(self, **slots: str | int) -> Any:
        """Run the script and return its reply.

        Raises:
            StoreUnavailable: the store did not answer in time.
        """
        values: list[int | str] = []
        for slot in self.slots:
            text = str(slots[slot])
            values += (len(text), text)
        return self.send(self._template % tuple(values), slots)

    def begun(self, **known: str | int) -> Begun:
        """One call of which these slots are known before the others."""
        return Begun(self, known)

    def send(self, call: str, *slots: Slots) -> Any:
        """Send a call that is packed already, and return the reply.

        Args:
            call: the packed call, with lengths in characters.
            *slots: what it was packed from.

        Raises:
            StoreUnavailable: the store did not answer in time.
        """
        with self._store.errors(self._name):
            try:
                if call.isascii():
                    return self._store.wire.call(call.encode(), yielding=self._yielding)
                # Lengths are those of bytes.
                return self._store.wire.call(
                    packed("EVALSHA", self._sha, *self._arguments(*slots)), yielding=self._yielding
                )
            except NoScriptError:
                return self._store.wire.call(packed("EVAL", self.text, *self._arguments(*slots)))

    def _arguments(self, *slots: Slots) -> list[str | int]:
        named = ChainMap(*map(dict, slots))
        return [len(self._keys), *(named[slot] for slot in self.slots)]


class Begun:
    """A call that is packed as far as its slots are known."""

    __slots__ = ("_known", "_left", "_prepared", "_template")

    def __init__(self, prepared: Prepared, known: Slots) -> None:
        self._prepared = prepared
        self._known = known
        self._left = [slot for slot in prepared.slots if slot not in known]
        parts = [prepared.head]
        for slot in prepared.slots:
            if slot in known:
                text = str(known[slot])
                parts.append((_ARGUMENT % (len(text), text)).replace("%", "%%"))
            else:
                parts.append(_ARGUMENT)
        self._template = "".join(parts)

    def __call__(self, **rest: str) -> Any:
        """Run the script with the rest of its slots, and return its reply; may be called again.

        Raises:
            StoreUnavailable: the store did not answer in time.
        """
        values: list[int | str] = []
        for slot in self._left:
            values += (len(rest[slot]), rest[slot])
        return self._prepared.send(self._template % tuple(values), self._known, rest)


def _with_literals(base: Script, fixed: Mapping[str, Filling]) -> str:
    """The script's text with values for slots, and the slots that are left numbered anew."""
    kinds = (("KEYS", base.keys), ("ARGV", base.args))
    left = {
        slot: f"{kind}[{number}]"
        for kind, slots in kinds
        for number, slot in enumerate((slot for slot in slots if slot not in fixed), 1)
    }

    def filled(slot: str) -> str:
        if slot not in fixed:
            return left[slot]
        value = fixed[slot]
        parts = value if isinstance(value, tuple) else (value,)
        return " .. ".join(left[part] if isinstance(part, Of) else _literal(part) for part in parts)

    numbered = {f"{kind}[{number}]": filled(slot) for kind, slots in kinds for number, slot in enumerate(slots, 1)}
    code = "\n".join(line for line in base.text.splitlines() if not line.lstrip().startswith("--"))
    return re.sub(r"(KEYS|ARGV)\[\d+\]", lambda found: numbered[found[0]], code)


def _literal(value: str | int) -> str:
    """A Lua string, as all that scripts are given is one."""
    plain = "".join(
        chr(byte) if 31 < byte < 127 and byte not in b"'\\" else f"\\{byte:03d}" for byte in str(value).encode()
    )
    return f"'{plain}'"
