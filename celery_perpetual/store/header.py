"""The header of a Lua script: the declaration of its slots, from which the beginning of its code is written.

A line of a header declares one slot, by kind, name, type and meaning::

    -- KEY   leases     hash*  task id -> lease
    -- KEYS  targets    list   what the broker commands name
    -- ARG   id         text   task id
    -- ARG   lease_ttl  ms     lease time
    -- ARGS  commands   mixed  broker commands

The slots are locals of the script: an argument of the type ``int``, ``ms`` or ``s`` is a number, a ``flag`` is whether
it is 1, and everything else is the text that was sent, which is right for what only goes on to Redis. ``KEYS`` are the
keys behind the named ones, as a table. ``ARGS`` are the arguments behind the named ones; there may be thousands, so
they stay in ``ARGV``, and ``{name}_at`` is where they begin.

Redis rolls nothing back, so a key of a wrong type must fail a script before its first write. The types in the header
are checked before the script's own code; those that are marked (``hash*``) are left to it, because a check is a call of
its own: it reads such a key before its first write, does so only where it will write to it, or writes to it first.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

_SLOT = re.compile(r"-- (KEYS?|ARGS?) +(\w+) +(\w+\*?)(?: |$)")
_NUMBERS = ("int", "ms", "s")
_CHECKED = ("string", "hash", "list", "set", "zset", "stream")

_CHECK = """do
  local wanted = {%s}
%s  for i = 1, #wanted, 2 do
    local seen = redis.call('TYPE', wanted[i]).ok
    if seen ~= 'none' and seen ~= wanted[i + 1] then
      return redis.error_reply('WRONGTYPE ' .. wanted[i] .. ' holds a ' .. seen .. ', not a ' .. wanted[i + 1])
    end
  end
end
"""
_CHECK_ALL = """  for i = 1, #%s do
    wanted[#wanted + 1], wanted[#wanted + 2] = %s[i], '%s'
  end
"""


class Of(str):
    """A part of a filling: an argument or key of the call by its name, or what Lua makes of one."""

    __slots__ = ()


#: The fixed content of a slot: a value, or its parts, of which some come from what is sent with the call.
Filling = str | int | tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Header:
    """The slots of one script, by name, with their types; in the order in which they are sent."""

    keys: Mapping[str, str]
    args: Mapping[str, str]
    more_keys: Mapping[str, str]
    """The slot of all keys behind the named ones, if there is one."""
    more_args: Mapping[str, str]
    """The same for the arguments."""

    @classmethod
    def of(cls, text: str) -> Header:
        """Read the comment that a script begins with."""
        slots: dict[str, dict[str, str]] = {"KEY": {}, "ARG": {}, "KEYS": {}, "ARGS": {}}
        for line in text.splitlines():
            if not line.startswith("--"):
                break
            if found := _SLOT.match(line):
                slots[found[1]][found[2]] = found[3]
        return cls(*slots.values())

    def preamble(self, fixed: Mapping[str, Filling]) -> str:
        """The beginning of the script's code: it makes every slot a local, and checks the types of keys.

        Args:
            fixed: what slots are filled with for good; the others are sent with a call.
        """
        lines = [
            *self._locals("ARGV", self.args, fixed),
            # Behind the arguments, of which a key may be made.
            *self._locals("KEYS", self.keys, fixed),
            *(f"local {name} = {{unpack(KEYS, {_sent(self.keys, fixed) + 1})}}\n" for name in self.more_keys),
            *(f"local {name}_at = {_sent(self.args, fixed) + 1}\n" for name in self.more_args),
        ]
        return "".join(lines) + self._check()

    def _locals(self, sent: str, slots: Mapping[str, str], fixed: Mapping[str, Filling]) -> list[str]:
        named = [name for name in slots if name not in fixed]
        values = {name: _converted(f"{sent}[{number}]", slots[name]) for number, name in enumerate(named, 1)}
        filled = {name: _filled(fixed[name], kind) for name, kind in slots.items() if name in fixed}
        # Fillings may be made of what is sent.
        return [f"local {', '.join(each)} = {', '.join(each.values())}\n" for each in (values, filled) if each]

    def _check(self) -> str:
        named = [f"{name}, '{kind}'" for name, kind in self.keys.items() if kind in _CHECKED]
        more = [_CHECK_ALL % (name, name, kind) for name, kind in self.more_keys.items() if kind in _CHECKED]
        return _CHECK % (", ".join(named), "".join(more)) if named or more else ""


def _sent(slots: Mapping[str, str], fixed: Mapping[str, Filling]) -> int:
    return sum(name not in fixed for name in slots)


def _converted(value: str, kind: str) -> str:
    if kind in _NUMBERS:
        return f"tonumber({value})"
    return f"{value} == '1'" if kind == "flag" else value


def _filled(value: Filling, kind: str) -> str:
    parts = value if isinstance(value, tuple) else (value,)
    return _converted(" .. ".join(part if isinstance(part, Of) else _literal(part) for part in parts), kind)


def _literal(value: str | int) -> str:
    """A Lua string, as all that scripts are sent is one."""
    plain = "".join(
        chr(byte) if 31 < byte < 127 and byte not in b"'\\" else f"\\{byte:03d}" for byte in str(value).encode()
    )
    return f"'{plain}'"
