"""Lua scripts, called by the names of their slots.

A script lives in ``lua/{room}/{name}.lua``; its header declares its slots, see :mod:`~celery_perpetual.store.header`,
so that no code counts positions. A line ``-- include {file}`` pastes ``lua/include/{file}.lua``. A call names only what
differs from call to call: a key that is in the key table, the prefixes of keys and the settings that scripts need are
filled in from the store, by their names.

Every script that changes something is atomic and harmless when it is sent twice with the same arguments,
because a client repeats a call whose reply got lost.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from functools import cache
from hashlib import sha1
from importlib.resources import files
from typing import TYPE_CHECKING, Any

from redis.exceptions import NoScriptError, RedisError

from celery_perpetual.store.header import Filling, Header
from celery_perpetual.store.wire import packed, packed_list

if TYPE_CHECKING:
    from celery_perpetual.store.connection import Store

_INCLUDE = re.compile(r"^ *-- include (\w+)\n", re.MULTILINE)
_COMMENT = re.compile(r"^ *--.*\n", re.MULTILINE)
# Lua finds a local at a tenth of what two look-ups in tables take, and a script makes up to thirty calls.
_CALL, _LOCAL_CALL = "redis.call(", "local redis_call = redis.call\n"


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
    """One Lua script."""

    def __init__(self, name: str) -> None:
        text = source(name)
        self.name = name
        self.header = header = Header.of(text)
        self._slots = frozenset([*header.keys, *header.args, *header.more_keys, *header.more_args])
        self._body = _COMMENT.sub("", text).replace(_CALL, "redis_call(")
        self.text = self.filled({})
        self.sha = sha_of(self.text)

    def filled(self, fixed: Mapping[str, Filling]) -> str:
        """The code, with these slots filled in for good.

        Raises:
            TypeError: there is no such slot.
        """
        self._must_know(fixed)
        return _LOCAL_CALL + self.header.preamble(fixed) + self._body

    def __call__(self, store: Store, **slots: Any) -> Any:
        """Run the script on the store and return its reply.

        Args:
            store: it fills the slots whose names it knows.
            **slots: what fills the others; a slot that the store could fill may be given too.

        Raises:
            StoreUnavailable: the store did not answer in time.
            TypeError: a slot is missing, or there is no such slot.
        """
        sent = self._sent(store, slots)
        with store.errors(self.name):
            try:
                return store.wire.call(packed("EVALSHA", self.sha, *sent))
            except NoScriptError:
                return store.wire.call(packed("EVAL", self.text, *sent))

    def begin(self, store: Store, **slots: Any) -> Callable[[], Any]:
        """Send a call, and return what waits for its reply.

        If anything is wrong with the connection or the reply, the call is made once more as any other, and what that
        raises is raised.
        """

        def call() -> Any:
            return self(store, **slots)

        try:
            reply = store.wire.begin(packed("EVALSHA", self.sha, *self._sent(store, slots)))
        except (RedisError, OSError):
            return call

        def finish() -> Any:
            try:
                return reply()
            except (RedisError, OSError):
                return call()

        return finish

    def _sent(self, store: Store, slots: Mapping[str, Any]) -> list[Any]:
        """The number of keys, the keys and the arguments."""
        header = self.header
        self._must_know(slots)
        try:
            keys = [slots[name] if name in slots else store.key_table[name] for name in header.keys]
            args = [slots[name] if name in slots else store.constants[name] for name in header.args]
        except KeyError as missing:
            raise TypeError(f"{self.name}.lua needs a value for the slot {missing}") from None
        for name in header.more_keys:
            keys += slots.get(name, ())
        args += [packed_list(slots[name]) for name in header.more_args if name in slots]
        return [len(keys), *keys, *args]

    def _must_know(self, slots: Mapping[str, Any]) -> None:
        if unknown := slots.keys() - self._slots:
            raise TypeError(f"{self.name}.lua has no slot {', '.join(sorted(unknown))}")


def sha_of(text: str) -> str:
    return sha1(text.encode(), usedforsecurity=False).hexdigest()


@cache
def script(name: str) -> Script:
    """The script of that name, read once per process."""
    return Script(name)


def all_scripts() -> list[Script]:
    """Every script of the package."""
    return [script(name) for name, folder in _folders().items() if folder != "include"]
