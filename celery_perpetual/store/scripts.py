"""Lua scripts with named slots.

A script lives in ``lua/{name}.lua``; its header names what each KEYS and ARGV slot is, and callers use those
names, so nobody counts positions. A line ``-- include {file}`` pastes ``lua/{file}.lua``. The last argument may be
a tail (``ARGV[3..]``); it is passed as ``tail=[...]``.

Redis rolls nothing back, so a key of a wrong type must fail a script before its first write. The types in the header
are checked before the script's own code; those that are marked (``hash*``) are left to it, because a check is a call of
its own: it reads such a key before its first write, does so only where it will write to it, or writes to it first.

Every script that changes something is atomic and harmless when it is sent twice with the same arguments,
because a client repeats a call whose reply got lost.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from hashlib import sha1
from importlib.resources import files
from typing import TYPE_CHECKING, Any

from redis.exceptions import NoScriptError, RedisError

from celery_perpetual.store.wire import packed

if TYPE_CHECKING:
    from celery_perpetual.store.connection import Store

_SLOT = re.compile(r"^-- (KEYS|ARGV)\[(\d+)(\.\.)?\]\s+(\w+)", re.MULTILINE)
_KIND = re.compile(r"^-- KEYS\[\d+\]\s+\w+\s+(\w+\*?)", re.MULTILINE)
_INCLUDE = re.compile(r"^-- include (\w+)\n", re.MULTILINE)


#: Runs before a script's own code: a key of a wrong type fails the call before anything is written.
_CHECK = """for i, kind in ipairs({%s}) do
  local seen = kind ~= '' and redis.call('TYPE', KEYS[i]).ok or 'none'
  if seen ~= 'none' and seen ~= kind then
    return redis.error_reply('WRONGTYPE ' .. KEYS[i] .. ' holds a ' .. seen .. ', not a ' .. kind)
  end
end
"""
_TYPES = ("string", "hash", "list", "set", "zset", "stream")


def source(name: str) -> str:
    """The text of a script, with its includes."""
    text = files(__package__).joinpath("lua", f"{name}.lua").read_text(encoding="utf-8")
    return _INCLUDE.sub(lambda found: source(found[1]), text)


class Script:
    """One Lua script, called by the names of its slots."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.text = _checked(source(name))
        self.sha = _sha(self.text)
        slots = [(kind, slot, bool(tail)) for kind, _, tail, slot in _SLOT.findall(self.text)]
        self.keys = [slot for kind, slot, tail in slots if kind == "KEYS" and not tail]
        self.args = [slot for kind, slot, tail in slots if kind == "ARGV" and not tail]

    def __call__(self, store: Store, *, tail: Sequence[Any] = (), more_keys: Sequence[str] = (), **slots: Any) -> Any:
        """Run the script on the store and return its reply.

        Raises:
            StoreUnavailable: the store did not answer in time.
        """
        keys = [slots.pop(name) for name in self.keys]
        args = [slots.pop(name) for name in self.args]
        if slots:
            raise TypeError(f"{self.name}.lua has no slot {', '.join(slots)}")
        numbered = (len(keys) + len(more_keys), *keys, *more_keys, *args, *tail)
        with store.errors(self.name):
            try:
                return store.wire.call(packed("EVALSHA", self.sha, *numbered))
            except NoScriptError:
                return store.wire.call(packed("EVAL", self.text, *numbered))

    def begin(
        self, store: Store, *, tail: Sequence[Any] = (), more_keys: Sequence[str] = (), **slots: Any
    ) -> Callable[[], Any]:
        """Send a call, and return what waits for its reply.

        If anything is wrong with the connection or the reply, the call is made once more as any other, and what that
        raises is raised.
        """
        keys, args = [slots[name] for name in self.keys], [slots[name] for name in self.args]
        numbered = (len(keys) + len(more_keys), *keys, *more_keys, *args, *tail)

        def again() -> Any:
            return self(store, tail=tail, more_keys=more_keys, **slots)

        try:
            reply = store.wire.begin(packed("EVALSHA", self.sha, *numbered))
        except (RedisError, OSError):
            return again

        def finish() -> Any:
            try:
                return reply()
            except (RedisError, OSError):
                return again()

        return finish


class Of(str):
    """The name of an open slot, as a part of what another slot is filled with."""

    __slots__ = ()


#: What fills a slot for good: a value, or its parts, of which some are what a call names.
Filling = str | int | tuple[str, ...]


class Prepared:
    """A script of one store with some of its slots filled in for good; calls name the others.

    For what every task calls: the values stand in the text as literals, so that a call neither sends nor unpacks them,
    and the rest is packed by one formatting. A key that is made of a prefix and an id is filled in as
    ``(prefix, Of("id"))``.
    """

    def __init__(self, store: Store, name: str, **fixed: Filling) -> None:
        base = script(name)
        if unknown := fixed.keys() - {*base.keys, *base.args}:
            raise TypeError(f"{name}.lua has no slot {', '.join(unknown)}")
        self._store = store
        self._name = name
        self._keys = [slot for slot in base.keys if slot not in fixed]
        self._open = [*self._keys, *(slot for slot in base.args if slot not in fixed)]
        self.text = _with_literals(base, fixed)
        self._sha = _sha(self.text)
        head = packed("EVALSHA", self._sha, len(self._keys), more=len(self._open))
        self._template = head.decode() + "$%d\r\n%s\r\n" * len(self._open)

    def __call__(self, **slots: str | int) -> Any:
        """Run the script and return its reply.

        Raises:
            StoreUnavailable: the store did not answer in time.
        """
        values: list[int | str] = []
        for slot in self._open:
            text = str(slots[slot])
            values += (len(text), text)
        call = self._template % tuple(values)
        with self._store.errors(self._name):
            try:
                if call.isascii():
                    return self._store.wire.call(call.encode())
                # Lengths are those of bytes.
                return self._store.wire.call(packed("EVALSHA", self._sha, len(self._keys), *values[1::2]))
            except NoScriptError:
                return self._store.wire.call(packed("EVAL", self.text, len(self._keys), *values[1::2]))


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
    code = "\n".join(line for line in base.text.splitlines() if not line.startswith("--"))
    return re.sub(r"(KEYS|ARGV)\[\d+\]", lambda found: numbered[found[0]], code)


def _literal(value: str | int) -> str:
    """A Lua string, as all that scripts are given is one."""
    plain = "".join(
        chr(byte) if 31 < byte < 127 and byte not in b"'\\" else f"\\{byte:03d}" for byte in str(value).encode()
    )
    return f"'{plain}'"


def _sha(text: str) -> str:
    return sha1(text.encode(), usedforsecurity=False).hexdigest()


def _checked(text: str) -> str:
    kinds = [found if found in _TYPES else "" for found in _KIND.findall(text)]
    return _CHECK % ", ".join(f"'{kind}'" for kind in kinds) + text if any(kinds) else text


@cache
def script(name: str) -> Script:
    """The script of that name, read once per process."""
    return Script(name)
