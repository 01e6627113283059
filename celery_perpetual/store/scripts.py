"""Lua scripts with named slots.

A script lives in ``lua/{room}/{name}.lua``; its header names what each KEYS and ARGV slot is, and callers use those
names, so nobody counts positions. A line ``-- include {file}`` pastes ``lua/include/{file}.lua``. The last argument
may be a tail (``ARGV[3..]``); it is passed as ``tail=[...]``.

Redis rolls nothing back, so a key of a wrong type must fail a script before its first write. The types in the header
are checked before the script's own code; those that are marked (``hash*``) are left to it, because a check is a call of
its own: it reads such a key before its first write, does so only where it will write to it, or writes to it first.

Every script that changes something is atomic and harmless when it is sent twice with the same arguments,
because a client repeats a call whose reply got lost.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
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
_INCLUDE = re.compile(r"^ *-- include (\w+)\n", re.MULTILINE)


#: Runs before a script's own code: a key of a wrong type fails the call before anything is written.
_CHECK = """for i, kind in ipairs({%s}) do
  local seen = kind ~= '' and redis.call('TYPE', KEYS[i]).ok or 'none'
  if seen ~= 'none' and seen ~= kind then
    return redis.error_reply('WRONGTYPE ' .. KEYS[i] .. ' holds a ' .. seen .. ', not a ' .. kind)
  end
end
"""
_TYPES = ("string", "hash", "list", "set", "zset", "stream")


@cache
def _folders() -> dict[str, str]:
    """Folder of each script by its name; names are unique."""
    lua = files(__package__).joinpath("lua")
    return {
        file.name.removesuffix(".lua"): folder.name
        for folder in lua.iterdir() if folder.is_dir()
        for file in folder.iterdir() if file.name.endswith(".lua")
    }  # fmt: skip


def source(name: str) -> str:
    """The text of a script, with its includes."""
    text = files(__package__).joinpath("lua", _folders()[name], f"{name}.lua").read_text(encoding="utf-8")
    return _INCLUDE.sub(lambda found: source(found[1]), text)


class Script:
    """One Lua script, called by the names of its slots."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.text = _checked(source(name))
        self.sha = sha_of(self.text)
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


def sha_of(text: str) -> str:
    return sha1(text.encode(), usedforsecurity=False).hexdigest()


def _checked(text: str) -> str:
    kinds = [found if found in _TYPES else "" for found in _KIND.findall(text)]
    return _CHECK % ", ".join(f"'{kind}'" for kind in kinds) + text if any(kinds) else text


@cache
def script(name: str) -> Script:
    """The script of that name, read once per process."""
    return Script(name)
