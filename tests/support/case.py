"""One call of a Lua script in one state, and the keyspace after it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from tests.support.script_slots import UNIT, Slots


@dataclass(frozen=True)
class Case:
    """One call: in which state, with which arguments, and what the first and the second are answered."""

    script: str
    state: str
    prepare: Callable[[Any], object]
    slots: Callable[[Any], Slots]
    first: Callable[[Any], bool]
    second: Callable[[Any, Any], bool] = lambda first, second: first == second
    moving: tuple[str, ...] = ()
    moving_claim: bool = False
    """The claim's end counts from each call."""
    writes: bool = True
    """False: a call that is refused, or only reads."""
    touches: Callable[[Any], Mapping[str, str]] = field(default=lambda _: {})
    """Keys that the script builds itself, beside those that it is given, with their types."""


def answers(expected: Any) -> Callable[[Any], bool]:
    return lambda answer: answer == expected


def then(expected: Any) -> Callable[[Any, Any], bool]:
    return lambda _, second: second == expected


def after(client: Any, case: Case) -> dict[str, Any]:
    """The keyspace without what may differ between two calls of this case."""
    found = dump(client, case.moving)
    if case.moving_claim:
        found["P:u:" + UNIT][1].pop(b"claimed")
    return found


#: How the content of a key of each type is read.
READ: dict[bytes, Callable[[Any, bytes], Any]] = {
    b"string": lambda pipe, key: pipe.get(key),
    b"list": lambda pipe, key: pipe.lrange(key, 0, -1),
    b"hash": lambda pipe, key: pipe.hgetall(key),
    b"set": lambda pipe, key: pipe.smembers(key),
    b"zset": lambda pipe, key: pipe.zrange(key, 0, -1, withscores=True),
    b"stream": lambda pipe, key: pipe.xrange(key),
}


def dump(client: Any, moving: tuple[str, ...] = ()) -> dict[str, Any]:
    """Every key with its type, its content, and whether it expires; of ``moving`` ones only the members or fields."""
    keys = sorted(client.keys("*"))
    with client.pipeline(transaction=False) as pipe:
        for key in keys:
            pipe.type(key)
        kinds = pipe.execute()
        for key, kind in zip(keys, kinds, strict=True):
            READ[kind](pipe, key)
            pipe.pttl(key)
        answers = iter(pipe.execute())
    found = {}
    for key, kind in zip(keys, kinds, strict=True):
        content, ttl = next(answers), next(answers)
        if kind == b"zset":
            content = dict(content)
        if key.decode() in moving:
            content = set(content) if kind in (b"zset", b"hash") else None
        found[key.decode()] = (kind.decode(), content, ttl >= 0)
    return found
