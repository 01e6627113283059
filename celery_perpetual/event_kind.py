"""The row type of the table of events."""

from __future__ import annotations

import logging
import re
from dataclasses import dataclass

_FIELD = re.compile(r"%\((\w+)\)")


@dataclass(frozen=True, slots=True)
class EventKind:
    """One row of the table."""

    name: str
    level: int | None = None
    """Level of the log record; None for an event of the stream only."""
    phrase: str = ""
    """Text of the log record, with ``%(field)s`` for each field and ``%(error)s`` for an exception."""
    more: tuple[str, ...] = ()
    """Fields that the phrase does not show."""
    has_traceback: bool = False
    """Whether the log record shows the traceback of the exception."""
    in_stream: bool = False
    """Whether an entry of this name is in the stream ``{prefix}:events``."""

    @property
    def fields(self) -> tuple[str, ...]:
        """Names of the data in the log record, the exception left out."""
        return (*(name for name in _FIELD.findall(self.phrase) if name != "error"), *self.more)

    @property
    def has_error(self) -> bool:
        """Whether the event comes with an exception."""
        return self.has_traceback or "%(error)" in self.phrase


def stream(name: str) -> EventKind:
    """An event of the stream only."""
    return EventKind(name, in_stream=True)


def info(name: str, phrase: str, *more: str) -> EventKind:
    """A log record that is no trouble."""
    return EventKind(name, logging.INFO, phrase, more)


def warning(name: str, phrase: str, *more: str, in_stream: bool = False) -> EventKind:
    """A log record of what goes on and should be known."""
    return EventKind(name, logging.WARNING, phrase, more, in_stream=in_stream)


def error(name: str, phrase: str, *more: str) -> EventKind:
    """A log record of what failed, with its traceback."""
    return EventKind(name, logging.ERROR, phrase, more, has_traceback=True)
