"""Reports of what happens, in the process where it happens.

:func:`emit` makes one frozen :class:`TelemetryEvent` and hands it to every sink of :data:`sinks`, in order. The first
sink writes the log record; metrics or traces connect by adding a callable to the list. A sink is called in the thread
that emits and must be quick. It cannot harm that thread: its first exception is logged, later ones are dropped.
"""

from __future__ import annotations

import sys
import traceback
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from billiard.exceptions import SoftTimeLimitExceeded
from celery.utils.log import get_logger

from celery_perpetual.errors import described
from celery_perpetual.event_kind import EventKind
from celery_perpetual.events import SINK_FAILED

logger = get_logger("celery_perpetual")

#: Frames between the caller of `emit` and the call that writes the log record.
_FRAMES = 4


@dataclass(frozen=True, slots=True)
class TelemetryEvent:
    """One thing that happened in this process."""

    kind: EventKind
    data: Mapping[str, Any]
    """The fields that the table names for this kind."""
    error: BaseException | None = None

    @property
    def name(self) -> str:
        """The name in the table of events."""
        return self.kind.name


Sink = Callable[[TelemetryEvent], None]


def write_log_record(event: TelemetryEvent) -> None:
    """Log an event: its phrase, and ``event``, its fields and ``error`` as ``extra``.

    All records are of the logger ``celery_perpetual``; their file and line are those of the code that emits.
    """
    kind, error = event.kind, event.error
    if kind.level is None:
        return
    shown = None if error is None else described(error)
    extra = {"event": f"perpetual.{kind.name}", **event.data}
    if kind.has_error:
        extra["error"] = shown
    logger.log(
        kind.level,
        f"perpetual: {kind.phrase}",  # noqa: G004  # the phrase is constant, its fields are arguments
        {**event.data, "error": shown},
        exc_info=error if kind.has_traceback else None,
        extra=extra,
        stacklevel=_FRAMES,
    )


#: Called with each event of this process, in this order.
sinks: list[Sink] = [write_log_record]

_broken: list[Sink] = []


def some(names: Sequence[str], most: int = 10) -> str:
    """The first of many names, as a report gives them in one line."""
    rest = f" and {len(names) - most} more" if len(names) > most else ""
    return f"{', '.join(names[:most])}{rest}"


def emit(kind: EventKind, *, error: BaseException | None = None, **data: Any) -> None:
    """Report that something happened; raises nothing but a soft time limit.

    Args:
        kind: a row of the table of events.
        error: the exception that the event is about.
        **data: the fields that the row names; plain values.
    """
    event = TelemetryEvent(kind, data, error)
    for sink in tuple(sinks):
        _hand(event, sink)


def _hand(event: TelemetryEvent, sink: Sink) -> None:
    try:
        sink(event)
    except SoftTimeLimitExceeded:  # the pool raises it wherever the task is: it is not the sink's
        raise
    except Exception as raised:  # a sink is foreign code
        if sink in _broken:
            return
        _broken.append(sink)
        if sink is write_log_record:
            traceback.print_exc(file=sys.stderr)
        else:
            _hand(
                TelemetryEvent(SINK_FAILED, {"sink": getattr(sink, "__qualname__", repr(sink))}, raised),
                write_log_record,
            )
