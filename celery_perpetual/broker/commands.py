"""Redis commands that bring messages to a broker, ready to be run together."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple


class Command(NamedTuple):
    """One Redis command on one key."""

    name: str
    key: str
    value: str | bytes | int


class BrokerCommands:
    """The commands of many messages.

    Pushes to one list become one variadic push, in their order; between lists no order was ever promised. Everything
    else (expiry of queues, fan-out, events) comes after them.
    """

    def __init__(self, commands: Iterable[Command] = ()) -> None:
        self.pushes: dict[str, list[str | bytes | int]] = {}
        self.others: list[Command] = []
        self.add(commands)

    def __len__(self) -> int:
        return sum(map(len, self.pushes.values())) + len(self.others)

    def add(self, commands: Iterable[Command]) -> None:
        """Add the commands of one message."""
        for command in commands:
            if command.name == "LPUSH":
                self.push(command.key, [command.value])
            else:
                self.others.append(command)

    def push(self, key: str, messages: Sequence[str | bytes | int]) -> None:
        """Add messages of one list."""
        self.pushes.setdefault(key, []).extend(messages)

    def extend(self, other: BrokerCommands) -> None:
        """Add other commands."""
        for key, messages in other.pushes.items():
            self.push(key, messages)
        self.others += other.others

    def packed(self, *, front: bool = False) -> tuple[list[Any], list[str]]:
        """Commands and their keys as scripts take them: a command names its key by its position among them.

        Args:
            front: the messages are the next ones that a consumer gets, not the last.
        """
        push = "RPUSH" if front else "LPUSH"
        keys: dict[str, int] = {}
        arguments: list[Any] = []
        for key, messages in self.pushes.items():
            arguments += [push, keys.setdefault(key, 1 + len(keys)), len(messages), *messages]
        for name, key, value in self.others:
            arguments += [name, keys.setdefault(key, 1 + len(keys)), 1, value]
        return arguments, list(keys)
