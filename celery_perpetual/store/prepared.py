"""Scripts of which some slots are filled in for good, for what every task calls.

Measured for the end of a task, in the client's own processor time per call over a kept connection: a call that is
mostly packed before it is made takes a quarter less than one that redis-py packs, and 5 % less where redis-py has
hiredis.
"""

from __future__ import annotations

from collections import ChainMap
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from redis.exceptions import NoScriptError, RedisError

from celery_perpetual.store.header import Filling
from celery_perpetual.store.scripts import script, sha_of
from celery_perpetual.store.wire import packed

if TYPE_CHECKING:
    from celery_perpetual.store.connection import Store

Slots = Mapping[str, str | int]


class Prepared:
    """A script of one store with some of its slots filled in for good; calls name the others.

    The values stand in the text as literals, so that a call neither sends nor unpacks them. Every slot that the store
    can fill is filled. A key that is made of a prefix and an id is filled in as ``(prefix, Of("id"))``.
    """

    def __init__(self, store: Store, name: str, *, yielding: bool = False, **fixed: Filling) -> None:
        """Fill slots in.

        Args:
            store: where it runs.
            name: of the script.
            yielding: let the server write first to those to whom the script publishes, and then to the caller.
            **fixed: what fills which slots.

        Raises:
            TypeError: the script has no such slot.
        """
        base = script(name)
        known = {
            **{slot: store.key_table[slot] for slot in base.header.keys if slot in store.key_table},
            **{slot: store.constants[slot] for slot in base.header.args if slot in store.constants},
        }
        filled = {**known, **fixed}
        self._store = store
        self._name = name
        self._yielding = yielding
        self._keys = [slot for slot in base.header.keys if slot not in filled]
        self.slots = [*self._keys, *(slot for slot in base.header.args if slot not in filled)]
        self._split: dict[int, tuple[list[str], list[str]]] = {}
        self.text = base.filled(filled)
        self._sha = sha_of(self.text)
        self.head = packed("EVALSHA", self._sha, len(self._keys), more=len(self.slots)).decode()

    def __call__(self, over: Store | None = None, /, **slots: str | int) -> Any:
        """Run the script and return its reply.

        Args:
            over: the same store, over connections that wait for another time.
            **slots: by name.

        Raises:
            StoreUnavailable: the store did not answer in time.
        """
        return self.send(self.head + _packed(self.slots, slots), slots, over=over)

    def begun(self, known: Slots) -> Begun:
        """One call of which the first slots are known before the others.

        Args:
            known: what fills these.

        Raises:
            TypeError: these are not the first ones.
        """
        return Begun(self, known)

    def split(self, count: int) -> tuple[list[str], list[str]]:
        """The first slots, so many, and the rest."""
        if count not in self._split:
            self._split[count] = self.slots[:count], self.slots[count:]
        return self._split[count]

    def send(self, call: str, *slots: Slots, over: Store | None = None) -> Any:
        """Send a call that is packed already, and return the reply.

        Args:
            call: the packed call, with lengths in characters.
            *slots: what it was packed from.
            over: as of a call.

        Raises:
            StoreUnavailable: the store did not answer in time.
        """
        store = over or self._store
        try:
            if call.isascii():
                return store.wire.call(call.encode(), yielding=self._yielding)
        except NoScriptError:
            pass
        except (RedisError, OSError):
            with store.errors(self._name):
                raise
        return self._send_anew(store, slots)

    def _send_anew(self, store: Store, slots: tuple[Slots, ...]) -> Any:
        """Send a call with the lengths of bytes, and the script where the server has forgotten it."""
        arguments = self._arguments(*slots)
        with store.errors(self._name):
            try:
                return store.wire.call(packed("EVALSHA", self._sha, *arguments), yielding=self._yielding)
            except NoScriptError:
                return store.wire.call(packed("EVAL", self.text, *arguments))

    def _arguments(self, *slots: Slots) -> list[str | int]:
        named = ChainMap(*map(dict, slots))
        return [len(self._keys), *(named[slot] for slot in self.slots)]


class Begun:
    """A call that is packed as far as its slots are known."""

    __slots__ = ("_beginning", "_known", "_rest", "prepared")

    def __init__(self, prepared: Prepared, known: Slots) -> None:
        self.prepared = prepared
        self._known = known
        first, self._rest = prepared.split(len(known))
        try:
            self._beginning = prepared.head + _packed(first, known)
        except KeyError as missing:
            raise TypeError(f"the slot {missing} has to be known before those that follow it") from None

    def __call__(self, over: Store | None = None, /, **rest: str) -> Any:
        """Run the script with the rest of its slots, and return its reply; may be called again.

        Args:
            over: the same store, over connections that wait for another time.
            **rest: of the slots, by name.

        Raises:
            StoreUnavailable: the store did not answer in time.
        """
        # As in _packed, without a call: a waiter waits for this.
        ending = "".join([f"${len(text := str(rest[name]))}\r\n{text}\r\n" for name in self._rest])
        return self.prepared.send(self._beginning + ending, self._known, rest, over=over)


def _packed(names: Sequence[str], slots: Slots) -> str:
    """Arguments on the wire, each with its length in characters."""
    return "".join([f"${len(text := str(slots[name]))}\r\n{text}\r\n" for name in names])
